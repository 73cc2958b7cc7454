"""The field's proxies of one candidate, a module a family, and their registry.

``names()`` lists them; ``ep.score(archs, space, proxy="naswot,jacov")`` computes them for a list of architectures.
Higher is better in every column.
``graph_counts`` runs no network: it takes lists of architectures, and its columns have no direction.
"""

from eproxy_jax.proxies.aggregates import AGGREGATES, aggregates_of, rank_sum
from eproxy_jax.proxies.inputs import Inputs, make_inputs
from eproxy_jax.proxies.registry import SETS, Proxy, get, names, register, resolve

__all__ = [
    "AGGREGATES",
    "SETS",
    "Inputs",
    "Proxy",
    "aggregates_of",
    "get",
    "make_inputs",
    "names",
    "rank_sum",
    "register",
    "resolve",
]
