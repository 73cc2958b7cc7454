"""Suggestions of what to measure: distinct, seeded, without what is measured, spread out, good where asked for."""

import re

import numpy as np
import pytest

import eproxy_jax as ep


@pytest.fixture
def columns():
    """Two heaps of networks, one of 5 and one of 55, with columns that a sum of ranks takes."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3)) + np.where(np.arange(60) < 5, 8, 0)[:, None]
    archs = [f"net {i}" for i in range(60)]
    return ep.Columns.of(archs, dict(zip(("macs", "jacov", "mine"), values.T, strict=True)))


@pytest.mark.parametrize("by", ["diverse", "top"])
def test_distinct_seeded_and_without_what_is_measured(columns, by):
    measured = [f"net {i}" for i in range(0, 60, 2)]
    chosen = ep.suggest(columns, 20, by, measured, seed=3)
    assert len(set(chosen)) == 20
    assert not set(chosen) & set(measured)
    assert chosen == ep.suggest(columns, 20, by, measured, seed=3)
    assert set(ep.suggest(columns, 30, by, measured)) == set(columns.archs) - set(measured)
    if by == "diverse":
        assert chosen != ep.suggest(columns, 20, by, measured, seed=4)


def test_diverse_ones_are_farther_apart_than_random_ones(columns):
    features = np.argsort(np.argsort(columns.values, 0), 0) / len(columns)

    def nearest(archs):
        rows = features[[columns.archs.index(arch) for arch in archs]]
        distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + np.eye(len(rows)) * 9
        return distances.min(0).mean()

    random = [nearest(np.random.default_rng(s).choice(columns.archs, 10, replace=False)) for s in range(20)]
    diverse = [nearest(ep.suggest(columns, 10, seed=s)) for s in range(20)]
    assert np.mean(diverse) > np.mean(random) + 0.03


def test_what_is_measured_counts_as_chosen(columns):
    """The far heap is measured, so the next ones come from the other."""
    drawn = [ep.suggest(columns, 1, measured=columns.archs[:4], seed=s)[0] for s in range(20)]
    assert "net 4" not in drawn


def test_top_ones_are_good_and_differ(columns):
    best = ep.suggest(columns, 5, "top")
    assert sum(arch in columns.archs[:5] for arch in best) >= 4
    labels = {arch: -float(columns.column("mine")[i]) for i, arch in enumerate(columns.archs[:30])}
    fitted = ep.fit(columns, labels, prior=None)  # it has found that less is better
    worst = ep.suggest(columns, 5, "top", fitted=fitted)
    assert not set(worst) & set(columns.archs[:5])


def test_of_the_best_share(columns):
    half = ep.suggest(columns, 10, keep=0.5, seed=1)
    order = np.argsort(-sum(np.log(np.argsort(np.argsort(columns.column(n))) + 1) for n in ("macs", "jacov")))
    assert set(half) <= {columns.archs[i] for i in order[:30]}


def test_equal_columns_come_last():
    columns = ep.Columns.of([f"net {i}" for i in range(12)], {"mine": [i // 3 for i in range(12)]})
    chosen = ep.suggest(columns, 6, seed=2)
    assert len({int(arch[4:]) // 3 for arch in chosen[:4]}) == 4
    assert len(set(chosen)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "divers"}, "unknown way 'divers' (did you mean 'diverse'?)"),
        ({"num": 61}, "61 asked for, but 60 of 60"),
        ({"num": 0}, "0 asked for"),
        ({"keep": 0}, "keep: expected a share"),
        ({"seed": -1}, "seed: expected an integer"),
    ],
)
def test_bad_arguments(columns, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ep.suggest(columns, **arguments)


def test_what_is_good_needs_columns_that_say_so(columns):
    with pytest.raises(ValueError, match="what is good needs a fit, or two of the columns"):
        ep.suggest(columns.select(["macs", "mine"]), 3, "top")
