"""This module fits single scores to labels: the rank blend of several settings, the paper's form, the best column.

They are what a Gaussian process (``process.py``) is compared with. Each gives one score per architecture, without a
standard deviation of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax import ranks
from eproxy_jax.dps import fitted, selection
from eproxy_jax.fits.columns import GRAPH, LOSSES, MACS, PARAMS, SIZES, Columns
from eproxy_jax.fits.transforms import RankTransform, Reference

if TYPE_CHECKING:
    from jaxtyping import Float64

ALPHAS = tuple(n / 10 for n in range(-5, 6))  # shares of MACs that the paper's form tries
MEMBERS = 8  # settings of a rank blend


@dataclasses.dataclass(frozen=True)
class Share:
    """One column of a rank blend.

    Attributes:
      column: its name.
      sign: -1 if the labels say that lower is better, else 1.
      macs: share of the MACs' ranks.
      params: share of the parameters' ranks.
    """

    column: str
    sign: float = 1.0
    macs: float = 0.0
    params: float = 0.0


@dataclasses.dataclass(frozen=True)
class Blend:
    """The mean percentile over blends of ranks, each of a column, MACs and parameters.

    Attributes:
      transform: the references of all columns in use.
      shares: the members, best first.
      blends: the reference of each member's blend.
    """

    transform: RankTransform
    shares: tuple[Share, ...]
    blends: tuple[Reference, ...]

    @classmethod
    def of(cls, columns: Columns, shares: Sequence[Share]) -> Blend:
        """Return the blend of some members whose reference is all architectures of ``columns``."""
        names = [one.column for one in shares]
        if any(one.macs or one.params for one in shares):
            names += [MACS, PARAMS]
        transform = RankTransform.of(columns.select(list(dict.fromkeys(names))))
        return cls(transform, tuple(shares), tuple(map(Reference.of, _blends(transform, shares, columns))))

    def score(self, columns: Columns) -> Float64[np.ndarray, " A"]:
        """Return the scores [A] of architectures, higher is better."""
        blends = _blends(self.transform, self.shares, columns)
        percentiles = [one.rank(blend) / one.count for one, blend in zip(self.blends, blends, strict=True)]
        return np.mean(percentiles, axis=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in use."""
        return self.transform.names

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {
            "columns": self.transform.to_dict(),
            "members": [dataclasses.asdict(one) for one in self.shares],
            "blends": [one.to_dict() for one in self.blends],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Blend:
        """Invert :meth:`to_dict`."""
        return cls(
            RankTransform.from_dict(values["columns"]),
            tuple(Share(**one) for one in values["members"]),
            tuple(map(Reference.from_dict, values["blends"])),
        )


def _blends(transform: RankTransform, shares: Sequence[Share], columns: Columns) -> list[np.ndarray]:
    # Ranks of mean 0 and, but for ties, variance 1, as selection.rank_blends makes them of a list.
    standard = (transform.ranks(columns) - (transform.counts + 1) / 2) * (math.sqrt(12) / transform.counts)
    by_name = dict(zip(transform.names, standard.T, strict=True))
    none = np.zeros(len(columns))
    sizes = np.stack([by_name.get(name, none) if MACS in by_name else none for name in (MACS, PARAMS)])
    return [
        selection.blend_ranks(one.sign * by_name[one.column], sizes, np.asarray([[one.macs, one.params]]))[0]
        for one in shares
    ]


def fit_blend(columns: Columns, labelled: Columns, targets: np.ndarray) -> Blend:
    """Fit the rank blend of up to eight columns, as ``eproxy dps`` does.

    Its columns are those of the block "losses". If there are none, they are all but sizes and graph counts, each with
    the sign that the labels give it.

    Args:
      columns: the reference, with ``macs`` and ``params``.
      labelled: rows of the labelled architectures.
      targets: [N], their values.

    Raises:
      ValueError: a size is absent, there is no column, or each has a label where it is not finite.
    """
    names = columns.block(LOSSES).names
    signs = np.ones(len(names))
    if not names:
        names = columns.block(*(set(columns.blocks) - {SIZES, GRAPH})).names
        signs = _signs(labelled.select(names).values.T, targets)
    if not names:
        raise ValueError("the method 'blend' needs columns of losses or of proxies, see Columns.blocks")
    losses, sizes = -signs[:, None] * labelled.select(names).values.T, labelled.select([MACS, PARAMS]).values.T
    weights, fitness = fitted.fit_weights(losses, sizes, targets)
    best = [p for p, _ in selection.best_members(np.asarray(fitness)[:, None], MEMBERS)]
    return Blend.of(columns, [Share(names[p], float(signs[p]), *weights[p].tolist()) for p in best])


def fit_best_column(columns: Columns, labelled: Columns, targets: np.ndarray) -> Blend:
    """Choose the column that ranks the labels best, in either direction.

    Args:
      columns: the reference.
      labelled: rows of the labelled architectures.
      targets: [N], their values.
    """
    rows = RankTransform.of(labelled).ranks(labelled).T
    fitness = ranks.spearman_rows(rows, targets)
    best = int(np.argmax(np.abs(fitness)))
    return Blend.of(columns, [Share(columns.names[best], float(_signs(rows[best], targets)))])


def _signs(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return selection.signs(np.where(np.isnan(rows), 0, rows), targets)


@dataclasses.dataclass(frozen=True)
class Alpha:
    """The paper's form: ``-(L (1 - alpha MACs))`` of one loss L, with MACs as a share of the largest.

    Attributes:
      column: name of the column, the negative of a loss.
      alpha: share of MACs.
      largest: the MACs that count as 1.
    """

    column: str
    alpha: float
    largest: float

    def score(self, columns: Columns) -> Float64[np.ndarray, " A"]:
        """Return the scores [A] of architectures, higher is better; ``-inf`` where the loss is not finite."""
        return _alpha_scores(columns, self.column, self.largest, [self.alpha])[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in use."""
        return self.column, MACS

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Alpha:
        """Invert :meth:`to_dict`."""
        return cls(values["column"], float(values["alpha"]), float(values["largest"]))


def _alpha_scores(columns: Columns, name: str, largest: float, alphas: Sequence[float]) -> np.ndarray:
    fractions = np.clip(columns.column(MACS) / largest, 0, 1)
    return selection.score_matrix(-columns.column(name)[None], fractions, alphas)[0]


def fit_alpha(columns: Columns, labelled: Columns, targets: np.ndarray) -> Alpha:
    """Choose the loss and its share of MACs that rank the labels best.

    Args:
      columns: the reference, with ``macs``; the largest counts as 1.
      labelled: rows of the labelled architectures.
      targets: [N], their values.

    Raises:
      ValueError: there is no column of losses, no MACs, or each loss diverged on a label.

    Source: docs/method.md, step 8.
    """
    names = columns.block(LOSSES).names
    if not names:
        raise ValueError(f"the method 'alpha' needs columns of the block {LOSSES!r}: the negative loss of each setting")
    largest = max(float(np.nanmax(columns.column(MACS))), 1.0)
    scores = np.stack([_alpha_scores(labelled, name, largest, ALPHAS) for name in names])
    fitness = selection.fitness(scores, -labelled.select(names).values.T, targets)
    (best, share), *_ = selection.best_members(fitness, 1)
    return Alpha(names[best], ALPHAS[share], largest)
