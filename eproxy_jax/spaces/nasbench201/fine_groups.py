"""This module groups NAS-Bench-201 cells by the 3x3 convolutions into each node: at most 2 x 3 x 4 = 24 programs.

In the one program of the space every edge can be any operation. That costs a conditional per edge where candidates run
one after the other, and all operations of all edges where they run in batches (``vmap``). Here the number of 3x3
convolutions, which are most of a cell's work, is fixed. Where they read from is data, and so are the other edges.

In batches, every slot that is no 3x3 convolution computes a 1x1 convolution, used or not. One after the other,
nothing is computed that is not needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax
from typing_extensions import override

from eproxy_jax.nn import choice, convolution, initializers, layers, marks, norms
from eproxy_jax.spaces import base
from eproxy_jax.spaces.cells import net
from eproxy_jax.spaces.cells.graph import CONV1X1, CONV3X3, EDGES, NONE, NUM_EDGES, POOL, SKIP, Cell
from eproxy_jax.spaces.nasbench201.net import UniversalNasBench201

_NODES = (1, 2, 3)
# What an edge that is no 3x3 convolution may be, in the order of the switch.
_LIGHT = (NONE, SKIP, CONV1X1, POOL)


def slots(cell: Cell) -> tuple[int, ...]:
    """Return the cell's edges in the order of a program: node by node, 3x3 convolutions first."""
    return tuple(
        sorted(range(NUM_EDGES), key=lambda edge: (EDGES[edge][1], cell[edge] != CONV3X3, edge)),
    )


@dataclasses.dataclass(frozen=True)
class ConvGroup(base.Group):
    """The cells with these numbers of 3x3 convolutions into each node, and their program.

    Attributes:
      space: the space.
      counts: 3x3 convolutions into nodes 1, 2, 3.
    """

    space: Any
    counts: tuple[int, ...]

    @classmethod
    def of(cls, space: Any, cell: Cell) -> ConvGroup:
        """Return the group of a cell."""
        return cls(space, tuple(sum(cell[e] == CONV3X3 for e, (_, t) in enumerate(EDGES) if t == n) for n in _NODES))

    @property
    def heavy(self) -> tuple[bool, ...]:
        """Which slots are 3x3 convolutions."""
        return tuple(place < count for node, count in zip(_NODES, self.counts, strict=True) for place in range(node))

    @override
    def encode(self, archs: Sequence[Cell]) -> np.ndarray:
        """Encode cells as int32 [A, 2, 6]: the edge of each slot, and the operation code of each edge."""
        return np.asarray([(slots(cell), cell) for cell in archs], np.int32).reshape(-1, 2, NUM_EDGES)

    @override
    def universal(self, dtype: Any = jnp.float32) -> nn.Module:
        return GroupedNasBench201(self.space.stem_channels, self.space.cells_per_stage, dtype, self.heavy)

    @override
    def extract(self, arch: Cell, universal_params: Any) -> dict[str, Any]:
        order, heavy = slots(arch), self.heavy
        params = dict(universal_params)
        for name, stage in universal_params.items():
            if name.startswith("stage"):
                # Back to one kernel an edge, which is what the space's own program has.
                shape = (*stage["light"].shape[:1], NUM_EDGES, 3, 3, *stage["light"].shape[-2:])
                kernels = np.zeros(shape, stage["light"].dtype)
                kernels[:, [e for e, h in zip(order, heavy, strict=True) if h]] = stage["heavy"]
                light = [e for e, h in zip(order, heavy, strict=True) if not h]
                kernels[:, light, 1:2, 1:2] = stage["light"]
                params[name] = kernels
        return self.space.extract(arch, params)

    @override
    def executed_macs(self, arch: Cell) -> int:
        return self.space.macs(arch)


class GroupedNasBench201(UniversalNasBench201):
    """The networks of a group in one module; the cell is data, see :meth:`ConvGroup.encode`.

    Attributes:
      heavy: which slots are 3x3 convolutions.
    """

    heavy: tuple[bool, ...] = (False,) * NUM_EDGES

    def cells(self, x: Array, name: str, cell: Array, init: Array | int) -> Array:
        """Run the cells of a stage, [B, H, W, C] -> [B, H, W, C]; their kernels are the parameter ``name``."""
        shape = (self.cells_per_stage, NUM_EDGES, 3, 3, x.shape[-1], x.shape[-1])
        kernels = self.param(name, init_kernels, shape, self.dtype, init, cell, self.heavy)
        split = {kind: [layers.unstack(k) for k in layers.unstack(kernels[kind])] for kind in kernels}
        for heavy, light in zip(split["heavy"], split["light"], strict=True):
            x = marks.feature(apply_cell(x, cell, heavy, light, self.heavy))
        return x


def init_kernels(
    key: Array, shape: tuple[int, ...], dtype: Any, init: Array | int, encoded: Array, heavy: tuple[bool, ...]
) -> dict[str, Array]:
    """Draw the kernels of a stage's cells as the space's own program does, and sort them into slots.

    Args:
      key: typed key; consumed.
      shape: (cells, 6, 3, 3, C, C).
      dtype: of the result.
      init: index into ``initializers.INITS``.
      encoded: [2, 6], see :meth:`ConvGroup.encode`.
      heavy: which slots are 3x3 convolutions.

    Returns:
      {"heavy": [cells, slots, 3, 3, C, C], "light": [cells, slots, 1, 1, C, C]}.
    """
    order, cell = encoded
    area = net.edge_area(cell, tuple(range(NUM_EDGES)), dtype)
    kernels = initializers.conv_kernel(key, shape, dtype, init, area[None])
    kernels = jnp.take(kernels, order, axis=1)
    chosen = np.asarray(heavy)
    return {
        "heavy": kernels[:, np.flatnonzero(chosen)],
        "light": kernels[:, np.flatnonzero(~chosen), 1:2, 1:2],
    }


def _choose(nodes: list[Array], source: Array) -> Array:
    """Return ``nodes[source]``.

    It is a product with a one-hot vector, which moves no more than a gather, has no scatter as gradient, and ends a
    fusion.
    With a chain of selects, XLA's CPU backend took minutes to fuse a batch's whole cell.
    """
    if len(nodes) == 1:
        return nodes[0]
    one_hot = (jnp.arange(len(nodes)) == source).astype(nodes[0].dtype)
    return jnp.einsum("n,nbhwc->bhwc", one_hot, jnp.stack(nodes), precision=lax.Precision.HIGHEST)


def light_ops() -> tuple[choice.Op, ...]:
    """Return the operations of a slot that is no 3x3 convolution, in the order of ``_LIGHT``."""
    table = net.edge_ops(POOL + 1, affine=False, stride=1, reshapes=False)
    return tuple(table[code] for code in _LIGHT)


def apply_cell(
    x: Array, encoded: Array, heavy_kernels: list[Array], light_kernels: list[Array], heavy: tuple[bool, ...]
) -> Array:
    """Run one cell of a group's program.

    Args:
      x: [B, H, W, C].
      encoded: [2, 6], see :meth:`ConvGroup.encode`.
      heavy_kernels: [3, 3, C, C] each.
      light_kernels: [1, 1, C, C] each.
      heavy: which slots are 3x3 convolutions.

    Returns:
      [B, H, W, C].
    """
    order, cell = encoded
    sources = jnp.asarray([source for source, _ in EDGES])[order]
    light_index = jnp.asarray([_LIGHT.index(code) if code in _LIGHT else 0 for code in range(POOL + 1)])[cell[order]]
    heavy_left, light_left, table = list(heavy_kernels), list(light_kernels), light_ops()
    nodes, slot = [x], 0
    for node in _NODES:
        terms: list[Any] = []
        for _ in range(node):
            value = _choose(nodes, sources[slot])
            if heavy[slot]:
                terms.append(norms.normalize(convolution.conv2d(marks.relu(value), heavy_left.pop(0))))
            else:
                terms.append(choice.switch_op(table, light_index[slot], value, {"kernel": light_left.pop(0)}))
            slot += 1
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        nodes.append(total)
    return nodes[3]
