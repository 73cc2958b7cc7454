"""This module encodes NDS cell networks as data for the interpreter."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from eproxy_jax.spaces.nds_cells import program
from eproxy_jax.spaces.nds_cells.cell_ops import Unit
from eproxy_jax.spaces.nds_cells.notation import NdsArch, Rules
from eproxy_jax.spaces.nds_cells.program import NUM_STAGES, InputOf

WIDE = 4  # slots of a map before a reduction
_SAVED = 4  # slots that the operation of an edge keeps at most: twice a map in the middle and a normalised one


@dataclasses.dataclass(frozen=True)
class Machine:
    """The networks that a compiled program can run. Maps of a stage lie in slots, counted from the stage's first one.

    Attributes:
      ops: operations of the space.
      nodes: nodes of a cell.
      width: channels of a node in the first stage.
      places: normal cells of a stage at most.
    """

    ops: tuple[str, ...]
    nodes: int
    width: int
    places: int

    @property
    def edges(self) -> int:
        """Number of edges of a cell."""
        return 2 * self.nodes

    @property
    def pieces(self) -> int:
        """The most pieces that a cell may have: its two inputs and two units an edge."""
        return 2 + 2 * self.edges

    def slots(self, wide: bool) -> int:
        """Count the slots of a cell: its nodes, what stands in the middle of its edges, and its inputs."""
        return self.nodes + self.edges + 2 * (WIDE if wide else 1)

    def saved_slots(self, wide: bool) -> int:
        """Count the slots of what is kept of a cell for the backward pass."""
        return 2 * (WIDE if wide else 1) + _SAVED * self.edges

    def node_slot(self, place: int, node: int) -> int:
        """Return the slot of a node."""
        return _first_slot(self.slots, place) + node

    def middle_slot(self, place: int, edge: int) -> int:
        """Return the slot of what stands between the two units of an edge."""
        return _first_slot(self.slots, place) + self.nodes + edge

    def input_slot(self, place: int, side: int) -> int:
        """Return the first slot of an input of a cell, which is wide in a reduction cell."""
        return _first_slot(self.slots, place) + self.nodes + self.edges + side * (1 if place else WIDE)

    def saved_slot(self, place: int) -> int:
        """Return the first slot of what is kept of a cell."""
        return _first_slot(self.saved_slots, place)

    def stage_slots(self) -> tuple[int, int]:
        """Return (slots, slots of what is kept) of a stage."""
        return _first_slot(self.slots, self.places + 1), _first_slot(self.saved_slots, self.places + 1)


def _first_slot(slots: Callable[[bool], int], place: int) -> int:
    """Return the slot where a cell begins. Only place 0, the reduction cell, is wide."""
    return slots(True) + (place - 1) * slots(False) if place else 0


class Step(NamedTuple):
    """An instruction; integer arrays [N], or scalars of one.

    Attributes:
      list: which list its record is in: twice the stage, and 1 more for a unit.
      record: its number among the inputs, or among the units.
    """

    list: Any
    record: Any


class Input(NamedTuple):
    """An instruction that makes an input of a cell; integer arrays [N], or scalars of one.

    Attributes:
      how: ``PRE_SAME``, ``PRE_BEFORE`` or ``PRE_REDUCE``.
      count: how many nodes it reads.
      sources: their slots, [..., nodes].
      target: slot that it writes.
      row: first row of its kernel in the bank.
      scale: position of its first scale and bias.
      saved: slot of what is kept of it.
    """

    how: Any
    count: Any
    sources: Any
    target: Any
    row: Any
    scale: Any
    saved: Any


class UnitStep(NamedTuple):
    """An instruction that runs a unit, a pool or the identity; integer arrays [N], or scalars of one.

    Attributes:
      kind: index into ``UnitKinds.kinds``.
      size: kernel or window size.
      dilation: distance between kernel positions.
      source: slot that it reads.
      target: slot that it adds to.
      row: first row of its kernels in the bank.
      scale: position of its first scale and bias.
      saved: slot of what is kept of it.
    """

    kind: Any
    size: Any
    dilation: Any
    source: Any
    target: Any
    row: Any
    scale: Any
    saved: Any


class Kernels(NamedTuple):
    """Kernels in the order of the bank, zeros behind the last; integer arrays [N].

    Attributes:
      rows: of the bank.
      area: kernel positions.
      features: output channels that fans count.
      inputs: input channels that fans count.
    """

    rows: Any
    area: Any
    features: Any
    inputs: Any


class Network(NamedTuple):
    """A network as data.

    Attributes:
      length: number of steps.
      steps: in the order of the forward pass.
      inputs: records of steps.
      units: records of steps.
      kernels: all kernels.
      tap_nodes: number of nodes in a tap.
      taps: [3, nodes], their slots in each stage.
    """

    length: Any
    steps: Step
    inputs: Input
    units: UnitStep
    kernels: Kernels
    tap_nodes: Any
    taps: Any


@functools.lru_cache(maxsize=256)
def empty_network(machine: Machine) -> Network:
    """Return a network without steps, whose arrays have the shapes of any network of the machine."""
    cells = NUM_STAGES * (machine.places + 1)

    def records(record: Any, count: int) -> Any:
        return record(*(np.zeros(count, np.int32) for _ in record._fields))

    inputs = records(Input, 2 * cells)._replace(sources=np.zeros((2 * cells, machine.nodes), np.int32))
    units, kernels = records(UnitStep, 2 * machine.edges * cells), records(Kernels, 2 * machine.pieces * cells)
    length, taps = np.zeros((), np.int32), np.zeros((NUM_STAGES, machine.nodes), np.int32)
    return Network(length, records(Step, machine.pieces * cells), inputs, units, kernels, length, taps)


def _saved_slots_of(unit: Unit | None) -> int:
    """Count the slots that a unit keeps: its normalised output, and the map in the middle, if any.

    That map is twice as large as the output at most: where a 1x7 convolution has halved one direction.
    """
    return 0 if unit is None else 1 if len(unit) == 1 else 2 if unit[0].depthwise else 3


def encode(machine: Machine, arch: NdsArch, rules: Rules) -> Network:
    """Encode an architecture as data."""
    kinds = program.kinds(machine.ops)
    steps, inputs, units, kernels = [], [], [], []
    saved = 0
    for piece, row, scale in program.placed(arch, rules, machine.width):
        place, part = piece.place, piece.part
        if isinstance(part, InputOf):
            sources = [machine.node_slot(part.cell[1], node) for node in part.nodes]
            saved, width = machine.saved_slot(place), 1 if place else WIDE
            target = machine.input_slot(place, part.side)
            steps.append(Step(2 * piece.stage, len(inputs)))
            padded = sources + [0] * (machine.nodes - len(sources))
            inputs.append(Input(part.how, len(sources), padded, target, row, scale, saved + part.side * width))
            saved += 2 * width
        else:
            source, middle = machine.input_slot(place, part.source), machine.middle_slot(place, part.edge)
            if part.source > 1:
                source = machine.node_slot(place, part.source - 2)
            source = source if part.is_first else middle
            target = machine.node_slot(place, part.edge // 2) if part.is_last else middle
            sizes = (kinds.of_body[part.body], kinds.size[part.body], kinds.dilation[part.body])
            steps.append(Step(2 * piece.stage + 1, len(units)))
            units.append(UnitStep(*sizes, source, target, row, scale, saved))
            saved += _saved_slots_of(piece.unit)
        for linear in piece.unit or ():
            rows = linear.num_weights(piece.channels_in, piece.channels) // machine.width
            kernels.append(Kernels(rows, *linear.fans(piece.channels_in, piece.channels)))

    def filled(empty: Any, records: list[Any]) -> Any:
        columns = [field.copy() for field in empty]
        for column, name in zip(columns, empty._fields, strict=True):
            column[: len(records)] = [getattr(record, name) for record in records]
        return type(empty)(*columns)

    empty, nodes = empty_network(machine), program.outputs(arch, rules).normal
    taps = np.zeros_like(empty.taps)
    for stage, place in enumerate(program.normal_cells(arch.depth)):
        taps[stage, : len(nodes)] = [machine.node_slot(place, node) for node in nodes]
    return Network(
        np.asarray(len(steps), np.int32),
        filled(empty.steps, steps),
        filled(empty.inputs, inputs),
        filled(empty.units, units),
        filled(empty.kernels, kernels),
        np.asarray(len(nodes), np.int32),
        taps,
    )
