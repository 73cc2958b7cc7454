"""This module sums logarithms of ranks over columns, among a reference: rankings that need no label.

The sum over columns of ``ln(rank / m)``, where rank 1 is the worst of m architectures and equal values share their
average rank. One bad rank costs much, which is wanted: a network must be good by every column.

Source: Lee and Ham, AZ-NAS, CVPR 2024, section 3.3 (the sum); Tybl and Neumann, VKDNW, CVPR 2025 (``vkdnw_agg``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.errors import check_known
from eproxy_jax.fits.columns import Columns
from eproxy_jax.fits.transforms import RankTransform, Reference, normal_scores
from eproxy_jax.proxies.aggregates import AGGREGATES

if TYPE_CHECKING:
    from jaxtyping import Float64


def aggregate_columns(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the columns of an aggregate's name; names of columns as they are.

    Raises:
      ValueError: the name of the aggregate is unknown, or there are no names.

    Example:
      >>> aggregate_columns("az_nas")
      ('expressivity', 'progressivity', 'trainability', 'macs')
    """
    if isinstance(names, str):
        check_known([names], AGGREGATES, "aggregates", "aggregate")
        return AGGREGATES[names]
    if not names:
        raise ValueError("aggregates: a sum of ranks needs at least one column")
    return tuple(names)


@dataclasses.dataclass(frozen=True, eq=False)
class RankSum:
    """A sum of ranks among a reference.

    Attributes:
      transform: the references of its columns.
      weights: of each column in the sum.
      sums: the reference of the sum itself.
    """

    transform: RankTransform
    weights: tuple[float, ...]
    sums: Reference

    @classmethod
    def of(cls, columns: Columns, names: str | Sequence[str], weights: Sequence[float] | None = None) -> RankSum:
        """Return the sum over some columns whose reference is all architectures of ``columns``.

        Args:
          columns: the columns, higher is better in each.
          names: the name of an aggregate, or names of columns.
          weights: of each column in the sum; 1 by default.

        Raises:
          ValueError: a column or the aggregate is unknown.
        """
        transform = RankTransform.of(columns.select(aggregate_columns(names)))
        weights = (1.0,) * len(transform.names) if weights is None else tuple(weights)
        return cls(transform, weights, Reference.of(_sum(transform, weights, columns)))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are summed."""
        return self.transform.names

    def values(self, columns: Columns) -> Float64[np.ndarray, " A"]:
        """Return the sums [A] of architectures, at most about 0; higher is better.

        Raises:
          ValueError: a column is absent.
        """
        return _sum(self.transform, self.weights, columns)

    def normal(self, columns: Columns) -> Float64[np.ndarray, " A"]:
        """Return the normal scores [A] of the sums among those of the reference."""
        return normal_scores(self.sums.rank(self.values(columns)), self.sums.count)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {"columns": self.transform.to_dict(), "weights": list(self.weights), "sums": self.sums.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RankSum:
        """Invert :meth:`to_dict`."""
        weights = tuple(map(float, values["weights"]))
        return cls(RankTransform.from_dict(values["columns"]), weights, Reference.from_dict(values["sums"]))


def _sum(transform: RankTransform, weights: Sequence[float], columns: Columns) -> np.ndarray:
    return (np.log(transform.ranks(columns) / transform.counts) * np.asarray(weights)).sum(1)
