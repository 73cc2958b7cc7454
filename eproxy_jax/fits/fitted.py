"""This module fits rankings to columns and a few labels: ``fit`` makes a ``Fitted``, which ranks any architecture.

The default is the average of three Gaussian processes on all columns: around a label-free sum of ranks, around
nothing, and around nothing with a linear part. Each counts by how well it explains the labels, and within the first
they decide how much the sum weighs, in [0, 1]. So the sum leads where it is right, above all with few labels, and is
dropped where the labels contradict it. A process needs no sign of any column.

Source: benchmarks/fit_columns.py measures it against the alternatives.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from eproxy_jax import ranks
from eproxy_jax.errors import check_known, listed, quoted
from eproxy_jax.fits import scores
from eproxy_jax.fits.aggregates import RankSum, aggregate_columns
from eproxy_jax.fits.columns import LOSSES, Columns
from eproxy_jax.fits.process import LogNormal, Priors, Process, fit_process, log_evidence
from eproxy_jax.fits.transforms import Features, Reference, differing, normal_scores, vector_scores

if TYPE_CHECKING:
    from jaxtyping import Float64

AUTO = "auto"
_RIDGE = Priors(signal=None, linear=LogNormal(0.5, 1.0))
# (priors, whether around the sum of ranks) of the processes of a method; those around it are left out without one.
_PROCESSES: Mapping[str, tuple[tuple[Priors, bool], ...]] = {
    "process": ((Priors(), True), (Priors(), False), (Priors(linear=LogNormal(0.05, 1.0)), False)),
    "ridge": ((_RIDGE, True), (_RIDGE, False)),
}
_LEAST = 1e-3  # share below which a process is dropped
_SCORES: Mapping[str, Callable[[Columns, Columns, np.ndarray], scores.Blend | scores.Alpha]] = {
    "blend": scores.fit_blend,
    "alpha": scores.fit_alpha,
    "best_column": scores.fit_best_column,
}
METHODS = (*_PROCESSES, *_SCORES)
_FEWEST = 3  # labels; a rank correlation needs as many


@dataclasses.dataclass(frozen=True)
class Part:
    """One process of an average.

    Attributes:
      process: the process of what the weighted sum of ranks misses.
      weight: of the sum of ranks, in [0, 1].
      share: in the average; the shares of all parts add up to 1.
    """

    process: Process
    weight: float
    share: float


@dataclasses.dataclass(frozen=True)
class ProcessModel:
    """An average of Gaussian processes, some of them around a weighted prior.

    Attributes:
      features: what the processes see of the columns.
      parts: the processes.
      prior: the label-free sum of ranks; None if there is none.
      centre: its mean over the labels. Labels are normal scores among themselves, of mean 0 also where the labelled
        are the best of the list: the weight must not shift them.
    """

    features: Features
    parts: tuple[Part, ...]
    prior: RankSum | None
    centre: float

    @property
    def weight(self) -> float:
        """The weight of the prior, in [0, 1]: the average over the processes."""
        return sum(part.share * part.weight for part in self.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in use."""
        summed = self.prior.names if self.prior and self.weight else ()
        return tuple(dict.fromkeys((*self.features.transform.names, *summed)))

    def predict(self, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation, both [A]; the deviation counts what the processes differ by."""
        inputs, normal = _inputs(self.features, columns), np.zeros(len(columns))
        if self.prior and self.weight:
            normal = _normal(self.prior, columns) - self.centre
        shares = np.asarray([part.share for part in self.parts])
        found = [part.process.predict(inputs) for part in self.parts]
        means = np.stack([one + part.weight * normal for part, (one, _) in zip(self.parts, found, strict=True)])
        mean = shares @ means
        variance = shares @ (np.square([deviation for _, deviation in found]) + (means - mean) ** 2)
        return mean, np.sqrt(variance)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {
            "features": self.features.to_dict(),
            "parts": [
                {"process": part.process.to_dict(), "weight": part.weight, "share": part.share} for part in self.parts
            ],
            "prior": self.prior and self.prior.to_dict(),
            "centre": self.centre,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProcessModel:
        """Invert :meth:`to_dict`."""
        return cls(
            Features.from_dict(values["features"]),
            tuple(
                Part(Process.from_dict(one["process"]), float(one["weight"]), float(one["share"]))
                for one in values["parts"]
            ),
            None if values["prior"] is None else RankSum.from_dict(values["prior"]),
            float(values["centre"]),
        )


@dataclasses.dataclass(frozen=True)
class ScoreModel:
    """A single score, as a predictor of the labels' normal scores.

    Attributes:
      score: the rank blend, the paper's form or the best column.
      scores: the reference of the score.
      slope: correlation of left-out labels with it, in [.01, .99]: the mean is slope times its normal score.
    """

    score: scores.Blend | scores.Alpha
    scores: Reference
    slope: float

    @property
    def names(self) -> tuple[str, ...]:
        """The columns in use."""
        return self.score.names

    def predict(self, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Return mean [A] and the same standard deviation for all, [A]."""
        normal = normal_scores(self.scores.rank(self.score.score(columns)), self.scores.count)
        return self.slope * normal, np.full(len(columns), math.sqrt(1 - self.slope**2))

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {"score": self.score.to_dict(), "scores": self.scores.to_dict(), "slope": self.slope}

    @classmethod
    def from_dict(cls, kind: type[scores.Blend] | type[scores.Alpha], values: Mapping[str, Any]) -> ScoreModel:
        """Invert :meth:`to_dict`."""
        return cls(kind.from_dict(values["score"]), Reference.from_dict(values["scores"]), float(values["slope"]))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """A ranking that was fitted to labels; see :func:`fit`.

    Attributes:
      method: its name.
      archs: the labelled architectures.
      labels: their values, higher is better.
      left_out: the prediction of each from the others.
      model: what predicts.
    """

    method: str
    archs: tuple[str, ...]
    labels: tuple[float, ...]
    left_out: tuple[float, ...]
    model: ProcessModel | ScoreModel

    def __repr__(self) -> str:
        return f"<Fitted: {self.method}, {len(self.labels)} labels, {len(self.names)} columns>"

    def predict(self, columns: Columns) -> tuple[Float64[np.ndarray, " A"], Float64[np.ndarray, " A"]]:
        """Return what the fit expects of architectures, and how sure it is.

        The prediction of one does not depend on the others, for ranks are among the architectures of the fit.

        Args:
          columns: at least the columns ``names``, of any architectures.

        Returns:
          (mean [A], standard deviation [A]), higher is better. The unit is the normal score of a label: 0 is a label's
          median, 1 is better than 84 % of them. The deviation leaves out the noise of a single label.

        Raises:
          ValueError: a column is absent.
        """
        if absent := [name for name in self.names if name not in columns.names]:
            raise ValueError(
                f"columns: the fitted ranking also needs {listed(map(quoted, absent))}: compute them, "
                "or fit again without them"
            )
        return self.model.predict(columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that a prediction needs."""
        return self.model.names

    @property
    def prior_weight(self) -> float:
        """The weight of the label-free prior, in [0, 1]; 0 for methods without one."""
        return self.model.weight if isinstance(self.model, ProcessModel) else 0.0

    @functools.cached_property
    def quality(self) -> ranks.RankQuality:
        """Agreement of the labels with predictions from the other labels.

        Processes keep hyperparameters and shares, which all labels chose; other methods are fitted anew for each label.
        """
        return ranks.rank_quality(self.left_out, self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON; :meth:`from_dict` of it predicts the same bits."""
        return {
            "method": self.method,
            "archs": list(self.archs),
            "labels": list(self.labels),
            "left_out": list(self.left_out),
            "model": self.model.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Fitted:
        """Invert :meth:`to_dict`.

        Raises:
          ValueError: a field is absent, or has no such value.
        """
        if not isinstance(values, Mapping) or "method" not in values:
            raise ValueError(f"a fitted ranking: expected a dict with 'method', got {quoted(values)}")
        method = values["method"]
        check_known([method], METHODS, "a fitted ranking", "method")
        try:
            if method in _PROCESSES:
                model = ProcessModel.from_dict(values["model"])
            else:
                model = ScoreModel.from_dict(scores.Alpha if method == "alpha" else scores.Blend, values["model"])
            labels, left_out = (tuple(map(float, values[name])) for name in ("labels", "left_out"))
            zeros = np.zeros((1, len(model.names)))
            if not np.isfinite(model.predict(Columns(("",), model.names, zeros, ("",) * zeros.size))).all():
                raise ValueError("it predicts no number")
            return cls(method, tuple(map(str, values["archs"])), labels, left_out, model)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"a fitted ranking: it cannot be read ({type(error).__name__}: {quoted(str(error))}): fit it again"
            ) from error


def fit(
    columns: Columns,
    labels: Mapping[str, float],
    method: Literal["process", "ridge", "blend", "alpha", "best_column"] = "process",
    prior: str | Sequence[str] | None = AUTO,
    length_per_block: bool = False,
) -> Fitted:
    """Fit a ranking to a few labelled architectures. Nothing in it is random.

    Args:
      columns: the reference: numbers of all architectures that are known, labelled or not. The more there are, the
        better are the ranks that the fit sees.
      labels: values of at least 3 of them, higher is better.
      method: ``"process"``, Gaussian processes on normal scores of all columns; ``"ridge"``, the same with a linear
        kernel, which is ridge regression; ``"blend"``, the rank blend of ``eproxy dps``; ``"alpha"``, the paper's form;
        ``"best_column"``, the column that ranks the labels best, in either direction.
      prior: the mean of a process or of ridge regression: the name of an aggregate, names of columns whose ranks are
        summed, or None. By default it is those columns of ``rank_sum`` that are there, and the mean over all losses of
        Eproxy as one more; nothing if there is but one of them.
      length_per_block: True gives each block of columns a length of its own in the process.

    Returns:
      A ``Fitted``.

    Raises:
      ValueError: fewer than 3 labels, labels that are all equal or not finite, a labelled architecture without columns,
        an unknown method or column, or no column that differs between architectures.

    Example:
      >>> archs = [f"net {i}" for i in range(9)]
      >>> columns = Columns.of(archs, {"macs": range(9), "noise": [3, 1, 4, 1, 5, 9, 2, 6, 5]})
      >>> fitted = fit(columns, {"net 1": 0.2, "net 3": 0.4, "net 4": 0.5, "net 8": 0.9})
      >>> mean, deviation = fitted.predict(columns)
      >>> bool(mean[7] > mean[2])
      True
    """
    check_known([method], METHODS, "fit", "method")
    archs, values = _check_labels(labels)
    labelled = columns.rows(archs)
    differing(columns)  # or there is nothing to rank by
    if method in _SCORES:
        if prior != AUTO:
            raise ValueError(f"the method {quoted(method)} has no prior: leave it out, or choose process or ridge")
        model, left_out = _fit_score(_SCORES[method], columns, labelled, values)
    else:
        summed = _prior(columns, prior)
        processes = [(priors, around) for priors, around in _PROCESSES[method] if summed or not around]
        model, left_out = _fit_processes(columns, labelled, vector_scores(values), processes, summed, length_per_block)
    return Fitted(method, archs, tuple(values.tolist()), tuple(left_out.tolist()), model)


def _check_labels(labels: Mapping[str, float]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the labelled architectures and their values, or say what is wrong with them."""
    archs, values = tuple(labels), np.asarray(list(labels.values()), np.float64)
    if len(archs) < _FEWEST:
        raise ValueError(f"labels: expected at least {_FEWEST}, got {len(archs)}")
    if not np.isfinite(values).all():
        arch = archs[int(np.argmin(np.isfinite(values)))]
        raise ValueError(f"labels: the value of {quoted(arch)} is {labels[arch]}: leave it out, or give a number")
    if np.ptp(values) == 0:
        raise ValueError(f"labels: all {len(archs)} are {values[0]:g}, so they rank nothing: measure other networks")
    return archs, values


def _prior(columns: Columns, prior: str | Sequence[str] | None) -> RankSum | None:
    if prior is None:
        return None
    if isinstance(prior, str) and prior == AUTO:
        # A sum of two already ranks better than either; a single column is evidence like any other. The losses of
        # Eproxy count as one column, their mean: chosen on NAS-Bench-201 with CIFAR-10.
        present = [name for name in aggregate_columns("rank_sum") if name in columns.names]
        losses = columns.block(LOSSES).names
        weights = (1.0,) * len(present) + (1 / max(len(losses), 1),) * len(losses)
        return _rank_sum(columns, (*present, *losses), weights) if len(present) + bool(losses) > 1 else None
    names = aggregate_columns(prior)
    if absent := [name for name in names if name not in columns.names]:
        raise ValueError(
            f"fit: prior {quoted(prior)} needs {listed(map(quoted, absent))}: add them to the columns, "
            "or give the names of columns, or None"
        )
    return _rank_sum(columns, names)


# Draws of labels, and searches, fit the same columns again and again, and predict what they fit.
@functools.lru_cache(maxsize=4)
def _features(columns: Columns) -> Features:
    return Features.of(columns)


@functools.lru_cache(maxsize=4)
def _rank_sum(columns: Columns, names: tuple[str, ...], weights: tuple[float, ...] | None = None) -> RankSum:
    return RankSum.of(columns, names, weights)


@functools.lru_cache(maxsize=4)
def _inputs(features: Features, columns: Columns) -> np.ndarray:
    return features(columns)


@functools.lru_cache(maxsize=4)
def _normal(prior: RankSum, columns: Columns) -> np.ndarray:
    return prior.normal(columns)


def _fit_processes(
    columns: Columns,
    labelled: Columns,
    targets: np.ndarray,
    processes: Sequence[tuple[Priors, bool]],
    prior: RankSum | None,
    length_per_block: bool,
) -> tuple[ProcessModel, np.ndarray]:
    """Return the model and the predictions of left-out labels, [N]."""
    features = _features(columns)
    rows = _rows(columns, labelled)
    inputs, groups = _inputs(features, columns)[rows], features.groups if length_per_block else None
    normal = np.zeros(len(labelled)) if prior is None else _normal(prior, columns)[rows]
    centre = float(normal.mean())
    found, evidence = [], []
    for priors, around in processes:
        mean = normal - centre if around else None
        process, weight = fit_process(inputs, targets, groups, priors, mean)
        found.append((process, weight))
        evidence.append(log_evidence(process, priors, mean, weight))
    shares = np.exp(np.asarray(evidence) - max(evidence))
    shares = np.where(shares < _LEAST * shares.sum(), 0, shares) / shares[shares >= _LEAST * shares.sum()].sum()
    parts = tuple(Part(one, weight, float(share)) for (one, weight), share in zip(found, shares, strict=True) if share)
    left_out = sum(part.share * (part.process.leave_one_out() + part.weight * (normal - centre)) for part in parts)
    return ProcessModel(features, parts, prior, centre), np.asarray(left_out)


def _rows(columns: Columns, some: Columns) -> list[int]:
    """Return where the architectures of some columns are in others that have them all."""
    place = {arch: i for i, arch in enumerate(columns.archs)}
    return [place[arch] for arch in some.archs]


def _fit_score(
    fit_one: Callable[[Columns, Columns, np.ndarray], scores.Blend | scores.Alpha],
    columns: Columns,
    labelled: Columns,
    values: np.ndarray,
) -> tuple[ScoreModel, np.ndarray]:
    """Return the model and the predictions of left-out labels, [N]; each is from a fit to the others."""

    def normal(others: list[int], wanted: Columns) -> np.ndarray:
        score = fit_one(columns, labelled.rows(labelled.archs[i] for i in others), values[others])
        reference = Reference.of(score.score(columns))
        return normal_scores(reference.rank(score.score(wanted)), reference.count)

    every = list(range(len(values)))
    left_out = np.asarray([normal([j for j in every if j != i], labelled)[i] for i in every])
    slope = float(np.clip(_correlation(left_out, vector_scores(values)), 0.01, 0.99))
    score = fit_one(columns, labelled, values)
    return ScoreModel(score, Reference.of(score.score(columns)), slope), slope * left_out


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of two vectors, 0 if one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt((x @ x) * (y @ y))
    return float(x @ y) / norm if norm > 0 else 0.0
