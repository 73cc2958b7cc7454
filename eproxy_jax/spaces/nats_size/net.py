"""This module holds networks of NATS-Bench's size space: stand-alone ones, and the universal one, with widths as data.

A network is a stem and five pieces, each of its own width: a cell, a residual block of stride 2, a cell, a block,
a cell. The cell is the same in all networks.

In the universal module every array has the capacity of its group. What is above a network's own width starts at zero
and stays there: such kernels are zero, batch norm of zeros is zero, and gradients of both are zero.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from typing_extensions import override

from eproxy_jax.nn import choice, convolution, initializers, layers, marks, pooling, resizing
from eproxy_jax.spaces.cells import net
from eproxy_jax.spaces.cells.graph import CONV3X3, EDGES, SKIP, Cell

CELL = Cell((CONV3X3, CONV3X3, CONV3X3, SKIP, CONV3X3, CONV3X3))
NUM_PIECES = 5
BLOCKS = (1, 3)  # the pieces that are residual blocks; the others are cells
TAPS = (4, 2, 0)  # the pieces whose outputs are feature taps, last one first
TAP_SIZE = 8  # pixels of a padded tap


class NatsSizeNet(net.NormedNet):
    """A stand-alone network of the size space.

    Attributes:
      widths: channels of the five pieces.
    """

    widths: tuple[int, ...]

    def setup(self):
        """Name the layers by their place, so that weights can be found by path."""
        super().setup()
        self.stem_conv = layers.Conv(self.widths[0], 3, dtype=self.dtype)
        self.stem_norm = layers.BatchNorm(True, self.track, self.dtype)
        for number, width in enumerate(self.widths):
            if number in BLOCKS:
                piece: nn.Module = net.ResidualBlock(width, self.track, self.dtype)
            else:
                piece = net.CellNet(CELL, width, affine=True, track=self.track, dtype=self.dtype)
            setattr(self, f"piece{number}", piece)

    @override
    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps, last stage first.

        Args:
          images: [B, H, W, 3].
          train: normalise with batch statistics.

        Returns:
          Three arrays [B, H / 4, W / 4, C_4], [B, H / 2, W / 2, C_2], [B, H, W, C_0].
        """
        x, outputs = self.stem_norm(self.stem_conv(images), train), []
        for number in range(NUM_PIECES):
            x = getattr(self, f"piece{number}")(x, train)
            outputs.append(x)
        return [outputs[number] for number in TAPS]


# --- the universal module ------------------------------------------------------------------------------------


def padded_kernel(
    key: Array, shape: tuple[int, ...], dtype: Any, init: Array | int, inputs: Any, features: Any, most: int
) -> Array:
    """Draw a kernel whose unused channels are zero.

    The draw is that of the largest capacity, so that groups of all capacities start from the same weights.

    Args:
      key: typed key; consumed.
      shape: [k, k, C_in, C_out], the capacities.
      dtype: of the result.
      init: index into ``initializers.INITS``.
      inputs: input channels in use.
      features: output channels in use.
      most: the largest capacity.

    Returns:
      Array of ``shape``.
    """
    size, channels_in = shape[0], 3 if shape[2] == 3 else most
    drawn = initializers.conv_kernel(key, (size, size, channels_in, most), dtype, init, None, features, inputs)
    kernel = drawn[:, :, : shape[2], : shape[3]]
    used = (jnp.arange(shape[2]) < inputs)[:, None] & (jnp.arange(shape[3]) < features)[None, :]
    return kernel * used.astype(dtype)[None, None]


class PaddedConv(nn.Module):
    """A :class:`layers.Conv` between widths that are data."""

    features: int
    kernel_size: int
    stride: int
    most: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, inputs: Any, features: Any, init: Array | int) -> Array:
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", padded_kernel, shape, self.dtype, init, inputs, features, self.most)
        return convolution.conv2d(x, kernel, self.stride)


class PaddedReluConvBn(nn.Module):
    """A :class:`net.ReluConvBn` between widths that are data."""

    features: int
    most: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, inputs: Array, features: Array, init: Array | int) -> Array:
        """Map [B, H, W, C_in] to [B, H, W, features]."""
        conv = PaddedConv(self.features, 3, 1, self.most, self.dtype, name="conv")
        return layers.BatchNorm(True, dtype=self.dtype, name="norm")(conv(marks.relu(x), inputs, features, init))


class Affine(nn.Module):
    """The parameters of a batch norm."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> dict[str, Array]:
        """Return scale and bias, [features] each."""
        shape = (self.features,)
        return {
            "scale": self.param("scale", nn.initializers.ones, shape, self.dtype),
            "bias": self.param("bias", nn.initializers.zeros, shape, self.dtype),
        }


def _as_wide_as(x: Array, channels: int) -> Array:
    """Cut channels off, or add zero channels: [..., C] -> [..., channels]."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, max(0, channels - x.shape[-1]))])[..., :channels]


class PaddedSkip(nn.Module):
    """The skip from a cell's input: the input itself, or a convolution and batch norm where the width changes."""

    features: int
    most: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, inputs: Array, features: Array, init: Array | int) -> Array:
        """Map [B, H, W, C_in] to [B, H, W, features]."""
        shape = (1, 1, x.shape[-1], self.features)
        kernel = self.param("kernel", padded_kernel, shape, self.dtype, init, inputs, features, self.most)
        weights = {"kernel": kernel, **Affine(self.features, self.dtype, name="norm")()}
        same = choice.linear_op(
            lambda x: _as_wide_as(x, self.features), lambda x, grad: _as_wide_as(grad, x.shape[-1]), affine=True
        )
        projects = choice.conv_bn_op(convolution.conv2d, affine=True)  # pyright: ignore[reportArgumentType]
        # What is not chosen must not run: proxies count its convolution and its batch norm.
        chosen: Any = choice.switch_op((same, projects), (inputs != features).astype(jnp.int32), x, weights)
        return chosen


class PaddedCell(nn.Module):
    """The cell between widths that are data."""

    features: int
    most: int
    changes: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, inputs: Array, features: Array, init: Array | int) -> Array:
        """Map [B, H, W, C_in] to [B, H, W, features]."""
        nodes = [x]
        for target in (1, 2, 3):
            terms = []
            for edge, (source, edge_target) in enumerate(EDGES):
                if edge_target != target:
                    continue
                value, width, name = nodes[source], features if source else inputs, f"edge{edge}"
                if CELL[edge] == CONV3X3:
                    term = PaddedReluConvBn(self.features, self.most, self.dtype, name=name)(
                        value, width, features, init
                    )
                elif self.changes:
                    term = PaddedSkip(self.features, self.most, self.dtype, name=name)(value, width, features, init)
                else:
                    term = value
                terms.append(term)
            nodes.append(sum(terms[1:], terms[0]))
        return nodes[3]


class PaddedBlock(nn.Module):
    """A :class:`net.ResidualBlock` between widths that are data."""

    features: int
    most: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, inputs: Array, features: Array, init: Array | int) -> Array:
        """Map [B, H, W, C_in] to [B, H / 2, W / 2, features]."""

        def conv(x: Array, size: int, stride: int, width: Array, name: str) -> Array:
            return PaddedConv(self.features, size, stride, self.most, self.dtype, name=name)(x, width, features, init)

        y = layers.BatchNorm(True, dtype=self.dtype, name="norm_a")(conv(marks.relu(x), 3, 2, inputs, "conv_a"))
        y = layers.BatchNorm(True, dtype=self.dtype, name="norm_b")(conv(marks.relu(y), 3, 1, features, "conv_b"))
        return y + conv(pooling.avg_pool_2x2(x), 1, 1, inputs, "shortcut")


class UniversalNatsSize(nn.Module):
    """Every network of a group in one module: the five widths are data.

    Attributes:
      capacities: the most channels of each piece.
      step: what widths are multiples of.
      most: the largest width of the space.
      dtype: dtype of the parameters.
    """

    capacities: tuple[int, ...]
    step: int
    most: int
    dtype: Any = jnp.float32

    norm_before_pooling: ClassVar[bool] = True  # of a classifier behind it

    @nn.compact
    def __call__(self, images: Array, widths: Array, init: Array | int = 0) -> list[layers.PaddedTap]:
        """Return the feature taps, last stage first.

        Args:
          images: [B, H, W, 3].
          widths: channels of the five pieces, integer [5].
          init: index into ``initializers.INITS``.

        Returns:
          Three taps.
        """
        before, width, outputs = 3, widths[0], []
        x = PaddedConv(self.capacities[0], 3, 1, self.most, self.dtype, name="stem_conv")(images, before, width, init)
        x = marks.feature(layers.BatchNorm(True, dtype=self.dtype, name="stem_norm")(x), width)
        for number, capacity in enumerate(self.capacities):
            name, before, width = f"piece{number}", width, widths[number]
            if number in BLOCKS:
                piece: nn.Module = PaddedBlock(capacity, self.most, self.dtype, name=name)
            else:
                piece = PaddedCell(capacity, self.most, number > 0, self.dtype, name=name)
            x = piece(x, before, width, init)
            x = marks.feature(x, width)
            outputs.append(x)
        return [
            layers.PaddedTap(
                resizing.resize_nearest(outputs[number], TAP_SIZE),
                widths[number] // self.step - 1,
                tuple(range(self.step, self.capacities[number] + 1, self.step)),
                pixels=outputs[number].shape[1] * outputs[number].shape[2],
            )
            for number in TAPS
        ]
