"""This module defines what a file or folder of images looks like to the code that draws a batch from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Source:
    """Images that can be drawn from.

    Attributes:
      where: the path, for messages.
      count: N, how many there are.
      images: ascending positions [n] -> images [n, ...] as stored.
      labels: () -> labels of all images [N], integers from 0; or None, where there are none.
      num_classes: how many classes the data set has; one more than the largest label if absent.
    """

    where: str
    count: int
    images: Callable[[np.ndarray], np.ndarray]
    labels: Callable[[], np.ndarray | None]
    num_classes: int | None = None


def joined(where: str, parts: Sequence[Source], num_classes: int | None) -> Source:
    """Return several sources of one kind as one, in their order."""
    starts = np.cumsum([0, *(part.count for part in parts)])

    def images(rows: np.ndarray) -> np.ndarray:
        drawn = [
            part.images(rows[(rows >= start) & (rows < start + part.count)] - start)
            for part, start in zip(parts, starts, strict=False)
            if ((rows >= start) & (rows < start + part.count)).any()
        ]
        shapes = {array.shape[1:] for array in drawn}
        if len(shapes) > 1:
            raise ValueError(f"{where}: its files have images of several sizes: {sorted(shapes)}")
        return np.concatenate(drawn)

    def labels() -> np.ndarray | None:
        found = [part.labels() for part in parts]
        known = [part for part in found if part is not None]
        return np.concatenate(known) if len(known) == len(found) else None

    return Source(where, int(starts[-1]), images, labels, num_classes)
