"""This module reads folders of image files, one folder a class, with Pillow (``pip install 'eproxy_jax[images]'``).

An image of another size is scaled so that its shorter side has the size asked for, by bicubic interpolation that
averages over what it shrinks. Then its centre is cut out.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax import files
from eproxy_jax.image_files.sources import Source

_SUFFIXES = frozenset(
    [".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may call programs that are installed
_MAX_FILES = 5_000_000
_MAX_PIXELS = 2**26  # of one image


def open_pictures(folder: Path, size: int) -> Source | None:
    """Open a folder of image files.

    Args:
      folder: a folder that exists. Its subfolders are the classes, in alphabetical order, and may have subfolders. If
        it has a subfolder ``train``, that one is taken. Images that stand in the folder itself have no labels.
      size: height and width of the result, pixels.

    Returns:
      Its images, uint8 [n, size, size, 3]; None if there is no image file.

    Raises:
      ValueError: images in the folder and in subfolders, or Pillow is not installed.
    """
    if (folder / "train").is_dir():
        folder = folder / "train"
    paths, classes, alone = [], [], []
    number = 0
    with os.scandir(folder) as entries:
        members = sorted(entries, key=lambda entry: entry.name)
    for entry in members:
        if entry.is_dir():
            found = sorted(_images_below(entry.path))
            paths += found
            classes += [number] * len(found)
            number += bool(found)  # a folder without images is no class
        elif _is_picture(entry.name):
            alone.append(entry.path)
        if len(paths) + len(alone) > _MAX_FILES:
            raise ValueError(f"{folder}: more than {_MAX_FILES:,} images: name a smaller folder")
    if not paths and not alone:
        return None
    if paths and alone:
        raise ValueError(
            f"{folder}: images in it and in its subfolders: sort them into one folder a class, or all into one folder"
        )
    image_module = _pillow(folder)

    def images(rows: np.ndarray) -> np.ndarray:
        return np.stack([_read(image_module, Path((paths or alone)[row]), size) for row in rows])

    def labels() -> np.ndarray | None:
        return np.asarray(classes, np.int64) if paths else None

    return Source(str(folder), len(paths or alone), images, labels, number if paths else None)


def _images_below(folder: str) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names if _is_picture(name))  # noqa: PTH118 - millions


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES  # noqa: PTH122 - millions


def _pillow(folder: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            f"{folder}: reading image files needs Pillow: pip install 'eproxy_jax[images]', or save them as .npy"
        ) from error
    return Image


def _read(image_module: Any, path: Path, size: int) -> np.ndarray:
    """Return one image, uint8 [size, size, 3]. Transparency is dropped, grey is repeated."""
    path = files.existing(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, and about sizes, which are checked here
            with image_module.open(path, formats=_FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels: shrink it")
                rgb = _rgb(image_module, image)
    except Exception as error:  # Pillow's readers of damaged files raise errors of any kind
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a readable image ({reason[:200]})") from error
    if rgb.size != (size, size):
        shorter = min(rgb.size)
        left, top = ((side - shorter) / 2 for side in rgb.size)
        box = (left, top, left + shorter, top + shorter)
        rgb = rgb.resize((size, size), image_module.Resampling.BICUBIC, box=box)
    return np.asarray(rgb, np.uint8)


def _rgb(image_module: Any, image: Any) -> Any:
    """Return an image in three channels of eight bits. Pillow would clip sixteen bits instead of scaling them."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return image_module.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")
