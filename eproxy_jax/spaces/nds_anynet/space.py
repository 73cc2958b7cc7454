"""This module has the NDS AnyNet spaces: stages of equal blocks whose depths, widths, bottlenecks and groups vary.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019; docs/spaces.md gives the
skeleton: "as the architecture says", a 12-channel stem, taps after stages 2, 3, 4.

We read that as follows. In the official lists the first entry is the stem. Its stride of 4 or 8 is for 224-pixel
images. The published parameters are those of a stem without blocks (``blocks.py`` matches every row). The backbone has
the 12-channel stem in its place, a 3x3 convolution with batch norm and ReLU at stride 1. So the stem's entry changes
nothing but the string. The stages behind it keep their strides, 1, 2, 2 (and 2): a 32-pixel image has maps of 32, 16, 8
(and 4). In ResNeXt spaces the stem counts as stage 1, and the three stages behind it are 2, 3, 4. Residual and plain
spaces have four stages behind the stem, of which the last three are 2, 3, 4. So taps are after the last three stages,
in both.

Blocks. Each convolution has a batch norm behind it, and a ReLU behind that; the last ReLU stands behind the sum.
  * ``res_bottleneck_block``: conv1x1, grouped conv3x3 (takes the stride), conv1x1
  * ``res_basic_block``: conv3x3 (takes the stride), conv3x3
  * ``double_plain_block``: the same without a shortcut
A shortcut has a 1x1 convolution and a batch norm where the shape changes.

Programs. Weights and activations lie in tiles of 8 to 64 channels (``interpreter.py``). Depths, widths, bottlenecks and
groups are data. The group of an architecture has the widest tile that pads its work by 30 % at most. It also has a
capacity, of which the smallest suffices for all that is published. Both gradients are padded as the forward pass is.
Initialisation and the optimiser work on the whole bank of weights, whatever a network uses of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.spaces import base
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.nds_anynet import notation, program
from eproxy_jax.spaces.nds_anynet.blocks import Block, published_flops, published_params, stage_blocks
from eproxy_jax.spaces.nds_anynet.interpreter import TileConv
from eproxy_jax.spaces.nds_anynet.net import NUM_TAPS, AnyNet
from eproxy_jax.spaces.nds_anynet.notation import BASIC_BLOCK, BOTTLENECK, PLAIN, AnyNetArch, Rules
from eproxy_jax.spaces.nds_anynet.program import Layer, UniversalAnyNet
from eproxy_jax.spaces.structure import Structure

_IMAGE = 32  # height and width that MACs are counted for
_TILES = (8, 16, 32, 64)
_MAX_PADDING = 1.3  # executed over needed MACs up to which a wider tile, whose products are faster, is taken
# Room of a group of capacity 0: kernel weights, tile padding included, and numbers on the tape for each pixel of the
# first stage. All published networks need less. Each further capacity has eight times as much.
_WEIGHTS, _TAPE, _CAPACITY_FACTOR = 9 * 2**20, 20480, 8


@dataclasses.dataclass(frozen=True)
class AnyNetSpace(base.SearchSpace):
    """Base of the NDS AnyNet spaces; an architecture is an ``AnyNetArch``.

    Attributes:
      stem_channels: channels that enter the first stage.
      width_divisor: what all widths of the stages are divided by, see :meth:`stage_widths`.
    """

    stem_channels: int = 12
    width_divisor: int = 1

    block: ClassVar[str]
    rules: ClassVar[tuple[Rules, ...]]
    paper: ClassVar[str] = 'Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019'

    def __post_init__(self):
        base.check_positive(self)

    @override
    def parse(self, source: Any) -> AnyNetArch:
        """Read an architecture from the official ``net``, as JSON or as a dict.

        Raises:
          ValueError: not an architecture of this space.
        """
        return notation.parse(source, self.block, self.rules, self.name)

    @override
    def notations(self) -> tuple[Notation, ...]:
        return notation.notations(self.rules[0].arch(self.rules[0].size // 3), self.block)

    @override
    def format(self, arch: AnyNetArch) -> str:
        """Write the official ``net`` as compact JSON."""
        return notation.to_string(arch, self.block)

    @property
    @override
    def size(self) -> str:
        """Number of architectures in the design space on ImageNet, in words."""
        return f"{self.rules[0].size:,} architectures"

    @override
    def sample(self, num: int, seed: int) -> list[AnyNetArch]:
        """Draw distinct architectures of the design space on ImageNet uniformly. Returns them in the order drawn.

        Raises:
          ValueError: ``num`` is not in 1..size of the space.
        """
        rules = self.rules[0]
        return [rules.arch(number) for number in sampling.draw_distinct(rules.size, num, seed, type(self).__name__)]

    def _rules_of(self, arch: AnyNetArch) -> Rules:
        return next(rules for rules in self.rules if rules.strides == arch.ss)

    @override
    def neighbours(self, arch: AnyNetArch) -> list[AnyNetArch]:
        """Return the architectures with another value in one place behind the stem: the backbone has its own stem."""
        return self._rules_of(arch).neighbours(arch)

    @override
    def canonical(self, arch: AnyNetArch) -> AnyNetArch:
        """Return the same stages behind the narrowest stem of the first design space with such strides.

        The backbone has none of the benchmark's stems. Where ``width_divisor`` makes bottlenecks of several multipliers
        equal, the smallest one stands for all.
        """
        rules = next(one for one in self.rules if one.strides[1:] == arch.ss[1:])
        arch = arch._replace(ss=rules.strides, ws=(rules.stem_widths[0], *arch.ws[1:]))
        if not arch.bot_muls:
            return arch
        narrowest = [arch.bot_muls[0]]
        for stage in range(1, len(arch.ds)):
            muls = arch.bot_muls
            same = [
                mul
                for mul in rules.bot_muls
                if self.stage_widths(arch._replace(bot_muls=(*muls[:stage], mul, *muls[stage + 1 :])), stage)
                == self.stage_widths(arch, stage)
            ]
            narrowest.append(same[0])
        return arch._replace(bot_muls=tuple(narrowest))

    @override
    def structure(self, arch: AnyNetArch) -> Structure:
        """Return depth, width, multiplier and groups of each stage, as written; 0 for a stage that is not there."""
        most = max(len(rules.strides) for rules in self.rules)
        sizes = {}
        for field, what in (("ds", "depth"), ("ws", "width"), ("bot_muls", "multiplier"), ("num_gs", "groups")):
            values = getattr(arch, field)
            if values:
                sizes |= {f"{what}{stage}": value for stage, value in enumerate(values[1:], start=1)}
                sizes |= {f"{what}{stage}": 0 for stage in range(len(values), most)}
        return Structure(sizes=sizes)

    def stage_widths(self, arch: AnyNetArch, stage: int) -> tuple[int, int]:
        """Return (outer, hidden) width of the backbone's stage 1, 2, ...; hidden is 0 where blocks are no bottlenecks.

        Both are the benchmark's over ``width_divisor``, rounded up: the outer one to an integer, the hidden one to a
        multiple of the groups.
        """
        outer, divisor = -(-arch.ws[stage] // self.width_divisor), self.width_divisor
        if not arch.bot_muls:
            return outer, 0
        groups = arch.num_gs[stage]
        return outer, groups * -(-arch.hidden(stage) // (groups * divisor))

    def blocks(self, arch: AnyNetArch) -> tuple[Block, ...]:
        """Return the backbone's blocks, with sizes for 32-pixel images."""
        found: list[Block] = []
        channels, size = self.stem_channels, _IMAGE
        for stage in range(1, len(arch.ds)):
            width, hidden = self.stage_widths(arch, stage)
            found += stage_blocks(arch, self.block, stage, channels, width, hidden, size)
            channels, size = width, -(-size // arch.ss[stage])
        return tuple(found)

    @property
    def residual(self) -> bool:
        """Whether blocks have shortcuts."""
        return self.block != PLAIN

    @override
    def macs(self, arch: AnyNetArch) -> int:
        stem = 9 * 3 * self.stem_channels * _IMAGE**2
        return stem + sum(conv.macs for block in self.blocks(arch) for conv in block.all_convs)

    @override
    def max_macs(self) -> int:
        """Return the MACs of the architecture with the largest depths and widths everywhere, and no groups."""
        return max(self.macs(_largest(rules)) for rules in self.rules)

    @override
    def params(self, arch: AnyNetArch) -> int:
        stem = (27 + 2) * self.stem_channels
        convs = (conv for block in self.blocks(arch) for conv in block.all_convs)
        return stem + sum(conv.weights + 2 * conv.channels for conv in convs)

    @override
    def full_sizes(self, arch: AnyNetArch) -> tuple[int, int]:
        """Return (FLOPs, parameters) of the official network, stem and classifier included, as NDS reports them."""
        return published_flops(arch, self.block), published_params(arch, self.block)

    @override
    def tap_channels(self, arch: AnyNetArch) -> tuple[int, ...]:
        return tuple(
            self.stage_widths(arch, stage)[0] for stage in range(arch.num_stages, arch.num_stages - NUM_TAPS, -1)
        )

    @override
    def to_flax(self, arch: AnyNetArch, num_classes: int | None = None) -> AnyNet:
        blocks = self.blocks(self.parse(arch))
        return AnyNet(stem_channels=self.stem_channels, blocks=blocks, residual=self.residual, num_classes=num_classes)

    def chain(self, arch: AnyNetArch) -> list[Layer]:
        """Return the backbone's convolutions behind the stem, in order."""
        return program.chain(self.blocks(arch), self.residual)

    @override
    def group(self, arch: AnyNetArch) -> AnyNetGroup:
        chain = self.chain(arch)
        needed = sum(layer.conv.macs for layer in chain)
        tile = _TILES[0]
        for wider in _TILES[1:]:
            if wider * self.width_divisor <= _TILES[-1] and _padded_macs(chain, wider) <= _MAX_PADDING * needed:
                tile = wider
        group = AnyNetGroup(self, tile, 0)
        while not group.has_room(chain):
            group = AnyNetGroup(self, tile, group.capacity + 1)
        return group


def _padded_macs(chain: Sequence[Layer], tile: int) -> int:
    """Count the multiply-accumulates that these convolutions take in tiles of that width."""
    return sum(layer.bank_rows(tile) * tile * layer.conv.size**2 for layer in chain)


def _largest(rules: Rules) -> AnyNetArch:
    stages = len(rules.strides) - 1
    bottleneck = bool(rules.bot_muls)
    return AnyNetArch(
        (1, *(rules.depths[-1],) * stages),
        (rules.stem_widths[-1], *(rules.widths[-1],) * stages),
        rules.strides,
        (1.0,) * (stages + 1) if bottleneck else (),
        (1,) * (stages + 1) if bottleneck else (),
    )


def _tape(chain: Sequence[Layer], tile: int) -> float:
    """Count the tiles that these layers write on the tape, those of maps of half the height and width as a quarter."""
    return sum(2 * layer.blocks(tile)[1] / 4 ** (layer.size + layer.stride - 1) for layer in chain)


@dataclasses.dataclass(frozen=True)
class AnyNetGroup(base.Group):
    """Architectures of a space that one program serves.

    Attributes:
      space: the space.
      tile: channels in a tile.
      capacity: 0, or how many times the room for weights and activations was made eight times as large.
    """

    space: AnyNetSpace
    tile: int
    capacity: int

    @property
    def weights(self) -> int:
        """Kernel weights, tile padding included, that there is room for: a multiple of ``tile``."""
        divisor = self.space.width_divisor**2 * self.tile
        return -(-_WEIGHTS // divisor) * self.tile * _CAPACITY_FACTOR**self.capacity

    @property
    def tape_tiles(self) -> int:
        """Tiles that there is room for on the tape, those of maps of half the height and width counted a quarter."""
        return -(-_TAPE // (self.space.width_divisor * self.tile)) * _CAPACITY_FACTOR**self.capacity

    def has_room(self, chain: Sequence[Layer]) -> bool:
        """Say if the network fits."""
        weights = self.tile * sum(layer.bank_rows(self.tile) for layer in chain)
        return weights <= self.weights and _tape(chain, self.tile) <= self.tape_tiles

    @override
    def encode(self, archs: Sequence[AnyNetArch]) -> np.ndarray:
        """Encode networks as instructions, int32 [A, fields, N]; see ``interpreter.Instructions``.

        Raises:
          ValueError: an architecture does not fit.
        """
        length = max(len(self.space.chain(_largest(rules))) for rules in self.space.rules)
        module, encoded = self.universal(), []
        for arch in archs:
            chain = self.space.chain(arch)
            if not self.has_room(chain):
                raise ValueError(f"{self} has no room for {self.space.format(arch)}: ask the space for its group")
            encoded.append(program.encode_chain(chain, module.convs, self.tile, module.widths, length))
        return np.stack(encoded)

    @override
    def universal(self, dtype: Any = jnp.float32) -> UniversalAnyNet:
        space = self.space
        largest = [space.chain(_largest(rules)) for rules in space.rules]
        divisor = space.width_divisor
        widths = {-(-width // divisor) for rules in space.rules for width in rules.widths}
        convs = {TileConv(layer.size, layer.stride, layer.conv.kernel) for chain in largest for layer in chain}
        tiles_out = [[layer.blocks(self.tile)[1] for layer in chain] for chain in largest]
        return UniversalAnyNet(
            stem_channels=space.stem_channels,
            num_sizes=1 + max(rules.strides[1:].count(2) for rules in space.rules),
            convs=tuple(sorted(convs)),
            tile=self.tile,
            bank_rows=self.weights // self.tile,
            vector_tiles=max(map(sum, tiles_out)),
            tape_tiles=self.tape_tiles,
            wide_tiles=max(map(max, tiles_out)),
            widths=tuple(sorted(widths)),
            dtype=dtype,
        )

    @override
    def extract(self, arch: AnyNetArch, universal_params: Any) -> dict[str, Any]:
        return program.extract_chain(self.space.chain(arch), self.tile, universal_params)

    @override
    def executed_macs(self, arch: AnyNetArch) -> int:
        """Count the multiply-accumulates that the program executes for one 3x32x32 image."""
        stem = 9 * 3 * self.space.stem_channels * _IMAGE**2
        return stem + _padded_macs(self.space.chain(arch), self.tile)


@base.register("nds_resnet")
@dataclasses.dataclass(frozen=True)
class NdsResNet(AnyNetSpace):
    """Residual networks of two 3x3 convolutions a block."""

    name: ClassVar[str] = "nds_resnet"
    block: ClassVar[str] = BASIC_BLOCK
    rules: ClassVar[tuple[Rules, ...]] = notation.BASIC


@base.register("nds_vanilla")
@dataclasses.dataclass(frozen=True)
class NdsVanilla(AnyNetSpace):
    """Plain networks: the blocks of ``nds_resnet`` without shortcuts."""

    name: ClassVar[str] = "nds_vanilla"
    block: ClassVar[str] = PLAIN
    rules: ClassVar[tuple[Rules, ...]] = notation.BASIC


@base.register("nds_resnext_a")
@dataclasses.dataclass(frozen=True)
class NdsResNextA(AnyNetSpace):
    """Bottlenecks with a grouped 3x3 convolution; narrow, few groups."""

    name: ClassVar[str] = "nds_resnext_a"
    block: ClassVar[str] = BOTTLENECK
    rules: ClassVar[tuple[Rules, ...]] = notation.RESNEXT_A


@base.register("nds_resnext_b")
@dataclasses.dataclass(frozen=True)
class NdsResNextB(AnyNetSpace):
    """Bottlenecks with a grouped 3x3 convolution; wide, up to 16 groups."""

    name: ClassVar[str] = "nds_resnext_b"
    block: ClassVar[str] = BOTTLENECK
    rules: ClassVar[tuple[Rules, ...]] = notation.RESNEXT_B
