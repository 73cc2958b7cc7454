"""The configuration of ``tiny.py``: three steps on four images of 8 pixels, a search of a few genes, two proxies.

Child processes load it by its path, so it finds ``tiny.py`` itself.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from eproxy_jax import proxies
from eproxy_jax.cli import config as eproxy_config
from eproxy_jax.spaces import base

sys.path.append(str(Path(__file__).parent))
import tiny

base.register(tiny.Tiny.name)(tiny.Tiny)


def drawn(network, key, encoded, inputs):
    """A number of key, architecture and images: a proxy that compiles in a moment."""
    del network
    return jax.random.normal(key) + jnp.sum(encoded) / 7 + inputs.images[0, 0, 0, 0]


def label_sum(network, key, encoded, inputs):
    """The sum of the labels, plus the first digit."""
    del network, key
    return jnp.sum(inputs.labels) + encoded[0]


proxies.register("drawn", drawn)
proxies.register("label_sum", label_sum)


def get_config(variant="smoke"):
    """Return the one configuration."""
    assert variant == "smoke"
    config = eproxy_config.default_config(tiny.Tiny.name)
    config.images.num, config.images.size = 4, 8
    config.settings.num_steps = 3
    (branch,) = config.settings.branches
    branch["transform_channels"], branch["target_channels"], branch["barrier_kernel"] = 8, 4, 1
    genes = config.dps.genes
    genes.branches, genes.transform_kernel, genes.barrier_kernel = (1,), (1,), (1,)
    genes.transform_channels, genes.target_channels = (4, 8), (4,)
    for name in ("network_init", "barrier_init"):
        genes[name] = ("default", *genes[name][:1])
    config.dps.population_size, config.dps.tournament_size, config.dps.log_every = 4, 2, 2
    return config
