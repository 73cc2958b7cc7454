"""This module holds NAS-Bench-101's networks: stand-alone ones, and the universal one, which takes the cell as data.

Widths are data too: a vertex is as wide as its share of the output. If k vertices feed the output, all interior
vertices are channels // k wide, or one more. (A vertex that feeds others only is as wide as the widest of them.) So
there are four tiers of width, ceil(channels / k) for k = 1 to 4. Arrays are padded to the module's channels between
operations, and each operation works on its tier only. So convolutions do hardly more MACs than are needed, where
padding every vertex to the module's channels would multiply them. That is the ``map`` form; under ``vmap`` every vertex
and projection slot runs at full width.

Padded channels are zero everywhere. Scale and bias of a batch norm are masked, hence its output and the gradient into
its kernel. A vertex masks the sum that it reads, which truncates a wider source.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import initializers, layers, marks, norms, pooling
from eproxy_jax.spaces.nasbench101 import graph
from eproxy_jax.spaces.nasbench101.vertex_ops import (
    CODE_CONV1X1,
    CODE_CONV3X3,
    TIERS,
    choose,
    projection_choice,
    tier_widths,
    vertex_choice,
)
from eproxy_jax.spaces.standalone import StandAloneNet

NUM_STACKS = 3
NUM_SLOTS = graph.MAX_VERTICES - 2  # interior vertices


class CellNet(nn.Module):
    """One pruned cell, fixed: part of stand-alone networks."""

    cell: graph.Cell
    features: int
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Map [B, H, W, C_in] to [B, H, W, features]."""
        matrix, names = self.cell
        last = len(names) - 1
        widths = graph.vertex_channels(matrix, x.shape[-1], self.features)
        conv = functools.partial(layers.ConvBnRelu, track=self.track, dtype=self.dtype)
        values = [x]
        for v in range(1, last):
            terms = [values[u][..., : widths[v]] for u in range(1, v) if matrix[u][v]]
            if matrix[0][v]:
                terms.append(conv(widths[v], 1, name=f"project{v}")(x, train))
            total = functools.reduce(jnp.add, terms)
            if names[v] == graph.POOL:
                values.append(pooling.max_pool_3x3(total))
            else:
                size = 3 if names[v] == graph.CONV3X3 else 1
                values.append(conv(widths[v], size, name=f"vertex{v}")(total, train))
        parts = [values[v] for v in range(1, last) if matrix[v][last]]
        total = [jnp.concatenate(parts, axis=-1)] if parts else []
        if matrix[0][last]:
            total.append(conv(self.features, 1, name="project_output")(x, train))
        return functools.reduce(jnp.add, total)


class NasBench101Net(StandAloneNet):
    """A stand-alone NAS-Bench-101 network.

    Attributes:
      cell: a pruned cell.
      stem_channels: channels of the first stack.
      modules_per_stack: cells in each stack.
    """

    cell: graph.Cell
    stem_channels: int = 128
    modules_per_stack: int = 3

    def setup(self):
        """Name the layers by their place, so that weights can be found by path."""
        super().setup()
        self.stem = layers.ConvBnRelu(self.stem_channels, 3, track=self.track, dtype=self.dtype)
        for stack in range(NUM_STACKS):
            for module in range(self.modules_per_stack):
                cell = CellNet(self.cell, self.stem_channels * 2**stack, self.track, self.dtype)
                setattr(self, f"stack{stack}_module{module}", cell)

    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps at the end and before the two max-pools, last first.

        Args:
          images: [B, H, W, 3].
          train: normalise with batch statistics.

        Returns:
          Three arrays [B, H / 4, W / 4, 4 C], [B, H / 2, W / 2, 2 C], [B, H, W, C].
        """
        x, taps = self.stem(images, train), []
        for stack in range(NUM_STACKS):
            if stack:
                x = pooling.max_pool_2x2(x)
            for module in range(self.modules_per_stack):
                x = getattr(self, f"stack{stack}_module{module}")(x, train)
            taps.append(x)
        return taps[::-1]


# --- the universal cell --------------------------------------------------------------------------------------


def _shift_channels(x: Array, offset: Array) -> Array:
    """Move channels up by ``offset``, with zeros below; what is pushed out is lost."""
    channels = x.shape[-1]
    doubled = jnp.concatenate([jnp.zeros_like(x), x], axis=-1)
    return lax.dynamic_slice_in_dim(doubled, channels - offset, channels, axis=-1)


class UniversalCell(nn.Module):
    """A cell whose graph, operations and widths are data.

    Each vertex slot owns a 3x3 kernel of full width; operations use its first rows and columns, and its centre.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, op: Array, widths: Array, edges: Array, init: Array | int = 0) -> Array:
        """Run one cell.

        Args:
          x: [B, H, W, C_in].
          op: op code of each vertex slot, integer [7].
          widths: channels of each vertex slot, integer [7].
          edges: ``edges[target, source]``, integer [7, 7].
          init: index into ``initializers.INITS``.

        Returns:
          [B, H, W, features].
        """
        channels, entering, slots, last = self.features, x.shape[-1], range(1, NUM_SLOTS + 1), NUM_SLOTS + 1
        interior = jnp.maximum(widths[1:last], 1).astype(self.dtype)[:, None, None, None, None]
        area = jnp.where(op[1:last] == CODE_CONV3X3, 9, 1).astype(self.dtype)[:, None, None, None, None]
        shape = (NUM_SLOTS, 3, 3, channels, channels)
        kernels = self.param("kernels", initializers.conv_kernel, shape, self.dtype, init, area, interior, interior)
        shape = (NUM_SLOTS, 1, 1, entering, channels)
        projections = self.param("projections", initializers.conv_kernel, shape, self.dtype, init, None, interior)
        output_projection = self.param("output_projection", initializers.conv_kernel, shape[1:], self.dtype, init)

        def weights(kernel: Array, prefix: str, mask: Array) -> dict[str, Array]:
            # Vectors are not stacked: weight decay tells them from matrices by their dimensions.
            scale = self.param(f"{prefix}_scale", nn.initializers.ones, (channels,), self.dtype)
            bias = self.param(f"{prefix}_bias", nn.initializers.zeros, (channels,), self.dtype)
            return {"kernel": kernel, "scale": scale * mask, "bias": bias * mask}

        masks = [(jnp.arange(channels) < widths[v]).astype(x.dtype) for v in range(last + 1)]
        feeds = edges[last]
        tier = jnp.maximum(jnp.sum(feeds[1:last]) - 1, 0)
        tiers = len(TIERS)
        of_vertex, of_projection = vertex_choice(channels), projection_choice(channels, tuple(tier_widths(channels)))
        values: dict[int, Array] = {}
        for v, kernel, projection in zip(slots, layers.unstack(kernels), layers.unstack(projections), strict=True):
            choice = jnp.where(edges[v, 0] > 0, 1 + tier, 0)
            total: Any = choose(of_projection, choice, x, weights(projection, f"project{v}", masks[v]))
            if values:
                sources = [value * edges[v, u].astype(x.dtype) for u, value in values.items()]
                total = total + functools.reduce(jnp.add, sources) * norms.per_channel(masks[v])
            choice = jnp.where(op[v] < CODE_CONV1X1, op[v], CODE_CONV1X1 + (op[v] - CODE_CONV1X1) * tiers + tier)
            values[v] = choose(of_vertex, choice, total, weights(kernel, f"vertex{v}", masks[v]))
        of_output = projection_choice(channels, (channels,))
        parameters = weights(output_projection, "project_output", masks[last])
        out: Any = choose(of_output, feeds[0], x, parameters)
        offset = jnp.zeros((), widths.dtype)
        for v, value in values.items():
            out = out + lax.cond(feeds[v] > 0, _shift_channels, lambda y, _: jnp.zeros_like(y), value, offset)
            offset = offset + feeds[v] * widths[v]
        return out


class UniversalNasBench101(nn.Module):
    """Every NAS-Bench-101 network in one module: the cell is data.

    Attributes:
      stem_channels: channels of the first stack.
      modules_per_stack: cells in each stack.
      dtype: dtype of the parameters.
    """

    stem_channels: int = 128
    modules_per_stack: int = 3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, cell: Array, init: Array | int = 0) -> list[Array]:
        """Return the feature taps at the end and before the two max-pools, last first.

        Args:
          images: [B, H, W, 3].
          cell: one row a vertex slot: op code, channels in each stack, edges from each slot; integer [7, 11].
          init: index into ``initializers.INITS``.

        Returns:
          Three arrays [B, H / 4, W / 4, 4 C], [B, H / 2, W / 2, 2 C], [B, H, W, C].
        """
        op, widths, edges = cell[:, 0], cell[:, 1 : 1 + NUM_STACKS], cell[:, 1 + NUM_STACKS :]
        stem, taps = layers.ConvBnRelu(self.stem_channels, 3, dtype=self.dtype, name="stem"), []
        x = marks.feature(stem(images, True, init))
        for stack in range(NUM_STACKS):
            if stack:
                x = pooling.max_pool_2x2(x)
            for module in range(self.modules_per_stack):
                universal = UniversalCell(
                    self.stem_channels * 2**stack, self.dtype, name=f"stack{stack}_module{module}"
                )
                x = marks.feature(universal(x, op, widths[:, stack], edges, init))
            taps.append(x)
        return taps[::-1]
