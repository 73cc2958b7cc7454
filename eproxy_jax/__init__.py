"""Eproxy: rank candidate networks for neural architecture search without training them.

The functional API is :func:`score` and :func:`search_proxy`; the command line is ``eproxy``. Importing this package
touches no device, no file and no JAX configuration.
"""

from eproxy_jax import spaces
from eproxy_jax._version import __version__
from eproxy_jax.dps.evolution import SearchSpec
from eproxy_jax.dps.fitted import FittedProxy
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.dps.search import SearchResult, search_proxy
from eproxy_jax.images import default_images, load_images
from eproxy_jax.scoring import score
from eproxy_jax.types import BranchSettings, ProxySettings, ScoreResult

__all__ = [
    "BranchSettings",
    "FittedProxy",
    "GeneTable",
    "ProxySettings",
    "ScoreResult",
    "SearchResult",
    "SearchSpec",
    "__version__",
    "default_images",
    "load_images",
    "score",
    "search_proxy",
    "spaces",
]
