"""This module puts every AnyNet of a group in one Flax module: depths, widths, bottlenecks and groups are data.

An architecture is encoded as the instructions that ``interpreter.py`` runs, one a convolution. They do not depend on
the size of the images: the compiled program works out the places on the tape.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from eproxy_jax.nn import layers, marks
from eproxy_jax.spaces.interpreter import bank
from eproxy_jax.spaces.nds_anynet import interpreter
from eproxy_jax.spaces.nds_anynet.blocks import Block, Conv
from eproxy_jax.spaces.nds_anynet.interpreter import Instructions, TileConv, TileMachine
from eproxy_jax.spaces.nds_anynet.net import NUM_TAPS, ConvStem

_HIDDEN_SLOTS = (2, 3)  # buffers of gradients inside a block; those between blocks are 0 and 1


def num_tiles(channels: int, groups: int, tile: int) -> int:
    """Count the tiles of an activation: a group begins with a tile of its own, or several whole groups share a tile."""
    width = channels // groups
    if width >= tile or groups == 1:
        return groups * -(-width // tile)
    return -(-groups // (tile // width))


def lanes(channels: int, groups: int, tile: int) -> np.ndarray:
    """Return where each channel lies among the lanes of all tiles, [channels]."""
    width, number = channels // groups, np.arange(channels)
    group, inside = number // width, number % width
    if width >= tile or groups == 1:
        return group * -(-width // tile) * tile + inside
    shared = tile // width
    return group // shared * tile + group % shared * width + inside


class Layer(NamedTuple):
    """A convolution in its place in the chain. Activations are numbered: 0 is the stem's, n that of the n-th layer.

    Attributes:
      name: of its block and of itself in the stand-alone network.
      conv: its sizes.
      groups_in: how the channels of its input are grouped.
      groups_out: how those of its output are.
      size: index of its input's map size.
      stride: 1 or 2.
      source: number of the activation that it reads.
      shortcut: number of the activation that is added to its output; -1 for none.
      relu: whether a ReLU comes last.
      slots: buffers of the gradients of its output and of its input.
      adds: whether it adds to the latter.
      stage: the stage that it ends; 0 where it ends none.
    """

    name: tuple[str, str]
    conv: Conv
    groups_in: int
    groups_out: int
    size: int
    stride: int
    source: int
    shortcut: int
    relu: bool
    slots: tuple[int, int]
    adds: bool
    stage: int

    def blocks(self, tile: int) -> tuple[int, int, int, int]:
        """Return (input tiles, output tiles, input and output tiles of a block of connected ones)."""
        conv = self.conv
        tiles_in = num_tiles(conv.channels_in, self.groups_in, tile)
        tiles_out = num_tiles(conv.channels, self.groups_out, tile)
        if conv.groups == 1:
            return tiles_in, tiles_out, tiles_in, tiles_out
        own = -(-conv.channels // conv.groups // tile)  # the same number of input as of output channels
        return tiles_in, tiles_out, own, own

    def num_pairs(self, tile: int) -> int:
        """Count the pairs of connected tiles."""
        tiles_in, _, _, block_out = self.blocks(tile)
        return tiles_in * block_out

    def bank_rows(self, tile: int) -> int:
        """Count the rows of the bank that the layer's kernel fills."""
        return self.num_pairs(tile) * self.conv.kernel**2 * tile


def chain(blocks: Sequence[Block], residual: bool) -> list[Layer]:
    """Return the convolutions of a network in the order of the forward pass."""
    found: list[Layer] = []
    trunk = size = slot = place = 0
    for block in blocks:
        place = place + 1 if found and found[-1].stage == 0 else 0
        name = f"stage{block.stage}_block{place}"
        before, shortcut, halves = slot, trunk if residual else -1, int(block.stride == 2)
        if block.shortcut is not None:
            # The gradients of what enters and of what leaves the block are two arrays, else one is made the other.
            slot = 1 - slot
            own = (name, "shortcut")
            found.append(
                Layer(own, block.shortcut, 1, 1, size, block.stride, trunk, -1, False, (slot, before), True, 0)
            )
            shortcut = len(found)
        source, groups_in, last = trunk, 1, len(block.convs) - 1
        striding = last - 1  # the 3x3 convolution of a bottleneck, the first one of other blocks
        for number, conv in enumerate(block.convs):
            groups_out = 1 if number == last else block.convs[1].groups if last == 2 else 1
            found.append(
                Layer(
                    name=(name, "abc"[number]),
                    conv=conv,
                    groups_in=groups_in,
                    groups_out=groups_out,
                    size=size,
                    stride=block.stride if number == striding else 1,
                    source=source,
                    shortcut=shortcut if number == last else -1,
                    relu=True,
                    slots=(
                        slot if number == last else _HIDDEN_SLOTS[number],
                        before if number == 0 else _HIDDEN_SLOTS[number - 1],
                    ),
                    adds=number == 0 and residual and block.shortcut is None,
                    stage=block.stage if number == last and block.ends else 0,
                )
            )
            source, groups_in = len(found), groups_out
            size += halves if number == striding else 0
        trunk = source
    return found


def encode_chain(
    chain: Sequence[Layer], convs: Sequence[TileConv], tile: int, widths: Sequence[int], length: int
) -> np.ndarray:
    """Return the instructions of a network, int32 [fields of ``Instructions``, length]."""
    encoded = np.zeros((len(Instructions._fields), length), np.int32)
    row = vector = 0
    num_stages = chain[-1].stage
    for number, layer in enumerate(chain):
        conv = layer.conv
        tiles_in, tiles_out, block_in, block_out = layer.blocks(tile)
        shared = conv.groups > 1 and conv.channels // conv.groups < tile
        tap = num_stages - layer.stage if 0 <= num_stages - layer.stage < NUM_TAPS else -1
        encoded[:, number] = Instructions(
            conv=convs.index(TileConv(layer.size, layer.stride, conv.kernel)),
            tiles_in=tiles_in,
            tiles_out=tiles_out,
            block_in=block_in,
            block_out=block_out,
            lane_group=conv.channels // conv.groups if shared else tile,
            row=row,
            vector=vector,
            source=layer.source,
            shortcut=layer.shortcut,
            relu=int(layer.relu),
            grad_source=layer.slots[0],
            grad_target=layer.slots[1],
            grad_adds=int(layer.adds),
            tap=tap,
            tap_level=widths.index(conv.channels) if tap >= 0 else 0,
            channels_in=conv.channels_in,
            groups_in=layer.groups_in,
            channels=conv.channels,
            groups_out=layer.groups_out,
            groups=conv.groups,
        )
        row += layer.bank_rows(tile)
        vector += tiles_out
    return encoded


def extract_chain(chain: Sequence[Layer], tile: int, universal_params: Any) -> dict[str, Any]:
    """Return the stand-alone network's parameters, from those of :class:`UniversalAnyNet`."""
    leaves: dict[bank.Path, Any] = {}
    row = vector = 0
    for layer in chain:
        conv, (block, suffix) = layer.conv, layer.name
        _, tiles_out, block_in, block_out = layer.blocks(tile)
        inside = lanes(conv.channels_in, layer.groups_in, tile).reshape(conv.groups, -1, 1)  # [groups, inputs, 1]
        outside = lanes(conv.channels, layer.groups_out, tile).reshape(conv.groups, 1, -1)
        pair = inside // tile * block_out + (outside // tile - inside // tile // block_in * block_out)
        first = row + pair * conv.kernel**2 * tile + inside % tile
        first = np.moveaxis(first, 0, 1).reshape(first.shape[1], -1)  # [inputs, channels]
        rows = first + np.arange(conv.kernel**2).reshape(conv.kernel, conv.kernel, 1, 1) * tile
        kernel = universal_params["kernels"][rows, np.broadcast_to(outside.reshape(-1) % tile, rows.shape)]
        at = vector * tile + outside.reshape(-1)
        leaves[block, f"conv_{suffix}"] = {"kernel": kernel}
        leaves[block, f"norm_{suffix}"] = bank.extract_norm(universal_params, at)
        row, vector = row + layer.bank_rows(tile), vector + tiles_out
    return {"stem": universal_params["stem"], **bank.nested(leaves)}


class UniversalAnyNet(nn.Module):
    """A module for all AnyNets of a group: the instructions are data.

    Parameters beside the stem's: ``kernels`` [bank_rows, tile], ``scale`` and ``bias`` [vector_tiles * tile].

    Attributes:
      stem_channels: channels that enter the first stage.
      num_sizes: map sizes of the deepest network.
      convs: the convolutions that there are.
      tile: channels in a tile.
      bank_rows: rows of the longest bank.
      vector_tiles: output tiles of all layers of the longest network.
      tape_tiles: tiles of all that the longest network writes on the tape, one of half the height and width counted a
        quarter.
      wide_tiles: tiles of the widest activation.
      widths: channels that a tap may have, ascending.
      dtype: dtype of the parameters.
    """

    stem_channels: int
    num_sizes: int
    convs: tuple[TileConv, ...]
    tile: int
    bank_rows: int
    vector_tiles: int
    tape_tiles: int
    wide_tiles: int
    widths: tuple[int, ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, encoded: Array, init: Array | int = 0) -> list[layers.PaddedTap]:
        """Return the feature taps after the last three stages, last first.

        Args:
          images: [B, H, W, 3].
          encoded: instructions, integer [fields of ``Instructions``, N].
          init: index into ``initializers.INITS``.

        Returns:
          Three taps of ``widths[-1]`` channels at most.
        """
        x = marks.feature(ConvStem(self.stem_channels, dtype=self.dtype, name="stem")(images, True, init))
        instructions, machine = Instructions(*encoded), self._machine(x.shape)
        stem_tiles = num_tiles(self.stem_channels, 1, self.tile)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, stem_tiles * self.tile - self.stem_channels)))
        x = jnp.moveaxis(x.reshape(*x.shape[:3], stem_tiles, self.tile), 3, 0)
        shape = (self.bank_rows, self.tile)
        kernels = functools.partial(
            _init_bank, shape=shape, convs=self.convs, instructions=instructions, dtype=self.dtype, init=init
        )
        weights = bank.declare(self, kernels, self.vector_tiles * self.tile, self.dtype)
        network = interpreter.placed(machine, instructions, stem_tiles * machine.rows(0))
        features: Any = interpreter.run(machine, x, weights, network)
        features, levels = features[..., : self.widths[-1]], instructions.tap_level[network.taps]
        sizes = machine.size_out(instructions.conv[network.taps])
        pixels = jnp.asarray([height * width for height, width in machine.sizes])[sizes]
        return [
            layers.PaddedTap(features[tap], levels[tap], self.widths, pixels=pixels[tap]) for tap in range(NUM_TAPS)
        ]

    def _machine(self, stem: tuple[int, ...]) -> TileMachine:
        batch, height, width, _ = stem
        sizes = [(height, width)]
        for _ in range(self.num_sizes - 1):
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        # Maps of odd size are a little more than a quarter of those before.
        excess = max(h * w * 4**n / (height * width) for n, (h, w) in enumerate(sizes))
        first = batch * height * width
        stem_rows = num_tiles(self.stem_channels, 1, self.tile) * first
        return TileMachine(
            batch=batch,
            sizes=tuple(sizes),
            convs=self.convs,
            tile=self.tile,
            tape_rows=stem_rows + int(np.ceil(self.tape_tiles * first * excess)),
            slot_rows=self.wide_tiles * first,
            tap_tiles=num_tiles(self.widths[-1], 1, self.tile),
            num_taps=NUM_TAPS,
        )


def _exists(lane: Array, tile_index: Array, channels: Array, groups: Array, tile: int) -> Array:
    """Say if a channel lies in this lane of this tile; see :func:`lanes`."""
    width = channels // groups
    apart = (width >= tile) | (groups == 1)
    own = jnp.where(apart, -(-width // tile), 1)
    shared = tile // jnp.maximum(jnp.minimum(width, tile), 1)
    packed = (lane < shared * width) & (tile_index * shared + lane // jnp.maximum(width, 1) < groups)
    return jnp.where(apart, tile_index % own * tile + lane < width, packed)


def _init_bank(
    key: Array,
    shape: tuple[int, int],
    convs: tuple[TileConv, ...],
    instructions: Instructions,
    dtype: Any,
    init: Array | int,
) -> Array:
    """Draw the kernels of all layers, [R, tile]: scaled by their own fans, zero where a channel is absent."""
    rows, tile = shape
    positions = jnp.asarray([conv.kernel**2 for conv in convs], jnp.int32)[instructions.conv]
    used = instructions.channels > 0
    filled = jnp.where(used, instructions.tiles_in * instructions.block_out * positions * tile, 0)
    row = jnp.arange(rows)
    inside = row < jnp.sum(filled)
    owner = bank.owner_of_rows(filled, rows)
    at = Instructions(*(jnp.asarray(field)[owner][:, None] for field in instructions))
    offset = row[:, None] - at.row
    pair, lane_in = offset // (positions[owner][:, None] * tile), offset % tile
    tile_in = pair // jnp.maximum(at.block_out, 1)
    tile_out = tile_in // jnp.maximum(at.block_in, 1) * at.block_out + pair % jnp.maximum(at.block_out, 1)
    lane_out = jnp.arange(tile)[None]
    exists = (
        inside[:, None]
        & _exists(lane_in, tile_in, at.channels_in, jnp.maximum(at.groups_in, 1), tile)
        & _exists(lane_out, tile_out, at.channels, jnp.maximum(at.groups_out, 1), tile)
        & (lane_in // jnp.maximum(at.lane_group, 1) == lane_out // jnp.maximum(at.lane_group, 1))
    )
    inputs = instructions.channels_in // jnp.maximum(instructions.groups, 1)
    kernel = bank.init_rows(key, shape, dtype, init, owner, (positions, instructions.channels, inputs))
    return jnp.where(exists, kernel, 0)
