"""This module treats four-node cells as graphs: it tells what NAS-Bench-201 and TransNAS-Bench-101-micro cells compute.

A cell (:class:`Cell`) is a tuple of six operation codes, one per edge, in the order of the benchmarks' strings:
(0->1), (0->2), (1->2), (0->3), (1->3), (2->3). Node 0 is the cell's input, node 3 its output; a node is the sum of
its edges.

``function_key`` names the function that a cell computes, up to its weights: two cells with equal keys can be given
equal outputs and gradients by copying weights from one to the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

NONE, SKIP, CONV1X1, CONV3X3, POOL = range(5)
NUM_EDGES = 6
EDGES: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target)


class Cell(tuple[int, ...]):
    """A parsed cell: six operation codes of this package, in the order of ``EDGES``.

    It is a type of its own, because six plain numbers are another notation, with NASLib's codes and order. It equals
    and hashes as the tuple of its codes.

    Example:
      >>> Cell((3, 0, 0, 0, 1, 0)) == (3, 0, 0, 0, 1, 0)
      True
    """

    __slots__ = ()


# A term of a node's sum: (operation, edge that owns weights or -1, value of the source).
_Term = tuple
_Value = tuple  # sorted terms


def _values(cell: Cell, affine: bool, weighted_input_skip: bool) -> _Value:
    """Return the output node as a sorted sum of terms; skips are merged into the sum, dead terms are gone."""
    nodes: list[_Value] = [(("input",),)]
    for target in (1, 2, 3):
        terms: list[_Term] = []
        for edge, (source, edge_target) in enumerate(EDGES):
            if edge_target != target:
                continue
            op, value = cell[edge], nodes[source]
            if op == NONE:
                continue
            if op == SKIP:
                if source == 0 and weighted_input_skip:
                    terms.append(("reduce", edge, value))
                else:
                    terms.extend(value)
            elif op == POOL:
                terms.extend(("pool", -1, (term,)) for term in value)  # linear: the pool of a sum is a sum of pools
            elif value:
                terms.append(("conv3x3" if op == CONV3X3 else "conv1x1", edge, value))
            elif affine:  # batch norm of zeros is its bias, which trains: a constant, the same for both kernel sizes
                terms.append(("bias", edge, ()))
        nodes.append(tuple(sorted(terms, key=repr)))
    return nodes[3]


def _render(value: _Value, names: dict[int, str]) -> str:
    parts = []
    for term in value:
        if term == ("input",):
            parts.append("x")
        else:
            op, edge, source = term
            parts.append(f"{op}{names.get(edge, '')}({_render(source, names)})")
    return "+".join(sorted(parts))


def _weighted_edges(value: _Value) -> dict[int, str]:
    """Return the edges with weights that the value needs, with the structure (weights not named) that each computes."""
    found: dict[int, str] = {}
    for term in value:
        if term == ("input",):
            continue
        op, edge, source = term
        if edge >= 0:
            found[edge] = f"{op}({_render(source, {})})"
        found.update(_weighted_edges(source))
    return found


def _key_of_value(value: _Value) -> str:
    """Render with weights named #0, #1, ... so that the text is the same for every naming of equal structure.

    Weights of different structure are ordered by it; only among equal ones must the smallest text be searched.
    """
    structures = _weighted_edges(value)
    groups = [
        [edge for edge in sorted(structures) if structures[edge] == text] for text in sorted(set(structures.values()))
    ]
    texts = []
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        names = {edge: f"#{number}" for number, edge in enumerate(itertools.chain.from_iterable(orders))}
        texts.append(_render(value, names))
    return min(texts)


def function_key(cell: Cell, *, affine: bool, weighted_input_skip: bool) -> str:
    """Return the function that a cell computes, as text.

    Args:
      cell: six operation codes.
      affine: the cell's batch norms have a trained bias, so that a convolution of zeros is not zero.
      weighted_input_skip: ``skip`` from the input carries weights (it changes stride or channels).

    Returns:
      A text that two cells share if and only if they compute the same function up to the naming of weights.

    Example:
      >>> a = function_key((3, 0, 0, 0, 1, 0), affine=False, weighted_input_skip=False)
      >>> a
      'conv3x3#0(x)'
      >>> a == function_key((0, 1, 3, 3, 0, 0), affine=False, weighted_input_skip=False)
      True
    """
    return _key_of_value(_values(cell, affine, weighted_input_skip))


def is_connected(cell: Cell) -> bool:
    """Return whether the output node depends on the input: a path of edges that are not ``none`` leads there.

    A trained bias behind a convolution of zeros is a constant: it connects nothing.

    Example:
      >>> is_connected((3, 0, 0, 0, 1, 0)), is_connected((3, 3, 3, 0, 0, 0))
      (True, False)
    """
    fed = {0}
    for edge, (source, target) in enumerate(EDGES):  # by target, so that a node's own edges come before it is read
        if cell[edge] != NONE and source in fed:
            fed.add(target)
    return 3 in fed


def all_cells(ops: Sequence[int]) -> Iterator[Cell]:
    """Return every cell over the given operation codes, in lexicographic order."""
    return map(Cell, itertools.product(ops, repeat=NUM_EDGES))
