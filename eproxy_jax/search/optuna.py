"""This module lets Optuna search the candidates of a search: an objective asks its trial for an architecture.

It needs ``pip install 'eproxy_jax[optuna]'``; nothing else of this package imports it.

    sampler = ArchSampler("nasbench201", columns)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: train(sampler.suggest(trial)), n_trials=50)
    study.best_trial.user_attrs["arch"]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

try:
    import optuna
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: pip install 'eproxy_jax[optuna]'", name=error.name) from error
from typing_extensions import override

from eproxy_jax.fits.columns import Columns
from eproxy_jax.search.problem import VALUE, Objective
from eproxy_jax.search.state import State, ask, init, replay, tell
from eproxy_jax.search.strategies import Strategy
from eproxy_jax.spaces import SearchSpace

ARCH = "arch"  # the parameter, an index of a candidate, and the attribute of a trial, its string


class ArchSampler(optuna.samplers.BaseSampler):
    """A sampler of architectures: one integer parameter, ``arch``, the number of a candidate.

    Each trial is one ask, its values are what is told. So a study in any storage resumes exactly, and trials that run
    count as waiting. A trial that fails or is pruned is a failed training. Other parameters of the objective are drawn
    at random.

    Args:
      space: a search space or its registry name.
      columns: numbers of the candidates, one row each.
      strategy: see :func:`search.init`.
      constraints: see :func:`search.init`.
      measures: see :func:`search.init`.
      seed: of all draws.

    Raises:
      ValueError: see :func:`search.init`.
    """

    def __init__(
        self,
        space: SearchSpace | str,
        columns: Columns,
        strategy: Strategy | str = "process",
        *,
        constraints: Mapping[str, Any] | None = None,
        measures: Mapping[str, Callable[[Any], float]] | None = None,
        seed: int = 0,
    ):
        self._start = init(space, columns, strategy, constraints=constraints, measures=measures, seed=seed)
        self._others = optuna.samplers.RandomSampler(seed=seed)

    @property
    def archs(self) -> tuple[str, ...]:
        """The candidates, in the order of their numbers."""
        columns = self._start.problem.columns
        assert columns is not None
        return columns.archs

    def suggest(self, trial: optuna.Trial) -> str:
        """Return the architecture of a trial; its string is the trial's attribute ``arch``."""
        arch = self.archs[trial.suggest_int(ARCH, 0, len(self.archs) - 1)]
        trial.set_user_attr(ARCH, arch)
        return arch

    def state(self, study: optuna.Study) -> State:
        """Return the search that a study is so far: trials in their order, whoever proposed them.

        A candidate that several trials measured has the mean of their values.

        Raises:
          ValueError: the objectives of the study and of its trials differ in number.
        """
        lower = optuna.study.StudyDirection.MINIMIZE
        objectives = tuple(
            Objective(f"{VALUE}{number}", -1.0 if one == lower else 1.0, measured=True)
            for number, one in enumerate(study.directions)
        )
        problem = dataclasses.replace(self._start.problem, objectives=objectives)
        state = dataclasses.replace(self._start, problem=problem)
        known = set()
        for trial in study.get_trials(deepcopy=False):
            number = trial.params.get(ARCH)
            if number is None or not problem.is_candidate(problem.keys[number]):
                continue
            if number not in known:
                known.add(number)
                state = replay(state, [{"ask": [self.archs[number]]}])
            if trial.state.is_finished():
                values = trial.values if trial.state == optuna.trial.TrialState.COMPLETE else None
                row = [math.nan] * len(objectives) if values is None else values
                state = tell(state, [self.archs[number]], [row])
        return state

    @override
    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, Any]:
        """Return the one parameter."""
        return {ARCH: optuna.distributions.IntDistribution(0, len(self.archs) - 1)}

    @override
    def sample_relative(self, study: optuna.Study, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        """Return the number of the candidate to measure next.

        Raises:
          ValueError: no candidate is left.
        """
        state = self.state(study)
        (arch,), _ = ask(state)
        return {ARCH: state.problem.place[state.problem.key(arch)]}

    @override
    def sample_independent(self, study: optuna.Study, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Draw any other parameter at random."""
        return self._others.sample_independent(study, trial, param_name, param_distribution)
