"""This module interprets TransNAS macro networks: chains of residual blocks whose number, widths and strides are data.

Blocks of all shapes live in one program; a network says which runs when and where its arrays lie. Weights lie one after
the other in one bank, activations on one tape. Nothing is padded: a block reads and writes exactly its own size at an
offset that is data. The bank is as long as the largest network of the space needs, the least that one program can have.

A block is two or three steps of ``interpreter/conv_norm.py`` and is chosen as a whole: its hidden map and its
shortcut's map never lie on the tape.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.nn import marks, resizing
from eproxy_jax.spaces.interpreter import loop
from eproxy_jax.spaces.interpreter.bank import Weights, read, write
from eproxy_jax.spaces.interpreter.conv_norm import ConvNorm, Kept, Place
from eproxy_jax.spaces.interpreter.loop import apply_chosen
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
    def steps(self) -> tuple[ConvNorm, ...]:
        """The convolutions in the order of the bank: both 3x3 ones, then the shortcut's if any."""
        both = (
            ConvNorm((3, 3, self.channels_in, self.channels), self.stride),
            ConvNorm((3, 3, self.channels, self.channels)),
        )
        shortcut = ConvNorm((1, 1, self.channels_in, self.channels), self.stride)
        return (*both, shortcut) if self.projects else both

    @property
    def num_weights(self) -> int:
        """Kernel weights."""
        return sum(step.num_weights for step in self.steps)

    @property
    def num_scales(self) -> int:
        """Scales, and as many biases, of the batch norms."""
        return len(self.steps) * self.channels

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
      blocks: the shapes that a network's blocks may have.
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


class Blocks(NamedTuple):
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


class Network(NamedTuple):
    """A network as data.

    Attributes:
      blocks: its chain.
      tap: [T], index into ``TrunkSpec.taps``.
      tap_source: [T], position on the tape.
    """

    blocks: Blocks
    tap: Array
    tap_source: Array


class _Written(NamedTuple):
    """What the forward pass writes: activations and reciprocal deviations."""

    tape: Array
    rstds: Array


class _Block(NamedTuple):
    """Runs the blocks of one shape."""

    batch: int
    shape: BlockShape

    def _places(self, weights: Weights, at: Blocks) -> list[Place]:
        """Return where the weights of its steps lie."""
        places, row = [], at.row
        for number, step in enumerate(self.shape.steps):
            places.append(Place(row, at.scale + number * self.shape.channels))
            row = row + step.num_weights // weights.kernels.shape[1]
        return places

    def _input(self, tape: Array, at: Blocks) -> Array:
        return read(tape, at.source, (self.batch, *self.shape.size_in, self.shape.channels_in))

    @property
    def _out(self) -> tuple[int, ...]:
        return self.batch, *self.shape.size, self.shape.channels

    def forward(self, weights: Weights, at: Blocks, carry: _Written) -> _Written:
        """Return what is written, with both normalised convolutions and the output."""
        steps, places = self.shape.steps, self._places(weights, at)
        x = marks.mark("entry", self._input(carry.tape, at))
        first = steps[0].forward(weights, places[0], x)
        second = steps[1].forward(weights, places[1], marks.relu(steps[0].output(weights, places[0], first.normalized)))
        if self.shape.projects:
            x = steps[2].output(weights, places[2], steps[2].forward(weights, places[2], x).normalized)
        y = marks.relu(steps[1].output(weights, places[1], second.normalized) + x)
        y = marks.mark("feature", y)
        tape, rstds = carry
        for number, values in enumerate((first.normalized, second.normalized, y)):
            tape = write(tape, at.base + number * y.size, values)
        return _Written(tape, write(rstds, at.scale, jnp.stack([first.rstd, second.rstd])))

    def backward(
        self, weights: Weights, written: _Written, at: Blocks, carry: tuple[Array, Weights]
    ) -> tuple[Array, Weights]:
        """Return (gradient of the input, gradients of weights) from (gradient of the output, gradients so far).

        The shortcut's convolution is computed again instead of a third array on the tape.
        """
        flat, grads = carry
        steps, places = self.shape.steps, self._places(weights, at)
        grad, size = marks.mark("block_output_gradient", read(flat, 0, self._out)), int(np.prod(self._out))
        x = marks.mark("entry", self._input(written.tape, at))  # behind the mark of this block's own output
        first, second, y = (read(written.tape, at.base + number * size, self._out) for number in range(3))
        rstd = read(written.rstds, at.scale, (2, self.shape.channels))
        grad = grad * (y > 0)
        hidden = steps[0].output(weights, places[0], first)
        kept = Kept(jax.nn.relu(hidden), second, rstd[1])
        grad_hidden, grads = steps[1].backward(weights, places[1], kept, grad, grads)
        kept = Kept(x, first, rstd[0])
        grad_x, grads = steps[0].backward(weights, places[0], kept, grad_hidden * (hidden > 0), grads)
        if self.shape.projects:
            with marks.unmarked("kernel", "relu", "norm"):  # the forward pass has shown them
                kept = steps[2].forward(weights, places[2], x)
            grad, grads = steps[2].backward(weights, places[2], kept, grad, grads)
        grad_x = marks.mark("block_input_gradient", grad_x + grad, out=self._out)
        grad_x = marks.mark("entry_gradient", grad_x)
        return write(flat, 0, grad_x), grads


def _widen(spec: TrunkSpec, x: Array) -> Array:
    """Resize to the nearest pixel and add zero channels, [B, H, W, C] -> [B, 8, 8, tap_channels]."""
    x = resizing.resize_nearest(x, TARGET_SIZE)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, spec.tap_channels - x.shape[-1])))


def _forward(spec: TrunkSpec, stem: Array, weights: Weights, network: Network) -> tuple[Array, _Written]:
    """Return the taps [T, B, 8, 8, C], and what the backward pass needs."""
    dtype = stem.dtype
    tape = write(lax.empty((spec.tape,), dtype), 0, marks.mark("feature", stem))
    start = _Written(tape, lax.empty(weights.scale.shape, dtype))

    def run(at: Blocks, carry: _Written) -> _Written:
        blocks = [functools.partial(_Block(spec.batch, shape).forward, weights, at) for shape in spec.blocks]
        return apply_chosen(blocks, at.block, carry)

    written = loop.forward(run, network.blocks, len(network.blocks.block), start)
    taps = []
    for slot in range(len(spec.tap_positions)):
        kinds = [
            lambda _, s=slot, shape=shape: _widen(
                spec, marks.mark("entry", read(written.tape, network.tap_source[s], (spec.batch, *shape)))
            )
            for shape in spec.taps
        ]
        zeros = jnp.zeros((spec.batch, TARGET_SIZE, TARGET_SIZE, spec.tap_channels), dtype)
        taps.append(apply_chosen(kinds, network.tap[slot], zeros))
    return jnp.stack(taps), written


def _backward(
    spec: TrunkSpec,
    stem: tuple[int, ...],
    weights: Weights,
    network: Network,
    written: _Written,
    grad_taps: Array,
) -> tuple[Array, Weights]:
    """Return the gradients of the stem's output, whose shape is ``stem``, and of the weights."""
    longest = spec.batch * max(max(shape.inputs, shape.outputs) for shape in spec.blocks)
    slots = np.full(len(network.blocks.block), -1, np.int32)
    slots[list(spec.tap_positions)] = np.arange(len(spec.tap_positions))

    def add_tap(shape: tuple[int, int, int], slot: Array, flat: Array) -> Array:
        grad = loop.tap_gradient(grad_taps[slot, ..., : shape[-1]], (spec.batch, *shape))
        grad = marks.mark("entry_gradient", grad)
        return write(flat, 0, read(flat, 0, grad.shape) + grad)

    def run(instruction: tuple[Blocks, Array], carry: tuple[Array, Weights]) -> tuple[Array, Weights]:
        (at, slot), (flat, grads) = instruction, carry
        kinds = [functools.partial(add_tap, shape, slot) for shape in spec.taps]
        flat = apply_chosen(kinds, jnp.where(slot >= 0, network.tap[slot], -1), flat)
        blocks = [functools.partial(_Block(spec.batch, shape).backward, weights, written, at) for shape in spec.blocks]
        return apply_chosen(blocks, at.block, (flat, grads))

    start = (jnp.zeros((longest,), written.tape.dtype), jax.tree.map(jnp.zeros_like, weights))
    flat, grads = loop.backward(run, (network.blocks, jnp.asarray(slots)), len(slots), start)
    return marks.mark("feature_gradient", read(flat, 0, stem)), grads


_run = loop.differentiable(_forward, _backward)


def run(spec: TrunkSpec, stem: Array, weights: Weights, network: Network) -> Array:
    """Run a chain of blocks.

    Args:
      spec: the static side.
      stem: [B, H, W, C], the input of the first block.
      weights: the bank.
      network: which blocks, and where; no gradient.

    Returns:
      [T, B, 8, 8, tap_channels]: the tapped outputs, resized (nearest) and widened with zero channels.
    """
    return _run(spec, stem, weights, network)
