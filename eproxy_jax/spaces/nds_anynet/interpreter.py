"""A chain of convolutions whose number, widths, groups and wiring are data, in one small compiled program.

Channels lie in tiles of a fixed width: an activation of C channels is ceil(C / tile) arrays [B, H, W, tile], one after
the other on a tape, and a kernel is one small matrix for each pair of an input and an output tile, one after the other
in a bank. A network is a list of instructions (convolution, batch norm, perhaps a shortcut, perhaps ReLU) whose loops
over tiles have as many turns as its widths ask for. So one program serves all widths and depths, and holds only as
many convolutions as there are (map size, stride, kernel size): about ten. A grouped convolution meets the tiles of its
own group only; groups narrower than a tile share one, and the weights between them are zero and stay zero.

What is padded is the last tile of a width, and the tiles that several narrow groups share. Padded channels have zero
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

from eproxy_jax.nn import convolution, norms, precision
from eproxy_jax.spaces.interpreter import loop
from eproxy_jax.spaces.interpreter.bank import Weights
from eproxy_jax.spaces.interpreter.loop import apply_chosen
from eproxy_jax.types import TARGET_SIZE


@dataclasses.dataclass(frozen=True, order=True)
class Kind:
    """A convolution as far as it is compiled.

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
class TrunkSpec:
    """The static side of a trunk: what is compiled.

    Attributes:
      batch: B.
      sizes: (height, width) of the maps, each half the one before.
      kinds: the convolutions that instructions may choose from.
      tile: channels in a tile.
      tape_rows: rows [tile] of the tape.
      slot_rows: rows of each of the buffers for gradients of activations.
      tap_tiles: tiles of the widest tap.
      num_taps: T.
    """

    batch: int
    sizes: tuple[tuple[int, int], ...]
    kinds: tuple[Kind, ...]
    tile: int
    tape_rows: int
    slot_rows: int
    tap_tiles: int
    num_taps: int

    def rows(self, size: int) -> int:
        """Rows of one tile's activation: positions of the whole batch."""
        height, width = self.sizes[size]
        return self.batch * height * width

    def size_out(self, kind: Array) -> Array:
        """Indices of the map sizes of the outputs of these kinds."""
        return jnp.asarray([one.size_out for one in self.kinds], jnp.int32)[kind]


class Instructions(NamedTuple):
    """Convolutions in the order of the forward pass; integer arrays [N], or scalars of one instruction.

    Attributes:
      kind: index into ``TrunkSpec.kinds``.
      tiles_in: tiles of the input.
      tiles_out: tiles of the output.
      block_in: input tiles that are connected with each other; all of them but in a grouped convolution.
      block_out: output tiles that such a block of input tiles makes.
      lane_group: channels of a group, where a tile holds several; else ``tile``.
      row: first row of its kernels in the bank.
      vector: first tile of its scales and biases.
      source: first row of its input on the tape.
      base: first row of what it writes: its normalised convolution, then its output.
      shortcut: first row of what is added to its output; -1 for nothing.
      relu: 1 where a ReLU comes last.
      grad_source: buffer (0 to 3) with the gradient of its output; it is left behind without what ReLU stops, which
        is the gradient of the shortcut.
      grad_target: buffer of the gradient of its input.
      grad_adds: 1 where it adds to what is in ``grad_target``.
      tap: which tap its output is; -1 for none.
    """

    kind: Array
    tiles_in: Array
    tiles_out: Array
    block_in: Array
    block_out: Array
    lane_group: Array
    row: Array
    vector: Array
    source: Array
    base: Array
    shortcut: Array
    relu: Array
    grad_source: Array
    grad_target: Array
    grad_adds: Array
    tap: Array


class Plan(NamedTuple):
    """A network as data.

    Attributes:
      instructions: its convolutions; those from ``length`` on are ignored.
      length: how many there are.
      tap_size: [T], index of each tap's map size.
      tap_tiles: [T], tiles of each tap.
      tap_source: [T], first row on the tape.
    """

    instructions: Instructions
    length: Array
    tap_size: Array
    tap_tiles: Array
    tap_source: Array


NUM_SLOTS = 5
_OWN_SLOT = 4  # gradient of the convolution's own output, behind its batch norm


def _read(rows: Array, start: Any, count: int) -> Array:
    return lax.dynamic_slice_in_dim(rows, start, count)


def _write(rows: Array, start: Any, values: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(rows, values, start, 0)


def _maps(spec: TrunkSpec, size: int, rows: Array) -> Array:
    """[rows, C] -> [B, H, W, C]."""
    return rows.reshape(spec.batch, *spec.sizes[size], rows.shape[-1])


def _columns(spec: TrunkSpec, kind: Kind, rows: Array) -> Array:
    """What each output position reads of an input tile: [rows in, tile] -> [rows out, k * k * tile]."""
    return convolution.patches(_maps(spec, kind.size, rows), kind.kernel, kind.stride).reshape(
        spec.rows(kind.size_out), -1
    )


def _vector(vectors: Array, at: Instructions, out: Array, tile: int) -> Array:
    return lax.dynamic_slice_in_dim(vectors, (at.vector + out) * tile, tile)


def _convolve(spec: TrunkSpec, kind: Kind, weights: Weights, tape: Array, at: Instructions, sums: Array) -> Array:
    """``sums`` with the convolution's output tiles, before its batch norm, in front."""
    rows_in, rows, unit = spec.rows(kind.size), spec.rows(kind.size_out), kind.kernel**2 * spec.tile

    def from_input(i: Array, sums: Array) -> Array:
        columns = _columns(spec, kind, _read(tape, at.source + i * rows_in, rows_in))
        first = (i // at.block_in) * at.block_out

        def to_output(o: Array, sums: Array) -> Array:
            kernel = _read(weights.kernels, at.row + (i * at.block_out + o) * unit, unit)
            place = (first + o) * rows
            before = jnp.where(i % at.block_in == 0, 0, _read(sums, place, rows))
            return _write(sums, place, precision.product(columns, kernel) + before)

        return lax.fori_loop(0, at.block_out, to_output, sums)

    return lax.fori_loop(0, at.tiles_in, from_input, sums)


def _finish(spec: TrunkSpec, size: int, weights: Weights, at: Instructions, carry: tuple[Array, Array, Array]):
    """Batch norm, shortcut and ReLU: (tape, sums, reciprocal deviations) with those of one instruction written.

    Each loop reads and writes different arrays: where a body reads from an array and writes to other places of it, XLA
    copies it whole.
    """
    rows = spec.rows(size)

    def normalise(sums: Array, o: Array, carry: tuple[Array, Array]):
        tape, rstds = carry
        z, rstd = norms.standardize(_maps(spec, size, _read(sums, o * rows, rows)))
        rstds = lax.dynamic_update_slice_in_dim(rstds, rstd, (at.vector + o) * spec.tile, 0)
        return _write(tape, at.base + o * rows, z.reshape(rows, spec.tile)), rstds

    def activate(tape: Array, o: Array, sums: Array) -> Array:
        z = _read(tape, at.base + o * rows, rows)
        y = z * _vector(weights.scale, at, o, spec.tile)[None] + _vector(weights.bias, at, o, spec.tile)[None]
        y = y + jnp.where(at.shortcut >= 0, _read(tape, jnp.maximum(at.shortcut, 0) + o * rows, rows), 0)
        return _write(sums, o * rows, jnp.where((at.relu > 0) & (y < 0), 0, y))

    def record(sums: Array, o: Array, tape: Array) -> Array:
        return _write(tape, at.base + (at.tiles_out + o) * rows, _read(sums, o * rows, rows))

    tape, sums, rstds = carry
    tape, rstds = lax.fori_loop(0, at.tiles_out, functools.partial(normalise, sums), (tape, rstds))
    sums = lax.fori_loop(0, at.tiles_out, functools.partial(activate, tape), sums)
    return lax.fori_loop(0, at.tiles_out, functools.partial(record, sums), tape), sums, rstds


def _forward(spec: TrunkSpec, stem: Array, weights: Weights, plan: Plan) -> tuple[Array, tuple[Array, Array]]:
    """Taps [T, B, 8, 8, C], and what the backward pass needs."""
    dtype = stem.dtype
    tape = _write(lax.empty((spec.tape_rows, spec.tile), dtype), 0, stem.reshape(-1, spec.tile))
    sums = lax.empty((spec.slot_rows, spec.tile), dtype)

    def step(at: Instructions, carry: tuple[Array, Array, Array]):
        tape, sums, rstds = carry
        convs = [functools.partial(_convolve, spec, kind, weights, tape, at) for kind in spec.kinds]
        sums = apply_chosen(convs, at.kind, sums)
        finishes = [functools.partial(_finish, spec, size, weights, at) for size in range(len(spec.sizes))]
        return apply_chosen(finishes, spec.size_out(at.kind), (tape, sums, rstds))

    start = (tape, sums, jnp.zeros_like(weights.scale))
    tape, _, rstds = loop.forward(step, plan.instructions, plan.length, start)
    taps = []
    for slot in range(spec.num_taps):

        def widen(size: int, tap: Array, slot: int = slot) -> Array:
            def read_tile(i: Array) -> Array:
                rows = spec.rows(size)
                return _maps(spec, size, _read(tape, plan.tap_source[slot] + i * rows, rows))

            return loop.read_tap(read_tile, plan.tap_tiles[slot], tap)

        zeros = jnp.zeros((spec.tap_tiles, spec.batch, TARGET_SIZE, TARGET_SIZE, spec.tile), dtype)
        sizes = [functools.partial(widen, size) for size in range(len(spec.sizes))]
        taps.append(loop.side_by_side(apply_chosen(sizes, plan.tap_size[slot], zeros)))
    return jnp.stack(taps), (tape, rstds)


def _tap_backward(spec: TrunkSpec, size: int, tiled: Array, at: Instructions, flows: Array) -> Array:
    """Gradients of activations with those of a tap, [T, N, B, 8, 8, tile], added where the output is one."""
    rows = spec.rows(size)
    shape = (spec.batch, *spec.sizes[size], spec.tile)
    first = at.tap == 0  # the last of the chain: nothing has come back yet

    def add(i: Array, flows: Array) -> Array:
        place = at.grad_source * spec.slot_rows + i * rows
        grad = loop.tap_gradient(tiled[jnp.maximum(at.tap, 0), i], shape).reshape(rows, spec.tile)
        return _write(flows, place, grad + jnp.where(first, 0, _read(flows, place, rows)))

    return lax.fori_loop(0, jnp.where(at.tap >= 0, at.tiles_out, 0), add, flows)


def _finish_backward(
    spec: TrunkSpec,
    size: int,
    weights: Weights,
    tape: Array,
    rstds: Array,
    tiled: Array,
    at: Instructions,
    carry: tuple[Array, Array, Array],
):
    """(gradients of activations [slots, tile], of scales, of biases) behind tap, ReLU and batch norm."""
    rows, tile = spec.rows(size), spec.tile
    own, source = _OWN_SLOT * spec.slot_rows, at.grad_source * spec.slot_rows

    def through_norm(o: Array, carry: tuple[Array, Array, Array]):
        flows, scales, biases = carry
        grad = _read(flows, source + o * rows, rows)
        y = _read(tape, at.base + (at.tiles_out + o) * rows, rows)
        grad = jnp.where((at.relu > 0) & (y <= 0), 0, grad)
        z = _read(tape, at.base + o * rows, rows)
        place = (at.vector + o) * tile
        scales = lax.dynamic_update_slice_in_dim(scales, jnp.sum(grad * z, 0), place, 0)
        biases = lax.dynamic_update_slice_in_dim(biases, jnp.sum(grad, 0), place, 0)
        own_grad = norms.normalize_gradient(
            _maps(spec, size, grad * _vector(weights.scale, at, o, tile)[None]),
            _maps(spec, size, z),
            _vector(rstds, at, o, tile),
        )
        flows = _write(flows, source + o * rows, grad)
        return _write(flows, own + o * rows, own_grad.reshape(rows, tile)), scales, biases

    flows, scales, biases = carry
    flows = _tap_backward(spec, size, tiled, at, flows)
    return lax.fori_loop(0, at.tiles_out, through_norm, (flows, scales, biases))


def _convolve_backward(
    spec: TrunkSpec, kind: Kind, weights: Weights, tape: Array, at: Instructions, carry: tuple[Array, Array]
):
    """(gradients of activations [slots, tile], gradients of kernels) behind one convolution."""
    rows_in, rows, size, tile = spec.rows(kind.size), spec.rows(kind.size_out), kind.kernel, spec.tile
    unit = size**2 * tile
    own, target = _OWN_SLOT * spec.slot_rows, at.grad_target * spec.slot_rows
    lanes = jnp.arange(tile) // at.lane_group
    same_group = jnp.broadcast_to(lanes[:, None] == lanes[None], (size**2, tile, tile)).reshape(unit, tile)

    def put(flows: Array, i: Array, grad: Array, adds: Array) -> Array:
        place = target + i * rows_in
        return _write(flows, place, grad + jnp.where(adds, _read(flows, place, rows_in), 0))

    def from_output(o: Array, carry: tuple[Array, Array]):
        """Stride 1: shifted copies of the output's gradient serve both gradients, in products of long rows."""
        flows = carry[0]
        shifted = _columns(spec, dataclasses.replace(kind, size=kind.size_out), _read(flows, own + o * rows, rows))
        block = o // at.block_out

        def to_input(n: Array, carry: tuple[Array, Array]):
            flows, kernels = carry
            i = block * at.block_in + n
            row = at.row + (i * at.block_out + o % at.block_out) * unit
            kernel = _read(weights.kernels, row, unit).reshape(size**2, tile, tile)
            flipped = jnp.swapaxes(kernel[::-1], 1, 2).reshape(unit, tile)
            x = _read(tape, at.source + i * rows_in, rows_in)
            products = precision.product(x.T, shifted).reshape(tile, size**2, tile)  # [in, shift, out]
            grad = jnp.swapaxes(products, 0, 1)[::-1].reshape(unit, tile)
            kernels = _write(kernels, row, jnp.where(same_group, grad, 0))
            adds = (at.grad_adds > 0) | (o % at.block_out > 0)
            return put(flows, i, precision.product(shifted, flipped), adds), kernels

        return lax.fori_loop(0, at.block_in, to_input, (flows, carry[1]))

    def from_input(i: Array, carry: tuple[Array, Array]):
        """Stride 2: what the output reads of the input is the smaller."""
        flows, kernels = carry
        columns = _columns(spec, kind, _read(tape, at.source + i * rows_in, rows_in))
        first = (i // at.block_in) * at.block_out

        def to_output(o: Array, carry: tuple[Array, Array]):
            back, kernels = carry
            row = at.row + (i * at.block_out + o) * unit
            grad = _read(flows, own + (first + o) * rows, rows)
            kernels = _write(kernels, row, jnp.where(same_group, precision.product(columns.T, grad), 0))
            return back + precision.product(grad, _read(weights.kernels, row, unit).T), kernels

        back, kernels = lax.fori_loop(0, at.block_out, to_output, (jnp.zeros_like(columns), kernels))
        grad = loop.transposed(functools.partial(_columns, spec, kind), (rows_in, tile), back)
        return put(flows, i, grad, at.grad_adds > 0), kernels

    if kind.stride == 1:
        return lax.fori_loop(0, at.tiles_out, from_output, carry)
    return lax.fori_loop(0, at.tiles_in, from_input, carry)


def _backward(
    spec: TrunkSpec,
    stem: tuple[int, ...],
    weights: Weights,
    plan: Plan,
    saved: tuple[Array, Array],
    grad_taps: Array,
) -> tuple[Array, Weights]:
    """Gradients of the stem's output, whose shape is ``stem``, and of the weights."""
    tape, rstds = saved
    tiled = jax.vmap(lambda grad: loop.apart(grad, spec.tap_tiles))(grad_taps)

    def step(at: Instructions, carry: tuple[Array, Weights]):
        flows, (kernels, scales, biases) = carry
        sizes = range(len(spec.sizes))
        finishes = [functools.partial(_finish_backward, spec, n, weights, tape, rstds, tiled, at) for n in sizes]
        flows, scales, biases = apply_chosen(finishes, spec.size_out(at.kind), (flows, scales, biases))
        convs = [functools.partial(_convolve_backward, spec, kind, weights, tape, at) for kind in spec.kinds]
        flows, kernels = apply_chosen(convs, at.kind, (flows, kernels))
        return flows, Weights(kernels, scales, biases)

    flows = lax.empty((NUM_SLOTS * spec.slot_rows, spec.tile), tape.dtype)
    start = (flows, jax.tree.map(jnp.zeros_like, weights))
    flows, grads = loop.backward(step, plan.instructions, plan.length, start)
    first = plan.instructions.grad_target[0] * spec.slot_rows
    return _read(flows, first, stem[0] * spec.rows(0)).reshape(stem), grads


_run = loop.differentiable(_forward, _backward)


def trunk(spec: TrunkSpec, stem: Array, weights: Weights, plan: Plan) -> Array:
    """Run a chain of convolutions.

    Args:
      spec: the static side.
      stem: [N, B, H, W, tile], the input of the first one.
      weights: the bank. ``kernels`` [R, tile] has k * k * tile rows (position major) for each pair of connected tiles,
        those of one input tile together; ``scale`` and ``bias`` [V * tile].
      plan: which convolutions, and where; no gradient.

    Returns:
      [T, B, 8, 8, tap_tiles * tile]: the tapped outputs, resized (nearest) and widened with zero channels.
    """
    return _run(spec, stem, weights, plan)
