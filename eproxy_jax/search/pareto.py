"""This module sorts points by dominance and measures fronts: several objectives, higher is better in each.

One point dominates another if it is no worse in any objective and better in one. Equal points do not dominate one
another. A point with a value that is not a number is in no front.

Source: Deb, Pratap, Agarwal and Meyarivan, NSGA-II, IEEE TEC 2002 (the sorting); Jensen, IEEE TEC 2003 (two objectives
in A log A); Zitzler and Thiele, PPSN 1998 (the hypervolume).
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64, Num


def non_dominated_ranks(values: Num[np.ndarray, "A M"]) -> Int64[np.ndarray, " A"]:
    """Return the number of each point's front: 0 where nothing dominates it, 1 once the first front is gone, ...

    Args:
      values: [A, M], M objectives, higher is better.

    Returns:
      [A]; -1 for a point with a NaN.

    Example:
      >>> non_dominated_ranks(np.asarray([[1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [np.nan, 9.0]])).tolist()
      [0, 0, 1, -1]
    """
    values = np.asarray(values, np.float64)
    ranks = np.full(len(values), -1)
    known = ~np.isnan(values).any(1)
    # Equal points share their front. So one of each is enough, and every comparison below is strict.
    points, place = np.unique(values[known], axis=0, return_inverse=True)
    own = _ranks_of_two(points) if values.shape[1] == 2 else _ranks_of_many(points)
    ranks[known] = own[place.ravel()]
    return ranks


def _ranks_of_two(points: np.ndarray) -> np.ndarray:
    """Sort distinct points [A, 2] into fronts, best first objective first: a front's last point is its best second."""
    ranks = np.zeros(len(points), np.int64)
    lasts: list[float] = []  # minus the best second objective of each front, ascending
    for i in np.lexsort((-points[:, 1], -points[:, 0])):
        second = -float(points[i, 1])
        front = bisect.bisect_right(lasts, second)
        lasts[front : front + 1] = [second]
        ranks[i] = front
    return ranks


def _ranks_of_many(points: np.ndarray) -> np.ndarray:
    """Take front after front from distinct points [A, M]."""
    ranks = np.zeros(len(points), np.int64)
    left, front = np.arange(len(points)), 0
    while len(left):
        first = _first_front(points[left])
        ranks[left[first]] = front
        left, front = left[~first], front + 1
    return ranks


def _first_front(points: np.ndarray) -> np.ndarray:
    """Return which of distinct points no other one dominates, [A]."""
    found = np.zeros(len(points), bool)
    left = np.argsort(-points.sum(1), kind="stable")  # nothing dominates a point of the largest sum
    while len(left):
        best, left = left[0], left[1:]
        found[best] = True
        left = left[(points[left] > points[best]).any(1)]
    return found


def front(values: Num[np.ndarray, "A M"]) -> Bool[np.ndarray, " A"]:
    """Return which points nothing dominates, [A].

    Args:
      values: [A, M], M objectives, higher is better; a point with a NaN is in no front.
    """
    return non_dominated_ranks(values) == 0


def hypervolume(values: Num[np.ndarray, "A 2"], reference: tuple[float, float]) -> float:
    """Return the area that points dominate above a reference point; exact.

    Args:
      values: [A, 2], two objectives, higher is better. Points that are not above the reference in both add nothing.
      reference: the worst value of each objective that counts.

    Example:
      >>> hypervolume(np.asarray([[1.0, 3.0], [2.0, 1.0], [1.0, 1.0]]), (0, 0))
      4.0
    """
    values = np.asarray(values, np.float64).reshape(-1, 2) - np.asarray(reference, np.float64)
    points = values[(values > 0).all(1)]
    points = points[front(points)] if len(points) else points
    points = np.unique(points, axis=0)  # by the first objective, ascending: the second descends
    widths = np.diff(points[:, 0], prepend=0.0)
    return float((widths * points[:, 1]).sum())


def hypervolume_gains(
    values: Num[np.ndarray, "A 2"], reached: Num[np.ndarray, "N 2"], reference: tuple[float, float]
) -> Float64[np.ndarray, " A"]:
    """Return the area that each point alone would add to those that are reached, [A].

    Args:
      values: [A, 2], two objectives, higher is better.
      reached: [N, 2], points that are there already.
      reference: see :func:`hypervolume`.

    Example:
      >>> hypervolume_gains(np.asarray([[2.0, 2.0], [1.0, 1.0]]), np.asarray([[1.0, 3.0]]), (0, 0)).tolist()
      [2.0, 0.0]
    """
    new = np.maximum(np.asarray(values, np.float64) - np.asarray(reference, np.float64), 0)
    old = np.maximum(np.asarray(reached, np.float64).reshape(-1, 2) - np.asarray(reference, np.float64), 0)
    old = np.unique(old[front(old)], axis=0) if len(old) else old
    # Steps of the front: between two first objectives its height is the second objective of the right end.
    lefts = np.concatenate([[0.0], old[:, 0]])
    widths = np.clip(np.minimum(np.concatenate([old[:, 0], [np.inf]]), new[:, :1]) - lefts, 0, None)
    heights = np.clip(new[:, 1:] - np.concatenate([old[:, 1], [0.0]]), 0, None)
    return (widths * heights).sum(1)
