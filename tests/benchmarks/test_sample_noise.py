"""What a sample says about a whole space."""

import numpy as np
import sample_noise


def test_margins_are_rank_correlations_of_each_draw():
    truth = np.arange(6.0)
    score, sizes = truth**3, np.asarray([0.0, 1, 2, 3, 5, 4])
    found = sample_noise.margins(score, sizes, truth, [np.arange(6), np.asarray([5, 4]), np.asarray([0, 2, 3])])
    np.testing.assert_allclose(found, [[1, 1 - 6 * 2 / (6 * 35)], [1, -1], [1, 1]])
