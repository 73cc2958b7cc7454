"""This module says what collections (``nn/marks.py``) see of an NDS cell network while its interpreter runs.

Values lie on tapes and kernels in the bank. So the marks hand those over, with a lens that finds a cell's output on the
tape or a layer's kernel in the bank: programs without a collection compute none of it.

Cell c reads the outputs f of the two cells before it, by two input units: the older output f[c - 2] first (records of
even number), then the newer one f[c - 1]. The output of a cell is therefore marked as a feature where the next cell
begins: before its first input unit runs, and after that unit has run backward, when all gradients of the newer output
are there. The output of an input unit is an entry: at distance 2 from the older output, and 1 from the newer one. The
first cell reads the stem twice, both at distance 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import marks, windowed
from eproxy_jax.nn.convolution import ConvGradient
from eproxy_jax.spaces.interpreter.bank import Weights, read, read_up_to, write
from eproxy_jax.spaces.nds_cells import program
from eproxy_jax.spaces.nds_cells.cell_ops import Linear
from eproxy_jax.spaces.nds_cells.encoding import Input, Machine, Network, UnitStep
from eproxy_jax.spaces.nds_cells.layout import Layout
from eproxy_jax.spaces.nds_cells.program import NUM_STAGES, PRE_BEFORE, UnitKind

# --- features and entries ------------------------------------------------------------------------------------


def _output(layout: Layout, stage: int, tape: Array, slots: Array, count: Array) -> tuple[Array, Array]:
    """Return the output of a cell, with zeros for nodes that it has not, and which channels it has."""
    shape, nodes = layout.map(stage), layout.machine.nodes
    maps = [jnp.where(n < count, read(tape, layout.value(stage, slots[n]), shape), 0) for n in range(nodes)]
    used = jnp.arange(nodes * shape[-1]) < count * shape[-1]
    return jnp.concatenate(maps, axis=-1), used.astype(tape.dtype)


def _with_output(layout: Layout, stage: int, tape: Array, slots: Array, count: Array, output: Array) -> Array:
    """Return the tape with another output of a cell."""
    shape = layout.map(stage)
    for n, node in enumerate(jnp.split(output, layout.machine.nodes, axis=-1)):
        start = layout.value(stage, slots[n])
        tape = write(tape, start, jnp.where(n < count, node, read(tape, start, shape)))
    return tape


def _mark_output(
    name: str,
    layout: Layout,
    stage: int,
    find: Callable[..., tuple[Array, Array]],
    when: Callable[..., Array] | None,
    tape: Array,
    *operands: Array,
) -> Array:
    """Mark the output of a cell on a tape, which ``find`` makes of the operands: its slots, and how many."""
    gradient = name == "feature_gradient"

    def get(tape: Array, *operands: Array) -> tuple[Array, ...]:
        output, used = _output(layout, stage, tape, *find(*operands))
        return (output, used) if gradient else (output,)

    def put(results: tuple[Array, ...], tape: Array, *operands: Array) -> tuple[Array, ...]:
        return _with_output(layout, stage, tape, *find(*operands), results[0]), *operands

    lens = marks.Lens(get, put if gradient else None, when)
    return marks.mark(name, tape, *operands, lens=lens)[0]


def last_feature(name: str, layout: Layout, tape: Array, network: Network) -> Array:
    """Mark the output of the last cell; ``name`` and ``tape`` are those of features or of their gradients."""

    def find(taps: Array, count: Array) -> tuple[Array, Array]:
        return taps[NUM_STAGES - 1], count

    return _mark_output(name, layout, NUM_STAGES - 1, find, None, tape, network.taps, network.tap_nodes)


class CellInput(NamedTuple):
    """What is seen where an input of a cell is made.

    Attributes:
      layout: of the tapes.
      stage: of the cell.
      inputs: all inputs of the network.
      record: which of them this is.
      at: the same, as scalars.
    """

    layout: Layout
    stage: int
    inputs: Input
    record: Array
    at: Input

    def newer_output(self, name: str, tape: Array) -> Array:
        """Mark the newer one of the outputs that the cell reads, where this is the cell's first input.

        Args:
          name: ``feature`` or ``feature_gradient``.
          tape: of values, or of their gradients.
        """

        def find(sources: Array, count: Array, how: Array, record: Array) -> tuple[Array, Array]:
            del how
            return sources[record + 1], count[record + 1]

        for before in (False, True) if self.stage else (False,):

            def when(
                tape: Array, sources: Array, count: Array, how: Array, record: Array, before: bool = before
            ) -> Array:
                return (record % 2 == 0) & ((how == PRE_BEFORE) == before)

            operands = (self.inputs.sources, self.inputs.count, self.at.how, self.record)
            tape = _mark_output(name, self.layout, self.stage - before, find, when, tape, *operands)
        return tape

    def entry(self, values: Array) -> Array:
        """Mark the input on the tape of values."""
        for before in (False, True) if self.stage else (False,):
            shape = self.layout.map(self.stage - before, self.stage)

            def place(target: Array) -> Array:
                return self.layout.value(self.stage, target)

            def get(values: Array, target: Array, how: Array, record: Array, shape: Any = shape) -> tuple[Array, Array]:
                return read(values, place(target), shape), _distance(record)

            def put(results: Any, values: Array, target: Array, *others: Array) -> tuple[Array, ...]:
                return write(values, place(target), results[0]), target, *others

            def when(values: Array, target: Array, how: Array, record: Array, before: bool = before) -> Array:
                return (how == PRE_BEFORE) == before

            operands = (self.at.target, self.at.how, self.record)
            values = marks.mark("entry", values, *operands, lens=marks.Lens(get, put, when))[0]
        return values

    def entry_gradient(self, grad: Array) -> Array:
        """Mark the gradient of the input, flat and with numbers behind it that nothing reads."""
        lens = marks.Lens(lambda x, record: (x, _distance(record)), lambda results, x, record: (results[0], record))
        return marks.mark("entry_gradient", grad, self.record, lens=lens)[0]


def _distance(record: Array) -> Array:
    return jnp.where((record % 2 == 0) & (record > 0), 2, 1)


# --- kernels and their gradients -----------------------------------------------------------------------------


class InputUnit(NamedTuple):
    """What is seen of the input units of one way in one stage.

    Attributes:
      layout: of the tapes.
      source: stage of the nodes that the unit reads.
      linear: its convolution.
      shape: of a node.
      out: shape of the output.
    """

    layout: Layout
    source: int
    linear: Linear
    shape: tuple[int, ...]
    out: tuple[int, ...]

    def _parts(self) -> list[slice]:
        """Return the output channels of each of the layers that the unit's convolution is."""
        half = self.out[-1] // 2
        return [slice(0, half), slice(half, None)] if self.linear.halves else [slice(None)]

    def kernels(self, z: Array, kernels: Array, at: Input) -> Array:
        """Mark the kernels of the unit's layers, which read all nodes side by side; return ``z``."""
        nodes, (inputs, features) = self.layout.machine.nodes, (self.shape[-1], self.out[-1])

        def get(part: slice) -> Callable[..., tuple[Array]]:
            def seen(z: Array, kernels: Array, row: Array, count: Array) -> tuple[Array]:
                size = inputs * features
                kernel = read_up_to(kernels, row, nodes * size, count * size)
                return (kernel.reshape(1, 1, nodes * inputs, features)[..., part],)

            return seen

        for part in self._parts():
            z, *_ = marks.mark("kernel", z, kernels, at.row, at.count, lens=marks.Lens(get(part)))
        return z

    def gradient(
        self, result: Array, grad: Array, values: Array, kernels: Array, at: Input, convolve: Callable[..., Array]
    ) -> Array:
        """Mark ``grad``, the gradient of the convolution's output; return ``result``.

        Args:
          result: anything that the network goes on with.
          grad: [B, H, W, C].
          values: tape of the forward pass.
          kernels: the bank's.
          at: the unit.
          convolve: (weights, first row, sources, number of nodes, values, ReLU) -> output.
        """
        parts, number = self._parts(), self.shape[-1]

        def get(place: int) -> Callable[..., ConvGradient]:
            def seen(
                result: Array, grad: Array, values: Array, kernels: Array, row: Array, sources: Array, count: Array
            ) -> ConvGradient:
                part = parts[place]
                with marks.unmarked():
                    out = convolve(Weights(kernels, kernels, kernels), row, sources, count, values, jax.nn.relu)
                    first = read(values, self.layout.value(self.source, sources[0]), self.shape)[..., :1]
                    ones = jnp.ones((1, 1, 1, len(parts)), grad.dtype)
                    met = self.linear.apply(jax.nn.relu(first), ones)[..., place]
                return ConvGradient(out[..., part], grad[..., part], count * number, met)

            return seen

        for place in reversed(range(len(parts))):
            operands = (result, grad, values, kernels, at.row, at.sources, at.count)
            result, *_ = marks.mark("conv_gradient", *operands, lens=marks.Lens(get(place)))
        return result


def _largest(machine: Machine, family: str) -> int:
    """Return the largest kernel size of a family of units."""
    kinds = program.kinds(machine.ops)
    return max(size for size, kind in zip(kinds.size, kinds.of_body, strict=True) if kinds.kinds[kind].family == family)


class Depthwise(NamedTuple):
    """What is seen of depthwise convolutions; the 1x1 convolutions behind them set their own marks."""

    machine: Machine
    kind: UnitKind
    channels: int

    def kernel(self, out: Array, kernels: Array, at: UnitStep) -> Array:
        """Mark the kernel, whose positions lie one after the other; return ``out``."""
        most = _largest(self.machine, "depthwise") ** 2

        def get(out: Array, kernels: Array, row: Array, size: Array) -> tuple[Array]:
            kernel = read_up_to(kernels, row, most * self.channels, size * size * self.channels)
            return (kernel.reshape(most, 1, 1, self.channels),)

        return marks.mark("kernel", out, kernels, at.row, at.size, lens=marks.Lens(get))[0]

    def gradient(self, result: Array, x: Array, out: Array, grad: Array, at: UnitStep) -> Array:
        """Mark ``grad``, the gradient of the output ``out``; ``x`` is the input. Return ``result``."""
        margin = program.kinds(self.machine.ops).margin

        def get(result: Array, grad: Array, x: Array, out: Array, size: Array, dilation: Array) -> ConvGradient:
            met = windowed.depthwise_met(x, size, dilation, self.kind.stride, margin)
            return ConvGradient(out, grad, size * size, met)

        return marks.mark("conv_gradient", result, grad, x, out, at.size, at.dilation, lens=marks.Lens(get))[0]


class Lines(NamedTuple):
    """What is seen of pairs of convolutions along the width and along the height."""

    machine: Machine
    kind: UnitKind
    channels: int

    @property
    def _weights(self) -> int:
        """Weights of one kernel position."""
        return self.channels * self.channels

    def kernels(self, z: Array, kernels: Array, at: UnitStep) -> Array:
        """Mark both kernels; return ``z``."""
        most, weights = _largest(self.machine, "line"), self._weights

        def get(number: int) -> Callable[..., tuple[Array]]:
            def seen(z: Array, kernels: Array, row: Array, size: Array) -> tuple[Array]:
                row = row + number * size * (weights // self.machine.width)
                kernel = read_up_to(kernels, row, most * weights, size * weights)
                return (kernel.reshape(most, 1, self.channels, self.channels),)

            return seen

        for number in range(2):
            z, *_ = marks.mark("kernel", z, kernels, at.row, at.size, lens=marks.Lens(get(number)))
        return z

    def gradient(
        self, result: Array, number: int, x: Array, middle: Array, kernels: Array, grad: Array, at: UnitStep
    ) -> Array:
        """Mark ``grad``, the gradient of the first or second convolution's output; ``x`` is its input.

        Returns:
          ``result``.
        """
        margin, axis, channels = program.kinds(self.machine.ops).margin, 2 - number, self.channels
        rows = self._weights // self.machine.width

        def get(
            result: Array, grad: Array, x: Array, middle: Array, kernels: Array, row: Array, size: Array
        ) -> ConvGradient:
            def kernel_at(n: Array) -> Array:
                return read_up_to(kernels, row + (size + n) * rows, self._weights, jnp.asarray(self._weights)).reshape(
                    channels, channels
                )

            sizes = (size, axis, self.kind.stride, margin)
            out = windowed.line(middle, kernel_at, channels, *sizes) if number else middle
            return ConvGradient(out, grad, size * channels, windowed.line_met(x, *sizes))

        operands = (result, grad, x, middle, kernels, at.row, at.size)
        return marks.mark("conv_gradient", *operands, lens=marks.Lens(get))[0]
