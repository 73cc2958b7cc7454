"""This module suggests which architectures to measure, before or after there are labels."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import numpy as np

from eproxy_jax.errors import check_known
from eproxy_jax.fits.aggregates import RankSum
from eproxy_jax.fits.columns import Columns
from eproxy_jax.fits.fitted import Fitted
from eproxy_jax.fits.process import Priors, squared_distances
from eproxy_jax.fits.transforms import Features
from eproxy_jax.proxies.aggregates import AGGREGATES
from eproxy_jax.sampling import generator

if TYPE_CHECKING:
    from jaxtyping import Float64

WAYS = ("diverse", "top")


def suggest(
    columns: Columns,
    num: int = 20,
    by: Literal["diverse", "top"] = "diverse",
    measured: Collection[str] = (),
    fitted: Fitted | None = None,
    keep: float = 1.0,
    seed: int = 0,
) -> tuple[str, ...]:
    """Choose architectures to measure, so that a fit to them ranks the others well.

    Architectures with equal columns are taken one after the other only if nothing else is left.

    Args:
      columns: numbers of the architectures to choose from and of those measured.
      num: how many to choose.
      by: ``"diverse"`` draws each with a probability that grows with the squared distance to the nearest one chosen or
        measured, in normal scores of columns. ``"top"`` takes the one whose expected rank plus standard deviation is
        largest, given the columns of those before it: good ones that differ. The expectation is that of ``fitted``,
        or else the sum of ranks.
      measured: architectures that have a value already; they are not chosen.
      fitted: a fit to the labels so far.
      keep: share of the architectures to choose from, the best by ``fitted`` or by the sum of ranks. It needs one of
        the two.
      seed: of the draws of ``"diverse"``.

    Returns:
      ``num`` distinct architectures, the most wanted first.

    Raises:
      ValueError: an unknown way, fewer architectures than asked for, no column that differs between architectures, or
        no fit and no two columns of ``rank_sum`` where an expectation is needed.

    Source: Arthur and Vassilvitskii, k-means++, SODA 2007 (``"diverse"``); Desautels, Krause and Burdick, JMLR 2014
    (``"top"``: the deviation of later choices counts the earlier ones as measured).

    Example:
      >>> columns = Columns.of(["a", "b", "c"], {"macs": [1, 2, 3], "params": [1, 1, 3]})
      >>> sorted(suggest(columns, 2, measured=["b"]))
      ['a', 'c']
    """
    check_known([by], WAYS, "suggest", "way")
    if not 0 < keep <= 1:
        raise ValueError(f"suggest: keep: expected a share in (0, 1], got {keep}")
    known = set(measured)
    free = np.asarray([arch not in known for arch in columns.archs])
    if not 1 <= num <= free.sum():
        raise ValueError(
            f"suggest: {num} asked for, but {int(free.sum())} of {len(columns)} architectures are not measured: choose "
            "a number from 1 to that"
        )
    features = Features.of(columns)(columns)
    expected = _expected(columns, fitted) if by == "top" or keep < 1 else np.zeros(len(columns))
    before = np.flatnonzero(~free)
    if keep < 1:
        order = np.flatnonzero(free)[np.argsort(-expected[free], kind="stable")]
        free = np.zeros(len(columns), bool)
        free[order[: max(num, round(keep * len(order)))]] = True
    if by == "diverse":
        chosen = _diverse(features, free, before, num, seed)
    else:
        chosen = _top(features, expected, free, before, num)
    return tuple(columns.archs[i] for i in chosen)


def _expected(columns: Columns, fitted: Fitted | None) -> Float64[np.ndarray, " A"]:
    """Return the expected normal scores, [A]."""
    if fitted is not None:
        return fitted.predict(columns)[0]
    names = [name for name in AGGREGATES["rank_sum"] if name in columns.names]
    if len(names) < 2:
        wanted = ", ".join(AGGREGATES["rank_sum"])
        raise ValueError(f"suggest: what is good needs a fit, or two of the columns {wanted}: add them, or use diverse")
    return RankSum.of(columns, names).normal(columns)


def _diverse(features: np.ndarray, free: np.ndarray, before: np.ndarray, num: int, seed: int) -> list[int]:
    rng, free = generator(seed), free.copy()
    nearest = np.full(len(features), np.inf)
    chosen: list[int] = []
    for i in before:
        nearest = np.minimum(nearest, squared_distances(features, features[i : i + 1])[:, 0])
    for _ in range(num):
        weights = np.where(free, np.where(np.isfinite(nearest), nearest, 1.0), 0.0)
        weights = np.where(weights > 1e-12, weights, 0.0)  # the rounding of a distance that is 0
        weights = weights if weights.any() else free.astype(float)
        chosen.append(int(rng.choice(len(features), p=weights / weights.sum())))
        free[chosen[-1]] = False
        nearest = np.minimum(nearest, squared_distances(features, features[chosen[-1] :][:1])[:, 0])
    return chosen


def _top(features: np.ndarray, expected: np.ndarray, free: np.ndarray, before: np.ndarray, num: int) -> list[int]:
    """Choose by mean plus standard deviation of a process with the medians of the priors of ``fit``.

    The deviation is updated by a row of the Cholesky factor for each choice.
    """
    priors, free = Priors(), free.copy()
    assert priors.signal is not None
    variance = np.full(len(features), priors.signal.median)
    rows: list[np.ndarray] = []
    chosen: list[int] = []
    for step in range(len(before) + num):
        if step < len(before):
            i = int(before[step])
        else:
            i = int(np.argmax(np.where(free, expected + np.sqrt(np.maximum(variance, 0)), -np.inf)))
            chosen.append(i)
            free[i] = False
        distances = squared_distances(features, features[i : i + 1])[:, 0] / priors.length.median**2
        covariance = priors.signal.median * np.exp(-0.5 * distances) - sum(row * row[i] for row in rows)
        rows.append(covariance / np.sqrt(max(variance[i], 0) + priors.noise.median))
        variance = variance - rows[-1] ** 2
    return chosen
