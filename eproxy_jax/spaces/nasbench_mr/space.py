"""NAS-Bench-MR: multi-resolution networks of four stages whose depths and widths are free in every branch.

Source: Ding et al., "Learning Versatile Neural Architectures by Propagating Network Codes", ICLR 2022.
``notation.py`` has the rules of the space, ``program.py`` the network
and what of it was decided here.

Notations read by ``parse``:
  * the benchmark's dict: ``{"input_channel": [c, c], "inverted_residual_setting": [[branches, [blocks per branch],
    [channels per branch]], ...], "last_channel": c}``
  * the same as JSON text, which ``format`` writes
  * its three values in this order

Two programs serve all networks (see ``interpreter.py``). Over the 2,507 networks of the benchmark
the convolutions execute 1.15 times the MACs that are needed (sum over sum; mean of the networks' ratios 1.29, median
1.17, 99th percentile 2.4; forward and backward alike). The largest network has 56.8 M weights at 128 channels, the mean
one of the benchmark 7.2 M; the program that serves 2,280 of its 2,507 networks has room for 40 % of the largest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from eproxy_jax.spaces import base
from eproxy_jax.spaces.interpreter import bank
from eproxy_jax.spaces.nasbench_mr import interpreter, notation
from eproxy_jax.spaces.nasbench_mr.net import NasBenchMrNet, UniversalNasBenchMr
from eproxy_jax.spaces.nasbench_mr.notation import CHANNEL_STEP, MAX_CHANNELS, Arch
from eproxy_jax.spaces.nasbench_mr.program import CONV_SHAPES, FUSED_LEVEL, LARGEST, NUM_LEVELS, conv_sequence, encode

_IMAGE_SIZE = 32


@dataclasses.dataclass(frozen=True)
class NasBenchMrGroup:
    """Networks that share one compiled program.

    Attributes:
      channel_divisor: of the space.
      capacity: see ``interpreter.capacity_of``.
    """

    channel_divisor: int
    capacity: int

    def encode(self, archs: Sequence[Arch]) -> np.ndarray:
        """Networks as data, int32 [A, N]; see ``program.encode``."""
        return np.stack([encode(arch, self.channel_divisor) for arch in archs])

    def executed_macs(self, arch: Arch) -> int:
        """MACs that the universal module executes, padded channels included."""
        most = MAX_CHANNELS // self.channel_divisor
        total = _positions(0) * 27 * most + _positions(FUSED_LEVEL) * NUM_LEVELS * most**2
        for step in conv_sequence(arch).steps:
            shape = CONV_SHAPES[step.shape]
            total += _positions(shape.conv_level) * shape.kernel_size**2 * (shape.eighths * most // 8) ** 2
        return total

    def universal(self, dtype: Any = jnp.float32) -> UniversalNasBenchMr:
        """The module that takes the encoded network as data."""
        return UniversalNasBenchMr(MAX_CHANNELS // self.channel_divisor, self.capacity, dtype)

    def extract(self, arch: Arch, universal_params: Any) -> dict[str, Any]:
        """The parameters of ``to_flax(arch)`` out of those of ``universal()``."""
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


@base.register("nasbench_mr")  # pyright: ignore[reportArgumentType]
@dataclasses.dataclass(frozen=True)
class NasBenchMr(base.Uncounted):
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

    def __post_init__(self):
        base.check_positive(self)
        if CHANNEL_STEP % self.channel_divisor:
            raise ValueError(f"NasBenchMr.channel_divisor: expected 1, 2, 4 or 8, got {self.channel_divisor}")

    def parse(self, source: Any) -> Arch:
        """Read an architecture from any of the notations above.

        Raises:
          ValueError: not an architecture of NAS-Bench-MR.
        """
        return notation.parse(source)

    def format(self, arch: Arch) -> str:
        """Compact JSON of the benchmark's dict; channels as written, whatever ``channel_divisor`` is."""
        return notation.to_json(arch)

    @property
    def size(self) -> str:
        """How many architectures there are, in words."""
        return "2 ** 80 architectures"

    def sample(self, num: int, seed: int) -> list[Arch]:
        """Distinct architectures drawn uniformly, in the order drawn: each of the 27 numbers for itself.

        Raises:
          ValueError: ``num`` is not positive.
        """
        rng = np.random.default_rng(seed)
        return base.draw_until(lambda: notation.draw(rng), num, self.name)

    def neighbours(self, arch: Arch) -> list[Arch]:
        """The architectures that differ in one of the 27 numbers."""
        return list(notation.neighbours(arch))

    def canonical(self, arch: Arch) -> Arch:
        """The architecture itself: none has dead parts, and different ones compute different functions."""
        return arch

    def group(self, arch: Arch) -> NasBenchMrGroup:
        """One of two groups: nine of ten networks of the benchmark, and those that need more memory."""
        return NasBenchMrGroup(self.channel_divisor, interpreter.capacity_of(arch))

    def _channels(self, arch: Arch) -> tuple[int, int, int]:
        """Channels of the first stem convolution, of the branches at the end together, and after their fusion."""
        (first, _), modules, last = arch
        return first // self.channel_divisor, sum(modules[-1][2]) // self.channel_divisor, last // self.channel_divisor

    def macs(self, arch: Arch) -> int:
        """Multiply-accumulates of the backbone's convolutions for one 3x32x32 image."""
        first, ends, last = self._channels(arch)
        total = _positions(0) * 27 * first + _positions(FUSED_LEVEL) * ends * last
        for step in conv_sequence(arch).steps:
            shape = CONV_SHAPES[step.shape]
            channels = step.source.channels * step.out.channels // self.channel_divisor**2
            total += _positions(shape.conv_level) * shape.kernel_size**2 * channels
        return total

    def max_macs(self) -> int:
        """MACs of the network with everything at its most."""
        return self.macs(LARGEST)

    def params(self, arch: Arch) -> int:
        """Trainable parameters of the backbone."""
        first, ends, last = self._channels(arch)
        total = 27 * first + ends * last + 2 * (first + last)
        for step in conv_sequence(arch).steps:
            inputs, features = step.source.channels // self.channel_divisor, step.out.channels // self.channel_divisor
            total += CONV_SHAPES[step.shape].kernel_size ** 2 * inputs * features + 2 * features
        return total

    def tap_channels(self, arch: Arch) -> tuple[int, ...]:
        """Channels of the feature taps: of the end, and of the second and third last module's branches together."""
        _, modules, last = arch
        return tuple(c // self.channel_divisor for c in (last, sum(modules[-2][2]), sum(modules[-3][2])))

    def to_flax(self, arch: Arch, num_classes: int | None = None) -> NasBenchMrNet:
        """The stand-alone network; with ``num_classes`` it ends in a classifier."""
        return NasBenchMrNet(notation.parse(arch), self.channel_divisor, num_classes=num_classes)


def _positions(level: int) -> int:
    """Pixels of one map."""
    return (_IMAGE_SIZE >> level) ** 2
