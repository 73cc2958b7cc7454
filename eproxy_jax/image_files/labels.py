"""This module turns the labels of a file, in whatever form it has them, into integers from 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_CLASSES = 100_000  # ImageNet-21k has 21,843
_IMAGES_TO_LABELS = (("images", "labels"), ("image", "label"), ("data", "labels"), ("x", "y"), ("X", "Y"), ("X", "y"))
_PLAIN_NAMES = ("y", "Y", "labels", "label", "targets", "target", "fine_labels")


def label_name(images: str, names: Sequence[str], alone: bool) -> str | None:
    """Return the name of the labels that belong to an array of images.

    Args:
      images: name of the images, such as ``x_train``.
      names: all names of the archive.
      alone: whether these are the archive's only images. Then ``y`` and ``labels`` are theirs as well.

    Example:
      >>> label_name("x_train", ["x_train", "y_train", "x_test", "y_test"], alone=False)
      'y_train'
    """
    related = [images.replace(old, new, 1) for old, new in _IMAGES_TO_LABELS if old in images]
    return next((name for name in [*related, *(_PLAIN_NAMES if alone else ())] if name in names), None)


def class_numbers(labels: Any, where: str, count: int, first: int = 0, num_classes: int | None = None) -> np.ndarray:
    """Check labels and return them as integers from 0.

    Args:
      labels: [N] or [N, 1] integers, or [N, C] with a single one in each row.
      where: where the labels stand, for messages.
      count: N, the number of images.
      first: the number of the first class in the file.
      num_classes: how many classes there are; any number if absent.

    Returns:
      [N] int64.

    Raises:
      ValueError: another number of labels than of images, or labels that are no class numbers or out of range.
    """
    try:
        array = np.asarray(labels)
    except (ValueError, OverflowError):  # lists of unequal lengths, integers beyond 64 bits
        raise ValueError(f"{where}: labels that are no class numbers") from None
    if array.shape[:1] != (count,):
        given = f"{len(array)} labels" if array.ndim else "a single number as labels"
        raise ValueError(f"{where}: {count} images, but {given}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: labels of dtype {array.dtype}: expected class numbers")
    if array.ndim == 2 and array.shape[1] > 1 and array.shape[1] <= MAX_CLASSES:
        if not (((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all()):
            raise ValueError(f"{where}: labels of shape {list(array.shape)}: expected [N], or a single one in each row")
        return array.argmax(1).astype(np.int64)
    if array.size != count:
        raise ValueError(f"{where}: labels of shape {list(array.shape)}: expected [N]")
    array = array.reshape(count)
    last = first + (MAX_CLASSES if num_classes is None else num_classes) - 1
    bad = array[~((array >= first) & (array <= last))]  # not a number is neither
    if bad.size:
        raise ValueError(f"{where}: label {bad[0]} is out of range: expected {first} to {last}")
    if (array != np.floor(array)).any():
        raise ValueError(f"{where}: labels that are no integers: expected class numbers")
    return array.astype(np.int64) - first
