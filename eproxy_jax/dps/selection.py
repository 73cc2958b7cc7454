"""Choosing settings by labelled architectures, out of a matrix of losses: all in NumPy, all in milliseconds.

A *member* is a setting with a blend of sizes, (p, k): no training sees MACs or parameters, so their shares are fitted
beside the setting. Two blends are known: the paper's ``alpha`` for MACs, and a weighted mean of the ranks of loss, MACs
and parameters, which does not depend on how far a setting's losses lie apart (benchmarks/results/dps_nasbench201.md
compares the two for MACs). Scores of several members are combined by their mean rank: twenty labels cannot tell the
best settings apart, and one of them alone is over-fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from eproxy_jax import proxy, ranks

# Shares of MACs and of parameters in a rank blend, the loss has the rest; negative ones count against an architecture.
SHARES = tuple((macs / 10, params / 10) for macs in range(-10, 11) for params in range(abs(macs) - 10, 11 - abs(macs)))


# How sharply :func:`mean_share` tells shares apart, for each label: with 20 of them, one that is .02 of Spearman worse
# counts 1 / e as much. The very best share alone would be over-fitted; more labels tell more apart.
_SHARPNESS = 2.5


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
    finite = np.isfinite(losses)[:, None, :]
    blends, fraction = np.asarray(alphas, np.float64)[:, None], np.asarray(macs, np.float64)[None, :]
    scores = proxy.blend_macs(np.where(finite, losses[:, None, :], 0), blends, fraction)
    return np.where(finite, scores, -np.inf)


def rank_blends(losses: Any, sizes: Any, shares: Any = SHARES) -> np.ndarray:
    """Scores of every member as weighted ranks.

    Args:
      losses: [P, A] final losses; not finite where a training diverged.
      sizes: [2, A], see ``spaces.size_measures``.
      shares: [K, 2] shares of MACs and of parameters; (0, 0) is the loss alone, (-1, 0) fewest MACs first.

    Returns:
      [P, K, A]: (1 - |m| - |p|) rank(-L) + m rank(MACs) + p rank(parameters), ranks standardised over the
      architectures; a loss that is not finite has the worst rank.
    """
    losses = np.asarray(losses, np.float64)
    by_loss = ranks.standardized_ranks(np.where(np.isfinite(losses), -losses, -np.inf))
    by_size = ranks.standardized_ranks(np.asarray(sizes, np.float64))
    return blend_ranks(by_loss[:, None, :], by_size, np.asarray(shares, np.float64))


def blend_ranks(by_loss: Any, by_size: Any, shares: Any) -> Any:
    """(1 - |m| - |p|) rank(-L) + m rank(MACs) + p rank(parameters), for arrays of NumPy or JAX.

    Args:
      by_loss: standardised ranks of the loss, broadcastable to [..., K, A].
      by_size: [2, A], standardised ranks of MACs and parameters.
      shares: [K, 2].

    Returns:
      [..., K, A].
    """
    of_loss = 1 - abs(shares).sum(1)[:, None]
    return of_loss * by_loss + shares[:, :1] * by_size[:1] + shares[:, 1:] * by_size[1:]


def mean_share(fitness_of: np.ndarray, num_labels: int, shares: Any = SHARES) -> np.ndarray:
    """The shares of a setting, [2]: the mean of all, those that rank the labels well counting most.

    Args:
      fitness_of: [K], Spearman with each of the shares; ``-inf`` throughout for a setting that diverged.
      num_labels: how many labels that Spearman is over.
      shares: [K, 2].
    """
    sharpness = _SHARPNESS * num_labels
    weights = np.exp(sharpness * (fitness_of - fitness_of.max())) if np.isfinite(fitness_of).any() else None
    return np.average(np.asarray(shares), axis=0, weights=weights)


def signs(sizes: Any, truth: Any) -> np.ndarray:
    """-1 where small ones are better by the labels, else 1: sizes [..., M] and values [M] of labelled ones -> [...]."""
    return np.where(ranks.spearman_rows(np.asarray(sizes), truth) < 0, -1.0, 1.0)


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
    return np.where(finite, ranks.spearman_rows(scores, truth), -np.inf)


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
