"""The interpreter of NAS-Bench-MR programs: many networks in one compiled program.

Like ``transnas/residual_trunk.py``, for a graph instead of a chain: only the convolutions of a network run,
one after the other, each one of the few shapes of ``CONV_SHAPES``, chosen by data. Weights lie one after the other in
one bank, as long as the largest network needs. Values lie one after the other on a tape of rows as wide as the widest
network (a pixel is a row, channels that are not in use are zero), so that a convolution reads whatever width is its
own; the normalised outputs, which only the backward pass reads, lie packed on a second tape. Gradients of values live
in registers, for a value's gradient is needed from its last use back to its definition only.

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
from flax import linen as nn
from jax import Array, lax

from eproxy_jax.nn import convolution, initializers, resizing
from eproxy_jax.nn import norms as norms_lib
from eproxy_jax.spaces.interpreter.tape import (
    Weights,
    apply_chosen,
    interpreter,
    owner_of_rows,
    read,
    read_rows,
    write,
    write_rows,
)
from eproxy_jax.spaces.nasbench_mr import program as programs
from eproxy_jax.spaces.nasbench_mr.notation import Arch
from eproxy_jax.spaces.nasbench_mr.program import CONV_SHAPES, FUSED_LEVEL, NUM_LEVELS, NUM_TAPS, UP, ConvShape
from eproxy_jax.types import TARGET_SIZE

# XLA's CPU backend fills an empty array with zeros, so that tapes and banks cost what they are long: networks that need
# no more than these shares of the largest network's rows of values, second tape, bank and scales get shorter ones.
_SHARES = ((0.6, 0.4, 0.4, 0.5), (1.0, 1.0, 1.0, 1.0))


@dataclasses.dataclass(frozen=True)
class TapeSpec:
    """The static side of the interpreter: what is compiled.

    Attributes:
      batch: B.
      height: of the images.
      width: of the images.
      channels: the largest number of channels, a multiple of 8.
      tier: how long tapes and bank are, see :func:`tier_of`.
    """

    batch: int
    height: int
    width: int
    channels: int
    tier: int

    @property
    def unit(self) -> int:
        """Columns of the bank: the narrowest shape's channels."""
        return self.channels // 8

    def map_size(self, level: int) -> tuple[int, int]:
        """Height and width of maps."""
        return self.height >> level, self.width >> level

    def rows(self, level: int) -> int:
        """Pixels of a batch of maps."""
        height, width = self.map_size(level)
        return self.batch * height * width

    def channels_of(self, shape: ConvShape) -> int:
        """Input and output channels of a shape."""
        return shape.eighths * self.unit

    @functools.cached_property
    def register_rows(self) -> tuple[int, ...]:
        """Where the registers are, and how many rows they have in all."""
        sizes = [self.rows(0)] * programs.FIRST_BRANCH + [self.rows(i) for i in range(NUM_LEVELS)] * NUM_TAPS
        return (0, *map(int, np.cumsum(sizes)))

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """Per shape: rows of values, numbers on the second tape, rows of the bank, scales; [shapes, 4]."""
        table = []
        for shape in CONV_SHAPES:
            width = self.channels_of(shape)
            weights = shape.kernel_size**2 * width * width // self.unit
            table.append((self.rows(shape.level_out), self.rows(shape.conv_level) * width, weights, width))
        return np.asarray(table, np.int64)

    def needs(self, arch: Arch) -> np.ndarray:
        """The sums of ``sizes`` in a network, [4]."""
        return self.sizes[[step.shape for step in programs.program(arch).steps]].sum(0)

    @functools.cached_property
    def totals(self) -> np.ndarray:
        """The most that ``needs`` can be in the tier, [4]."""
        return np.floor(self.needs(programs.LARGEST) * np.asarray(_SHARES[self.tier])).astype(np.int64)


@functools.cache
def _smallest_specs() -> tuple[TapeSpec, ...]:
    """Specs of one small image: shares do not depend on the sizes."""
    return tuple(TapeSpec(1, 8, 8, 8, tier) for tier in range(len(_SHARES)))


def tier_of(arch: Arch) -> int:
    """The smallest tier whose tapes and bank are long enough for an architecture."""
    return next(spec.tier for spec in _smallest_specs() if np.all(spec.needs(arch) <= spec.totals))


class StepPlan(NamedTuple):
    """Where the convolutions of one network are; integer arrays [N], or scalars of one convolution.

    Attributes:
      shape: index into ``CONV_SHAPES``; -1 for none.
      after: 1 where the addend comes after the ReLU.
      first_source: 1 where the gradient of its input starts here.
      first_addend: the same for the addend.
      source: row of its input among the values.
      addend: row of what it adds.
      out: row of its output.
      norm: position of its normalised output on the second tape.
      row: first row of its kernel in the bank.
      scale: position of its first scale and bias.
      source_register: row of its input's gradient.
      addend_register: row of the addend's gradient; 0, which is nowhere, for none.
      out_register: row of its output's gradient.
    """

    shape: Array
    after: Array
    first_source: Array
    first_addend: Array
    source: Array
    addend: Array
    out: Array
    norm: Array
    row: Array
    scale: Array
    source_register: Array
    addend_register: Array
    out_register: Array


class Plan(NamedTuple):
    """A network as data.

    Attributes:
      num_steps: number of convolutions.
      steps: the convolutions.
      taps: [3, 4], rows of the tapped values.
      tap_registers: [3, 4], rows of their gradients.
    """

    num_steps: Array
    steps: StepPlan
    taps: Array
    tap_registers: Array


def _before(sizes: Array) -> Array:
    return jnp.cumsum(sizes).astype(jnp.int32) - sizes


def _of_shape(spec: TapeSpec, column: int, shape: Array) -> Array:
    """A column of ``sizes`` by shape, 0 where there is none."""
    return jnp.asarray([*spec.sizes[:, column], 0], jnp.int32)[shape]


def make_plan(spec: TapeSpec, parts: programs.Encoded) -> Plan:
    """Where the arrays of an encoded network are."""
    shape, source, addend, _, _, after, first_source, first_addend, *registers = jnp.asarray(parts.steps).T
    rows, norms, kernels, scales = (_of_shape(spec, column, shape) for column in range(4))
    out = 2 * spec.rows(0) + _before(rows)
    values = jnp.concatenate([jnp.asarray([0, spec.rows(0)], jnp.int32), out])
    register_rows = jnp.asarray(spec.register_rows, jnp.int32)
    places = (values[source], values[addend], out, _before(norms), _before(kernels), _before(scales))
    steps = StepPlan(
        shape, after, first_source, first_addend, *places, *(register_rows[register] for register in registers)
    )
    count = jnp.sum(shape >= 0)
    return Plan(count, steps, values[parts.taps[:, 0]], register_rows[parts.taps[:, 1]])


# --- reading and writing --------------------------------------------------------------------------------------


def _read_map(spec: TapeSpec, rows: Array, row: Any, level: int, channels: int) -> Array:
    """[rows, C_max] -> [B, H, W, channels]."""
    flat = lax.dynamic_slice(rows, (row, jnp.zeros_like(row)), (spec.rows(level), channels))
    return flat.reshape(spec.batch, *spec.map_size(level), channels)


def _write_map(rows: Array, row: Any, values: Array) -> Array:
    return lax.dynamic_update_slice(rows, values.reshape(-1, values.shape[-1]), (row, jnp.zeros_like(row)))


def _add_map(spec: TapeSpec, rows: Array, row: Any, level: int, values: Array, first: Array) -> Array:
    """Add to a register, or overwrite what it holds of an earlier value.

    Overwriting, where clearing after the last read seems simpler: XLA would copy all registers, as it does wherever a
    write does not depend on the reads that must come before it.
    """
    old = _read_map(spec, rows, row, level, values.shape[-1])
    return _write_map(rows, row, jnp.where(first > 0, 0, old) + values)


def _widen(x: Array, channels: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


def _read_weights(spec: TapeSpec, shape: ConvShape, weights: Weights, at: StepPlan) -> tuple[Array, Array, Array]:
    """Kernel, scale and bias of a convolution."""
    size, channels = shape.kernel_size, spec.channels_of(shape)
    kernel = read_rows(weights.kernels, at.row, (size, size, channels, channels))
    scale, bias = (read(vector, at.scale, (channels,)) for vector in (weights.scale, weights.bias))
    return kernel, scale, bias


# --- one convolution ------------------------------------------------------------------------------------------


def _conv_forward(spec: TapeSpec, shape: ConvShape, weights: Weights, at: StepPlan, carry: tuple[Array, Array, Array]):
    """(values, normalised outputs, reciprocal deviations) with those of this convolution written."""
    values, norms, rstds = carry
    channels = spec.channels_of(shape)
    x = _read_map(spec, values, at.source, shape.level, channels)
    addend = _read_map(spec, values, at.addend, shape.level_out, channels)
    kernel, scale, bias = _read_weights(spec, shape, weights, at)
    normalized, rstd = norms_lib.standardize(convolution.conv2d(x, kernel, shape.stride))
    y = norms_lib.affine(normalized, scale, bias)
    if shape.kind == UP:
        y = resizing.upsample_2x(nn.relu(y)) + addend
    else:
        y = nn.relu(y + jnp.where(at.after > 0, 0, addend)) + jnp.where(at.after > 0, addend, 0)
    values = _write_map(values, at.out, _widen(y, spec.channels))
    return values, write(norms, at.norm, normalized), write(rstds, at.scale, rstd)


def _conv_backward(
    spec: TapeSpec,
    shape: ConvShape,
    weights: Weights,
    saved: tuple[Array, Array, Array],
    at: StepPlan,
    carry: tuple[Array, Weights],
):
    """(registers, gradients of weights) with this convolution's output's gradient handed on."""
    (values, norms, rstds), (registers, grads) = saved, carry
    channels, level_out = spec.channels_of(shape), shape.level_out
    # A loop of one turn: what reads registers inside a fused operation that others repeat makes XLA copy them all.
    zeros = jnp.zeros((spec.batch, *spec.map_size(level_out), channels), values.dtype)
    read_out = functools.partial(_read_map, spec, registers, at.out_register, level_out, channels)
    grad: Any = apply_chosen([lambda _: read_out()], jnp.minimum(at.shape, 0), zeros)
    kernel, scale, bias = _read_weights(spec, shape, weights, at)
    x = _read_map(spec, values, at.source, shape.level, channels)
    normalized = read(norms, at.norm, (spec.batch, *spec.map_size(shape.conv_level), channels))
    rstd = read(rstds, at.scale, (channels,))
    y = norms_lib.affine(normalized, scale, bias)
    if shape.kind == UP:  # the addend has the output's register, and its gradient
        grad = resizing.upsample_2x_gradient(grad) * (y > 0)
    else:
        addend = _read_map(spec, values, at.addend, level_out, channels)
        masked = grad * (y + jnp.where(at.after > 0, 0, addend) > 0)
        to_addend = jnp.where(at.after > 0, grad, masked)
        registers = _add_map(spec, registers, at.addend_register, level_out, to_addend, at.first_addend)
        grad = masked
    grad, *vectors = norms_lib.affine_normalize_gradient(grad, normalized, rstd, scale)
    grad_x, grad_kernel = jax.vjp(functools.partial(convolution.conv2d, stride=shape.stride), x, kernel)[1](grad)
    grads = Weights(
        write_rows(grads.kernels, at.row, grad_kernel),
        write(grads.scale, at.scale, vectors[0]),
        write(grads.bias, at.scale, vectors[1]),
    )
    return _add_map(spec, registers, at.source_register, shape.level, grad_x, at.first_source), grads


# --- the whole program ----------------------------------------------------------------------------------------


class TapMaps(NamedTuple):
    """Branches that feature taps read, absent branches zero; or gradients of them.

    Attributes:
      last: [4, B, H / 4, W / 4, C], of the last module, resized to its third branch.
      others: [2, 4, B, 8, 8, C], of the second and third last.
    """

    last: Array
    others: Array


def _resize(spec: TapeSpec, slot: int, x: Array) -> Array:
    return resizing.resize_bilinear(x, *(spec.map_size(FUSED_LEVEL) if slot == 0 else (TARGET_SIZE, TARGET_SIZE)))


def _step(steps: StepPlan, index: Array) -> StepPlan:
    return StepPlan(*(lax.dynamic_index_in_dim(column, index, keepdims=False) for column in steps))


def _forward(spec: TapeSpec, stem: Array, weights: Weights, plan: Plan) -> tuple[TapMaps, tuple[Array, Array, Array]]:
    """Tapped branches, and what the backward pass needs."""
    dtype, (rows, norms, _, scales) = stem.dtype, map(int, spec.totals)
    values = lax.empty((2 * spec.rows(0) + rows, spec.channels), dtype)
    values = lax.dynamic_update_slice(values, jnp.zeros((spec.rows(0), spec.channels), dtype), (0, 0))
    values = _write_map(values, jnp.asarray(spec.rows(0)), stem)

    def body(index: Array, carry: Any) -> Any:
        at = _step(plan.steps, index)
        convs = [functools.partial(_conv_forward, spec, shape, weights, at) for shape in CONV_SHAPES]
        return apply_chosen(convs, at.shape, carry)

    carry = (values, lax.empty((norms,), dtype), lax.empty((scales,), dtype))
    saved = lax.fori_loop(0, plan.num_steps, body, carry)
    slots = [
        jnp.stack(
            [
                _resize(spec, slot, _read_map(spec, saved[0], plan.taps[slot, level], level, spec.channels))
                for level in range(NUM_LEVELS)
            ]
        )
        for slot in range(NUM_TAPS)
    ]
    return TapMaps(slots[0], jnp.stack(slots[1:])), saved


def _backward(
    spec: TapeSpec,
    stem: tuple[int, ...],
    weights: Weights,
    plan: Plan,
    saved: tuple[Array, Array, Array],
    grads: TapMaps,
) -> tuple[Array, Weights]:
    """Gradients of the stem's output and of the weights."""
    del stem
    registers = jnp.zeros((spec.register_rows[-1], spec.channels), saved[0].dtype)
    for slot, maps in enumerate((grads.last, *grads.others)):
        for level in range(NUM_LEVELS):
            x = jnp.zeros((spec.batch, *spec.map_size(level), spec.channels), registers.dtype)
            grad = jax.vjp(functools.partial(_resize, spec, slot), x)[1](maps[level])[0]
            registers = _write_map(registers, plan.tap_registers[slot, level], grad)

    def body(index: Array, carry: Any) -> Any:
        at = _step(plan.steps, plan.num_steps - 1 - index)
        convs = [functools.partial(_conv_backward, spec, shape, weights, saved, at) for shape in CONV_SHAPES]
        return apply_chosen(convs, at.shape, carry)

    start = (registers, jax.tree.map(jnp.zeros_like, weights))
    registers, grad_weights = lax.fori_loop(0, plan.num_steps, body, start)
    row = jnp.asarray(spec.register_rows[programs.HIDDEN])
    return _read_map(spec, registers, row, 0, spec.channels), grad_weights


_run = interpreter(_forward, _backward)


def run(spec: TapeSpec, stem: Array, weights: Weights, plan: Plan) -> TapMaps:
    """Run the convolutions of a network.

    Args:
      spec: the static side.
      stem: [B, H, W, C], the first stem convolution's output, unused channels zero.
      weights: the bank.
      plan: which convolutions, and where; no gradient.

    Returns:
      The branches that feature taps read.
    """
    return _run(spec, stem, weights, plan)


def init_bank(key: Array, spec: TapeSpec, parts: programs.Encoded, plan: Plan, dtype: Any, init: Array | int) -> Array:
    """Kernels of all convolutions, [R, U]: scaled by their true fans, zero where channels are not in use.

    Args:
      key: typed key; consumed.
      spec: the static side.
      parts: the encoded network.
      plan: made from it.
      dtype: of the result.
      init: index into ``initializers.INITS``.
    """
    rows, unit = int(spec.totals[2]), spec.unit
    sizes = _of_shape(spec, 2, plan.steps.shape)
    owner = owner_of_rows(sizes, rows)
    inputs, features = (jnp.asarray(parts.steps)[:, column][owner] for column in (3, 4))
    shape = plan.steps.shape[owner]
    width = _of_shape(spec, 3, shape)
    area = jnp.asarray([*(s.kernel_size**2 for s in CONV_SHAPES), 1], jnp.int32)[shape]
    # Row r of a kernel holds the outputs from r * U on of one position and input, wrapped at the kernel's width.
    start = (jnp.arange(rows) - plan.steps.row[owner]) * unit
    width = jnp.maximum(width, 1)
    used = (start // width % width < inputs)[:, None] & (
        (start % width)[:, None] + jnp.arange(unit)[None] < features[:, None]
    )
    fans = [jnp.maximum(fan, 1).astype(dtype)[:, None] for fan in (area, features, inputs)]
    return jnp.where(used, initializers.conv_kernel(key, (rows, unit), dtype, init, *fans), 0)
