"""This module computes what a page shows: agreement with measured values, of columns with each other, and by labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from eproxy_jax import ranks
from eproxy_jax.fits import fitted
from eproxy_jax.fits.columns import Columns
from eproxy_jax.proxies import graph_counts
from eproxy_jax.report.evidence import MACS, PARAMS, Column, Evidence, connected
from eproxy_jax.sampling import draw_distinct

if TYPE_CHECKING:
    from jaxtyping import Float64

LABEL_COUNTS = (5, 10, 20, 50)
_MOST_FITTED = 1500  # architectures of a label-efficiency curve: what is held out says no more beyond
_FEWEST = 3


def qualities(evidence: Evidence, task: str) -> dict[str, ranks.RankQuality]:
    """Return the rank quality of each column on a task, the best first, and MACs and parameters always last.

    Architectures without a value in the column, and labels of a fit, are left out of its row.
    """
    found = {}
    for name, column in evidence.columns.items():
        known = evidence.tested(column, task)
        if known.sum() >= _FEWEST:
            found[name] = ranks.rank_quality(column.values[known], evidence.tasks[task][known])

    def place(name: str) -> tuple[bool, float]:
        value = found[name].spearman
        return evidence.columns[name].kind == "size", -value if math.isfinite(value) else math.inf

    return {name: found[name] for name in sorted(found, key=place)}


def correlations(columns: Sequence[Column]) -> Float64[np.ndarray, "C C"]:
    """Return Spearman's correlation of each column with each other one, over architectures that both have."""
    count = len(columns)
    found = np.eye(count)
    for i in range(count):
        for j in range(i):
            both = ~np.isnan(columns[i].values) & ~np.isnan(columns[j].values)
            x, y = columns[i].values[both], columns[j].values[both]
            value = math.nan
            if both.sum() >= _FEWEST:
                x, y = stats.rankdata(x), stats.rankdata(y)
                if np.ptp(x) and np.ptp(y):
                    value = float(np.corrcoef(x, y)[0, 1])
            found[i, j] = found[j, i] = value
    return found


def by_step(evidence: Evidence, losses: Float64[np.ndarray, "A S"]) -> dict[str, list[tuple[float, float]]]:
    """Return, for each task, Spearman's correlation of minus the loss at each training step."""
    found = {}
    for task, values in evidence.tasks.items():
        known = np.isfinite(values) & np.isfinite(losses).all(1)
        if known.sum() >= _FEWEST:
            steps = ranks.spearman_rows(-losses[known].T, values[known])
            found[task] = [(float(step), float(value)) for step, value in enumerate(steps, start=1)]
    return found


class Learning(NamedTuple):
    """How well fits to few labels rank the rest.

    Attributes:
      points: (labels, mean Spearman over the draws).
      spread: standard deviation over the draws, by number of labels.
      levels: Spearman of what needs no label, on all of the same architectures.
      num_archs: distinct functions that took part.
      draws: draws of labels for each number.
    """

    points: list[tuple[float, float]]
    spread: dict[int, float]
    levels: dict[str, float]
    num_archs: int
    draws: int


def learning(
    evidence: Evidence, task: str, draws: int, show: Callable[[int, int], object] | None = None
) -> Learning | None:
    """Fit a ranking to few labels again and again, each time tested on what was no label; None without columns.

    Args:
      evidence: columns and measured values; fits are no columns here.
      task: name of the measured values.
      draws: draws of labels for each number.
      show: gets the fits that are done and those in all.
    """
    chosen = _functions(evidence, task)
    columns = _columns(evidence, chosen)
    counts = [count for count in LABEL_COUNTS if count + _FEWEST <= len(chosen)]
    if columns is None or not counts or draws < 1:
        return None
    values = dict(zip(columns.archs, evidence.tasks[task][chosen].tolist(), strict=True))
    if len(set(values.values())) < 2:
        return None
    points, spread, done = [], {}, 0
    for count in counts:
        own = []
        for draw in range(draws):
            drawn = [columns.archs[i] for i in draw_distinct(len(columns), count, draw, "measured ones")]
            labels = {arch: values[arch] for arch in drawn}
            if len(set(labels.values())) > 1:
                rest = [arch for arch in columns.archs if arch not in labels]
                mean = fitted.fit(columns, labels).predict(columns.rows(rest))[0]
                own.append(ranks.rank_quality(mean, [values[arch] for arch in rest]).spearman)
            done += 1
            if show is not None:
                show(done, draws * len(counts))
        points.append((float(count), float(np.mean(own)) if own else math.nan))
        spread[count] = float(np.std(own)) if own else math.nan
    return Learning(points, spread, _levels(evidence, task, chosen), len(columns), draws)


def _functions(evidence: Evidence, task: str) -> list[int]:
    """Return one architecture of each connected function that is measured and has columns, at most 1,500, evenly."""
    known = np.isfinite(evidence.tasks[task]) & connected(evidence)
    first: dict[str, int] = {}
    for place in np.flatnonzero(known):
        first.setdefault(evidence.canonical[place], int(place))
    places = list(first.values())
    if len(places) <= _MOST_FITTED:
        return places
    return [places[i] for i in np.linspace(0, len(places) - 1, _MOST_FITTED).round().astype(int)]


def _columns(evidence: Evidence, chosen: Sequence[int]) -> Columns | None:
    """Return the columns that a fit sees: proxies and sizes of the chosen, and the counts in their graphs."""
    held = {}
    for name, column in evidence.columns.items():
        values = column.values[list(chosen)]
        if column.kind == "proxy" and np.isfinite(values).any():
            held[name] = values
    archs = [evidence.canonical[i] for i in chosen]
    if not held or not archs:
        return None
    for name, other in (("macs", MACS), ("params", PARAMS)):
        held.setdefault(name, evidence.columns[other].values[list(chosen)])
    columns = Columns.of(archs, held)
    if graph_counts.names(evidence.space):
        parsed = [evidence.space.parse(arch) for arch in archs]
        counts = {"graph_counts": graph_counts.graph_counts(evidence.space, parsed)}
        columns = columns.join(Columns.of(archs, counts))
    return columns


def _levels(evidence: Evidence, task: str, chosen: Sequence[int]) -> dict[str, float]:
    values = evidence.tasks[task][list(chosen)]
    found: dict[str, float] = {}
    for name, column in evidence.columns.items():
        own = column.values[list(chosen)]
        if column.kind in ("sum", "size") and not np.isnan(own).any() and name != PARAMS:
            found[name] = ranks.rank_quality(own, values).spearman
    return found


def best_of_size(cost: Float64[np.ndarray, " A"], value: Float64[np.ndarray, " A"]) -> np.ndarray:
    """Return which architectures no other one beats in both, lower cost and higher value, [A]."""
    from eproxy_jax.search import pareto

    known = np.isfinite(cost) & np.isfinite(value)
    return pareto.front(np.stack([np.where(known, -cost, np.nan), np.where(known, value, np.nan)], 1))


def kept(values: Float64[np.ndarray, " A"], most: int) -> np.ndarray:
    """Return the positions of at most so many architectures: the best ones for a half, the rest evenly.

    Args:
      values: [A], higher is better.
      most: how many.
    """
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")
    best, rest = order[: most // 2], order[most // 2 :]
    evenly = rest[np.linspace(0, len(rest) - 1, most - len(best)).round().astype(int)]
    return np.sort(np.concatenate([best, evenly]))
