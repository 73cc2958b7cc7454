"""This module has the operations of the NDS cells as data: their parts, the size of their weights, their computation.

An operation with weights has one or two units. A unit is ReLU, one or two linear maps (convolutions), batch norm; the
first unit of an operation takes its stride. The rest, pools and ``skip_connect`` at stride 1, has no weights and no
batch norm.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019; operations as in DARTS. The
parameters that NDS reports confirm every kernel shape here (see ``published_counts.py``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from eproxy_jax.nn import convolution, pooling, windowed

NONE, SKIP = "none", "skip_connect"


class Linear(NamedTuple):
    """A linear map of a unit.

    Attributes:
      apply: (x [B, H, W, C_in], kernel) -> [B, H', W', C_out].
      positions: kernel positions; the area that fans count.
      depthwise: one kernel a channel; else every output channel reads every input channel.
      outputs: (n) -> output positions, where the unit's input has n x n pixels.
      shape: height and width of the kernel.
      dilation: distance between kernel positions.
      halves: the output channels are two convolutions of half the channels each, for the fans.
    """

    apply: Callable[[Array, Array], Array]
    positions: int
    depthwise: bool
    outputs: Callable[[int], int]
    shape: tuple[int, int]
    dilation: int = 1
    halves: bool = False

    @property
    def size(self) -> int:
        """Kernel size, the longer one."""
        return max(self.shape)

    def kernel_shape(self, channels_in: int, channels: int) -> tuple[int, ...]:
        """Return the shape of the kernel: [k, k', C_in, C_out], C_in being 1 where it is depthwise."""
        return (*self.shape, 1 if self.depthwise else channels_in, channels)

    def num_weights(self, channels_in: int, channels: int) -> int:
        """Count the kernel weights."""
        return self.positions * channels * (1 if self.depthwise else channels_in)

    def fans(self, channels_in: int, channels: int) -> tuple[int, int, int]:
        """Return (area, features, inputs) as ``initializers.conv_kernel`` takes them, which are those of PyTorch."""
        return self.positions, channels // 2 if self.halves else channels, 1 if self.depthwise else channels_in


Unit = tuple[Linear, ...]


def _after(n: int, stride: int) -> int:
    return -(-n // stride)


def _square(stride: int) -> Callable[[int], int]:
    return lambda n: _after(n, stride) ** 2


@functools.cache
def _conv(size: int, stride: int) -> Linear:
    return Linear(
        lambda x, kernel: convolution.conv2d(x, kernel, stride), size * size, False, _square(stride), (size, size)
    )


@functools.cache
def _depthwise(size: int, stride: int, dilation: int) -> Linear:
    def apply(x: Array, kernel: Array) -> Array:
        return windowed.depthwise_conv2d(x, kernel[:, :, 0], stride, dilation)

    return Linear(apply, size * size, True, _square(stride), (size, size), dilation)


@functools.cache
def _line(size: int, axis: int, stride: int) -> Linear:
    def outputs(n: int) -> int:
        return (n if axis == 2 else _after(n, stride)) * _after(n, stride)

    def apply(x: Array, kernel: Array) -> Array:
        return windowed.line_conv(x, kernel.reshape(size, *kernel.shape[2:]), axis, stride)

    return Linear(apply, size, False, outputs, (size, 1) if axis == 1 else (1, size))


@functools.cache
def pointwise(stride: int) -> Linear:
    """Return a 1x1 convolution at stride 1, for a unit whose first map has the stride."""
    return Linear(lambda x, kernel: convolution.conv2d(x, kernel), 1, False, _square(stride), (1, 1))


FACTORIZED_REDUCE = Linear(convolution.halving_conv2d, 1, False, _square(2), (1, 1), halves=True)


@functools.cache
def units(op: str, stride: int) -> tuple[Unit, ...]:
    """Return the units of an operation; ``()`` where it has no weights.

    Raises:
      ValueError: no operation of that name.

    Example:
      >>> [[linear.positions for linear in unit] for unit in units("sep_conv_5x5", 1)]
      [[25, 1], [25, 1]]
    """
    if op == NONE or "_pool_" in op:
        return ()
    if op == SKIP:
        return ((FACTORIZED_REDUCE,),) if stride == 2 else ()
    kind, size = re.fullmatch(r"(\w+?)_(\d)x\d(?:_\dx\d)?", op).groups()  # pyright: ignore[reportOptionalMemberAccess]
    size = int(size)
    if kind in ("sep_conv", "dil_sep_conv"):
        dilation = 2 if kind == "dil_sep_conv" else 1
        return tuple((_depthwise(size, s, dilation), pointwise(s)) for s in (stride, 1))
    if kind == "dil_conv":
        return ((_depthwise(size, stride, 2), pointwise(stride)),)
    if op.count("x") == 2:  # conv_7x1_1x7: along the width first, as the reference does
        return ((_line(size, 2, stride), _line(size, 1, stride)),)
    return ((_conv(size, stride),),)


@functools.cache
def weightless(op: str, stride: int) -> Callable[[Array], Array] | None:
    """Return a pool or the identity, [B, H, W, C] -> [B, H', W', C]; None for operations with weights and ``none``."""
    if op == SKIP and stride == 1:
        return lambda x: x
    if op == "avg_pool_3x3":
        return lambda x: pooling.avg_pool_3x3(x)[:, ::stride, ::stride]
    if op.startswith("max_pool"):
        return lambda x: windowed.max_pool(x, int(op[-1]), stride)
    return None


def unit_weights(unit: Unit, channels_in: int, channels: int) -> int:
    """Count the kernel weights of a unit."""
    return sum(linear.num_weights(channels_in, channels) for linear in unit)


def unit_macs(unit: Unit, channels_in: int, channels: int, size: int) -> int:
    """Count the multiply-accumulates of a unit whose input has ``size`` x ``size`` pixels."""
    return sum(linear.num_weights(channels_in, channels) * linear.outputs(size) for linear in unit)
