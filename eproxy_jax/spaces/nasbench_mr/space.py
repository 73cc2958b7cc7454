"""NAS-Bench-MR has multi-resolution networks of four stages, whose depths and widths are free in every branch.

Source: Ding et al., "Learning Versatile Neural Architectures by Propagating Network Codes", ICLR 2022.
``notation.py`` has the rules of the space, ``program.py`` the network and what of it was decided here.

:meth:`NasBenchMr.notations` lists the notations.

Two programs serve all networks (see ``interpreter.py``): one with room for the largest, and one with room for most of
the benchmark's, which need far less. Convolutions pad their channels, forward and backward alike.
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
from eproxy_jax.spaces.interpreter import bank
from eproxy_jax.spaces.nasbench_mr import interpreter, notation
from eproxy_jax.spaces.nasbench_mr.net import NasBenchMrNet, UniversalNasBenchMr
from eproxy_jax.spaces.nasbench_mr.notation import CHANNEL_STEP, MAX_CHANNELS, Arch
from eproxy_jax.spaces.nasbench_mr.program import CONV_SHAPES, FUSED_LEVEL, LARGEST, NUM_LEVELS, conv_sequence, encode
from eproxy_jax.spaces.structure import Structure

_IMAGE_SIZE = 32


@dataclasses.dataclass(frozen=True)
class NasBenchMrGroup(base.Group):
    """Networks that share one compiled program.

    Attributes:
      channel_divisor: of the space.
      capacity: see ``interpreter.capacity_of``.
    """

    channel_divisor: int
    capacity: int

    @override
    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """Encode networks as data, int32 [A, N]; see ``program.encode``."""
        return np.stack([encode(arch, self.channel_divisor) for arch in archs])

    @override
    def executed_macs(self, arch: Arch) -> int:
        """Return the MACs that the universal module executes, padded channels included."""
        most = MAX_CHANNELS // self.channel_divisor
        total = _positions(0) * 27 * most + _positions(FUSED_LEVEL) * NUM_LEVELS * most**2
        for step in conv_sequence(arch).steps:
            shape = CONV_SHAPES[step.shape]
            total += _positions(shape.conv_level) * shape.kernel_size**2 * (shape.eighths * most // 8) ** 2
        return total

    @override
    def universal(self, dtype: Any = jnp.float32) -> UniversalNasBenchMr:
        return UniversalNasBenchMr(MAX_CHANNELS // self.channel_divisor, self.capacity, dtype)

    @override
    def extract(self, arch: Arch, universal_params: Any) -> dict[str, Any]:
        most = MAX_CHANNELS // self.channel_divisor
        first, last = arch[0][0] // self.channel_divisor, arch[2] // self.channel_divisor
        channels = [c // self.channel_divisor for c in arch[1][-1][2]]
        rows: Any = np.concatenate([level * most + np.arange(c) for level, c in enumerate(channels)])
        ends = {
            name: {
                "conv": {"kernel": universal_params[name]["kernel"][:, :, inputs, :features]},
                "norm": bank.extract_norm(universal_params[name]["norm"], slice(features)),
            }
            for name, inputs, features in (("stem_a", slice(None), first), ("fuse_end", rows, last))
        }
        places: dict[bank.Path, bank.KernelPlace | bank.NormPlace] = {}
        row = scale = 0
        for step in conv_sequence(arch).steps:
            shape = CONV_SHAPES[step.shape]
            size, width = shape.kernel_size, shape.eighths * most // 8
            inputs, features = step.source.channels // self.channel_divisor, step.out.channels // self.channel_divisor
            kernel = bank.KernelPlace(row, (size, size, width, width), (inputs, features))
            layer, suffix = step.layer
            places[layer, f"conv{suffix}"] = kernel
            places[layer, f"norm{suffix}"] = bank.NormPlace(scale, features)
            row, scale = row + size * size * width * width // (most // 8), scale + width
        return ends | bank.extract(universal_params, places)


@base.register("nasbench_mr")
@dataclasses.dataclass(frozen=True)
class NasBenchMr(base.SearchSpace):
    """The NAS-Bench-MR space.

    An architecture is a tuple (input channels, modules, last channels), see ``notation.py``.

    Attributes:
      channel_divisor: what all numbers of channels are divided by: 1 (the benchmark's networks), 2, 4 or 8.

    Example:
      >>> space = NasBenchMr()
      >>> arch = space.sample(1, 0)[0]
      >>> space.parse(space.format(arch)) == arch
      True
    """

    channel_divisor: int = 1

    name: ClassVar[str] = "nasbench_mr"
    paper: ClassVar[str] = (
        'Ding et al., "Learning Versatile Neural Architectures by Propagating Network Codes", ICLR 2022'
    )

    def __post_init__(self):
        base.check_positive(self)
        if CHANNEL_STEP % self.channel_divisor:
            raise ValueError(f"NasBenchMr.channel_divisor: expected 1, 2, 4 or 8, got {self.channel_divisor}")

    @override
    def parse(self, source: Any) -> Arch:
        return notation.parse(source)

    @override
    def notations(self) -> tuple[Notation, ...]:
        return notation.NOTATIONS

    @override
    def format(self, arch: Arch) -> str:
        """Write the benchmark's dict as compact JSON; channels as read, whatever ``channel_divisor`` is."""
        return notation.to_json(arch)

    @property
    @override
    def size(self) -> str:
        return "2 ** 80 architectures"

    @override
    def sample(self, num: int, seed: int) -> list[Arch]:
        """Draw distinct architectures uniformly, each of the 27 numbers for itself. Returns them in the order drawn.

        Raises:
          ValueError: ``num`` is not positive.
        """
        rng = sampling.generator(seed)
        return sampling.draw_until(lambda: notation.draw(rng), num, self.name)

    @override
    def neighbours(self, arch: Arch) -> list[Arch]:
        """Return the architectures that differ in one of the 27 numbers."""
        return list(notation.neighbours(arch))

    @override
    def canonical(self, arch: Arch) -> Arch:
        """Return the architecture itself: none has dead parts, and different ones compute different functions."""
        return arch

    @override
    def structure(self, arch: Arch) -> Structure:
        """Return the 27 numbers that make an architecture: modules and blocks as they are, channels as sizes."""
        numbers: dict[str, float] = {}
        sizes: dict[str, float] = {"stem1": arch[0][0], "stem2": arch[0][1]}
        for stage, (repeats, (_, blocks, channels)) in enumerate(notation.stages(arch), start=1):
            numbers[f"modules{stage}"] = repeats
            numbers |= {f"blocks{stage}_{branch}": count for branch, count in enumerate(blocks, start=1)}
            sizes |= {f"channels{stage}_{branch}": width for branch, width in enumerate(channels, start=1)}
        return Structure(numbers=numbers, sizes={**sizes, "channels_end": arch[2]})

    @override
    def group(self, arch: Arch) -> NasBenchMrGroup:
        """Return one of two groups: nine of ten networks of the benchmark, and those that need more memory."""
        return NasBenchMrGroup(self.channel_divisor, interpreter.capacity_of(arch))

    def _channels(self, arch: Arch) -> tuple[int, int, int]:
        """Return the channels of the first stem convolution, of the last branches together, and after their fusion."""
        (first, _), modules, last = arch
        return first // self.channel_divisor, sum(modules[-1][2]) // self.channel_divisor, last // self.channel_divisor

    @override
    def macs(self, arch: Arch) -> int:
        first, ends, last = self._channels(arch)
        total = _positions(0) * 27 * first + _positions(FUSED_LEVEL) * ends * last
        for step in conv_sequence(arch).steps:
            shape = CONV_SHAPES[step.shape]
            channels = step.source.channels * step.out.channels // self.channel_divisor**2
            total += _positions(shape.conv_level) * shape.kernel_size**2 * channels
        return total

    @override
    def max_macs(self) -> int:
        """Return the MACs of the network with everything at its most."""
        return self.macs(LARGEST)

    @override
    def params(self, arch: Arch) -> int:
        first, ends, last = self._channels(arch)
        total = 27 * first + ends * last + 2 * (first + last)
        for step in conv_sequence(arch).steps:
            inputs, features = step.source.channels // self.channel_divisor, step.out.channels // self.channel_divisor
            total += CONV_SHAPES[step.shape].kernel_size ** 2 * inputs * features + 2 * features
        return total

    @override
    def tap_channels(self, arch: Arch) -> tuple[int, ...]:
        """Return the channels of the taps: the end's, then the second and third last module's branches together."""
        _, modules, last = arch
        return tuple(c // self.channel_divisor for c in (last, sum(modules[-2][2]), sum(modules[-3][2])))

    @override
    def to_flax(self, arch: Arch, num_classes: int | None = None) -> NasBenchMrNet:
        return NasBenchMrNet(notation.parse(arch), self.channel_divisor, num_classes=num_classes)


def _positions(level: int) -> int:
    """Return the number of pixels in one map of a level."""
    return (_IMAGE_SIZE >> level) ** 2
