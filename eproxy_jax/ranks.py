"""Rank statistics in JAX, for use inside jit: average ranks, Spearman with ties.

The host-side twin, with p-values of everything else that a report needs, is :mod:`eproxy_jax.metrics`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def average_ranks(x: Array, valid: Array | None = None) -> Array:
    """Ranks from 1 (smallest), ties sharing their average rank; NaN ranks below every number, tied among themselves.

    Quadratic in A, which for the few labelled architectures of a search is less work than sorting.

    Args:
      x: [A].
      valid: boolean [A]; entries that are not valid take no part and get rank 0. All are valid when absent.

    Returns:
      [A], floating.

    Example:
      >>> average_ranks(jnp.asarray([3.0, 1.0, 3.0, jnp.nan])).tolist()
      [3.5, 2.0, 3.5, 1.0]
    """
    valid = jnp.ones(x.shape, bool) if valid is None else valid
    x = jnp.where(jnp.isnan(x), -jnp.inf, x)
    column, row = x[:, None], x[None, :]
    lower = jnp.sum((row < column) & valid[None, :], axis=1)
    equal = jnp.sum((row == column) & valid[None, :], axis=1)
    ranks = lower + (equal + 1) / 2
    return jnp.where(valid, ranks, 0).astype(jnp.result_type(x, jnp.float32))


def pearson(x: Array, y: Array, valid: Array | None = None) -> Array:
    """Correlation of two vectors [A]; 0 where one of them is constant, so that it can be maximised."""
    weight = (jnp.ones(x.shape, bool) if valid is None else valid).astype(x.dtype)
    count = jnp.sum(weight)
    x = (x - jnp.sum(x * weight) / count) * weight
    y = (y - jnp.sum(y * weight) / count) * weight
    norm = jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))
    return jnp.where(norm > 0, jnp.sum(x * y) / jnp.where(norm > 0, norm, 1), 0)


def standardized(ranks: Array) -> Array:
    """Ranks [..., A] with mean 0 and variance 1; 0 where they are all equal."""
    centred = ranks - jnp.mean(ranks, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centred * centred, axis=-1, keepdims=True))
    return centred / jnp.where(deviation > 0, deviation, 1)


def spearman(x: Array, y: Array, valid: Array | None = None) -> Array:
    """Spearman's rank correlation with ties; NaN ranks last, 0 where one side is constant.

    Args:
      x: [A].
      y: [A].
      valid: boolean [A]; entries that are not valid take no part.

    Returns:
      Scalar in [-1, 1].

    Example:
      >>> round(float(spearman(jnp.asarray([1.0, 2.0, 3.0, 4.0]), jnp.asarray([10.0, 20.0, 40.0, 30.0]))), 6)
      0.8
    """
    return pearson(average_ranks(x, valid), average_ranks(y, valid), valid)
