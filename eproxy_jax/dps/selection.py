"""This module chooses settings from a matrix of losses by labelled architectures, in NumPy and in milliseconds.

A *member* is a setting with a blend of sizes, (p, k). No training reads MACs or parameters, so their shares are fitted
after it. There are two blends: the paper's ``alpha`` for MACs, and a weighted mean of the ranks of loss, MACs and
parameters. The second does not depend on the spread of a setting's losses (benchmarks/results/dps_nasbench201.md
compares them for MACs). Several members are combined by their mean rank: twenty labels cannot tell the best settings
apart, and a single one is over-fitted.

Source: docs/method.md, "Fitness" and "Fitted proxies".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from eproxy_jax import proxy, ranks

# Shares of MACs and of parameters in a rank blend; the loss has the rest. A negative share prefers small networks.
SHARES = tuple((macs / 10, params / 10) for macs in range(-10, 11) for params in range(abs(macs) - 10, 11 - abs(macs)))


# Sharpness of :func:`mean_share` per label. With 20 labels, a share that is .02 of Spearman worse has 1 / e of the
# weight. The best share alone would be over-fitted; with more labels the weights become sharper.
_SHARPNESS = 2.5


def score_matrix(losses: Any, macs: Any, alphas: Sequence[float]) -> np.ndarray:
    """Return the scores of every member, blended by ``alpha``.

    Source: docs/method.md, step 8.

    Args:
      losses: [P, A] final losses; not finite if a training diverged.
      macs: [A], MACs of the canonical forms over the space's largest.
      alphas: [K] shares of MACs.

    Returns:
      [P, K, A]: -(L (1 - alpha MACs)), -inf if L is not finite.
    """
    losses = np.asarray(losses, np.float64)
    finite = np.isfinite(losses)[:, None, :]
    blends, fraction = np.asarray(alphas, np.float64)[:, None], np.asarray(macs, np.float64)[None, :]
    scores = proxy.blend_macs(np.where(finite, losses[:, None, :], 0), blends, fraction)
    return np.where(finite, scores, -np.inf)


def rank_blends(losses: Any, sizes: Any, shares: Any = SHARES) -> np.ndarray:
    """Return the scores of every member as weighted ranks.

    Args:
      losses: [P, A] final losses; not finite if a training diverged.
      sizes: [2, A], see ``spaces.size_measures``.
      shares: [K, 2] shares of MACs and of parameters. (0, 0) is the loss alone; (-1, 0) ranks by fewest MACs.

    Returns:
      [P, K, A]: (1 - |m| - |p|) rank(-L) + m rank(MACs) + p rank(parameters). Ranks are standardised over the
      architectures. A loss that is not finite has the worst rank.
    """
    losses = np.asarray(losses, np.float64)
    by_loss = ranks.standardized_ranks(np.where(np.isfinite(losses), -losses, -np.inf))
    by_size = ranks.standardized_ranks(np.asarray(sizes, np.float64))
    return blend_ranks(by_loss[:, None, :], by_size, np.asarray(shares, np.float64))


def blend_ranks(by_loss: Any, by_size: Any, shares: Any) -> Any:
    """Return (1 - |m| - |p|) rank(-L) + m rank(MACs) + p rank(parameters), for arrays of NumPy or JAX.

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
    """Return the shares of a setting, [2]: a mean over all shares in which the fittest weigh most.

    Args:
      fitness_of: [K], Spearman with each of the shares; all ``-inf`` for a setting that diverged.
      num_labels: number of labels behind that Spearman.
      shares: [K, 2].
    """
    sharpness = _SHARPNESS * num_labels
    weights = np.exp(sharpness * (fitness_of - fitness_of.max())) if np.isfinite(fitness_of).any() else None
    return np.average(np.asarray(shares), axis=0, weights=weights)


def signs(sizes: Any, truth: Any) -> np.ndarray:
    """Return -1 if small networks are better by the labels, else 1: sizes [..., M] and values [M] -> [...]."""
    return np.where(ranks.spearman_rows(np.asarray(sizes), truth) < 0, -1.0, 1.0)


def fitness(scores: np.ndarray, losses: Any, truth: Any) -> np.ndarray:
    """Return Spearman of every member on the labelled architectures; -inf if one of their trainings diverged.

    Args:
      scores: [P, K, M], scores of the labelled architectures.
      losses: [P, M], their final losses.
      truth: [M], their values.

    Returns:
      [P, K].
    """
    finite = np.isfinite(np.asarray(losses)).all(axis=-1, keepdims=True)
    return np.where(finite, ranks.spearman_rows(scores, truth), -np.inf)


def best_members(fitness_of: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return the ``count`` fittest settings, each with its best blend, best first.

    Of equal settings the earlier one wins; of equal blends the middle one (:func:`best_blend`).

    Args:
      fitness_of: [P, K].
      count: largest number of settings; those with fitness -inf are left out.

    Raises:
      ValueError: every setting diverged.
    """
    best = fitness_of.max(1)
    order = [int(p) for p in np.argsort(-best, kind="stable")[:count] if np.isfinite(best[p])]
    if not order:
        raise ValueError("every setting diverged on a labelled architecture: lower the gene 'lr'")
    return [(p, best_blend(fitness_of[p])) for p in order]


def best_blend(fitness_of: np.ndarray) -> int:
    """Return the fittest blend of [K]; of equally good ones, the middle one."""
    equal = np.flatnonzero(fitness_of >= fitness_of.max() - 1e-12)
    return int(equal[(len(equal) - 1) // 2])


def mean_rank(scores: np.ndarray, members: Sequence[tuple[int, int]]) -> np.ndarray:
    """Combine several members to one score: their mean rank, [A], higher is better.

    Args:
      scores: [P, K, A].
      members: (setting, blend) pairs.
    """
    return np.mean([stats.rankdata(scores[p, k]) for p, k in members], axis=0)
