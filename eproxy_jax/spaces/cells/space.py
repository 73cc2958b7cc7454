"""Spaces of four-node cells share notation, enumeration, sampling, mutation and canonical form."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.spaces import base
from eproxy_jax.spaces.cells.graph import NONE, NUM_EDGES, Cell, all_cells, function_key, is_connected


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
    def is_connected(self, arch: Cell) -> bool:
        """Whether the cell's output depends on its input. No shortcut leads around a cell, so one cut cuts all."""
        return is_connected(arch)

    @override
    def encode(self, archs: Sequence[Cell]) -> np.ndarray:
        """Operation codes, int32 [A, 6]."""
        return np.asarray(archs, np.int32).reshape(-1, NUM_EDGES)


def check_cell(cell: Any, num_ops: int, what: str) -> Cell:
    """Six operation codes as a tuple of ints.

    Raises:
      ValueError: not six codes, or a code out of range.
    """
    codes = tuple(int(c) for c in cell)
    if len(codes) != NUM_EDGES or any(not 0 <= c < num_ops for c in codes):
        raise ValueError(f"{what}: expected {NUM_EDGES} operation codes from 0 to {num_ops - 1}, got {list(cell)}")
    return codes


def parse_nested(source: Any, num_ops: int, what: str, example: str) -> Cell:
    """A cell from nested operation codes, or from the flat tuple that is the architecture itself.

    Raises:
      ValueError: neither; says what and shows an example.
    """
    flat: list[Any] = []
    if isinstance(source, Sequence) and len(source) == NUM_EDGES:
        flat = list(source)
    elif isinstance(source, Sequence) and [isinstance(s, Sequence) and len(s) for s in source] == [1, 2, 3]:
        flat = [code for node in source for code in node]
    if not flat or not all(isinstance(code, int) and not isinstance(code, bool) for code in flat):
        raise ValueError(
            f"not a {what} cell: {source!r}; expected a string like {example!r} or nested operation codes "
            "like [[3], [2, 1], [0, 1, 3]]"
        )
    return check_cell(flat, num_ops, f"{what} cell {source!r}")


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
