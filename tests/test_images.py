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


# --- images that cannot be standardised ---

_NOISE = np.random.default_rng(1).normal(size=(3, 4, 4, 3))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.full((3, 4, 4, 3), 0.1), "constant over the batch"),
        (np.where(np.arange(3) == 1, 7, _NOISE), "constant over the batch"),
        (_NOISE * 1e300, "overflows"),
        (_NOISE * 1e-300, "vanishes"),
        (_NOISE * 1e-170, "vanishes"),
        (_NOISE + 1e14, "lost in rounding"),
        ((_NOISE > 0).astype(np.int64) + 2**62, "constant over the batch"),  # equal in float64
        (np.where(_NOISE > 1, np.inf, _NOISE).astype(np.float16), "not finite"),
        (_NOISE + 1j, "expected real numbers, got dtype complex128"),
        (_NOISE > 0, "expected real numbers, got dtype bool"),
        (_NOISE.astype(str), "expected real numbers"),
        (np.full((3, 4, 4, 3), 2.0**60).astype(np.longdouble) * np.longdouble(2.0) ** 2000, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_batches_without_a_standard_deviation_are_refused(batch, message):
    for check in (images.check_images, images.standardize):
        with pytest.raises(ValueError, match=message):
            check(batch)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16, np.int64])
def test_what_is_accepted_is_standardised(dtype):
    """Whatever scale and offset: mean 0 and variance 1 in every channel, or an error."""
    rng, accepted = np.random.default_rng(2), 0
    for _ in range(300):
        scale, offset = 10.0 ** rng.uniform(-320, 308), rng.choice([0.0, 1.0, 10.0 ** rng.uniform(-20, 20)])
        if np.issubdtype(dtype, np.integer):
            scale, offset = 10.0 ** rng.uniform(0, 18), 0.0
        with np.errstate(all="ignore"):
            batch = (rng.choice([1.0, 1e-9, 0.0]) * _NOISE * scale + offset * scale).clip(-9e18, 9e18)
            batch = batch.astype(dtype)
        try:
            standard = np.asarray(images.standardize(batch), np.float64)
        except ValueError:
            continue
        accepted += 1
        np.testing.assert_allclose(standard.mean((0, 1, 2)), 0, atol=2e-3)
        np.testing.assert_allclose(standard.std((0, 1, 2)), 1, rtol=2e-3)
    assert accepted > 0
