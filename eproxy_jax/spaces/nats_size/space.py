"""This module defines NATS-Bench's size space: the widths of five pieces of a network whose cell is fixed.

Source: Dong, Liu, Musial and Gabrys, "NATS-Bench", TPAMI 2021. The cell is the one with the highest accuracy on
CIFAR-100 in the topology space (``net.CELL``): five 3x3 convolutions, and a skip from its input to its output. The
authors' networks are a stem, a cell, a residual block of stride 2, a cell, a block and a cell. The k-th width is that
of the k-th piece; the stem has the first one's.

One program of full width serves all networks; with ``--grouping fine`` each piece has a capacity of half or all of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.errors import quoted
from eproxy_jax.spaces import base, literals
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.cells.graph import CONV3X3
from eproxy_jax.spaces.nats_size.net import BLOCKS, CELL, NUM_PIECES, TAPS, NatsSizeNet, UniversalNatsSize
from eproxy_jax.spaces.structure import Structure

Widths = tuple[int, ...]

STEP, MAX_WIDTH = 8, 64
WIDTHS = tuple(range(STEP, MAX_WIDTH + 1, STEP))
_EXAMPLE = "8:16:24:32:40"
_IMAGE = 32  # pixels that MACs are counted for
_CELL_CONVS = sum(op == CONV3X3 for op in CELL)
_KEYS = ("channels", "arch_str", "arch")


@dataclasses.dataclass(frozen=True)
class SizeGroup(base.Group):
    """Networks that share a program.

    Attributes:
      space: the space.
      capacities: the most channels of each piece.
    """

    space: NatsSize
    capacities: Widths

    @override
    def encode(self, archs: Sequence[Widths]) -> np.ndarray:
        """Encode architectures as channels of the five pieces, int32 [A, 5]."""
        encoded = np.asarray([self.space.channels(arch) for arch in archs], np.int32).reshape(-1, NUM_PIECES)
        if np.any(encoded > np.asarray(self.capacities)):
            raise ValueError(f"an architecture is wider than {self.capacities}: encode it with its own group")
        return encoded

    @override
    def universal(self, dtype: Any = jnp.float32) -> UniversalNatsSize:
        divisor = self.space.channel_divisor
        return UniversalNatsSize(self.capacities, STEP // divisor, MAX_WIDTH // divisor, dtype)

    @override
    def executed_macs(self, arch: Widths) -> int:
        """Return the multiply-accumulates at the group's capacities."""
        return sum(kernel * positions for kernel, _, positions in _layers(self.capacities, projects=True))

    @override
    def extract(self, arch: Widths, universal_params: Any) -> dict[str, Any]:
        widths = self.space.channels(arch)
        before = dict(zip(range(NUM_PIECES), (widths[0], *widths), strict=False))

        def cut(params: Any, inputs: int, width: int) -> Any:
            return {
                name: cut(value, inputs, width)
                if isinstance(value, dict)
                else (value[:, :, :inputs, :width] if name == "kernel" else value[:width])
                for name, value in params.items()
            }

        found = {name: cut(universal_params[name], 3, widths[0]) for name in ("stem_conv", "stem_norm")}
        for number, width in enumerate(widths):
            piece = universal_params[f"piece{number}"]
            # Layers that read the piece's input; the others read what is as wide as the piece.
            reads_input = ("edge0", "edge1", "edge3", "conv_a", "shortcut")
            found[f"piece{number}"] = {
                name: cut({"": value}, before[number] if name in reads_input else width, width)[""]
                for name, value in piece.items()
                if not (name == "edge3" and before[number] == width)  # the input itself
            }
        return found


@base.register("nats_size")
@dataclasses.dataclass(frozen=True)
class NatsSize(base.SearchSpace):
    """The size space of NATS-Bench.

    An architecture is a tuple of five widths, multiples of 8 from 8 to 64.

    Attributes:
      channel_divisor: what all widths are divided by: 1 (the benchmark's networks), 2, 4 or 8.

    Example:
      >>> space = NatsSize()
      >>> space.format(space.parse([8, 16, 24, 32, 40]))
      '8:16:24:32:40'
    """

    channel_divisor: int = 1

    name: ClassVar[str] = "nats_size"
    paper: ClassVar[str] = 'Dong et al., "NATS-Bench", TPAMI 2021'

    def __post_init__(self):
        base.check_positive(self)
        if STEP % self.channel_divisor:
            raise ValueError(f"NatsSize.channel_divisor: expected 1, 2, 4 or 8, got {self.channel_divisor}")

    @override
    def parse(self, source: Any) -> Widths:
        value = literals.plain(source, "not a NATS-Bench size", repr(_EXAMPLE))
        if isinstance(value, dict):  # a configuration of the authors' code
            value = next((literals.plain(value[key]) for key in _KEYS if key in value), value)
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(":")]
            value = [int(part) if part.isascii() and part.isdigit() and len(part) < 9 else part for part in parts]
        widths = literals.integers(value)
        if widths is None or len(widths) != NUM_PIECES:
            raise ValueError(
                f"not a NATS-Bench size: {quoted(source)}; expected five widths like {_EXAMPLE!r}, multiples of {STEP} "
                f"from {STEP} to {MAX_WIDTH}"
            )
        for place, width in enumerate(widths, start=1):
            if width not in WIDTHS:
                raise ValueError(
                    f"not a NATS-Bench size: {quoted(source)}: width {place} is {quoted(width)}; expected a multiple "
                    f"of {STEP} from {STEP} to {MAX_WIDTH}"
                )
        return tuple(widths)

    @override
    def format(self, arch: Widths) -> str:
        """Write ``8:16:24:32:40``: widths as written, whatever ``channel_divisor`` is."""
        return ":".join(map(str, arch))

    @override
    def notations(self) -> tuple[Notation, ...]:
        config = {"name": "infer.shape.tiny", "channels": _EXAMPLE, "genotype": "", "num_classes": 10}
        return (
            Notation("string", _EXAMPLE, "the benchmark: channels of cell, block, cell, block and cell"),
            Notation("five numbers", [8, 16, 24, 32, 40], "the same, one by one"),
            Notation("configuration", config, "the authors' code; other keys are ignored"),
        )

    # --- the set of architectures ----------------------------------------------------------------------------

    @property
    @override
    def num_archs(self) -> int:
        return len(WIDTHS) ** NUM_PIECES

    @override
    def enumerate(self) -> Iterator[Widths]:
        """Return every architecture, in lexicographic order of the widths."""
        return itertools.product(WIDTHS, repeat=NUM_PIECES)

    @override
    def sample(self, num: int, seed: int) -> list[Widths]:
        drawn = sampling.draw_distinct(self.num_archs, num, seed, type(self).__name__)
        digits = np.stack(np.unravel_index(drawn, (len(WIDTHS),) * NUM_PIECES), axis=-1)
        return [tuple(WIDTHS[digit] for digit in row) for row in digits.tolist()]

    @override
    def neighbours(self, arch: Widths) -> list[Widths]:
        """Return the architectures with another width in one piece."""
        return [
            (*arch[:place], width, *arch[place + 1 :])
            for place in range(NUM_PIECES)
            for width in WIDTHS
            if width != arch[place]
        ]

    @override
    def canonical(self, arch: Widths) -> Widths:
        """Return the architecture itself: none has dead parts, and different ones compute different functions."""
        return arch

    @override
    def structure(self, arch: Widths) -> Structure:
        """Return the five widths as written."""
        return Structure(sizes={f"width{piece}": width for piece, width in enumerate(arch, start=1)})

    # --- programs --------------------------------------------------------------------------------------------

    def channels(self, arch: Widths) -> Widths:
        """Return the channels of the five pieces: the widths over ``channel_divisor``."""
        return tuple(width // self.channel_divisor for width in arch)

    @override
    def group(self, arch: Widths) -> SizeGroup:
        """Return the one group of all."""
        return SizeGroup(self, (MAX_WIDTH // self.channel_divisor,) * NUM_PIECES)

    @override
    def fine_group(self, arch: Widths) -> SizeGroup:
        """Return one of 32 groups: each piece has a capacity of half the largest width, or all of it."""
        half = MAX_WIDTH // 2
        capacities = (half if width <= half else MAX_WIDTH for width in arch)
        return SizeGroup(self, tuple(width // self.channel_divisor for width in capacities))

    # --- counts ----------------------------------------------------------------------------------------------

    @override
    def macs(self, arch: Widths) -> int:
        return sum(kernel * positions for kernel, _, positions in _layers(self.channels(arch)))

    @override
    def max_macs(self) -> int:
        """Return the MACs of the network with the largest width, 64, everywhere.

        A cell whose width differs from its input's has one convolution more, on its skip; fewer channels save more.
        """
        return self.macs((MAX_WIDTH,) * NUM_PIECES)

    @override
    def params(self, arch: Widths) -> int:
        return sum(kernel + 2 * norm for kernel, norm, _ in _layers(self.channels(arch)))

    @override
    def tap_channels(self, arch: Widths) -> tuple[int, ...]:
        return tuple(self.channels(arch)[number] for number in TAPS)

    @override
    def to_flax(self, arch: Widths, num_classes: int | None = None) -> NatsSizeNet:
        return NatsSizeNet(widths=self.channels(self.parse(arch)), num_classes=num_classes)


def _layers(widths: Widths, projects: bool = False) -> Iterator[tuple[int, int, int]]:
    """Yield (kernel weights, batch-norm channels, output positions) of each convolution.

    Args:
      widths: channels of the pieces.
      projects: count a convolution on the skip of later cells, whatever their widths.
    """
    yield 9 * 3 * widths[0], widths[0], _IMAGE**2
    before, size = widths[0], _IMAGE
    for number, width in enumerate(widths):
        if number in BLOCKS:
            size //= 2
            yield 9 * before * width, width, size**2
            yield 9 * width * width, width, size**2
            yield before * width, 0, size**2
        else:
            for _ in range(2):
                yield 9 * before * width, width, size**2
            for _ in range(_CELL_CONVS - 2):
                yield 9 * width * width, width, size**2
            if before != width or (projects and number):
                yield before * width, width, size**2
        before = width
