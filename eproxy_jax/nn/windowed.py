"""This module loops over the positions of a window: depthwise and one-directional convolutions, pools of any odd size.

Each turn of a loop is one shifted multiply-add, product or maximum. Gradients are written the same way. On CPUs a
depthwise convolution inside a loop is thus much faster than ``lax.conv`` with one group per channel, and compiles
faster than the unrolled sum. Nothing here becomes a grouped convolution under ``vmap``: all is element-wise or a matrix
product.

The number of turns may be data: the functions with ``size`` (and ``dilation``) as an argument serve all kernel sizes
with one program, given the ``margin`` that the largest needs. The others (:func:`depthwise_conv2d`, ...) are the same
functions for one size, differentiable.

Padding is PyTorch's "same" (``k // 2`` pixels on every side, times the dilation); at stride 2 maps of odd size round
up. Arrays are NHWC.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import convolution, norms, precision, traced_work
from eproxy_jax.nn.recording import operation

Index = Array | int


def _pad(x: Array, margins: Sequence[int], value: float = 0.0) -> Array:
    rows, columns = margins
    return jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)), constant_values=value)


def _window(x: Array, start: Sequence[Index], size: Sequence[int], strides: Sequence[int]) -> Array:
    """Return every ``stride``-th pixel from ``start`` on, [B, *size, C]."""
    extent = [(n - 1) * stride + 1 for n, stride in zip(size, strides, strict=True)]
    corner = [jnp.asarray(place, jnp.int32) for place in (0, *start, 0)]
    return lax.dynamic_slice(x, corner, (x.shape[0], *extent, x.shape[3]))[:, :: strides[0], :: strides[1]]


# --- depthwise convolution -----------------------------------------------------------------------------------


def _place(n: Index, size: Index, dilation: Index, margin: int) -> tuple[Index, Index]:
    """Return where the window of a kernel position starts on a map with margins."""
    return margin + (n // size - size // 2) * dilation, margin + (n % size - size // 2) * dilation


def depthwise(
    x: Array, weights_at: Callable[[Array], Array], size: Index, dilation: Index, stride: int, margin: int
) -> Array:
    """Convolve each channel with a kernel of its own.

    Args:
      x: [B, H, W, C].
      weights_at: number of a kernel position, row by row -> weights [C].
      size: kernel size, odd; may be traced.
      dilation: distance between kernel positions; may be traced.
      stride: the same in both spatial directions.
      margin: at least ``size // 2 * dilation``.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    padded, out = _pad(x, (margin, margin)), [convolution.strided_size(n, stride) for n in x.shape[1:3]]

    def add(n: Array, total: Array) -> Array:
        window = _window(padded, _place(n, size, dilation, margin), out, (stride, stride))
        return total + window * norms.per_channel(weights_at(n))

    return lax.fori_loop(0, size * size, add, jnp.zeros((x.shape[0], *out, x.shape[3]), x.dtype))


def depthwise_met(x: Array, size: Index, dilation: Index, stride: int, margin: int) -> Array:
    """Return what the first kernel position of :func:`depthwise` reads of the first channel, [B, H', W']."""
    out = [convolution.strided_size(n, stride) for n in x.shape[1:3]]
    padded = _pad(x[..., :1], (margin, margin))
    return _window(padded, _place(0, size, dilation, margin), out, (stride, stride))[..., 0]


def depthwise_gradient(
    x: Array,
    grad: Array,
    weights_at: Callable[[Array], Array],
    put: Callable[[Any, Array, Array], Any],
    grads: Any,
    size: Index,
    dilation: Index,
    stride: int,
    margin: int,
) -> tuple[Array, Any]:
    """Return the gradients of :func:`depthwise`.

    Args:
      x: [B, H, W, C].
      grad: gradient of the output.
      weights_at: as there.
      put: (gradients, number of a kernel position, its gradient [C]) -> gradients.
      grads: gradients of weights so far.
      size: as there.
      dilation: as there.
      stride: as there.
      margin: as there.

    Returns:
      Gradient of ``x``, and ``grads`` with those of all positions.
    """
    last = size * size - 1
    flipped = lambda n: weights_at(last - n)  # noqa: E731
    grad_x = depthwise(convolution.spread(grad, (stride, stride), x.shape[1:3]), flipped, size, dilation, 1, margin)
    padded = _pad(x, (margin, margin))

    def position(n: Array, grads: Any) -> Any:
        window = _window(padded, _place(n, size, dilation, margin), grad.shape[1:3], (stride, stride))
        return put(grads, n, jnp.sum(window * grad, (0, 1, 2)))

    return grad_x, lax.fori_loop(0, size * size, position, grads)


def _rows_of(kernel: Array) -> Callable[[Array], Array]:
    return lambda n: lax.dynamic_index_in_dim(kernel, n, keepdims=False)


def _put_row(grads: Array, n: Array, row: Array) -> Array:
    return lax.dynamic_update_index_in_dim(grads, row, n, 0)


def _forward_macs(x: tuple[int, ...], kernel: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Return k k C H' W' B, times the candidates of a batch."""
    del x
    return math.prod(out) * math.prod(kernel[-3:-1])


def _gradient_macs(
    x: tuple[int, ...], kernel: tuple[int, ...], grad: tuple[int, ...], grad_x: tuple[int, ...], *_: tuple[int, ...]
) -> int:
    """Return the MACs of the input's gradient (a stride-1 convolution of the spread ``grad``) and of the kernel's."""
    del x
    return (math.prod(grad_x) + math.prod(grad)) * math.prod(kernel[-3:-1])


@traced_work.counted(_forward_macs, static_argnums=(2, 3))
def _depthwise_conv2d(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    size = kernel.shape[0]
    weights = _rows_of(kernel.reshape(size * size, -1))
    return depthwise(x, weights, size, dilation, stride, size // 2 * dilation)


@traced_work.counted(_gradient_macs, static_argnums=(3, 4))
def _depthwise_conv2d_gradient(x: Array, kernel: Array, grad: Array, stride: int, dilation: int) -> tuple[Array, Array]:
    size, flat = kernel.shape[0], kernel.reshape(-1, kernel.shape[-1])
    grad_x, grads = depthwise_gradient(
        x, grad, _rows_of(flat), _put_row, jnp.zeros_like(flat), size, dilation, stride, size // 2 * dilation
    )
    return grad_x, grads.reshape(kernel.shape)


@operation
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv2d(x: Array, kernel: Array, stride: int = 1, dilation: int = 1) -> Array:
    """Convolve each channel with a kernel of its own. :mod:`traced_work` counts the multiply-accumulates.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, C], k odd.
      stride: the same in both spatial directions.
      dilation: distance between kernel positions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    return _depthwise_conv2d(x, kernel, stride, dilation)


depthwise_conv2d.defvjp(
    lambda x, kernel, *args: (depthwise_conv2d(x, kernel, *args), (x, kernel)),
    lambda stride, dilation, saved, grad: _depthwise_conv2d_gradient(saved[0], saved[1], grad, stride, dilation),
)


# --- convolution along one direction -------------------------------------------------------------------------


def _line(axis: int, along: Any, across: Any) -> tuple[Any, Any]:
    """Return a pair for both spatial axes: ``along`` for the axis, ``across`` for the other one."""
    return (along, across) if axis == 1 else (across, along)


def line(
    x: Array, kernel_at: Callable[[Array], Array], features: int, size: Index, axis: int, stride: int, margin: int
) -> Array:
    """Convolve with a kernel that is one pixel wide.

    Args:
      x: [B, H, W, C_in].
      kernel_at: number of a kernel position -> weights [C_in, C_out].
      features: C_out.
      size: kernel size, odd; may be traced.
      axis: along which; 1 (height) or 2 (width).
      stride: along that axis; the other one keeps its size.
      margin: at least ``size // 2``.

    Returns:
      [B, H', W', C_out].
    """
    strides = _line(axis, stride, 1)
    padded = _pad(x, _line(axis, margin, 0))
    out = [convolution.strided_size(n, s) for n, s in zip(x.shape[1:3], strides, strict=True)]

    def add(n: Array, total: Array) -> Array:
        window = _window(padded, _line(axis, margin + n - size // 2, 0), out, strides)
        return total + precision.product(window.reshape(-1, x.shape[3]), kernel_at(n))

    total = jnp.zeros((x.shape[0] * out[0] * out[1], features), x.dtype)
    return lax.fori_loop(0, size, add, total).reshape(x.shape[0], *out, features)


def line_met(x: Array, size: Index, axis: int, stride: int, margin: int) -> Array:
    """Return what the first kernel position of :func:`line` reads of the first channel, [B, H', W']."""
    strides = _line(axis, stride, 1)
    out = [convolution.strided_size(n, s) for n, s in zip(x.shape[1:3], strides, strict=True)]
    padded = _pad(x[..., :1], _line(axis, margin, 0))
    return _window(padded, _line(axis, margin - size // 2, 0), out, strides)[..., 0]


def line_gradient(
    x: Array,
    grad: Array,
    kernel_at: Callable[[Array], Array],
    put: Callable[[Any, Array, Array], Any],
    grads: Any,
    size: Index,
    axis: int,
    stride: int,
    margin: int,
) -> tuple[Array, Any]:
    """Return the gradients of :func:`line`; arguments and results as those of :func:`depthwise_gradient`."""
    strides = _line(axis, stride, 1)
    transposed = lambda n: kernel_at(size - 1 - n).T  # noqa: E731
    grad_x = line(convolution.spread(grad, strides, x.shape[1:3]), transposed, x.shape[3], size, axis, 1, margin)
    padded, rows = _pad(x, _line(axis, margin, 0)), grad.reshape(-1, grad.shape[3])

    def position(n: Array, grads: Any) -> Any:
        window = _window(padded, _line(axis, margin + n - size // 2, 0), grad.shape[1:3], strides)
        return put(grads, n, precision.product(window.reshape(-1, x.shape[3]).T, rows))

    return grad_x, lax.fori_loop(0, size, position, grads)


@operation
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def line_conv(x: Array, kernel: Array, axis: int, stride: int = 1) -> Array:
    """Convolve with a kernel that is one pixel wide: k x 1 along axis 1 (height), 1 x k along axis 2 (width).

    Args:
      x: [B, H, W, C_in].
      kernel: [k, C_in, C_out], k odd.
      axis: 1 or 2.
      stride: along that axis; the other one keeps its size.

    Returns:
      [B, H', W', C_out].
    """
    size = kernel.shape[0]
    return line(x, _rows_of(kernel), kernel.shape[2], size, axis, stride, size // 2)


def _line_conv_bwd(axis: int, stride: int, saved: tuple[Array, Array], grad: Array):
    x, kernel = saved
    size = kernel.shape[0]
    return line_gradient(x, grad, _rows_of(kernel), _put_row, jnp.zeros_like(kernel), size, axis, stride, size // 2)


line_conv.defvjp(lambda x, kernel, *args: (line_conv(x, kernel, *args), (x, kernel)), _line_conv_bwd)

# --- pools ---------------------------------------------------------------------------------------------------


def _line_max(x: Array, size: Index, axis: int, stride: int, margin: int) -> tuple[Array, Array]:
    """Return the largest pixel of each window along an axis, and the place of the first such pixel in its window."""
    strides = _line(axis, stride, 1)
    padded = _pad(x, _line(axis, margin, 0), -jnp.inf)
    out = [convolution.strided_size(n, s) for n, s in zip(x.shape[1:3], strides, strict=True)]

    def higher(n: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        y, place = carry
        pixel = _window(padded, _line(axis, margin + n - size // 2, 0), out, strides)
        return jnp.maximum(y, pixel), jnp.where(pixel > y, jnp.asarray(n, place.dtype), place)

    lowest = jnp.full((x.shape[0], *out, x.shape[3]), -jnp.inf, x.dtype)
    return lax.fori_loop(0, size, higher, (lowest, jnp.zeros(lowest.shape, jnp.int32)))


def _line_max_gradient(
    place: Array, grad: Array, size: Index, axis: int, stride: int, margin: int, like: Array
) -> Array:
    """Return the input gradient of :func:`_line_max`, shaped as ``like``, from its places and its maxima's gradient.

    It takes places and not values, for values computed twice need not be equal.
    """
    strides = _line(axis, stride, 1)
    extent = [(n - 1) * s + 1 for n, s in zip(grad.shape[1:3], strides, strict=True)]

    def position(n: Array, total: Array) -> Array:
        part = convolution.spread(jnp.where(place == n, grad, 0), strides, extent)
        corner = [jnp.asarray(at, jnp.int32) for at in (0, *_line(axis, margin + n - size // 2, 0), 0)]
        part = part + lax.dynamic_slice(total, corner, part.shape)
        return lax.dynamic_update_slice(total, part, corner)

    total = lax.fori_loop(0, size, position, _pad(jnp.zeros_like(like), _line(axis, margin, 0)))
    return lax.slice_in_dim(total, margin, margin + like.shape[axis], axis=axis)


def maxima(x: Array, size: Index, stride: int, margin: int) -> Array:
    """Apply :func:`max_pool` with a ``size`` that may be traced; ``margin`` is at least ``size // 2``."""
    return _line_max(_line_max(x, size, 2, stride, margin)[0], size, 1, stride, margin)[0]


def maxima_gradient(x: Array, grad: Array, size: Index, stride: int, margin: int) -> Array:
    """Return the gradient of :func:`maxima`: a window's first largest pixel (row by row) takes it, as in PyTorch."""
    rows, place_in_row = _line_max(x, size, 2, stride, margin)
    _, row = _line_max(rows, size, 1, stride, margin)
    grad_rows = _line_max_gradient(row, grad, size, 1, stride, margin, rows)
    return _line_max_gradient(place_in_row, grad_rows, size, 2, stride, margin, x)


@operation
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, size: int, stride: int = 1) -> Array:
    """Apply a max pool whose padding never wins.

    Args:
      x: [B, H, W, C].
      size: odd height and width of the window.
      stride: the same in both spatial directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C].
    """
    return maxima(x, size, stride, size // 2)


max_pool.defvjp(
    lambda x, size, stride: (max_pool(x, size, stride), x),
    lambda size, stride, x, grad: (maxima_gradient(x, grad, size, stride, size // 2),),
)
