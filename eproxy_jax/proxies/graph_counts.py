"""Counts in the graph of an architecture, without running a network: operations, paths and degrees.

What is counted is the canonical form, so architectures of one function get the same counts. A space says what an
architecture is made of (:meth:`SearchSpace.structure`); a space that says nothing, such as a user's own modules, has
no columns.

For each graph there is the number of each operation. And for each *subset* of the operations, where an edge belongs to
the subset if its operation does:

* ``shortest``: operations on the shortest path from an input to an output on which all are of the subset; without
  such a path, the most edges that a graph of the space has;
* ``longest``: operations on the longest such path; without a path -1, as 0 is an input that is the output as well;
* ``from_input``, ``to_output``: edges of the subset that leave an input, and that enter an output;
* ``in_degree``, ``out_degree``: edges of the subset over the vertices that any edge enters, and that any edge leaves.

Where vertices are the operations, an edge belongs to a path if the operations at both of its ends do. The other
columns look at one end: ``from_input`` and ``out_degree`` at where the edge leads to, ``to_output`` and ``in_degree``
at where it comes from.

Subsets are all that are not empty, of up to seven operations. Of more operations there would be thousands: there the
subsets are each one alone, all but one, all, and the families that the space names.

A disconnected network has no path, whatever its cells look like.

Source: Kadlecová, Lukasik, Pilát, Vidnerová, Safari, Neruda and Hutter, "Surprisingly Strong Performance Prediction
with Neural Graph Features", ICML 2024.
Differs from the reference: ``none`` is no operation but a missing edge; the canonical form is counted; means are over
the vertices in use; paths are counted in operations, the longest one too; two cells' inputs and outputs are taken
together.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from eproxy_jax.errors import quoted
from eproxy_jax.spaces.base import SearchSpace
from eproxy_jax.spaces.structure import Graph, Structure

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

COUNTS = ("shortest", "longest", "from_input", "to_output", "in_degree", "out_degree")
MAX_OPS_ALL_SUBSETS = 7  # 127 subsets
NO_LONGEST = -1
_CHUNK = 1024  # architectures at once: 30 MB of path lengths
_NO_OP, _NO_EDGE = -1, -2  # beside the indices of operations: an end without one, and padding


def names(space: SearchSpace) -> tuple[str, ...]:
    """Return the names of the columns, F of them; none where the space does not say what its networks are made of.

    Example:
      >>> from eproxy_jax import spaces
      >>> names(spaces.get("nats_size"))[:2]
      ('width1', 'width2')
    """
    return _names(_example(space))


def graph_counts(space: SearchSpace, archs: Sequence[Any]) -> Float64[np.ndarray, "A F"]:
    """Count in the graphs of architectures.

    Args:
      space: the search space.
      archs: A architectures, as ``space.parse`` returns them.

    Returns:
      A row for each architecture, a column for each of :func:`names`; all finite.

    Raises:
      ValueError: the space's ``structure`` breaks the rules of :class:`Structure` or :class:`Graph`.

    Example:
      >>> from eproxy_jax import spaces
      >>> space = spaces.get("transnas_macro")
      >>> dict(zip(names(space), graph_counts(space, [(2, 3, 1, 4)])[0].tolist()))["modules"]
      4.0
    """
    example = _example(space)
    canonical = [space.canonical(arch) for arch in archs]
    distinct = list(dict.fromkeys(canonical))
    rows = {arch: row for row, arch in enumerate(distinct)}
    found = np.zeros((len(distinct), len(_names(example))))
    for start in range(0, len(distinct), _CHUNK):
        chunk = distinct[start : start + _CHUNK]
        connected = np.asarray([space.is_connected(arch) for arch in chunk], bool)
        found[start : start + _CHUNK] = _count([space.structure(arch) for arch in chunk], example, connected)
    return found[[rows[arch] for arch in canonical]]


def _example(space: SearchSpace) -> Structure:
    """Return the structure of one architecture: names are the same for all, and drawing one would take longer."""
    return space.structure(space.parse(space.notations()[0].example))


def _names(structure: Structure) -> tuple[str, ...]:
    labels = _subsets(structure.ops, tuple(structure.families.items()))
    found = []
    for graph in structure.graphs:
        found += [f"{graph}:{op}" for op in structure.ops]
        found += [f"{graph}:{count}:{label}" for count in COUNTS for label in labels]
    return (*found, *structure.numbers, *structure.sizes, *(f"log_{name}" for name in structure.sizes))


@functools.cache
def _subsets(ops: tuple[str, ...], families: tuple[tuple[str, tuple[str, ...]], ...]) -> Mapping[str, frozenset[str]]:
    """Return the subsets of operations by label, the smallest first."""
    every = frozenset(ops)
    if len(ops) <= MAX_OPS_ALL_SUBSETS:
        sizes = (itertools.combinations(ops, size) for size in range(1, len(ops) + 1))
        return {"+".join(subset): frozenset(subset) for subset in itertools.chain(*sizes)}
    found = {op: frozenset([op]) for op in ops}
    found |= {name: frozenset(members) for name, members in families}
    found |= {f"not_{op}": every - {op} for op in ops}
    return {**found, "all": every}


def _membership(structure: Structure) -> Bool[np.ndarray, "O S"]:
    """Return which operations each subset has; rows -1 and -2 are those of ``_NO_OP`` and ``_NO_EDGE``."""
    subsets = _subsets(structure.ops, tuple(structure.families.items())).values()
    table = [[op in subset for subset in subsets] for op in structure.ops]
    return np.asarray([*table, [False] * len(subsets), [True] * len(subsets)], bool)


def _count(
    structures: Sequence[Structure], example: Structure, connected: Bool[np.ndarray, " A"]
) -> Float64[np.ndarray, "A F"]:
    for structure in structures:
        for part in ("ops", "graphs", "numbers", "sizes"):
            own, expected = [*getattr(structure, part)], [*getattr(example, part)]
            if own != expected:
                raise ValueError(
                    f"structure() gives {part} {quoted(own)} for one architecture and {quoted(expected)} for another: "
                    "give the same names in the same order for all, with 0 for what one lacks"
                )
    columns = []
    for name in example.graphs:
        graphs = [structure.graphs[name] for structure in structures]
        columns.append(_operations(graphs, len(example.ops)))
        columns.append(_of_subsets(graphs, _membership(example), connected, example.max_edges))
    columns.append(np.asarray([[*structure.numbers.values()] for structure in structures], float))
    sizes = np.asarray([[*structure.sizes.values()] for structure in structures], float)
    return np.concatenate([*columns, sizes, np.log2(1 + sizes)], axis=1)


def _operations(graphs: Sequence[Graph], num_ops: int) -> Float64[np.ndarray, "A O"]:
    """Count the operations of each kind."""
    found = np.zeros((len(graphs), num_ops))
    for row, graph in zip(found, graphs, strict=True):
        for op in graph.vertex_ops or graph.edge_ops:
            if op != _NO_OP:
                row[op] += 1
    return found


class _Edges(NamedTuple):
    """The edges of A graphs, padded to the most that one has (E); padding leads from vertex 0 to itself.

    Attributes:
      source: vertex that each edge leaves.
      target: vertex that it enters.
      first: operation at its beginning, ``_NO_OP`` or ``_NO_EDGE``.
      last: operation at its end.
    """

    source: Int64[np.ndarray, "A E"]
    target: Int64[np.ndarray, "A E"]
    first: Int64[np.ndarray, "A E"]
    last: Int64[np.ndarray, "A E"]


def _edges(graphs: Sequence[Graph]) -> _Edges:
    most = max(len(graph.edges) for graph in graphs)
    padding = (0, 0, _NO_EDGE, _NO_EDGE)
    rows = []
    for graph in graphs:
        targets = [target for _, target in graph.edges]
        if targets != sorted(targets) or any(source >= target for source, target in graph.edges):
            raise ValueError(
                f"the edges of a graph are {quoted(graph.edges)}: number its vertices so that each edge leads to a "
                "larger one, and sort the edges by target"
            )
        own = [(*edge, *ends) for edge, ends in zip(graph.edges, graph.ends, strict=True)]
        rows.append(own + [padding] * (most - len(own)))
    return _Edges(*np.moveaxis(np.asarray(rows, np.int64).reshape(len(graphs), most, 4), -1, 0))


def _of_subsets(
    graphs: Sequence[Graph], member: Bool[np.ndarray, "O S"], connected: Bool[np.ndarray, " A"], max_edges: int
) -> Float64[np.ndarray, "A F"]:
    """Return the columns of ``COUNTS`` for all subsets, those of a count side by side."""
    edges = _edges(graphs)
    num_vertices = 1 + max(
        vertex for graph in graphs for vertex in (*graph.inputs, *graph.outputs, *itertools.chain(*graph.edges))
    )
    is_input = _marked([graph.inputs for graph in graphs], num_vertices)
    is_output = _marked([graph.outputs for graph in graphs], num_vertices)
    shortest, longest = _paths(edges, member, is_input, is_output & connected[:, None])
    exists = longest > NO_LONGEST
    first = member[edges.first] & (edges.first >= 0)[..., None]
    last = member[edges.last] & (edges.last >= 0)[..., None]
    is_edge = edges.first != _NO_EDGE
    every = np.arange(len(graphs))[:, None]
    entered = _distinct(edges.target, is_edge, num_vertices)
    left = _distinct(edges.source, is_edge, num_vertices)
    counts = (
        np.where(exists, shortest, max_edges),
        longest,
        np.sum(last & is_input[every, edges.source][..., None], axis=1),
        np.sum(first & is_output[every, edges.target][..., None], axis=1),
        np.sum(first, axis=1) / np.maximum(entered, 1)[:, None],
        np.sum(last, axis=1) / np.maximum(left, 1)[:, None],
    )
    return np.concatenate(counts, axis=1)


def _marked(vertices: Sequence[tuple[int, ...]], num_vertices: int) -> Bool[np.ndarray, "A V"]:
    """Return a row for each graph that is true at its vertices."""
    marks = np.zeros((len(vertices), num_vertices), bool)
    for row, own in zip(marks, vertices, strict=True):
        row[list(own)] = True
    return marks


def _distinct(
    vertices: Int64[np.ndarray, "A E"], is_edge: Bool[np.ndarray, "A E"], num_vertices: int
) -> Int64[np.ndarray, " A"]:
    """Count the distinct vertices at one end of the edges."""
    marks = np.zeros((len(vertices), num_vertices), bool)
    rows, places = np.nonzero(is_edge)
    marks[rows, vertices[rows, places]] = True
    return marks.sum(axis=1)


def _paths(
    edges: _Edges,
    member: Bool[np.ndarray, "O S"],
    is_input: Bool[np.ndarray, "A V"],
    is_output: Bool[np.ndarray, "A V"],
) -> tuple[Float64[np.ndarray, "A S"], Float64[np.ndarray, "A S"]]:
    """Return the fewest and the most operations on a path, infinite and ``NO_LONGEST`` where there is none.

    Edges come by target, so a vertex is final before any edge leaves it: one pass over the edges is enough.
    """
    every = np.arange(len(is_input))
    least = np.where(is_input, 0.0, np.inf)[..., None].repeat(member.shape[1], axis=-1)
    most = np.where(is_input, 0.0, -np.inf)[..., None].repeat(member.shape[1], axis=-1)
    for source, target, first, last in zip(*(part.T for part in edges), strict=True):
        allowed, length = member[first] & member[last], (last >= 0)[:, None]
        for values, better, nothing in ((least, np.minimum, np.inf), (most, np.maximum, -np.inf)):
            arriving = np.where(allowed, values[every, source] + length, nothing)
            values[every, target] = better(values[every, target], arriving)
    out = is_output[..., None]
    longest = np.max(np.where(out, most, -np.inf), axis=1)
    return np.min(np.where(out, least, np.inf), axis=1), np.maximum(longest, NO_LONGEST)
