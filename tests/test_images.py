"""Images made by code."""

import numpy as np
import pytest

from eproxy_jax import images


@pytest.mark.parametrize("kind", images.GENERATORS)
def test_embedded_images(kind):
    batch = np.asarray(images.default_images(kind, 4, 16))
    assert batch.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(batch, images.default_images(kind, 4, 16))
    standard = np.asarray(images.standardize(batch))
    assert standard.dtype == np.float32
    np.testing.assert_allclose(standard.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 1, 2)), 1, rtol=1e-5)


def spectral_slope(batch) -> float:
    grey = np.asarray(batch).mean(-1)
    power = (np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    band = (frequency > 0.05) & (frequency < 0.4)
    return np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]


def test_natural_statistics():
    """Natural images have power ~ f^-2; white noise is flat."""
    slopes = {kind: spectral_slope(images.default_images(kind)) for kind in images.GENERATORS}
    assert -3.2 < slopes["dead_leaves"] < -1.6
    assert -2.4 < slopes["one_over_f"] < -1.6
    assert abs(slopes["white_noise"]) < 0.3


def test_unknown_generator():
    with pytest.raises(ValueError, match="did you mean 'dead_leaves'"):
        images.default_images("dead_leafs")
