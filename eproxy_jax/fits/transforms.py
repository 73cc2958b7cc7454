"""This module turns values into ranks and normal scores among a fixed list of architectures, the reference.

The ranks of a new architecture are those among the reference. So a prediction does not depend on the other
architectures of its list, and what is saved ranks any other one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special, stats

from eproxy_jax.fits.columns import Columns

if TYPE_CHECKING:
    from jaxtyping import Float64, Num

_KNOTS = 512  # at most so many values of a column are kept: a rank is then exact to 0.2 % of the list
_BEYOND = 0.25  # ranks by which a value beyond all of the reference is better than its best, or worse than its worst


def normal_scores(ranks: Any, count: Any) -> np.ndarray:
    """Return the normal scores of ranks from 1 to ``count``: quantiles of the normal distribution at (r - 1/2) / m.

    Example:
      >>> normal_scores([1, 2, 3], 3).round(3).tolist()
      [-0.967, 0.0, 0.967]
    """
    return special.ndtri((np.asarray(ranks, np.float64) - 0.5) / count)


def vector_scores(values: Num[np.ndarray, " A"]) -> Float64[np.ndarray, " A"]:
    """Return the normal scores of values [A] among themselves; equal values share their average rank."""
    return normal_scores(stats.rankdata(values), len(values))


@dataclasses.dataclass(frozen=True)
class Reference:
    """The ranks of a column's values among a list of architectures.

    Equal values share their average rank, ``-inf`` is last, and an unknown value (NaN) has the middle rank.

    Attributes:
      count: m, the number of architectures whose value is known.
      worst: how many of them are ``-inf``.
      values: finite values in ascending order, at most 512.
      ranks: their ranks from 1 (smallest) to m.
    """

    count: int
    worst: int
    values: tuple[float, ...]
    ranks: tuple[float, ...]

    @classmethod
    def of(cls, column: Num[np.ndarray, " A"]) -> Reference:
        """Return the reference of a column [A], its NaN left out."""
        known = column[~np.isnan(column)]
        worst = int(np.isneginf(known).sum())
        values, counts = np.unique(known[np.isfinite(known)], return_counts=True)
        ranks = worst + np.cumsum(counts) - (counts - 1) / 2
        if len(values) > _KNOTS:
            kept = np.unique(np.linspace(0, len(values) - 1, _KNOTS).round().astype(int))
            values, ranks = values[kept], ranks[kept]
        return cls(len(known), worst, tuple(values.tolist()), tuple(ranks.tolist()))

    def rank(self, column: Num[np.ndarray, " A"]) -> Float64[np.ndarray, " A"]:
        """Return the ranks of values [A] among the reference, interpolated between its values.

        Values beyond the reference get a quarter of a rank more than its best, or less than its worst.
        """
        column = np.asarray(column, np.float64)
        ranks = np.full(column.shape, (self.count + 1) / 2)
        if self.values:
            finite = np.isfinite(column)
            low, high = self.worst + 1 - _BEYOND, self.count + _BEYOND
            ranks[finite] = np.interp(column[finite], self.values, self.ranks)
            ranks[finite & (column > self.values[-1])] = high
            ranks[finite & (column < self.values[0])] = low
        ranks[np.isneginf(column)] = (self.worst + 1) / 2 if self.worst else 1 - _BEYOND
        return ranks

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, for JSON."""
        return {
            "count": self.count,
            "worst": self.worst,
            "values": list(self.values),
            "ranks": list(self.ranks),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reference:
        """Invert :meth:`to_dict`."""
        return cls(
            int(values["count"]),
            int(values["worst"]),
            tuple(map(float, values["values"])),
            tuple(map(float, values["ranks"])),
        )


@dataclasses.dataclass(frozen=True)
class RankTransform:
    """The references of named columns.

    Attributes:
      names: C names.
      blocks: the block of each.
      references: the reference of each.
    """

    names: tuple[str, ...]
    blocks: tuple[str, ...]
    references: tuple[Reference, ...]

    @classmethod
    def of(cls, columns: Columns) -> RankTransform:
        """Return the transform whose reference is all architectures of ``columns``."""
        return cls(columns.names, columns.blocks, tuple(Reference.of(column) for column in columns.values.T))

    def ranks(self, columns: Columns) -> Float64[np.ndarray, "A C"]:
        """Return the ranks of architectures among the reference, for the columns of the transform.

        Raises:
          ValueError: a column is absent.
        """
        values = columns.select(self.names).values
        ranks = [one.rank(column) for one, column in zip(self.references, values.T, strict=True)]
        return np.stack(ranks, 1) if ranks else np.zeros(values.shape)

    @property
    def counts(self) -> np.ndarray:
        """The number of known values in each reference, [C]; at least 1."""
        return np.maximum([one.count for one in self.references], 1)

    def normal(self, columns: Columns) -> Float64[np.ndarray, "A C"]:
        """Return normal scores: ranks among the reference as quantiles of the normal distribution."""
        return normal_scores(self.ranks(columns), self.counts)

    def to_dict(self) -> list[dict[str, Any]]:
        """Return one plain dict a column, for JSON."""
        columns = zip(self.names, self.blocks, self.references, strict=True)
        return [{"name": name, "block": block, **reference.to_dict()} for name, block, reference in columns]

    @classmethod
    def from_dict(cls, values: list[dict[str, Any]]) -> RankTransform:
        """Invert :meth:`to_dict`."""
        return cls(
            tuple(one["name"] for one in values),
            tuple(one["block"] for one in values),
            tuple(map(Reference.from_dict, values)),
        )


def differing(columns: Columns) -> tuple[str, ...]:
    """Return the names of columns that hold two different known values.

    Raises:
      ValueError: there is none.
    """
    unknown = np.isnan(columns.values)
    lowest = np.where(unknown, np.inf, columns.values).min(0, initial=np.inf)
    highest = np.where(unknown, -np.inf, columns.values).max(0, initial=-np.inf)
    kept = tuple(name for name, differ in zip(columns.names, lowest < highest, strict=True) if differ)
    if not kept:
        raise ValueError(
            f"columns: none of {len(columns.names)} differs between the {len(columns)} architectures, "
            "so there is nothing to rank by: add a column of known values"
        )
    return kept


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What a fit sees: normal scores, centred, scaled by block, all together with the variance 1.

    The variance of a block grows with the square root of the number of its columns: two sizes say less than twenty
    proxies, and a hundred counts of a graph less than fifty times as much as two sizes. Columns are not scaled one by
    one. Where a column has few different values its ranks vary less, and it weighs less.

    Attributes:
      transform: the references of the D columns that differ between architectures.
      centres: mean normal score of each over the reference.
      scales: factor of each.
    """

    transform: RankTransform
    centres: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def of(cls, columns: Columns) -> Features:
        """Return the features whose reference is all architectures of ``columns``; constant columns are left out.

        Raises:
          ValueError: no column differs between architectures.
        """
        transform = RankTransform.of(columns.select(differing(columns)))
        normal, blocks = transform.normal(columns), np.asarray(transform.blocks)
        wanted, scale = {}, {}
        for block in dict.fromkeys(transform.blocks):
            own = normal[:, blocks == block]
            wanted[block] = math.sqrt(own.shape[1])
            scale[block] = math.sqrt(wanted[block] / own.var(0).sum())
        total = math.sqrt(sum(wanted.values()))
        scales = [scale[block] / total for block in transform.blocks]
        return cls(transform, tuple(normal.mean(0).tolist()), tuple(scales))

    @property
    def groups(self) -> tuple[int, ...]:
        """The number of each column's block, from 0."""
        blocks = list(dict.fromkeys(self.transform.blocks))
        return tuple(blocks.index(block) for block in self.transform.blocks)

    def __call__(self, columns: Columns) -> Float64[np.ndarray, "A D"]:
        """Return the features of architectures.

        Raises:
          ValueError: a column is absent.
        """
        return (self.transform.normal(columns) - np.asarray(self.centres)) * np.asarray(self.scales)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {
            "columns": self.transform.to_dict(),
            "centres": list(self.centres),
            "scales": list(self.scales),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Features:
        """Invert :meth:`to_dict`."""
        return cls(
            RankTransform.from_dict(values["columns"]),
            tuple(map(float, values["centres"])),
            tuple(map(float, values["scales"])),
        )
