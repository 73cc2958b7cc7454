"""Plain PyTorch twins of the NDS AnyNet backbones; torch_reference.py has them in its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]  # noqa: N812
from torch import nn  # pyright: ignore[reportMissingImports]


def conv(channels_in: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, size, stride, size // 2, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


class Stem(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv, self.norm = conv(3, channels, 3), norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


class BottleneckBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, hidden: int, groups: int, stride: int):
        super().__init__()
        self.conv_a, self.norm_a = conv(channels_in, hidden, 1), norm(hidden)
        self.conv_b, self.norm_b = conv(hidden, hidden, 3, stride, groups), norm(hidden)
        self.conv_c, self.norm_c = conv(hidden, channels, 1), norm(channels)
        self.projects = stride != 1 or channels_in != channels
        if self.projects:
            self.conv_shortcut, self.norm_shortcut = conv(channels_in, channels, 1, stride), norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm_a(self.conv_a(x)))
        y = F.relu(self.norm_b(self.conv_b(y)))
        y = self.norm_c(self.conv_c(y))
        return F.relu(y + (self.norm_shortcut(self.conv_shortcut(x)) if self.projects else x))


class TwoConvBlock(nn.Module):
    """Two 3x3 convolutions, with a shortcut or without one."""

    def __init__(self, channels_in: int, channels: int, stride: int, residual: bool):
        super().__init__()
        self.residual = residual
        self.conv_a, self.norm_a = conv(channels_in, channels, 3, stride), norm(channels)
        self.conv_b, self.norm_b = conv(channels, channels, 3), norm(channels)
        self.projects = residual and (stride != 1 or channels_in != channels)
        if self.projects:
            self.conv_shortcut, self.norm_shortcut = conv(channels_in, channels, 1, stride), norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_b(self.conv_b(F.relu(self.norm_a(self.conv_a(x)))))
        if self.residual:
            y = y + (self.norm_shortcut(self.conv_shortcut(x)) if self.projects else x)
        return F.relu(y)


class AnyNet(nn.Module):
    """Stem and stages of ``arch``: depths, widths, strides, bottleneck multipliers, groups, the stem's entry first."""

    def __init__(self, arch: Sequence[Sequence[Any]], residual: bool, stem_channels: int = 12, width_divisor: int = 1):
        super().__init__()
        depths, widths, strides, multipliers, groups = arch
        self.stem, channels_in, self.depths = Stem(stem_channels), stem_channels, list(depths)
        tap_channels = []
        for stage in range(1, len(depths)):
            channels = -(-widths[stage] // width_divisor)
            for n in range(depths[stage]):
                stride = strides[stage] if n == 0 else 1
                if multipliers:
                    hidden = round(widths[stage] * multipliers[stage])
                    a_group = -(-hidden // (groups[stage] * width_divisor))
                    block = BottleneckBlock(channels_in, channels, a_group * groups[stage], groups[stage], stride)
                else:
                    block = TwoConvBlock(channels_in, channels, stride, residual)
                self.add_module(f"stage{stage}_block{n}", block)
                channels_in = channels
            tap_channels.append(channels)
        self.tap_channels = tap_channels[::-1][:3]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, taps = self.stem(x), []
        for stage in range(1, len(self.depths)):
            for n in range(self.depths[stage]):
                x = getattr(self, f"stage{stage}_block{n}")(x)
            taps.append(x)
        return taps[::-1][:3]


class ResNeXt(AnyNet):
    def __init__(self, arch: Sequence[Sequence[Any]], **sizes: int):
        super().__init__(arch, True, **sizes)


class ResNet(ResNeXt):
    pass


class Vanilla(AnyNet):
    def __init__(self, arch: Sequence[Sequence[Any]], **sizes: int):
        super().__init__(arch, False, **sizes)
