"""Choosing settings by labelled architectures, out of a matrix of losses: all in NumPy, all in milliseconds.

A *member* is a setting with a blend of MACs, (p, k): no training sees MACs, so their share is fitted beside the
setting. Two blends are known: the paper's ``alpha``, and a weighted mean of the ranks of loss and MACs, which does not
depend on how far a setting's losses lie apart (benchmarks/results/dps_nasbench201.md compares them). Scores of several
members are combined by their mean rank: twenty labels cannot tell the best settings apart, and one of them alone is
over-fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

# Shares of the MACs' ranks in a rank blend; negative ones count MACs against an architecture.
MACS_WEIGHTS = tuple(n / 10 for n in range(-10, 11))


def score_matrix(losses: Any, macs: Any, alphas: Sequence[float]) -> np.ndarray:
    """Scores of every member.

    Args:
      losses: [P, A] final losses; not finite where a training diverged.
      macs: [A], MACs of the canonical forms over the space's largest.
      alphas: [K] blends.

    Returns:
      [P, K, A]: -(L (1 - alpha MACs)), -inf where L is not finite (PROTOCOL, step 8).
    """
    losses = np.asarray(losses, np.float64)
    blend = 1 - np.asarray(alphas, np.float64)[:, None] * np.asarray(macs, np.float64)
    finite = np.isfinite(losses)[:, None, :]
    scores = -np.where(finite, losses[:, None, :], 0) * blend
    return np.where(finite, scores, -np.inf)


def rank_blends(losses: Any, macs: Any, weights: Sequence[float] = MACS_WEIGHTS) -> np.ndarray:
    """Scores of every member as weighted ranks.

    Args:
      losses: [P, A] final losses; not finite where a training diverged.
      macs: [A], MACs of the canonical forms.
      weights: [K], from -1 (fewest MACs first) through 0 (loss alone) to 1 (MACs alone).

    Returns:
      [P, K, A]: (1 - |w|) rank(-L) + w rank(MACs), ranks standardised over the architectures; a loss that is not finite
      has the worst rank.
    """
    losses = np.asarray(losses, np.float64)
    by_loss = _standardized_ranks(np.where(np.isfinite(losses), -losses, -np.inf))
    by_macs = _standardized_ranks(np.asarray(macs, np.float64))
    share = np.asarray(weights, np.float64)[:, None]
    return (1 - np.abs(share)) * by_loss[:, None, :] + share * by_macs


def _standardized_ranks(x: np.ndarray) -> np.ndarray:
    ranks = stats.rankdata(x, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    deviation = ranks.std(-1, keepdims=True)
    return ranks / np.where(deviation > 0, deviation, 1)


def spearman_rows(scores: np.ndarray, truth: Any) -> np.ndarray:
    """Spearman of each row with the truth.

    Args:
      scores: [..., A], higher is better, ``-inf`` ranks last.
      truth: [A].

    Returns:
      [...]; 0 where a row is constant.
    """
    ranks = stats.rankdata(scores, axis=-1)
    target = stats.rankdata(truth)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    target = target - target.mean()
    norm = np.sqrt((ranks**2).sum(-1) * (target**2).sum())
    return np.where(norm > 0, (ranks * target).sum(-1) / np.where(norm > 0, norm, 1), 0.0)


def fitness(scores: np.ndarray, losses: Any, truth: Any) -> np.ndarray:
    """Spearman of every member on the labelled architectures; -inf if one of their trainings diverged.

    Args:
      scores: [P, K, M], of the labelled architectures.
      losses: [P, M], their final losses.
      truth: [M], their values.

    Returns:
      [P, K].
    """
    finite = np.isfinite(np.asarray(losses)).all(axis=-1, keepdims=True)
    return np.where(finite, spearman_rows(scores, truth), -np.inf)


def best_members(fitness_of: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The ``count`` fittest settings, each with its best blend, best first.

    Ties go to the earlier setting and, between blends, to the middle one (:func:`best_blend`).

    Args:
      fitness_of: [P, K].
      count: how many at most; settings with fitness -inf are left out.

    Raises:
      ValueError: every setting diverged.
    """
    best = fitness_of.max(1)
    order = [int(p) for p in np.argsort(-best, kind="stable")[:count] if np.isfinite(best[p])]
    if not order:
        raise ValueError("every setting diverged on a labelled architecture: lower the gene 'lr'")
    return [(p, best_blend(fitness_of[p])) for p in order]


def best_blend(fitness_of: np.ndarray) -> int:
    """The fittest blend out of [K]; of those that are equally good, the middle one."""
    equal = np.flatnonzero(fitness_of >= fitness_of.max() - 1e-12)
    return int(equal[(len(equal) - 1) // 2])


def mean_rank(scores: np.ndarray, members: Sequence[tuple[int, int]]) -> np.ndarray:
    """The combined score of several members: their mean rank, [A], higher is better.

    Args:
      scores: [P, K, A].
      members: (setting, blend) pairs.
    """
    return np.mean([stats.rankdata(scores[p, k]) for p, k in members], axis=0)
