"""This module predicts all candidates from what was measured, and says how much each could still win.

Columns become features once for each problem; a step fits hyperparameters to the measurements and predicts all
candidates in one product.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from eproxy_jax.fits.aggregates import RankSum, aggregate_columns
from eproxy_jax.fits.columns import Columns
from eproxy_jax.fits.process import Priors, fit_process
from eproxy_jax.fits.transforms import Features, vector_scores
from eproxy_jax.search import pareto
from eproxy_jax.search.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

    from eproxy_jax.search.state import State

AUTO = "auto"
_FEWEST = 3  # different measurements: below, a process has nothing to go by
_SHARE_OF_SUM = 0.05  # of the weighted sum beside the weighted maximum, in ParEGO
_REFERENCE = 0.05  # of the range, from the worst down to the reference: both ends of a front add something


class LabelFree(NamedTuple):
    """A ranking of candidates without labels.

    Attributes:
      names: the columns that are summed; none if the ranking knows nothing.
      normal: [A], normal scores of the sum.
      order: rows of the feasible candidates, best first.
    """

    names: tuple[str, ...]
    normal: Float64[np.ndarray, " A"]
    order: Int64[np.ndarray, " F"]


@functools.lru_cache(maxsize=8)
def label_free(problem: Problem, prior: str | tuple[str, ...]) -> LabelFree:
    """Rank the candidates by a sum of ranks over columns.

    Args:
      problem: the problem; it has columns.
      prior: an aggregate's name or names of columns; ``"auto"``: those columns of ``rank_sum`` that are there.

    Raises:
      ValueError: a column or the aggregate is unknown.
    """
    columns = problem.columns
    assert columns is not None
    if prior == AUTO:
        names = tuple(name for name in aggregate_columns("rank_sum") if name in columns.names)
    else:
        names = aggregate_columns(prior)
    normal = RankSum.of(columns, names).normal(columns) if names else np.zeros(len(columns))
    order = np.argsort(-normal, kind="stable")
    return LabelFree(names, normal, order[problem.feasible[order]])


@functools.lru_cache(maxsize=4)
def _inputs(problem: Problem) -> Float64[np.ndarray, "A D"]:
    """Return what a process sees of the candidates."""
    assert problem.columns is not None
    return Features.of(problem.columns)(problem.columns)


@functools.lru_cache(maxsize=4)
def _dear_inputs(problem: Problem, dear: Columns | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return rows [K] of candidates whose dear columns are known, and what a process sees of them, [K, D].

    Ranks and scales are among these K. None where they tell no two of them apart.
    """
    if dear is None or len(dear) < _FEWEST:
        return None
    assert problem.columns is not None
    rows = np.asarray([problem.place[key] for key in dear.archs])
    texts = [problem.columns.archs[row] for row in rows]
    both = problem.columns.rows(texts).join(Columns(tuple(texts), dear.names, dear.values, dear.blocks))
    if not _differs(dear):
        return None
    return rows, Features.of(both)(both)


def _differs(columns: Columns) -> bool:
    return bool(sum(len(np.unique(column[~np.isnan(column)])) > 1 for column in columns.values.T))


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Upper confidence bounds of all candidates, objective by objective; higher is better in each.

    Attributes:
      upper: [A, M].
      reached: [N, M], the expected values of what was asked for: noise in a measurement sets no mark.
      feasible: rows of the feasible candidates.
    """

    upper: Float64[np.ndarray, "A M"]
    reached: Float64[np.ndarray, "N M"]
    feasible: Int64[np.ndarray, " F"]

    def scalar(self, rng: np.random.Generator) -> Float64[np.ndarray, " A"]:
        """Return one number a candidate, [A], to be maximised."""
        if self.upper.shape[1] == 1:
            return self.upper[:, 0]
        some = self.upper[self.feasible]
        worst = np.minimum(some.min(0), self.reached.min(0))
        scale = np.maximum(np.maximum(some.max(0), self.reached.max(0)) - worst, 1e-12)
        upper, reached = (self.upper - worst) / scale, (self.reached - worst) / scale
        weights = rng.dirichlet(np.ones(upper.shape[1]))
        short = weights * (1 - upper)  # of the ideal
        norm = -short.max(1) - _SHARE_OF_SUM * short.sum(1)
        if upper.shape[1] > 2:
            return norm
        gains = pareto.hypervolume_gains(upper, reached, (-_REFERENCE, -_REFERENCE))
        return gains if gains[self.feasible].max() > 0 else norm


def bounds_of(state: State, prior: str | tuple[str, ...], beta: float) -> Bounds | None:
    """Return the bounds of all candidates; None while too little is measured.

    Args:
      state: the search; its problem has columns.
      prior: see :func:`label_free`.
      beta: standard deviations in the bound.

    A process is fitted to the normal scores of the measurements of each measured objective. Candidates that wait for a
    value are put to it at their expected one, with the same hyperparameters: the deviation falls around them.
    Candidates with dear columns are predicted by a second process, which sees these as well.
    """
    problem = state.problem
    measured = [one for one in state.results if one.values is not None]
    waiting = [one for one in state.results if one.values is None and not one.failed]
    rows = [problem.place[one.key] for one in measured]
    ahead = [problem.place[one.key] for one in waiting]
    inputs, dear = _inputs(problem), _dear_inputs(problem, state.dear)
    # The default sum of ranks is good in the middle of a list and draws a search away from its top, see
    # benchmarks/results/search_process.md: it draws the first candidates only.
    named = None if prior == AUTO else label_free(problem, prior)
    upper, reached, number = [], [], 0
    for objective in problem.objectives:
        if not objective.measured:
            known = objective.sign * problem.known(objective.name)
            known = np.where(np.isfinite(known), known, np.nanmin(known[np.isfinite(known)], initial=np.inf))
            upper.append(known)
            reached.append(known[[*rows, *ahead]])
            continue
        values = objective.sign * np.asarray([one.values[number] for one in measured if one.values])
        number += 1
        if len(np.unique(values)) < _FEWEST:
            return None
        targets = vector_scores(values)
        centre = named.normal - named.normal[rows].mean() if named is not None else None
        mean, deviation = _predict(inputs, rows, ahead, targets, centre)
        if dear is not None:
            _see(dear, rows, ahead, targets, centre, mean, deviation)
        upper.append(mean + beta * deviation)
        reached.append(mean[[*rows, *ahead]])
    return Bounds(np.stack(upper, 1), np.stack(reached, 1), np.flatnonzero(problem.feasible))


def _predict(
    inputs: np.ndarray, rows: Sequence[int], ahead: Sequence[int], targets: np.ndarray, centre: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a process to the targets [N] of some rows; return mean and deviation of all inputs [A, D]."""
    rows, ahead = list(rows), list(ahead)
    process, weight = fit_process(inputs[rows], targets, None, Priors(), None if centre is None else centre[rows])
    mean, deviation = process.predict(inputs)
    if centre is not None:
        mean = mean + weight * centre
    if ahead:
        more = dataclasses.replace(process, inputs=inputs[[*rows, *ahead]], targets=np.zeros(len(rows) + len(ahead)))
        deviation = more.predict(inputs)[1]
    return mean, deviation


def _see(
    dear: tuple[np.ndarray, np.ndarray],
    rows: Sequence[int],
    ahead: Sequence[int],
    targets: np.ndarray,
    centre: np.ndarray | None,
    mean: np.ndarray,
    deviation: np.ndarray,
) -> None:
    """Replace mean and deviation of the candidates whose dear columns are known by those of a process that sees them.

    It is fitted to the measurements of such candidates, in the same normal scores.
    """
    known, inputs = dear
    place = {row: i for i, row in enumerate(known.tolist())}
    mine = [i for i, row in enumerate(rows) if row in place]
    if len(np.unique(targets[mine])) < _FEWEST:
        return
    own = [place[rows[i]] for i in mine]
    waiting = [place[row] for row in ahead if row in place]
    middle = None if centre is None else centre[known]
    mean[known], deviation[known] = _predict(inputs, own, waiting, targets[mine], middle)
