"""Sums of ranks over columns: rankings that need no label, as data.

Source: Lee, Ham, AZ-NAS, CVPR 2024, section 3.3 (the sum); Tybl, Neumann, VKDNW, CVPR 2025 (``vkdnw_agg``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from eproxy_jax.errors import quoted

if TYPE_CHECKING:
    from jaxtyping import Float64

# The columns of each sum.
AGGREGATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # Chosen on NAS-Bench-201 with CIFAR-10 alone, by benchmarks/rank_sum.py, and then frozen.
        "rank_sum": ("trainability", "entropy_taps", "macs", "jacov", "synflow"),
        "az_nas": ("expressivity", "progressivity", "trainability", "macs"),
        "vkdnw_agg": ("vkdnw", "jacov", "expressivity", "trainability", "macs"),
    }
)


SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "rank_sum": "this project",
        "az_nas": "Lee, Ham, AZ-NAS, CVPR 2024",
        "vkdnw_agg": "Tybl, Neumann, VKDNW, CVPR 2025",
    }
)


def rank_sum(columns: Mapping[str, Any]) -> Float64[np.ndarray, " A"]:
    """Return the sum over columns of ln(rank / A), where rank 1 is the worst and equal values share their mean rank.

    A value depends on the list, so it is kept in no file.

    Args:
      columns: [A] by name, higher is better; ``-inf`` is the worst.

    Returns:
      [A], at most 0, higher is better.

    Raises:
      ValueError: no columns, one that is no vector, or a NaN.

    Example:
      >>> rank_sum({"macs": [1, 2], "jacov": [-5, -3]}).round(3).tolist()
      [-1.386, 0.0]
    """
    if not columns:
        raise ValueError("a sum of ranks needs at least one column")
    total: Any = 0.0
    for name, values in columns.items():
        array = np.asarray(values, np.float64)
        if array.ndim != 1 or np.isnan(array).any():
            raise ValueError(f"column {quoted(name)}: expected a number for each architecture, got {quoted(values)}")
        total = total + np.log(stats.rankdata(array) / len(array))
    return total


def aggregates_of(columns: Mapping[str, Any]) -> dict[str, Float64[np.ndarray, " A"]]:
    """Return the sums, [A] by name, whose columns are all among those given."""
    return {
        name: rank_sum({one: columns[one] for one in members})
        for name, members in AGGREGATES.items()
        if all(one in columns for one in members)
    }
