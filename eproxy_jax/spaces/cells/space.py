"""What spaces of four-node cells share: enumeration, sampling, mutation, canonical form."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.spaces import base
from eproxy_jax.spaces.cells.graph import NONE, NUM_EDGES, Cell, all_cells, function_key


class CellSpace(base.SearchSpace, base.Group):
    """Base of spaces whose architecture is one four-node cell, repeated.

    Attributes:
      num_ops: how many operation codes the space uses.
      affine: batch norms of cell edges scale and shift.
      weighted_input_skip: some cells change stride or channels, where ``skip`` from the input carries weights.
    """

    num_ops: ClassVar[int]
    affine: ClassVar[bool]
    weighted_input_skip: ClassVar[bool]

    @property
    @override
    def num_archs(self) -> int:
        return self.num_ops**NUM_EDGES

    @override
    def enumerate(self) -> Iterator[Cell]:
        """Every cell in lexicographic order of the edges' operation codes."""
        return all_cells(range(self.num_ops))

    @override
    def sample(self, num: int, seed: int) -> list[Cell]:
        drawn = sampling.draw_distinct(self.num_archs, num, seed, type(self).__name__)
        digits = np.stack(np.unravel_index(drawn, (self.num_ops,) * NUM_EDGES), axis=-1)
        return [tuple(int(d) for d in row) for row in digits]

    @override
    def neighbours(self, arch: Cell) -> list[Cell]:
        """The cells that differ in one edge's operation."""
        return [
            (*arch[:edge], op, *arch[edge + 1 :])
            for edge in range(NUM_EDGES)
            for op in range(self.num_ops)
            if op != arch[edge]
        ]

    @override
    def canonical(self, arch: Cell) -> Cell:
        """The cheapest cell that computes the same function: no dead edges, skips collapsed, sums in one order."""
        representatives, key_of = _canonical_tables(self.num_ops, self.affine, self.weighted_input_skip)
        return representatives[key_of[arch]]

    @override
    def encode(self, archs: Sequence[Cell]) -> np.ndarray:
        """Operation codes, int32 [A, 6]."""
        return np.asarray(archs, np.int32).reshape(-1, NUM_EDGES)


@functools.cache
def _canonical_tables(num_ops: int, affine: bool, weighted_input_skip: bool) -> tuple[dict[Any, Cell], dict[Cell, Any]]:
    """Function key -> cheapest cell, and cell -> function key. A fraction of a second for 15,625 cells."""
    key_of: dict[Cell, Any] = {}
    best: dict[Any, tuple[tuple[int, int, Cell], Cell]] = {}
    for cell in all_cells(range(num_ops)):
        key = [function_key(cell, affine=affine, weighted_input_skip=False)]
        if weighted_input_skip:  # equal functions must agree in the cells that reshape as well
            key.append(function_key(cell, affine=affine, weighted_input_skip=True))
        key_of[cell] = tuple(key)
        cost = (sum((0, 0, 1, 9, 0)[op] for op in cell), sum(op != NONE for op in cell), cell)
        if key_of[cell] not in best or cost < best[key_of[cell]][0]:
            best[key_of[cell]] = (cost, cell)
    return {key: cell for key, (_, cell) in best.items()}, key_of
