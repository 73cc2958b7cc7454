"""This module treats NAS-Bench-101 cells as graphs: validity, pruning, canonical labelling, channels, enumeration.

A cell is a pair ``(matrix, ops)``: an upper-triangular 0/1 matrix as a tuple of rows (``matrix[i][j]``: an edge from
vertex i to vertex j) and one operation name per vertex. Vertex 0 is the cell's input, the last one its output.

Source: Ying et al., "NAS-Bench-101", ICML 2019, sections 2.1 and 2.2.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from eproxy_jax.errors import did_you_mean, quoted

INPUT, OUTPUT = "input", "output"
CONV1X1, CONV3X3, POOL = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"
OPS = (CONV1X1, CONV3X3, POOL)  # of interior vertices, in the order of their names
MAX_VERTICES, MAX_EDGES = 7, 9
# A vertex that feeds the output has an edge in and an edge out, so five of them would need ten edges.
MAX_OUTPUT_FAN_IN = 4

Matrix = tuple[tuple[int, ...], ...]
Cell = tuple[Matrix, tuple[str, ...]]


def check_cell(matrix: Sequence[Sequence[int]], ops: Sequence[str], what: str) -> Cell:
    """Check a cell by the benchmark's rules, and return it. The limits on vertices and edges hold after pruning.

    Args:
      matrix: V rows of V numbers.
      ops: V names.
      what: the source, for error messages.

    Raises:
      ValueError: not a cell of the space; says which rule is broken, where, and how to fix it.
    """
    size = len(matrix)
    rows: tuple[tuple[Any, ...], ...] = tuple(tuple(r) if isinstance(r, (list, tuple)) else () for r in matrix)
    if size < 2 or any(len(row) != size for row in rows):
        shape = f"{size} rows of lengths {[len(row) for row in rows]}"
        raise ValueError(f"{what}: the matrix must be square, at least 2x2 (input and output), got {shape}")
    for i, j in itertools.product(range(size), repeat=2):
        if not isinstance(rows[i][j], int) or rows[i][j] not in (0, 1):
            raise ValueError(f"{what}: matrix[{i}][{j}] must be 0 or 1, got {quoted(rows[i][j])}")
    if len(ops) != size:
        raise ValueError(f"{what}: {len(ops)} ops for a matrix of {size} vertices; give one op a vertex")
    if ops[0] != INPUT or ops[-1] != OUTPUT:
        raise ValueError(
            f"{what}: the first op must be 'input' and the last 'output', got {quoted(ops[0])} and {quoted(ops[-1])}"
        )
    for vertex, op in enumerate(ops[1:-1], start=1):
        if op not in OPS:
            hint = did_you_mean(op, OPS) if isinstance(op, str) and len(op) < 80 else ""
            raise ValueError(f"{what}: unknown op {quoted(op)}{hint} at vertex {vertex}; known: {', '.join(OPS)}")
    _check_forward(rows, what)
    cell: Cell = (tuple(tuple(int(e) for e in row) for row in rows), tuple(ops))
    live = live_vertices(cell[0])
    if not live:
        raise ValueError(f"{what}: no path leads from the input to the output; connect vertex 0 to vertex {size - 1}")
    edges = sum(cell[0][i][j] for i in live for j in live)
    if len(live) > MAX_VERTICES:
        raise ValueError(f"{what}: {len(live)} vertices on paths from input to output, at most {MAX_VERTICES} allowed")
    if edges > MAX_EDGES:
        raise ValueError(f"{what}: {edges} edges on paths from input to output, at most {MAX_EDGES} allowed")
    return cell


def _check_forward(rows: tuple[tuple, ...], what: str) -> None:
    size = len(rows)
    backward = next(((i, j) for i in range(size) for j in range(i + 1) if rows[i][j]), None)
    if backward is None:
        return
    left = set(range(size))  # take away vertices without edges from the rest; what stays is on or behind a cycle
    while free := [j for j in left if not any(rows[i][j] for i in left)]:
        left -= set(free)
    fix = "the graph has a cycle: remove an edge of it" if left else "number the vertices so that edges go upwards"
    i, j = backward
    raise ValueError(f"{what}: the matrix must be upper triangular, but matrix[{i}][{j}] = 1 (edge {i} -> {j}); {fix}")


def live_vertices(matrix: Matrix) -> list[int]:
    """Return the vertices on a path from the input to the output, ascending; none when there is no path."""
    size = len(matrix)
    fed = [True] + [False] * (size - 1)
    for j in range(1, size):
        fed[j] = any(fed[i] and matrix[i][j] for i in range(j))
    needed = [False] * (size - 1) + [True]
    for i in reversed(range(size - 1)):
        needed[i] = any(needed[j] and matrix[i][j] for j in range(i + 1, size))
    return [v for v in range(size) if fed[v] and needed[v]]


def prune(cell: Cell) -> Cell:
    """Return the cell without the vertices that are on no path from input to output; the others keep their order."""
    matrix, ops = cell
    live = live_vertices(matrix)
    if len(live) == len(ops):
        return cell
    return tuple(tuple(matrix[i][j] for j in live) for i in live), tuple(ops[v] for v in live)


def vertex_channels(matrix: Matrix, channels_in: int, channels: int) -> list[int]:
    """Return the channels of each vertex of a pruned cell.

    The interior vertices that feed the output share its channels, the first ones taking one more each where they do
    not divide; every other interior vertex is as wide as the widest that it feeds.

    Args:
      matrix: of a pruned cell with V vertices.
      channels_in: channels of the cell's input.
      channels: channels of its output.

    Returns:
      V numbers.

    Example:
      >>> diamond = ((0, 1, 1, 0), (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0))
      >>> vertex_channels(diamond, 4, 9)
      [4, 5, 4, 9]
    """
    last = len(matrix) - 1
    widths = [channels_in] + [0] * (last - 1) + [channels]
    feeding = [v for v in range(1, last) if matrix[v][last]]
    for rank, v in enumerate(feeding):
        share, rest = divmod(channels, len(feeding))
        widths[v] = share + (rank < rest)
    for v in reversed(range(1, last)):
        if not matrix[v][last]:
            widths[v] = max(widths[j] for j in range(v + 1, last) if matrix[v][j])
    return widths


# --- canonical labelling -------------------------------------------------------------------------------------


def _orders(matrix: Matrix) -> Iterator[tuple[int, ...]]:
    """Return every topological order of a pruned cell's vertices, input first and output last."""
    last = len(matrix) - 1

    def extend(order: tuple[int, ...], left: frozenset[int]) -> Iterator[tuple[int, ...]]:
        if not left:
            yield (*order, last)
        for v in sorted(left):
            if not any(matrix[u][v] for u in left):
                yield from extend((*order, v), left - {v})

    return extend((0,), frozenset(range(1, last)))


@functools.lru_cache(maxsize=1 << 17)
def canonical(cell: Cell) -> Cell:
    """Return the one representative of all cells that are isomorphic to this one after pruning.

    It is the smallest, lexicographically by matrix and then by ops, among the relabellings whose matrix is upper
    triangular. Two cells have equal canonical forms if and only if their pruned graphs are isomorphic.

    Example:
      >>> first = (((0, 1, 1, 0), (0, 0, 0, 1), (0, 0, 0, 1), (0, 0, 0, 0)), (INPUT, POOL, CONV1X1, OUTPUT))
      >>> canonical(first)[1]
      ('input', 'conv1x1-bn-relu', 'maxpool3x3', 'output')
    """
    matrix, ops = prune(cell)
    return min(
        (tuple(tuple(matrix[i][j] for j in order) for i in order), tuple(ops[v] for v in order))
        for order in _orders(matrix)
    )


# --- enumeration ---------------------------------------------------------------------------------------------


class Graph(NamedTuple):
    """A canonical matrix, and the labellings of its interior vertices that are canonical with it."""

    matrix: Matrix
    labellings: tuple[tuple[str, ...], ...]

    def cell(self, number: int) -> Cell:
        """Return the cell with labelling ``number``."""
        return self.matrix, (INPUT, *self.labellings[number], OUTPUT)


@functools.cache
def _labellings(num: int, symmetries: frozenset[tuple[int, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return ops of ``num`` interior vertices that no symmetry of the graph makes smaller, in lexicographic order."""
    return tuple(
        ops
        for ops in itertools.product(OPS, repeat=num)
        if all(ops <= tuple(ops[v] for v in order) for order in symmetries)
    )


@functools.cache
def graphs(size: int) -> tuple[Graph, ...]:
    """Return every canonical graph of ``size`` vertices, all live, with at most nine edges; in lexicographic order.

    A graph is a number whose bits are the matrix's upper triangle, row by row, so that smaller numbers are smaller
    matrices. All graphs go through all relabellings at once: half a second for seven vertices.
    """
    pairs = list(itertools.combinations(range(size), 2))
    bit = {pair: 1 << (len(pairs) - 1 - place) for place, pair in enumerate(pairs)}
    found = np.arange(1 << len(pairs), dtype=np.int32)
    for v in range(1, size - 1):  # without cycles, an edge in and an edge out make a vertex live
        edges_in, edges_out = sum(bit[i, v] for i in range(v)), sum(bit[v, j] for j in range(v + 1, size))
        found = found[(found & edges_in != 0) & (found & edges_out != 0)]
    found = found[(np.bitwise_count(found) <= MAX_EDGES) & (found != 0)]
    interior = range(1, size - 1)
    symmetries: list[tuple[tuple[int, ...], np.ndarray]] = []
    for order in itertools.islice(itertools.permutations(interior), 1, None):  # the first is the identity
        new = {0: 0, size - 1: size - 1, **{old: place for place, old in enumerate(order, start=1)}}
        relabelled, forward = np.zeros_like(found), np.ones(len(found), bool)
        for i, j in pairs:
            has_edge = found & bit[i, j] != 0
            if new[i] < new[j]:
                relabelled |= np.where(has_edge, bit[new[i], new[j]], 0).astype(found.dtype)
            else:
                forward &= ~has_edge
        keep = ~(forward & (relabelled < found))
        symmetries.append((tuple(v - 1 for v in order), found[forward & (relabelled == found)]))
        found = found[keep]
    by_graph: dict[int, list[tuple[int, ...]]] = {int(number): [] for number in found}
    for order, fixed in symmetries:
        for number in fixed.tolist():
            if number in by_graph:
                by_graph[number].append(order)
    result = []
    for number, orders in by_graph.items():
        matrix = tuple(tuple(int(i < j and number & bit[i, j] != 0) for j in range(size)) for i in range(size))
        result.append(Graph(matrix, _labellings(size - 2, frozenset(orders))))
    return tuple(result)


def all_graphs() -> Iterator[Graph]:
    """Yield the canonical graphs of two to seven vertices, computed as they are asked for."""
    for size in range(2, MAX_VERTICES + 1):
        yield from graphs(size)


def all_cells() -> Iterator[Cell]:
    """Yield every canonical cell, by number of vertices, then lexicographically; 423,624 in all."""
    for graph in all_graphs():
        for number in range(len(graph.labellings)):
            yield graph.cell(number)


@functools.cache
def _ends() -> np.ndarray:
    """Return the number of cells up to and with each graph of :func:`all_graphs`."""
    return np.cumsum([len(graph.labellings) for graph in all_graphs()])


def nth_cells(numbers: Sequence[int]) -> list[Cell]:
    """Return the cells at given positions of :func:`all_cells`, without going through it."""
    ends, found = _ends(), list(all_graphs())
    places = np.searchsorted(ends, numbers, side="right")
    return [
        found[place].cell(number - (int(ends[place - 1]) if place else 0))
        for number, place in zip(numbers, places.tolist(), strict=True)
    ]
