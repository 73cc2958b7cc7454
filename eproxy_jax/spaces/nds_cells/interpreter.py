"""This module interprets NDS cell networks: one program runs all genotypes and depths of one width.

Steps say what is computed where. All values lie on one tape, at slots that the steps name; all weights lie one after
the other in one bank. Nothing is padded but the ends of tape and bank, which nothing reads. Kernel sizes and dilations
are numbers of turns and distances, so each kind of operation is compiled once a stage and stride, forward and backward.
Under ``vmap`` candidates run one after the other.

The backward pass is written out: gradients of values lie on a second tape of the same layout. Both tapes begin as
zeros, because nodes and gradients are sums. A unit keeps only what is not cheap to compute again: its normalised
output and, between its two convolutions, the map in the middle.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.nn import convolution, marks, norms, windowed
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
from eproxy_jax.spaces.nds_cells import cell_ops, program, shown
from eproxy_jax.spaces.nds_cells.encoding import WIDE, Input, Machine, Network, Step, UnitStep
from eproxy_jax.spaces.nds_cells.layout import Layout
from eproxy_jax.spaces.nds_cells.program import NUM_STAGES, PRE_REDUCE, PRE_SAME, PRE_UNITS, STEM_NODES, UnitKind
from eproxy_jax.types import TARGET_SIZE


class _Forward(NamedTuple):
    """The arrays that the forward pass writes: values, what is kept of them, reciprocal deviations."""

    values: Array
    saved: Array
    rstd: Array


class _Backward(NamedTuple):
    """The gradients of values and of weights."""

    values: Array
    weights: Weights


def _norm(z: Array, weights: Weights, scale: Array) -> tuple[Array, Array, Array]:
    """Return the output of the batch norm, the normalised map, and the reciprocal deviations."""
    normalized, rstd = norms.standardize(z)
    return norms.affine(normalized, *read_norm(weights, scale, z.shape[-1:])), normalized, rstd


def _norm_backward(
    grad: Array, normalized: Array, rstds: Array, weights: Weights, grads: Weights, scale: Array
) -> tuple[Array, Weights]:
    """Return the gradient of the batch norm's input, and the gradients of weights with those of its scale and bias."""
    channels = normalized.shape[-1:]
    scales, rstd = read(weights.scale, scale, channels), read(rstds, scale, channels)
    grad, *vectors = norms.affine_normalize_gradient(grad, normalized, rstd, scales)
    return grad, write_norm(grads, scale, *vectors)


def _pull(linear: cell_ops.Linear, x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
    """Return the gradients of a linear map's input and kernel. They do not need the map's output: XLA drops it."""
    with marks.unmarked():
        _, pull = jax.vjp(linear.apply, x, kernel)
    return pull(grad)


# --- the convolutions of a unit ------------------------------------------------------------------------------


class _Convolutions(NamedTuple):
    """The convolutions of a unit, with kernel size and dilation as data.

    Attributes:
      forward: (input, kernels) -> (map in the middle or None, output before the norm).
      backward: (input, middle, gradient, kernels, gradients of kernels) -> (gradient of the input, gradients of
        kernels). Kernels are the whole bank's.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _depthwise_then_pointwise(machine: Machine, kind: UnitKind, channels: int, at: UnitStep) -> _Convolutions:
    """Return a depthwise convolution, then a 1x1 one."""
    margin, rows, matrix = program.kinds(machine.ops).margin, channels // machine.width, (1, 1, channels, channels)
    show = shown.Depthwise(machine, kind, channels)
    last = at.row + at.size * at.size * rows

    def weights_in(kernels: Array) -> Callable[[Array], Array]:
        return lambda n: read_rows(kernels, at.row + n * rows, (channels,))

    def put(grads: Array, n: Array, row: Array) -> Array:
        return write_rows(grads, at.row + n * rows, row)

    def forward(x: Array, kernels: Array):
        middle = windowed.depthwise(x, weights_in(kernels), at.size, at.dilation, kind.stride, margin)
        middle = show.kernel(middle, kernels, at)
        return middle, convolution.conv2d(middle, read_rows(kernels, last, matrix))

    def backward(x: Array, middle: Array, grad: Array, kernels: Array, grads: Array):
        grad, of_matrix = _pull(cell_ops.pointwise(1), middle, read_rows(kernels, last, matrix), grad)
        grads, sizes = write_rows(grads, last, of_matrix), (at.size, at.dilation, kind.stride, margin)
        grad_x, grads = windowed.depthwise_gradient(x, grad, weights_in(kernels), put, grads, *sizes)
        return show.gradient(grad_x, x, middle, grad, at), grads

    return _Convolutions(forward, backward)


def _along_width_then_height(machine: Machine, kind: UnitKind, channels: int, at: UnitStep) -> _Convolutions:
    """Return a convolution along the width, then one along the height."""
    margin, rows = program.kinds(machine.ops).margin, channels * channels // machine.width
    show = shown.Lines(machine, kind, channels)

    def kernels_in(kernels: Array, number: int) -> Callable[[Array], Array]:
        return lambda n: read_rows(kernels, at.row + (number * at.size + n) * rows, (channels, channels))

    def put(number: int) -> Callable[[Array, Array, Array], Array]:
        return lambda grads, n, matrix: write_rows(grads, at.row + (number * at.size + n) * rows, matrix)

    def forward(x: Array, kernels: Array):
        middle = windowed.line(x, kernels_in(kernels, 0), channels, at.size, 2, kind.stride, margin)
        z = windowed.line(middle, kernels_in(kernels, 1), channels, at.size, 1, kind.stride, margin)
        return middle, show.kernels(z, kernels, at)

    def backward(x: Array, middle: Array, grad: Array, kernels: Array, grads: Array):
        for z, number, axis in ((middle, 1, 1), (x, 0, 2)):
            sizes = (at.size, axis, kind.stride, margin)
            of_output = grad
            grad, grads = windowed.line_gradient(z, grad, kernels_in(kernels, number), put(number), grads, *sizes)
            grad = show.gradient(grad, number, z, middle, kernels, of_output, at)
        return grad, grads

    return _Convolutions(forward, backward)


def _single(machine: Machine, kind: UnitKind, channels: int, at: UnitStep) -> _Convolutions:
    """Return one convolution of one size."""
    del machine
    assert kind.body.unit is not None
    (linear,) = kind.body.unit
    shape = linear.kernel_shape(channels, channels)

    def forward(x: Array, kernels: Array):
        return None, linear.apply(x, read_rows(kernels, at.row, shape))

    def backward(x: Array, middle: None, grad: Array, kernels: Array, grads: Array):
        del middle
        grad_x, of_kernel = _pull(linear, x, read_rows(kernels, at.row, shape), grad)
        return grad_x, write_rows(grads, at.row, of_kernel)

    return _Convolutions(forward, backward)


_CONVOLUTIONS = {"depthwise": _depthwise_then_pointwise, "line": _along_width_then_height, "": _single}


# --- one step ------------------------------------------------------------------------------------------------


class _UnitOfStage(NamedTuple):
    """The units of one kind in one stage."""

    layout: Layout
    stage: int
    kind: UnitKind

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of input, middle and output."""
        layout, stage = self.layout, self.stage
        shape, out = layout.map(stage - 1 if self.kind.stride == 2 else stage, stage), layout.map(stage)
        return shape, (*shape[:2], *out[2:]) if self.kind.family == "line" else out, out

    def _weightless(self, at: UnitStep) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return two functions of something without weights: its forward pass, and (x, gradient) -> gradient."""
        kind = self.kind
        if kind.family == "max":
            size, margin = at.size, program.kinds(self.layout.machine.ops).margin
            return (
                lambda x: windowed.maxima(x, size, kind.stride, margin),
                lambda x, grad: windowed.maxima_gradient(x, grad, size, kind.stride, margin),
            )
        function = cell_ops.weightless(kind.body.op, kind.stride)
        assert function is not None
        return function, lambda x, grad: jax.vjp(function, x)[1](grad)[0]

    def _convolutions(self, at: UnitStep) -> _Convolutions:
        channels = self.shapes[2][-1]
        return _CONVOLUTIONS[self.kind.family](self.layout.machine, self.kind, channels, at)

    def forward(self, weights: Weights, at: UnitStep, state: _Forward) -> _Forward:
        """Run the unit and add its output to its target."""
        shape, _, out = self.shapes
        x = read(state.values, self.layout.value(self.stage, at.source), shape)
        if self.kind.body.unit is None:
            y = self._weightless(at)[0](x)
        else:
            middle, z = self._convolutions(at).forward(marks.relu(x), weights.kernels)
            y, normalized, rstd = _norm(z, weights, at.scale)
            where, saved = self.layout.saved(self.stage, at.saved), state.saved
            if middle is not None:
                saved, where = write(saved, where, middle), where + middle.size
            state = state._replace(saved=write(saved, where, normalized), rstd=write(state.rstd, at.scale, rstd))
        target = self.layout.value(self.stage, at.target)
        return state._replace(values=write(state.values, target, y + read(state.values, target, out)))

    def backward(self, weights: Weights, forward: _Forward, at: UnitStep, grad: Array, state: _Backward) -> _Backward:
        """Return the gradients with those of the unit's input and weights, from ``grad`` of its output."""
        shape, middle_shape, out = self.shapes
        source = self.layout.value(self.stage, at.source)
        x, grads = read(forward.values, source, shape), state.weights
        if self.kind.body.unit is None:
            grad_x = self._weightless(at)[1](x, grad)
        else:
            where, middle = self.layout.saved(self.stage, at.saved), None
            if len(self.kind.body.unit) == 2:
                middle = read(forward.saved, where, middle_shape)
                where = where + int(np.prod(middle_shape))
            grad, grads = _norm_backward(grad, read(forward.saved, where, out), forward.rstd, weights, grads, at.scale)
            backward = self._convolutions(at).backward
            grad, kernels = backward(jax.nn.relu(x), middle, grad, weights.kernels, grads.kernels)
            grads, grad_x = grads._replace(kernels=kernels), grad * (x > 0)
        grad_x = grad_x + read(state.values, source, shape)
        return _Backward(write(state.values, source, grad_x), grads)


class _InputOfStage(NamedTuple):
    """One way to give a cell's input the cell's channels: one 1x1 convolution of all nodes that it comes from."""

    layout: Layout
    stage: int
    how: int

    @property
    def source(self) -> int:
        """Stage of the nodes."""
        return self.stage if self.how == PRE_SAME else self.stage - 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a node and of the output."""
        out = self.layout.map(self.stage if self.how == PRE_REDUCE else self.source, self.stage)
        return self.layout.map(self.source), out

    @property
    def linear(self) -> cell_ops.Linear:
        """The convolution."""
        return PRE_UNITS[self.how][0]

    def _node(self, row: Array, sources: Array, n: Array) -> tuple[Array, Array, tuple[int, ...]]:
        """Return the n-th node's place on the tape of values, the first row of its kernel, and the kernel's shape."""
        shape, out = self.shapes
        rows = shape[-1] * out[-1] // self.layout.machine.width
        kernel = self.linear.kernel_shape(shape[-1], out[-1])
        return self.layout.value(self.source, sources[n]), row + n * rows, kernel

    def _convolve(
        self, weights: Weights, row: Array, sources: Array, count: Array, values: Array, relu: Callable[[Array], Array]
    ) -> Array:
        """Return the convolution of all nodes, one after the other."""
        shape, out = self.shapes

        def add(n: Array, z: Array) -> Array:
            start, first, kernel = self._node(row, sources, n)
            x = relu(read(values, start, shape))
            with marks.unmarked():  # the kernel of one node is a part of the layer's
                return z + self.linear.apply(x, read_rows(weights.kernels, first, kernel))

        return lax.fori_loop(0, count, add, jnp.zeros(out, values.dtype))

    def _show(self) -> shown.InputUnit:
        return shown.InputUnit(self.layout, self.source, self.linear, *self.shapes)

    def forward(self, weights: Weights, at: Input, state: _Forward) -> _Forward:
        """Make the input and write it."""
        z = self._convolve(weights, at.row, at.sources, at.count, state.values, marks.relu)
        z = self._show().kernels(z, weights.kernels, at)
        y, normalized, rstd = _norm(z, weights, at.scale)
        return _Forward(
            write(state.values, self.layout.value(self.stage, at.target), y),
            write(state.saved, self.layout.saved(self.stage, at.saved), normalized),
            write(state.rstd, at.scale, rstd),
        )

    def backward(self, weights: Weights, forward: _Forward, at: Input, grad: Array, state: _Backward) -> _Backward:
        """Return the gradients with those of nodes and weights, from ``grad``, which begins with the output's."""
        shape, out = self.shapes
        normalized = read(forward.saved, self.layout.saved(self.stage, at.saved), out)
        grad, grads = _norm_backward(read(grad, 0, out), normalized, forward.rstd, weights, state.weights, at.scale)

        def add(n: Array, state: _Backward) -> _Backward:
            start, row, kernel = self._node(at.row, at.sources, n)
            x = read(forward.values, start, shape)
            with marks.unmarked():
                grad_x, grad_kernel = _pull(self.linear, jax.nn.relu(x), read_rows(weights.kernels, row, kernel), grad)
            grad_x = grad_x * (x > 0) + read(state.values, start, shape)
            return _Backward(write(state.values, start, grad_x), write_kernel(state.weights, row, grad_kernel))

        state = lax.fori_loop(0, at.count, add, _Backward(state.values, grads))
        shown_values = self._show().gradient(state.values, grad, forward.values, weights.kernels, at, self._convolve)
        return state._replace(values=shown_values)


# --- the whole network ---------------------------------------------------------------------------------------


def _inputs(layout: Layout, stage: int) -> list[_InputOfStage]:
    """Return the ways in which a stage's cells get their inputs: nothing comes before the first stage."""
    return [_InputOfStage(layout, stage, how) for how in range(len(PRE_UNITS) if stage else 1)]


def _units(layout: Layout, stage: int) -> list[_UnitOfStage]:
    """Return the kinds of units that a stage has: none of the first one reads a larger map."""
    every = program.kinds(layout.machine.ops)
    return [_UnitOfStage(layout, stage, kind) for kind in every.kinds[: None if stage else every.unstrided]]


def _step(run_input: Callable[..., Any], run_unit: Callable[..., Any]) -> Callable[[Step, Any], Any]:
    """Return a step that chooses a stage, and an input or a unit: (stage, number of a record, state) -> state."""

    def step(at: Step, state: Any) -> Any:
        lists = [functools.partial(run, s, at.record) for s in range(NUM_STAGES) for run in (run_input, run_unit)]
        return loop.apply_chosen(lists, at.list, state)

    return step


def _forward(machine: Machine, stem: Array, weights: Weights, network: Network) -> tuple[list[Array], _Forward]:
    """Return the taps, last first, [B, 8, 8, nodes * C] each, and what the backward pass needs."""
    layout, dtype = Layout.of(machine, stem.shape), stem.dtype
    lengths = layout.lengths()
    values = jnp.zeros((lengths[0],), dtype)
    for number, node in enumerate(jnp.split(stem, STEM_NODES, axis=-1)):
        values = write(values, layout.value(0, machine.node_slot(0, number)), node)

    def run_input(stage: int, record: Array, state: _Forward) -> _Forward:
        at = loop.instruction(network.inputs, record)
        show = shown.CellInput(layout, stage, network.inputs, record, at)
        state = state._replace(values=show.newer_output("feature", state.values))
        ways = [functools.partial(one.forward, weights, at) for one in _inputs(layout, stage)]
        state = loop.apply_chosen(ways, at.how, state)
        return state._replace(values=show.entry(state.values))

    def run_unit(stage: int, record: Array, state: _Forward) -> _Forward:
        at = loop.instruction(network.units, record)
        kinds = [functools.partial(one.forward, weights, at) for one in _units(layout, stage)]
        return loop.apply_chosen(kinds, at.kind, state)

    state = _Forward(values, lax.empty((lengths[1],), dtype), lax.empty(weights.scale.shape, dtype))
    state = loop.forward(_step(run_input, run_unit), network.steps, network.length, state)
    state = state._replace(values=shown.last_feature("feature", layout, state.values, network))
    last, *others = [_tap(layout, stage, network, state.values) for stage in reversed(range(NUM_STAGES))]
    return [marks.mark("entry", last), *others], state


def _tap(layout: Layout, stage: int, network: Network, values: Array) -> Array:
    """Return the output of the last cell of a stage, resized, with zeros behind it: [B, 8, 8, nodes * C]."""
    slots, shape = network.taps[stage], layout.map(stage)
    zeros = jnp.zeros((layout.machine.nodes, layout.batch, TARGET_SIZE, TARGET_SIZE, shape[-1]), values.dtype)

    def read_node(n: Array) -> Array:
        return read(values, layout.value(stage, slots[n]), shape)

    return loop.side_by_side(loop.read_tap(read_node, network.tap_nodes, zeros))


def _add_tap(layout: Layout, stage: int, network: Network, grads: Array, grad: Array) -> Array:
    """Return the gradients of values with those that come from a tap."""
    slots, shape = network.taps[stage], layout.map(stage)
    by_node = loop.apart(grad, layout.machine.nodes)

    def add(n: Array, grads: Array) -> Array:
        part = lax.dynamic_index_in_dim(by_node, n, 0, keepdims=False)
        start = layout.value(stage, slots[n])
        return write(grads, start, read(grads, start, shape) + loop.tap_gradient(part, shape))

    return lax.fori_loop(0, network.tap_nodes, add, grads)


def _backward(
    machine: Machine,
    stem: tuple[int, ...],
    weights: Weights,
    network: Network,
    forward: _Forward,
    grad_taps: list[Array],
) -> tuple[Array, Weights]:
    """Return the gradients of the stem's output, whose shape is ``stem``, and of the weights."""
    layout = Layout.of(machine, stem)
    grads = jnp.zeros_like(forward.values)
    last, *others = grad_taps
    grad_taps = [marks.mark("entry_gradient", last), *others]
    for stage, grad in zip(reversed(range(NUM_STAGES)), grad_taps, strict=True):
        grads = _add_tap(layout, stage, network, grads, grad)
    grads = shown.last_feature("feature_gradient", layout, grads, network)

    # Gradients of outputs are read out before a kind is chosen: in one fused loop with what is written to the same
    # tape, XLA would copy the tape.
    def run_input(stage: int, record: Array, state: _Backward) -> _Backward:
        at = loop.instruction(network.inputs, record)
        grad = read(state.values, layout.value(stage, at.target), (WIDE * layout.slot(stage),))
        show = shown.CellInput(layout, stage, network.inputs, record, at)
        grad = show.entry_gradient(grad)
        ways = [functools.partial(one.backward, weights, forward, at, grad) for one in _inputs(layout, stage)]
        state = loop.apply_chosen(ways, at.how, state)
        return state._replace(values=show.newer_output("feature_gradient", state.values))

    def run_unit(stage: int, record: Array, state: _Backward) -> _Backward:
        at = loop.instruction(network.units, record)
        grad = read(state.values, layout.value(stage, at.target), layout.map(stage))
        kinds = [functools.partial(one.backward, weights, forward, at, grad) for one in _units(layout, stage)]
        return loop.apply_chosen(kinds, at.kind, state)

    state = _Backward(grads, jax.tree.map(jnp.zeros_like, weights))
    state = loop.backward(_step(run_input, run_unit), network.steps, network.length, state)
    nodes = [
        read(state.values, layout.value(0, machine.node_slot(0, number)), layout.map(0)) for number in range(STEM_NODES)
    ]
    return jnp.concatenate(nodes, axis=-1), state.weights


_run = loop.differentiable(_forward, _backward)


def run(machine: Machine, stem: Array, weights: Weights, network: Network) -> list[Array]:
    """Run a network.

    Args:
      machine: the static side.
      stem: [B, H, W, 3 width], the stem's output.
      weights: the bank.
      network: the network; no gradient.

    Returns:
      Outputs of the stages, last first, resized to 8x8 (nearest): [B, 8, 8, nodes * 4 width] and so on, zeros above
      the channels in use.
    """
    return _run(machine, stem, weights, network)
