"""Rank measures against scipy, with ties and diverged candidates."""

import numpy as np
import pytest
from scipy import stats

from eproxy_jax.ranks import rank_quality


def test_equal_scipy_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, truth = rng.integers(0, 8, 40).astype(float), rng.integers(0, 8, 40).astype(float)
        row = rank_quality(score, truth)
        assert row.spearman == pytest.approx(stats.spearmanr(score, truth).statistic, abs=1e-9)
        assert row.kendall_tau == pytest.approx(stats.kendalltau(score, truth).statistic, abs=1e-9)
        assert row.count == 40


def test_diverged_candidates_rank_last():
    truth = np.arange(20.0)
    score = np.where(truth < 5, -np.inf, truth)
    expected = stats.spearmanr(np.where(truth < 5, -1.0, truth), truth).statistic
    assert rank_quality(score, truth).spearman == pytest.approx(expected)


def test_top_precision_and_regret():
    truth = np.arange(20.0)
    score = truth.copy()
    score[19] = -1  # the best is missed: one of the two best by score is among the two best
    row = rank_quality(score, truth)
    assert row.top_precision == 0.5
    assert row.regret == 1.0


@pytest.mark.parametrize(
    ("score", "truth", "message"),
    [
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, 3], [1, 2], "one length"),
        ([1, 2, np.nan], [1, 2, 3], "1 scores are NaN"),
        ([1, 2, 3], [1, 2, np.inf], "not finite"),
    ],
)
def test_bad_input(score, truth, message):
    with pytest.raises(ValueError, match=message):
        rank_quality(score, truth)


def test_constant_side_has_no_correlation():
    assert np.isnan(rank_quality([1, 1, 1], [1, 2, 3]).spearman)
