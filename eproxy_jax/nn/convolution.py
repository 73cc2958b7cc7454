"""Primitive operations: loop-safe, batchable convolutions, batch norm, pools.

Every network of the package, stand-alone or universal, is made of these. Three needs shape them:

* XLA's CPU backend runs the weight gradient of ``lax.conv`` very slowly inside loops and conditionals
  (jax issue 12868), so ``conv2d`` brings its own gradient: the weight gradient is a plain convolution of transposed
  arrays, or a matrix product of shifted copies.
* ``vmap`` over a convolution with one kernel per candidate becomes a grouped convolution, which CPUs and TPUs do not
  run well, so ``conv2d`` brings its own batching rule: patches and one batched matrix product. On CUDA the grouped
  convolution stays, where it is the faster one.
* A data-dependent choice of operation (``switch_op``) must not store the union of the residuals of all its
  branches, so each operation is a pair of functions (``Op``) that share one residual layout.

Arrays are NHWC, kernels HWIO. Dimension letters are those of :mod:`eproxy_jax.types`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which the protocol inherits.
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Up to this many pixels, patches and one product: XLA's CPU convolution is up to 175x slower on maps of 2x2 (512
# channels), equal on 4x4, faster above.
_PATCHES_MAX_PIXELS = 16
# Up to this many channels, XLA's CPU backend does a weight gradient faster as a convolution (16 channels on 32x32: 1.5
# ms against 1.8), above as one product (128 channels on 32x32: 57 ms against 144).
_WEIGHT_CONV_MAX_CHANNELS = 64
# Up to this many channels in, patches and one product in every direction: what a network's images are (16 to 128
# channels out: 1.4 to 1.8 times as fast as XLA's CPU convolution).
_PATCHES_MAX_CHANNELS = 4
# From this many channels to a quarter of them or fewer, one product and shifted sums on CPUs: 3x3 kernels take .5 to .8
# of the time of XLA's convolution, 5x5 and 7x7 ones .3 to .7 (512 to 64 channels on 8x8: 5.4 ms against 9.5, 29 against
# 103). Fewer channels gain little alone and nothing in a search.
_NARROWING_MIN_CHANNELS = 256
# The value of jax.default_matmul_precision under which products take bfloat16 operands and sum in float32.
BFLOAT16_PRODUCTS = "BF16_BF16_F32"


# --- matrix products -----------------------------------------------------------------------------------------


def _operands(*arrays: Array) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """Operands of a product and its options, at the precision of the context.

    Rounded here and not by the compiler, for XLA's CPU backend ignores ``jax.default_matmul_precision``.
    """
    bfloat16 = jax.config.jax_default_matmul_precision == BFLOAT16_PRODUCTS  # pyright: ignore[reportAttributeAccessIssue]
    if not bfloat16 or any(array.dtype != jnp.float32 for array in arrays):
        return arrays, {}
    options = {"precision": lax.Precision.DEFAULT, "preferred_element_type": jnp.float32}
    return tuple(array.astype(jnp.bfloat16) for array in arrays), options


def product(a: Array, b: Array) -> Array:
    """``a @ b``, as the programs compute products; convolutions round alike.

    Inside ``jax.default_matmul_precision(BFLOAT16_PRODUCTS)`` operands are rounded to bfloat16 and summed in float32.

    Args:
      a: [..., M, K].
      b: [..., K, N].

    Returns:
      [..., M, N].
    """
    (a, b), options = _operands(a, b)
    return jnp.matmul(a, b, **options)


# --- convolution ---------------------------------------------------------------------------------------------


def _pad_spatial(x: Array, pad: int) -> Array:
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x


def _output_size(size: int, stride: int) -> int:
    return (size - 1) // stride + 1


def _shifts(x: Array, kernel_size: int, stride: int) -> list[list[Array]]:
    """The k x k shifted (and strided) copies of ``x``, zero outside: rows of columns of [B, H', W', C]."""
    height, width = (_output_size(n, stride) for n in x.shape[1:3])
    padded = _pad_spatial(x, kernel_size // 2)
    return [
        [
            padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            for j in range(kernel_size)
        ]
        for i in range(kernel_size)
    ]


def _patches(x: Array, kernel_size: int, stride: int) -> Array:
    """im2col: [B, H', W', k * k * C], kernel position major."""
    if kernel_size == 1:
        return x[:, ::stride, ::stride]
    return jnp.concatenate([shift for row in _shifts(x, kernel_size, stride) for shift in row], axis=-1)


def patches(x: Array, kernel_size: int, stride: int = 1) -> Array:
    """What each output position of a convolution reads, zero outside.

    Args:
      x: [B, H, W, C].
      kernel_size: k, odd.
      stride: the same in both spatial directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), k * k * C], kernel position major.
    """
    return _patches(x, kernel_size, stride)


def _patches_conv(x: Array, kernel: Array, stride: int) -> Array:
    patches = _patches(x, kernel.shape[0], stride)
    rows = product(patches.reshape(-1, patches.shape[-1]), kernel.reshape(-1, kernel.shape[-1]))
    return rows.reshape(*patches.shape[:-1], -1)


def _lax_conv(x: Array, kernel: Array, stride: int) -> Array:
    pad = kernel.shape[0] // 2
    (x, kernel), options = _operands(x, kernel)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=_DIMENSIONS, **options
    )


def _narrowing_conv(x: Array, kernel: Array) -> Array:
    """Convolution at stride 1 as one product for all kernel positions, whose results are then shifted and summed."""
    (batch, height, width, channels_in), size, channels_out = x.shape, kernel.shape[0], kernel.shape[-1]
    columns = jnp.moveaxis(kernel, 2, 0).reshape(channels_in, -1)
    out = product(x.reshape(-1, channels_in), columns).reshape(batch, height, width, -1)
    padded = _pad_spatial(out, size // 2)
    parts = [
        padded[:, i : i + height, j : j + width, n * channels_out : (n + 1) * channels_out]
        for n, (i, j) in enumerate(np.ndindex(size, size))
    ]
    return functools.reduce(jnp.add, parts)


def kernel_centre(kernel: Array, size: int) -> Array:
    """The central ``size`` x ``size`` positions of kernels [..., k, k, C_in, C_out]."""
    margin = (kernel.shape[-3] - size) // 2
    return kernel[..., margin : margin + size, margin : margin + size, :, :]


def _fold(x: Array) -> Array:
    """[A, B, ...] -> [A * B, ...]."""
    return x.reshape(-1, *x.shape[2:])


@functools.cache
def _forward(stride: int) -> Callable[[Array, Array], Array]:
    """The forward convolution with its batching rule, for one stride."""

    @custom_vmap
    def forward(x: Array, kernel: Array) -> Array:
        small = x.shape[1] * x.shape[2] <= _PATCHES_MAX_PIXELS or x.shape[-1] <= _PATCHES_MAX_CHANNELS
        if kernel.shape[0] == 1 or small:
            return _patches_conv(x, kernel, stride)
        narrowing = x.shape[-1] >= max(_NARROWING_MIN_CHANNELS, 4 * kernel.shape[-1])
        conv = functools.partial(_lax_conv, stride=stride)
        if stride == 1 and narrowing:
            return lax.platform_dependent(x, kernel, cpu=_narrowing_conv, default=conv)
        return conv(x, kernel)

    @forward.def_vmap
    def batched(axis_size: int, in_batched: list[bool], x: Array, kernel: Array):  # pyright: ignore[reportUnusedFunction]
        x_batched, kernel_batched = in_batched
        if not kernel_batched:  # one kernel for all candidates: the candidates are just more images
            out = forward(_fold(x), kernel)
            return out.reshape(axis_size, -1, *out.shape[1:]), True
        size, channels_in, channels_out = kernel.shape[1], kernel.shape[3], kernel.shape[4]
        if not x_batched:  # one input for all candidates: the candidates are just more output channels
            wide = jnp.moveaxis(kernel, 0, 3).reshape(size, size, channels_in, -1)
            out = forward(x, wide)
            out = out.reshape(*out.shape[:-1], axis_size, channels_out)
            return jnp.moveaxis(out, -2, 0), True
        return _batched_conv(x, kernel, stride), True

    return forward


def _batched_conv(x: Array, kernel: Array, stride: int) -> Array:
    """A batch of convolutions with a kernel each, [N, B, H, W, C_in], [N, k, k, C_in, C_out] -> [N, B, H', W', C_out].

    On an H100 cuDNN's grouped convolutions are 1.5 (32 to 128 channels) to 3.6 (16) times as fast as products: forward
    and both gradients, tf32, 32 candidates, 3x3 kernels (benchmarks/conv_forms.py).
    """
    products = functools.partial(_batched_patches_conv, stride=stride)
    if kernel.shape[1] == 1:
        return products(x, kernel)
    return lax.platform_dependent(x, kernel, cuda=functools.partial(_grouped_conv, stride=stride), default=products)


def _batched_patches_conv(x: Array, kernel: Array, stride: int) -> Array:
    """:func:`_batched_conv` as patches and one batched matrix product."""
    size, channels_in, channels_out = kernel.shape[2:]
    patches = _patches(_fold(x), size, stride)
    rows = patches.reshape(x.shape[0], -1, size * size * channels_in)
    out = product(rows, kernel.reshape(x.shape[0], -1, channels_out))
    return out.reshape(*x.shape[:2], *patches.shape[1:3], channels_out)


def _grouped_conv(x: Array, kernel: Array, stride: int) -> Array:
    """:func:`_batched_conv` as one grouped convolution."""
    (x, kernel), options = _operands(x, kernel)
    return _lax_grouped_conv(x, kernel, stride, options)


def _lax_grouped_conv(x: Array, kernel: Array, stride: int, options: dict[str, Any]) -> Array:
    candidates, channels_out, pad = x.shape[0], kernel.shape[-1], kernel.shape[1] // 2
    x, kernel = (jnp.moveaxis(array, 0, 3) for array in (x, kernel))
    out = lax.conv_general_dilated(
        x.reshape(*x.shape[:3], -1),
        kernel.reshape(*kernel.shape[:3], -1),
        (stride, stride),
        ((pad, pad), (pad, pad)),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=candidates,
        **options,
    )
    return jnp.moveaxis(out.reshape(*out.shape[:3], candidates, channels_out), 3, 0)


def _grouped_weight_gradient(x: Array, grad: Array, kernel_size: int, stride: int) -> Array:
    """The weight gradients of :func:`_grouped_conv`, [N, k, k, C_in, C_out]."""
    # Rounded operands are float32 again: transposed, a convolution of bfloat16 would round its sums as well.
    rounded, options = _operands(x, grad)
    x, grad = (part.astype(x.dtype) for part in rounded)
    kernel = jax.ShapeDtypeStruct((x.shape[0], kernel_size, kernel_size, x.shape[-1], grad.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _lax_grouped_conv(x, kernel, stride, options), kernel)(grad)[0]


def _flip(kernel: Array) -> Array:
    """The kernel of the input gradient: spatially flipped, in and out channels exchanged."""
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


def _dilate(grad: Array, stride: int, height: int, width: int) -> Array:
    """Spread an output gradient over the positions that a strided convolution read: [B, height, width, C]."""
    if stride == 1:
        return grad
    low_high = [(size - ((n - 1) * stride + 1)) for size, n in zip((height, width), grad.shape[1:3], strict=True)]
    zero = jnp.zeros((), grad.dtype)
    config = [(0, 0, 0), (0, low_high[0], stride - 1), (0, low_high[1], stride - 1), (0, 0, 0)]
    return lax.pad(grad, zero, config)


def _input_gradient(grad: Array, kernel: Array, stride: int, height: int, width: int) -> Array:
    if kernel.shape[0] > 1 and height * width <= _PATCHES_MAX_PIXELS:
        # Large kernels on small maps: a product with the kernel as it lies, not with a flipped copy of it.
        rows = product(grad.reshape(-1, grad.shape[-1]), kernel.reshape(-1, kernel.shape[-1]).T)
        x = jax.ShapeDtypeStruct((grad.shape[0], height, width, kernel.shape[2]), grad.dtype)
        scatter = jax.linear_transpose(lambda x: _patches(x, kernel.shape[0], stride), x)
        return scatter(rows.reshape(*grad.shape[:-1], -1))[0]
    if kernel.shape[0] == 1:  # matmul first: the zeros between strided positions need no work
        return _dilate(_forward(1)(grad, _flip(kernel)), stride, height, width)
    if stride > 1:
        return _strided_input_gradient(grad, kernel, stride, height, width)
    return _forward(1)(grad, _flip(kernel))


def _strided_input_gradient(grad: Array, kernel: Array, stride: int, height: int, width: int) -> Array:
    """The input gradient at stride s > 1 as one product, s x s pixels its channels: no zeros between positions."""
    size, channels_in, channels_out = kernel.shape[1:]
    pad = size // 2
    # Pixel s * i + a was read by output i + d at kernel position a + pad - s * d: for all a and d, a run of positions.
    first, last = -((size - 1 - pad) // stride), (stride - 1 + pad) // stride
    count = last - first + 1
    low = stride * last - pad
    run = (low, count * stride - low - size)
    kernel = jnp.pad(kernel, (run, run, (0, 0), (0, 0)))
    kernel = kernel.reshape(count, stride, count, stride, channels_in, channels_out)[::-1, :, ::-1]
    kernel = jnp.transpose(kernel, (0, 2, 5, 1, 3, 4)).reshape(count * count * channels_out, -1)
    rows, columns = grad.shape[1:3]
    padded = jnp.pad(grad, ((0, 0), (-first, last), (-first, last), (0, 0)))
    window = [padded[:, i : i + rows, j : j + columns] for i in range(count) for j in range(count)]
    out = product(jnp.concatenate(window, -1).reshape(-1, kernel.shape[0]), kernel)
    out = jnp.swapaxes(out.reshape(-1, rows, columns, stride, stride, channels_in), 2, 3)
    return out.reshape(-1, rows * stride, columns * stride, channels_in)[:, :height, :width]


@functools.cache
def _weight_gradient(kernel_size: int, stride: int) -> Callable[[Array, Array], Array]:
    """(x, output gradient) -> d loss / d kernel, [k, k, C_in, C_out], with its batching rule."""

    @custom_vmap
    def gradient(x: Array, grad: Array) -> Array:
        return _one_weight_gradient(x, grad, kernel_size, stride, convolve=True)

    @gradient.def_vmap
    def _(axis_size: int, in_batched: list[bool], x: Array, grad: Array):  # pyright: ignore[reportUnusedFunction]
        one = functools.partial(_one_weight_gradient, kernel_size=kernel_size, stride=stride, convolve=False)
        products = jax.vmap(one, tuple(0 if batched else None for batched in in_batched))
        if kernel_size == 1 or not all(in_batched):
            return products(x, grad), True
        grouped = functools.partial(_grouped_weight_gradient, kernel_size=kernel_size, stride=stride)
        return lax.platform_dependent(x, grad, cuda=grouped, default=products), True

    return gradient


def _one_weight_gradient(x: Array, grad: Array, kernel_size: int, stride: int, convolve: bool) -> Array:
    """D loss / d kernel, [k, k, C_in, C_out]: matrix products, or a convolution where one is faster and allowed."""
    channels_in, channels_out = x.shape[-1], grad.shape[-1]
    # Pointwise, or where the input's patches are the smaller ones, as in a network's first layer.
    if kernel_size == 1 or channels_in <= _PATCHES_MAX_CHANNELS or 4 * channels_in <= channels_out:
        columns = _patches(x, kernel_size, stride).reshape(-1, kernel_size * kernel_size * channels_in)
        flat = product(columns.T, grad.reshape(-1, channels_out))
        return flat.reshape(kernel_size, kernel_size, channels_in, channels_out)
    if stride > 1:
        rows = grad.reshape(-1, channels_out)
        columns = [s.reshape(-1, channels_in) for row in _shifts(x, kernel_size, stride) for s in row]
        flat = jnp.stack([product(c.T, rows) for c in columns])
        return flat.reshape(kernel_size, kernel_size, channels_in, channels_out)
    small = x.shape[1] * x.shape[2] <= _PATCHES_MAX_PIXELS
    if not convolve or small or max(channels_in, channels_out) > _WEIGHT_CONV_MAX_CHANNELS:
        return _weight_products(x, grad, kernel_size)
    return _weight_convolution(x, grad, kernel_size)


def _weight_products(x: Array, grad: Array, kernel_size: int) -> Array:
    """The weight gradient at stride 1 as one product: ``x`` shifted up and down meets ``grad`` shifted left and right.

    Each pair of a row shift and a column shift is one kernel position, so k + k shifted copies do for k * k of them.
    """
    height, width, pad = *x.shape[1:3], kernel_size // 2
    tall = jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0)))
    wide = jnp.pad(grad, ((0, 0), (0, 0), (pad, pad), (0, 0)))
    rows = jnp.concatenate([tall[:, i : i + height] for i in range(kernel_size)], -1)
    columns = jnp.concatenate([wide[:, :, j : j + width] for j in range(kernel_size)[::-1]], -1)
    flat = product(rows.reshape(-1, rows.shape[-1]).T, columns.reshape(-1, columns.shape[-1]))
    return jnp.swapaxes(flat.reshape(kernel_size, x.shape[-1], kernel_size, grad.shape[-1]), 1, 2)


def _weight_convolution(x: Array, grad: Array, kernel_size: int) -> Array:
    """The weight gradient at stride 1 as one convolution.

    Channels are the images, images the channels. With the operands transposed beforehand XLA's CPU backend hands it to
    its library, in loops too; left to the convolution's dimension numbers it would run the loop of jax issue 12868.
    """
    pad = kernel_size // 2
    (x, grad), options = _operands(jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(grad, (1, 2, 0, 3)))
    out = lax.conv_general_dilated(x, grad, (1, 1), ((pad, pad), (pad, pad)), dimension_numbers=_DIMENSIONS, **options)
    return jnp.transpose(out, (1, 2, 0, 3))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolution without bias, PyTorch's "same" padding (``k // 2`` zeros on every side).

    Fast inside ``lax.map``/``lax.scan``/``lax.switch`` on the CPU, and a batched matrix product under ``vmap`` when
    each candidate has a kernel of its own.

    Args:
      x: [B, H, W, C_in].
      kernel: [k, k, C_in, C_out], k odd.
      stride: the same in both spatial directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C_out].

    Example:
      >>> import jax.numpy as jnp
      >>> conv2d(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)), 2).shape
      (1, 2, 2, 5)
    """
    return _forward(stride)(x, kernel)


def _conv2d_fwd(x: Array, kernel: Array, stride: int):
    return conv2d(x, kernel, stride), (x, kernel)


def _conv2d_bwd(stride: int, residuals: tuple[Array, Array], grad: Array):
    x, kernel = residuals
    return (
        _input_gradient(grad, kernel, stride, x.shape[1], x.shape[2]),
        _weight_gradient(kernel.shape[0], stride)(x, grad),
    )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


@jax.custom_vjp
def frozen_conv2d(x: Array, kernel: Array) -> Array:
    """``conv2d`` at stride 1 whose kernel has no gradient: the convolution of the barrier layer.

    The gradient flows through to ``x``; for the kernel nothing is computed at all.

    Args:
      x: [B, H, W, C_in].
      kernel: [k, k, C_in, C_out], k odd.

    Returns:
      [B, H, W, C_out].
    """
    return _forward(1)(x, kernel)


frozen_conv2d.defvjp(
    lambda x, kernel: (_forward(1)(x, kernel), kernel),
    lambda kernel, grad: (_forward(1)(grad, _flip(kernel)), None),
)


def halving_conv2d(x: Array, kernel: Array) -> Array:
    """Two 1x1 convolutions at stride 2 to half the channels each, the second of the input shifted by one pixel.

    Args:
      x: [B, H, W, C_in].
      kernel: [1, 1, C_in, C_out]; its output halves are the two convolutions.

    Returns:
      [B, ceil(H / 2), ceil(W / 2), C_out].
    """
    half = kernel.shape[-1] // 2
    shifted = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
    return jnp.concatenate([conv2d(x, kernel[..., :half], 2), conv2d(shifted, kernel[..., half:], 2)], axis=-1)


def grouped_conv2d(x: Array, kernel: Array, groups: int, stride: int = 1) -> Array:
    """:func:`conv2d` whose channels fall into groups that do not meet: one batched product over the groups' patches.

    Its gradients are batched products as well, and so are all of them under ``vmap``.

    Args:
      x: [B, H, W, C_in], group major.
      kernel: [k, k, C_in / groups, C_out], k odd; output channels group major.
      groups: divides the channels on both sides.
      stride: the same in both spatial directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C_out].
    """
    size, channels = kernel.shape[0], kernel.shape[-1]
    columns = _patches(x, size, stride)
    shape = columns.shape[:-1]
    columns = columns.reshape(-1, size * size, groups, kernel.shape[2])
    kernel = kernel.reshape(size * size, kernel.shape[2], groups, channels // groups)
    return jnp.einsum("npgi,pigo->ngo", columns, kernel).reshape(*shape, channels)


# --- batch norm ----------------------------------------------------------------------------------------------


def per_channel(vector: Array) -> Array:
    """[C] -> [1, 1, 1, C], to meet an NHWC array without implicit rank promotion."""
    return vector[None, None, None, :]


def affine(x: Array, scale: Array, bias: Array) -> Array:
    """Scale and shift each channel: [B, H, W, C], [C], [C] -> [B, H, W, C]."""
    return x * per_channel(scale) + per_channel(bias)


def standardize(x: Array) -> tuple[Array, Array]:
    """Standardise each channel over the batch: (normalised [B, H, W, C], reciprocal deviation [C])."""
    centred = x - jnp.mean(x, (0, 1, 2), keepdims=True)
    rstd = lax.rsqrt(jnp.mean(centred * centred, (0, 1, 2)) + BATCH_NORM_EPSILON)
    return centred * per_channel(rstd), rstd


def normalize_gradient(grad: Array, normalized: Array, rstd: Array) -> Array:
    """Gradient through :func:`standardize`: its output's gradient and its two outputs -> [B, H, W, C]."""
    mean_grad = jnp.mean(grad, (0, 1, 2), keepdims=True)
    mean_projection = jnp.mean(grad * normalized, (0, 1, 2), keepdims=True)
    return per_channel(rstd) * (grad - mean_grad - normalized * mean_projection)


def affine_normalize_gradient(grad: Array, normalized: Array, rstd: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Gradients through :func:`standardize` and then :func:`affine`: (of the input, of the scale, of the bias)."""
    vectors = jnp.sum(grad * normalized, (0, 1, 2)), jnp.sum(grad, (0, 1, 2))
    return normalize_gradient(grad * per_channel(scale), normalized, rstd), *vectors


@jax.custom_vjp
def normalize(x: Array) -> Array:
    """Batch norm with batch statistics and without affine parameters.

    Args:
      x: [B, H, W, C].

    Returns:
      [B, H, W, C], each channel with mean 0 and (biased) variance 1 up to epsilon = 1e-5.
    """
    return standardize(x)[0]


def _normalize_fwd(x: Array):
    normalized, rstd = standardize(x)
    return normalized, (normalized, rstd)


normalize.defvjp(_normalize_fwd, lambda residuals, grad: (normalize_gradient(grad, *residuals),))


# --- pools and resizing --------------------------------------------------------------------------------------


def _triples(padded: Array, axis: int) -> list[Array]:
    """The previous, same and next pixel along an axis, of all but its first and last pixel."""
    size = padded.shape[axis] - 2
    return [lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)]


def _window_sum_3x3(x: Array) -> Array:
    """Sum over 3x3 windows, zero outside.

    Separable shifted adds: 5x faster on the CPU than reduce_window; padded once and not before either direction, which
    is another 1.6 to 4 times as fast on maps of 16x16 and 32x32 (in a loop over pools alone).
    """
    rows = functools.reduce(jnp.add, _triples(_pad_spatial(x, 1), 1))
    return functools.reduce(jnp.add, _triples(rows, 2))


def _inverse_window_counts(x: Array) -> Array:
    """1 / number of real pixels in each 3x3 window, [1, H, W, 1]."""

    def counts(size: int) -> Array:
        position = jnp.arange(size)
        return 1 + (position > 0).astype(x.dtype) + (position < size - 1).astype(x.dtype)

    return 1 / (counts(x.shape[1])[None, :, None, None] * counts(x.shape[2])[None, None, :, None])


@jax.custom_vjp
def avg_pool_3x3(x: Array) -> Array:
    """3x3 average pool at stride 1 that does not count the padding.

    Args:
      x: [B, H, W, C].

    Returns:
      [B, H, W, C].
    """
    return _window_sum_3x3(x) * _inverse_window_counts(x)


def avg_pool_gradient(grad: Array) -> Array:
    """The transpose of ``avg_pool_3x3``, [B, H, W, C] -> [B, H, W, C]."""
    return _window_sum_3x3(grad * _inverse_window_counts(grad))


avg_pool_3x3.defvjp(lambda x: (avg_pool_3x3(x), None), lambda _, grad: (avg_pool_gradient(grad),))


def avg_pool_2x2(x: Array) -> Array:
    """2x2 average pool at stride 2, [B, H, W, C] -> [B, H // 2, W // 2, C] (an odd last row or column is dropped)."""
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return x.mean((2, 4))


def _windows_2x2(x: Array) -> list[Array]:
    """The four pixels of each 2x2 window, row by row: arrays [B, H // 2, W // 2, C]."""
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return [x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def _first_largest(values: list[Array]) -> list[Array]:
    """Where each of the arrays is the first of the largest, one mask an array; exactly one holds at each element.

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


@jax.custom_vjp
def max_pool_2x2(x: Array) -> Array:
    """2x2 max pool at stride 2, [B, H, W, C] -> [B, H // 2, W // 2, C] (an odd last row or column is dropped).

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
    """The previous, same and next pixel along an axis, minus infinity outside."""
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
    """3x3 max pool of [A, B, H, W, C]."""
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
    """Gradient of ``max_pool_3x3`` from its input and its output's gradient, [B, H, W, C]."""
    return _max_of_3_gradient(x, _max_of_3_gradient(_max_of_3(x, 2), grad, 1), 2)


@max_pool_3x3_gradient.def_vmap
def _max_pool_3x3_gradient_batched(axis_size: int, in_batched: list[bool], x: Array, grad: Array):
    x, grad = (
        part if batched else jnp.broadcast_to(part[None], (axis_size, *part.shape))
        for part, batched in zip((x, grad), in_batched, strict=True)
    )
    return jax.vjp(_window_max, x)[1](grad)[0], True


@jax.custom_vjp
def max_pool_3x3(x: Array) -> Array:
    """3x3 max pool at stride 1 whose padding never wins.

    Rows first, then columns: a third of the comparisons, and on the CPU no select-and-scatter in the gradient. Among
    equal pixels the first one of the window (row by row) takes the gradient, as in PyTorch.

    Args:
      x: [B, H, W, C].

    Returns:
      [B, H, W, C].
    """
    return _max_pool_3x3(x)


max_pool_3x3.defvjp(lambda x: (_max_pool_3x3(x), x), lambda x, grad: (max_pool_3x3_gradient(x, grad),))


def resize_nearest(x: Array, size: int) -> Array:
    """Nearest-neighbour resize of both spatial directions with PyTorch's rounding: source = floor(i * in / out).

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
    """What each of ``size`` pixels takes of each of ``old``, [size, old]: half-pixel centres, edges repeated."""
    source = np.maximum((np.arange(size) + 0.5) * old / size - 0.5, 0)
    low = np.minimum(source.astype(int), old - 1)
    share = np.where(low < old - 1, source - low, 0)
    weights = np.zeros((size, old))
    weights[np.arange(size), low] = 1 - share
    weights[np.arange(size), np.minimum(low + 1, old - 1)] += share
    return weights


def resize_bilinear(x: Array, height: int, width: int) -> Array:
    """Bilinear resize as PyTorch's ``interpolate(mode="bilinear", align_corners=False)`` does it: no smoothing.

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


def upsample_2x(x: Array) -> Array:
    """Each pixel four times, [B, H, W, C] -> [B, 2 H, 2 W, C]: PyTorch's nearest upsampling by two."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def upsample_2x_gradient(grad: Array) -> Array:
    """The transpose of ``upsample_2x``, [B, 2 H, 2 W, C] -> [B, H, W, C]."""
    b, h, w, c = grad.shape
    return grad.reshape(b, h // 2, 2, w // 2, 2, c).sum((2, 4))


# --- operations as data --------------------------------------------------------------------------------------


class Op(NamedTuple):
    """One operation of a cell edge, as a pair of functions with a residual layout that all operations share.

    Attributes:
      forward: (x, weights) -> (y, residual).
      backward: (x, weights, y, residual, grad of y) -> (grad of x, grads of weights).
    """

    forward: Callable[[Array, Any], tuple[Array, Any]]
    backward: Callable[[Array, Any, Array, Any, Array], tuple[Array, Any]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def switch_op(ops: tuple[Op, ...], index: Array, x: Array, weights: Any) -> Array:
    """Apply ``ops[index]``; ``index`` is data.

    Under ``lax.map`` only the chosen operation runs, forward and backward. Under ``vmap`` over ``index`` all run and
    the result is selected.

    Args:
      ops: the operations; equal output shape and residual layout.
      index: integer scalar.
      x: [B, H, W, C].
      weights: a pytree that every operation can read.

    Returns:
      The operation's output.
    """
    return _switch_forward(ops, index, x, weights)[0]


def _switch_forward(ops: tuple[Op, ...], index: Array, x: Array, weights: Any):
    return lax.switch(index, [op.forward for op in ops], x, weights)


def _switch_op_fwd(ops: tuple[Op, ...], index: Array, x: Array, weights: Any):
    y, residual = _switch_forward(ops, index, x, weights)
    return y, (index, x, weights, y, residual)


def _switch_op_bwd(ops: tuple[Op, ...], saved: Any, grad: Array):
    index, *arguments = saved
    grad_x, grad_weights = lax.switch(index, [op.backward for op in ops], *arguments, grad)
    return None, grad_x, grad_weights


switch_op.defvjp(_switch_op_fwd, _switch_op_bwd)
