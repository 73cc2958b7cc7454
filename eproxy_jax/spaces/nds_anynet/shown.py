"""This module says what collections (``nn/marks.py``) see of an AnyNet while its interpreter runs.

The interpreter works on tiles of channels. So the marks hand over tapes and the bank, with a lens that puts the tiles
of a layer side by side: programs without a collection compute none of it. What is seen is as wide as the widest network
of the program; channels that a network has not are zero, and so are those that fill up a tile.

A block ends with a convolution whose output has a ReLU and belongs to the trunk: its gradient is in buffer 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import convolution, marks
from eproxy_jax.nn.convolution import ConvGradient

if TYPE_CHECKING:
    from eproxy_jax.spaces.nds_anynet.interpreter import Instructions, Places, TileConv, TileMachine

_TRUNK_SLOTS = 2


def _side_by_side(machine: TileMachine, size: int, most: int, count: Array, rows: Array, start: Any) -> Array:
    """Return ``count`` tiles from row ``start`` on as one map, [B, H, W, most * tile], with zeros behind them."""
    length = machine.rows(size)

    def tile(n: Array) -> Array:
        return jnp.where(n < count, lax.dynamic_slice_in_dim(rows, start + n * length, length), 0)

    tiles = lax.map(tile, jnp.arange(most))  # [most, rows, tile]
    return jnp.moveaxis(tiles, 0, 1).reshape(*machine.map_shape(size)[:3], -1)


def _put(machine: TileMachine, size: int, most: int, count: Array, rows: Array, start: Any, whole: Array) -> Array:
    """Invert :func:`_side_by_side`: return ``rows`` with a map's tiles."""
    length = machine.rows(size)
    tiles = jnp.moveaxis(whole.reshape(length, most, machine.tile), 1, 0)

    def write(n: Array, rows: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(rows, tiles[n], start + n * length, 0)

    return lax.fori_loop(0, count, write, rows)


def _widest(machine: TileMachine) -> int:
    """Tiles of the widest layer."""
    return machine.slot_rows // machine.rows(0)


# --- forward -------------------------------------------------------------------------------------------------


def relu(machine: TileMachine, size: int, out: Array, y: Array, has_relu: Array) -> Array:
    """Mark ``y`` [rows, tile], the input of a ReLU where ``has_relu``; return ``out``."""
    lens = marks.Lens(
        lambda out, y, has_relu: (y.reshape(machine.map_shape(size)),), when=lambda out, y, has_relu: has_relu > 0
    )
    return marks.mark("relu", out, y, has_relu, lens=lens)[0]


def norm(
    machine: TileMachine, size: int, at: Instructions, base: Array, tape: Array, rstds: Array, sums: Array
) -> tuple[Array, Array]:
    """Mark the batch norm of a whole layer: its input in ``sums``, its output on the tape, reciprocal deviations.

    Returns:
      Tape and reciprocal deviations.
    """
    most, tile = _widest(machine), machine.tile

    def get(tape: Array, rstds: Array, sums: Array, vector: Array, base: Array, count: Array) -> tuple[Array, ...]:
        x = _side_by_side(machine, size, most, count, sums, 0)
        normalized = _side_by_side(machine, size, most, count, tape, base)
        place = jnp.arange(most * tile)
        rstd = jnp.where(place < count * tile, jnp.take(rstds, vector * tile + place, mode="clip"), 1)
        return x, normalized, rstd

    def put(results: Any, tape: Array, rstds: Array, sums: Array, vector: Array, base: Array, count: Array) -> Any:
        _, normalized, rstd = results
        tape = _put(machine, size, most, count, tape, base, normalized)

        def write(n: Array, rstds: Array) -> Array:
            part = lax.dynamic_slice_in_dim(rstd, n * tile, tile)
            return lax.dynamic_update_slice_in_dim(rstds, part, (vector + n) * tile, 0)

        return tape, lax.fori_loop(0, count, write, rstds), sums, vector, base, count

    operands = (tape, rstds, sums, at.vector, base, at.tiles_out)
    return marks.mark("norm", *operands, lens=marks.Lens(get, put))[:2]


def kernel(machine: TileMachine, at: Instructions, sums: Array, kernels: Array) -> Array:
    """Mark the kernel of a layer: the bank [R, tile], with zeros for all that is not the layer's; return ``sums``."""

    def get(sums: Array, kernels: Array, row: Array, tiles_in: Array, block_out: Array, conv: Array) -> tuple[Array]:
        positions = jnp.asarray([one.kernel**2 for one in machine.convs], jnp.int32)[conv]
        place = jnp.arange(kernels.shape[0])
        own = (place >= row) & (place < row + tiles_in * block_out * positions * machine.tile)
        return (jnp.where(own[:, None], kernels, 0)[:, :, None, None],)

    operands = (sums, kernels, at.row, at.tiles_in, at.block_out, at.conv)
    return marks.mark("kernel", *operands, lens=marks.Lens(get))[0]


def block_output(machine: TileMachine, at: Instructions, base: Array, tape: Array) -> Array:
    """Mark the output of a layer where it is a block's, as a feature and as an entry; return the tape."""
    most = machine.tap_tiles
    for size in range(len(machine.sizes)):

        def start(base: Array, count: Array, size: int = size) -> Array:
            return base + count * machine.rows(size)

        def get(tape: Array, base: Array, count: Array, *_: Array, size: int = size, start: Any = start) -> Any:
            return (_side_by_side(machine, size, most, count, tape, start(base, count)),)

        def put(
            results: Any, tape: Array, base: Array, count: Array, *others: Array, size: int = size, start: Any = start
        ) -> Any:
            return _put(machine, size, most, count, tape, start(base, count), results[0]), base, count, *others

        def when(
            tape: Array, base: Array, count: Array, relu: Array, slot: Array, conv: Array, size: int = size
        ) -> Array:
            return (relu > 0) & (slot < _TRUNK_SLOTS) & (machine.size_out(conv) == size)

        operands = (base, at.tiles_out, at.relu, at.grad_source, at.conv)
        tape = marks.mark("feature", tape, *operands, lens=marks.Lens(get, None, when))[0]
        tape = marks.mark("entry", tape, *operands, lens=marks.Lens(get, put, when))[0]
    return tape


# --- backward ------------------------------------------------------------------------------------------------


def block_gradient(machine: TileMachine, size: int, at: Instructions, base: Array, flows: Array, tape: Array) -> Array:
    """Mark the gradient of a layer's output where it is a block's; return the buffers of gradients.

    Which channels there are is seen from the output: behind a batch norm, no channel is zero everywhere.
    """
    most, rows = machine.tap_tiles, machine.rows(size)

    def get(flows: Array, slot: Array, base: Array, tape: Array, count: Array, relu: Array) -> tuple[Array, Array]:
        output = _side_by_side(machine, size, most, count, tape, base + count * rows)
        grad = _side_by_side(machine, size, most, count, flows, slot * machine.slot_rows)
        return grad, marks.live(output)

    def put(results: Any, flows: Array, slot: Array, base: Array, tape: Array, count: Array, relu: Array) -> Any:
        flows = _put(machine, size, most, count, flows, slot * machine.slot_rows, results[0])
        return flows, slot, base, tape, count, relu

    def when(flows: Array, slot: Array, base: Array, tape: Array, count: Array, relu: Array) -> Array:
        return (relu > 0) & (slot < _TRUNK_SLOTS)

    def entry(*operands: Array) -> tuple[Array]:
        return (get(*operands)[0],)

    operands = (at.grad_source, base, tape, at.tiles_out, at.relu)
    flows = marks.mark("entry_gradient", flows, *operands, lens=marks.Lens(entry, put, when))[0]
    return marks.mark("feature_gradient", flows, *operands, lens=marks.Lens(get, put, when))[0]


def conv_gradient(
    machine: TileMachine,
    step: tuple[Instructions, Places],
    flows: Array,
    own: int,
    tape: Array,
    kernels: Array,
    convolve: Callable[..., Array],
) -> Array:
    """Mark the gradient of a layer's convolution; return the buffers of gradients.

    Args:
      machine: the machine.
      step: the layer.
      flows: the buffers.
      own: row of the gradient of the convolution's output.
      tape: of the forward pass.
      kernels: the bank's.
      convolve: (kind of convolution, kernels, step, tape, sums) -> output tiles in front of ``sums``.
    """
    at, place = step
    most = _widest(machine)
    fields = len(at)
    for number, conv in enumerate(machine.convs):

        def get(flows: Array, tape: Array, kernels: Array, *step: Array, conv: TileConv = conv) -> ConvGradient:
            at_, place_ = type(at)(*step[:fields]), type(place)(*step[fields:])
            size, rows_in = conv.size_out, machine.rows(conv.size)
            sums = convolve(
                conv, kernels, (at_, place_), tape, jnp.zeros((machine.slot_rows, machine.tile), tape.dtype)
            )
            out = _side_by_side(machine, size, most, at_.tiles_out, sums, 0)
            grad = _side_by_side(machine, size, most, at_.tiles_out, flows, own)
            x = lax.dynamic_slice_in_dim(tape, place_.source, rows_in).reshape(machine.map_shape(conv.size))
            met = convolution.patches(x[..., :1], conv.kernel, conv.stride)[..., 0]
            return ConvGradient(out, grad, conv.kernel**2 * (at_.channels_in // at_.groups), met)

        def when(flows: Array, tape: Array, kernels: Array, *step: Array, number: int = number) -> Array:
            return type(at)(*step[:fields]).conv == number

        lens = marks.Lens(get, None, when)
        flows = marks.mark("conv_gradient", flows, tape, kernels, *at, *place, lens=lens)[0]
    return flows
