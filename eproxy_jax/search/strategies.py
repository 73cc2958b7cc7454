"""This module chooses what a search asks for next: by a Gaussian process, by evolution, at random, or by proxy alone.

A strategy is data, its options, with one pure function of the state. Its draws come from the seed and the number of
what was asked.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from eproxy_jax.errors import SEEDS, check_known, quoted
from eproxy_jax.search import pareto
from eproxy_jax.search.acquisition import AUTO, bounds_of, label_free

if TYPE_CHECKING:
    from eproxy_jax.search.state import State

_TRIES = 1000  # draws from a whole space for one new feasible architecture
_TOURNAMENTS = 20  # parents whose neighbours are tried before a random architecture is


@dataclasses.dataclass(frozen=True)
class Strategy(abc.ABC):
    """How the next candidate is chosen.

    Attributes:
      name: its name.
      needs_columns: True if it cannot search a whole space.
    """

    name: ClassVar[str]
    needs_columns: ClassVar[bool] = False

    @abc.abstractmethod
    def propose(self, state: State) -> str | None:
        """Return the key of a candidate that was never asked for; None if none is left."""


@dataclasses.dataclass(frozen=True)
class Random(Strategy):
    """Uniform draws without repetition."""

    name: ClassVar[str] = "random"

    def propose(self, state: State) -> str | None:
        """Return a random candidate."""
        return _draw(state, generator_of(state))


@dataclasses.dataclass(frozen=True)
class ByProxy(Strategy):
    """The order of a label-free sum of ranks; values that are told change nothing.

    Attributes:
      prior: an aggregate's name or names of columns; by default those columns of ``rank_sum`` that are there.
    """

    prior: str | tuple[str, ...] = AUTO

    name: ClassVar[str] = "by_proxy"
    needs_columns: ClassVar[bool] = True

    def propose(self, state: State) -> str | None:
        """Return the best candidate by the sum that was not asked for."""
        asked = set(state.asked)
        keys = (state.problem.keys[row] for row in label_free(state.problem, self.prior).order)
        return next((key for key in keys if key not in asked), None)


@dataclasses.dataclass(frozen=True)
class Evolution(Strategy):
    """Regularised evolution: the oldest die, a random neighbour of a tournament's winner is asked for.

    The population is the latest measurements. With several objectives the fitness is the number of the front. The first
    candidates, as many as the population has, are random.

    Attributes:
      population_size: members; 10 for some tens of measurements, 100 for thousands of predictions.
      tournament_size: members drawn for a tournament.

    Source: Real, Aggarwal, Huang and Le, AAAI 2019.
    Differs from the reference: no function is asked for twice, and a failed training wins no tournament.
    """

    population_size: int = 10
    tournament_size: int = 3

    name: ClassVar[str] = "evolution"

    def __post_init__(self):
        _check_counts(self, "population_size", "tournament_size")

    def propose(self, state: State) -> str | None:
        """Return a mutant, or a random candidate at the beginning and where no mutant is new."""
        rng, measured = generator_of(state), state.measured
        if len(state.asked) >= self.population_size and measured:
            problem, asked = state.problem, set(state.asked)
            latest = list(dict.fromkeys(one.key for one in reversed(state.told)))[: self.population_size]
            fitness = dict(zip((one.key for one in measured), _fitness(state), strict=True))
            for _ in range(_TOURNAMENTS):
                drawn = rng.choice(len(latest), min(self.tournament_size, len(latest)), replace=False)
                parent = max((latest[i] for i in drawn), key=lambda key: fitness.get(key, -np.inf))
                neighbours = problem.space.neighbours(problem.space.parse(parent))
                for i in rng.permutation(len(neighbours)):
                    key = problem.key(neighbours[i])
                    if key not in asked and problem.is_candidate(key):
                        return key
        return _draw(state, rng)


@dataclasses.dataclass(frozen=True)
class Process(Strategy):
    """A Gaussian process over the columns, with an upper confidence bound over all candidates.

    The first candidates are drawn from the top of a label-free sum of ranks; without a sum, from all. Candidates that
    wait for a value count as measured at their expected one: the bound falls around them, and a batch spreads out. Of
    two objectives the next candidate's bound adds most hypervolume; of more, it is best by a weighted Chebyshev norm of
    random weights.

    Attributes:
      num_initial: candidates drawn before the process chooses.
      initial_top: the best of the sum, from which they are drawn; at most a tenth of the candidates, unless that is
        less than twice ``num_initial``.
      beta: standard deviations in the bound.
      prior: an aggregate's name or names of columns; by default those columns of ``rank_sum`` that are there. One that
        is named is the mean of the process as well.

    Source: Srinivas, Krause, Kakade and Seeger, ICML 2010 (the bound); Desautels, Krause and Burdick, JMLR 2014
    (batches); Knowles, ParEGO, IEEE TEC 2006 (random weights).
    """

    num_initial: int = 8
    initial_top: int = 200
    beta: float = 2.0
    prior: str | tuple[str, ...] = AUTO

    name: ClassVar[str] = "process"
    needs_columns: ClassVar[bool] = True

    def __post_init__(self):
        _check_counts(self, "num_initial", "initial_top")
        if not self.beta >= 0:
            raise ValueError(f"strategy {self.name!r}: beta: expected a number >= 0, got {quoted(self.beta)}")

    def propose(self, state: State) -> str | None:
        """Return the candidate of the largest bound; one of the top of the sum while too little is measured."""
        problem = state.problem
        left = problem.feasible.copy()
        left[[problem.place[key] for key in state.asked]] = False
        if not left.any():
            return None
        bounds = None if len(state.asked) < self.num_initial else bounds_of(state, self.prior, self.beta)
        if bounds is None:
            free = label_free(problem, self.prior)
            most = max(len(free.order) // 10, 2 * self.num_initial)
            first = free.order[: min(self.initial_top, most)] if free.names else free.order
            order = [*np.random.default_rng(state.seed).permutation(first), *free.order]
            return problem.keys[next(row for row in order if left[row])]
        return problem.keys[int(np.argmax(np.where(left, bounds.scalar(generator_of(state)), -np.inf)))]


STRATEGIES: dict[str, type[Strategy]] = {one.name: one for one in (Process, Evolution, Random, ByProxy)}


def make_strategy(strategy: Strategy | str) -> Strategy:
    """Return the strategy of a name, with its usual options; a strategy as it is.

    Raises:
      ValueError: the name is unknown.
    """
    if isinstance(strategy, Strategy):
        return strategy
    check_known([strategy], STRATEGIES, "search", "strategy")
    return STRATEGIES[strategy]()


def _check_counts(strategy: Strategy, *names: str) -> None:
    for name in names:
        value = getattr(strategy, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"strategy {strategy.name!r}: {name}: expected an integer >= 1, got {quoted(value)}")


def generator_of(state: State) -> np.random.Generator:
    """Return the generator of this step; that of the seed alone draws the first candidates of a process."""
    return np.random.default_rng([state.seed, 1 + len(state.asked)])


def _fitness(state: State) -> np.ndarray:
    """Return the fitness of the measured candidates, [N]."""
    values = state.objective_values()
    return values[:, 0] if values.shape[1] == 1 else -pareto.non_dominated_ranks(values)


def _draw(state: State, rng: np.random.Generator) -> str | None:
    """Return a random candidate that was not asked for; None if none is left.

    Raises:
      ValueError: a thousand draws from a whole space give no new feasible one.
    """
    problem, asked = state.problem, set(state.asked)
    if problem.columns is not None:
        left = [row for row in np.flatnonzero(problem.feasible) if problem.keys[row] not in asked]
        return problem.keys[left[rng.integers(len(left))]] if left else None
    refused = []
    for _ in range(_TRIES):
        key = problem.key(problem.space.sample(1, int(rng.integers(SEEDS)))[0])
        if key in asked:
            continue
        if problem.is_candidate(key):
            return key
        refused.append(key)
    if refused and not asked and problem.bounds:
        problem.check_feasible(list(dict.fromkeys(refused)))
    raise ValueError(
        f"ask: {_TRIES} draws from {problem.space.name} gave no new feasible architecture beside the {len(asked):,} "
        "asked for: search a list of candidates (columns), or loosen the constraints"
    )
