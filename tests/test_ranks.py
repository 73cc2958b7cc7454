"""Rank measures against scipy, with ties and diverged candidates."""

import itertools

import numpy as np
import pytest
from scipy import stats

from eproxy_jax.ranks import ndcg, rank_quality


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


def test_ndcg_by_hand_and_over_all_orders_of_ties():
    truth = np.asarray([10.0, 30.0, 20.0, 50.0])
    gains, discounts = (truth - 10) / 40, 1 / np.log2([2, 3, 4, 5])
    best = (np.sort(gains)[::-1] * discounts).sum()
    assert ndcg(np.asarray([4.0, 3.0, 2.0, 1.0]), truth) == pytest.approx((gains * discounts).sum() / best)
    assert rank_quality(truth, truth).ndcg == 1
    orders = [[0, *rest, 3] for rest in itertools.permutations((1, 2))]  # ranks 1 and 2 are tied
    expected = np.mean([(gains[order] * discounts).sum() / best for order in orders])
    assert ndcg(np.asarray([9.0, 5.0, 5.0, -np.inf]), truth) == pytest.approx(expected)
    assert rank_quality([9.0, 5.0, 5.0, -np.inf], truth).ndcg == pytest.approx(expected)
    assert np.isnan(rank_quality([1, 2, 3], [1, 1, 1]).ndcg)
