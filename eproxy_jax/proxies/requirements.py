"""What proxies need inside a network, and which of it a network lacks.

Built-in spaces have all of it. A user's own module may have no ReLU, no batch norm or no marked block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.errors import quoted
from eproxy_jax.nn import marks
from eproxy_jax.proxies.classifier import features_of

_RELUS = ("ReLUs (jax.nn.relu)", ("relu",))
_NORMS = ("batch norms (flax.linen.BatchNorm or ep.nn.layers.BatchNorm)", ("norm",))
_LAYERS = ("convolutions or linear layers of flax.linen or ep.nn.layers", ("conv_gradient",))
_KERNELS = ("weights of two or more dimensions", ("kernel",))
_BLOCKS = (
    "marked blocks (ep.nn.marks.feature around their outputs)",
    ("feature_gradient", "block_output_gradient", "branch_output_gradient"),
)

# What a proxy needs, in words, and the marks any of which shows that it is there. The others need nothing.
NEEDED = MappingProxyType(
    {
        "naswot": _RELUS,
        "swap": _RELUS,
        "zen": _NORMS,
        "entropy_norms": _NORMS,
        "trainability": _BLOCKS,
        "fisher": _LAYERS,
        "vkdnw": _LAYERS,
        "grad_norm": _KERNELS,
        "l2_norm": _KERNELS,
        "zico": _KERNELS,
        "num_layers": _KERNELS,
        "snip": _KERNELS,
        "plain": _KERNELS,
        "grasp": _KERNELS,
        "synflow": _KERNELS,
    }
)


def marks_of(network: nn.Module, encoded: Array, images: Any) -> frozenset[str]:
    """Return the names of the marks that a network shows, forward and backward; it is traced, not run.

    Args:
      network: a universal module.
      encoded: an architecture.
      images: [B, H, W, 3], array or ``jax.ShapeDtypeStruct``.
    """
    images = jax.ShapeDtypeStruct(images.shape, images.dtype)
    params = jax.eval_shape(lambda images: network.init(jax.random.key(0), images, encoded)["params"], images)

    def total(params: Any, images: Array) -> Array:
        taps: Any = network.apply({"params": params}, images, encoded)
        return sum((jnp.sum(features_of(tap)) for tap in taps), jnp.zeros((), images.dtype))

    return marks.shown(jax.grad(total, (0, 1)))(params, images)


def lacking(columns: Sequence[str], shown: frozenset[str]) -> dict[str, str]:
    """Return what each proxy lacks in a network, in words; proxies that lack nothing are left out.

    Args:
      columns: names of proxies.
      shown: marks of the network, see :func:`marks_of`.

    Example:
      >>> lacking(["jacov", "zen"], frozenset({"relu"}))
      {'zen': 'batch norms (flax.linen.BatchNorm or ep.nn.layers.BatchNorm)'}
    """
    needed = {name: NEEDED[name] for name in columns if name in NEEDED}
    return {name: words for name, (words, any_of) in needed.items() if not shown.intersection(any_of)}


def message(lacks: Mapping[str, str], name: str) -> str:
    """Say in a line what proxies lack in a network.

    Args:
      lacks: of :func:`lacking`, not empty.
      name: of the network or its space.
    """
    parts = [f"proxy {proxy} needs {words}" for proxy, words in lacks.items()]
    return f"{'; '.join(parts)}; {quoted(name)} shows none: leave out {', '.join(lacks)}"
