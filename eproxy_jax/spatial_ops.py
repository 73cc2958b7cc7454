"""Primitive operations of large cells: depthwise, one-directional and factorised convolutions, pools of any odd size.

Like those of :mod:`eproxy_jax.ops` they bring gradients of their own. The depthwise convolution is a loop over kernel
positions, one shifted multiply-add each: on 2 CPU cores inside a loop 2 to 8 times faster than ``lax.conv`` with one
group a channel, and one small program for every kernel size, where the unrolled sum takes seconds to compile. Nothing
here becomes a grouped convolution under ``vmap``: all is element-wise or a matrix product.

Padding is PyTorch's "same" (``k // 2`` pixels on every side, times the dilation); at stride 2 maps of odd size round up.
Arrays are NHWC.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax import ops

# --- depthwise convolution -----------------------------------------------------------------------------------


def _pad(x: Array, margins: tuple[int, int], value: float = 0.0) -> Array:
    rows, columns = margins
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), constant_values=value)


def _window(x: Array, start: tuple[Array | int, Array | int], size: tuple[int, int], stride: int) -> Array:
    """Pixels of a padded map from ``start`` on, every ``stride``-th one, [B, *size, C]."""
    extent = [(n - 1) * stride + 1 for n in size]
    zero = jnp.zeros((), jnp.int32)
    corner = (zero, *(jnp.asarray(s, jnp.int32) for s in start), zero)
    cut = lax.dynamic_slice(x, corner, (x.shape[0], *extent, x.shape[3]))
    return cut[:, ::stride, ::stride]


def _strided(size: int, stride: int) -> int:
    return (size - 1) // stride + 1


def _depthwise(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    size, channels = kernel.shape[0], x.shape[-1]
    margin = size // 2 * dilation
    padded, positions = _pad(x, (margin, margin)), kernel.reshape(size * size, channels)
    out = (_strided(x.shape[1], stride), _strided(x.shape[2], stride))

    def add(n: Array, total: Array) -> Array:
        weights = lax.dynamic_index_in_dim(positions, n, keepdims=False)
        start = (n // size * dilation, n % size * dilation)
        return total + _window(padded, start, out, stride) * ops.per_channel(weights)

    return lax.fori_loop(0, size * size, add, jnp.zeros((x.shape[0], *out, channels), x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv2d(x: Array, kernel: Array, stride: int = 1, dilation: int = 1) -> Array:
    """Convolution of each channel with a kernel of its own.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C], k odd.
      stride: the same in both spatial directions.
      dilation: distance between kernel positions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    return _depthwise(x, kernel, stride, dilation)


def _depthwise_fwd(x: Array, kernel: Array, stride: int, dilation: int):
    return _depthwise(x, kernel, stride, dilation), (x, kernel)


def _depthwise_bwd(stride: int, dilation: int, saved: tuple[Array, Array], grad: Array):
    x, kernel = saved
    size, height, width = kernel.shape[0], x.shape[1], x.shape[2]
    spread = _spread(_spread(grad, 1, stride, height), 2, stride, width)
    grad_x = _depthwise(spread, kernel[::-1, ::-1], 1, dilation)
    margin = size // 2 * dilation
    padded = _pad(x, (margin, margin))

    def position(n: Array) -> Array:
        shifted = _window(padded, (n // size * dilation, n % size * dilation), grad.shape[1:3], stride)  # pyright: ignore[reportArgumentType]
        return jnp.sum(shifted * grad, (0, 1, 2))

    return grad_x, lax.map(position, jnp.arange(size * size)).reshape(kernel.shape)


depthwise_conv2d.defvjp(_depthwise_fwd, _depthwise_bwd)


def _spread(grad: Array, axis: int, stride: int, size: int) -> Array:
    """Put the pixels of an axis ``stride`` apart, zeros between and after, ``size`` in all."""
    if stride == 1:
        return grad
    config = [(0, 0, 0)] * 4
    config[axis] = (0, size - ((grad.shape[axis] - 1) * stride + 1), stride - 1)
    return lax.pad(grad, jnp.zeros((), grad.dtype), config)


# --- convolution along one direction -------------------------------------------------------------------------


def _line_patches(x: Array, size: int, axis: int, stride: int) -> Array:
    """The ``size`` shifted copies along an axis side by side, [B, H', W', size * C]."""
    margins = (size // 2, 0) if axis == 1 else (0, size // 2)
    padded, out = _pad(x, margins), _strided(x.shape[axis], stride)
    shifts = [lax.slice_in_dim(padded, i, i + (out - 1) * stride + 1, stride, axis) for i in range(size)]
    return jnp.concatenate(shifts, axis=-1)


def _line_conv(x: Array, kernel: Array, axis: int, stride: int) -> Array:
    patches = _line_patches(x, kernel.shape[0], axis, stride)
    rows = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return rows.reshape(*patches.shape[:-1], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def line_conv(x: Array, kernel: Array, axis: int, stride: int = 1) -> Array:
    """Convolution with a kernel that is one pixel wide: k x 1 along axis 1 (height), 1 x k along axis 2 (width).

    Args:
      x: [B, H, W, C_in].
      kernel: [k, C_in, C_out], k odd.
      axis: 1 or 2.
      stride: along that axis; the other one keeps its size.

    Returns:
      [B, H', W', C_out].
    """
    return _line_conv(x, kernel, axis, stride)


def _line_conv_fwd(x: Array, kernel: Array, axis: int, stride: int):
    return _line_conv(x, kernel, axis, stride), (x, kernel)


def _line_conv_bwd(axis: int, stride: int, saved: tuple[Array, Array], grad: Array):
    x, kernel = saved
    columns = _line_patches(x, kernel.shape[0], axis, stride).reshape(-1, kernel.shape[0] * kernel.shape[1])
    grad_kernel = (columns.T @ grad.reshape(-1, grad.shape[-1])).reshape(kernel.shape)
    spread = _spread(grad, axis, stride, x.shape[axis])
    return _line_conv(spread, jnp.swapaxes(kernel[::-1], 1, 2), axis, 1), grad_kernel


line_conv.defvjp(_line_conv_fwd, _line_conv_bwd)

# --- pools ---------------------------------------------------------------------------------------------------


def _line_windows(x: Array, size: int, axis: int, stride: int) -> list[Array]:
    margins = (size // 2, 0) if axis == 1 else (0, size // 2)
    padded, out = _pad(x, margins, -jnp.inf), _strided(x.shape[axis], stride)
    return [lax.slice_in_dim(padded, i, i + (out - 1) * stride + 1, stride, axis) for i in range(size)]


def _line_max(x: Array, size: int, axis: int, stride: int) -> Array:
    return functools.reduce(jnp.maximum, _line_windows(x, size, axis, stride))


def _add_at(size: int, axis: int, stride: int, length: int, parts: list[Array]) -> Array:
    """The sum of what windows give to each of their pixels, back at the pixels' places."""
    total, margin = None, size // 2
    for i, part in enumerate(parts):
        config = [(0, 0, 0)] * 4
        config[axis] = (i, length + 2 * margin - i - ((part.shape[axis] - 1) * stride + 1), stride - 1)
        placed = lax.pad(part, jnp.zeros((), part.dtype), config)
        total = placed if total is None else total + placed
    assert total is not None
    return lax.slice_in_dim(total, margin, margin + length, axis=axis)


def _line_max_gradient(x: Array, y: Array, grad: Array, size: int, axis: int, stride: int) -> Array:
    taken, parts = jnp.zeros(y.shape, bool), []
    for pixel in _line_windows(x, size, axis, stride):
        hit = (pixel == y) & ~taken
        parts.append(jnp.where(hit, grad, 0))
        taken |= hit
    return _add_at(size, axis, stride, x.shape[axis], parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, size: int, stride: int = 1) -> Array:
    """Max pool whose padding never wins; among equal pixels the first one (row by row) takes the gradient.

    Args:
      x: [B, H, W, C].
      size: odd height and width of the window.
      stride: the same in both spatial directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    return _line_max(_line_max(x, size, 2, stride), size, 1, stride)


def _max_pool_bwd(size: int, stride: int, x: Array, grad: Array):
    rows = _line_max(x, size, 2, stride)
    y = _line_max(rows, size, 1, stride)
    grad_rows = _line_max_gradient(rows, y, grad, size, 1, stride)
    return (_line_max_gradient(x, rows, grad_rows, size, 2, stride),)


max_pool.defvjp(lambda x, size, stride: (max_pool(x, size, stride), x), _max_pool_bwd)


def _line_sum(x: Array, axis: int, stride: int) -> Array:
    margins = (1, 0) if axis == 1 else (0, 1)
    padded, out = _pad(x, margins), _strided(x.shape[axis], stride)
    shifts = [lax.slice_in_dim(padded, i, i + (out - 1) * stride + 1, stride, axis) for i in range(3)]
    return functools.reduce(jnp.add, shifts)


def _inverse_counts(height: int, width: int, stride: int, dtype) -> Array:
    """One over the pixels of the map in each 3x3 window, [1, H', W', 1]."""

    def counts(size: int) -> Array:
        centre = jnp.arange(0, size, stride)
        return 1 + (centre > 0).astype(dtype) + (centre < size - 1).astype(dtype)

    return 1 / (counts(height)[None, :, None, None] * counts(width)[None, None, :, None])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def avg_pool_3x3(x: Array, stride: int = 1) -> Array:
    """3x3 average pool that does not count the padding.

    Args:
      x: [B, H, W, C].
      stride: the same in both spatial directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    total = _line_sum(_line_sum(x, 2, stride), 1, stride)
    return total * _inverse_counts(x.shape[1], x.shape[2], stride, x.dtype)


def _avg_pool_bwd(stride: int, x: Array, grad: Array):
    grad = grad * _inverse_counts(x.shape[1], x.shape[2], stride, grad.dtype)
    for axis in (1, 2):
        grad = _line_sum(_spread(grad, axis, stride, x.shape[axis]), axis, 1)
    return (grad,)


avg_pool_3x3.defvjp(lambda x, stride: (avg_pool_3x3(x, stride), x), _avg_pool_bwd)
