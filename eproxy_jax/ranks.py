"""This module computes rank statistics: in JAX for use inside jit, and in NumPy for matrices and reports.

NaN and ``-inf`` rank below every number and share one rank, so that diverged candidates come last.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.stats import rankdata
from scipy import stats

if TYPE_CHECKING:
    from jaxtyping import Num

TOP_FRACTION = 0.1


# --- in JAX --------------------------------------------------------------------------------------------------


def average_ranks(x: Array) -> Array:
    """Return ranks from 1 (smallest). Equal values share their average rank; NaN ranks below every number.

    Args:
      x: [A].

    Returns:
      [A], floating.

    Example:
      >>> average_ranks(jnp.asarray([3.0, 1.0, 3.0, jnp.nan])).tolist()
      [3.5, 2.0, 3.5, 1.0]
    """
    x = jnp.where(jnp.isnan(x), -jnp.inf, x)
    return rankdata(x).astype(jnp.result_type(x, jnp.float32))


def pearson(x: Array, y: Array) -> Array:
    """Return the correlation of two vectors [A]; 0 if one of them is constant, so that it can be maximised."""
    x, y = x - jnp.mean(x), y - jnp.mean(y)
    norm = jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))
    return jnp.where(norm > 0, jnp.sum(x * y) / jnp.where(norm > 0, norm, 1), 0)


def standardized(ranks: Array) -> Array:
    """Shift and scale ranks [..., A] to mean 0 and variance 1; 0 if they are all equal."""
    centred = ranks - jnp.mean(ranks, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred * centred, axis=-1, keepdims=True))
    return centred / jnp.where(deviation > 0, deviation, 1)


def spearman(x: Array, y: Array) -> Array:
    """Return Spearman's rank correlation, with ties. NaN ranks last; the result is 0 if one side is constant.

    Args:
      x: [A].
      y: [A].

    Returns:
      Scalar in [-1, 1].

    Example:
      >>> round(float(spearman(jnp.asarray([1.0, 2.0, 3.0, 4.0]), jnp.asarray([10.0, 20.0, 40.0, 30.0]))), 6)
      0.8
    """
    return pearson(average_ranks(x), average_ranks(y))


# --- in NumPy ------------------------------------------------------------------------------------------------


def standardized_ranks(x: Any) -> np.ndarray:
    """Return ranks along the last axis, [..., A], with mean 0 and variance 1; 0 if all values are equal."""
    ranks = stats.rankdata(x, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    deviation = ranks.std(-1, keepdims=True)
    return ranks / np.where(deviation > 0, deviation, 1)


def spearman_rows(scores: Any, truth: Any) -> np.ndarray:
    """Return Spearman's correlation of each row with the truth.

    Args:
      scores: [..., A], higher is better, ``-inf`` ranks last.
      truth: [A].

    Returns:
      [...]; 0 for a constant row.
    """
    ranks = stats.rankdata(scores, axis=-1)
    target = stats.rankdata(truth)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    target = target - target.mean()
    norm = np.sqrt((ranks**2).sum(-1) * (target**2).sum())
    return np.where(norm > 0, (ranks * target).sum(-1) / np.where(norm > 0, norm, 1), 0.0)


@dataclasses.dataclass(frozen=True)
class RankQuality:
    """Agreement of a score with the truth.

    Attributes:
      spearman: rank correlation in [-1, 1]; NaN if one side is constant.
      kendall_tau: tau-b in [-1, 1]; NaN if one side is constant.
      top_precision: of the best 10 % by score, the share that is among the best 10 % by truth.
      regret: truth of the best architecture minus truth of the one ranked first, in the unit of the truth.
      count: number of architectures compared.
      ndcg: normalised discounted cumulative gain in [0, 1] of the whole ranking, see :func:`ndcg`; NaN if the truth is
        constant.
    """

    spearman: float
    kendall_tau: float
    top_precision: float
    regret: float
    count: int
    ndcg: float = math.nan


def rank_quality(
    score: Num[Array | np.ndarray, " A"] | Sequence[float], truth: Num[Array | np.ndarray, " A"] | Sequence[float]
) -> RankQuality:
    """Compare scores with the truth.

    Args:
      score: [A], higher is better; ``-inf`` has the worst rank. NaN is refused.
      truth: [A], higher is better, finite.

    Returns:
      A ``RankQuality``.

    Raises:
      ValueError: fewer than 3 architectures, different lengths, NaN scores or a truth that is not finite.

    Example:
      >>> rank_quality([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]).spearman
      0.8
    """
    score, truth = np.asarray(score, np.float64), np.asarray(truth, np.float64)
    if score.shape != truth.shape or score.ndim != 1:
        raise ValueError(f"score and truth: expected two vectors of one length, got {score.shape} and {truth.shape}")
    if len(score) < 3:
        raise ValueError(f"a rank correlation needs at least 3 architectures, got {len(score)}")
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).sum())} scores are NaN: give diverged candidates -inf")
    if not np.isfinite(truth).all():
        raise ValueError(f"{int((~np.isfinite(truth)).sum())} truth values are not finite")
    ranks = stats.rankdata(score)  # scipy's correlations would subtract -inf from itself; by rank it comes last
    constant = np.ptp(ranks) == 0 or np.ptp(truth) == 0
    rho = math.nan if constant else float(stats.spearmanr(ranks, truth)[0])  # pyright: ignore[reportArgumentType]
    tau = math.nan if constant else float(stats.kendalltau(ranks, truth)[0])  # pyright: ignore[reportArgumentType]
    top = max(1, round(TOP_FRACTION * len(score)))
    best_by_score = np.argsort(-ranks, kind="stable")[:top]
    best_by_truth = np.argsort(-truth, kind="stable")[:top]
    precision = len(np.intersect1d(best_by_score, best_by_truth)) / top
    return RankQuality(
        spearman=round(rho, 12),
        kendall_tau=round(tau, 12),
        top_precision=precision,
        regret=float(truth.max() - truth[best_by_score[0]]),
        count=len(score),
        ndcg=round(ndcg(ranks, truth), 12),
    )


def ndcg(score: Num[np.ndarray, " A"], truth: Num[np.ndarray, " A"]) -> float:
    """Return the normalised discounted cumulative gain of a ranking.

    The gain of an architecture is its truth, scaled over the list from 0 (worst) to 1 (best). At place i, counted from
    1, it is divided by log2(i + 1). The sum over the list is divided by that of the best ranking. Architectures of
    equal score share the mean gain of their places, so the value does not depend on the order of the list.

    Args:
      score: [A], higher is better.
      truth: [A], higher is better, finite.

    Returns:
      A number in [0, 1], 1 for the best ranking; NaN if the truth is constant.

    Source: Järvelin, Kekäläinen, ACM TOIS 20(4), 2002; ties by McSherry, Najork, ECIR 2008.

    Example:
      >>> ndcg(np.asarray([3.0, 2.0, 1.0]), np.asarray([9.0, 8.0, 1.0]))
      1.0
    """
    spread = np.ptp(truth)
    if spread == 0:
        return math.nan
    gains = (truth - truth.min()) / spread
    discounts = 1 / np.log2(np.arange(len(truth)) + 2)
    _, group, sizes = np.unique(-score, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    discount_of = np.add.reduceat(discounts, ends - sizes) / sizes  # mean over the places that equal scores share
    return float((gains * discount_of[group]).sum() / (np.sort(gains)[::-1] * discounts).sum())
