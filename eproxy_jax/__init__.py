"""Eproxy: rank candidate networks for neural architecture search without training them.

``__all__`` lists the public names; the command line is ``eproxy``. Each name loads when it is first used. So the import
of this package starts no JAX and touches no device, no file and no configuration.
"""

import importlib
from typing import TYPE_CHECKING, Any

from eproxy_jax._version import __version__

# The module of each public name.
_HOMES = {
    "BranchSettings": "types",
    "Columns": "fits.columns",
    "ColumnsResult": "columns",
    "Eproxy": "proxy",
    "Execution": "execution.execution",
    "Fitted": "fits.fitted",
    "FittedProxy": "dps.fitted",
    "GeneTable": "dps.genes",
    "LabelledImages": "image_files.loading",
    "Member": "dps.fitted",
    "ProxySettings": "types",
    "ProxyTask": "proxy",
    "RankQuality": "ranks",
    "ScoreResult": "types",
    "SearchResult": "dps.search",
    "SearchSpec": "dps.evolution",
    "arch_key": "execution.evaluation",
    "configure": "execution.configuration",
    "default_images": "images",
    "eproxy": "proxy",
    "evaluate": "execution.evaluation",
    "export": "exports.exported",
    "fit": "fits.fitted",
    "found": "dps.fitted",
    "found_names": "dps.fitted",
    "load_images": "image_files.loading",
    "load_labelled": "image_files.loading",
    "portfolio": "columns",
    "rank_quality": "ranks",
    "score": "columns",
    "search_proxy": "dps.search",
    "standardize": "images",
    "suggest": "fits.suggest",
}
_ROOMS = ("nn", "proxies", "report", "runs", "search", "spaces")

__all__ = [
    "BranchSettings",
    "Columns",
    "ColumnsResult",
    "Eproxy",
    "Execution",
    "Fitted",
    "FittedProxy",
    "GeneTable",
    "LabelledImages",
    "Member",
    "ProxySettings",
    "ProxyTask",
    "RankQuality",
    "ScoreResult",
    "SearchResult",
    "SearchSpec",
    "__version__",
    "arch_key",
    "configure",
    "default_images",
    "eproxy",
    "evaluate",
    "export",
    "fit",
    "found",
    "found_names",
    "load_images",
    "load_labelled",
    "nn",
    "portfolio",
    "proxies",
    "rank_quality",
    "report",
    "runs",
    "score",
    "search",
    "search_proxy",
    "spaces",
    "standardize",
    "suggest",
]

if TYPE_CHECKING:
    from eproxy_jax import nn, proxies, report, runs, search, spaces
    from eproxy_jax.columns import ColumnsResult, portfolio, score
    from eproxy_jax.dps.evolution import SearchSpec
    from eproxy_jax.dps.fitted import FittedProxy, Member, found, found_names
    from eproxy_jax.dps.genes import GeneTable
    from eproxy_jax.dps.search import SearchResult, search_proxy
    from eproxy_jax.execution.configuration import configure
    from eproxy_jax.execution.evaluation import arch_key, evaluate
    from eproxy_jax.execution.execution import Execution
    from eproxy_jax.exports.exported import export
    from eproxy_jax.fits.columns import Columns
    from eproxy_jax.fits.fitted import Fitted, fit
    from eproxy_jax.fits.suggest import suggest
    from eproxy_jax.image_files.loading import LabelledImages, load_images, load_labelled
    from eproxy_jax.images import default_images, standardize
    from eproxy_jax.proxy import Eproxy, ProxyTask, eproxy
    from eproxy_jax.ranks import RankQuality, rank_quality
    from eproxy_jax.types import BranchSettings, ProxySettings, ScoreResult


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"eproxy_jax.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"eproxy_jax.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'eproxy_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
