"""A search space whose program compiles in a second or two, for tests of what surrounds the networks.

``tiny_config.py`` is its configuration, and registers it. It has what the machinery meets in real spaces: several strings of one
function, dead work, a universal module whose architectures are data, two feature taps, mutation and a stand-alone
module. What is numeric is tested on the real spaces.
"""

import dataclasses
import itertools
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from eproxy_jax.errors import quoted
from eproxy_jax.nn import layers
from eproxy_jax.sampling import draw_distinct
from eproxy_jax.spaces import base, standalone

CHOICES = 5  # of each of three digits


class Universal(nn.Module):
    """A 3x3 convolution of 1 to 5 channels; then a pointwise one with a gain, beside an identity."""

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, encoded, init=0):
        used = jnp.arange(CHOICES * self.width) < self.width * (1 + encoded[0])
        mask = used.astype(self.dtype)[None, None, None]
        x = nn.relu(layers.Conv(CHOICES * self.width, 3, dtype=self.dtype, name="stem")(images, init)) * mask
        y = layers.Conv(CHOICES * self.width, 1, dtype=self.dtype, name="point")(x, init) * mask
        return [x + y * encoded[1].astype(self.dtype) * (1 + encoded[2].astype(self.dtype)) / 16, x]


class Net(standalone.StandAloneNet):
    """One architecture of it, alone."""

    channels: int = 1
    gain: float = 0.0

    def setup(self):
        self.stem = layers.Conv(self.channels, 3, dtype=self.dtype)
        self.point = layers.Conv(self.channels, 1, dtype=self.dtype)
        super().setup()

    def features(self, images, train=True):
        del train
        x = nn.relu(self.stem(images))
        return [x + self.gain * self.point(x) if self.gain else x, x]


@dataclasses.dataclass(frozen=True)
class Tiny(base.SearchSpace, base.Group):
    """Three digits from 0 to 4: channels, and two factors of a gain; the third is dead where the second is 0."""

    width: int = 1

    name: ClassVar[str] = "tiny"
    num_archs = property(lambda self: CHOICES**3)

    def parse(self, source):
        parts = source.strip().split("-") if isinstance(source, str) else source
        if isinstance(parts, (list, tuple)) and len(parts) == 3:
            digits = [str(part) for part in parts]
            if all(len(digit) == 1 and digit in "01234" for digit in digits):
                return tuple(map(int, digits))
        raise ValueError(f"not an architecture of tiny: {quoted(source)}: write three digits from 0 to 4, as 3-0-2")

    def format(self, arch):
        return "-".join(map(str, arch))

    def enumerate(self):
        return itertools.product(range(CHOICES), repeat=3)

    def sample(self, num, seed):
        every = list(self.enumerate())
        return [every[i] for i in draw_distinct(len(every), num, seed, "tiny")]

    def neighbours(self, arch):
        return [(*arch[:i], digit, *arch[i + 1 :]) for i in range(3) for digit in range(CHOICES) if digit != arch[i]]

    def canonical(self, arch):
        return (*arch[:2], arch[2] if arch[1] else 0)

    def _channels(self, arch):
        return self.width * (1 + arch[0])

    def params(self, arch):
        channels = self._channels(arch)
        return 27 * channels + (channels**2 if arch[1] or arch[2] else 0)

    def macs(self, arch):
        return 32 * 32 * self.params(arch)

    def max_macs(self):
        return self.macs((CHOICES - 1, 1, 0))

    def tap_channels(self, arch):
        return (self._channels(arch),) * 2

    def to_flax(self, arch, num_classes=None):
        return Net(num_classes=num_classes, channels=self._channels(arch), gain=arch[1] * (1 + arch[2]) / 16)

    def encode(self, archs):
        return np.asarray(archs, np.int32).reshape(-1, 3)

    def universal(self, dtype=jnp.float32):
        return Universal(self.width, dtype)

    def executed_macs(self, arch):
        del arch
        return self.max_macs()


class Cut(Tiny):
    """The same, but a gain of 4 passes for a cut: such networks are disconnected."""

    def is_connected(self, arch):
        return arch[1] != 4
