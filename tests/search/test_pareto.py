"""Fronts and hypervolumes against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eproxy_jax.search import pareto

POINTS = st.integers(1, 4).flatmap(
    lambda m: hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(m)), elements=st.integers(0, 4).map(float))
)
PAIRS = hnp.arrays(np.float64, st.tuples(st.integers(1, 10), st.just(2)), elements=st.integers(0, 5).map(float))


def dominates(a, b):
    return (a >= b).all() and (a > b).any()


def naive_ranks(points):
    ranks, left, front = np.full(len(points), -1), set(range(len(points))), 0
    while left:
        first = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        for i in first:
            ranks[i] = front
        left, front = left - first, front + 1
    return ranks


@given(POINTS)
def test_ranks_are_those_of_the_definition(points):
    np.testing.assert_array_equal(pareto.non_dominated_ranks(points), naive_ranks(points))


@given(PAIRS, st.integers(0, 2))
def test_hypervolume_counts_unit_squares(points, reference):
    cells = {(x, y) for a, b in points.astype(int) for x in range(reference, a) for y in range(reference, b)}
    assert pareto.hypervolume(points, (reference, reference)) == len(cells)


@given(PAIRS, PAIRS)
def test_gains_are_differences_of_hypervolumes(points, reached):
    before = pareto.hypervolume(reached, (0, 0))
    expected = [pareto.hypervolume(np.vstack([reached, point]), (0, 0)) - before for point in points]
    np.testing.assert_allclose(pareto.hypervolume_gains(points, reached, (0, 0)), expected)


def test_unknown_and_no_points():
    assert pareto.non_dominated_ranks(np.asarray([[np.nan, 1.0], [0.0, 0.0]])).tolist() == [-1, 0]
    assert pareto.hypervolume(np.zeros((0, 2)), (0, 0)) == 0
    assert pareto.hypervolume_gains(np.asarray([[2.0, 3.0]]), np.zeros((0, 2)), (0, 1)).tolist() == [4]


@pytest.mark.parametrize("objectives", [2, 3])
def test_ten_thousand_points_take_a_moment(objectives):
    points = np.random.default_rng(0).normal(size=(10_000, objectives))
    ranks = pareto.non_dominated_ranks(points)
    best = points[ranks == 0]
    assert not any((best >= point).all(1).sum() > 1 for point in best)
