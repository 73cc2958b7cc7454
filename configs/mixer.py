"""This configuration defines a family that is not built in: 36 MLP-Mixers, an example of your own Flax modules.

  eproxy score --config configs/mixer.py        --all --workdir runs/mixer
  eproxy score --config configs/mixer.py:smoke  --all --workdir runs/mixer-smoke

Each network needs its own compilation.

Source: Tolstikhin et al., "MLP-Mixer", NeurIPS 2021.
"""

import dataclasses
import itertools
from typing import ClassVar

import flax.linen as nn

from eproxy_jax import spaces
from eproxy_jax.cli import config as eproxy_config

TAPS = 3


class Mixer(nn.Module):
    """An MLP-Mixer: patches, then blocks that mix tokens and channels in turn."""

    patch: int
    width: int
    depth: int
    expansion: int

    @nn.compact
    def __call__(self, images):
        """Map [B, H, W, 3] to three feature maps [B, H / patch, W / patch, width], last one first."""
        batch, height, width, _ = images.shape
        rows, columns = height // self.patch, width // self.patch
        x = images.reshape(batch, rows, self.patch, columns, self.patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = nn.Dense(self.width)(x.reshape(batch, rows * columns, -1))
        taps = []
        for _ in range(self.depth):
            x = x + self.mix(nn.LayerNorm()(x).swapaxes(1, 2)).swapaxes(1, 2)
            x = x + self.mix(nn.LayerNorm()(x))
            taps.append(x.reshape(batch, rows, columns, self.width))
        # Feature maps at the end, one third before it and two thirds before it.
        return [taps[-1 - self.depth * i // TAPS] for i in range(TAPS)]

    def mix(self, x):
        """Apply a perceptron with one hidden layer along the last axis."""
        hidden = nn.gelu(nn.Dense(self.expansion * x.shape[-1])(x))
        return nn.Dense(x.shape[-1])(hidden)


@spaces.register("mixer")
@dataclasses.dataclass(frozen=True)
class MixerSpace(spaces.FlaxFamily):
    """(patch, width, depth, expansion); the widths are multiples of ``base_width``."""

    base_width: int = 32

    name: ClassVar[str] = "mixer"

    @property
    def archs(self):
        """All architectures of the family."""
        widths = [self.base_width * factor for factor in (1, 2, 4)]
        return tuple(itertools.product((4, 8), widths, (3, 6, 9), (1, 2)))

    def build(self, arch):
        """Build the network of an architecture."""
        return Mixer(*arch)


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    config = eproxy_config.variant_config("mixer", variant, small={"base_width": 16}, smoke={"base_width": 4})
    config.settings.lr = 0.1  # Networks with layer norms need a lower learning rate than batch-normalised ones.
    if variant == "smoke":
        config.images.size = 32  # 8 pixels would be one patch
    return config
