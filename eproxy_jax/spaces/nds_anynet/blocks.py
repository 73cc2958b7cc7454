"""This module counts parameters and FLOPs of the official NDS AnyNets, exactly as the published results state them.

These are the networks on 224-pixel ImageNet or 32-pixel CIFAR images, stem and classifier included: what a row's
``params`` and ``flops`` count. The backbone that Eproxy trains is smaller; its counts are methods of its space.

The stem depends on its stride: a 3x3 convolution (1), a 7x7 convolution and a max pool (4), or three 3x3 convolutions
of half the width, the width, and the width (8). Each convolution has a batch norm. A FLOP is one multiply-accumulate of
a convolution or of the classifier, whose biases count too. Batch norm, bias and activation add five FLOPs for each
output of a convolution, whether an activation follows or not. Pools and additions are free.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from eproxy_jax.spaces.nds_anynet.notation import PLAIN, AnyNetArch

_FLOPS_BESIDE = 5  # for each output of a convolution


class Conv(NamedTuple):
    """One convolution and its batch norm.

    Attributes:
      kernel: k.
      channels_in: its input channels.
      channels: its output channels.
      groups: how many groups it has.
      size: height and width of its output.
    """

    kernel: int
    channels_in: int
    channels: int
    groups: int
    size: int

    @property
    def weights(self) -> int:
        """Kernel weights."""
        return self.kernel**2 * self.channels_in // self.groups * self.channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return self.weights * self.size**2


def stem_convs(width: int, stride: int, size: int) -> list[Conv]:
    """Return the convolutions of an official stem; ``size`` is the height and width of the image."""
    if stride == 1:
        return [Conv(3, 3, width, 1, size)]
    if stride == 4:
        return [Conv(7, 3, width, 1, size // 2)]
    half = width // 2
    return [Conv(3, 3, half, 1, size // 2), Conv(3, half, width, 1, size // 4), Conv(3, width, width, 1, size // 8)]


class Block(NamedTuple):
    """One block of a stage.

    Attributes:
      stage: 1, 2, ...
      ends: whether it is the stage's last one.
      stride: 1 or 2.
      shortcut: the convolution on the shortcut, where there is one.
      convs: the others, in order.
    """

    stage: int
    ends: bool
    stride: int
    shortcut: Conv | None
    convs: tuple[Conv, ...]

    @property
    def all_convs(self) -> tuple[Conv, ...]:
        """All convolutions of the block, the shortcut's first."""
        return self.convs if self.shortcut is None else (self.shortcut, *self.convs)


def stage_blocks(
    arch: AnyNetArch, block: str, stage: int, channels_in: int, width: int, hidden: int, size: int
) -> Iterator[Block]:
    """Yield the blocks of a stage.

    Args:
      arch: depths, strides and groups.
      block: block type.
      stage: 1, 2, ...
      channels_in: channels that enter the stage.
      width: its output channels.
      hidden: its bottlenecks' inner channels; 0 where it has none.
      size: height and width of the maps that enter it.
    """
    for number in range(arch.ds[stage]):
        stride = arch.ss[stage] if number == 0 else 1
        after = -(-size // stride)
        if hidden:
            convs = (
                Conv(1, channels_in, hidden, 1, size),
                Conv(3, hidden, hidden, arch.num_gs[stage], after),
                Conv(1, hidden, width, 1, after),
            )
        else:
            convs = (Conv(3, channels_in, width, 1, after), Conv(3, width, width, 1, after))
        projects = block != PLAIN and (stride > 1 or channels_in != width)
        shortcut = Conv(1, channels_in, width, 1, after) if projects else None
        yield Block(stage, number == arch.ds[stage] - 1, stride, shortcut, convs)
        channels_in, size = width, after


def network_convs(arch: AnyNetArch, block: str, size: int) -> Iterator[Conv]:
    """Yield all convolutions of the official network."""
    yield from stem_convs(arch.ws[0], arch.ss[0], size)
    size //= arch.ss[0]
    for stage in range(1, len(arch.ds)):
        hidden = arch.hidden(stage) if arch.bot_muls else 0
        for one in stage_blocks(arch, block, stage, arch.ws[stage - 1], arch.ws[stage], hidden, size):
            yield from one.all_convs
        size = -(-size // arch.ss[stage])


def _image(arch: AnyNetArch) -> tuple[int, int]:
    """Return (height and width of the images, classes) of the data set that an architecture is for."""
    return (32, 10) if arch.ss[0] == 1 else (224, 1000)


def published_params(arch: AnyNetArch, block: str) -> int:
    """Count the parameters of the official network, a row's ``params``."""
    size, classes = _image(arch)
    convs = sum(conv.weights + 2 * conv.channels for conv in network_convs(arch, block, size))
    return convs + arch.ws[-1] * classes + classes


def published_flops(arch: AnyNetArch, block: str) -> int:
    """Count the FLOPs of the official network for one image, a row's ``flops``."""
    size, classes = _image(arch)
    convs = sum(conv.macs + _FLOPS_BESIDE * conv.channels * conv.size**2 for conv in network_convs(arch, block, size))
    return convs + arch.ws[-1] * classes + classes
