"""This module draws distinct values at random, by number or by a function that draws one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from eproxy_jax.errors import check_seed


def generator(seed: int) -> np.random.Generator:
    """Return NumPy's generator of a seed.

    Raises:
      ValueError: not an integer from 0 to 2 ** 32 - 1, see :func:`eproxy_jax.errors.check_seed`.
    """
    return np.random.default_rng(check_seed(seed))


def draw_distinct(total: int, num: int, seed: int, what: str) -> list[int]:
    """Draw ``num`` distinct integers below ``total`` uniformly; returns them in the order drawn.

    Raises:
      ValueError: ``num`` is not in 1..total, or ``seed`` is none.
    """
    if not 1 <= num <= total:
        raise ValueError(f"cannot draw {num} distinct architectures from {what}: choose a number from 1 to {total}")
    return [int(i) for i in generator(seed).choice(total, size=num, replace=False)]


def draw_until(draw: Callable[[], Any], num: int, what: str) -> list[Any]:
    """Call ``draw`` until it has given ``num`` distinct values; returns them in the order drawn.

    The set must be much larger than ``num``: the function does not end if the set has fewer values.

    Raises:
      ValueError: ``num`` is less than 1.
    """
    if num < 1:
        raise ValueError(f"cannot draw {num} distinct architectures from {what}: choose a number from 1 on")
    found: dict[Any, None] = {}
    while len(found) < num:
        found[draw()] = None
    return list(found)
