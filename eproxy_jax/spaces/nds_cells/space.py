"""This module has the cell spaces of NDS: DARTS, ENAS, PNAS, NASNet and Amoeba, with any width and depth.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019; docs/spaces.md gives the
skeleton.

:meth:`NdsCells.notations` lists the notations. ``notation.py`` says what they mean, and which genotypes there are.

Architectures of one width share a program, whatever their genotype and depth (up to 23 cells; then up to 44, and so
on). The published networks of a space have three to five widths. Spaces with dense 7x1-1x7 convolutions have two
programs a width, with a quarter of the largest network's weights and with all of them. The reason is that
initialisation and optimiser work on the whole bank. Operations run on exactly the network's maps and kernels: MACs
executed over MACs needed are 1.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.nn import layers
from eproxy_jax.spaces import base
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.interpreter import bank, loop
from eproxy_jax.spaces.nds_cells import budget, cell_ops, encoding, interpreter, notation, program, published_counts
from eproxy_jax.spaces.nds_cells.encoding import Machine
from eproxy_jax.spaces.nds_cells.net import NdsNet
from eproxy_jax.spaces.nds_cells.notation import NdsArch, Rules
from eproxy_jax.spaces.nds_cells.program import NUM_STAGES, STEM_NODES
from eproxy_jax.spaces.structure import Structure

_MIN_PLACES = 7  # normal cells of a stage that a program holds: what the design spaces' 22 cells need
_POOLS = ("max_pool_3x3", "avg_pool_3x3")
_SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
_COMPACT_OPS = (*_POOLS, "skip_connect", *_SEPARABLE)  # as NASLib and NAS-Bench-301 number them
_NDS_PAPER = 'Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019'


@dataclasses.dataclass(frozen=True)
class NdsCells(base.SearchSpace):
    """Base of the NDS cell spaces. Subclasses give ``name`` and ``rules``.

    Attributes:
      width_divisor: widths are divided by it (and rounded up): a size for small machines.
      width: width of a genotype that comes without one; by default that of NDS's networks of one fixed size.
      depth: depth of a genotype that comes without one; the same.
    """

    width_divisor: int = 1
    width: int = 32
    depth: int = 22

    rules: ClassVar[Rules]
    paper: ClassVar[str] = _NDS_PAPER

    def __post_init__(self):
        base.check_positive(self)
        if not notation.MIN_DEPTH <= self.depth <= notation.MAX_DEPTH:
            raise ValueError(
                f"{type(self).__name__}.depth: expected {notation.MIN_DEPTH} to {notation.MAX_DEPTH} cells, "
                f"got {self.depth}"
            )

    # --- strings ---------------------------------------------------------------------------------------------

    @override
    def parse(self, source: Any) -> NdsArch:
        """Read an architecture: the ``net`` object of an NDS file, or a genotype at the space's width and depth.

        Raises:
          ValueError: not an architecture of the space.
        """
        return notation.parse(source, self.rules, self.width, self.depth)

    @override
    def notations(self) -> tuple[Notation, ...]:
        arch = _example(self.rules, self.width, self.depth)
        net = {**json.loads(self.format(arch)), "aux": False, "drop_prob": 0.0}
        return (
            Notation("net", net, "a row of an NDS file: genotype, width and depth; other keys are ignored"),
            *notation.notations(arch, self.rules),
        )

    @override
    def identity(self) -> dict[str, Any]:
        """Return the sizes that losses depend on: width and depth are the architecture's own."""
        return {**super().identity(), "sizes": {"width_divisor": self.width_divisor}}

    @override
    def format(self, arch: NdsArch) -> str:
        """Write the ``net`` object as JSON text without spaces."""
        return notation.to_text(arch, self.rules)

    # --- the set of architectures ----------------------------------------------------------------------------

    @override
    def sample(self, num: int, seed: int) -> list[NdsArch]:
        """Draw distinct architectures of the design space: uniform over operations, inputs, widths and depths.

        Those whose ImageNet form has too many parameters are drawn again, see ``budget.py``.

        Raises:
          ValueError: ``num`` is less than 1.
        """
        rng, rules = sampling.generator(seed), self.rules

        def cell() -> notation.Cell:
            edges = ((rules.ops[rng.integers(len(rules.ops))], place // 2 + 2) for place in range(2 * rules.nodes))
            return tuple((op, int(rng.integers(inputs))) for op, inputs in edges)

        def network() -> NdsArch:
            while True:
                width, depth = (int(values[rng.integers(len(values))]) for values in (rules.widths, rules.depths))
                arch = NdsArch(cell(), cell(), width, depth)
                if budget.fits(arch, rules):
                    return arch

        return sampling.draw_until(network, num, self.name)

    @override
    def neighbours(self, arch: NdsArch) -> list[NdsArch]:
        """Return the architectures with one operation or input changed, or the next width or depth of the space."""
        found = notation.neighbours(arch, self.rules)
        return [other for other in found if budget.fits(other, self.rules)]

    @override
    def canonical(self, arch: NdsArch) -> NdsArch:
        """Bring both cells to their canonical form, see :func:`notation.canonical_cell`."""
        normal, reduce = (notation.canonical_cell(cell) for cell in (arch.normal, arch.reduce))
        return arch._replace(normal=normal, reduce=reduce)

    @override
    def is_connected(self, arch: NdsArch) -> bool:
        """Say if the last cell's output depends on the image: only ``none`` cuts edges, and only DARTS has it."""
        return cell_ops.NONE not in self.rules.ops or program.is_connected(arch, self.rules)

    @override
    def structure(self, arch: NdsArch) -> Structure:
        """Return both cells as graphs with two inputs; ``none`` is a missing edge. The width is the one written."""
        return Structure(
            notation.used_ops(self.rules),
            families=_families(self.rules),
            graphs={name: notation.graph(getattr(arch, name), self.rules) for name in ("normal", "reduce")},
            max_edges=2 * self.rules.nodes,
            sizes={"width": arch.width, "depth": arch.depth},
        )

    # --- counts ----------------------------------------------------------------------------------------------

    def channels(self, arch: NdsArch) -> int:
        """Return the channels of a node before the first reduction: the width over ``width_divisor``, rounded up."""
        return -(-arch.width // self.width_divisor)

    @override
    def macs(self, arch: NdsArch) -> int:
        return _macs(arch, self.rules, self.channels(arch))

    @override
    def max_macs(self) -> int:
        """Return the MACs of the design space's largest network; networks that are read from a file may have more."""
        return budget.max_macs(self.rules, self.width_divisor)

    @override
    def params(self, arch: NdsArch) -> int:
        return program.params(arch, self.rules, self.channels(arch))

    @override
    def full_sizes(self, arch: NdsArch) -> tuple[int, int]:
        """Return (flops, parameters) of the ImageNet network, classifier included, as NDS reports them."""
        counts = published_counts.counts(arch, self.rules)
        return counts.flops, counts.params

    @override
    def tap_channels(self, arch: NdsArch) -> tuple[int, ...]:
        """Return the channels of the feature taps, last stage first: those of all nodes in the normal cell's output."""
        nodes = len(notation.concat(arch.normal, self.rules))
        return tuple(nodes * self.channels(arch) * 2**stage for stage in reversed(range(NUM_STAGES)))

    # --- modules ---------------------------------------------------------------------------------------------

    @override
    def to_flax(self, arch: NdsArch, num_classes: int | None = None) -> NdsNet:
        arch = self.parse(arch)
        return NdsNet(arch, self.rules, self.channels(arch), num_classes=num_classes)

    @override
    def group(self, arch: NdsArch) -> NdsGroup:
        """Return the group whose program runs this architecture: by width, and by size where that matters much."""
        width = self.channels(arch)
        places = _MIN_PLACES
        while places < max(program.normal_cells(arch.depth)):
            places *= 2
        largest = _max_rows(self.rules, width, places)
        quarter = -(-largest // 4)
        is_small = _heaviest(self.rules) > 4 and _rows(arch, self.rules, width) <= quarter
        return NdsGroup(self.rules, width, places, quarter if is_small else largest)


def _example(rules: Rules, width: int, depth: int) -> NdsArch:
    """Return a network that has several operations, for examples."""
    ops = [op for op in rules.ops if op != cell_ops.NONE][-4:]
    edges = tuple((ops[(3 * node + side) % 4], node + side) for node in range(rules.nodes) for side in (0, 1))
    return NdsArch(edges, (*edges[:-1], (ops[0], 0)), width, depth)


@functools.lru_cache(maxsize=1 << 16)
def _macs(arch: NdsArch, rules: Rules, width: int) -> int:
    return program.macs(arch, rules, width)


def _families(rules: Rules) -> dict[str, tuple[str, ...]]:
    """Return operations that belong together: with weights, separable ones among them, pools, and without weights."""
    ops = notation.used_ops(rules)
    found = {
        "weighted": [op for op in ops if cell_ops.units(op, 1)],
        "separable": [op for op in ops if any(linear.depthwise for unit in cell_ops.units(op, 1) for linear in unit)],
        "pools": [op for op in ops if "_pool_" in op],
        "weightless": [op for op in ops if not cell_ops.units(op, 1)],
    }
    return {name: tuple(members) for name, members in found.items()}


def _rows(arch: NdsArch, rules: Rules, width: int) -> int:
    """Count the rows of ``width`` weights that a network has."""
    return sum(piece.num_weights for piece in program.pieces(arch, rules, width)) // width


def _heaviest(rules: Rules) -> int:
    """Count the dense kernel positions of the heaviest operation, at stride 1."""

    def positions(op: str) -> int:
        return sum(linear.positions for unit in cell_ops.units(op, 1) for linear in unit if not linear.depthwise)

    return max(map(positions, rules.ops))


@functools.lru_cache(maxsize=256)
def _max_rows(rules: Rules, width: int, places: int) -> int:
    """Count the rows of ``width`` weights of the largest network with up to ``places`` normal cells a stage."""
    cells = [((op, 0),) * (2 * rules.nodes) for op in rules.ops]
    depth = 3 * places + 2  # so many normal cells in every stage
    return max(_rows(NdsArch(cell, cell, width, depth), rules, width) for cell in cells)


# --- groups --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NdsGroup(base.Group):
    """Architectures that share a program.

    Attributes:
      rules: of the space.
      width: channels of a node before the first reduction.
      places: normal cells of a stage at most.
      rows: rows of ``width`` weights in the bank.
    """

    rules: Rules
    width: int
    places: int
    rows: int

    @property
    def machine(self) -> Machine:
        """The machine that runs them."""
        return Machine(self.rules.ops, self.rules.nodes, self.width, self.places)

    @property
    def scales(self) -> int:
        """Number of scales, and of as many biases, in the bank."""
        per_cell = self.machine.pieces
        return per_cell * (self.places + 1) * sum(self.width * 2**stage for stage in range(NUM_STAGES))

    @override
    def encode(self, archs: Sequence[NdsArch]) -> np.ndarray:
        """Encode networks as data, int32 [A, K]; see ``encoding.Network``."""
        return np.stack([self._encode(arch) for arch in archs])

    def _encode(self, arch: NdsArch) -> np.ndarray:
        too_deep = max(program.normal_cells(arch.depth)) > self.places
        if too_deep or _rows(arch, self.rules, self.width) > self.rows:
            raise ValueError(f"{arch} is not of the group {self}: encode it with the group that its space gives")
        return loop.pack(encoding.encode(self.machine, arch, self.rules))

    @override
    def universal(self, dtype: Any = jnp.float32) -> UniversalNdsCells:
        return UniversalNdsCells(self, dtype)

    @override
    def executed_macs(self, arch: NdsArch) -> int:
        """Return the MACs of the architecture: programs do no other work."""
        return _macs(arch, self.rules, self.width)

    @override
    def extract(self, arch: NdsArch, universal_params: Any) -> dict[str, Any]:
        places: dict[bank.Path, bank.KernelPlace | bank.NormPlace] = {}
        for piece, row, scale in program.placed(arch, self.rules, self.width):
            if piece.unit is None:
                continue
            for number, linear in enumerate(piece.unit):
                shape = linear.kernel_shape(piece.channels_in, piece.channels)
                places[(*piece.path, f"conv{number}")] = bank.KernelPlace(row, shape)
                row += linear.num_weights(piece.channels_in, piece.channels) // self.width
            places[(*piece.path, "norm")] = bank.NormPlace(scale, piece.channels)
        stem = {name: universal_params[name] for name in ("stem_conv", "stem_norm")}
        return stem | bank.extract(universal_params, places)


class UniversalNdsCells(nn.Module):
    """A module for every network of a group: the genotype and the depth are data.

    Parameters beside the stem's: ``kernels`` [R, width], ``scale`` and ``bias`` [V], those of the first cell first;
    what a network does not use of them is never read.

    Attributes:
      group_spec: the group.
      dtype: dtype of the parameters.
    """

    group_spec: NdsGroup
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, encoded: Array, init: Array | int = 0) -> list[layers.PaddedTap]:
        """Return the feature taps at the end and before the two reduction cells, last first.

        Args:
          images: [B, H, W, 3].
          encoded: as ``encode`` gives it, integer [K].
          init: index into ``initializers.INITS``.

        Returns:
          Three taps of at most all nodes' channels.
        """
        group = self.group_spec
        network, nodes = loop.unpack(encoding.empty_network(group.machine), encoded), group.rules.nodes
        stem = layers.Conv(STEM_NODES * group.width, 3, dtype=self.dtype, name="stem_conv")(images, init)
        stem = layers.BatchNorm(dtype=self.dtype, name="stem_norm")(stem)
        kernels = functools.partial(_init_bank, group=group, kernels=network.kernels, dtype=self.dtype, init=init)
        weights = bank.declare(self, kernels, group.scales, self.dtype)
        features: Any = interpreter.run(group.machine, stem, weights, network)
        level = network.tap_nodes - 1
        taps = []
        for tap, stage in zip(features, reversed(range(NUM_STAGES)), strict=True):
            channels = group.width * 2**stage
            widths = tuple(channels * n for n in range(1, nodes + 1))
            pixels = math.prod(-(-size // 2**stage) for size in images.shape[1:3])
            taps.append(layers.PaddedTap(tap, level, widths, pixels=pixels))
        return taps


def _init_bank(key: Array, group: NdsGroup, kernels: encoding.Kernels, dtype: Any, init: Array | int) -> Array:
    """Draw the kernels of all units, [R, U]."""
    owner = bank.owner_of_rows(kernels.rows, group.rows)
    fans = (kernels.area, kernels.features, kernels.inputs)
    return bank.init_rows(key, (group.rows, group.width), dtype, init, owner, fans)


# --- the five spaces -----------------------------------------------------------------------------------------


@base.register("nds_darts")
@dataclasses.dataclass(frozen=True)
class NdsDarts(NdsCells):
    """The DARTS space of NDS: four nodes, all of them the output.

    Example:
      >>> space = NdsDarts()
      >>> space.canonical(space.sample(1, 0)[0]).width in space.rules.widths
      True
    """

    name: ClassVar[str] = "nds_darts"
    rules: ClassVar[Rules] = Rules(
        "DARTS",
        ("none", "skip_connect", *_POOLS, "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
        nodes=4,
        concat_all=True,
        compact_ops=_COMPACT_OPS,
    )


@base.register("nds_enas")
@dataclasses.dataclass(frozen=True)
class NdsEnas(NdsCells):
    """The ENAS space of NDS: five nodes, of which those that no other node reads are the output."""

    name: ClassVar[str] = "nds_enas"
    rules: ClassVar[Rules] = Rules(
        "ENAS", ("skip_connect", *_POOLS, "sep_conv_3x3", "sep_conv_5x5"), nodes=5, concat_all=False
    )


@base.register("nds_pnas")
@dataclasses.dataclass(frozen=True)
class NdsPnas(NdsCells):
    """The PNAS space of NDS: five nodes, all of them the output."""

    name: ClassVar[str] = "nds_pnas"
    rules: ClassVar[Rules] = Rules(
        "PNAS",
        ("skip_connect", *_POOLS, "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "conv_7x1_1x7", "dil_conv_3x3"),
        nodes=5,
        concat_all=True,
    )


@base.register("nds_nasnet")
@dataclasses.dataclass(frozen=True)
class NdsNasnet(NdsCells):
    """The NASNet space of NDS: five nodes, of which those that no other node reads are the output."""

    name: ClassVar[str] = "nds_nasnet"
    rules: ClassVar[Rules] = Rules(
        "NASNet",
        (
            "skip_connect", *_POOLS, "max_pool_5x5", "max_pool_7x7", "conv_1x1", "conv_3x3", "conv_3x1_1x3",
            "conv_7x1_1x7", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3",
        ),
        nodes=5,
        concat_all=False,
    )  # fmt: skip


@base.register("nds_amoeba")
@dataclasses.dataclass(frozen=True)
class NdsAmoeba(NdsCells):
    """The AmoebaNet space of NDS: five nodes, of which those that no other node reads are the output."""

    name: ClassVar[str] = "nds_amoeba"
    rules: ClassVar[Rules] = Rules(
        "Amoeba",
        ("skip_connect", *_POOLS, "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "conv_7x1_1x7", "dil_sep_conv_3x3"),
        nodes=5,
        concat_all=False,
    )
