"""Columns are kept by name and architecture; ranks among a reference know ties, the worst and the unknown."""

import json
import re

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import eproxy_jax as ep
from eproxy_jax.fits.aggregates import RankSum
from eproxy_jax.fits.columns import Columns
from eproxy_jax.fits.transforms import Features, RankTransform, Reference, normal_scores
from eproxy_jax.proxies.aggregates import AGGREGATES

INF, NAN = np.inf, np.nan
ABC = Columns.of(["a", "b", "c"], {"macs": [1, 2, 3], "jacov": [3.5, NAN, -INF]})
VALUES = st.lists(st.one_of(st.integers(-9, 9).map(float), st.just(-INF), st.just(NAN)), min_size=1, max_size=30)


def column(values):
    return Columns.of([f"net {i}" for i in range(len(values))], {"x": values})


# --- columns -------------------------------------------------------------------------------------------------


def _summed(columns, names):
    return RankSum.of(columns, names).values(columns)


def test_rows_columns_and_blocks_are_chosen_by_name():
    assert ABC.blocks == ("sizes", "proxies")
    assert ABC.select(["jacov"]).rows(["c", "a"]).values.tolist() == [[-INF], [3.5]]
    assert ABC.block("sizes").names == ("macs",)
    assert ABC.block("graph").values.shape == (3, 0)
    assert ABC.column("macs").tolist() == [1, 2, 3]
    assert len(ABC) == 3


def test_values_are_a_copy_that_cannot_be_written():
    own = np.ones((1, 1))
    columns = Columns(("a",), ("x",), own, ("proxies",))
    own[0, 0] = 7
    assert columns.values[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        columns.values[0, 0] = 2


def test_join_finds_architectures_by_name():
    other = Columns.of(["c", "a", "b", "d"], {"depth": [3, 1, 2, 4]})
    joined = ABC.join(other)
    assert joined.names == ("macs", "jacov", "depth")
    assert joined.column("depth").tolist() == [1, 2, 3]
    part = ABC.join(other.rows(["c", "d"]), partial=True)
    np.testing.assert_array_equal(part.column("depth"), [NAN, NAN, 3])


def test_the_columns_of_a_score_are_taken_as_they_are():
    result = ep.score(["1-0-0", "2-2-1"], tiny.Tiny(), proxy="macs,params")
    columns = Columns.of(result.archs, result.columns)
    assert columns.block("sizes").names == ("macs", "params")
    np.testing.assert_array_equal(columns.column("macs"), result.macs)
    counts = Columns.of(["a"], {"graph_counts": np.ones((1, 3))})
    assert counts.names == ("graph_counts:0", "graph_counts:1", "graph_counts:2")
    assert set(counts.blocks) == {"graph"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Columns.of(["a", "a"], {"x": [1, 2]}), "the architecture 'a' stands there twice"),
        (lambda: Columns.of(["a"], {"x": [1, 2]}), "one value or row for each of 1 architectures, got the shape (2,)"),
        (lambda: Columns.of(["a"], {"x": [INF]}), "'x' of 'a' is +inf: give an unknown value as NaN"),
        (lambda: Columns(("a",), ("x",), np.ones(1), ("b",)), "have the shape (1, 1), got (1,)"),
        (lambda: Columns(("a",), ("x",), np.ones((1, 1)), ()), "a block for each of 1 names, got 0"),
        (lambda: Columns((1,), ("x",), np.ones((1, 1)), ("b",)), "a string for every architecture, got 1"),
        (lambda: ABC.select(["mac"]), "unknown column 'mac' (did you mean 'macs'?)"),
        (lambda: ABC.rows(["a", "z"]), "1 of 2 architectures have no row: 'z'"),
        (lambda: ABC.join(ABC), "the name 'macs' stands there twice"),
        (lambda: ABC.join(column([1.0])), "3 of 3 architectures have no row"),
    ],
)
def test_bad_columns_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


# --- ranks among a reference ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(VALUES)
def test_ranks_of_the_reference_are_those_of_scipy(values):
    values = np.asarray(values)
    known = ~np.isnan(values)
    ranks = Reference.of(values).rank(values)
    np.testing.assert_allclose(ranks[known], stats.rankdata(values[known]))
    assert (ranks[~known] == (known.sum() + 1) / 2).all()


@settings(deadline=None)
@given(VALUES, st.lists(st.floats(-20, 20), min_size=2, max_size=9))
def test_ranks_of_others_keep_their_order_and_their_bounds(values, others):
    others = np.sort(others)
    reference = Reference.of(np.asarray(values))
    ranks = reference.rank(others)
    assert (np.diff(ranks) >= 0).all()
    assert ((ranks > 0.5) & (ranks < reference.count + 0.5) | (reference.count == 0)).all()
    if reference.count:
        assert np.isfinite(normal_scores(ranks, reference.count)).all()


def test_others_are_ranked_between_their_neighbours():
    reference = Reference.of(np.asarray([1.0, 3.0, 3.0, NAN, -INF]))
    assert reference.rank(np.asarray([-INF, 0, 1, 2, 3, 4, NAN])).tolist() == [1, 1.75, 2, 2.75, 3.5, 4.25, 2.5]


def test_many_values_are_thinned_and_rank_nearly_the_same():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20_000)
    reference = Reference.of(values)
    assert len(reference.values) == 512
    assert np.abs(reference.rank(values) - stats.rankdata(values)).max() < 0.003 * len(values)


def test_the_variance_of_a_block_grows_with_the_root_of_its_columns():
    rng = np.random.default_rng(0)
    columns = Columns.of(
        [str(i) for i in range(50)],
        {"macs": rng.normal(size=50), "graph_counts": rng.integers(0, 3, (50, 7)), "jacov": np.full(50, NAN)},
    )
    features = Features.of(columns)
    assert features.transform.names == columns.names[:-1]  # what nobody knows is no evidence
    values = features(columns)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(values[:, :1].var(0).sum(), 1 / (1 + 7**0.5))
    np.testing.assert_allclose(values.var(0).sum(), 1)
    assert features.groups == (0,) + (1,) * 7
    again = Features.from_dict(json.loads(json.dumps(features.to_dict())))
    np.testing.assert_array_equal(again(columns), values)


# --- sums of ranks -------------------------------------------------------------------------------------------


def test_a_rank_sum_is_the_sum_of_logarithms_of_ranks():
    values = {"macs": [1.0, 2, 2, 4], "jacov": [-INF, 5, 7, 6]}
    columns = Columns.of("abcd", values)
    expected = sum(np.log(stats.rankdata(one) / 4) for one in values.values())
    np.testing.assert_allclose(_summed(columns, ["macs", "jacov"]), expected)


def test_aggregates_are_those_of_the_papers():
    assert set(AGGREGATES) == {"az_nas", "vkdnw_agg", "rank_sum"}
    names = AGGREGATES["az_nas"]
    columns = Columns.of("ab", {name: [1, 2] for name in names})
    np.testing.assert_allclose(_summed(columns, "az_nas"), [4 * np.log(0.5), 0])
    with pytest.raises(ValueError, match="unknown aggregate 'az_na' .did you mean 'az_nas'"):
        _summed(columns, "az_na")
    with pytest.raises(ValueError, match="unknown column 'vkdnw'"):
        _summed(columns, "vkdnw_agg")
    with pytest.raises(ValueError, match="at least one column"):
        _summed(columns, [])


def test_a_saved_sum_ranks_others_the_same():
    columns = Columns.of("abcd", {"macs": [1.0, 2, 2, 4], "jacov": [-INF, 5, 7, 6]})
    own = RankSum.of(columns, ["macs", "jacov"])
    again = RankSum.from_dict(json.loads(json.dumps(own.to_dict())))
    others = Columns.of("xy", {"macs": [3, 0], "jacov": [6.5, NAN]})
    np.testing.assert_array_equal(again.normal(others), own.normal(others))
    np.testing.assert_allclose(own.normal(columns), normal_scores(stats.rankdata(own.values(columns)), 4))


def test_rank_transform_needs_its_columns():
    with pytest.raises(ValueError, match="unknown column 'jacov'"):
        RankTransform.of(ABC).ranks(ABC.select(["macs"]))
