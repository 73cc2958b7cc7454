"""This module resizes feature maps with PyTorch's rounding."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.nn.recording import operation


@operation
def resize_nearest(x: Array, size: int) -> Array:
    """Resize both spatial directions to the nearest neighbour with PyTorch's rounding: source = floor(i * in / out).

    Args:
      x: [B, H, W, C].
      size: the height and width wanted.

    Returns:
      [B, size, size, C].
    """
    for axis in (1, 2):
        old = x.shape[axis]
        if old == size:
            continue
        if size % old == 0:  # repeat, whose gradient is a sum rather than a scatter
            x = jnp.repeat(x, size // old, axis=axis)
        elif old % size == 0:
            x = lax.slice_in_dim(x, 0, old, old // size, axis=axis)
        else:
            x = jnp.take(x, jnp.arange(size) * old // size, axis=axis)
    return x


@functools.cache
def _bilinear_weights(old: int, size: int) -> np.ndarray:
    """Return what each of ``size`` pixels takes of each of ``old``, [size, old]: half-pixel centres, edges repeated."""
    source = np.maximum((np.arange(size) + 0.5) * old / size - 0.5, 0)
    low = np.minimum(source.astype(int), old - 1)
    share = np.where(low < old - 1, source - low, 0)
    weights = np.zeros((size, old))
    weights[np.arange(size), low] = 1 - share
    weights[np.arange(size), np.minimum(low + 1, old - 1)] += share
    return weights


@operation
def resize_bilinear(x: Array, height: int, width: int) -> Array:
    """Resize bilinearly as PyTorch's ``interpolate(mode="bilinear", align_corners=False)`` does: no smoothing.

    Args:
      x: [B, H, W, C].
      height: wanted.
      width: wanted.

    Returns:
      [B, height, width, C].
    """
    for axis, size in ((1, height), (2, width)):
        old = x.shape[axis]
        if old == size:
            continue
        # A weighted sum over the few pixels that count, whose gradient is one too: no gather, no scatter.
        shape = [1] * 5
        shape[axis], shape[axis + 1] = size, old
        weights = jnp.asarray(_bilinear_weights(old, size), x.dtype).reshape(shape)
        x = jnp.sum(jnp.expand_dims(x, axis) * weights, axis + 1)
    return x


@operation
def upsample_2x(x: Array) -> Array:
    """Repeat each pixel four times, [B, H, W, C] -> [B, 2 H, 2 W, C]: PyTorch's nearest upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def upsample_2x_gradient(grad: Array) -> Array:
    """Apply the transpose of ``upsample_2x``, [B, 2 H, 2 W, C] -> [B, H, W, C]."""
    b, h, w, c = grad.shape
    return grad.reshape(b, h // 2, 2, w // 2, 2, c).sum((2, 4))
