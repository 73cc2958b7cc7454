"""Labels: what is left out, and in which precision they are ranked."""

import jax
import numpy as np
import pytest
from helpers import SPACES
from scipy import stats

from eproxy_jax.dps import labels
from eproxy_jax.execution.execution import Execution
from eproxy_jax.ranks import rank_quality
from eproxy_jax.spaces.cells.graph import Cell

SPACE = SPACES["nasbench201"]
ARCHS = [arch for arch in SPACE.sample(12, 3) if SPACE.is_connected(arch)]
DEAD = Cell((0, 0, 3, 0, 3, 3))


def made(archs, truth):
    return labels.make_labels(SPACE, archs, truth, Execution.of(jax.devices()[:1]))


def test_disconnected_labels_are_left_out_with_a_warning():
    labelled = {arch: float(n) for n, arch in enumerate([*ARCHS[:4], DEAD])}
    with pytest.warns(UserWarning, match="1 of the 5 labelled .* are disconnected.*the other 4 are used"):
        assert list(labels.connected_labels(SPACE, labelled)) == ARCHS[:4]
    kept = dict.fromkeys(ARCHS[:4], 1.0)
    assert labels.connected_labels(SPACE, kept) == kept  # no warning
    few = {ARCHS[0]: 1.0, ARCHS[1]: 2.0, DEAD: 3.0}
    with pytest.raises(ValueError, match="1 of the 3 .* are disconnected.*needs at least 3 others, got 2"):
        labels.connected_labels(SPACE, few)
    with pytest.raises(ValueError, match="is disconnected: leave it out"):
        made([*ARCHS[:4], DEAD], range(5))


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_truth_is_ranked_in_float64(scale):
    """Values that differ in the tenth digit keep their order, in every place that ranks them."""
    order = np.random.default_rng(0).permutation(len(ARCHS))
    truth = (90 + 1e-9 * order) * scale
    assert len(set(np.float32(truth).tolist())) == 1
    np.testing.assert_array_equal(made(ARCHS, truth).truth, stats.rankdata(order))
    losses = -order.astype(np.float32)[None]
    fitness = labels.fitness_of(jax.numpy.asarray(losses), jax.numpy.asarray(0.0), made(ARCHS, truth), "alpha")
    assert float(fitness) == pytest.approx(1)
    assert rank_quality(order, truth).spearman == 1
    assert rank_quality(order, truth).kendall_tau == 1


def test_sizes_are_ranked_in_float64(monkeypatch):
    """Counts beyond 2 ** 24 are no float32 numbers."""
    order = np.random.default_rng(1).permutation(len(ARCHS))
    monkeypatch.setattr(labels.spaces, "size_measures", lambda space, archs: np.stack([10**10 + order, -order]))
    np.testing.assert_array_equal(made(ARCHS, order).sizes, stats.rankdata([order, -order], axis=-1))
