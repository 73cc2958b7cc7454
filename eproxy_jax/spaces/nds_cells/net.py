"""This module has the stand-alone networks of the NDS cell spaces."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import initializers, layers, marks
from eproxy_jax.spaces.nds_cells import cell_ops, program
from eproxy_jax.spaces.nds_cells.notation import NdsArch, Rules
from eproxy_jax.spaces.nds_cells.program import NUM_STAGES, PRE_BEFORE, PRE_REDUCE, PRE_SAME, PRE_UNITS, STEM_NODES
from eproxy_jax.spaces.standalone import StandAloneNet


class LinearMap(nn.Module):
    """A convolution of a unit."""

    linear: cell_ops.Linear
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolve: [B, H, W, C_in] -> [B, H', W', features]."""
        channels = x.shape[-1]
        shape, fans = self.linear.kernel_shape(channels, self.features), self.linear.fans(channels, self.features)
        kernel = self.param("kernel", initializers.conv_kernel, shape, self.dtype, 0, *map(jnp.asarray, fans))
        return self.linear.apply(x, kernel)


class UnitNet(nn.Module):
    """A unit: ReLU, one or two convolutions, batch norm."""

    unit: cell_ops.Unit
    features: int
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Run the unit: [B, H, W, C_in] -> [B, H', W', features]."""
        x = marks.relu(x)
        for number, linear in enumerate(self.unit):
            x = LinearMap(linear, self.features, self.dtype, name=f"conv{number}")(x)
        return layers.BatchNorm(True, self.track, self.dtype, name="norm")(x, train)


class EdgeNet(nn.Module):
    """An operation of a cell."""

    op: str
    stride: int
    features: int
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Run the operation: [B, H, W, features] -> [B, H / stride, W / stride, features]."""
        weightless = cell_ops.weightless(self.op, self.stride)
        if weightless is not None:
            return weightless(x)
        if self.op == cell_ops.NONE:
            return jnp.zeros_like(x[:, :: self.stride, :: self.stride])
        for part, unit in enumerate(cell_ops.units(self.op, self.stride)):
            x = UnitNet(unit, self.features, self.track, self.dtype, name=f"unit{part}")(x, train)
        return x


class CellNet(nn.Module):
    """A cell: two inputs, nodes of two operations each, some of the nodes side by side.

    Attributes:
      cell: (operation, input) pairs, two a node.
      outputs: nodes that are the output, counted from 0 on.
      features: channels of a node.
      input_units: how the inputs get their channels.
      reduces: operations on the inputs have stride 2.
    """

    cell: tuple[tuple[str, int], ...]
    outputs: tuple[int, ...]
    features: int
    input_units: tuple[cell_ops.Unit, cell_ops.Unit]
    reduces: bool
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, older: Array, newer: Array, train: bool = True) -> Array:
        """Run the cell: outputs of the two cells before -> [B, H', W', len(outputs) * features]."""
        values = [
            UnitNet(unit, self.features, self.track, self.dtype, name=f"input{side}")(x, train)
            for side, (unit, x) in enumerate(zip(self.input_units, (older, newer), strict=True))
        ]
        terms = []
        for edge, (op, source) in enumerate(self.cell):
            stride = 2 if self.reduces and source < 2 else 1
            term = EdgeNet(op, stride, self.features, self.track, self.dtype, name=f"edge{edge}")
            terms.append(term(values[source], train))
            if edge % 2:
                values.append(terms[-2] + terms[-1])
        return jnp.concatenate([values[2 + node] for node in self.outputs], axis=-1)


class NdsNet(StandAloneNet):
    """A stand-alone NDS cell network for small images.

    Attributes:
      arch: normal cell, reduction cell, width, depth.
      rules: of the space.
      width: channels of a node before the first reduction.
    """

    arch: NdsArch
    rules: Rules
    width: int

    def setup(self):
        """Name the layers by their place, so that weights can be found by path."""
        super().setup()
        self.stem_conv = layers.Conv(STEM_NODES * self.width, 3, dtype=self.dtype)
        self.stem_norm = layers.BatchNorm(True, self.track, self.dtype)
        outputs = program.outputs(self.arch, self.rules)
        for number, (stage, place, inputs) in enumerate(program.cells(self.arch.depth)):
            reduces = stage > 0 and place == 0
            kinds = [PRE_SAME if s == stage else PRE_BEFORE if reduces else PRE_REDUCE for s, _ in inputs]
            cell = CellNet(
                tuple(self.arch.reduce if reduces else self.arch.normal),
                outputs.reduce if reduces else outputs.normal,
                self.width * 2**stage,
                (PRE_UNITS[kinds[0]], PRE_UNITS[kinds[1]]),
                reduces,
                self.track,
                self.dtype,
            )
            setattr(self, f"cell{number}", cell)

    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps at the end and before the two reduction cells, last first.

        Args:
          images: [B, H, W, 3].
          train: normalise with batch statistics.

        Returns:
          Three arrays [B, H / 4, W / 4, 4 C], [B, H / 2, W / 2, 2 C], [B, H, W, C], where C is the width times the
          number of nodes in the normal cell's output.
        """
        older = newer = self.stem_norm(self.stem_conv(images), train)
        last_of: dict[int, Array] = {}
        for number, (stage, _, _) in enumerate(program.cells(self.arch.depth)):
            older, newer = newer, getattr(self, f"cell{number}")(older, newer, train)
            last_of[stage] = newer
        return [last_of[stage] for stage in reversed(range(NUM_STAGES))]
