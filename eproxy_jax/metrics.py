"""How well a list of scores ranks architectures.

Ranks of diverged candidates (score ``-inf``) are the worst, tied among themselves.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy import stats

TOP_FRACTION = 0.1


@dataclasses.dataclass(frozen=True)
class RankQuality:
    """Agreement of a score with the truth.

    Attributes:
      spearman: rank correlation in [-1, 1]; NaN if one side is constant.
      kendall_tau: tau-b in [-1, 1]; NaN if one side is constant.
      top_precision: share of the best 10 % by score that are among the best 10 % by truth.
      regret: truth of the best architecture minus truth of the one ranked first, in the truth's unit.
      count: number of architectures compared.
    """

    spearman: float
    kendall_tau: float
    top_precision: float
    regret: float
    count: int


def rank_quality(score: Any, truth: Any) -> RankQuality:
    """Compare scores with the truth.

    Args:
      score: [A], higher is better; ``-inf`` for the worst rank. NaN is refused.
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
    ranks = stats.rankdata(score)  # -inf ranks last here, where scipy's correlations would subtract it from itself
    constant = np.ptp(ranks) == 0 or np.ptp(truth) == 0
    spearman = math.nan if constant else float(stats.spearmanr(ranks, truth)[0])  # pyright: ignore[reportArgumentType]
    tau = math.nan if constant else float(stats.kendalltau(ranks, truth)[0])  # pyright: ignore[reportArgumentType]
    top = max(1, round(TOP_FRACTION * len(score)))
    best_by_score = np.argsort(-ranks, kind="stable")[:top]
    best_by_truth = np.argsort(-truth, kind="stable")[:top]
    precision = len(np.intersect1d(best_by_score, best_by_truth)) / top
    return RankQuality(
        spearman=round(spearman, 12),
        kendall_tau=round(tau, 12),
        top_precision=precision,
        regret=float(truth.max() - truth[best_by_score[0]]),
        count=len(score),
    )
