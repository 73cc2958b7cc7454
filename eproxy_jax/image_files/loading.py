"""This module draws the batch of images that all candidates train on, and its labels, from files."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eproxy_jax import sampling
from eproxy_jax.errors import quoted
from eproxy_jax.image_files import arrays, datasets, labels, pictures
from eproxy_jax.image_files.sources import Source
from eproxy_jax.images import BATCH_SIZE, IMAGE_SIZE, check_images

if TYPE_CHECKING:
    from jaxtyping import Int64, Num

# Arrays that are images by their name, in this order; else the only array that can be images.
_IMAGE_NAMES = ("x", "images", "X", "x_train", "X_train", "train_images", "data")
# Folders that data sets unpack to, so that the folder around one of them will do.
_DATASET_FOLDERS = (
    "cifar-10-batches-bin", "cifar-10-batches-py", "cifar-100-binary", "cifar-100-python", "ImageNet16",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """A batch of images and their classes.

    Attributes:
      images: [B, H, W, 3], not yet standardised.
      labels: [B] int64, from 0 to ``num_classes`` - 1; None if the file has none.
      num_classes: how many classes the data set has; None without labels.
    """

    images: Num[np.ndarray, "B H W 3"]
    labels: Int64[np.ndarray, " B"] | None
    num_classes: int | None


def load_images(
    path: str | Path, num: int = BATCH_SIZE, seed: int = 0, size: int = IMAGE_SIZE
) -> Num[np.ndarray, "{num} H W 3"]:
    """Draw a batch of ``num`` random images from a file or folder.

    These sources are read:

    * ``.npy``: an array of images.
    * ``.npz``: an array named ``x``, ``images``, ``x_train`` or ``train_images``, or the only array of images.
      ``FILE.npz:NAME`` chooses another one.
    * The folder of CIFAR-10 or CIFAR-100 (binary or Python form) or of ImageNet16; also one file of it.
    * A folder of image files, one subfolder a class. Pillow scales their shorter side to ``size`` and cuts out the
      centre. It needs ``pip install 'eproxy_jax[images]'``.

    An array of images is [N, H, W, 3], [N, 3, H, W] or flat, [N, 3 x H x W] in planes as CIFAR's. Grey images
    ([N, H, W], one channel, or flat) are repeated to three channels. Of four channels the last one, transparency, is
    dropped.

    Args:
      path: one of the sources above.
      num: B.
      seed: seed of the draw.
      size: height and width in pixels, of image files only; arrays keep their size.

    Returns:
      [B, H, W, 3] as stored, checked, not yet standardised.

    Raises:
      FileNotFoundError: no such path.
      ValueError: unreadable, too few images, wrong shape, values that are not finite.
    """
    source = _open(path, size)
    return _batch(source, _draw(source, num, seed))


def load_labelled(path: str | Path, num: int = BATCH_SIZE, seed: int = 0, size: int = IMAGE_SIZE) -> LabelledImages:
    """Draw the batch of :func:`load_images` with its labels.

    Labels of an archive stand beside the images: ``y`` for ``x``, ``y_train`` for ``x_train``, ``labels`` for
    ``images``. They are class numbers from 0, or rows with a single one. CIFAR-100's are the 100 fine classes,
    ImageNet's count from 1 in its files.

    Args:
      path: a source of :func:`load_images`.
      num: B.
      seed: seed of the draw; equal seeds draw equal images.
      size: height and width in pixels, of image files only.

    Returns:
      Images, labels and the number of classes.

    Raises:
      FileNotFoundError: no such path.
      ValueError: as :func:`load_images`; or labels that are no class numbers, are out of range, or are more or fewer
        than the images.
    """
    source = _open(path, size)
    rows = _draw(source, num, seed)
    images, found = _batch(source, rows), source.labels()
    if found is None:
        return LabelledImages(images, None, None)
    count = int(found.max()) + 1 if source.num_classes is None else source.num_classes
    return LabelledImages(images, found[rows], count)


def _draw(source: Source, num: int, seed: int) -> np.ndarray:
    """Return the positions of distinct random images, ascending."""
    if source.count < num:
        raise ValueError(f"{source.where}: a batch needs {num} images, the file has {source.count}")
    return np.sort(sampling.generator(seed).choice(source.count, num, replace=False))


def _batch(source: Source, rows: np.ndarray) -> np.ndarray:
    images = _as_rgb(source.images(rows), source.where)
    height, width = images.shape[1:3]
    if height != width or height % 4:
        raise ValueError(
            f"{source.where}: images of {height}x{width} pixels: height and width must be equal and divisible by 4, "
            "such as 32x32: crop or resize them"
        )
    check_images(images, source.where)
    return images


def _open(path: str | Path, size: int) -> Source:
    """Open a source, see :func:`load_images`."""
    name = None
    place = Path(path).expanduser()
    if not place.exists() and ":" in str(path):
        front, _, name = str(path).rpartition(":")
        place = Path(front).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"no images at {quoted(str(path))}")
    suffix = place.suffix.lower()
    if name is not None and suffix != ".npz":
        raise ValueError(f"{place}: only an .npz archive has arrays to choose from, by FILE.npz:NAME")
    if place.is_dir():
        return _open_folder(place, size)
    if (found := datasets.open_dataset_file(place)) is not None and name is None:
        return found
    if suffix == ".npz":
        return _open_npz(place, name)
    if suffix == ".npy":
        array = arrays.open_npy(place)
        _check_images_shape(array.shape, str(place))
        return Source(str(place), len(array), lambda rows: np.asarray(array[rows]), lambda: None)
    hint = ": unpack it first" if suffix in (".zip", ".gz", ".tar", ".tgz") else ""
    raise ValueError(
        f"{place}: images come as .npy, .npz, FILE.npz:NAME, a folder of CIFAR-10, CIFAR-100 or ImageNet16, or a "
        f"folder of image files, not {quoted(place.suffix)}{hint}"
    )


def _open_folder(folder: Path, size: int) -> Source:
    inner = [folder / name for name in _DATASET_FOLDERS if (folder / name).is_dir()]
    found = datasets.open_dataset(folder)
    if found is None and len(inner) == 1:
        found = datasets.open_dataset(inner[0])
    found = found or pictures.open_pictures(folder, size)
    if found is None:
        raise ValueError(
            f"{folder}: no images in it: neither a data_batch_*, train, train.bin or train_data_batch_* file of "
            "CIFAR-10, CIFAR-100 or ImageNet16, nor image files"
        )
    return found


def _open_npz(path: Path, name: str | None) -> Source:
    archive = arrays.Archive(path)
    shapes = {key: header.shape for key, header in archive.headers.items()}
    if name is not None and name.removesuffix(".npy") in shapes:
        name = name.removesuffix(".npy")
    possible = [key for key, shape in shapes.items() if len(shape) == 4] or [
        key for key, shape in shapes.items() if len(shape) == 3 or _flat_side(shape) is not None
    ]
    listed = ", ".join(f"{quoted(key)} {list(shape)}" for key, shape in list(shapes.items())[:8]) or "none"
    if name is None:
        name = next((key for key in _IMAGE_NAMES if key in shapes), possible[0] if len(possible) == 1 else None)
        if name is None:
            raise ValueError(
                f"{path}: expected one array named 'x' or 'images', or a single array of images; choose one with "
                f"{path.name}:NAME; it has {listed}"
            )
    elif name not in shapes:
        raise ValueError(f"{path}: no array {quoted(name)} of numbers; it has {listed}")
    shape = shapes[name]
    _check_images_shape(shape, f"{path}: {quoted(name)}")
    alone = possible == [name]

    @functools.cache
    def read_labels() -> np.ndarray | None:
        found = labels.label_name(name, list(shapes), alone)
        if found is None:
            return None
        return labels.class_numbers(archive.whole(found), f"{path}: {quoted(found)}", shape[0])

    return Source(str(path), shape[0], lambda rows: archive.rows(name, rows), read_labels)


def _flat_side(shape: tuple[int, ...]) -> int | None:
    """Height and width of flat images [N, 3 x side x side] or [N, side x side]; None of anything else."""
    if len(shape) != 2 or shape[1] < 16:
        return None
    pixels = shape[1] // 3 if shape[1] % 3 == 0 and math.isqrt(shape[1] // 3) ** 2 == shape[1] // 3 else shape[1]
    side = math.isqrt(pixels)
    return side if side * side == pixels else None


def _check_images_shape(shape: tuple[int, ...], where: str) -> None:
    if len(shape) in (3, 4) or _flat_side(shape) is not None:
        return
    raise ValueError(f"{where}: expected shape [N, H, W, 3], [N, 3, H, W] or, for grey, [N, H, W], got {list(shape)}")


def _as_rgb(images: np.ndarray, where: str) -> np.ndarray:
    """Return images [n, H, W, 3] of any layout that :func:`load_images` lists."""
    shape = images.shape
    side = _flat_side(shape)
    if side is not None:
        images = images.reshape(len(images), -1, side, side).transpose(0, 2, 3, 1)
    elif images.ndim == 3:
        images = images[..., None]
    elif shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4):
        images = images.transpose(0, 2, 3, 1)
    if images.shape[-1] not in (1, 3, 4):
        raise ValueError(f"{where}: images of shape {list(shape[1:])}: expected 1, 3 or 4 channels, last or first")
    return np.repeat(images, 3, -1) if images.shape[-1] == 1 else images[..., :3]
