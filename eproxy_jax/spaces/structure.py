"""This module says what an architecture is made of: graphs of operations, and the sizes that it chooses.

:meth:`SearchSpace.structure` gives it, ``proxies/graph_counts.py`` counts in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_NOTHING: Mapping[str, float] = MappingProxyType({})


class Graph(NamedTuple):
    """A directed graph whose edges, or whose vertices, are operations.

    Vertices are numbers; each edge leads to a larger one. Edges that do nothing (``none``) are left out. Two edges may
    have the same ends.

    Attributes:
      edges: (source, target) pairs, in ascending order of targets.
      outputs: vertices that are the output, together.
      inputs: vertices that are inputs.
      edge_ops: operation of each edge, as an index; empty where vertices have the operations.
      vertex_ops: operation of each vertex, as an index, -1 where it has none; empty where edges have the operations.
    """

    edges: tuple[tuple[int, int], ...]
    outputs: tuple[int, ...]
    inputs: tuple[int, ...] = (0,)
    edge_ops: tuple[int, ...] = ()
    vertex_ops: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[tuple[int, int], ...]:
        """The operations at the beginning and at the end of each edge: its own twice, or those of its vertices."""
        if self.vertex_ops:
            return tuple((self.vertex_ops[source], self.vertex_ops[target]) for source, target in self.edges)
        return tuple((op, op) for op in self.edge_ops)


class Structure(NamedTuple):
    """What an architecture is made of. All architectures of a space have the same names, in the same order.

    Attributes:
      ops: names of the operations of the graphs.
      families: groups of operations that belong together, by name.
      graphs: by name.
      max_edges: the most edges that a graph of the space has.
      numbers: numbers without a unit of their own, such as counts, by name.
      sizes: numbers whose ratio matters, such as widths, by name; 0 where a network lacks the part.
    """

    ops: tuple[str, ...] = ()
    families: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    graphs: Mapping[str, Graph] = MappingProxyType({})
    max_edges: int = 0
    numbers: Mapping[str, float] = _NOTHING
    sizes: Mapping[str, float] = _NOTHING
