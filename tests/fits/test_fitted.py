"""Fitted rankings: what may not matter does not matter, labels that contradict are heard, and files keep every bit."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import eproxy_jax as ep
from eproxy_jax.fits.aggregates import RankSum
from eproxy_jax.fits.fitted import METHODS

NUM = 60
RNG = np.random.default_rng(1)
QUALITY = RNG.normal(size=NUM)  # what the labels measure
ARCHS = tuple(f"net {i}" for i in range(NUM))
NAMES = ("macs", "params", "jacov", "naswot", "eproxy:a", "eproxy:b")
COLUMNS = ep.Columns.of(
    ARCHS,
    {
        **{
            name: np.exp(QUALITY + noise * RNG.normal(size=NUM))
            for name, noise in zip(NAMES[:4], (1, 2, 0.7, 0.8), strict=False)
        },
        **{
            name: -np.exp(-QUALITY - noise * RNG.normal(size=NUM))
            for name, noise in zip(NAMES[4:], (0.6, 3), strict=False)
        },
        "graph_counts": RNG.integers(0, 4, (NUM, 5)),
    },
)
TRUTH = 90 + QUALITY


def labels(count, truth=TRUTH, seed=0):
    chosen = np.random.default_rng(seed).choice(NUM, count, replace=False)
    return {ARCHS[i]: float(truth[i]) for i in chosen}


def held_out(fitted, columns=COLUMNS, truth=TRUTH):
    rest = np.asarray([i for i, arch in enumerate(ARCHS) if arch not in fitted.archs])
    return stats.spearmanr(fitted.predict(columns)[0][rest], truth[rest])[0]


SAVED = {method: json.dumps(ep.fit(COLUMNS, labels(4), method).to_dict()) for method in METHODS}


# --- every method --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [3, 5, 20])
def test_every_method_ranks_with_few_labels(method, count):
    fitted = ep.fit(COLUMNS, labels(count), method)
    mean, deviation = fitted.predict(COLUMNS)
    assert mean.shape == deviation.shape == (NUM,)
    assert np.isfinite(mean).all()
    assert (deviation >= 0).all()
    assert fitted.quality.count == count
    if count == 20:
        assert held_out(fitted) > 0.6
        assert fitted.quality.spearman > 0.5


@pytest.mark.parametrize("method", METHODS)
def test_json_keeps_every_bit(method):
    fitted = ep.fit(COLUMNS, labels(9), method)
    again = ep.Fitted.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again.to_dict() == fitted.to_dict()
    assert again.quality == fitted.quality
    for one, other in zip(fitted.predict(COLUMNS), again.predict(COLUMNS), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_a_prediction_depends_on_no_other_architecture(method):
    fitted = ep.fit(COLUMNS, labels(9), method)
    mean, deviation = fitted.predict(COLUMNS)
    for some in ([5], [40, 5, 7]):
        own = fitted.predict(COLUMNS.rows(ARCHS[i] for i in some))
        np.testing.assert_allclose(own[0], mean[some], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(own[1], deviation[some], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_columns_architectures_and_labels_does_not_matter(method):
    given_labels = labels(9)
    mean, _ = ep.fit(COLUMNS, given_labels, method).predict(COLUMNS)
    shuffled = COLUMNS.select(COLUMNS.names[::-1]).rows(ARCHS[::-1])
    again, _ = ep.fit(shuffled, dict(reversed(given_labels.items())), method).predict(COLUMNS)
    np.testing.assert_allclose(again, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "alpha"])  # the paper's form has units
def test_monotone_transforms_change_nothing(method):
    values = np.stack(
        [np.cbrt(column) if i % 2 else np.exp(column / 9) for i, column in enumerate(COLUMNS.values.T)], 1
    )
    other = ep.Columns(ARCHS, COLUMNS.names, values, COLUMNS.blocks)
    mean, deviation = ep.fit(COLUMNS, labels(9), method).predict(COLUMNS)
    again = ep.fit(other, {arch: value**3 for arch, value in labels(9).items()}, method).predict(other)
    np.testing.assert_allclose(again[0], mean, rtol=1e-9)
    np.testing.assert_allclose(again[1], deviation, rtol=1e-9)


@pytest.mark.parametrize("method", ["process", "ridge", "best_column"])
def test_a_fit_needs_no_sign_of_a_column(method):
    flipped = ep.Columns(ARCHS, COLUMNS.names, COLUMNS.values * ([-1, 1] * 5 + [-1]), COLUMNS.blocks)
    prior = {} if method == "best_column" else {"prior": None}
    mean, _ = ep.fit(COLUMNS, labels(9), method, **prior).predict(COLUMNS)
    again, _ = ep.fit(flipped, labels(9), method, **prior).predict(flipped)
    np.testing.assert_allclose(again, mean, rtol=1e-4, atol=1e-5)


# --- the prior -----------------------------------------------------------------------------------------------


def test_the_prior_weighs_what_the_labels_say():
    agrees = ep.fit(COLUMNS, labels(20))
    assert agrees.prior_weight > 0.3
    contradicts = ep.fit(COLUMNS, labels(20, -TRUTH))
    assert contradicts.prior_weight == 0
    assert held_out(contradicts, truth=-TRUTH) > 0.6
    noise = ep.fit(COLUMNS, labels(20, RNG.normal(size=NUM)))
    assert noise.prior_weight < agrees.prior_weight
    assert ep.fit(COLUMNS, labels(20), prior=None).prior_weight == 0


def test_processes_count_by_how_well_they_explain_the_labels():
    def share(truth):
        parts = ep.fit(COLUMNS, labels(20, truth)).model.parts
        assert sum(part.share for part in parts) == pytest.approx(1)
        return sum(part.share for part in parts if part.weight)

    assert share(TRUTH) > 0.5 > share(-TRUTH)


def test_the_deviation_counts_what_the_processes_differ_by():
    model = ep.fit(COLUMNS, labels(5)).model
    assert len(model.parts) > 1
    mean, deviation = model.predict(COLUMNS)
    normal, inputs = model.prior.normal(COLUMNS) - model.centre, model.features(COLUMNS)
    own = [part.process.predict(inputs) for part in model.parts]
    means = np.stack([one[0] + part.weight * normal for part, one in zip(model.parts, own, strict=True)])
    shares = np.asarray([part.share for part in model.parts])
    np.testing.assert_allclose(mean, shares @ means, rtol=1e-10, atol=1e-12)
    second = shares @ (means**2 + np.stack([one[1] for one in own]) ** 2)
    np.testing.assert_allclose(deviation**2, second - mean**2, rtol=1e-6)


def test_few_labels_lean_on_the_prior():
    qualities = [held_out(ep.fit(COLUMNS, labels(3, seed=seed))) for seed in range(8)]
    without = [held_out(ep.fit(COLUMNS, labels(3, seed=seed), prior=None)) for seed in range(8)]
    assert np.mean(qualities) > np.mean(without)
    assert np.std(qualities) < np.std(without)


def test_labels_may_be_the_best_of_the_list():
    """A user measures what looks good: of those, half are still below the median of the labels."""
    prior = RankSum.of(COLUMNS, ["macs", "jacov", "naswot"]).values(COLUMNS)
    best = np.argsort(-prior)[:15]
    fitted = ep.fit(COLUMNS, {ARCHS[i]: float(TRUTH[i]) for i in best})
    assert fitted.prior_weight > 0.3
    assert held_out(fitted) > 0.6
    expected = fitted.model.prior.normal(COLUMNS.rows(fitted.archs)).mean()
    assert fitted.model.centre == pytest.approx(expected)


def test_a_prior_is_an_aggregate_or_names_of_columns():
    default = ep.fit(COLUMNS, labels(9)).model.prior  # the losses count as one column
    assert dict(zip(default.names, default.weights, strict=True)) == {
        "macs": 1,
        "jacov": 1,
        "eproxy:a": 0.5,
        "eproxy:b": 0.5,
    }
    assert ep.fit(COLUMNS, labels(9), prior=["jacov"]).model.prior.names == ("jacov",)
    assert ep.fit(COLUMNS.select(["macs", "naswot"]), labels(9)).model.prior is None
    with pytest.raises(ValueError, match="prior 'az_nas' needs 'expressivity', 'progressivity', 'trainability'"):
        ep.fit(COLUMNS, labels(9), prior="az_nas")
    with pytest.raises(ValueError, match="unknown aggregate 'rank'"):
        ep.fit(COLUMNS, labels(9), prior="rank")
    with pytest.raises(ValueError, match="'blend' has no prior"):
        ep.fit(COLUMNS, labels(9), "blend", prior=["macs"])


def test_only_columns_in_use_are_asked_for():
    fitted = ep.fit(COLUMNS, labels(9), "best_column")
    assert len(fitted.names) == 1
    fitted.predict(COLUMNS.select(fitted.names))
    with pytest.raises(ValueError, match="also needs 'graph_counts:0'"):
        ep.fit(COLUMNS, labels(9)).predict(COLUMNS.select(NAMES))


# --- odd columns and labels ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from(["constant", "unknown", "worst", "duplicate", "half"]), min_size=1, max_size=3),
    st.sampled_from(METHODS),
)
def test_odd_columns_are_borne(kinds, method):
    odd = {
        "constant": np.ones(NUM),
        "unknown": np.full(NUM, np.nan),
        "worst": np.where(np.arange(NUM) % 3 == 0, -np.inf, np.arange(NUM)),
        "duplicate": COLUMNS.column("jacov"),
        "half": np.where(np.arange(NUM) % 2 == 0, np.nan, QUALITY),
    }
    named = {f"eproxy:{kind} {i}": odd[kind] for i, kind in enumerate(kinds)}
    columns = COLUMNS.join(ep.Columns.of(ARCHS, named))
    fitted = ep.fit(columns, labels(12), method)
    mean, deviation = fitted.predict(columns)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
    if method == "process":  # others take a column for good that is so on 12 labels by chance
        assert held_out(fitted, columns) > 0.3


def test_new_architectures_may_be_unknown_or_worst():
    fitted = ep.fit(COLUMNS, labels(20))
    values = np.asarray([[np.nan] * 11, [-np.inf] * 11, COLUMNS.values.max(0) + 1])
    mean, deviation = fitted.predict(ep.Columns(("a", "b", "c"), COLUMNS.names, values, COLUMNS.blocks))
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
    assert mean[2] > mean[0] > mean[1]


@pytest.mark.parametrize(
    ("given_labels", "changes", "message"),
    [
        (labels(2), {}, "expected at least 3, got 2"),
        (dict.fromkeys(ARCHS[:5], 1.0), {}, "all 5 are 1, so they rank nothing"),
        ({**labels(4), ARCHS[0]: np.nan}, {}, "the value of 'net 0' is nan"),
        ({**labels(4), "net x": 1.0}, {}, "1 of 5 architectures have no row: 'net x'"),
        (labels(4), {"method": "proces"}, "unknown method 'proces' (did you mean 'process'?)"),
    ],
)
def test_bad_arguments_say_what_is_wrong(given_labels, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ep.fit(COLUMNS, given_labels, **changes)


@pytest.mark.parametrize("method", METHODS)
def test_columns_without_information_are_refused(method):
    with pytest.raises(ValueError, match="none of 2 differs|needs columns|unknown column"):
        ep.fit(ep.Columns.of(ARCHS, {"x": np.ones(NUM), "y": np.full(NUM, np.nan)}), labels(5), method)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_files_are_refused_in_words(data):
    values = json.loads(SAVED[data.draw(st.sampled_from(METHODS))])
    place = values
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.integers(0, 3)):
            place = place[key]
            continue
        break
    if isinstance(place, list) and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(st.sampled_from([None, "x", {}, [], [None], [[1]], float("nan"), 7]))
    try:
        fitted = ep.Fitted.from_dict(values)
    except ValueError as error:
        assert "a fitted ranking" in str(error)  # noqa: PT017
    else:
        fitted.model.predict(
            ep.Columns(("a",), fitted.names, np.ones((1, len(fitted.names))), ("",) * len(fitted.names))
        )
