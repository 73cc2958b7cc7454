"""This package searches for the best architecture with few measurements: ask, measure, tell.

``state = init(space, columns)``, ``archs, state = ask(state, n)``, ``state = tell(state, archs, values)``. All are pure
functions; ``state.best`` and ``state.front`` are the answers, ``to_rows`` and ``replay`` keep a search in a file.
"""

from eproxy_jax.search.cascade import wanting
from eproxy_jax.search.pareto import front, hypervolume, non_dominated_ranks
from eproxy_jax.search.pool import explore
from eproxy_jax.search.state import Result, State, ask, evolve, grow, init, replay, supply, tell, to_rows
from eproxy_jax.search.strategies import ByProxy, Evolution, Process, Random, Strategy, make_strategy

__all__ = [
    "ByProxy",
    "Evolution",
    "Process",
    "Random",
    "Result",
    "State",
    "Strategy",
    "ask",
    "evolve",
    "explore",
    "front",
    "grow",
    "hypervolume",
    "init",
    "make_strategy",
    "non_dominated_ranks",
    "replay",
    "supply",
    "tell",
    "to_rows",
    "wanting",
]
