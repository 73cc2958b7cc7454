"""This module reads the folders of the field's data sets: CIFAR-10, CIFAR-100, ImageNet16 and its larger sizes.

A data set's files are known by their names. Training images are taken where there are any, else the test images.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eproxy_jax import files
from eproxy_jax.image_files import arrays, labels, pickles
from eproxy_jax.image_files.sources import Source, joined

_CIFAR_PIXELS = 3 * 32 * 32
_MAX_PICKLE = 640 * 2**20  # bytes; the largest file of ImageNet32 has 392 MB
_IMAGENET_CLASSES = 1000
_FEW_IMAGENET_CLASSES = 120  # ImageNet16-120, of NAS-Bench-201: the first ones


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a data set names its files and its labels.

    Attributes:
      name: the data set.
      train: pattern of the names of training files.
      test: pattern of the names of test files.
      read: (path, layout) -> source of one file.
      num_classes: its classes; None if the labels say.
      first: number of the first class in the files.
      label_bytes: bytes before each image of a binary file; the last one is the label.
      keys: names of the labels in a pickle, the first that is there.
    """

    name: str
    train: str
    test: str
    read: Callable[[Path, _Layout], Source]
    num_classes: int | None
    first: int = 0
    label_bytes: int = 1
    keys: tuple[str, ...] = ("labels",)


def open_dataset(folder: Path) -> Source | None:
    """Open the folder of a data set.

    Args:
      folder: a folder that exists.

    Returns:
      Its images; None if no file of it has the name of a data set's file.

    Raises:
      ValueError: a file is damaged.
    """
    names = sorted((path.name for path in folder.iterdir()), key=_natural)
    for pattern in ("train", "test"):
        for layout in _LAYOUTS:
            members = [name for name in names if re.fullmatch(getattr(layout, pattern), name)]
            members = [name for name in members if (folder / name).is_file()]
            if members:
                parts = [layout.read(folder / name, layout) for name in members]
                return _with_classes(joined(str(folder), parts, layout.num_classes))
    return None


def open_dataset_file(path: Path) -> Source | None:
    """Open one file of a data set; None if its name is not that of one."""
    for layout in _LAYOUTS:
        if re.fullmatch(layout.train, path.name) or re.fullmatch(layout.test, path.name):
            return _with_classes(joined(str(path), [layout.read(path, layout)], layout.num_classes))
    return None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which batch 2 stands before batch 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d{1,9})", name) if part]


def _with_classes(source: Source) -> Source:
    """ImageNet's number of classes: 120 where no label is larger, so that ImageNet16-120 is known as such."""
    if source.num_classes != _IMAGENET_CLASSES:
        return source
    found = source.labels()
    few = found is not None and found.size > 0 and int(found.max()) < _FEW_IMAGENET_CLASSES
    return dataclasses.replace(source, num_classes=_FEW_IMAGENET_CLASSES if few else _IMAGENET_CLASSES)


def _binary(path: Path, layout: _Layout) -> Source:
    size, record = files.existing(path).stat().st_size, layout.label_bytes + _CIFAR_PIXELS
    if size == 0 or size % record:
        raise ValueError(f"{path}: {size} bytes are not whole {layout.name} records of {record}")
    records = np.memmap(path, np.uint8, "r").reshape(-1, record)

    def read_labels() -> np.ndarray:
        found = records[:, layout.label_bytes - 1]
        return labels.class_numbers(found, str(path), len(records), layout.first, layout.num_classes)

    return Source(str(path), len(records), lambda rows: records[rows, layout.label_bytes :], read_labels)


def _pickled(path: Path, layout: _Layout) -> Source:
    data, found = _read_pickle(path, layout)
    count = len(data)
    del data  # all files together may be larger than the memory: a file is read again for its rows

    def read_labels() -> np.ndarray | None:
        if found is None:
            return None
        return labels.class_numbers(found, str(path), count, layout.first, layout.num_classes)

    return Source(str(path), count, lambda rows: _read_pickle(path, layout)[0][rows], read_labels)


def _read_pickle(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray | None]:
    """Return images [N, 3 x size x size] or [N, H, W, 3] and labels [N]."""
    content = files.read_bytes(path, f"{layout.name} batch", _MAX_PICKLE)
    try:
        batch = pickles.read_pickle(content)
    except pickles.PickleError as error:
        raise ValueError(f"{path}: not a {layout.name} batch: {error}") from error
    data = batch.get("data")
    if not isinstance(data, np.ndarray) or data.ndim not in (2, 4) or data.dtype != np.uint8:
        raise ValueError(f"{path}: not a {layout.name} batch: no array 'data' of bytes, [N, 3 x size x size]")
    found = next((batch[key] for key in layout.keys if key in batch), None)
    if found is None:
        return data, None
    try:
        return data, np.asarray(found)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: labels that are no class numbers") from error


def _archived(path: Path, layout: _Layout) -> Source:
    archive = arrays.Archive(path)
    header = archive.headers.get("data")
    if header is None or len(header.shape) not in (2, 4):
        raise ValueError(f"{path}: not a {layout.name} batch: no array 'data', [N, 3 x size x size]")

    @functools.cache
    def read_labels() -> np.ndarray | None:
        if "labels" not in archive.headers:
            return None
        found = archive.whole("labels")
        return labels.class_numbers(found, str(path), header.shape[0], layout.first, layout.num_classes)

    return Source(str(path), header.shape[0], lambda rows: archive.rows("data", rows), read_labels)


_FINE = ("fine_labels", "labels")
# Binary forms first, as they are read faster. ``train`` and ``test`` may be folders, too: those are no files of CIFAR.
_LAYOUTS = (
    _Layout("CIFAR-10", r"data_batch_\d+\.bin", r"test_batch\.bin", _binary, 10),
    _Layout("CIFAR-10", r"data_batch_\d+", r"test_batch", _pickled, 10),
    _Layout("CIFAR-100", r"train\.bin", r"test\.bin", _binary, 100, label_bytes=2),
    _Layout("CIFAR-100", r"train", r"test", _pickled, 100, keys=_FINE),
    _Layout("ImageNet16", r"train_data_batch_\d+", r"val_data", _pickled, _IMAGENET_CLASSES, first=1),
    _Layout("ImageNet16", r"train_data_batch_\d+\.npz", r"val_data\.npz", _archived, _IMAGENET_CLASSES, first=1),
)
