"""This module is Gaussian process regression for 3 to a few hundred labels, in NumPy and float64.

The kernel is ``s exp(-d^2 / 2) + w x.y`` with white noise ``n``, where ``d^2`` is the sum over blocks of
``|x_b - y_b|^2 / l_b^2``. The variances s, w, n and the lengths l maximise marginal likelihood times prior: with five
labels the likelihood is nearly flat, and without a prior they run away.

The process is written out here, with SciPy's Cholesky factor and L-BFGS, for three reasons. It needs 60 lines;
priors and exact leave-one-out predictions are not in scikit-learn's class; and JAX would compile a program for every
number of labels, which takes longer than the fit.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006: equations 2.25 and 2.26 (prediction), 5.9
(gradient of the likelihood), 5.12 (leave-one-out).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import linalg, optimize

if TYPE_CHECKING:
    from jaxtyping import Float64

_FARTHEST = 6.0  # standard deviations of a prior: beyond it the factor may fail
_JITTER = 1e-10  # added to the diagonal, for duplicates without noise


@dataclasses.dataclass(frozen=True)
class LogNormal:
    """A prior of a positive number: its logarithm is normal.

    Attributes:
      median: the number's median.
      spread: standard deviation of its logarithm; 0 fixes the number.
    """

    median: float
    spread: float


@dataclasses.dataclass(frozen=True)
class Priors:
    """Priors of the hyperparameters, for inputs whose total variance is 1 and targets of variance about 1.

    Attributes:
      signal: s, variance of the smooth part; None leaves it out.
      linear: w, variance of the linear part; None leaves it out.
      length: l, length of each block.
      noise: n, variance of the noise.
      weight: mean and standard deviation of the weight of a prior mean, a normal variable cut to [0, 1]. It decides
        with three labels; with twenty it moves Spearman by less than .01.
    """

    signal: LogNormal | None = LogNormal(0.3, 1.0)
    linear: LogNormal | None = None
    length: LogNormal = LogNormal(1.25, 0.5)
    noise: LogNormal = LogNormal(0.2, 1.0)
    weight: tuple[float, float] = (0.5, 0.5)


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """A Gaussian process with its observations.

    Attributes:
      inputs: [N, D].
      targets: [N].
      groups: [D], the number of each input's block, from 0.
      signal: s.
      linear: w.
      lengths: l, one a block.
      noise: n.
    """

    inputs: Float64[np.ndarray, "N D"]
    targets: Float64[np.ndarray, " N"]
    groups: tuple[int, ...]
    signal: float
    linear: float
    lengths: tuple[float, ...]
    noise: float

    @functools.cached_property
    def _factor(self) -> Any:
        covariance = self._kernel(self.inputs)
        covariance[np.diag_indices(len(covariance))] += self.noise + _JITTER
        return linalg.cho_factor(covariance, lower=True)

    def _scaled(self, inputs: np.ndarray) -> np.ndarray:
        return inputs / np.asarray(self.lengths)[list(self.groups)]

    def _kernel(self, inputs: np.ndarray) -> np.ndarray:
        """Return the covariance of new inputs [A, D] with the observed ones, [A, N], without noise."""
        smooth = np.exp(-0.5 * squared_distances(self._scaled(inputs), self._scaled(self.inputs)))
        return self.signal * smooth + self.linear * inputs @ self.inputs.T

    def predict(
        self, inputs: Float64[np.ndarray, "A D"]
    ) -> tuple[Float64[np.ndarray, " A"], Float64[np.ndarray, " A"]]:
        """Return mean and standard deviation of the noiseless function, both [A], at new inputs."""
        cross = self._kernel(inputs)
        mean = cross @ linalg.cho_solve(self._factor, self.targets)
        explained = (cross * linalg.cho_solve(self._factor, cross.T).T).sum(1)
        own = self.signal + self.linear * (inputs**2).sum(1)
        return mean, np.sqrt(np.maximum(own - explained, 0))

    def leave_one_out(self, targets: Float64[np.ndarray, "... N"] | None = None) -> Float64[np.ndarray, "... N"]:
        """Return the mean at each observed input from all the others, exact for these hyperparameters.

        Args:
          targets: [..., N], instead of the observed ones.
        """
        targets = self.targets if targets is None else targets
        inverse = linalg.cho_solve(self._factor, np.eye(len(self.inputs)))
        return targets - (targets @ inverse) / np.diag(inverse)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **values,
            "inputs": self.inputs.tolist(),
            "targets": self.targets.tolist(),
            "groups": list(self.groups),
            "lengths": list(self.lengths),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Process:
        """Invert :meth:`to_dict`."""
        targets = np.asarray(values["targets"], np.float64)
        return cls(
            inputs=np.asarray(values["inputs"], np.float64).reshape(len(targets), len(values["groups"])),
            targets=targets,
            groups=tuple(map(int, values["groups"])),
            lengths=tuple(map(float, values["lengths"])),
            **{name: float(values[name]) for name in ("signal", "linear", "noise")},
        )


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return |x_i - y_j|^2, [A, N], of rows [A, D] and [N, D]."""
    distances = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.maximum(distances, 0)


def fit_process(
    inputs: Float64[np.ndarray, "N D"],
    targets: Float64[np.ndarray, " N"],
    groups: Sequence[int] | None = None,
    priors: Priors = Priors(),
    mean: Float64[np.ndarray, " N"] | None = None,
) -> tuple[Process, float]:
    """Fit the hyperparameters of a process by the maximum of likelihood times prior.

    Args:
      inputs: [N, D]; the total variance of all that are predicted is about 1.
      targets: [N], of mean about 0.
      groups: [D], the number of each input's length, from 0; one length for all if absent.
      priors: priors of the hyperparameters.
      mean: [N], values of a prior mean, whose weight in [0, 1] is one hyperparameter more.

    Returns:
      (process of the targets less weight times mean, the weight; 0 without a mean). They do not depend on the order of
      the observations, nor on the signs of inputs.
    """
    blocks_of = tuple(groups) if groups is not None else (0,) * inputs.shape[1]
    blocks = range(max(blocks_of, default=0) + 1)
    parts_of = [inputs[:, [own == block for own in blocks_of]] for block in blocks]
    squared = [squared_distances(part, part) for part in parts_of]
    products = inputs @ inputs.T
    kept = [one for one in (priors.signal, priors.linear) if one] + [priors.length] * len(blocks) + [priors.noise]
    medians, spreads = np.log([one.median for one in kept]), np.asarray([one.spread for one in kept])
    centre = np.zeros(len(targets)) if mean is None else mean

    def unpack(shifts: np.ndarray) -> tuple[float, float, np.ndarray, float]:
        rest = np.exp(medians + spreads * shifts).tolist()
        signal = rest.pop(0) if priors.signal else 0.0
        linear = rest.pop(0) if priors.linear else 0.0
        return signal, linear, np.asarray(rest[:-1]), rest[-1]

    def loss(arguments: np.ndarray) -> tuple[float, np.ndarray]:
        """Return minus the logarithm of likelihood times prior, and its gradient."""
        weight, shifts = arguments[0], arguments[1:]
        signal, linear, lengths, noise = unpack(shifts)
        parts = [own / length**2 for own, length in zip(squared, lengths, strict=True)]
        smooth = signal * np.exp(-0.5 * sum(parts))
        covariance = smooth + linear * products
        covariance[np.diag_indices(len(covariance))] += noise + _JITTER
        factor = linalg.cho_factor(covariance, lower=True)
        residual = targets - weight * centre
        weights, inverse = linalg.cho_solve(factor, residual), linalg.cho_solve(factor, np.eye(len(targets)))
        value = 0.5 * residual @ weights + np.log(np.diag(factor[0])).sum()
        slopes = [smooth] if priors.signal else []
        slopes += [linear * products] if priors.linear else []
        slopes += [smooth * part for part in parts]
        inner = np.outer(weights, weights) - inverse
        shift = (weight - priors.weight[0]) / priors.weight[1] if mean is not None else 0.0
        gradient = [-0.5 * (inner * slope).sum() for slope in slopes] + [-0.5 * noise * np.trace(inner)]
        slope = -centre @ weights + shift / priors.weight[1]
        return value + 0.5 * (shifts @ shifts + shift**2), np.asarray([slope, *(gradient * spreads + shifts)])

    bounds = [(0.0, 1.0 if mean is not None else 0.0)] + [(-_FARTHEST, _FARTHEST)] * len(kept)
    runs = [
        optimize.minimize(loss, [weight, *np.zeros(len(kept))], jac=True, method="L-BFGS-B", bounds=bounds)
        for weight in ((0.0,) if mean is None else (0.0, 1.0))  # the likelihood may have a maximum near either end
    ]
    best = min(runs, key=lambda run: run.fun).x
    signal, linear, lengths, noise = unpack(best[1:])
    process = Process(
        np.asarray(inputs), targets - best[0] * centre, blocks_of, signal, linear, tuple(lengths.tolist()), noise
    )
    return process, float(best[0])


def log_evidence(
    process: Process, priors: Priors, mean: Float64[np.ndarray, " N"] | None = None, weight: float = 0.0
) -> float:
    """Return how well a fitted process explains its labels: the logarithm of likelihood times prior of what was fitted.

    Only differences between processes of the same labels mean anything. The weight of a prior mean is integrated over:
    otherwise a process that may choose it would always explain more than one without.

    Args:
      process: what :func:`fit_process` returned.
      priors: the priors of that fit.
      mean: [N], the prior mean of that fit.
      weight: its weight.

    Source: MacKay, Neural Computation 1992, Bayesian interpolation (the Occam factor of the weight).
    """
    fitted = [(priors.signal, process.signal), (priors.linear, process.linear), (priors.noise, process.noise)]
    fitted += [(priors.length, length) for length in process.lengths]
    shifts = [np.log(value / prior.median) / prior.spread for prior, value in fitted if prior and prior.spread]
    factor = process._factor
    value = -0.5 * process.targets @ linalg.cho_solve(factor, process.targets) - np.log(np.diag(factor[0])).sum()
    if mean is not None:
        shifts.append((weight - priors.weight[0]) / priors.weight[1])
        value -= 0.5 * np.log1p(priors.weight[1] ** 2 * mean @ linalg.cho_solve(factor, mean))
    return float(value - 0.5 * np.square(shifts).sum())
