"""This module wraps the primitive operations in Linen layers.

Stand-alone modules use ``Conv`` and ``BatchNorm``. Universal modules use the same layers for what every architecture of
a space shares.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import choice, convolution, initializers, marks, norms, windowed

_RUNNING_MOMENTUM = 0.9  # running = 0.9 running + 0.1 batch: PyTorch's momentum of 0.1, seen from the other side


class Conv(nn.Module):
    """A convolution with PyTorch's padding and initialisers.

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
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]; ``init`` indexes ``initializers.INITS``."""
        size, channels = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", initializers.conv_kernel, (size, size, channels, self.features), self.dtype, init)
        x = convolution.conv2d(x, kernel, self.stride)
        if self.use_bias:
            fan_in = size * size * channels
            bias = self.param("bias", initializers.conv_bias, (self.features,), self.dtype, fan_in, init)
            x = x + norms.per_channel(bias)
        return x


class DepthwiseConv(nn.Module):
    """A convolution of each channel with a kernel of its own, with PyTorch's padding and initialisers.

    Inside loops on CPUs ``flax.linen.Conv`` with one group per channel is slow; this is not. Its parameter has the
    shape of that layer's. Its multiply-accumulates count in ``FlaxFamily.macs``.

    Attributes:
      kernel_size: odd.
      stride: spatial stride.
      dilation: distance between kernel positions.
      use_bias: add a learned bias per channel.
      dtype: dtype of the parameters.
    """

    kernel_size: int
    stride: int = 1
    dilation: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, init: Array | int = 0) -> Array:
        """Map [B, H, W, C] to [B, H / stride, W / stride, C]; ``init`` indexes ``initializers.INITS``."""
        size, channels = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", initializers.conv_kernel, (size, size, 1, channels), self.dtype, init)
        x = windowed.depthwise_conv2d(x, kernel[:, :, 0], self.stride, self.dilation)
        if self.use_bias:
            bias = self.param("bias", initializers.conv_bias, (channels,), self.dtype, size * size, init)
            x = x + norms.per_channel(bias)
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
        """Normalise [B, H, W, C] by batch statistics when ``train``, by running averages otherwise."""
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
            x = norms.normalize(x)
        elif self.track:
            rstd = lax.rsqrt(var.value + norms.BATCH_NORM_EPSILON)  # pyright: ignore[reportPossiblyUnboundVariable]
            x = (x - norms.per_channel(mean.value)) * norms.per_channel(rstd)  # pyright: ignore[reportPossiblyUnboundVariable]
        else:
            raise ValueError(
                "BatchNorm(track=False) has no running averages: call with train=True, or build with track=True"
            )
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,), self.dtype)
            bias = self.param("bias", nn.initializers.zeros, (channels,), self.dtype)
            x = norms.affine(x, scale, bias)
        return x


class ConvBnRelu(nn.Module):
    """A convolution without bias, then batch norm and ReLU.

    Attributes:
      features: output channels.
      kernel_size: odd.
      stride: spatial stride.
      track: keep running averages, see :class:`BatchNorm`.
      dtype: dtype of the parameters.
    """

    features: int
    kernel_size: int
    stride: int = 1
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True, init: Array | int = 0) -> Array:
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]; ``init`` indexes ``initializers.INITS``."""
        x = Conv(self.features, self.kernel_size, self.stride, dtype=self.dtype, name="conv")(x, init)
        return marks.relu(BatchNorm(True, self.track, self.dtype, name="norm")(x, train))


def unstack(x: Array) -> list[Array]:
    """Split the leading axis. Unlike indexing, its gradient is one concatenation instead of a sum of padded arrays."""
    return [part[0] for part in lax.split(x, (1,) * x.shape[0])] if x.shape[0] else []


# --- feature taps whose width is data -------------------------------------------------------------------------
@flax.struct.dataclass
class PaddedTap:
    """A feature tap of a universal module whose number of channels is data.

    Attributes:
      features: [B, 8, 8, C_max], already resized; channels above those in use are zero.
      level: index into ``widths``: how many channels are read.
      widths: numbers of channels that may be in use, ascending; the last is C_max.
      used: how many channels are in use. Where it is absent, ``widths[level]`` are; else that many are read, and those
        above ``used`` are zero.
      pixels: height times width of the map before it was resized.
    """

    features: Array
    level: Array
    widths: tuple[int, ...] = flax.struct.field(pytree_node=False)
    used: Array | None = None
    pixels: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``features``."""
        return self.features.shape

    @property
    def channels(self) -> Array:
        """The number of channels in use."""
        return jnp.asarray(self.widths)[self.level] if self.used is None else self.used


class TapConv(nn.Module):
    """A :class:`Conv` at stride 1 on a :class:`PaddedTap`: work and fans are those of the channels in use.

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
        """Map [B, 8, 8, C_max] to [B, 8, 8, features]."""
        size, channels = self.kernel_size, tap.channels.astype(self.dtype)
        shape = (size, size, tap.widths[-1], self.features)
        kernel = self.param("kernel", initializers.conv_kernel, shape, self.dtype, init, None, None, channels)
        bias = self.param("bias", initializers.conv_bias, (self.features,), self.dtype, size * size * channels, init)
        conv_ops = tuple(choice.narrow_conv_op(width, size) for width in tap.widths)
        x: Any = choice.switch_op(conv_ops, tap.level, tap.features, {"kernel": kernel})
        return x + norms.per_channel(bias)
