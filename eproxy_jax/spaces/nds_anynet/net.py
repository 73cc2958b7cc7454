"""This module has the stand-alone AnyNets: a stem, and stages of bottleneck, basic or plain blocks."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import convolution, initializers, layers, marks
from eproxy_jax.spaces.nds_anynet.blocks import Block, Conv
from eproxy_jax.spaces.standalone import StandAloneNet

NUM_TAPS = 3


class ConvStem(nn.Module):
    """A stem: conv3x3-BN-ReLU at stride 1."""

    features: int
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, train: bool = True, init: Array | int = 0) -> Array:
        """Run the stem: [B, H, W, 3] -> [B, H, W, features]."""
        x = layers.Conv(self.features, 3, dtype=self.dtype, name="conv")(images, init)
        return marks.relu(layers.BatchNorm(True, self.track, self.dtype, name="norm")(x, train))


class GroupedConv(nn.Module):
    """A :class:`eproxy_jax.nn.layers.Conv` whose channels fall into groups that do not meet.

    Attributes:
      features: output channels.
      kernel_size: odd.
      groups: divides the channels on both sides.
      stride: spatial stride.
      dtype: dtype of the parameters.
    """

    features: int
    kernel_size: int
    groups: int
    stride: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolve: [B, H, W, C_in] -> [B, H / stride, W / stride, features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", initializers.conv_kernel, shape, self.dtype)
        return convolution.grouped_conv2d(x, kernel, self.groups, self.stride)


class AnyNetBlock(nn.Module):
    """A block: its convolutions, each with its batch norm, and its shortcut.

    Attributes:
      block: sizes of its convolutions.
      residual: whether it has a shortcut.
    """

    block: Block
    residual: bool
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Run the block: [B, H, W, C_in] -> [B, H / stride, W / stride, C]."""

        def conv_norm(x: Array, conv: Conv, stride: int, suffix: str) -> Array:
            arguments: dict[str, Any] = {"stride": stride, "dtype": self.dtype, "name": f"conv_{suffix}"}
            if conv.groups > 1:
                x = GroupedConv(conv.channels, conv.kernel, conv.groups, **arguments)(x)
            else:
                x = layers.Conv(conv.channels, conv.kernel, **arguments)(x)
            return layers.BatchNorm(True, self.track, self.dtype, name=f"norm_{suffix}")(x, train)

        shortcut, y, last = x, x, len(self.block.convs) - 1
        if self.block.shortcut is not None:
            shortcut = conv_norm(x, self.block.shortcut, self.block.stride, "shortcut")
        for number, conv in enumerate(self.block.convs):
            # The 3x3 convolution of a bottleneck takes the stride, and the first one of other blocks.
            y = conv_norm(y, conv, self.block.stride if number == last - 1 else 1, "abc"[number])
            y = marks.relu(y + shortcut if self.residual and number == last else y)
        return y


class AnyNet(StandAloneNet, kw_only=True):
    """A stand-alone AnyNet.

    Attributes:
      stem_channels: channels that enter the first stage.
      blocks: its blocks.
      residual: whether blocks have shortcuts.
    """

    stem_channels: int
    blocks: tuple[Block, ...]
    residual: bool

    num_taps: ClassVar[int] = NUM_TAPS

    def setup(self):
        """Name the layers by their place, so that weights can be found by path."""
        super().setup()
        self.stem = ConvStem(self.stem_channels, self.track, self.dtype)
        for name, block in named(self.blocks):
            setattr(self, name, AnyNetBlock(block, self.residual, self.track, self.dtype))

    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps after the last three stages, last first.

        Args:
          images: [B, H, W, 3].
          train: normalise with batch statistics.

        Returns:
          Three arrays [B, H', W', C'].
        """
        x, taps = self.stem(images, train), []
        for name, block in named(self.blocks):
            x = getattr(self, name)(x, train)
            if block.ends:
                taps.append(x)
        return taps[::-1][:NUM_TAPS]


def named(blocks: tuple[Block, ...]) -> list[tuple[str, Block]]:
    """Return the blocks with their names, ``stage1_block0`` and so on."""
    found, place = [], 0
    for block in blocks:
        found.append((f"stage{block.stage}_block{place}", block))
        place = 0 if block.ends else place + 1
    return found
