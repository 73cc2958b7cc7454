"""This module counts parameters and flops of the ImageNet networks that NDS trained, as its files report them.

Those networks have a stem that reduces 224 pixels by 8 in three convolutions and a classifier of 1000 classes; a
score's backbone has neither. The counts are here to check operations, reductions and outputs of cells against every row
of the files: both numbers come out exactly.

The files count flops for one image. A multiply-accumulate of a convolution, an element that enters a ReLU, and a weight
or a bias of the classifier count one each. An element of the last map counts one too, for the average before the
classifier. Each output of a k x k pool counts k * k. Batch norms and sums are free. A dilated convolution is counted as
if it were not dilated but had the padding of one. Its output then seems larger than it is (k = 3: n + 2 instead of n).

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019; the rules of counting are
ours, found by fitting the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from eproxy_jax.spaces.nds_cells import cell_ops, notation
from eproxy_jax.spaces.nds_cells.notation import NdsArch, Rules

IMAGE_SIZE, NUM_CLASSES = 224, 1000


class Counts(NamedTuple):
    """The parameters and the flops of a network, as the files count them."""

    params: int
    flops: int

    def plus(self, other: Counts) -> Counts:
        """Add both counts."""
        return Counts(self.params + other.params, self.flops + other.flops)


def _unit(unit: cell_ops.Unit, channels_in: int, channels: int, size: int) -> Counts:
    """Count ReLU, convolutions and batch norm on a map of ``size`` x ``size`` pixels."""
    params, flops = 2 * channels, channels_in * size**2
    for linear in unit:
        weights, seen = linear.num_weights(channels_in, channels), linear.outputs(size)
        if linear.dilation > 1:
            seen = (int(seen**0.5) + (linear.dilation - 1) * (linear.size - 1) // _stride(linear, size)) ** 2
        params, flops = params + weights, flops + weights * seen
    return Counts(params, flops)


def _stride(linear: cell_ops.Linear, size: int) -> int:
    return size // int(linear.outputs(size) ** 0.5)


def _operation(op: str, stride: int, channels: int, size: int) -> Counts:
    total, out = Counts(0, 0), -(-size // stride)
    if "_pool_" in op:
        return Counts(0, channels * (int(op[-1]) * out) ** 2)
    for part, unit in enumerate(cell_ops.units(op, stride)):
        total = total.plus(_unit(unit, channels, channels, out if part else size))
    return total


def _stem(width: int) -> Iterator[Counts]:
    """Count the stem: conv-BN-ReLU-conv-BN, ReLU-conv-BN, each at stride 2."""
    half, size = width // 2, IMAGE_SIZE // 2
    yield Counts(27 * half + 2 * half, 27 * half * size**2 + half * size**2)
    yield Counts(9 * half * width + 2 * width, 9 * half * width * (size // 2) ** 2 + width * (size // 2) ** 2)
    yield Counts(9 * width * width + 2 * width, 9 * width * width * (size // 4) ** 2)


def counts(arch: NdsArch, rules: Rules) -> Counts:
    """Count the parameters and flops of the ImageNet network of a genotype.

    Example:
      >>> from eproxy_jax import spaces
      >>> space = spaces.get("nds_darts")
      >>> edges = (("skip_connect", 0),) * 8
      >>> counts(notation.NdsArch(edges, edges, 32, 6), space.rules).params
      908088
    """
    total = Counts(0, 0)
    for part in _stem(arch.width):
        total = total.plus(part)
    size = IMAGE_SIZE // 8
    older, newer = (arch.width, 2 * size), (arch.width, size)  # channels and size of the two inputs
    channels = arch.width
    for place in range(arch.depth):
        reduces = place in (arch.depth // 3, 2 * arch.depth // 3)
        cell = arch.reduce if reduces else arch.normal
        channels *= 2 if reduces else 1
        for wide, at in (older, newer):
            unit = (cell_ops.pointwise(1),) if at == size else (cell_ops.FACTORIZED_REDUCE,)
            total = total.plus(_unit(unit, wide, channels, at))
        out = size // 2 if reduces else size
        for op, source in cell:
            stride = 2 if reduces and source < 2 else 1
            total = total.plus(_operation(op, stride, channels, size if source < 2 else out))
        size, older = out, newer
        newer = len(notation.concat(cell, rules)) * channels, size
    classifier = newer[0] * NUM_CLASSES + NUM_CLASSES
    return total.plus(Counts(classifier, classifier + newer[0] * size**2))
