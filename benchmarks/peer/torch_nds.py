"""The NDS cell networks in plain PyTorch; see torch_reference.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]  # noqa: N812
from torch import nn  # pyright: ignore[reportMissingImports]


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


class Halves(nn.Module):
    """Two 1x1 convolutions at stride 2, the second of the map shifted by one pixel."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv_a = nn.Conv2d(channels_in, channels // 2, 1, 2, bias=False)
        self.conv_b = nn.Conv2d(channels_in, channels - channels // 2, 1, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.conv_a(x), self.conv_b(F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:])], dim=1)


class Unit(nn.Module):
    """ReLU, convolutions, batch norm."""

    def __init__(self, convs: Sequence[nn.Module], channels: int):
        super().__init__()
        for number, conv in enumerate(convs):
            self.add_module(f"conv{number}", conv)
        self.num, self.norm = len(convs), norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        for number in range(self.num):
            x = getattr(self, f"conv{number}")(x)
        return self.norm(x)


def separable(channels: int, size: int, stride: int, dilation: int) -> Unit:
    pad = size // 2 * dilation
    depthwise = nn.Conv2d(channels, channels, size, stride, pad, dilation, groups=channels, bias=False)
    return Unit([depthwise, nn.Conv2d(channels, channels, 1, bias=False)], channels)


class Edge(nn.Module):
    def __init__(self, op: str, channels: int, stride: int):
        super().__init__()
        self.op, self.stride, size = op, stride, int(op[-1]) if op[-1].isdigit() else 0
        if op == "skip_connect" and stride == 2:
            self.unit0 = Unit([Halves(channels, channels)], channels)
        elif op.startswith(("sep_conv", "dil_sep_conv")):
            dilation = 2 if op.startswith("dil") else 1
            self.unit0, self.unit1 = (separable(channels, size, s, dilation) for s in (stride, 1))
        elif op.startswith("dil_conv"):
            self.unit0 = separable(channels, size, stride, 2)
        elif op in ("conv_1x1", "conv_3x3"):
            conv = nn.Conv2d(channels, channels, size, stride, size // 2, bias=False)
            self.unit0 = Unit([conv], channels)
        elif op in ("conv_3x1_1x3", "conv_7x1_1x7"):
            pad = size // 2
            across = nn.Conv2d(channels, channels, (1, size), (1, stride), (0, pad), bias=False)
            down = nn.Conv2d(channels, channels, (size, 1), (stride, 1), (pad, 0), bias=False)
            self.unit0 = Unit([across, down], channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.op == "none":
            return x[:, :, :: self.stride, :: self.stride] * 0
        if self.op.startswith("avg_pool"):
            return F.avg_pool2d(x, 3, self.stride, 1, count_include_pad=False)
        if self.op.startswith("max_pool"):
            size = int(self.op[-1])
            return F.max_pool2d(x, size, self.stride, size // 2)
        for unit in self.children():
            x = unit(x)
        return x


class Cell(nn.Module):
    def __init__(
        self, edges: Sequence[Any], output: Sequence[int], inputs: Sequence[nn.Module], channels: int, reduces: bool
    ):
        super().__init__()
        self.sources, self.output = [source for _, source in edges], list(output)
        self.input0, self.input1 = inputs
        for number, (op, source) in enumerate(edges):
            self.add_module(f"edge{number}", Edge(op, channels, 2 if reduces and source < 2 else 1))

    def forward(self, older: torch.Tensor, newer: torch.Tensor) -> torch.Tensor:
        values = [self.input0(older), self.input1(newer)]
        for first in range(0, len(self.sources), 2):
            terms = [getattr(self, f"edge{e}")(values[self.sources[e]]) for e in (first, first + 1)]
            values.append(terms[0] + terms[1])
        return torch.cat([values[node] for node in self.output], dim=1)


class NdsCells(nn.Module):
    """``concat_all``: all nodes of a cell are its output; else those that no other node reads."""

    def __init__(self, arch: Sequence[Any], width_divisor: int = 1, concat_all: bool = False):
        super().__init__()
        normal, reduce, width, self.depth = arch
        channels = -(-width // width_divisor)

        def output(edges: Sequence[Any]) -> list[int]:
            read = set() if concat_all else {source for _, source in edges}
            return [node for node in range(2, 2 + len(edges) // 2) if node not in read]

        self.stem_conv = nn.Conv2d(3, 3 * channels, 3, padding=1, bias=False)
        self.stem_norm = norm(3 * channels)
        self.reductions = (self.depth // 3, 2 * self.depth // 3)
        older, newer, reduced, taps = 3 * channels, 3 * channels, False, []
        for number in range(self.depth):
            reduces = number in self.reductions
            edges = reduce if reduces else normal
            if reduces:
                taps.append(newer)
                channels *= 2
            first = Halves(older, channels) if reduced else nn.Conv2d(older, channels, 1, bias=False)
            inputs = [Unit([c], channels) for c in (first, nn.Conv2d(newer, channels, 1, bias=False))]
            self.add_module(f"cell{number}", Cell(edges, output(edges), inputs, channels, reduces))
            older, newer, reduced = newer, len(output(edges)) * channels, reduces
        self.tap_channels = [newer, *taps[::-1]]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        older = newer = self.stem_norm(self.stem_conv(x))
        taps = []
        for number in range(self.depth):
            if number in self.reductions:
                taps.append(newer)
            older, newer = newer, getattr(self, f"cell{number}")(older, newer)
        return [newer, *taps[::-1]]
