"""Facts of cells that tests need and the package does not."""

import itertools

from eproxy_jax.spaces.cells import graph


def _fed(cell: graph.Cell, affine: bool) -> tuple[list[bool], list[bool]]:
    """Which nodes are not zero, and which edges carry something that is not: a convolution of zeros has its bias."""
    nonzero = [True, False, False, False]
    fed = []
    for edge, (source, target) in enumerate(graph.EDGES):
        conv = cell[edge] in (graph.CONV1X1, graph.CONV3X3)
        carries = cell[edge] != graph.NONE and (nonzero[source] or (affine and conv))
        fed.append(carries)
        nonzero[target] |= carries
    return nonzero, fed


def reads_zeros(cell: graph.Cell, edge: int, *, affine: bool) -> bool:
    """Whether an edge reads a node that is zero: then its kernel and scale have no gradient, whatever its bias has."""
    return not _fed(cell, affine)[0][graph.EDGES[edge][0]]


def live_edges(cell: graph.Cell, *, affine: bool) -> tuple[bool, ...]:
    """Which edges of a cell change its output: not ``none``, fed by something non-zero, and leading to the output."""
    _, fed = _fed(cell, affine)
    needed = [False, False, False, True]
    live = [False] * graph.NUM_EDGES
    for edge in reversed(range(graph.NUM_EDGES)):
        source, target = graph.EDGES[edge]
        live[edge] = fed[edge] and needed[target]
        needed[source] |= live[edge]
    return tuple(live)


def is_connected(cell: graph.Cell) -> bool:
    """Whether the output depends on the input: one of the four paths from node 0 to node 3 has no ``none``."""
    number = {edge: place for place, edge in enumerate(graph.EDGES)}
    between = [1, 2]
    paths = [(0, *middle, 3) for count in range(3) for middle in itertools.combinations(between, count)]
    return any(all(cell[number[step]] != graph.NONE for step in itertools.pairwise(path)) for path in paths)


def output_fan_in(matrix: tuple[tuple[int, ...], ...]) -> int:
    """How many interior vertices of a NAS-Bench-101 cell feed the output."""
    return sum(row[-1] for row in matrix[1:-1])
