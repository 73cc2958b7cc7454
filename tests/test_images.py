"""Images made by code and read from files, safely."""

import pickle

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


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3 * 32 * 32), dtype=np.uint8)
AS_NHWC = PIXELS.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def write(folder, kind):
    if kind == "npy":
        np.save(folder / "x.npy", AS_NHWC)
        return folder / "x.npy"
    if kind == "npz":
        np.savez(folder / "x.npz", x=AS_NHWC, y=np.zeros(40))
        return folder / "x.npz"
    for number, part in enumerate((PIXELS[:25], PIXELS[25:]), start=1):
        if kind == "binary":
            labelled = np.concatenate([np.zeros((len(part), 1), np.uint8), part], axis=1)
            (folder / f"data_batch_{number}.bin").write_bytes(labelled.tobytes())
        else:
            batch = {b"data": part, b"labels": [0] * len(part), b"filenames": [b"a.png"]}
            (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch, protocol=2))
    return folder


@pytest.mark.parametrize("kind", ["npy", "npz", "binary", "pickle"])
def test_every_format_gives_the_same_images(tmp_path, kind):
    batch = images.load_images(write(tmp_path, kind), num=8, seed=1)
    rows = np.sort(np.random.default_rng(1).choice(40, 8, replace=False))
    np.testing.assert_array_equal(batch, AS_NHWC[rows])


def test_original_cifar_pickles_name_numpys_old_home(tmp_path):
    """As Python 2 wrote them."""
    raw = pickle.dumps({b"data": PIXELS}, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in raw
    (tmp_path / "data_batch_1").write_bytes(raw)
    np.testing.assert_array_equal(images.load_images(tmp_path, num=40), AS_NHWC)


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("pwned",)


def test_pickles_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(ValueError, match=r"asks for posix.mkdir, which is not array data"):
        images.load_images(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"not numpy", "not a readable NumPy file"),
        ("x.npy", b"", "not a readable NumPy file"),
        ("x.npz", b"PK not zip", "not a readable .npz file"),
        ("x.png", b"", "images come as .npy, .npz or a CIFAR-10 folder"),
        ("data_batch_1.bin", b"12345", "not whole CIFAR-10 records"),
        ("data_batch_1", b"\x80\x02}q", "not a CIFAR-10 batch"),
        ("other", b"", "no data_batch"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name if "." in name and not name.endswith(".bin") else tmp_path
    with pytest.raises(ValueError, match=message):
        images.load_images(path)


def test_missing_and_small_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images at"):
        images.load_images(tmp_path / "nowhere.npy")
    np.save(tmp_path / "x.npy", AS_NHWC[:3])
    with pytest.raises(ValueError, match="a batch needs 16 images, the file has 3"):
        images.load_images(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.full((16, 8, 8, 3), np.nan))
    with pytest.raises(ValueError, match=r"y.npy: values that are not finite"):
        images.load_images(tmp_path / "y.npy")
    np.savez(tmp_path / "z.npz", a=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="named 'x' or 'images'"):
        images.load_images(tmp_path / "z.npz")


def test_real_images(data):
    for name in ("cifar10_train256_jpeg", "cifar10_test_first20_lossless"):
        assert images.load_images(data / "images" / f"{name}.npz").shape == (16, 32, 32, 3)


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
