"""What proxies look at: one set of images, class labels and noise, which all candidates of a run share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eproxy_jax.errors import quoted
from eproxy_jax.images import default_images, standardize
from eproxy_jax.nn import initializers

if TYPE_CHECKING:
    from jaxtyping import Float, Int32, Key, Num

NUM_IMAGES = 128  # two batches of 64, the field's size
DEFAULT_CLASSES = 10
_TAG_NOISE, _TAG_LABELS = 100, 101  # streams beside those of ``proxy``


class Inputs(NamedTuple):
    """The data of a run, a pytree.

    Attributes:
      images: [N, H, W, 3], standardised.
      labels: [N] int32, classes 0 to K - 1; random ones where the images have none.
      noise: [N, H, W, 3], independent N(0, 1).
    """

    images: Float[Array, "N H W 3"]
    labels: Int32[Array, " N"]
    noise: Float[Array, "N H W 3"]


def make_inputs(
    key: Key[Array, ""],
    images: Num[Array | np.ndarray, "N H W 3"] | None = None,
    labels: Num[Array | np.ndarray, " N"] | None = None,
    num_classes: int = DEFAULT_CLASSES,
) -> Inputs:
    """Make the data of a run.

    Args:
      key: typed key of the run. Noise and random labels have streams of their own.
      images: H = W divisible by 4, not yet standardised; by default, images made by code.
      labels: 0 to ``num_classes`` - 1; by default, random ones.
      num_classes: K.

    Raises:
      ValueError: bad images, labels of another length or outside the range, fewer than 2 classes.
    """
    images = standardize(default_images(num=NUM_IMAGES) if images is None else images)
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    if labels is None:
        drawn = jax.random.randint(jax.random.fold_in(key, _TAG_LABELS), (len(images),), 0, num_classes)
    else:
        drawn = jnp.asarray(check_labels(labels, len(images), num_classes))
    noise = initializers.draw(jax.random.normal, jax.random.fold_in(key, _TAG_NOISE), images.shape, images.dtype)
    return Inputs(images, drawn.astype(jnp.int32), noise)


def check_labels(labels: Any, num_images: int, num_classes: int) -> np.ndarray:
    """Check class labels; returns them as integers [N].

    Raises:
      ValueError: they are no whole numbers from 0 to ``num_classes`` - 1, one for each image.
    """
    array = np.asarray(labels)
    if array.shape != (num_images,):
        raise ValueError(f"labels: expected one for each of the {num_images} images, got shape {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.number) or not np.array_equal(array, np.round(array)):
        raise ValueError(f"labels: expected whole numbers, got {quoted(array.ravel()[:5].tolist())}")
    if array.min() < 0 or array.max() >= num_classes:
        bad = array[(array < 0) | (array >= num_classes)][0]
        raise ValueError(f"labels: expected 0 to {num_classes - 1} for {num_classes} classes, got {bad}")
    return array.astype(np.int32)
