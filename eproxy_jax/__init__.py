"""Eproxy: rank candidate networks for neural architecture search without training them.

The functional API is :func:`score`; the command line is ``eproxy``. Importing this package touches no device, no file
and no JAX configuration.
"""

from eproxy_jax import spaces
from eproxy_jax._version import __version__
from eproxy_jax.images import default_images, load_images
from eproxy_jax.runner import score
from eproxy_jax.types import BranchSettings, ProxySettings, ScoreResult

__all__ = [
    "BranchSettings",
    "ProxySettings",
    "ScoreResult",
    "__version__",
    "default_images",
    "load_images",
    "score",
    "spaces",
]
