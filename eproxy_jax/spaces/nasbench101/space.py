"""This module defines NAS-Bench-101: a cell of up to 7 vertices, 9 edges and 3 operations, repeated in three stacks.

Source: Ying et al., "NAS-Bench-101", ICML 2019; the skeleton as docs/spaces.md gives it.

:meth:`NasBench101.notations` lists the notations, ``notation.py`` reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.spaces import base
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.nasbench101 import graph, net, notation, vertex_ops
from eproxy_jax.spaces.nasbench101.graph import Cell
from eproxy_jax.spaces.structure import Graph, Structure

NUM_ARCHS = 423_624  # cells up to isomorphism, as published; tests count them
_AREA = {graph.CONV1X1: 1, graph.CONV3X3: 9, graph.POOL: 0}


@base.register("nasbench101")
@dataclasses.dataclass(frozen=True)
class NasBench101(base.SearchSpace, base.Group):
    """The NAS-Bench-101 space.

    An architecture is a pair (matrix, ops) as written, see ``graph.py``; vertices that are on no path
    from input to output count for nothing and are never built.

    Where a stack's channels do not divide by the number of vertices that feed the output, the first of them get one
    channel more. So isomorphic cells can differ by a channel here and there. The benchmark gives them one entry
    all the same, and so do we: ``canonical`` is one of them, and it is what is scored.

    Attributes:
      stem_channels: channels of the first stack (at least four, so that no vertex is left without channels); they
        double at each of the two max-pools.
      modules_per_stack: cells in each of the three stacks.

    Example:
      >>> space = NasBench101()
      >>> arch = space.parse('[[[0, 1, 1], [0, 0, 1], [0, 0, 0]], ["input", "conv3x3-bn-relu", "output"]]')
      >>> space.format(arch)
      '[[[0,1,1],[0,0,1],[0,0,0]],["input","conv3x3-bn-relu","output"]]'
      >>> space.params(arch)
      11046272
    """

    stem_channels: int = 128
    modules_per_stack: int = 3

    name: ClassVar[str] = "nasbench101"
    paper: ClassVar[str] = 'Ying et al., "NAS-Bench-101", ICML 2019'

    def __post_init__(self):
        base.check_positive(self)
        if self.stem_channels < graph.MAX_OUTPUT_FAN_IN:
            raise ValueError(
                f"NasBench101.stem_channels: expected at least {graph.MAX_OUTPUT_FAN_IN}, got {self.stem_channels}"
            )

    # --- strings ---------------------------------------------------------------------------------------------

    @override
    def parse(self, source: Any) -> Cell:
        """Read a cell from any of its notations.

        The rules are the benchmark's: the matrix is upper triangular, a path leads from input to output, and after
        pruning at most seven vertices and nine edges are left.

        Raises:
          ValueError: not a NAS-Bench-101 cell.
        """
        return notation.parse(source)

    @override
    def notations(self) -> tuple[Notation, ...]:
        return notation.NOTATIONS

    @override
    def format(self, arch: Cell) -> str:
        """Write the pair as JSON text without spaces."""
        return notation.to_text(arch)

    # --- the set of cells ------------------------------------------------------------------------------------

    @property
    @override
    def num_archs(self) -> int:
        return NUM_ARCHS

    @override
    def enumerate(self) -> Iterator[Cell]:
        """Return every canonical cell, by number of vertices, then lexicographically; 423,624 in all."""
        return graph.all_cells()

    @override
    def sample(self, num: int, seed: int) -> list[Cell]:
        """Draw distinct canonical cells, each isomorphism class with equal chance; return them in the order drawn.

        Raises:
          ValueError: ``num`` is not in 1..num_archs.
        """
        return graph.nth_cells(sampling.draw_distinct(self.num_archs, num, seed, type(self).__name__))

    @override
    def neighbours(self, arch: Cell) -> list[Cell]:
        """Return the valid cells with one vertex's op or one edge changed; dead vertices stay in the matrix."""
        matrix, ops = arch
        found = [
            (matrix, (*ops[:vertex], op, *ops[vertex + 1 :]))
            for vertex in range(1, len(ops) - 1)
            for op in graph.OPS
            if op != ops[vertex]
        ]
        for i in range(len(ops) - 1):
            for j in range(i + 1, len(ops)):
                row = (*matrix[i][:j], 1 - matrix[i][j], *matrix[i][j + 1 :])
                changed = (*matrix[:i], row, *matrix[i + 1 :])
                live = graph.live_vertices(changed)
                if live and sum(changed[a][b] for a in live for b in live) <= graph.MAX_EDGES:
                    found.append((changed, ops))
        return found

    @override
    def canonical(self, arch: Cell) -> Cell:
        """Return the representative of all cells with the same pruned graph, up to isomorphism."""
        return graph.canonical(arch)

    @override
    def structure(self, arch: Cell) -> Structure:
        """Return the cell without dead vertices as a graph whose interior vertices are operations."""
        matrix, ops = graph.prune(arch)
        last = len(ops) - 1
        edges = tuple((i, j) for j in range(last + 1) for i in range(j) if matrix[i][j])
        vertex_ops = (-1, *(graph.OPS.index(op) for op in ops[1:-1]), -1)
        cell = Graph(edges, (last,), vertex_ops=vertex_ops)
        return Structure(graph.OPS, graphs={"cell": cell}, max_edges=graph.MAX_EDGES)

    @override
    def encode(self, archs: Sequence[Cell]) -> np.ndarray:
        """Encode cells as int32 [A, 7, 11], a row per vertex slot.

        A row holds the op code, the channels in each of the three stacks, and the edges from each of the seven slots.
        Slot 0 is the input, slot 6 the output; interior vertices of the pruned cell fill the slots from 1 on.
        """
        encoded = np.zeros((len(archs), graph.MAX_VERTICES, 1 + net.NUM_STACKS + graph.MAX_VERTICES), np.int32)
        for rows, arch in zip(encoded, archs, strict=True):
            matrix, ops = graph.prune(arch)
            slots = [*range(len(ops) - 1), graph.MAX_VERTICES - 1]
            for v, op in enumerate(ops[1:-1], start=1):
                rows[v, 0] = 1 + vertex_ops.VERTEX_OPS.index(op)
            for stack, (channels_in, channels) in enumerate(self._stack_channels()):
                rows[slots, 1 + stack] = graph.vertex_channels(matrix, channels_in, channels)
            rows[np.ix_(slots, [1 + net.NUM_STACKS + slot for slot in slots])] = np.transpose(matrix)
        return encoded

    # --- counts ----------------------------------------------------------------------------------------------

    def _stack_channels(self) -> list[tuple[int, int]]:
        """Return (channels that enter, channels) of each stack."""
        channels = [self.stem_channels * 2**stack for stack in range(net.NUM_STACKS)]
        return list(zip([self.stem_channels, *channels[:-1]], channels, strict=True))

    def _counts(self, arch: Cell) -> Iterator[tuple[int, int, int]]:
        """Yield (kernel weights, batch-norm parameters, output positions for a 32-pixel image) of stem and modules."""
        matrix, ops = graph.prune(arch)
        yield 9 * 3 * self.stem_channels, 2 * self.stem_channels, 32 * 32
        for stack, (entering, channels) in enumerate(self._stack_channels()):
            for module in range(self.modules_per_stack):
                channels_in = channels if module else entering
                widths = graph.vertex_channels(matrix, channels_in, channels)
                weights = norms = 0
                for v in range(1, len(ops)):
                    area = _AREA.get(ops[v], 0)
                    weights += area * widths[v] ** 2 + matrix[0][v] * channels_in * widths[v]
                    norms += 2 * widths[v] * ((area > 0) + matrix[0][v])
                yield weights, norms, (32 // 2**stack) ** 2

    @override
    def macs(self, arch: Cell) -> int:
        """Count the multiply-accumulates of the backbone's convolutions for a 3x32x32 image, without dead vertices."""
        return sum(weights * positions for weights, _, positions in self._counts(arch))

    @override
    def max_macs(self) -> int:
        """Return the MACs of a chain of five 3x3 convolutions, the first four of which also read the input.

        No vertex is wider than the module, so five 3x3 convolutions of full width are the most that vertices can
        cost. They need one edge out of each, which leaves four edges for projections, also of full width. Where
        several vertices feed the output, all widths are halved at least, up to rounding: nine edges cannot make up
        for that.
        """
        size = graph.MAX_VERTICES
        free = graph.MAX_EDGES - (size - 2)
        matrix = tuple(
            tuple(int((i == 0 and 1 <= j <= free) or (i > 0 and j == i + 1)) for j in range(size)) for i in range(size)
        )
        return self.macs((matrix, (graph.INPUT, *[graph.CONV3X3] * (size - 2), graph.OUTPUT)))

    @override
    def params(self, arch: Cell) -> int:
        """Count the trainable parameters of the backbone; dead vertices have none."""
        return sum(weights + norms for weights, norms, _ in self._counts(arch))

    # --- modules ---------------------------------------------------------------------------------------------

    @override
    def tap_channels(self, arch: Any) -> tuple[int, ...]:
        del arch
        return (4 * self.stem_channels, 2 * self.stem_channels, self.stem_channels)

    @override
    def to_flax(self, arch: Cell, num_classes: int | None = None) -> net.NasBench101Net:
        cell = graph.prune(self.parse(arch))
        return net.NasBench101Net(cell, self.stem_channels, self.modules_per_stack, num_classes=num_classes)

    @override
    def universal(self, dtype: Any = jnp.float32) -> net.UniversalNasBench101:
        return net.UniversalNasBench101(self.stem_channels, self.modules_per_stack, dtype)

    @override
    def extract(self, arch: Cell, universal_params: Any) -> dict[str, Any]:
        """Return the parameters of ``to_flax(arch)`` from those of ``universal()``, cut to each vertex's channels."""
        matrix, ops = graph.prune(arch)
        params: dict[str, Any] = {"stem": universal_params["stem"]}
        last = len(ops) - 1
        for stack, (entering, channels) in enumerate(self._stack_channels()):
            for module in range(self.modules_per_stack):
                name = f"stack{stack}_module{module}"
                values, found = universal_params[name], {}
                widths = graph.vertex_channels(matrix, channels if module else entering, channels)
                for v in range(1, last + 1):
                    width, slot = widths[v], v if v < last else "_output"
                    if _AREA.get(ops[v], 0):
                        kernel = values["kernels"][v - 1, :, :, :width, :width]
                        kernel = kernel if ops[v] == graph.CONV3X3 else kernel[1:2, 1:2]
                        found[f"vertex{v}"] = _conv_bn(kernel, values, f"vertex{slot}", width)
                    if matrix[0][v]:
                        kernel = values["output_projection"] if v == last else values["projections"][v - 1]
                        found[f"project{slot}"] = _conv_bn(kernel[..., :width], values, f"project{slot}", width)
                if found:
                    params[name] = found
        return params


def _conv_bn(kernel: Any, values: Any, prefix: str, width: int) -> dict[str, Any]:
    norm = {part: values[f"{prefix}_{part}"][:width] for part in ("scale", "bias")}
    return {"conv": {"kernel": kernel}, "norm": norm}
