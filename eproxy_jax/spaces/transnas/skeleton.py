"""This module holds what the micro and macro spaces of TransNAS-Bench-101 share: stem, macro codes, module shapes.

Source: Duan et al., "TransNAS-Bench-101", CVPR 2021; the skeleton as docs/spaces.md gives it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import layers, marks
from eproxy_jax.spaces.standalone import StandAloneNet

CELLS_PER_MODULE = 2
NUM_TAPS = 3


def as_read(macro: str) -> str:
    """Return the macro code as built: a last digit of 4 is read as 2, so that 32-pixel images suffice (docs/spaces.md).

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
        """Return (input channels, stride) of each of the module's cells."""
        return [(self.channels_in, self.stride)] + [(self.channels, 1)] * (CELLS_PER_MODULE - 1)


def module_shapes(macro: str, stem_channels: int) -> list[ModuleShape]:
    """Return the modules that a macro code stands for.

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


def tap_channels(macro: str, stem_channels: int) -> tuple[int, ...]:
    """Return the channels after the last three modules, last first."""
    return tuple(shape.channels for shape in module_shapes(macro, stem_channels)[::-1][:NUM_TAPS])


def stem_macs(features: int) -> int:
    """Count the multiply-accumulates of :class:`Stem` for one 3x32x32 image."""
    return 9 * 3 * (features // 2) * 16 * 16 + 9 * (features // 2) * features * 8 * 8


def stem_params(features: int) -> int:
    """Count the trainable parameters of :class:`Stem`."""
    half = features // 2
    return 9 * 3 * half + 2 * half + 9 * half * features + 2 * features


class Stem(nn.Module):
    """Two stride-2 convolutions: conv3x3/2-BN-ReLU-conv3x3/2-BN."""

    features: int
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, train: bool = True, init: Array | int = 0) -> Array:
        """Map [B, H, W, 3] to [B, H / 4, W / 4, features]."""
        x = layers.Conv(self.features // 2, 3, 2, dtype=self.dtype, name="conv_a")(images, init)
        x = marks.relu(layers.BatchNorm(True, self.track, self.dtype, name="norm_a")(x, train))
        x = layers.Conv(self.features, 3, 2, dtype=self.dtype, name="conv_b")(x, init)
        return layers.BatchNorm(True, self.track, self.dtype, name="norm_b")(x, train)


class TransNasNet(StandAloneNet, kw_only=True):
    """Base of stand-alone TransNAS-Bench-101 networks: stem, and modules of two pieces each.

    Subclasses say what their macro code is, what a piece is called, and make it.

    Attributes:
      stem_channels: channels that enter the first module.
    """

    stem_channels: int = 64

    piece: ClassVar[str]

    def macro_code(self) -> str:
        """Return the macro code, digits 1 to 4, one per module."""
        raise NotImplementedError

    def make_piece(self, channels_in: int, channels: int, stride: int) -> nn.Module:
        """Build a module ``(x, train)``, [B, H, W, channels_in] -> [B, H / stride, W / stride, channels]."""
        raise NotImplementedError

    def setup(self):
        """Name the layers by their place, so that weights can be found by path."""
        super().setup()
        self.stem = Stem(self.stem_channels, self.track, self.dtype)
        for m, shape in enumerate(module_shapes(self.macro_code(), self.stem_channels)):
            for n, (channels_in, stride) in enumerate(shape.cells()):
                setattr(self, f"module{m}_{self.piece}{n}", self.make_piece(channels_in, shape.channels, stride))

    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps after the last three modules, last first.

        Args:
          images: [B, H, W, 3].
          train: normalise with batch statistics.

        Returns:
          Three arrays [B, H', W', C'].
        """
        x, taps = self.stem(images, train), []
        for m in range(len(self.macro_code())):
            for n in range(CELLS_PER_MODULE):
                x = getattr(self, f"module{m}_{self.piece}{n}")(x, train)
            taps.append(x)
        return taps[::-1][:NUM_TAPS]
