"""This module interprets NAS-Bench-MR networks: one compiled program runs many of them.

Only the convolutions of a network run, one after the other. Each has one of the few shapes of ``CONV_SHAPES``, chosen
by data. Weights lie one after the other in one bank, as long as the largest network needs. Values lie one after the
other on a tape of rows as wide as the widest network: a pixel is a row, channels that are not in use are zero. So a
convolution reads whatever width is its own. The normalised outputs, which only the backward pass reads, lie packed on a
second tape. Gradients of values live in registers, because a value's gradient is needed only from its last use back to
its definition.

Unused channels need a mask in the weights' initialisation only: zero kernels give zero outputs, batch norm keeps them
zero, and no gradient leaves zero.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.nn import marks, resizing
from eproxy_jax.spaces.interpreter import loop
from eproxy_jax.spaces.interpreter.bank import Weights, before, init_rows, owner_of_rows, read, write
from eproxy_jax.spaces.interpreter.conv_norm import ConvNorm, Kept, Place
from eproxy_jax.spaces.interpreter.loop import apply_chosen
from eproxy_jax.spaces.nasbench_mr.notation import Arch
from eproxy_jax.spaces.nasbench_mr.program import (
    CONV_SHAPES,
    FIRST_BRANCH,
    FUSED_LEVEL,
    HIDDEN,
    LARGEST,
    NUM_LEVELS,
    NUM_TAPS,
    SAME,
    UP,
    ConvShape,
    Encoded,
    Instructions,
    conv_sequence,
)
from eproxy_jax.types import TARGET_SIZE

# XLA's CPU backend fills an empty array with zeros, so that tapes and banks cost what they are long: networks that need
# no more than these shares of the largest network's rows of values, second tape, bank and scales get shorter ones.
_SHARES = ((0.6, 0.4, 0.4, 0.5), (1.0, 1.0, 1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class TapeSpec:
    """The static side of the interpreter, which is compiled.

    Attributes:
      batch: B.
      height: of the images.
      width: of the images.
      channels: the largest number of channels, a multiple of 8.
      capacity: how long tapes and bank are, see :func:`capacity_of`.
    """

    batch: int
    height: int
    width: int
    channels: int
    capacity: int

    @property
    def unit(self) -> int:
        """Columns of the bank: the narrowest shape's channels."""
        return self.channels // 8

    def map_size(self, level: int) -> tuple[int, int]:
        """Return the height and width of the maps of a level."""
        return self.height >> level, self.width >> level

    def rows(self, level: int) -> int:
        """Return the number of pixels in a batch of maps of a level."""
        height, width = self.map_size(level)
        return self.batch * height * width

    def channels_of(self, shape: ConvShape) -> int:
        """Return the number of input channels of a shape, which is that of its output channels too."""
        return shape.eighths * self.unit

    @functools.cached_property
    def register_rows(self) -> tuple[int, ...]:
        """First row of each register, and the number of rows of all together."""
        sizes = [self.rows(0)] * FIRST_BRANCH + [self.rows(i) for i in range(NUM_LEVELS)] * NUM_TAPS
        return (0, *map(int, np.cumsum(sizes)))

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """What each shape takes: rows of values, numbers on the second tape, rows of the bank, scales; [shapes, 4]."""
        table = []
        for shape in CONV_SHAPES:
            width = self.channels_of(shape)
            weights = shape.kernel_size**2 * width * width // self.unit
            table.append((self.rows(shape.level_out), self.rows(shape.conv_level) * width, weights, width))
        return np.asarray(table, np.int64)

    def needs(self, arch: Arch) -> np.ndarray:
        """Return the sums of ``sizes`` over the convolutions of a network, [4]."""
        return self.sizes[[step.shape for step in conv_sequence(arch).steps]].sum(0)

    @functools.cached_property
    def totals(self) -> np.ndarray:
        """The most that ``needs`` may be, [4]."""
        return np.floor(self.needs(LARGEST) * np.asarray(_SHARES[self.capacity])).astype(np.int64)


@functools.cache
def _smallest_specs() -> tuple[TapeSpec, ...]:
    """Return the specs for one small image, one per capacity: shares do not depend on the sizes."""
    return tuple(TapeSpec(1, 8, 8, 8, capacity) for capacity in range(len(_SHARES)))


def capacity_of(arch: Arch) -> int:
    """Return the smallest capacity whose tapes and bank are long enough for an architecture."""
    return next(spec.capacity for spec in _smallest_specs() if np.all(spec.needs(arch) <= spec.totals))


class Places(NamedTuple):
    """Places of the arrays of a convolution, which depend on the size of the images; [N], or scalars.

    Attributes:
      source: row of its input among the values.
      addend: row of what it adds.
      out: row of its output.
      norm: position of its normalised output on the second tape.
      weights: of its kernel, scales and biases in the bank.
      source_register: row of its input's gradient.
      addend_register: row of the addend's gradient; 0, which is nowhere, for none.
      out_register: row of its output's gradient.
    """

    source: Array
    addend: Array
    out: Array
    norm: Array
    weights: Place
    source_register: Array
    addend_register: Array
    out_register: Array


class Network(NamedTuple):
    """A network as data, for images of one size.

    Attributes:
      length: number of convolutions.
      steps: the convolutions.
      places: of the convolutions.
      taps: [3, 4], rows of the tapped values.
      tap_registers: [3, 4], rows of their gradients.
    """

    length: Array
    steps: Instructions
    places: Places
    taps: Array
    tap_registers: Array


def _of_shape(spec: TapeSpec, column: int, shape: Array) -> Array:
    """Look up a column of ``sizes`` by shape; 0 where there is no shape."""
    return jnp.asarray([*spec.sizes[:, column], 0], jnp.int32)[shape]


def placed(spec: TapeSpec, parts: Encoded) -> Network:
    """Return an encoded network with the places of its arrays."""
    steps = parts.steps
    rows, norms, kernels, scales = (_of_shape(spec, column, steps.shape) for column in range(4))
    out = 2 * spec.rows(0) + before(rows)
    values = jnp.concatenate([jnp.asarray([0, spec.rows(0)], jnp.int32), out])
    registers = jnp.asarray(spec.register_rows, jnp.int32)
    places = Places(
        values[steps.source],
        values[steps.addend],
        out,
        before(norms),
        Place(before(kernels), before(scales)),
        registers[steps.source_register],
        registers[steps.addend_register],
        registers[steps.out_register],
    )
    return Network(jnp.sum(steps.shape >= 0), steps, places, values[parts.taps.values], registers[parts.taps.registers])


# --- reading and writing --------------------------------------------------------------------------------------


def _read_map(spec: TapeSpec, rows: Array, row: Any, level: int, channels: int) -> Array:
    """Read a map: [rows, C_max] -> [B, H, W, channels]."""
    flat = lax.dynamic_slice(rows, (row, jnp.zeros_like(row)), (spec.rows(level), channels))
    return flat.reshape(spec.batch, *spec.map_size(level), channels)


def _write_map(rows: Array, row: Any, values: Array) -> Array:
    return lax.dynamic_update_slice(rows, values.reshape(-1, values.shape[-1]), (row, jnp.zeros_like(row)))


def _total_map(spec: TapeSpec, rows: Array, row: Any, level: int, values: Array, first: Array) -> Array:
    """Add to what a register holds, unless that is of an earlier value.

    To clear a register after its last read seems simpler. But then XLA would copy all registers, as it does wherever a
    write does not depend on the reads that must come before it.
    """
    old = _read_map(spec, rows, row, level, values.shape[-1])
    return jnp.where(first > 0, 0, old) + values


def _widen(x: Array, channels: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


# --- one convolution ------------------------------------------------------------------------------------------


class _Written(NamedTuple):
    """The arrays that the forward pass writes: values, normalised outputs, reciprocal deviations."""

    values: Array
    norms: Array
    rstds: Array


class _Conv(NamedTuple):
    """The convolutions of one shape."""

    spec: TapeSpec
    shape: ConvShape

    @property
    def step(self) -> ConvNorm:
        """The convolution and its batch norm."""
        size, channels = self.shape.kernel_size, self.spec.channels_of(self.shape)
        return ConvNorm((size, size, channels, channels), self.shape.stride)

    def _maps(self, values: Array, at: Places) -> tuple[Array, Array]:
        """Read the input and the addend."""
        spec, shape, channels = self.spec, self.shape, self.step.channels
        x = _read_map(spec, values, at.source, shape.level, channels)
        return x, _read_map(spec, values, at.addend, shape.level_out, channels)

    def forward(self, weights: Weights, step: tuple[Instructions, Places], carry: _Written) -> _Written:
        """Run the convolution and return what is written so far."""
        (does, at), (values, norms, rstds) = step, carry
        x, addend = self._maps(values, at)
        kept = self.step.forward(weights, at.weights, x)
        y = self.step.output(weights, at.weights, kept.normalized)
        y, _ = marks.mark("fusion", y, does.enters_module)
        if self.shape.kind == UP:
            y = resizing.upsample_2x(marks.relu(y)) + addend
        else:
            y = marks.relu(y + jnp.where(does.after > 0, 0, addend)) + jnp.where(does.after > 0, addend, 0)
        if self.shape.kind == SAME:
            _, y, *_ = marks.mark("branch", addend, y, does.ends_block, does.is_stem)
        values = _write_map(values, at.out, _widen(y, self.spec.channels))
        return _Written(values, write(norms, at.norm, kept.normalized), write(rstds, at.weights.scale, kept.rstd))

    def backward(
        self, weights: Weights, written: _Written, step: tuple[Instructions, Places], carry: tuple[Array, Weights]
    ) -> tuple[Array, Weights]:
        """Hand on the gradient of this convolution's output; returns (registers, gradients of weights)."""
        spec, shape, channels = self.spec, self.shape, self.step.channels
        (does, at), (registers, grads) = step, carry
        # A loop of one turn: what reads registers inside a fused operation that others repeat makes XLA copy them all.
        zeros = jnp.zeros((spec.batch, *spec.map_size(shape.level_out), channels), registers.dtype)
        read_out = functools.partial(_read_map, spec, registers, at.out_register, shape.level_out, channels)
        grad: Any = apply_chosen([lambda _: read_out()], jnp.minimum(does.shape, 0), zeros)
        if shape.kind == SAME:
            grad, *_ = marks.mark("branch_output_gradient", grad, does.features, does.ends_block)
        x, addend = self._maps(written.values, at)
        normalized = read(written.norms, at.norm, (spec.batch, *spec.map_size(shape.conv_level), channels))
        kept = Kept(x, normalized, read(written.rstds, at.weights.scale, (channels,)))
        y = self.step.output(weights, at.weights, normalized)
        if shape.kind == UP:  # the addend has the output's register, and its gradient
            grad = resizing.upsample_2x_gradient(grad) * (y > 0)
        else:
            masked = grad * (y + jnp.where(does.after > 0, 0, addend) > 0)
            to_addend = jnp.where(does.after > 0, grad, masked)
            row = at.addend_register
            total = _total_map(spec, registers, row, shape.level_out, to_addend, does.first_addend)
            registers = _write_map(registers, row, total)
            grad = masked
        grad, _ = marks.mark("fusion_gradient", grad, does.enters_module)
        grad_x, grads = self.step.backward(weights, at.weights, kept, grad, grads)
        total = _total_map(spec, registers, at.source_register, shape.level, grad_x, does.first_source)
        if shape.kind == SAME:  # the shortcut's gradient is in the register already
            total, *_ = marks.mark("branch_input_gradient", total, does.features, does.begins_block, out=total.shape)
        return _write_map(registers, at.source_register, total), grads


# --- the whole program ----------------------------------------------------------------------------------------


class TapMaps(NamedTuple):
    """The branches that feature taps read, absent branches zero; or their gradients.

    Attributes:
      last: [4, B, H / 4, W / 4, C], of the last module, resized to its third branch.
      others: [2, 4, B, 8, 8, C], of the second and third last.
    """

    last: Array
    others: Array


def _resize(spec: TapeSpec, slot: int, x: Array) -> Array:
    return resizing.resize_bilinear(x, *(spec.map_size(FUSED_LEVEL) if slot == 0 else (TARGET_SIZE, TARGET_SIZE)))


def _forward(spec: TapeSpec, stem: Array, weights: Weights, network: Network) -> tuple[TapMaps, _Written]:
    """Return the tapped branches, and what the backward pass needs."""
    dtype, (rows, norms, _, scales) = stem.dtype, map(int, spec.totals)
    values = lax.empty((2 * spec.rows(0) + rows, spec.channels), dtype)
    values = lax.dynamic_update_slice(values, jnp.zeros((spec.rows(0), spec.channels), dtype), (0, 0))
    values = _write_map(values, jnp.asarray(spec.rows(0)), stem)

    def run(step: tuple[Instructions, Places], carry: _Written) -> _Written:
        convs = [functools.partial(_Conv(spec, shape).forward, weights, step) for shape in CONV_SHAPES]
        return apply_chosen(convs, step[0].shape, carry)

    start = _Written(values, lax.empty((norms,), dtype), lax.empty((scales,), dtype))
    written = loop.forward(run, (network.steps, network.places), network.length, start)
    slots = [
        jnp.stack(
            [
                _resize(spec, slot, _read_map(spec, written.values, network.taps[slot, level], level, spec.channels))
                for level in range(NUM_LEVELS)
            ]
        )
        for slot in range(NUM_TAPS)
    ]
    return TapMaps(slots[0], jnp.stack(slots[1:])), written


def _backward(
    spec: TapeSpec,
    stem: tuple[int, ...],
    weights: Weights,
    network: Network,
    written: _Written,
    grads: TapMaps,
) -> tuple[Array, Weights]:
    """Return the gradients of the stem's output and of the weights."""
    del stem
    registers = jnp.zeros((spec.register_rows[-1], spec.channels), written.values.dtype)
    for slot, maps in enumerate((grads.last, *grads.others)):
        for level in range(NUM_LEVELS):
            shape = (spec.batch, *spec.map_size(level), spec.channels)
            grad = loop.transposed(functools.partial(_resize, spec, slot), shape, maps[level])
            registers = _write_map(registers, network.tap_registers[slot, level], grad)

    def run(step: tuple[Instructions, Places], carry: tuple[Array, Weights]) -> tuple[Array, Weights]:
        convs = [functools.partial(_Conv(spec, shape).backward, weights, written, step) for shape in CONV_SHAPES]
        return apply_chosen(convs, step[0].shape, carry)

    start = (registers, jax.tree.map(jnp.zeros_like, weights))
    registers, grad_weights = loop.backward(run, (network.steps, network.places), network.length, start)
    row = jnp.asarray(spec.register_rows[HIDDEN])
    return _read_map(spec, registers, row, 0, spec.channels), grad_weights


_run = loop.differentiable(_forward, _backward)


def run(spec: TapeSpec, stem: Array, weights: Weights, network: Network) -> TapMaps:
    """Run the convolutions of a network.

    Args:
      spec: the static side.
      stem: [B, H, W, C], the first stem convolution's output, unused channels zero.
      weights: the bank.
      network: which convolutions, and where; no gradient.

    Returns:
      The branches that feature taps read.
    """
    return _run(spec, stem, weights, network)


def init_bank(key: Array, spec: TapeSpec, network: Network, dtype: Any, init: Array | int) -> Array:
    """Draw the kernels of all convolutions, [R, U]: scaled by their true fans, zero where channels are not in use.

    Args:
      key: typed key; consumed.
      spec: the static side.
      network: in its places.
      dtype: of the result.
      init: index into ``initializers.INITS``.
    """
    (rows, unit), steps = (int(spec.totals[2]), spec.unit), network.steps
    owner = owner_of_rows(_of_shape(spec, 2, steps.shape), rows)
    area = jnp.asarray([*(s.kernel_size**2 for s in CONV_SHAPES), 1], jnp.int32)[steps.shape]
    # Row r of a kernel holds the outputs from r * U on of one position and input, wrapped at the kernel's width.
    start = (jnp.arange(rows) - network.places.weights.row[owner]) * unit
    width = jnp.maximum(_of_shape(spec, 3, steps.shape), 1)[owner]
    used = (start // width % width < steps.inputs[owner])[:, None] & (
        (start % width)[:, None] + jnp.arange(unit)[None] < steps.features[owner][:, None]
    )
    return jnp.where(used, init_rows(key, (rows, unit), dtype, init, owner, (area, steps.features, steps.inputs)), 0)
