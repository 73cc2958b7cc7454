"""The process is the one of the book: numbers against plain linear algebra, gradients, few labels."""

import json

import numpy as np
import pytest
from scipy import stats

from eproxy_jax.fits.process import LogNormal, Priors, Process, fit_process, log_evidence

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 5)) / np.sqrt(5), RNG.normal(size=12)
NEW = RNG.normal(size=(7, 5)) / np.sqrt(5)
PROCESS = Process(X, Y, (0, 0, 1, 1, 1), 0.7, 0.3, (1.2, 2.5), 0.15)


def kernel(x, y):
    lengths = np.asarray([1.2, 1.2, 2.5, 2.5, 2.5])
    squared = (((x[:, None] - y[None]) / lengths) ** 2).sum(-1)
    return 0.7 * np.exp(-squared / 2) + 0.3 * x @ y.T


def test_mean_and_deviation_are_those_of_the_conditional_normal():
    inverse = np.linalg.inv(kernel(X, X) + 0.15 * np.eye(12))
    mean, deviation = PROCESS.predict(NEW)
    np.testing.assert_allclose(mean, kernel(NEW, X) @ inverse @ Y, rtol=1e-6)
    variance = np.diag(kernel(NEW, NEW) - kernel(NEW, X) @ inverse @ kernel(X, NEW))
    np.testing.assert_allclose(deviation, np.sqrt(variance), rtol=1e-6)


def test_leave_one_out_is_what_a_process_without_the_label_predicts():
    left_out = PROCESS.leave_one_out()
    for i in range(12):
        others = np.arange(12) != i
        one = Process(X[others], Y[others], PROCESS.groups, 0.7, 0.3, PROCESS.lengths, 0.15)
        np.testing.assert_allclose(left_out[i], one.predict(X[i : i + 1])[0][0], rtol=1e-6)


def posterior(process, priors, weight=None, mean=None):
    """Logarithm of likelihood times prior, up to a constant, by SciPy's normal distribution."""
    smooth = process._kernel(process.inputs) + process.noise * np.eye(len(process.targets))
    value = stats.multivariate_normal(np.zeros(len(smooth)), smooth).logpdf(process.targets)
    kept = [(priors.signal, process.signal), (priors.linear, process.linear), (priors.noise, process.noise)]
    kept += [(priors.length, length) for length in process.lengths]
    value += sum(stats.norm(np.log(one.median), one.spread).logpdf(np.log(x)) for one, x in kept if one)
    return value + (0 if weight is None else stats.norm(*priors.weight).logpdf(weight))


@pytest.mark.parametrize("groups", [None, (0, 0, 1, 1, 1)])
@pytest.mark.parametrize("priors", [Priors(), Priors(linear=LogNormal(0.2, 1.0))])
def test_hyperparameters_are_at_a_maximum(groups, priors):
    best, weight = fit_process(X, Y + X[:, 0], groups, priors, X[:, 0])
    top = posterior(best, priors, weight)
    for name in ("signal", "linear", "noise"):
        for factor in (0.97, 1.03):
            other = Process(**{**vars_of(best), name: getattr(best, name) * factor})
            assert posterior(other, priors, weight) <= top + 1e-7
    for factor in (0.97, 1.03):
        other = Process(**{**vars_of(best), "lengths": (best.lengths[0] * factor, *best.lengths[1:])})
        assert posterior(other, priors, weight) <= top + 1e-7
    for shift in (-0.02, 0.02):
        if 0 <= weight + shift <= 1:
            other = Process(**{**vars_of(best), "targets": best.targets - shift * X[:, 0]})
            assert posterior(other, priors, weight + shift) <= top + 1e-7


def vars_of(process):
    names = ("inputs", "targets", "groups", "signal", "linear", "lengths", "noise")
    return {name: getattr(process, name) for name in names}


def test_evidence_is_the_likelihood_with_the_weight_of_the_mean_integrated_over():
    """But for the priors of the hyperparameters, and a constant of the number of labels."""
    priors, mean = Priors(weight=(0.4, 0.5)), X[:, 0] - X[:, 0].mean()
    values = []
    for slope in (0.3, 0.7):  # the best weight is within its bounds, or the integral would be cut
        targets = slope * mean + 0.1 * Y
        process, weight = fit_process(X, targets, None, priors, mean)
        assert 0 < weight < 1
        fitted = [(priors.signal, process.signal), (priors.length, process.lengths[0]), (priors.noise, process.noise)]
        shifts = [np.log(value / prior.median) / prior.spread for prior, value in fitted]
        covariance = process._kernel(X) + process.noise * np.eye(12) + 0.5**2 * np.outer(mean, mean)
        integral = stats.multivariate_normal(0.4 * mean, covariance).logpdf(targets)
        own = log_evidence(process, priors, mean, weight)
        values.append(own - (integral - 0.5 * np.square(shifts).sum()))
    np.testing.assert_allclose(values[0], values[1], rtol=1e-6)


def test_three_labels_and_duplicates_do_not_run_away():
    process, _ = fit_process(X[:3], Y[:3])
    assert 0.05 < process.signal < 2
    assert 0.03 < process.noise < 2
    assert 0.3 < process.lengths[0] < 5
    same, _ = fit_process(np.repeat(X[:1], 6, 0), np.repeat(Y[:1], 6))
    assert np.isfinite(same.predict(NEW)[0]).all()


def test_a_fixed_number_stays_where_it_is():
    process, _ = fit_process(X, Y, priors=Priors(noise=LogNormal(0.3, 0.0)))
    assert process.noise == pytest.approx(0.3)


def test_json_keeps_every_bit():
    again = Process.from_dict(json.loads(json.dumps(PROCESS.to_dict())))
    for one, other in zip(PROCESS.predict(NEW), again.predict(NEW), strict=True):
        np.testing.assert_array_equal(one, other)


def test_predictions_of_a_whole_space_are_quick():
    import time

    inputs = RNG.normal(size=(15_625, 300)) / 17
    process = Process(inputs[:100], RNG.normal(size=100), (0,) * 300, 0.3, 0.0, (1.5,), 0.2)
    start = time.process_time()
    process.predict(inputs)
    assert time.process_time() - start < 2
