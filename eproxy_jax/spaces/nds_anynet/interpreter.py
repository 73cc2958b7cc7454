"""This module interprets AnyNets: one small program runs convolutions of any number, width, grouping and wiring.

Channels lie in tiles of a fixed width. An activation of C channels is ceil(C / tile) arrays [B, H, W, tile], one after
the other on a tape. A kernel is one small matrix for each pair of an input and an output tile, one after the other in a
bank. A network is a list of instructions (convolution, batch norm, perhaps a shortcut, perhaps ReLU) whose loops
over tiles have as many turns as its widths ask for. So one program serves all widths and depths, and holds only as
many convolutions as there are (map size, stride, kernel size): about ten. A grouped convolution meets the tiles of its
own group only; groups narrower than a tile share one, and the weights between them are zero and stay zero.

The last tile of a width is padded, and so are the tiles that several narrow groups share. Padded channels have zero
weights on both sides, hence stay zero and have no gradient.

The chosen kind of convolution is no branch of ``lax.switch`` (``interpreter/loop.py`` says why), and under
``vmap`` the candidates run one after the other.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import convolution, marks, norms, precision
from eproxy_jax.spaces.interpreter import bank, loop
from eproxy_jax.spaces.interpreter.bank import Weights
from eproxy_jax.spaces.interpreter.loop import apply_chosen
from eproxy_jax.spaces.nds_anynet import shown
from eproxy_jax.types import TARGET_SIZE


@dataclasses.dataclass(frozen=True, order=True)
class TileConv:
    """The part of a convolution of tiles that is compiled.

    Attributes:
      size: index of its input's map size; its output has this size, or the next one at stride 2.
      stride: 1 or 2.
      kernel: 1 or 3.
    """

    size: int
    stride: int
    kernel: int

    @property
    def size_out(self) -> int:
        """Index of its output's map size."""
        return self.size + self.stride - 1


@dataclasses.dataclass(frozen=True)
class TileMachine:
    """The static side of the interpreter, which is compiled.

    Attributes:
      batch: B.
      sizes: (height, width) of the maps, each half the one before.
      convs: the convolutions that instructions may choose from.
      tile: channels in a tile.
      tape_rows: rows [tile] of the tape.
      slot_rows: rows of each of the buffers for gradients of activations.
      tap_tiles: tiles of the widest tap.
      num_taps: T.
    """

    batch: int
    sizes: tuple[tuple[int, int], ...]
    convs: tuple[TileConv, ...]
    tile: int
    tape_rows: int
    slot_rows: int
    tap_tiles: int
    num_taps: int

    def rows(self, size: int) -> int:
        """Return the rows of one tile's activation: the positions of the whole batch."""
        height, width = self.sizes[size]
        return self.batch * height * width

    def map_shape(self, size: int) -> tuple[int, int, int, int]:
        """Return the shape of one tile's activation, (B, H, W, tile)."""
        return (self.batch, *self.sizes[size], self.tile)

    def size_out(self, conv: Array) -> Array:
        """Return the indices of the map sizes of the outputs of these convolutions."""
        return jnp.asarray([one.size_out for one in self.convs], jnp.int32)[conv]


class Instructions(NamedTuple):
    """An encoded architecture: convolutions in the order of the forward pass, zeros behind the last.

    Integer arrays [N], or scalars of one instruction. Activations are numbered: 0 is the stem's, n that of the n-th
    convolution.

    Attributes:
      conv: index into ``TileMachine.convs``.
      tiles_in: tiles of the input.
      tiles_out: tiles of the output.
      block_in: input tiles that are connected with each other; all of them but in a grouped convolution.
      block_out: output tiles that such a block of input tiles makes.
      lane_group: channels of a group, where a tile holds several; else ``tile``.
      row: first row of its kernels in the bank.
      vector: first tile of its scales and biases.
      source: number of the activation that it reads.
      shortcut: number of the activation that is added to its output; -1 for none.
      relu: 1 where a ReLU comes last.
      grad_source: buffer (0 to 3) with the gradient of its output. The step leaves in it what passes the ReLU, which
        is the gradient of the shortcut.
      grad_target: buffer of the gradient of its input.
      grad_adds: 1 where it adds to what is in ``grad_target``.
      tap: which tap its output is; -1 for none.
      tap_level: index of the width of its output, where it is a tap.
      channels_in: input channels; 0 behind the last convolution.
      groups_in: how they are grouped.
      channels: output channels.
      groups_out: how they are grouped.
      groups: groups of the convolution.
    """

    conv: Any
    tiles_in: Any
    tiles_out: Any
    block_in: Any
    block_out: Any
    lane_group: Any
    row: Any
    vector: Any
    source: Any
    shortcut: Any
    relu: Any
    grad_source: Any
    grad_target: Any
    grad_adds: Any
    tap: Any
    tap_level: Any
    channels_in: Any
    groups_in: Any
    channels: Any
    groups_out: Any
    groups: Any


class Places(NamedTuple):
    """First rows on the tape, which depend on the size of the images; integer arrays [N], or scalars.

    Attributes:
      source: of the input.
      base: of what is written: the normalised convolution, then the output.
      shortcut: of what is added to the output; -1 for nothing.
    """

    source: Array
    base: Array
    shortcut: Array


class Network(NamedTuple):
    """A network as data, for images of one size.

    Attributes:
      length: number of instructions in use.
      instructions: its convolutions; those from ``length`` on are ignored.
      places: of the instructions.
      taps: [T], number of the instruction whose output each tap is.
    """

    length: Array
    instructions: Instructions
    places: Places
    taps: Array


def placed(machine: TileMachine, instructions: Instructions, stem_rows: int) -> Network:
    """Return the network with its places on the tape, behind ``stem_rows`` rows of the stem."""
    rows_out = jnp.asarray([machine.rows(conv.size_out) for conv in machine.convs], jnp.int32)[instructions.conv]
    used = instructions.channels > 0
    written = jnp.where(used, instructions.tiles_out * rows_out, 0)
    base = stem_rows + 2 * bank.before(written)
    activations = jnp.concatenate([jnp.zeros((1,), base.dtype), base + written])  # by number
    shortcut = jnp.where(instructions.shortcut >= 0, activations[instructions.shortcut], -1)
    places = Places(activations[instructions.source], base, shortcut)
    taps = jnp.stack([jnp.argmax(used & (instructions.tap == tap)) for tap in range(machine.num_taps)])
    return Network(jnp.sum(used.astype(jnp.int32)), instructions, places, taps)


NUM_SLOTS = 5
_OWN_SLOT = 4  # gradient of the convolution's own output, behind its batch norm


def _read(rows: Array, start: Any, count: int) -> Array:
    return lax.dynamic_slice_in_dim(rows, start, count)


def _write(rows: Array, start: Any, values: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(rows, values, start, 0)


def _maps(machine: TileMachine, size: int, rows: Array) -> Array:
    """Reshape rows to maps: [rows, tile] -> [B, H, W, tile]."""
    return rows.reshape(machine.map_shape(size))


def _columns(machine: TileMachine, conv: TileConv, rows: Array) -> Array:
    """Collect what each output position reads of an input tile: [rows in, tile] -> [rows out, k * k * tile]."""
    patches = convolution.patches(_maps(machine, conv.size, rows), conv.kernel, conv.stride)
    return patches.reshape(machine.rows(conv.size_out), -1)


def _vector(vectors: Array, at: Instructions, out: Array, tile: int) -> Array:
    return lax.dynamic_slice_in_dim(vectors, (at.vector + out) * tile, tile)


# --- forward -------------------------------------------------------------------------------------------------


class _Forward(NamedTuple):
    """The arrays that the forward pass writes: activations, output tiles of one convolution, reciprocal deviations."""

    tape: Array
    sums: Array
    rstds: Array


_Step = tuple[Instructions, Places]  # an instruction in its places


def _convolve(machine: TileMachine, conv: TileConv, weights: Weights, step: _Step, tape: Array, sums: Array) -> Array:
    """Write the convolution's output tiles, before its batch norm, to the front of ``sums``."""
    (at, place), unit = step, conv.kernel**2 * machine.tile
    rows_in, rows = machine.rows(conv.size), machine.rows(conv.size_out)

    def from_input(i: Array, sums: Array) -> Array:
        columns = _columns(machine, conv, _read(tape, place.source + i * rows_in, rows_in))
        first = (i // at.block_in) * at.block_out

        def to_output(o: Array, sums: Array) -> Array:
            kernel = _read(weights.kernels, at.row + (i * at.block_out + o) * unit, unit)
            start = (first + o) * rows
            before = jnp.where(i % at.block_in == 0, 0, _read(sums, start, rows))
            return _write(sums, start, precision.product(columns, kernel) + before)

        return lax.fori_loop(0, at.block_out, to_output, sums)

    return lax.fori_loop(0, at.tiles_in, from_input, sums)


def _finish(machine: TileMachine, size: int, weights: Weights, step: _Step, carry: _Forward) -> _Forward:
    """Run the batch norm, the shortcut and the ReLU of one instruction.

    Each loop reads and writes different arrays: where a body reads from an array and writes to other places of it, XLA
    copies it whole.
    """
    (at, place), rows, tile = step, machine.rows(size), machine.tile

    def normalise(sums: Array, o: Array, carry: tuple[Array, Array]):
        tape, rstds = carry
        with marks.unmarked():  # a tile is a part of the layer's batch norm
            z, rstd = norms.standardize(_maps(machine, size, _read(sums, o * rows, rows)))
        rstds = lax.dynamic_update_slice_in_dim(rstds, rstd, (at.vector + o) * tile, 0)
        return _write(tape, place.base + o * rows, z.reshape(rows, tile)), rstds

    def activate(tape: Array, o: Array, sums: Array) -> Array:
        z = _read(tape, place.base + o * rows, rows)
        y = z * _vector(weights.scale, at, o, tile)[None] + _vector(weights.bias, at, o, tile)[None]
        shortcut = _read(tape, jnp.maximum(place.shortcut, 0) + o * rows, rows)
        y = y + jnp.where(place.shortcut >= 0, shortcut, 0)
        out = jnp.where((at.relu > 0) & (y < 0), 0, y)
        return _write(sums, o * rows, shown.relu(machine, size, out, y, at.relu))

    def record(sums: Array, o: Array, tape: Array) -> Array:
        return _write(tape, place.base + (at.tiles_out + o) * rows, _read(sums, o * rows, rows))

    tape, sums, rstds = carry
    tape, rstds = lax.fori_loop(0, at.tiles_out, functools.partial(normalise, sums), (tape, rstds))
    tape, rstds = shown.norm(machine, size, at, place.base, tape, rstds, sums)
    sums = lax.fori_loop(0, at.tiles_out, functools.partial(activate, tape), sums)
    tape = lax.fori_loop(0, at.tiles_out, functools.partial(record, sums), tape)
    return _Forward(tape, sums, rstds)


def _forward(
    machine: TileMachine, stem: Array, weights: Weights, network: Network
) -> tuple[Array, tuple[Array, Array]]:
    """Return the taps [T, B, 8, 8, C], and what the backward pass needs."""
    dtype = stem.dtype
    tape = _write(lax.empty((machine.tape_rows, machine.tile), dtype), 0, stem.reshape(-1, machine.tile))
    sums = lax.empty((machine.slot_rows, machine.tile), dtype)

    def run(step: _Step, carry: _Forward) -> _Forward:
        convs = [functools.partial(_convolve, machine, conv, weights, step, carry.tape) for conv in machine.convs]
        sums = apply_chosen(convs, step[0].conv, carry.sums)
        carry = carry._replace(sums=shown.kernel(machine, step[0], sums, weights.kernels))
        finishes = [functools.partial(_finish, machine, size, weights, step) for size in range(len(machine.sizes))]
        carry = apply_chosen(finishes, machine.size_out(step[0].conv), carry)
        return carry._replace(tape=shown.block_output(machine, step[0], step[1].base, carry.tape))

    start = _Forward(tape, sums, jnp.zeros_like(weights.scale))
    tape, _, rstds = loop.forward(run, (network.instructions, network.places), network.length, start)
    taps = []
    for number in range(machine.num_taps):
        at = loop.instruction(network.instructions, network.taps[number])
        place = loop.instruction(network.places, network.taps[number])

        def read_tap(size: int, tap: Array, at: Instructions = at, place: Places = place) -> Array:
            rows = machine.rows(size)
            first = place.base + at.tiles_out * rows
            return loop.read_tap(lambda i: _maps(machine, size, _read(tape, first + i * rows, rows)), at.tiles_out, tap)

        zeros = jnp.zeros((machine.tap_tiles, machine.batch, TARGET_SIZE, TARGET_SIZE, machine.tile), dtype)
        sizes = [functools.partial(read_tap, size) for size in range(len(machine.sizes))]
        taps.append(loop.side_by_side(apply_chosen(sizes, machine.size_out(at.conv), zeros)))
    return jnp.stack(taps), (tape, rstds)


# --- backward ------------------------------------------------------------------------------------------------


class _Saved(NamedTuple):
    """The arrays that the backward pass reads: the forward pass' ones, and gradients of taps [T, N, B, 8, 8, tile]."""

    weights: Weights
    tape: Array
    rstds: Array
    taps: Array


def _tap_backward(machine: TileMachine, size: int, taps: Array, at: Instructions, flows: Array) -> Array:
    """Add the gradients of a tap to those of activations, where the instruction's output is a tap."""
    rows = machine.rows(size)
    first = at.tap == 0  # the last of the chain: nothing has come back yet

    def add(i: Array, flows: Array) -> Array:
        place = at.grad_source * machine.slot_rows + i * rows
        grad = loop.tap_gradient(taps[jnp.maximum(at.tap, 0), i], machine.map_shape(size)).reshape(rows, machine.tile)
        return _write(flows, place, grad + jnp.where(first, 0, _read(flows, place, rows)))

    return lax.fori_loop(0, jnp.where(at.tap >= 0, at.tiles_out, 0), add, flows)


def _finish_backward(
    machine: TileMachine, size: int, saved: _Saved, step: _Step, carry: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    """Go back through tap, ReLU and batch norm: returns gradients of activations [slots, tile], scales and biases."""
    (at, place), rows, tile = step, machine.rows(size), machine.tile
    own, source = _OWN_SLOT * machine.slot_rows, at.grad_source * machine.slot_rows

    def through_norm(o: Array, carry: tuple[Array, Array, Array]):
        flows, scales, biases = carry
        grad = _read(flows, source + o * rows, rows)
        y = _read(saved.tape, place.base + (at.tiles_out + o) * rows, rows)
        grad = jnp.where((at.relu > 0) & (y <= 0), 0, grad)
        z = _read(saved.tape, place.base + o * rows, rows)
        vector = (at.vector + o) * tile
        scales = lax.dynamic_update_slice_in_dim(scales, jnp.sum(grad * z, 0), vector, 0)
        biases = lax.dynamic_update_slice_in_dim(biases, jnp.sum(grad, 0), vector, 0)
        own_grad = norms.normalize_gradient(
            _maps(machine, size, grad * _vector(saved.weights.scale, at, o, tile)[None]),
            _maps(machine, size, z),
            _vector(saved.rstds, at, o, tile),
            o == 0,
        )
        flows = _write(flows, source + o * rows, grad)
        return _write(flows, own + o * rows, own_grad.reshape(rows, tile)), scales, biases

    flows, scales, biases = carry
    flows = _tap_backward(machine, size, saved.taps, at, flows)
    flows = shown.block_gradient(machine, size, at, place.base, flows, saved.tape)
    return lax.fori_loop(0, at.tiles_out, through_norm, (flows, scales, biases))


def _same_group(machine: TileMachine, conv: TileConv, at: Instructions) -> Array:
    """Say where a kernel between two tiles connects channels of one group, [k * k * tile, tile]."""
    tile, positions = machine.tile, conv.kernel**2
    group = jnp.arange(tile) // at.lane_group
    same = jnp.broadcast_to(group[:, None] == group[None], (positions, tile, tile))
    return same.reshape(positions * tile, tile)


def _put_gradient(machine: TileMachine, place: Array, grad: Array, adds: Array, flows: Array) -> Array:
    """Write the gradient of an input tile to ``flows``, or add it to what is there."""
    return _write(flows, place, grad + jnp.where(adds, _read(flows, place, grad.shape[0]), 0))


def _stride1_backward(
    machine: TileMachine, conv: TileConv, saved: _Saved, step: _Step, carry: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Go back through a convolution at stride 1: returns gradients of activations [slots, tile] and of kernels.

    Shifted copies of the output's gradient serve both gradients, in products of long rows.
    """
    (at, place), rows, tile, positions = step, machine.rows(conv.size), machine.tile, conv.kernel**2
    unit, own, target = positions * tile, _OWN_SLOT * machine.slot_rows, at.grad_target * machine.slot_rows
    same_group = _same_group(machine, conv, at)

    def from_output(o: Array, carry: tuple[Array, Array]):
        shifted = _columns(machine, conv, _read(carry[0], own + o * rows, rows))
        block = o // at.block_out

        def to_input(n: Array, carry: tuple[Array, Array]):
            flows, kernels = carry
            i = block * at.block_in + n
            row = at.row + (i * at.block_out + o % at.block_out) * unit
            kernel = _read(saved.weights.kernels, row, unit).reshape(positions, tile, tile)
            flipped = jnp.swapaxes(kernel[::-1], 1, 2).reshape(unit, tile)
            x = _read(saved.tape, place.source + i * rows, rows)
            products = precision.product(x.T, shifted).reshape(tile, positions, tile)  # [in, shift, out]
            grad = jnp.swapaxes(products, 0, 1)[::-1].reshape(unit, tile)
            kernels = _write(kernels, row, jnp.where(same_group, grad, 0))
            adds = (at.grad_adds > 0) | (o % at.block_out > 0)
            grad_x = precision.product(shifted, flipped)
            return _put_gradient(machine, target + i * rows, grad_x, adds, flows), kernels

        return lax.fori_loop(0, at.block_in, to_input, carry)

    return lax.fori_loop(0, at.tiles_out, from_output, carry)


def _stride2_backward(
    machine: TileMachine, conv: TileConv, saved: _Saved, step: _Step, carry: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Go back through a convolution at stride 2: returns gradients of activations [slots, tile] and of kernels.

    What the output reads of the input is smaller than shifted copies of the output's gradient would be.
    """
    (at, place), tile, unit = step, machine.tile, conv.kernel**2 * machine.tile
    rows_in, rows = machine.rows(conv.size), machine.rows(conv.size_out)
    own, target = _OWN_SLOT * machine.slot_rows, at.grad_target * machine.slot_rows
    same_group = _same_group(machine, conv, at)

    def from_input(i: Array, carry: tuple[Array, Array]):
        flows, kernels = carry
        columns = _columns(machine, conv, _read(saved.tape, place.source + i * rows_in, rows_in))
        first = (i // at.block_in) * at.block_out

        def to_output(o: Array, carry: tuple[Array, Array]):
            back, kernels = carry
            row = at.row + (i * at.block_out + o) * unit
            grad = _read(flows, own + (first + o) * rows, rows)
            kernels = _write(kernels, row, jnp.where(same_group, precision.product(columns.T, grad), 0))
            return back + precision.product(grad, _read(saved.weights.kernels, row, unit).T), kernels

        back, kernels = lax.fori_loop(0, at.block_out, to_output, (jnp.zeros_like(columns), kernels))
        grad = loop.transposed(functools.partial(_columns, machine, conv), (rows_in, tile), back)
        return _put_gradient(machine, target + i * rows_in, grad, at.grad_adds > 0, flows), kernels

    return lax.fori_loop(0, at.tiles_in, from_input, carry)


def _backward(
    machine: TileMachine,
    stem: tuple[int, ...],
    weights: Weights,
    network: Network,
    written: tuple[Array, Array],
    grad_taps: Array,
) -> tuple[Array, Weights]:
    """Return the gradients of the stem's output, whose shape is ``stem``, and of the weights."""
    saved = _Saved(weights, *written, jax.vmap(lambda grad: loop.apart(grad, machine.tap_tiles))(grad_taps))

    def convolve(conv: TileConv, kernels: Array, step: _Step, tape: Array, sums: Array) -> Array:
        return _convolve(machine, conv, weights._replace(kernels=kernels), step, tape, sums)

    def run(step: _Step, carry: tuple[Array, Weights]) -> tuple[Array, Weights]:
        flows, (kernels, scales, biases) = carry
        sizes = range(len(machine.sizes))
        finishes = [functools.partial(_finish_backward, machine, size, saved, step) for size in sizes]
        flows, scales, biases = apply_chosen(finishes, machine.size_out(step[0].conv), (flows, scales, biases))
        convs = [
            functools.partial(_stride1_backward if conv.stride == 1 else _stride2_backward, machine, conv, saved, step)
            for conv in machine.convs
        ]
        flows, kernels = apply_chosen(convs, step[0].conv, (flows, kernels))
        own = _OWN_SLOT * machine.slot_rows
        flows = shown.conv_gradient(machine, step, flows, own, saved.tape, weights.kernels, convolve)
        return flows, Weights(kernels, scales, biases)

    flows = lax.empty((NUM_SLOTS * machine.slot_rows, machine.tile), saved.tape.dtype)
    start = (flows, jax.tree.map(jnp.zeros_like, weights))
    flows, grads = loop.backward(run, (network.instructions, network.places), network.length, start)
    first = network.instructions.grad_target[0] * machine.slot_rows
    return _read(flows, first, stem[0] * machine.rows(0)).reshape(stem), grads


_run = loop.differentiable(_forward, _backward)


def run(machine: TileMachine, stem: Array, weights: Weights, network: Network) -> Array:
    """Run a chain of convolutions.

    Args:
      machine: the static side.
      stem: [N, B, H, W, tile], the input of the first one.
      weights: the bank. ``kernels`` [R, tile] has k * k * tile rows (position major) for each pair of connected tiles,
        those of one input tile together; ``scale`` and ``bias`` [V * tile].
      network: which convolutions, and where; no gradient.

    Returns:
      [T, B, 8, 8, tap_tiles * tile]: the tapped outputs, resized (nearest) and widened with zero channels.
    """
    return _run(machine, stem, weights, network)
