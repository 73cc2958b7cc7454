"""This module computes batch norm on batch statistics: per-channel arithmetic and its gradients."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn.marks import mark, replaceable

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which the protocol inherits.


def per_channel(vector: Array) -> Array:
    """Reshape [C] to [1, 1, 1, C], to meet an NHWC array without implicit rank promotion."""
    return vector[None, None, None, :]


def affine(x: Array, scale: Array, bias: Array) -> Array:
    """Scale and shift each channel: [B, H, W, C], [C], [C] -> [B, H, W, C]."""
    return x * per_channel(scale) + per_channel(bias)


def standardize(x: Array, epsilon: float = BATCH_NORM_EPSILON) -> tuple[Array, Array]:
    """Standardise each channel over the batch; return (normalised [B, H, W, C], reciprocal deviation [C])."""
    centred = x - jnp.mean(x, (0, 1, 2), keepdims=True)
    rstd = lax.rsqrt(jnp.mean(centred * centred, (0, 1, 2)) + epsilon)
    _, normalized, rstd = replaceable("norm", x, centred * per_channel(rstd), rstd)
    return normalized, rstd


def normalize_gradient(grad: Array, normalized: Array, rstd: Array, first: Array | None = None) -> Array:
    """Return the gradient through :func:`standardize`, [B, H, W, C], from its output's gradient and its two outputs.

    Args:
      grad: [B, H, W, C].
      normalized: [B, H, W, C].
      rstd: [C].
      first: a boolean scalar, whether channel 0 is the first one of the norm; left out where the norm is whole.
    """
    mean_grad = jnp.mean(grad, (0, 1, 2), keepdims=True)
    mean_projection = jnp.mean(grad * normalized, (0, 1, 2), keepdims=True)
    through = per_channel(rstd) * (grad - mean_grad - normalized * mean_projection)
    return mark("norm_gradient", grad, through, normalized, *(() if first is None else (first,)))[1]


def affine_normalize_gradient(grad: Array, normalized: Array, rstd: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Return gradients through :func:`standardize` and then :func:`affine`: of the input, the scale and the bias."""
    vectors = jnp.sum(grad * normalized, (0, 1, 2)), jnp.sum(grad, (0, 1, 2))
    return normalize_gradient(grad * per_channel(scale), normalized, rstd), *vectors


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize(x: Array, epsilon: float = BATCH_NORM_EPSILON) -> Array:
    """Apply batch norm with batch statistics and without affine parameters.

    Args:
      x: [B, H, W, C].
      epsilon: what is added to the variance.

    Returns:
      [B, H, W, C], each channel with mean 0 and (biased) variance 1 up to epsilon.
    """
    return standardize(x, epsilon)[0]


def _normalize_fwd(x: Array, epsilon: float):
    normalized, rstd = standardize(x, epsilon)
    return normalized, (normalized, rstd)


normalize.defvjp(_normalize_fwd, lambda epsilon, residuals, grad: (normalize_gradient(grad, *residuals),))
