"""The configuration of ``tiny_config.py`` for the same space, but one that says it is too large to list."""

import dataclasses

import tiny_config
from tiny import Tiny

from eproxy_jax.spaces import base


@base.register("tiny_large")
@dataclasses.dataclass(frozen=True)
class Large(Tiny):
    """Tiny without a number of architectures."""

    name = "tiny_large"
    num_archs = None  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]

    def sample(self, num, seed):
        return Tiny().sample(num, seed)

    def enumerate(self):
        raise AssertionError("a large space is never listed")


def get_config(variant="smoke"):
    """Return the one configuration."""
    config = tiny_config.get_config(variant)
    config.space = Large.name
    return config
