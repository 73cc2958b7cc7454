"""This module holds the universal network of the TransNAS-Bench-101 macro space: widths and strides are data.

Convolutions execute what a network needs, but for two things: the backward pass computes the shortcut again, and on
maps of a single pixel the 8 of 9 kernel positions that read padding are left out. Initialisation and the optimiser
work on the whole bank, which is as long as the largest network needs. Each block shape is compiled by itself, so a
program of large images takes long to compile.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from eproxy_jax.nn import layers
from eproxy_jax.spaces.interpreter import bank
from eproxy_jax.spaces.transnas import macro_code, macro_interpreter
from eproxy_jax.spaces.transnas.macro_code import MAX_DOUBLINGS, MAX_HALVINGS, MAX_MODULES
from eproxy_jax.spaces.transnas.macro_interpreter import Blocks, BlockShape, Network, TrunkSpec
from eproxy_jax.spaces.transnas.skeleton import CELLS_PER_MODULE, NUM_TAPS, Stem


def map_sizes(stem_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Return height and width after 0, 1, ... halvings."""
    sizes = [stem_size]
    for _ in range(MAX_HALVINGS):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return tuple(sizes)


def block_shape(
    stem_channels: int, sizes: Sequence[tuple[int, int]], kind: int, doublings: int, halvings: int
) -> BlockShape:
    """Return the block that a digit stands for after so many doublings and halvings; a module's second block is 1."""
    channels, size_in = stem_channels * 2**doublings, sizes[halvings]
    size = sizes[halvings + macro_code.halvings([kind])]
    # On a single pixel a stride makes no difference: one program less.
    stride = 2 if kind in (3, 4) and size_in != size else 1
    return BlockShape(size_in, size, channels, channels * 2 ** macro_code.doublings([kind]), stride, kind != 1)


class _Tables(NamedTuple):
    """What a code means at one size of the stem's output.

    Attributes:
      trunk: the static side of the trunk.
      block: [5, 4, 5] (digit, doublings, halvings so far) -> index into ``trunk.blocks``, or -1.
      tap: [4, 5] (doublings, halvings) -> index into ``trunk.taps``.
      rows: rows of the bank of the longest code.
      scales: scales of the longest code.
    """

    trunk: TrunkSpec
    block: np.ndarray
    tap: np.ndarray
    rows: int
    scales: int


@functools.cache
def _tables(stem_channels: int, batch: int, stem_size: tuple[int, int]) -> _Tables:
    sizes = map_sizes(stem_size)
    blocks: dict[BlockShape, int] = {}
    taps: dict[tuple[int, int, int], int] = {}
    block = np.full((5, MAX_DOUBLINGS + 1, MAX_HALVINGS + 1), -1, np.int32)
    tap = np.zeros(block.shape[1:], np.int32)
    for doublings, halvings in np.ndindex(*tap.shape):
        tap[doublings, halvings] = taps.setdefault((*sizes[halvings], stem_channels * 2**doublings), len(taps))
        for kind in (1, 2, 3, 4):
            if (
                doublings + macro_code.doublings([kind]) <= MAX_DOUBLINGS
                and halvings + macro_code.halvings([kind]) <= MAX_HALVINGS
            ):
                shape = block_shape(stem_channels, sizes, kind, doublings, halvings)
                block[kind, doublings, halvings] = blocks.setdefault(shape, len(blocks))
    shapes = list(blocks)
    totals = np.zeros(3, np.int64)
    for code in macro_code.all_codes():
        own = np.zeros(3, np.int64)
        for step in macro_code.steps(code):
            shape = shapes[block[step]]
            own += (shape.num_weights // stem_channels, shape.num_scales, 3 * batch * shape.outputs)
        totals = np.maximum(totals, own)
    rows, scales, tape = map(int, totals)
    stem = batch * stem_size[0] * stem_size[1] * stem_channels
    last = CELLS_PER_MODULE * MAX_MODULES - 1
    trunk = TrunkSpec(
        batch,
        tuple(shapes),
        tuple(taps),
        tuple(last - CELLS_PER_MODULE * slot for slot in range(NUM_TAPS)),
        stem_channels * 2**MAX_DOUBLINGS,
        stem + tape,
    )
    return _Tables(trunk, block, tap, rows, scales)


def placed(tables: _Tables, code: Array) -> Network:
    """Return where the arrays of a network are.

    Args:
      tables: of the size of its images.
      code: digits as built, integer [6], zeros in front.

    Returns:
      A ``Network`` of twelve blocks, the last of which end the last module.
    """
    trunk = tables.trunk
    doubles, halves = (code == 2) | (code == 4), (code == 3) | (code == 4)
    doubled, halved = (jnp.cumsum(flags.astype(jnp.int32)) for flags in (doubles, halves))

    def interleave(first: Array, second: Array) -> Array:
        return jnp.stack([first, second], axis=1).reshape(-1)

    block = jnp.asarray(tables.block)[
        interleave(code, (code > 0).astype(code.dtype)),
        interleave(doubled - doubles, doubled),
        interleave(halved - halves, halved),
    ]

    def of_block(values: Sequence[int]) -> Array:
        return jnp.asarray([*values, 0], jnp.int32)[block]  # index -1, no block, is the last value

    unit = trunk.blocks[0].channels_in
    outputs = of_block([trunk.batch * shape.outputs for shape in trunk.blocks])
    stem = trunk.batch * trunk.blocks[0].inputs
    base = stem + bank.before(3 * outputs)
    blocks = Blocks(
        block=block,
        row=bank.before(of_block([shape.num_weights // unit for shape in trunk.blocks])),
        scale=bank.before(of_block([shape.num_scales for shape in trunk.blocks])),
        source=base - of_block([trunk.batch * shape.inputs for shape in trunk.blocks]),
        base=base,
    )
    last_modules = jnp.arange(MAX_MODULES - 1, MAX_MODULES - 1 - NUM_TAPS, -1)
    taps = jnp.asarray(trunk.tap_positions)
    return Network(blocks, jnp.asarray(tables.tap)[doubled, halved][last_modules], (base + 2 * outputs)[taps])


class UniversalTransNasMacro(nn.Module):
    """Every TransNAS-Bench-101-macro network in one module: the code is data.

    Parameters beside the stem's: ``kernels`` [R, stem_channels], ``scale`` and ``bias`` [V], those of the first block
    first, long enough for the largest network; what a smaller network does not use is never read.

    Attributes:
      stem_channels: channels that enter the first module.
      dtype: dtype of the parameters.
    """

    stem_channels: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, code: Array, init: Array | int = 0) -> list[layers.PaddedTap]:
        """Return the feature taps after the last three modules, last first.

        Args:
          images: [B, H, W, 3].
          code: digits as built, integer [6], zeros in front of a shorter code.
          init: index into ``initializers.INITS``.

        Returns:
          Three taps of 8 ``stem_channels`` channels at most.
        """
        x = Stem(self.stem_channels, dtype=self.dtype, name="stem")(images, True, init)
        tables = _tables(self.stem_channels, x.shape[0], (x.shape[1], x.shape[2]))
        network = placed(tables, code)
        kernels = functools.partial(_init_bank, tables=tables, network=network, dtype=self.dtype, init=init)
        weights = bank.declare(self, kernels, tables.scales, self.dtype)
        features: Any = macro_interpreter.run(tables.trunk, x, weights, network)
        widths = tuple(self.stem_channels * 2**level for level in range(MAX_DOUBLINGS + 1))
        doublings = jnp.cumsum(((code == 2) | (code == 4)).astype(jnp.int32))
        halvings = jnp.cumsum(((code == 3) | (code == 4)).astype(jnp.int32))
        pixels = jnp.asarray([height * width for height, width in map_sizes((x.shape[1], x.shape[2]))])[halvings]
        last = [MAX_MODULES - 1 - slot for slot in range(NUM_TAPS)]
        return [
            layers.PaddedTap(features[slot], doublings[module], widths, pixels=pixels[module])
            for slot, module in enumerate(last)
        ]


def _init_bank(key: Array, tables: _Tables, network: Network, dtype: Any, init: Array | int) -> Array:
    """Draw the kernels of all blocks, [R, U], each row scaled by the fans of the kernel that it is part of."""
    unit, shapes = tables.trunk.blocks[0].channels_in, tables.trunk.blocks
    # [blocks + 1, 3, 4]: a block without a shortcut's kernel has an empty one there, and no block has three.
    kernels = np.zeros((len(shapes) + 1, 3, 4), np.int64)
    for number, shape in enumerate(shapes):
        kernels[number, : len(shape.steps)] = [step.kernel for step in shape.steps]
    rows = jnp.asarray(kernels.prod(-1) // unit, jnp.int32)[network.blocks.block].reshape(-1)
    height, width, inputs, features = jnp.asarray(kernels, jnp.int32)[network.blocks.block].reshape(-1, 4).T
    owner = bank.owner_of_rows(rows, tables.rows)
    return bank.init_rows(key, (tables.rows, unit), dtype, init, owner, (height * width, features, inputs))
