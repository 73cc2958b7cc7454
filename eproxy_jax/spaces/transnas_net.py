"""What the micro and the macro space of TransNAS-Bench-101 share: stem, macro codes, module shapes.

Source: Duan et al., "TransNAS-Bench-101", CVPR 2021; the skeleton as PROTOCOL gives it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eproxy_jax import layers

CELLS_PER_MODULE = 2
NUM_TAPS = 3


def as_read(macro: str) -> str:
    """The macro code that is built: a last digit of 4 is read as 2, so that 32-pixel images suffice (PROTOCOL).

    Example:
      >>> as_read("41414")
      '41412'
    """
    return macro[:-1] + "2" if macro.endswith("4") else macro


@dataclasses.dataclass(frozen=True)
class ModuleShape:
    """One module of the macro skeleton: channels of its output, stride of its first cell, sizes for 32-pixel input."""

    channels_in: int
    channels: int
    stride: int
    size: int

    def cells(self) -> list[tuple[int, int]]:
        """(input channels, stride) of each of the module's cells."""
        return [(self.channels_in, self.stride)] + [(self.channels, 1)] * (CELLS_PER_MODULE - 1)


def module_shapes(macro: str, stem_channels: int) -> list[ModuleShape]:
    """The modules that a macro code stands for.

    Digits: 1 keeps the shape, 2 doubles the channels, 3 halves the size, 4 does both; a last 4 counts as 2.

    Args:
      macro: digits 1 to 4.
      stem_channels: channels that enter the first module.

    Returns:
      One ``ModuleShape`` per digit.
    """
    shapes, channels, size = [], stem_channels, 8  # two stride-2 stem convolutions
    for digit in as_read(macro):
        stride = 2 if digit in "34" else 1
        channels_out = channels * 2 if digit in "24" else channels
        size = -(-size // stride)
        shapes.append(ModuleShape(channels, channels_out, stride, size))
        channels = channels_out
    return shapes


def stem_macs(features: int) -> int:
    """Multiply-accumulates of :class:`Stem` for one 3x32x32 image."""
    return 9 * 3 * (features // 2) * 16 * 16 + 9 * (features // 2) * features * 8 * 8


def stem_params(features: int) -> int:
    """Trainable parameters of :class:`Stem`."""
    half = features // 2
    return 9 * 3 * half + 2 * half + 9 * half * features + 2 * features


class Stem(nn.Module):
    """Two stride-2 convolutions: conv3x3/2-BN-ReLU-conv3x3/2-BN."""

    features: int
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, train: bool = True, init: Array | int = 0) -> Array:
        """[B, H, W, 3] -> [B, H / 4, W / 4, features]."""
        x = layers.Conv(self.features // 2, 3, 2, dtype=self.dtype, name="conv_a")(images, init)
        x = nn.relu(layers.BatchNorm(True, self.track, self.dtype, name="norm_a")(x, train))
        x = layers.Conv(self.features, 3, 2, dtype=self.dtype, name="conv_b")(x, init)
        return layers.BatchNorm(True, self.track, self.dtype, name="norm_b")(x, train)
