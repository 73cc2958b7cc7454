"""A network of NDS cells as data: one program for all genotypes and depths of one width.

Instructions say what is computed where. All values lie on one tape, at places that follow from cell and slot; all
weights lie one after the other in one bank, at places that the instructions say. Nothing is padded but the ends of tape
and bank, which nothing reads. Loops run as many turns as the network has cells, and each cell as many as it has units;
kernel sizes and dilations are numbers of turns and steps. So each kind of operation is compiled once a stage and
stride, forward and backward. Under ``vmap`` candidates run one after the other.

The backward pass is written out: gradients of values lie on a second tape of the same layout, zeroed where the network
has cells. Of a unit only what cannot be had cheaply again is kept, its normalised output and, between its two
convolutions, the map in the middle.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from eproxy_jax.nn import convolution, norms, windowed
from eproxy_jax.spaces.interpreter import loop
from eproxy_jax.spaces.interpreter.bank import (
    Weights,
    read,
    read_norm,
    read_rows,
    write,
    write_kernel,
    write_norm,
    write_rows,
)
from eproxy_jax.spaces.nds_cells import cell_ops
from eproxy_jax.spaces.nds_cells import program as program_lib
from eproxy_jax.spaces.nds_cells.program import NUM_STAGES, PRE_SAME, PRE_UNITS, STEM_NODES, Kind
from eproxy_jax.types import TARGET_SIZE

# Fields of an instruction. Slots count maps of the cell's own size from the cell's place on the tape.
BODY, SOURCE, TARGET, FIRST, ROW, SCALE, NODES, SAVED = range(8)
NUM_FIELDS = 8
WIDE = 4  # a map before a reduction takes up to four slots
_SAVED = 4  # slots that the operation of an edge keeps at most: twice a map in the middle and a normalised one


def saved_slots_of(unit: cell_ops.Unit | None) -> int:
    """Slots that a unit keeps: its normalised output, and the map in the middle, if any.

    That map is twice as large as the output at most: where a 1x7 convolution has halved one direction.
    """
    return 0 if unit is None else 1 if len(unit) == 1 else 2 if unit[0].depthwise else 3


@dataclasses.dataclass(frozen=True)
class MachineSpec:
    """The static side: what is compiled.

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
        """Edges of a cell."""
        return 2 * self.nodes

    @property
    def instructions(self) -> int:
        """Instructions of a cell at most: its inputs and two units an edge."""
        return 2 + 2 * self.edges

    def slot_of_node(self, node: int) -> int:
        """Slot of a node."""
        return node

    def slot_of_middle(self, edge: int) -> int:
        """Slot of what stands between the two units of an edge."""
        return self.nodes + edge

    def slot_of_input(self, side: int, wide: bool) -> int:
        """Slot of an input of the cell, which is wide in a reduction cell."""
        return self.nodes + self.edges + side * (WIDE if wide else 1)

    def slots(self, wide: bool) -> int:
        """Slots of a cell on the tape of values."""
        return self.slot_of_input(2, wide)

    def saved_slots(self, wide: bool) -> int:
        """Slots of a cell on the tape of what is kept for the backward pass."""
        return 2 * (WIDE if wide else 1) + _SAVED * self.edges


class Program(NamedTuple):
    """A network as data, integer arrays.

    Attributes:
      cells: [3], normal cells of each stage.
      outputs: [3, 1 + nodes]: number of nodes in the output of normal cell, reduction cell and stem, and which.
      counts: [3, places + 1], instructions of each cell.
      code: [3, places + 1, instructions, fields].
    """

    cells: Array
    outputs: Array
    counts: Array
    code: Array


def _shapes(spec: MachineSpec) -> list[tuple[int, ...]]:
    cells = (NUM_STAGES, spec.places + 1)
    return [(NUM_STAGES,), (NUM_STAGES, 1 + spec.nodes), cells, (*cells, spec.instructions, NUM_FIELDS)]


def pack(spec: MachineSpec, program: Any) -> np.ndarray:
    """A program as one row of int32."""
    flat = [np.asarray(part, np.int32).reshape(shape) for part, shape in zip(program, _shapes(spec), strict=True)]
    return np.concatenate([part.reshape(-1) for part in flat])


def unpack(spec: MachineSpec, row: Array) -> Program:
    """The inverse of :func:`pack`."""
    parts, start = [], 0
    for shape in _shapes(spec):
        size = int(np.prod(shape))
        parts.append(row[start : start + size].reshape(shape))
        start += size
    return Program(*parts)


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where things are for images of one size.

    Attributes:
      spec: the machine.
      batch: B.
      size: height and width of the images.
    """

    spec: MachineSpec
    batch: int
    size: tuple[int, int]

    @classmethod
    def of(cls, spec: MachineSpec, stem: tuple[int, ...]) -> _Layout:
        """The layout behind a stem's output [B, H, W, C]."""
        return cls(spec, stem[0], (stem[1], stem[2]))

    def map(self, stage: int, channels_stage: int | None = None) -> tuple[int, int, int, int]:
        """Shape of a map of a stage, with the channels of another one if given."""
        height, width = (-(-n // 2**stage) for n in self.size)
        channels = self.spec.width * 2 ** (stage if channels_stage is None else channels_stage)
        return self.batch, height, width, channels

    def slot(self, stage: int) -> int:
        """Numbers in a slot."""
        return int(np.prod(self.map(stage)))

    def cell(self, stage: int, place: Any) -> Any:
        """Where the values of a cell begin."""
        return self._cell(stage, place, self.spec.slots)

    def saved(self, stage: int, place: Any) -> Any:
        """Where what is kept of a cell begins."""
        return self._cell(stage, place, self.spec.saved_slots)

    def _cell(self, stage: int, place: Any, slots: Callable[[bool], int]) -> Any:
        first, other = slots(True), slots(False)
        before = sum(self.slot(s) for s in range(stage)) * (first + self.spec.places * other)
        # Place 0 is wide, the others are not.
        return before + ((place > 0) * (first - other) + place * other) * self.slot(stage)

    def lengths(self) -> tuple[int, int]:
        """Lengths of the two tapes.

        Raises:
          ValueError: one is too long to be indexed.
        """
        # An input of the last cell is read as if it were wide.
        lengths = self.cell(NUM_STAGES, 0) + WIDE * self.slot(NUM_STAGES - 1), self.saved(NUM_STAGES, 0)
        if max(lengths) >= 2**31:
            raise ValueError(
                f"NDS networks of width {self.spec.width} with up to {self.spec.places} normal cells a stage do not "
                f"fit on {self.batch} images of {self.size[0]}x{self.size[1]}: choose smaller or fewer images, or a "
                "larger width_divisor"
            )
        return lengths


class _Forward(NamedTuple):
    values: Array
    saved: Array
    rstd: Array


class _Backward(NamedTuple):
    grads: Array  # of values
    weights: Weights


def _norm(z: Array, weights: Weights, at: Array) -> tuple[Array, Array, Array]:
    """Output of the batch norm, normalised map, reciprocal deviations."""
    normalized, rstd = norms.standardize(z)
    return norms.affine(normalized, *read_norm(weights, at[SCALE], z.shape[-1:])), normalized, rstd


def _norm_backward(
    grad: Array, normalized: Array, rstd: Array, weights: Weights, grads: Weights, at: Array
) -> tuple[Array, Weights]:
    """Gradient of the batch norm's input, and the gradients of weights with those of its scale and bias."""
    scale = read(weights.scale, at[SCALE], normalized.shape[-1:])
    grad, *vectors = norms.affine_normalize_gradient(grad, normalized, rstd, scale)
    return grad, write_norm(grads, at[SCALE], *vectors)


def _pull(linear: cell_ops.Linear, x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    """Gradients of a linear map's input and kernel. The primal is linear in what they need: XLA drops it."""
    return jax.vjp(linear.apply, x, kernel)[1](grad)


# --- one instruction -----------------------------------------------------------------------------------------


class _Unit(NamedTuple):
    """What an instruction computes, with kernel size and dilation as data.

    Attributes:
      forward: (input, bank) -> (map in the middle or None, output before the norm).
      backward: (input, middle, gradient, bank, bank of gradients) -> (gradient of the input, bank of gradients).
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _depthwise_unit(spec: MachineSpec, kind: Kind, shape: tuple[int, ...], at: Array) -> _Unit:
    """Depthwise convolution, then a 1x1 one."""
    size, dilation, margin = *_sizes(spec, at), program_lib.kinds(spec.ops).margin
    channels = shape[-1]
    rows, matrix = channels // spec.width, (1, 1, channels, channels)
    last = at[ROW] + size * size * rows

    def weights_in(bank: Array) -> Callable[[Array], Array]:
        return lambda n: read_rows(bank, at[ROW] + n * rows, (channels,))

    def put(grads: Array, n: Array, row: Array) -> Array:
        return write_rows(grads, at[ROW] + n * rows, row)

    def forward(x: Array, bank: Array):
        middle = windowed.depthwise(x, weights_in(bank), size, dilation, kind.stride, margin)
        return middle, convolution.conv2d(middle, read_rows(bank, last, matrix))

    def backward(x: Array, middle: Array, grad: Array, bank: Array, grads: Array):
        grad, of_matrix = jax.vjp(convolution.conv2d, middle, read_rows(bank, last, matrix))[1](grad)
        grads = write_rows(grads, last, of_matrix)
        return windowed.depthwise_gradient(x, grad, weights_in(bank), put, grads, size, dilation, kind.stride, margin)

    return _Unit(forward, backward)


def _line_unit(spec: MachineSpec, kind: Kind, shape: tuple[int, ...], at: Array) -> _Unit:
    """Convolution along the width, then along the height."""
    (size, _), margin, channels = _sizes(spec, at), program_lib.kinds(spec.ops).margin, shape[-1]
    rows = channels * channels // spec.width

    def kernels_in(bank: Array, place: int) -> Callable[[Array], Array]:
        return lambda n: read_rows(bank, at[ROW] + (place * size + n) * rows, (channels, channels))

    def put(place: int) -> Callable[[Array, Array, Array], Array]:
        return lambda grads, n, matrix: write_rows(grads, at[ROW] + (place * size + n) * rows, matrix)

    def forward(x: Array, bank: Array):
        middle = windowed.line(x, kernels_in(bank, 0), channels, size, 2, kind.stride, margin)
        return middle, windowed.line(middle, kernels_in(bank, 1), channels, size, 1, kind.stride, margin)

    def backward(x: Array, middle: Array, grad: Array, bank: Array, grads: Array):
        for z, place, axis in ((middle, 1, 1), (x, 0, 2)):
            grad, grads = windowed.line_gradient(
                z, grad, kernels_in(bank, place), put(place), grads, size, axis, kind.stride, margin
            )
        return grad, grads

    return _Unit(forward, backward)


def _single_unit(spec: MachineSpec, kind: Kind, shape: tuple[int, ...], at: Array) -> _Unit:
    """One convolution of one size."""
    assert kind.body.unit is not None
    (linear,) = kind.body.unit
    kernel_shape = linear.kernel_shape(shape[-1], shape[-1])

    def forward(x: Array, bank: Array):
        return None, linear.apply(x, read_rows(bank, at[ROW], kernel_shape))

    def backward(x: Array, middle: None, grad: Array, bank: Array, grads: Array):
        del middle
        grad_x, of_kernel = _pull(linear, x, read_rows(bank, at[ROW], kernel_shape), grad)
        return grad_x, write_rows(grads, at[ROW], of_kernel)

    return _Unit(forward, backward)


_UNITS = {"depthwise": _depthwise_unit, "line": _line_unit, "": _single_unit}


def _sizes(spec: MachineSpec, at: Array) -> tuple[Array, Array]:
    """Kernel or window size, and dilation, of an instruction."""
    kinds = program_lib.kinds(spec.ops)
    return jnp.asarray(kinds.size, jnp.int32)[at[BODY]], jnp.asarray(kinds.dilation, jnp.int32)[at[BODY]]


def _kind_shapes(layout: _Layout, stage: int, kind: Kind) -> tuple[tuple[int, ...], ...]:
    """Shapes of a kind's input, middle and output."""
    shape, out = layout.map(stage - 1 if kind.stride == 2 else stage, stage), layout.map(stage)
    middle = (*shape[:2], *out[2:]) if kind.family == "line" else out
    return shape, middle, out


def _weightless(spec: MachineSpec, kind: Kind, at: Array) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and gradient (x, gradient) -> gradient of something without weights."""
    if kind.family == "max":
        size, margin = _sizes(spec, at)[0], program_lib.kinds(spec.ops).margin
        return (
            lambda x: windowed.maxima(x, size, kind.stride, margin),
            lambda x, grad: windowed.maxima_gradient(x, grad, size, kind.stride, margin),
        )
    function = cell_ops.weightless(kind.body.op, kind.stride)
    assert function is not None
    return function, lambda x, grad: jax.vjp(function, x)[1](grad)[0]


def _unit_forward(
    layout: _Layout, stage: int, kind: Kind, weights: Weights, place: Array, at: Array, state: _Forward
) -> _Forward:
    shape, _, out = _kind_shapes(layout, stage, kind)
    base, slot = layout.cell(stage, place), layout.slot(stage)
    x = read(state.values, base + at[SOURCE] * slot, shape)
    if kind.body.unit is None:
        y = _weightless(layout.spec, kind, at)[0](x)
    else:
        unit = _UNITS[kind.family](layout.spec, kind, shape, at)
        middle, z = unit.forward(nn.relu(x), weights.kernels)
        y, normalized, rstd = _norm(z, weights, at)
        where, saved = layout.saved(stage, place) + at[SAVED] * slot, state.saved
        if middle is not None:
            saved, where = write(saved, where, middle), where + middle.size
        saved = write(saved, where, normalized)
        state = state._replace(saved=saved, rstd=write(state.rstd, at[SCALE], rstd))
    target = base + at[TARGET] * slot
    y = y + jnp.where(at[FIRST] > 0, 0, read(state.values, target, out))
    return state._replace(values=write(state.values, target, y))


def _unit_backward(
    layout: _Layout,
    stage: int,
    kind: Kind,
    weights: Weights,
    forward: _Forward,
    place: Array,
    at: Array,
    grad: Array,
    state: _Backward,
) -> _Backward:
    shape, middle_shape, out = _kind_shapes(layout, stage, kind)
    base, slot = layout.cell(stage, place), layout.slot(stage)
    source = base + at[SOURCE] * slot
    x, grads = read(forward.values, source, shape), state.weights
    if kind.body.unit is None:
        grad_x = _weightless(layout.spec, kind, at)[1](x, grad)
    else:
        where, middle = layout.saved(stage, place) + at[SAVED] * slot, None
        if len(kind.body.unit) == 2:
            middle = read(forward.saved, where, middle_shape)
            where = where + int(np.prod(middle_shape))
        normalized, rstd = read(forward.saved, where, out), read(forward.rstd, at[SCALE], out[-1:])
        grad, grads = _norm_backward(grad, normalized, rstd, weights, grads, at)
        unit = _UNITS[kind.family](layout.spec, kind, shape, at)
        grad, kernels = unit.backward(nn.relu(x), middle, grad, weights.kernels, grads.kernels)
        grads, grad_x = grads._replace(kernels=kernels), grad * (x > 0)
    grad_x = grad_x + read(state.grads, source, shape)
    return _Backward(write(state.grads, source, grad_x), grads)


class _Input(NamedTuple):
    """How a cell's input gets the cell's channels: one 1x1 convolution of all nodes that it comes from.

    Attributes:
      linear: the convolution.
      shape: of a node.
      out: shape of the result.
      start: number of a node (its n-th) -> place on the tape of values.
      row: the same -> first row of its kernel.
      kernel: shape of that kernel.
    """

    linear: cell_ops.Linear
    shape: tuple[int, ...]
    out: tuple[int, ...]
    start: Callable[[Array], Array]
    row: Callable[[Array], Array]
    kernel: tuple[int, ...]

    @classmethod
    def of(cls, layout: _Layout, stage: int, kind: int, program: Program, at: Array) -> _Input:
        """The input that an instruction of a stage makes."""
        source = stage if kind == PRE_SAME else stage - 1
        shape, out = layout.map(source), layout.map(stage if kind == program_lib.PRE_REDUCE else source, stage)
        base, slot = layout.cell(source, at[SOURCE]), layout.slot(source)
        outputs, rows = program.outputs[at[FIRST]], shape[-1] * out[-1] // layout.spec.width
        (linear,) = PRE_UNITS[kind]
        return cls(
            linear,
            shape,
            out,
            lambda n: base + outputs[1 + n] * slot,
            lambda n: at[ROW] + n * rows,
            linear.kernel_shape(shape[-1], out[-1]),
        )


def _input_forward(
    layout: _Layout, stage: int, kind: int, weights: Weights, program: Program, place: Array, at: Array, state: _Forward
) -> _Forward:
    one = _Input.of(layout, stage, kind, program, at)

    def add(n: Array, z: Array) -> Array:
        x = read(state.values, one.start(n), one.shape)
        return z + one.linear.apply(nn.relu(x), read_rows(weights.kernels, one.row(n), one.kernel))

    z = lax.fori_loop(0, at[NODES], add, jnp.zeros(one.out, state.values.dtype))
    y, normalized, rstd = _norm(z, weights, at)
    target = layout.cell(stage, place) + at[TARGET] * layout.slot(stage)
    where = layout.saved(stage, place) + at[SAVED] * layout.slot(stage)
    return _Forward(
        write(state.values, target, y),
        write(state.saved, where, normalized),
        write(state.rstd, at[SCALE], rstd),
    )


def _input_backward(
    layout: _Layout,
    stage: int,
    kind: int,
    weights: Weights,
    program: Program,
    forward: _Forward,
    place: Array,
    at: Array,
    wide_grad: Array,
    state: _Backward,
) -> _Backward:
    one = _Input.of(layout, stage, kind, program, at)
    grad = read(wide_grad, 0, one.out)
    where = layout.saved(stage, place) + at[SAVED] * layout.slot(stage)
    normalized, rstd = read(forward.saved, where, one.out), read(forward.rstd, at[SCALE], one.out[-1:])
    grad, grads = _norm_backward(grad, normalized, rstd, weights, state.weights, at)

    def add(n: Array, state: _Backward) -> _Backward:
        start, row = one.start(n), one.row(n)
        x = read(forward.values, start, one.shape)
        grad_x, grad_kernel = _pull(one.linear, nn.relu(x), read_rows(weights.kernels, row, one.kernel), grad)
        grad_x = grad_x * (x > 0) + read(state.grads, start, one.shape)
        return _Backward(write(state.grads, start, grad_x), write_kernel(state.weights, row, grad_kernel))

    return lax.fori_loop(0, at[NODES], add, _Backward(state.grads, grads))


# --- the whole network ---------------------------------------------------------------------------------------


def _stage_kinds(spec: MachineSpec, stage: int) -> tuple[tuple[Kind, ...], tuple[int, ...]]:
    """Kinds of units and of inputs that a stage can have: nothing comes before the first one."""
    every, inputs = program_lib.kinds(spec.ops), tuple(range(len(PRE_UNITS)))
    return (every.kinds, inputs) if stage else (every.kinds[: every.unstrided], inputs[:1])


def _kind_of(spec: MachineSpec, at: Array) -> Array:
    return jnp.asarray(program_lib.kinds(spec.ops).of_body, jnp.int32)[at[BODY]]


def _forward(spec: MachineSpec, stem: Array, weights: Weights, program: Program) -> tuple[list[Array], _Forward]:
    """Taps, last first, [B, 8, 8, nodes * C] each, and what the backward pass needs."""
    layout, dtype = _Layout.of(spec, stem.shape), stem.dtype
    values, saved = (lax.empty((length,), dtype) for length in layout.lengths())
    for number, node in enumerate(jnp.split(stem, STEM_NODES, axis=-1)):
        values = write(values, layout.cell(0, 0) + number * layout.slot(0), node)
    state, taps = _Forward(values, saved, lax.empty(weights.scale.shape, dtype)), []
    for stage in range(NUM_STAGES):
        kinds, inputs = _stage_kinds(spec, stage)

        def cell(place: Array, state: _Forward, stage=stage, kinds=kinds, inputs=inputs) -> _Forward:
            code, count = program.code[stage, place], program.counts[stage, place]
            # A node whose edges are all ``none`` is written by no instruction.
            nodes = jnp.zeros((spec.nodes * layout.slot(stage),), dtype)
            state = state._replace(values=write(state.values, layout.cell(stage, place), nodes))

            def side(n: Array, state: _Forward) -> _Forward:
                at = code[n]
                functions = [
                    functools.partial(_input_forward, layout, stage, kind, weights, program, place, at)
                    for kind in inputs
                ]
                return loop.apply_chosen(functions, at[BODY], state)

            def unit(n: Array, state: _Forward) -> _Forward:
                at = code[n]
                functions = [
                    functools.partial(_unit_forward, layout, stage, kind, weights, place, at) for kind in kinds
                ]
                return loop.apply_chosen(functions, _kind_of(spec, at), state)

            return lax.fori_loop(2, count, unit, lax.fori_loop(0, 2, side, state))

        state = lax.fori_loop(0 if stage else 1, program.cells[stage] + 1, cell, state)
        taps.insert(0, _tap(layout, stage, program, state.values))
    return taps, state


def _tap(layout: _Layout, stage: int, program: Program, values: Array) -> Array:
    """Output of the last cell of a stage, resized, and zeros: [B, 8, 8, nodes * C]."""
    base, slot, shape = layout.cell(stage, program.cells[stage]), layout.slot(stage), layout.map(stage)
    count, nodes = program.outputs[program_lib.SOURCE_NORMAL, 0], program.outputs[program_lib.SOURCE_NORMAL, 1:]
    wide = (layout.spec.nodes, layout.batch, TARGET_SIZE, TARGET_SIZE, shape[-1])

    zeros = jnp.zeros(wide, values.dtype)
    return loop.side_by_side(loop.read_tap(lambda n: read(values, base + nodes[n] * slot, shape), count, zeros))


def _add_tap(layout: _Layout, stage: int, program: Program, grads: Array, grad: Array) -> Array:
    """Gradients of values with those that come from a tap."""
    base, slot, shape = layout.cell(stage, program.cells[stage]), layout.slot(stage), layout.map(stage)
    count, nodes = program.outputs[program_lib.SOURCE_NORMAL, 0], program.outputs[program_lib.SOURCE_NORMAL, 1:]
    by_node = loop.apart(grad, layout.spec.nodes)

    def add(n: Array, grads: Array) -> Array:
        part = lax.dynamic_index_in_dim(by_node, n, 0, keepdims=False)
        start = base + nodes[n] * slot
        return write(grads, start, read(grads, start, shape) + loop.tap_gradient(part, shape))

    return lax.fori_loop(0, count, add, grads)


def _clear(layout: _Layout, stage: int, program: Program, grads: Array) -> Array:
    """Zeros where the cells of a stage (and the stem) have their values."""
    spec, slot = layout.spec, layout.slot(stage)
    narrow = spec.slots(False) * slot

    def clear(place: Array, grads: Array) -> Array:
        return write(grads, layout.cell(stage, place), jnp.zeros((narrow,), grads.dtype))

    grads = write(grads, layout.cell(stage, 0), jnp.zeros((spec.slots(True) * slot,), grads.dtype))
    return lax.fori_loop(1, program.cells[stage] + 1, clear, grads)


def _backward(
    spec: MachineSpec,
    stem: tuple[int, ...],
    weights: Weights,
    program: Program,
    forward: _Forward,
    grad_taps: list[Array],
) -> tuple[Array, Weights]:
    """Gradients of the stem's output, whose shape is ``stem``, and of the weights."""
    layout = _Layout.of(spec, stem)
    grads = lax.empty(forward.values.shape, forward.values.dtype)
    for stage in range(NUM_STAGES):
        grads = _clear(layout, stage, program, grads)
    state = _Backward(grads, jax.tree.map(jnp.zeros_like, weights))
    for stage in reversed(range(NUM_STAGES)):
        kinds, inputs = _stage_kinds(spec, stage)
        grads = _add_tap(layout, stage, program, state.grads, grad_taps[NUM_STAGES - 1 - stage])
        state, last = state._replace(grads=grads), program.cells[stage]

        def cell(turn: Array, state: _Backward, stage=stage, kinds=kinds, inputs=inputs, last=last):
            place = last - turn
            code, count = program.code[stage, place], program.counts[stage, place]

            def unit(turn: Array, state: _Backward) -> _Backward:
                at = code[count - 1 - turn]
                # Read out here: in one fused loop with what is written to the same tape, XLA would copy the tape.
                target = layout.cell(stage, place) + at[TARGET] * layout.slot(stage)
                grad = read(state.grads, target, layout.map(stage))
                functions = [
                    functools.partial(_unit_backward, layout, stage, kind, weights, forward, place, at, grad)
                    for kind in kinds
                ]
                return loop.apply_chosen(functions, _kind_of(spec, at), state)

            def side(turn: Array, state: _Backward) -> _Backward:
                at = code[1 - turn]
                target, wide = layout.cell(stage, place) + at[TARGET] * layout.slot(stage), WIDE * layout.slot(stage)
                grad = read(state.grads, target, (wide,))
                functions = [
                    functools.partial(_input_backward, layout, stage, kind, weights, program, forward, place, at, grad)
                    for kind in inputs
                ]
                return loop.apply_chosen(functions, at[BODY], state)

            return lax.fori_loop(0, 2, side, lax.fori_loop(0, count - 2, unit, state))

        state = lax.fori_loop(0, last + (1 if stage else 0), cell, state)
    nodes = [
        read(state.grads, layout.cell(0, 0) + number * layout.slot(0), layout.map(0)) for number in range(STEM_NODES)
    ]
    return jnp.concatenate(nodes, axis=-1), state.weights


_run = loop.differentiable(_forward, _backward)


def run(spec: MachineSpec, stem: Array, weights: Weights, program: Program) -> list[Array]:
    """Run a network.

    Args:
      spec: the static side.
      stem: [B, H, W, 3 width], the stem's output.
      weights: the bank.
      program: the network; no gradient.

    Returns:
      Outputs of the stages, last first, resized to 8x8 (nearest): [B, 8, 8, nodes * 4 width] and so on, zeros above
      the channels in use.
    """
    return _run(spec, stem, weights, program)
