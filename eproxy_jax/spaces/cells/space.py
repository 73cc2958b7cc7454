"""This module holds what spaces of four-node cells share: notation, enumeration, sampling, mutation, canonical form."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.spaces import base, literals
from eproxy_jax.spaces.cells.graph import EDGES, NONE, NUM_EDGES, Cell, all_cells, function_key, is_connected
from eproxy_jax.spaces.structure import Graph, Structure


class CellSpace(base.SearchSpace, base.Group):
    """Base of spaces whose architecture is one four-node cell, repeated.

    Attributes:
      ops: names of the operations, by code; the first is ``none``.
      affine: batch norms of cell edges scale and shift.
      weighted_input_skip: some cells change stride or channels, where ``skip`` from the input carries weights.
    """

    ops: ClassVar[tuple[str, ...]]
    affine: ClassVar[bool]
    weighted_input_skip: ClassVar[bool]

    @property
    def num_ops(self) -> int:
        """How many operation codes the space uses."""
        return len(self.ops)

    @property
    @override
    def num_archs(self) -> int:
        return self.num_ops**NUM_EDGES

    @override
    def enumerate(self) -> Iterator[Cell]:
        """Return every cell in lexicographic order of the edges' operation codes."""
        return all_cells(range(self.num_ops))

    @override
    def sample(self, num: int, seed: int) -> list[Cell]:
        drawn = sampling.draw_distinct(self.num_archs, num, seed, type(self).__name__)
        digits = np.stack(np.unravel_index(drawn, (self.num_ops,) * NUM_EDGES), axis=-1)
        return [Cell(int(d) for d in row) for row in digits]

    @override
    def neighbours(self, arch: Cell) -> list[Cell]:
        """Return the cells that differ in one edge's operation."""
        return [
            Cell((*arch[:edge], op, *arch[edge + 1 :]))
            for edge in range(NUM_EDGES)
            for op in range(self.num_ops)
            if op != arch[edge]
        ]

    @override
    def canonical(self, arch: Cell) -> Cell:
        """Return the cheapest cell of the same function: no dead edges, skips collapsed, sums in one order."""
        representatives, key_of = _canonical_tables(self.num_ops, self.affine, self.weighted_input_skip)
        return representatives[key_of[arch]]

    @override
    def is_connected(self, arch: Cell) -> bool:
        """Return whether the cell's output depends on its input. No shortcut leads around a cell."""
        return is_connected(arch)

    @override
    def structure(self, arch: Cell) -> Structure:
        """Return the cell as a graph; ``none`` is a missing edge."""
        found = [(edge, op - 1) for edge, op in zip(EDGES, arch, strict=True) if op != NONE]
        graph = Graph(tuple(edge for edge, _ in found), (3,), edge_ops=tuple(op for _, op in found))
        return Structure(self.ops[1:], graphs={"cell": graph}, max_edges=NUM_EDGES)

    @override
    def encode(self, archs: Sequence[Cell]) -> np.ndarray:
        """Encode cells as operation codes, int32 [A, 6]."""
        return np.asarray(archs, np.int32).reshape(-1, NUM_EDGES)


def check_cell(codes: Sequence[Any], num_ops: int, what: str) -> Cell:
    """Return six operation codes of this package as a cell.

    Raises:
      ValueError: not six codes, or a code out of range.
    """
    found = [literals.integer(code) for code in codes]
    if len(found) != NUM_EDGES or any(code is None or not 0 <= code < num_ops for code in found):
        raise ValueError(f"{what}: expected {NUM_EDGES} operation codes from 0 to {num_ops - 1}, got {quoted(codes)}")
    return Cell(code for code in found if code is not None)


@dataclasses.dataclass(frozen=True)
class CellNames:
    """The names of one space's operations, and its words for messages.

    Attributes:
      label: what the space is called in messages.
      ops: names by code.
      example: a string of the space.
    """

    label: str
    ops: tuple[str, ...]
    example: str

    def code(self, op: Any) -> int:
        """Return the code of an operation, given as a code or as a name that any of the field's tools writes.

        Raises:
          ValueError: not an operation of the space.
        """
        code = literals.integer(op)
        if code is not None:
            if not 0 <= code < len(self.ops):
                raise ValueError(
                    f"{self.label}: expected operation codes from 0 to {len(self.ops) - 1}, got {quoted(op)}"
                )
            return code
        name = _ALIASES.get(op.lower(), op.lower()) if isinstance(op, str) else ""
        if name not in self.ops:
            hint = did_you_mean(op, self.ops) if isinstance(op, str) and len(op) < 80 else ""
            raise ValueError(f"unknown {self.label} operation {quoted(op)}{hint}; known: {', '.join(self.ops)}")
        return self.ops.index(name)

    def parse(self, value: Any) -> Cell:
        """Read a cell from plain values: nested codes or names, node tuples, or one operation per edge.

        Raises:
          ValueError: none of these; says what and shows an example.
        """
        if isinstance(value, list) and [isinstance(node, list) and len(node) for node in value] == [1, 2, 3]:
            return Cell(self.code(op) for sources in map(self._by_source, value) for op in sources)
        if isinstance(value, list) and len(value) == NUM_EDGES and all(isinstance(op, str) for op in value):
            return Cell(self.code(op) for op in value)
        if isinstance(value, dict):
            by_edge = self._by_edge(value)
            if by_edge is not None:
                return Cell(self.code(by_edge[edge]) for edge in EDGES)
        raise ValueError(
            f"not a {self.label} cell: {quoted(value)}; expected a string like {self.example!r} or nested operation "
            "codes like [[3], [2, 1], [0, 1, 3]]"
        )

    def _by_source(self, node: list[Any]) -> list[Any]:
        """Return the operations of a node in the order of their sources; entries may be (operation, source) pairs."""
        if not all(isinstance(entry, list) for entry in node):
            return node
        found = {}
        for pair in node:
            source = literals.integer(pair[1]) if len(pair) == 2 else None
            if source is None or source in found or not 0 <= source < len(node):
                raise ValueError(
                    f"not a {self.label} cell: {quoted(pair)} in the node {quoted(node)}; expected (operation, source) "
                    f"pairs with the sources 0 to {len(node) - 1}"
                )
            found[source] = pair[0]
        return [found[source] for source in range(len(node))]

    def _by_edge(self, value: dict[Any, Any]) -> dict[tuple[int, int], Any] | None:
        """Return operations by edge (source, target) if an object names all six edges; other keys are ignored."""
        for key_of in _EDGE_KEYS:
            keys = {edge: key_of(edge, number) for number, edge in enumerate(EDGES)}
            if all(key in value for key in keys.values()):
                return {edge: value[key] for edge, key in keys.items()}
        return None


# How the field's tools call the operations.
_ALIASES = {
    "zero": "none", "zeroize": "none", "identity": "skip_connect", "skip": "skip_connect",
    "conv_1x1": "nor_conv_1x1", "conv1x1": "nor_conv_1x1", "reluconvbn1x1": "nor_conv_1x1",
    "conv_3x3": "nor_conv_3x3", "conv3x3": "nor_conv_3x3", "reluconvbn3x3": "nor_conv_3x3",
    "avgpool1x1": "avg_pool_3x3", "avgpool3x3": "avg_pool_3x3", "pool_3x3": "avg_pool_3x3",
}  # fmt: skip
# How they name an edge (source, target) in an object with one operation per edge.
_EDGE_KEYS: tuple[Callable[[tuple[int, int], int], Any], ...] = (
    lambda edge, _: f"{edge[1]}<-{edge[0]}",  # HPOBench
    lambda edge, _: f"{edge[0]}_{edge[1]}",  # NNI
    lambda edge, _: f"cell/{edge[0]}_{edge[1]}",  # later NNI
    lambda edge, _: f"{edge[0]}->{edge[1]}",
    lambda edge, _: edge,
    lambda _, number: f"hp_x{number}",  # Syne Tune, in the order of the string
)


@functools.cache
def _canonical_tables(num_ops: int, affine: bool, weighted_input_skip: bool) -> tuple[dict[Any, Cell], dict[Cell, Any]]:
    """Map function keys to cheapest cells, and cells to function keys. This takes under a second for 15,625 cells."""
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
