"""This module finds candidates in spaces too large to list: regularised evolution over what the search expects.

The population is the latest candidates, the oldest die, and a random neighbour of a tournament's winner becomes a
candidate. The fitness is the bound of the process once enough is measured, the label-free ranking before. It needs
columns and no measurement, and is computed anew for all candidates after each batch.

Source: Real, Aggarwal, Huang and Le, AAAI 2019.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.errors import SEEDS
from eproxy_jax.fits.columns import Columns
from eproxy_jax.search.acquisition import AUTO, bounds_of, label_free
from eproxy_jax.search.state import State, grow
from eproxy_jax.search.strategies import Process

if TYPE_CHECKING:
    from jaxtyping import Float64

_POPULATION = 64
_TOURNAMENT = 8
_TRIES = 20  # parents, or random architectures, for one new candidate


def explore(state: State, columns_of: Callable[[Sequence[str]], Columns], num: int, batch: int = 32) -> State:
    """Add candidates that the search expects much of.

    Args:
      state: the search; it has columns of some candidates to begin with.
      columns_of: function of canonical strings -> their columns, with the names of the search's.
      num: how many to add; fewer if no further ones are found.
      batch: how many of one call.

    Returns:
      The state after one :func:`grow`. The same state and columns give the same candidates.
    """
    found, rng = state, np.random.default_rng([state.seed, 1 + state.grown, len(state.asked), len(state.problem.keys)])
    before = len(state.problem.keys)
    neighbours: dict[int, list[Any]] = {}  # of each parent: some spaces take a second for them
    population = np.argsort(-expected(state), kind="stable")[:_POPULATION][::-1].tolist()
    while (left := num - (len(found.problem.keys) - before)) > 0:
        children = _children(found, population, min(batch, left), rng, neighbours)
        if not children:
            break
        count = len(found.problem.keys)
        found = grow(found, columns_of(children))
        population = [*population, *range(count, len(found.problem.keys))][-_POPULATION:]
        if len(found.problem.keys) == count:
            break
    return dataclasses.replace(found, grown=state.grown + 1)


def expected(state: State) -> Float64[np.ndarray, " A"]:
    """Return what a search expects of its candidates, [A], higher is better; -inf for those it may not ask for."""
    strategy, problem = state.strategy, state.problem
    prior, bounds = getattr(strategy, "prior", AUTO), None
    if isinstance(strategy, Process) and len(state.asked) >= strategy.num_initial:
        bounds = bounds_of(state, prior, strategy.beta)
    rng = np.random.default_rng([state.seed, len(state.asked)])
    scores = label_free(problem, prior).normal if bounds is None else bounds.scalar(rng)
    return np.where(problem.feasible, scores, -np.inf)


def _children(
    state: State, population: Sequence[int], num: int, rng: np.random.Generator, neighbours: dict[int, list[Any]]
) -> list[str]:
    """Return up to ``num`` distinct keys that may become candidates."""
    problem, scores = state.problem, expected(state)
    found: dict[str, None] = {}
    for _ in range(num):
        for attempt in range(2 * _TRIES):
            if attempt < _TRIES:
                drawn = rng.choice(len(population), min(_TOURNAMENT, len(population)), replace=False)
                parent = max((population[i] for i in drawn), key=lambda row: scores[row])
                if parent not in neighbours:
                    neighbours[parent] = list(problem.space.neighbours(problem.space.parse(problem.keys[parent])))
                if not (own := neighbours[parent]):
                    continue
                key = problem.key(own[int(rng.integers(len(own)))])
            else:
                key = problem.key(problem.space.sample(1, int(rng.integers(SEEDS)))[0])
            if key not in found and problem.may_join(key):
                found[key] = None
                break
    return list(found)
