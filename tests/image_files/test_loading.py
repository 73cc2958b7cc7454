"""Every source of images and labels, through files that the tests write."""

import pickle
import sys

import numpy as np
import pytest
from helpers import real_input

import eproxy_jax as ep
from eproxy_jax.cli.main import main
from eproxy_jax.image_files import labels

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 3 * 32 * 32), dtype=np.uint8)
AS_NHWC = PIXELS.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
CLASSES = np.arange(40) % 7
DRAWN = np.sort(np.random.default_rng(1).choice(40, 8, replace=False))


def write_npy(folder):
    np.save(folder / "x.npy", AS_NHWC)
    return folder / "x.npy"


def write_npz(folder):
    np.savez(folder / "x.npz", x=AS_NHWC, y=CLASSES)
    return folder / "x.npz"


def write_cifar10_binary(folder):
    for number, rows in enumerate((slice(25), slice(25, 40)), start=1):
        content = np.concatenate([CLASSES[rows, None].astype(np.uint8), PIXELS[rows]], axis=1)
        (folder / f"data_batch_{number}.bin").write_bytes(content.tobytes())
    (folder / "test_batch.bin").write_bytes(bytes(3073))
    return folder


def write_cifar10_python(folder):
    (folder / "data_batch_10").write_bytes(batch(PIXELS[25:], labels=CLASSES[25:].tolist()))
    (folder / "data_batch_9").write_bytes(batch(PIXELS[:25], labels=CLASSES[:25].tolist()))
    (folder / "test_batch").write_bytes(b"damaged, and not looked at")
    (folder / "batches.meta").write_bytes(b"damaged, and not looked at")
    return folder


def write_cifar100_binary(folder):
    coarse, fine = np.full((40, 1), 19, np.uint8), CLASSES[:, None].astype(np.uint8)
    (folder / "train.bin").write_bytes(np.concatenate([coarse, fine, PIXELS], axis=1).tobytes())
    return folder


def write_cifar100_python(folder):
    (folder / "cifar-100-python").mkdir()
    content = batch(PIXELS, coarse_labels=[19] * 40, fine_labels=CLASSES.tolist())
    (folder / "cifar-100-python" / "train").write_bytes(content)
    return folder  # the folder around it


def write_imagenet(folder):
    for number in (1, 2):
        rows = slice(20 * number - 20, 20 * number)
        content = batch(PIXELS[rows], labels=(CLASSES[rows] + 1).tolist(), mean=PIXELS.mean(0))
        (folder / f"train_data_batch_{number}").write_bytes(content)
    (folder / "val_data").write_bytes(b"damaged, and not looked at")
    return folder


def write_imagenet_archives(folder):
    np.savez_compressed(folder / "val_data.npz", data=PIXELS, labels=CLASSES + 1, mean=PIXELS.mean(0))
    return folder


def batch(data, protocol=2, **fields):
    return pickle.dumps({b"data": data, **{name.encode(): value for name, value in fields.items()}}, protocol=protocol)


SOURCES = {
    "npy": (write_npy, None),
    "npz": (write_npz, 7),
    "CIFAR-10 binary": (write_cifar10_binary, 10),
    "CIFAR-10 python": (write_cifar10_python, 10),
    "CIFAR-100 binary": (write_cifar100_binary, 100),
    "CIFAR-100 python": (write_cifar100_python, 100),
    "ImageNet": (write_imagenet, 120),
    "ImageNet archives": (write_imagenet_archives, 120),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_images_and_labels(tmp_path, name):
    write, num_classes = SOURCES[name]
    path = write(tmp_path)
    np.testing.assert_array_equal(ep.load_images(path, num=8, seed=1), AS_NHWC[DRAWN])
    found = ep.load_labelled(str(path), num=8, seed=1)
    np.testing.assert_array_equal(found.images, AS_NHWC[DRAWN])
    assert found.num_classes == num_classes
    if num_classes is None:
        assert found.labels is None
    else:
        np.testing.assert_array_equal(found.labels, CLASSES[DRAWN])


def test_one_file_of_a_data_set(tmp_path):
    write_cifar10_python(tmp_path)
    np.testing.assert_array_equal(ep.load_images(tmp_path / "data_batch_9", num=25), AS_NHWC[:25])
    write_cifar10_binary(tmp_path)
    np.testing.assert_array_equal(ep.load_images(tmp_path / "data_batch_2.bin", num=15), AS_NHWC[25:])


@pytest.mark.parametrize("name", ["16_ImageNet16", "16_cifar-100-python"])
def test_real_folders(name):
    found = ep.load_labelled(real_input(name))
    assert found.images.shape == ((16, 16, 16, 3) if "16_I" in name else (16, 32, 32, 3))
    assert (found.labels == 0).all()
    assert found.num_classes == (120 if "16_I" in name else 100)


def test_real_images(data):
    for name in ("cifar10_train256_jpeg", "cifar10_test_first20_lossless"):
        assert ep.load_images(data / "images" / f"{name}.npz").shape == (16, 32, 32, 3)


GREY = AS_NHWC[..., 0]
LAYOUTS = {
    "grey": (GREY, GREY[..., None].repeat(3, -1)),
    "grey with a channel": (GREY[..., None], GREY[..., None].repeat(3, -1)),
    "grey, channel first": (GREY[:, None], GREY[..., None].repeat(3, -1)),
    "grey and flat": (GREY.reshape(40, -1), GREY[..., None].repeat(3, -1)),
    "channels first": (AS_NHWC.transpose(0, 3, 1, 2), AS_NHWC),
    "planes": (PIXELS, AS_NHWC),
    "transparency": (np.concatenate([AS_NHWC, GREY[..., None]], -1), AS_NHWC),
    "floats": (AS_NHWC / np.float32(255), AS_NHWC / np.float32(255)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_every_layout(tmp_path, name, suffix):
    given, expected = LAYOUTS[name]
    path = tmp_path / f"x.{suffix}"
    np.save(path, given) if suffix == "npy" else np.savez(path, some_name=given)
    np.testing.assert_array_equal(ep.load_images(path, num=8, seed=1), expected[DRAWN])


def test_arrays_of_an_archive_by_name(tmp_path):
    path = tmp_path / "mnist:v1.npz"
    np.savez(path, x_test=GREY[:20], y_test=CLASSES[:20], x_train=GREY, y_train=CLASSES)
    found = ep.load_labelled(path, num=8, seed=1)
    np.testing.assert_array_equal(found.images[..., 0], GREY[DRAWN])
    np.testing.assert_array_equal(found.labels, CLASSES[DRAWN])
    test = ep.load_labelled(f"{path}:x_test", num=20)
    np.testing.assert_array_equal(test.images[..., 2], GREY[:20])
    np.testing.assert_array_equal(test.labels, CLASSES[:20])
    np.testing.assert_array_equal(ep.load_images(f"{path}:x_test.npy", num=20), test.images)
    with pytest.raises(ValueError, match=r"no array 'x_val' of numbers; it has 'x_test' \[20, 32, 32\], 'y_test'"):
        ep.load_images(f"{path}:x_val")
    with pytest.raises(ValueError, match=r"'y_train': expected shape \[N, H, W, 3\]"):
        ep.load_images(f"{path}:y_train")
    np.savez(tmp_path / "two.npz", a=AS_NHWC, b=AS_NHWC)
    with pytest.raises(ValueError, match=r"choose one with two.npz:NAME; it has 'a' \[40, 32, 32, 3\], 'b'"):
        ep.load_images(tmp_path / "two.npz")
    np.save(tmp_path / "x.npy", AS_NHWC)
    with pytest.raises(ValueError, match="only an .npz archive has arrays to choose from"):
        ep.load_images(f"{tmp_path / 'x.npy'}:x")


LABELS = {
    "column": CLASSES[:, None],
    "floats": CLASSES.astype(np.float32),
    "one-hot": np.eye(7)[CLASSES],
    "bytes": CLASSES.astype(np.uint8),
}


@pytest.mark.parametrize("name", LABELS)
def test_every_form_of_labels(name):
    np.testing.assert_array_equal(labels.class_numbers(LABELS[name], "x", 40), CLASSES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (CLASSES[:39], "40 images, but 39 labels"),
        (np.int64(3), "40 images, but a single number"),
        (CLASSES - 1, "label -1 is out of range: expected 0 to 99999"),
        (CLASSES + 10**8, "label 100000000 is out of range"),
        (CLASSES + 0.5, "labels that are no integers"),
        (CLASSES * np.nan, "label nan is out of range"),
        (np.full(40, np.inf), "label inf is out of range"),
        (np.array(["cat"] * 40), "labels of dtype <U3"),
        (np.ones((40, 7)), "a single one in each row"),
        (np.zeros((40, 2, 2)), r"labels of shape \[40, 2, 2\]"),
        ([[1], [1, 2]], "no class numbers"),
    ],
)
def test_bad_labels(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        labels.class_numbers(given, "x", 40)
    if isinstance(given, np.ndarray):
        np.savez(tmp_path / "x.npz", x=AS_NHWC, y=given)
        assert len(ep.load_images(tmp_path / "x.npz")) == 16  # images without labels are images
        if given.dtype.kind != "U":
            with pytest.raises(ValueError, match=message):
                ep.load_labelled(tmp_path / "x.npz")


def test_labels_out_of_a_data_sets_range(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(batch(PIXELS, labels=[10] * 40))
    with pytest.raises(ValueError, match="data_batch_1: label 10 is out of range: expected 0 to 9"):
        ep.load_labelled(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "val_data").write_bytes(batch(PIXELS, labels=[0] * 40))
    with pytest.raises(ValueError, match="val_data: label 0 is out of range: expected 1 to 1000"):
        ep.load_labelled(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"not numpy", "not a readable NumPy file"),
        ("x.npz", b"PK not zip", "not a readable .npz file"),
        ("x.png", b"", "images come as .npy, .npz, FILE.npz:NAME, a folder of CIFAR-10"),
        ("x.tar.gz", b"", "not '.gz': unpack it first"),
        ("data_batch_1.bin", b"12345", "not whole CIFAR-10 records"),
        ("train.bin", b"", "not whole CIFAR-100 records of 3074"),
        ("data_batch_1", b"\x80\x02}q", "not a CIFAR-10 batch: it ends early"),
        ("train", pickle.dumps({"data": [1, 2]}), "not a CIFAR-100 batch: no array 'data' of bytes"),
        ("train", pickle.dumps({"data": PIXELS * 1.0}), "not a CIFAR-100 batch: no array 'data' of bytes"),
        ("val_data", batch(PIXELS, labels=[[1], [1, 2]]), "labels that are no class numbers"),
        ("other", b"", "no images in it: neither a data_batch_"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name if name.startswith("x.") else tmp_path
    with pytest.raises(ValueError, match=message):
        ep.load_images(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (AS_NHWC[:3], "a batch needs 16 images, the file has 3"),
        (AS_NHWC[:0], "a batch needs 16 images, the file has 0"),
        (np.full((16, 8, 8, 3), np.nan), "values that are not finite"),
        (np.zeros((16, 8, 8, 3)), "constant over the batch"),
        (np.zeros((16, 5)), r"expected shape \[N, H, W, 3\], \[N, 3, H, W\] or, for grey, \[N, H, W\], got \[16, 5\]"),
        (np.zeros((16, 8, 8, 2)), r"images of shape \[8, 8, 2\]: expected 1, 3 or 4 channels"),
        (np.zeros((16, 8, 12, 3)), "images of 8x12 pixels: height and width must be equal and divisible by 4"),
        (np.zeros((16, 30, 30, 3)), "images of 30x30 pixels"),
        (np.zeros((16, 8, 8, 3), bool), "expected real numbers, got dtype bool"),
    ],
)
def test_arrays_that_are_no_batch(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=message):
        ep.load_images(tmp_path / "x.npy")


def test_missing_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images at"):
        ep.load_images(tmp_path / "nowhere.npy")
    with pytest.raises(FileNotFoundError, match="no images at"):
        ep.load_images(f"{tmp_path}/nowhere.npz:x")


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", a=AS_NHWC, b=AS_NHWC)
    for source, message in (
        ("one_over_g", "neither a path nor one of dead_leaves, one_over_f, white_noise (did you mean 'one_over_f'?)"),
        (f"{tmp_path}/x.npz:c", "no array 'c'"),
        ("/dev/zero", "not a regular file"),
    ):
        assert main(["plan", "--space", "nasbench201", "--sample", "1", "--images", source]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1


# --- image files ---------------------------------------------------------------------------------------------


def test_folders_of_image_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, rows in (("b", range(20, 40)), ("a", range(20))):
        (tmp_path / "train" / name / "deep").mkdir(parents=True)
        for row in rows:
            place = "deep" if row % 2 else "."
            image.fromarray(AS_NHWC[row]).save(tmp_path / "train" / name / place / f"{row:02}.PNG")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    found = ep.load_labelled(tmp_path, num=40)
    assert found.num_classes == 2
    assert found.labels.tolist() == [0] * 20 + [1] * 20
    assert sorted(x.tobytes() for x in found.images) == sorted(x.tobytes() for x in AS_NHWC)
    small = ep.load_images(tmp_path / "train" / "a" / "deep", num=10, size=8)
    assert small.shape == (10, 8, 8, 3)
    assert ep.load_labelled(tmp_path / "train" / "a" / "deep", num=10).labels is None
    image.fromarray(AS_NHWC[0]).save(tmp_path / "train" / "alone.png")
    with pytest.raises(ValueError, match="images in it and in its subfolders"):
        ep.load_images(tmp_path)
    (tmp_path / "train" / "alone.png").unlink()
    (tmp_path / "train" / "a" / "00.PNG").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"a/./00.PNG: not a readable image|a/00.PNG: not a readable image"):
        ep.load_images(tmp_path, num=40)


def test_modes_and_sizes_of_image_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    colour = np.stack([ramp, ramp.T, 255 - ramp], -1)
    grey16 = (ramp.astype(np.uint16) << 8) + 255
    files = {
        "grey.png": (image.fromarray(ramp), ramp[..., None].repeat(3, -1)),
        "deep.png": (image.fromarray(grey16), ramp[..., None].repeat(3, -1)),
        "alpha.png": (image.fromarray(np.concatenate([colour, ramp[..., None]], -1)), colour),
        "wide.png": (image.fromarray(np.pad(colour, ((0, 0), (4, 4), (0, 0)))), colour),
        "tall.bmp": (image.fromarray(np.pad(colour, ((6, 6), (0, 0), (0, 0)))), colour),
        "large.png": (image.fromarray(np.kron(np.full((8, 8), 7, np.uint8), np.ones((4, 4), np.uint8))), None),
    }
    for name, (picture, _) in files.items():
        picture.save(tmp_path / name)
    found = dict(zip(sorted(files), ep.load_images(tmp_path, num=len(files), size=8), strict=True))
    for name, (_, expected) in files.items():
        np.testing.assert_array_equal(found[name], np.full((8, 8, 3), 7) if expected is None else expected)


def test_image_files_without_pillow_and_beyond_limits(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    for number in range(2):
        image.new("1", (9000, 9000)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match="9000 x 9000 pixels: shrink it"):
        ep.load_images(tmp_path, num=2)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"needs Pillow: pip install 'eproxy_jax\[images\]'"):
        ep.load_images(tmp_path, num=2)
