"""Linen layers around the primitive operations, and the edge operations of universal cells.

Stand-alone modules use ``Conv`` and ``BatchNorm``; universal modules use the same layers for what every architecture
of a space shares, and ``Op`` pairs (:func:`conv_bn_op`, ``ZERO_OP``, ...) where the operation is data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import convolution, initializers

_RUNNING_MOMENTUM = 0.9  # running = 0.9 running + 0.1 batch: PyTorch's momentum of 0.1, seen from the other side


class Conv(nn.Module):
    """Convolution with PyTorch's padding and initialisers.

    Attributes:
      features: output channels.
      kernel_size: odd; 1 for a pointwise convolution.
      stride: spatial stride.
      use_bias: add a learned bias per output channel.
      dtype: dtype of the parameters.
    """

    features: int
    kernel_size: int
    stride: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, init: Array | int = 0) -> Array:
        """[B, H, W, C_in] -> [B, H / stride, W / stride, features]; ``init`` indexes ``initializers.INITS``."""
        size, channels = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", initializers.conv_kernel, (size, size, channels, self.features), self.dtype, init)
        x = convolution.conv2d(x, kernel, self.stride)
        if self.use_bias:
            fan_in = size * size * channels
            bias = self.param("bias", initializers.conv_bias, (self.features,), self.dtype, fan_in, init)
            x = x + convolution.per_channel(bias)
        return x


class BatchNorm(nn.Module):
    """Batch norm on batch statistics, with optional running averages for a network that goes on to be trained.

    Attributes:
      affine: learn a scale and a bias per channel.
      track: keep running averages (collection ``batch_stats``) and use them when ``train`` is false.
      dtype: dtype of the parameters.
    """

    affine: bool = True
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """[B, H, W, C] -> [B, H, W, C]; batch statistics when ``train``, running averages otherwise."""
        channels = x.shape[-1]
        if self.track:
            mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), self.dtype)
            var = self.variable("batch_stats", "var", jnp.ones, (channels,), self.dtype)
            if train and self.is_mutable_collection("batch_stats") and not self.is_initializing():
                count = x.size // channels
                unbiased = jnp.var(x, (0, 1, 2)) * (count / max(count - 1, 1))
                mean.value = _RUNNING_MOMENTUM * mean.value + (1 - _RUNNING_MOMENTUM) * jnp.mean(x, (0, 1, 2))
                var.value = _RUNNING_MOMENTUM * var.value + (1 - _RUNNING_MOMENTUM) * unbiased
        if train:
            x = convolution.normalize(x)
        elif self.track:
            rstd = jax.lax.rsqrt(var.value + convolution.BATCH_NORM_EPSILON)  # pyright: ignore[reportPossiblyUnboundVariable]
            x = (x - convolution.per_channel(mean.value)) * convolution.per_channel(rstd)  # pyright: ignore[reportPossiblyUnboundVariable]
        else:
            raise ValueError(
                "BatchNorm(track=False) has no running averages: call with train=True, or build with track=True"
            )
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,), self.dtype)
            bias = self.param("bias", nn.initializers.zeros, (channels,), self.dtype)
            x = convolution.affine(x, scale, bias)
        return x


# --- feature taps whose width is data -------------------------------------------------------------------------


@flax.struct.dataclass
class PaddedTap:
    """A feature tap of a universal module whose number of channels is data.

    Attributes:
      features: [B, 8, 8, C_max], already resized; channels above those in use are zero.
      level: index into ``widths``: how many channels are read.
      widths: numbers of channels that may be in use, ascending; the last is C_max.
      used: how many channels are in use, where ``widths`` are steps that this number lies between; else
        ``widths[level]`` are.
    """

    features: Array
    level: Array
    widths: tuple[int, ...] = flax.struct.field(pytree_node=False)
    used: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``features``."""
        return self.features.shape

    @property
    def channels(self) -> Array:
        """How many channels are in use."""
        return jnp.asarray(self.widths)[self.level] if self.used is None else self.used


def narrow_conv_op(width: int, size: int) -> convolution.Op:
    """Convolution that reads the first ``width`` channels of its input through the central positions of its kernel.

    Args:
      width: channels read.
      size: kernel positions in either direction.

    Returns:
      An ``Op`` whose weights are {"kernel"}, without residual.
    """

    def narrow(x: Array, kernel: Array) -> Array:
        return convolution.conv2d(x[..., :width], convolution.kernel_centre(kernel, size)[:, :, :width])

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        del y, residual
        grad_x, kernel = jax.vjp(narrow, x, weights["kernel"])[1](grad)
        return grad_x, {"kernel": kernel}

    return convolution.Op(lambda x, weights: (narrow(x, weights["kernel"]), ()), backward)


class TapConv(nn.Module):
    """:class:`Conv` at stride 1 on a :class:`PaddedTap`: work and fans are those of the channels in use.

    Attributes:
      features: output channels.
      kernel_size: odd.
      dtype: dtype of the parameters.
    """

    features: int
    kernel_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tap: PaddedTap, init: Array | int = 0) -> Array:
        """[B, 8, 8, C_max] -> [B, 8, 8, features]."""
        size, channels = self.kernel_size, tap.channels.astype(self.dtype)
        shape = (size, size, tap.widths[-1], self.features)
        kernel = self.param("kernel", initializers.conv_kernel, shape, self.dtype, init, None, None, channels)
        bias = self.param("bias", initializers.conv_bias, (self.features,), self.dtype, size * size * channels, init)
        conv_ops = tuple(narrow_conv_op(width, size) for width in tap.widths)
        x: Any = convolution.switch_op(conv_ops, tap.level, tap.features, {"kernel": kernel})
        return x + convolution.per_channel(bias)


# --- edge operations as data ---------------------------------------------------------------------------------
# Weights of an edge are a dict: "kernel" [3, 3, C_in, C_out] (1x1 operations use its centre) and, in affine spaces,
# "scale" and "bias" [C_out]. The residual is (rstd [C_out], normalised output or None).


def conv_bn_op(convolve: Callable[[Array, Array], Array], affine: bool) -> convolution.Op:
    """The edge operation batch_norm(convolve(x, kernel)).

    Args:
      convolve: (x [B, H, W, C_in], kernel [3, 3, C_in, C_out]) -> [B, H', W', C_out].
      affine: whether the batch norm scales and shifts.

    Returns:
      An ``Op``.
    """

    def forward(x: Array, weights: Any):
        normalized, rstd = convolution.standardize(convolve(x, weights["kernel"]))
        if affine:
            return convolution.affine(normalized, weights["scale"], weights["bias"]), (rstd, normalized)
        return normalized, (rstd, None)

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        rstd, normalized = residual
        grads: dict[str, Array] = {}
        if affine:
            grad, *vectors = convolution.affine_normalize_gradient(grad, normalized, rstd, weights["scale"])
            grads["scale"], grads["bias"] = vectors
        else:
            grad = convolution.normalize_gradient(grad, y, rstd)
        # The primal that vjp computes again is linear in what it needs, so XLA drops it.
        _, pull = jax.vjp(convolve, x, weights["kernel"])
        grad_x, grads["kernel"] = pull(grad)
        return grad_x, grads

    return convolution.Op(forward, backward)


def linear_op(
    function: Callable[[Array], Array], gradient: Callable[[Array, Array], Array], affine: bool
) -> convolution.Op:
    """The edge operation of a weightless linear ``function`` that keeps the shape, with ``gradient(x, grad)``."""

    def forward(x: Array, weights: Any):
        y = function(x)
        channels = weights["kernel"].shape[-1]
        return y, (jnp.zeros((channels,), x.dtype), jnp.zeros_like(y) if affine else None)

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        del y, residual
        return gradient(x, grad), jax.tree.map(jnp.zeros_like, weights)

    return convolution.Op(forward, backward)


def relu_conv3x3(stride: int) -> Callable[[Array, Array], Array]:
    """ReLU, then the 3x3 convolution of an edge's kernel slot."""
    return lambda x, kernel: convolution.conv2d(nn.relu(x), kernel, stride)


def relu_conv1x1(stride: int) -> Callable[[Array, Array], Array]:
    """ReLU, then the 1x1 convolution in the centre of an edge's kernel slot."""
    return lambda x, kernel: convolution.conv2d(nn.relu(x), convolution.kernel_centre(kernel, 1), stride)


def factorized_reduce(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution of a ``skip`` that changes shape, without its batch norm.

    At stride 2: ReLU, then two 1x1 convolutions to half the channels each, the second reading the input shifted by
    one pixel. At stride 1 (only the channels change): one 1x1 convolution.

    Args:
      x: [B, H, W, C_in].
      kernel: [1, 1, C_in, C_out]; at stride 2 its output halves are the two convolutions.
      stride: 1 or 2.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C_out].
    """
    if stride == 1:
        return convolution.conv2d(x, kernel, 1)
    return convolution.halving_conv2d(nn.relu(x), kernel)
