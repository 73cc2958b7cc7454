"""This module holds convolutions that are fast in loops on CPUs and batch under ``vmap``.

Two needs shape the code:

* XLA's CPU backend runs the weight gradient of ``lax.conv`` very slowly inside loops and conditionals
  (jax issue 12868). So ``conv2d`` brings its own gradient: the weight gradient is a plain convolution of transposed
  arrays, or a matrix product of shifted copies.
* ``vmap`` over a convolution with one kernel per candidate becomes a grouped convolution, which CPUs and TPUs do not
  run well. So ``conv2d`` brings its own batching rule: patches and one batched matrix product. On CUDA the grouped
  convolution stays, where it is the faster one.

Arrays are NHWC, kernels HWIO. Dimension letters are those of :mod:`eproxy_jax.types`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from eproxy_jax.nn import precision
from eproxy_jax.nn.marks import Lens, live, mark, unmarked
from eproxy_jax.nn.recording import operation

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


# --- which form a convolution takes: the one place ------------------------------------------------------------

# Up to this many pixels XLA's CPU convolution is slower than patches and one product.
_PATCHES_MAX_PIXELS = 16
# Up to this many channels in (a network's images) patches and one product are faster in every direction.
_PATCHES_MAX_CHANNELS = 4
# A weight gradient whose output channels are this many times the input's takes patches, which are the smaller operand.
_WIDENING = 4
# Up to this many channels XLA's CPU backend does a weight gradient faster as a convolution, above as one product.
_WEIGHT_CONV_MAX_CHANNELS = 64
# From this many channels to a quarter of them or fewer, one product and shifted sums are faster on CPUs.
_NARROWING_MIN_CHANNELS, _NARROWING = 256, 4


class Forms(NamedTuple):
    """The way in which each direction of a convolution is computed, and a batch of convolutions with a kernel each.

    Attributes:
      forward: ``patches``: one product of patches and kernel. ``narrowing``: on CPUs one product for all kernel
        positions, shifted and summed; elsewhere the convolution. ``convolution``: XLA's.
      input_gradient: ``scatter``: the transpose of patches, with the kernel as it lies. ``pointwise``: one product,
        then zeros between its pixels. ``strided``: one product without such zeros. ``convolution``: the forward
        convolution of the output's gradient with the flipped kernel, in a form of its own.
      weight_gradient: ``patches``: one product. ``shifts``: a product per kernel position. ``products``: one product
        of shifted rows and shifted columns. ``convolution``: XLA's, with images as channels; ``products`` in a batch.
      batch: the form of forward and weight gradient under ``vmap``. ``products``: patches and one batched product.
        ``grouped``: on CUDA one grouped convolution; elsewhere products.
    """

    forward: Literal["patches", "narrowing", "convolution"]
    input_gradient: Literal["scatter", "pointwise", "strided", "convolution"]
    weight_gradient: Literal["patches", "shifts", "products", "convolution"]
    batch: Literal["products", "grouped"]


def forms_of(pixels: int, channels_in: int, channels_out: int, kernel_size: int, stride: int) -> Forms:
    """Return the forms that a convolution of this shape takes.

    ``benchmarks/conv_forms.py`` times both forms of a batch, forward and training, at the shapes of several spaces.

    Args:
      pixels: height times width of the input.
      channels_in: C_in.
      channels_out: C_out.
      kernel_size: k.
      stride: the same in both spatial directions.

    Example:
      >>> forms_of(32 * 32, 16, 16, 3, 1)
      Forms(forward='convolution', input_gradient='convolution', weight_gradient='convolution', batch='grouped')
      >>> forms_of(8 * 8, 512, 64, 3, 1)[:3]
      ('narrowing', 'convolution', 'products')
    """
    pointwise, small = kernel_size == 1, pixels <= _PATCHES_MAX_PIXELS
    narrow = channels_in <= _PATCHES_MAX_CHANNELS
    if pointwise or small or narrow:
        forward = "patches"
    elif stride == 1 and channels_in >= max(_NARROWING_MIN_CHANNELS, _NARROWING * channels_out):
        forward = "narrowing"
    else:
        forward = "convolution"

    if pointwise:
        input_gradient = "pointwise"
    elif small:
        input_gradient = "scatter"
    else:
        input_gradient = "strided" if stride > 1 else "convolution"

    if pointwise or narrow or _WIDENING * channels_in <= channels_out:
        weight_gradient = "patches"
    elif stride > 1:
        weight_gradient = "shifts"
    elif small or max(channels_in, channels_out) > _WEIGHT_CONV_MAX_CHANNELS:
        weight_gradient = "products"
    else:
        weight_gradient = "convolution"
    return Forms(forward, input_gradient, weight_gradient, "products" if pointwise else "grouped")


# --- the pieces ----------------------------------------------------------------------------------------------


def _pad_spatial(x: Array, pad: int) -> Array:
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))) if pad else x


def strided_size(size: int, stride: int) -> int:
    """Return the number of output pixels along an axis of ``size`` pixels: size / stride, rounded up."""
    return (size - 1) // stride + 1


def spread(grad: Array, strides: Sequence[int], sizes: Sequence[int]) -> Array:
    """Put each pixel of a map back where a strided window read it from, with zeros between and after.

    Args:
      grad: [B, H', W', C].
      strides: along height and width; an axis of stride 1 stays as it is.
      sizes: height and width of the result.

    Returns:
      [B, H, W, C].
    """
    if all(stride == 1 for stride in strides):
        return grad
    config = [
        (0, 0 if stride == 1 else size - ((n - 1) * stride + 1), stride - 1)
        for n, stride, size in zip(grad.shape[1:3], strides, sizes, strict=True)
    ]
    return lax.pad(grad, jnp.zeros((), grad.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def _shifts(x: Array, kernel_size: int, stride: int) -> list[list[Array]]:
    """Return the k x k shifted (and strided) copies of ``x``, zero outside: rows of columns of [B, H', W', C]."""
    height, width = (strided_size(n, stride) for n in x.shape[1:3])
    padded = _pad_spatial(x, kernel_size // 2)
    return [
        [
            padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            for j in range(kernel_size)
        ]
        for i in range(kernel_size)
    ]


def patches(x: Array, kernel_size: int, stride: int = 1) -> Array:
    """Return what each output position of a convolution reads, zero outside.

    Args:
      x: [B, H, W, C].
      kernel_size: k, odd.
      stride: the same in both spatial directions.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), k * k * C], kernel position major.
    """
    if kernel_size == 1:
        return x[:, ::stride, ::stride]
    return jnp.concatenate([shift for row in _shifts(x, kernel_size, stride) for shift in row], axis=-1)


def _patches_conv(x: Array, kernel: Array, stride: int) -> Array:
    columns = patches(x, kernel.shape[0], stride)
    rows = precision.product(columns.reshape(-1, columns.shape[-1]), kernel.reshape(-1, kernel.shape[-1]))
    return rows.reshape(*columns.shape[:-1], -1)


def _lax_conv(x: Array, kernel: Array, stride: int) -> Array:
    pad = kernel.shape[0] // 2
    (x, kernel), options = precision.operands(x, kernel)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=_DIMENSIONS, **options
    )


def _narrowing_conv(x: Array, kernel: Array) -> Array:
    """Convolve at stride 1 by one product for all kernel positions, whose results are then shifted and summed."""
    (batch, height, width, channels_in), size, channels_out = x.shape, kernel.shape[0], kernel.shape[-1]
    columns = jnp.moveaxis(kernel, 2, 0).reshape(channels_in, -1)
    out = precision.product(x.reshape(-1, channels_in), columns).reshape(batch, height, width, -1)
    padded = _pad_spatial(out, size // 2)
    parts = [
        padded[:, i : i + height, j : j + width, n * channels_out : (n + 1) * channels_out]
        for n, (i, j) in enumerate(np.ndindex(size, size))
    ]
    return functools.reduce(jnp.add, parts)


def kernel_centre(kernel: Array, size: int) -> Array:
    """Return the central ``size`` x ``size`` positions of kernels [..., k, k, C_in, C_out]."""
    margin = (kernel.shape[-3] - size) // 2
    return kernel[..., margin : margin + size, margin : margin + size, :, :]


def _fold(x: Array) -> Array:
    """Merge the two leading axes, [A, B, ...] -> [A * B, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _forms(shape: Sequence[int], channels_out: int, kernel_size: int, stride: int) -> Forms:
    """Return :func:`forms_of` an input of the shape [..., H, W, C_in]."""
    return forms_of(shape[-3] * shape[-2], shape[-1], channels_out, kernel_size, stride)


@functools.cache
def _forward(stride: int) -> Callable[[Array, Array], Array]:
    """Return the forward convolution for one stride, with its batching rule."""

    @custom_vmap
    def forward(x: Array, kernel: Array) -> Array:
        form = _forms(x.shape, kernel.shape[-1], kernel.shape[0], stride).forward
        if form == "patches":
            return _patches_conv(x, kernel, stride)
        conv = functools.partial(_lax_conv, stride=stride)
        if form == "narrowing":
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
    """Convolve a batch, a kernel each: [N, B, H, W, C_in], [N, k, k, C_in, C_out] -> [N, B, H', W', C_out].

    On GPUs cuDNN's grouped convolutions are faster than products: benchmarks/results/conv_forms_gpu.md.
    """
    products = functools.partial(_batched_patches_conv, stride=stride)
    if _forms(x.shape, kernel.shape[-1], kernel.shape[1], stride).batch == "products":
        return products(x, kernel)
    return lax.platform_dependent(x, kernel, cuda=functools.partial(_grouped_conv, stride=stride), default=products)


def _batched_patches_conv(x: Array, kernel: Array, stride: int) -> Array:
    """Compute :func:`_batched_conv` as patches and one batched matrix product."""
    size, channels_in, channels_out = kernel.shape[2:]
    columns = patches(_fold(x), size, stride)
    rows = columns.reshape(x.shape[0], -1, size * size * channels_in)
    out = precision.product(rows, kernel.reshape(x.shape[0], -1, channels_out))
    return out.reshape(*x.shape[:2], *columns.shape[1:3], channels_out)


def _grouped_conv(x: Array, kernel: Array, stride: int) -> Array:
    """Compute :func:`_batched_conv` as one grouped convolution."""
    (x, kernel), options = precision.operands(x, kernel)
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
    """Return the weight gradients of :func:`_grouped_conv`, [N, k, k, C_in, C_out]."""
    # Rounded operands are float32 again: transposed, a convolution of bfloat16 would round its sums as well.
    rounded, options = precision.operands(x, grad)
    x, grad = (part.astype(x.dtype) for part in rounded)
    kernel = jax.ShapeDtypeStruct((x.shape[0], kernel_size, kernel_size, x.shape[-1], grad.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _lax_grouped_conv(x, kernel, stride, options), kernel)(grad)[0]


def _flip(kernel: Array) -> Array:
    """Return the kernel of the input gradient: spatially flipped, with input and output channels exchanged."""
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


def _input_gradient(grad: Array, kernel: Array, stride: int, height: int, width: int) -> Array:
    """Return d loss / d input, [B, height, width, C_in]."""
    size, channels_in, channels_out = kernel.shape[1:]
    form = forms_of(height * width, channels_in, channels_out, size, stride).input_gradient
    if form == "scatter":  # large kernels on small maps: no flipped copy of the kernel
        rows = precision.product(grad.reshape(-1, grad.shape[-1]), kernel.reshape(-1, channels_out).T)
        x = jax.ShapeDtypeStruct((grad.shape[0], height, width, channels_in), grad.dtype)
        scatter = jax.linear_transpose(lambda x: patches(x, size, stride), x)
        return scatter(rows.reshape(*grad.shape[:-1], -1))[0]
    if form == "pointwise":  # product first: the zeros between strided positions need no work
        return spread(_forward(1)(grad, _flip(kernel)), (stride, stride), (height, width))
    if form == "strided":
        return _strided_input_gradient(grad, kernel, stride, height, width)
    return _forward(1)(grad, _flip(kernel))


def _strided_input_gradient(grad: Array, kernel: Array, stride: int, height: int, width: int) -> Array:
    """Return the input gradient at stride s > 1 by one product whose channels are s x s pixels: no zeros in between."""
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
    out = precision.product(jnp.concatenate(window, -1).reshape(-1, kernel.shape[0]), kernel)
    out = jnp.swapaxes(out.reshape(-1, rows, columns, stride, stride, channels_in), 2, 3)
    return out.reshape(-1, rows * stride, columns * stride, channels_in)[:, :height, :width]


@functools.cache
def _weight_gradient(kernel_size: int, stride: int) -> Callable[[Array, Array], Array]:
    """Return (x, output gradient) -> d loss / d kernel, [k, k, C_in, C_out], with its batching rule."""

    @custom_vmap
    def gradient(x: Array, grad: Array) -> Array:
        return _one_weight_gradient(x, grad, kernel_size, stride, convolve=True)

    @gradient.def_vmap
    def _(axis_size: int, in_batched: list[bool], x: Array, grad: Array):  # pyright: ignore[reportUnusedFunction]
        one = functools.partial(_one_weight_gradient, kernel_size=kernel_size, stride=stride, convolve=False)
        products = jax.vmap(one, tuple(0 if batched else None for batched in in_batched))
        form = _forms(x.shape, grad.shape[-1], kernel_size, stride).batch
        if form == "products" or not all(in_batched):
            return products(x, grad), True
        grouped = functools.partial(_grouped_weight_gradient, kernel_size=kernel_size, stride=stride)
        return lax.platform_dependent(x, grad, cuda=grouped, default=products), True

    return gradient


def _one_weight_gradient(x: Array, grad: Array, kernel_size: int, stride: int, convolve: bool) -> Array:
    """Return d loss / d kernel, [k, k, C_in, C_out]; use a convolution only where ``convolve`` allows it."""
    channels_in, channels_out = x.shape[-1], grad.shape[-1]
    form = _forms(x.shape, channels_out, kernel_size, stride).weight_gradient
    if form == "patches":
        columns = patches(x, kernel_size, stride).reshape(-1, kernel_size * kernel_size * channels_in)
        flat = precision.product(columns.T, grad.reshape(-1, channels_out))
        return flat.reshape(kernel_size, kernel_size, channels_in, channels_out)
    if form == "shifts":
        rows = grad.reshape(-1, channels_out)
        columns = [s.reshape(-1, channels_in) for row in _shifts(x, kernel_size, stride) for s in row]
        flat = jnp.stack([precision.product(c.T, rows) for c in columns])
        return flat.reshape(kernel_size, kernel_size, channels_in, channels_out)
    if form == "products" or not convolve:
        return _weight_products(x, grad, kernel_size)
    return _weight_convolution(x, grad, kernel_size)


def _weight_products(x: Array, grad: Array, kernel_size: int) -> Array:
    """Return the weight gradient at stride 1 by one product of ``x`` shifted up and down and ``grad`` left and right.

    Each pair of a row shift and a column shift is one kernel position, so k + k shifted copies do for k * k of them.
    """
    height, width, pad = *x.shape[1:3], kernel_size // 2
    tall = jnp.pad(x, ((0, 0), (pad, pad), (0, 0), (0, 0)))
    wide = jnp.pad(grad, ((0, 0), (0, 0), (pad, pad), (0, 0)))
    rows = jnp.concatenate([tall[:, i : i + height] for i in range(kernel_size)], -1)
    columns = jnp.concatenate([wide[:, :, j : j + width] for j in range(kernel_size)[::-1]], -1)
    flat = precision.product(rows.reshape(-1, rows.shape[-1]).T, columns.reshape(-1, columns.shape[-1]))
    return jnp.swapaxes(flat.reshape(kernel_size, x.shape[-1], kernel_size, grad.shape[-1]), 1, 2)


def _weight_convolution(x: Array, grad: Array, kernel_size: int) -> Array:
    """Return the weight gradient at stride 1 by one convolution.

    The channels serve as images, and the images as channels. With the operands transposed beforehand, XLA's CPU
    backend hands it to its library, in loops too. Left to the convolution's dimension numbers, it would run the loop
    of jax issue 12868.
    """
    pad = kernel_size // 2
    (x, grad), options = precision.operands(jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(grad, (1, 2, 0, 3)))
    out = lax.conv_general_dilated(x, grad, (1, 1), ((pad, pad), (pad, pad)), dimension_numbers=_DIMENSIONS, **options)
    return jnp.transpose(out, (1, 2, 0, 3))


class ConvGradient(NamedTuple):
    """What rules see at the mark ``conv_gradient``, which every convolution sets in the backward pass.

    Attributes:
      out: [B, H', W', C], output of the convolution.
      grad: its gradient.
      weights: scalar, number of weights of one output channel.
      met: [B, H', W'], what the first weight (first position, first channels) met to make ``out[..., 0]``.
    """

    out: Array
    grad: Array
    weights: Any
    met: Array


@functools.cache
def gradient_lens(stride: int) -> Lens:
    """Return how rules see the mark ``conv_gradient`` with the operands x, kernel and grad: a :class:`ConvGradient`."""

    def get(x: Array, kernel: Array, grad: Array) -> ConvGradient:
        size, (height, width) = kernel.shape[0], grad.shape[1:3]
        with unmarked():
            out: Any = conv2d(x, kernel, stride)
        met = _pad_spatial(x[..., :1], size // 2)[..., 0]
        met = met[:, : (height - 1) * stride + 1 : stride, : (width - 1) * stride + 1 : stride]
        return ConvGradient(out, grad, size * size * jnp.sum(live(x)), met)

    return Lens(get)


@operation
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolve without bias, with PyTorch's "same" padding (``k // 2`` zeros on every side).

    It is fast inside ``lax.map``/``lax.scan``/``lax.switch`` on the CPU. Under ``vmap``, when each candidate has a
    kernel of its own, it becomes one batched matrix product (on CUDA a grouped convolution, where that is faster).

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
    return _forward(stride)(x, mark("kernel", kernel))


def _conv2d_fwd(x: Array, kernel: Array, stride: int):
    return conv2d(x, kernel, stride), (x, kernel)


def _conv2d_bwd(stride: int, residuals: tuple[Array, Array], grad: Array):
    x, kernel, grad = mark("conv_gradient", *residuals, grad, lens=gradient_lens(stride))
    return (
        _input_gradient(grad, kernel, stride, x.shape[1], x.shape[2]),
        _weight_gradient(kernel.shape[0], stride)(x, grad),
    )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


@jax.custom_vjp
def frozen_conv2d(x: Array, kernel: Array) -> Array:
    """Apply ``conv2d`` at stride 1 without a gradient for the kernel: the convolution of the barrier layer.

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


@operation
def halving_conv2d(x: Array, kernel: Array) -> Array:
    """Apply two 1x1 convolutions at stride 2 to half the channels each, the second to the input shifted by one pixel.

    Args:
      x: [B, H, W, C_in].
      kernel: [1, 1, C_in, C_out]; its output halves are the two convolutions.

    Returns:
      [B, ceil(H / 2), ceil(W / 2), C_out].
    """
    half = kernel.shape[-1] // 2
    shifted = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
    return jnp.concatenate([conv2d(x, kernel[..., :half], 2), conv2d(shifted, kernel[..., half:], 2)], axis=-1)


@operation
def grouped_conv2d(x: Array, kernel: Array, groups: int, stride: int = 1) -> Array:
    """Apply :func:`conv2d` within each group of channels, as one batched product over the groups' patches.

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
    columns = patches(x, size, stride)
    shape = columns.shape[:-1]
    columns = columns.reshape(-1, size * size, groups, kernel.shape[2])
    kernel = kernel.reshape(size * size, kernel.shape[2], groups, channels // groups)
    return jnp.einsum("npgi,pigo->ngo", columns, kernel).reshape(*shape, channels)
