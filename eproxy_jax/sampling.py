"""Draws of distinct things, from a set that is numbered and from one that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def draw_distinct(total: int, num: int, seed: int, what: str) -> list[int]:
    """``num`` distinct integers below ``total``, uniformly, in the order drawn.

    Raises:
      ValueError: ``num`` is not in 1..total.
    """
    if not 1 <= num <= total:
        raise ValueError(f"cannot draw {num} distinct architectures from {what}: choose a number from 1 to {total}")
    return [int(i) for i in np.random.default_rng(seed).choice(total, size=num, replace=False)]


def draw_until(draw: Callable[[], Any], num: int, what: str) -> list[Any]:
    """``num`` distinct values of ``draw``, in the order drawn, out of a set too large to run dry.

    Raises:
      ValueError: ``num`` is less than 1.
    """
    if num < 1:
        raise ValueError(f"cannot draw {num} distinct architectures from {what}: choose a number from 1 on")
    found: dict[Any, None] = {}
    while len(found) < num:
        found[draw()] = None
    return list(found)
