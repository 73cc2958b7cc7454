"""This module holds 2x2 and 3x3 pools whose gradients are fast on CPUs and go where PyTorch's go."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from eproxy_jax.nn.recording import operation


def _triples(padded: Array, axis: int) -> list[Array]:
    """Return the previous, same and next pixel along an axis, of all but its first and last pixel."""
    size = padded.shape[axis] - 2
    return [lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)]


def _window_sum_3x3(x: Array) -> Array:
    """Sum each 3x3 window, zero outside.

    Separable shifted adds are faster on the CPU than ``reduce_window``, and faster still padded once instead of before
    either direction.
    """
    rows = functools.reduce(jnp.add, _triples(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 1))
    return functools.reduce(jnp.add, _triples(rows, 2))


def _inverse_window_counts(x: Array) -> Array:
    """Return 1 / number of real pixels in each 3x3 window, [1, H, W, 1]."""

    def counts(size: int) -> Array:
        position = jnp.arange(size)
        return 1 + (position > 0).astype(x.dtype) + (position < size - 1).astype(x.dtype)

    return 1 / (counts(x.shape[1])[None, :, None, None] * counts(x.shape[2])[None, None, :, None])


@operation
@jax.custom_vjp
def avg_pool_3x3(x: Array) -> Array:
    """Apply a 3x3 average pool at stride 1 that does not count the padding.

    Args:
      x: [B, H, W, C].

    Returns:
      [B, H, W, C].
    """
    return _window_sum_3x3(x) * _inverse_window_counts(x)


def avg_pool_gradient(grad: Array) -> Array:
    """Apply the transpose of ``avg_pool_3x3``, [B, H, W, C] -> [B, H, W, C]."""
    return _window_sum_3x3(grad * _inverse_window_counts(grad))


avg_pool_3x3.defvjp(lambda x: (avg_pool_3x3(x), None), lambda _, grad: (avg_pool_gradient(grad),))


@operation
def avg_pool_2x2(x: Array) -> Array:
    """Apply a 2x2 average pool at stride 2, [B, H, W, C] -> [B, H // 2, W // 2, C]; drop an odd last row or column."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return x.mean((2, 4))


def _windows_2x2(x: Array) -> list[Array]:
    """Return the four pixels of each 2x2 window, row by row: arrays [B, H // 2, W // 2, C]."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def _first_largest(values: list[Array]) -> list[Array]:
    """Return one mask per array: where it is the first of the largest. Exactly one mask is true at each element.

    Values are compared with each other, never with a pool's output: XLA may compute the input once for the pool and
    again for its gradient, rounded differently, and equality with the output then holds nowhere.
    """
    masks = []
    free = jnp.ones(values[0].shape, bool)
    for i, value in enumerate(values):
        largest = functools.reduce(jnp.logical_and, [value >= other for other in values[i + 1 :]], free)
        masks.append(largest)
        free &= ~largest
    return masks


@operation
@jax.custom_vjp
def max_pool_2x2(x: Array) -> Array:
    """Apply a 2x2 max pool at stride 2, [B, H, W, C] -> [B, H // 2, W // 2, C]; drop an odd last row or column.

    Among equal pixels of a window the first one takes the gradient, as in PyTorch: maps that went through a max pool
    are full of ties, which ``jnp.max`` would split.
    """
    return functools.reduce(jnp.maximum, _windows_2x2(x))


def _max_pool_2x2_bwd(x: Array, grad: Array):
    parts = [jnp.where(mask, grad, 0) for mask in _first_largest(_windows_2x2(x))]
    b, h, w, c = grad.shape
    rows = [jnp.stack(parts[i : i + 2], axis=3).reshape(b, h, 2 * w, c) for i in (0, 2)]
    whole = jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, c)
    return (jnp.pad(whole, ((0, 0), (0, x.shape[1] - 2 * h), (0, x.shape[2] - 2 * w), (0, 0))),)


max_pool_2x2.defvjp(lambda x: (max_pool_2x2(x), x), _max_pool_2x2_bwd)


def _neighbours(x: Array, axis: int) -> list[Array]:
    """Return the previous, same and next pixel along an axis, minus infinity outside."""
    pads = [(0, 0)] * 4
    pads[axis] = (1, 1)
    return _triples(jnp.pad(x, pads, constant_values=-jnp.inf), axis)


def _max_of_3(x: Array, axis: int) -> Array:
    return functools.reduce(jnp.maximum, _neighbours(x, axis))


def _max_of_3_gradient(x: Array, grad: Array, axis: int) -> Array:
    to_previous, to_same, to_next = (jnp.where(mask, grad, 0) for mask in _first_largest(_neighbours(x, axis)))
    # What a window gives to its previous, same and next pixel comes back to the pixel from the opposite side.
    pads = [(0, 0)] * 4
    pads[axis] = (1, 1)
    from_next, from_previous = jnp.pad(to_previous, pads), jnp.pad(to_next, pads)
    size = x.shape[axis]
    total = lax.slice_in_dim(from_next, 2, size + 2, axis=axis) + to_same
    return total + lax.slice_in_dim(from_previous, 0, size, axis=axis)


def _window_max(x: Array) -> Array:
    """Apply a 3x3 max pool to [A, B, H, W, C]."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 3, 1), (1, 1, 1, 1, 1), "SAME")


@custom_vmap
def _max_pool_3x3(x: Array) -> Array:
    # Padded once, as _window_sum_3x3.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    rows = functools.reduce(jnp.maximum, _triples(padded, 2))
    return functools.reduce(jnp.maximum, _triples(rows, 1))


@_max_pool_3x3.def_vmap
def _max_pool_3x3_batched(axis_size: int, in_batched: list[bool], x: Array):
    # Where all operations of a cell run and one is selected, element-wise pools would let XLA's CPU backend try to fuse
    # whole cells, which takes hours and gigabytes; reduce_window ends a fusion. So does its gradient.
    del axis_size, in_batched
    return _window_max(x), True


@custom_vmap
def max_pool_3x3_gradient(x: Array, grad: Array) -> Array:
    """Return the gradient of ``max_pool_3x3``'s input, [B, H, W, C], from that input and its output's gradient."""
    return _max_of_3_gradient(x, _max_of_3_gradient(_max_of_3(x, 2), grad, 1), 2)


@max_pool_3x3_gradient.def_vmap
def _max_pool_3x3_gradient_batched(axis_size: int, in_batched: list[bool], x: Array, grad: Array):
    x, grad = (
        part if batched else jnp.broadcast_to(part[None], (axis_size, *part.shape))
        for part, batched in zip((x, grad), in_batched, strict=True)
    )
    return jax.vjp(_window_max, x)[1](grad)[0], True


@operation
@jax.custom_vjp
def max_pool_3x3(x: Array) -> Array:
    """Apply a 3x3 max pool at stride 1 whose padding never wins.

    Rows are pooled first, then columns: that takes fewer comparisons, and on the CPU no select-and-scatter in the
    gradient. Among equal pixels the first one of the window (row by row) takes the gradient, as in PyTorch.

    Args:
      x: [B, H, W, C].

    Returns:
      [B, H, W, C].
    """
    return _max_pool_3x3(x)


max_pool_3x3.defvjp(lambda x: (_max_pool_3x3(x), x), lambda x, grad: (max_pool_3x3_gradient(x, grad),))
