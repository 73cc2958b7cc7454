"""This module walks through an NDS cell network, unit by unit. Counts, weights and instructions come from this walk.

Cells stand in three stages, of which the second and third begin with a reduction cell. Place 0 of a stage is that
reduction cell (in the first stage: the stem, three nodes of ``width`` channels), places 1, 2, ... its normal cells.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from eproxy_jax.spaces.nds_cells import cell_ops, notation
from eproxy_jax.spaces.nds_cells.cell_ops import Unit
from eproxy_jax.spaces.nds_cells.notation import NdsArch, Rules

NUM_STAGES = 3
STEM_NODES = 3
# How a cell's input gets the cell's channels: a 1x1 convolution from the same stage; from the stage before, at its size
# (reduction cells); or from the stage before, at half its size (the older input of a stage's first normal cell).
PRE_SAME, PRE_BEFORE, PRE_REDUCE = range(3)
PRE_UNITS: tuple[Unit, ...] = (
    (cell_ops.pointwise(1),),
    (cell_ops.pointwise(1),),
    (cell_ops.FACTORIZED_REDUCE,),
)


class Body(NamedTuple):
    """One computation of a cell on one map of its channels.

    Attributes:
      op: operation it is (part of).
      stride: 1 or 2; 2 reads a map of the stage before.
      unit: what it is; None where the operation has no weights.
    """

    op: str
    stride: int
    unit: Unit | None


class InputOf(NamedTuple):
    """The part of a piece that makes an input of a cell.

    Attributes:
      side: 0 for the older input, 1 for the newer one.
      how: ``PRE_SAME``, ``PRE_BEFORE`` or ``PRE_REDUCE``.
      cell: (stage, place) of the cell that it comes from.
      nodes: nodes of that cell that it reads.
    """

    side: int
    how: int
    cell: tuple[int, int]
    nodes: tuple[int, ...]


class EdgeOf(NamedTuple):
    """The part of a piece that belongs to an edge of a cell.

    Attributes:
      edge: index of the edge.
      source: what the edge reads: 0 and 1 are the cell's inputs, then its nodes.
      is_first: whether it is the first piece of the edge; others read what the one before wrote.
      is_last: whether it is the last one, whose output goes to the node.
      body: index into :func:`bodies`.
    """

    edge: int
    source: int
    is_first: bool
    is_last: bool
    body: int


class Piece(NamedTuple):
    """One body of one cell, or one of its two input units.

    Attributes:
      stage: 0 to 2.
      place: of the cell in its stage.
      path: names of its module in the stand-alone network.
      unit: its unit; None where it has no weights.
      channels_in: channels that its kernels read.
      channels: channels that it writes.
      halvings: how often the image's size was halved in what it reads.
      part: what it is in its cell.
    """

    stage: int
    place: int
    path: tuple[str, ...]
    unit: Unit | None
    channels_in: int
    channels: int
    halvings: int
    part: InputOf | EdgeOf

    @property
    def num_weights(self) -> int:
        """Kernel weights."""
        return cell_ops.unit_weights(self.unit, self.channels_in, self.channels) if self.unit else 0


@functools.cache
def bodies(ops: tuple[str, ...]) -> tuple[tuple[Body, ...], int]:
    """Return the distinct bodies of the operations of a space, those at stride 1 first, and how many those are."""
    found: dict[tuple, Body] = {}
    for stride in (1, 2):
        for op in ops:
            for part, unit in enumerate(cell_ops.units(op, stride)):
                found.setdefault((unit,), Body(op, 1 if part else stride, unit))
            if cell_ops.weightless(op, stride) is not None:
                found.setdefault((op, stride), Body(op, stride, None))
    ordered = sorted(found.values(), key=lambda body: body.stride)
    return tuple(ordered), sum(body.stride == 1 for body in ordered)


class UnitKind(NamedTuple):
    """The bodies that one compiled program runs: kernel size and dilation are data.

    Attributes:
      family: "depthwise" (then pointwise), "line" (along both directions), "max", or "" for a body of its own.
      stride: 1 or 2.
      body: one of them.
    """

    family: str
    stride: int
    body: Body


class UnitKinds(NamedTuple):
    """The kinds of units of a space.

    Attributes:
      kinds: those at stride 1 first.
      unstrided: how many those are.
      of_body: kind of each of :func:`bodies`.
      size: kernel or window size of each body.
      dilation: of each body.
      margin: pixels around a map that the largest kernel or window needs.
    """

    kinds: tuple[UnitKind, ...]
    unstrided: int
    of_body: tuple[int, ...]
    size: tuple[int, ...]
    dilation: tuple[int, ...]
    margin: int


@functools.cache
def kinds(ops: tuple[str, ...]) -> UnitKinds:
    """Return the kinds that a space's operations are compiled to."""
    found: dict[tuple, UnitKind] = {}
    of_body, size, dilation = [], [], []
    for body in bodies(ops)[0]:
        linear = body.unit[0] if body.unit else None
        size.append(linear.size if linear else int(body.op[-1]) if "_pool_" in body.op else 1)
        dilation.append(linear.dilation if linear else 1)
        family = "max" if body.op.startswith("max_pool") else ""
        if body.unit and len(body.unit) == 2:
            family = "depthwise" if body.unit[0].depthwise else "line"
        key = (family, body.stride, None if family else body)
        found.setdefault(key, UnitKind(family, body.stride, body))
        of_body.append(list(found).index(key))
    every = tuple(found.values())
    margin = max(s // 2 * d for s, d in zip(size, dilation, strict=True))
    unstrided = sum(kind.stride == 1 for kind in every)
    return UnitKinds(every, unstrided, tuple(of_body), tuple(size), tuple(dilation), margin)


@functools.cache
def _body_index(ops: tuple[str, ...]) -> dict[tuple, int]:
    every, _ = bodies(ops)
    return {(body.unit,) if body.unit else (body.op, body.stride): i for i, body in enumerate(every)}


def normal_cells(depth: int) -> tuple[int, int, int]:
    """Return the number of normal cells of each stage."""
    first, second = depth // 3, 2 * depth // 3
    return first, second - first - 1, depth - second - 1


class CellPlace(NamedTuple):
    """A cell of a network.

    Attributes:
      stage: 0 to 2.
      place: in its stage; 0 is a reduction cell.
      inputs: (stage, place) of the cells before the last one and before this one.
    """

    stage: int
    place: int
    inputs: tuple[tuple[int, int], tuple[int, int]]


def cells(depth: int) -> Iterator[CellPlace]:
    """Yield the cells of a network in order; (0, 0) is the stem."""
    before = ((0, 0), (0, 0))
    for stage, count in enumerate(normal_cells(depth)):
        for place in range(0 if stage else 1, count + 1):
            yield CellPlace(stage, place, before)
            before = (before[1], (stage, place))


def is_connected(arch: NdsArch, rules: Rules) -> bool:
    """Say if the last cell's output depends on the image.

    Each cell reads the two cells before it. So a network can do without a cell that is cut off, where the next one
    reads the older input.
    """
    normal, reduce = (notation.inputs_read(cell, rules) for cell in (arch.normal, arch.reduce))
    older = newer = True  # the stem
    for stage, place, _ in cells(arch.depth):
        reads = reduce if stage and not place else normal
        older, newer = newer, (older and 0 in reads) or (newer and 1 in reads)
    return newer


class Outputs(NamedTuple):
    """The nodes, counted from 0 on, that are the output of normal cell, reduction cell and stem."""

    normal: tuple[int, ...]
    reduce: tuple[int, ...]
    stem: tuple[int, ...] = tuple(range(STEM_NODES))

    def of(self, stage: int, place: int) -> tuple[int, ...]:
        """Return the output nodes of the cell at a place."""
        return self.normal if place else self.reduce if stage else self.stem


def outputs(arch: NdsArch, rules: Rules) -> Outputs:
    """Return the nodes that are the outputs of an architecture's cells."""
    return Outputs(*(tuple(n - 2 for n in notation.concat(cell, rules)) for cell in (arch.normal, arch.reduce)))


def pieces(arch: NdsArch, rules: Rules, width: int) -> Iterator[Piece]:
    """Yield all that a network computes after the stem, in order; ``width`` stands in for the architecture's own."""
    nodes_of, index = outputs(arch, rules), _body_index(rules.ops)
    for number, (stage, place, inputs) in enumerate(cells(arch.depth)):
        channels, reduces = width * 2**stage, stage > 0 and place == 0
        for side, source in enumerate(inputs):
            how = PRE_SAME if source[0] == stage else PRE_BEFORE if reduces else PRE_REDUCE
            nodes, path = nodes_of.of(*source), (f"cell{number}", f"input{side}")
            wide = len(nodes) * width * 2 ** source[0]
            part = InputOf(side, how, source, nodes)
            yield Piece(stage, place, path, PRE_UNITS[how], wide, channels, source[0], part)
        for edge, (op, source) in enumerate(arch.reduce if reduces else arch.normal):
            stride = 2 if reduces and source < 2 else 1
            if op == cell_ops.NONE:
                continue
            units = cell_ops.units(op, stride) or (None,)
            for n, unit in enumerate(units):
                body = index[(unit,) if unit else (op, stride)]
                halvings = stage - 1 if stride == 2 and n == 0 else stage
                path = (f"cell{number}", f"edge{edge}", f"unit{n}")
                part = EdgeOf(edge, source, n == 0, n == len(units) - 1, body)
                yield Piece(stage, place, path, unit, channels, channels, halvings, part)


def placed(arch: NdsArch, rules: Rules, width: int) -> Iterator[tuple[Piece, int, int]]:
    """Yield the pieces with the row of their first kernel and the position of their first scale."""
    row = scale = 0
    for piece in pieces(arch, rules, width):
        yield piece, row, scale
        row += piece.num_weights // width
        scale += piece.channels if piece.unit else 0


def stem_weights(width: int) -> int:
    """Count the weights of the stem's 3x3 convolution."""
    return 27 * STEM_NODES * width


def params(arch: NdsArch, rules: Rules, width: int) -> int:
    """Count the trainable parameters of the backbone."""
    units = (p for p in pieces(arch, rules, width) if p.unit)
    return stem_weights(width) + 2 * STEM_NODES * width + sum(p.num_weights + 2 * p.channels for p in units)


def macs(arch: NdsArch, rules: Rules, width: int, size: int = 32) -> int:
    """Count the multiply-accumulates of the backbone's convolutions for one image of ``size`` x ``size`` pixels."""
    total = stem_weights(width) * size**2
    for piece in pieces(arch, rules, width):
        if piece.unit:
            side = -(-size // 2**piece.halvings)
            total += cell_ops.unit_macs(piece.unit, piece.channels_in, piece.channels, side)
    return total
