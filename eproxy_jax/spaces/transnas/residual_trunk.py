"""A chain of residual blocks whose number, widths and strides are data, in one compiled program.

Blocks of all shapes live in one program; a candidate's plan says which runs when and where its arrays lie. Nothing is
padded: weights lie one after the other in one bank, activations one after the other on one tape, and a block reads and
writes exactly its own size at an offset that is data. The bank is as long as the largest network of the space needs,
the least that one program can have.

The chosen block is no branch of ``lax.switch`` (``interpreter/tape.py`` says why). Under ``vmap`` the trunks of
the candidates run one after the other, so that none pays for the blocks of the others.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from eproxy_jax.nn import convolution, norms, resizing
from eproxy_jax.spaces.interpreter.tape import Weights, apply_chosen, interpreter, read, read_rows, write, write_rows
from eproxy_jax.types import TARGET_SIZE


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """One basic block: conv3x3-BN-ReLU-conv3x3-BN plus shortcut, ReLU.

    Attributes:
      size_in: height and width of the input.
      size: height and width of the output.
      channels_in: channels of the input.
      channels: channels of the output.
      stride: of the first convolution and of the shortcut.
      projects: the shortcut is a 1x1 convolution and a batch norm; else the identity.
    """

    size_in: tuple[int, int]
    size: tuple[int, int]
    channels_in: int
    channels: int
    stride: int
    projects: bool

    @property
    def kernels(self) -> tuple[tuple[int, int, int, int], ...]:
        """Shapes of the kernels in the order of the bank: both 3x3 convolutions, then the shortcut's if any."""
        both = ((3, 3, self.channels_in, self.channels), (3, 3, self.channels, self.channels))
        return (*both, (1, 1, self.channels_in, self.channels)) if self.projects else both

    @property
    def num_weights(self) -> int:
        """Kernel weights."""
        return sum(int(np.prod(shape)) for shape in self.kernels)

    @property
    def num_scales(self) -> int:
        """Scales, and as many biases, of the batch norms."""
        return len(self.kernels) * self.channels

    @property
    def inputs(self) -> int:
        """Numbers in one image's input."""
        return self.size_in[0] * self.size_in[1] * self.channels_in

    @property
    def outputs(self) -> int:
        """Numbers in one image's output."""
        return self.size[0] * self.size[1] * self.channels


@dataclasses.dataclass(frozen=True)
class TrunkSpec:
    """The static side of a trunk: what is compiled.

    Attributes:
      batch: B.
      blocks: the shapes that a plan may choose from.
      taps: (height, width, channels) of the outputs that may be tapped.
      tap_positions: which blocks of the chain are tapped, in the order of the result.
      tap_channels: channels of the result, those above a tap's own being zero.
      tape: length of the tape.
    """

    batch: int
    blocks: tuple[BlockShape, ...]
    taps: tuple[tuple[int, int, int], ...]
    tap_positions: tuple[int, ...]
    tap_channels: int
    tape: int


class BlockPlan(NamedTuple):
    """Where the blocks of one network are; integer arrays [N], or scalars of one block.

    Attributes:
      block: index into ``TrunkSpec.blocks``; -1 for none.
      row: first row of its kernels in the bank.
      scale: position of its first scale and bias.
      source: position of its input on the tape.
      base: position of what it writes: both normalised convolutions, then its output.
    """

    block: Array
    row: Array
    scale: Array
    source: Array
    base: Array


class Plan(NamedTuple):
    """A network as data.

    Attributes:
      blocks: its chain.
      tap: [T], index into ``TrunkSpec.taps``.
      tap_source: [T], position on the tape.
    """

    blocks: BlockPlan
    tap: Array
    tap_source: Array


def _read_weights(shape: BlockShape, weights: Weights, at: BlockPlan) -> tuple[list[Array], Array, Array]:
    """Kernels, and scales and biases [2 or 3, C], of a block."""
    row, kernels = at.row, []
    for kernel in shape.kernels:
        kernels.append(read_rows(weights.kernels, row, kernel))
        row = row + int(np.prod(kernel)) // weights.kernels.shape[1]
    vectors = (len(kernels), shape.channels)
    return kernels, read(weights.scale, at.scale, vectors), read(weights.bias, at.scale, vectors)


def _conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    """``ops.conv2d``; on a single pixel, where 8 of 9 kernel positions read padding only, it leaves them out."""
    if x.shape[1] == x.shape[2] == 1 and kernel.shape[0] == 3:
        kernel = kernel[1:2, 1:2]
    return convolution.conv2d(x, kernel, stride)


def _block_forward(batch: int, shape: BlockShape, weights: Weights, at: BlockPlan, carry: tuple[Array, Array]):
    """(tape, reciprocal deviations) with those of this block written."""
    tape, rstds = carry
    x = read(tape, at.source, (batch, *shape.size_in, shape.channels_in))
    kernels, scale, bias = _read_weights(shape, weights, at)
    first, rstd_a = norms.standardize(_conv(x, kernels[0], shape.stride))
    second, rstd_b = norms.standardize(_conv(nn.relu(norms.affine(first, scale[0], bias[0])), kernels[1]))
    if shape.projects:
        x = norms.affine(norms.standardize(_conv(x, kernels[2], shape.stride))[0], scale[2], bias[2])
    y = nn.relu(norms.affine(second, scale[1], bias[1]) + x)
    for number, values in enumerate((first, second, y)):
        tape = write(tape, at.base + number * batch * shape.outputs, values)
    return tape, write(rstds, at.scale, jnp.stack([rstd_a, rstd_b]))


def _block_backward(
    batch: int,
    shape: BlockShape,
    weights: Weights,
    tape: Array,
    rstds: Array,
    at: BlockPlan,
    carry: tuple[Array, Weights],
):
    """(gradient of the input, gradients of weights) from (gradient of the output, gradients so far).

    The shortcut's convolution is computed again: about 1 % more work, instead of a third array on the tape.
    """
    flat, grads = carry
    out_shape = (batch, *shape.size, shape.channels)
    kernels, scale, bias = _read_weights(shape, weights, at)
    rstd = read(rstds, at.scale, (2, shape.channels))
    x = read(tape, at.source, (batch, *shape.size_in, shape.channels_in))
    first, second, y = (read(tape, at.base + number * batch * shape.outputs, out_shape) for number in range(3))
    grad = read(flat, 0, out_shape) * (y > 0)

    hidden = norms.affine(first, scale[0], bias[0])
    grad_z, *vectors_b = norms.affine_normalize_gradient(grad, second, rstd[1], scale[1])
    grad_hidden, kernel_b = jax.vjp(_conv, nn.relu(hidden), kernels[1])[1](grad_z)
    grad_z, *vectors_a = norms.affine_normalize_gradient(grad_hidden * (hidden > 0), first, rstd[0], scale[0])
    strided = functools.partial(_conv, stride=shape.stride)
    grad_x, kernel_a = jax.vjp(strided, x, kernels[0])[1](grad_z)
    grad_kernels, vectors = [kernel_a, kernel_b], [vectors_a, vectors_b]
    if shape.projects:
        z, pull = jax.vjp(strided, x, kernels[2])
        grad_z, *vectors_c = norms.affine_normalize_gradient(grad, *norms.standardize(z), scale[2])
        grad_shortcut, kernel_c = pull(grad_z)
        grad_kernels.append(kernel_c)
        vectors.append(vectors_c)
    else:
        grad_shortcut = grad
    rows = jnp.concatenate([kernel.reshape(-1, weights.kernels.shape[1]) for kernel in grad_kernels])
    grads = Weights(
        write_rows(grads.kernels, at.row, rows),
        write(grads.scale, at.scale, jnp.stack([scale for scale, _ in vectors])),
        write(grads.bias, at.scale, jnp.stack([bias for _, bias in vectors])),
    )
    return write(flat, 0, grad_x + grad_shortcut), grads


def _widen(spec: TrunkSpec, x: Array) -> Array:
    """[B, H, W, C] -> [B, 8, 8, tap_channels]: nearest resize, zero channels."""
    x = resizing.resize_nearest(x, TARGET_SIZE)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, spec.tap_channels - x.shape[-1])))


def _forward(spec: TrunkSpec, stem: Array, weights: Weights, plan: Plan) -> tuple[Array, tuple[Array, Array]]:
    """Taps [T, B, 8, 8, C], and what the backward pass needs."""
    dtype = stem.dtype
    tape = write(lax.empty((spec.tape,), dtype), 0, stem)
    rstds = lax.empty(weights.scale.shape, dtype)

    def step(carry: tuple[Array, Array], at: BlockPlan):
        blocks = [functools.partial(_block_forward, spec.batch, shape, weights, at) for shape in spec.blocks]
        return apply_chosen(blocks, at.block, carry), None

    (tape, rstds), _ = lax.scan(step, (tape, rstds), plan.blocks)
    taps = []
    for slot in range(len(spec.tap_positions)):
        kinds = [
            lambda _, s=slot, shape=shape: _widen(spec, read(tape, plan.tap_source[s], (spec.batch, *shape)))
            for shape in spec.taps
        ]
        zeros = jnp.zeros((spec.batch, TARGET_SIZE, TARGET_SIZE, spec.tap_channels), dtype)
        taps.append(apply_chosen(kinds, plan.tap[slot], zeros))
    return jnp.stack(taps), (tape, rstds)


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
    longest = spec.batch * max(max(shape.inputs, shape.outputs) for shape in spec.blocks)
    slots = np.full(len(plan.blocks.block), -1, np.int32)
    slots[list(spec.tap_positions)] = np.arange(len(spec.tap_positions))

    def add_tap(shape: tuple[int, int, int], slot: Array, flat: Array) -> Array:
        x = jnp.zeros((spec.batch, *shape), flat.dtype)
        grad = jax.vjp(functools.partial(_widen, spec), x)[1](grad_taps[slot])[0]
        return write(flat, 0, read(flat, 0, x.shape) + grad)

    def step(carry: tuple[Array, Weights], xs: tuple[BlockPlan, Array]):
        (flat, grads), (at, slot) = carry, xs
        kinds = [functools.partial(add_tap, shape, slot) for shape in spec.taps]
        flat = apply_chosen(kinds, jnp.where(slot >= 0, plan.tap[slot], -1), flat)
        blocks = [
            functools.partial(_block_backward, spec.batch, shape, weights, tape, rstds, at) for shape in spec.blocks
        ]
        return apply_chosen(blocks, at.block, (flat, grads)), None

    start = (jnp.zeros((longest,), tape.dtype), jax.tree.map(jnp.zeros_like, weights))
    flat, grads = lax.scan(step, start, (plan.blocks, jnp.asarray(slots)), reverse=True)[0]
    return read(flat, 0, stem), grads


_run = interpreter(_forward, _backward)


def trunk(spec: TrunkSpec, stem: Array, weights: Weights, plan: Plan) -> Array:
    """Run a chain of blocks.

    Args:
      spec: the static side.
      stem: [B, H, W, C], the input of the first block.
      weights: the bank.
      plan: which blocks, and where; no gradient.

    Returns:
      [T, B, 8, 8, tap_channels]: the tapped outputs, resized (nearest) and widened with zero channels.
    """
    return _run(spec, stem, weights, plan)
