"""This module turns NAS-Bench-MR networks into lists of convolutions: their order, and what each reads and adds.

The network, as the benchmark's authors built it (Ding et al., ICLR 2022; their published code). Level l has maps of
1 / 2**l of the images' height and width.

* Stem: two times conv3x3-BN-ReLU, at stride 1 here (docs/spaces.md), to the two input channels.
* A module: fusion, then per branch its residual blocks (conv3x3-BN-ReLU-conv3x3-BN plus identity, ReLU). The branch at
  level l of a module has that module's channels; the fusion is what changes channels, so blocks never project.
* Fusion: the new value of a branch that was there before is a sum. It adds conv-BN-ReLU of the branch itself (3x3) and
  of its neighbours only: 3x3 at stride 2 from the level above, 1x1 and then nearest upsampling from the level below. A
  branch that was not there before is conv3x3-BN-ReLU at stride 2 of the new value one level above. The first fusion
  reads the stem.
* End: all four branches, resized to the third one's size (1/4 of the images; bilinear), side by side, and
  conv1x1-BN-ReLU to the last channels.
* Feature taps: the end; and the branches of the second and third last module, resized to 8x8 (bilinear), side by side.

docs/spaces.md fixes stride 1 in the stem, bilinear resizing, and the taps ("two and four modules earlier", where
fusions and stacks of blocks count as modules of their own). The data does not say the rest. The published code of the
benchmark and of the proxy says it: fusion of neighbours only, its 3x3 convolution from a branch to itself, ReLU inside
the sum, fusion before the blocks, and the size at the end. The rows carry no counts to check this against. But the
Spearman correlations of MACs / parameters with the nine tasks are those that were measured before with the published
code: seg .51 / .60, seg-4x .45 / .37, 3ddet .41 / .34, cls-50-1000 .54 / .55, cls-10-1000 -.13 / -.15, cls-10c -.06 /
-.02, cls-50-100 -.30 / -.30, video -.31 / -.33, video-p -.31 / -.33.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from eproxy_jax.spaces.interpreter import loop
from eproxy_jax.spaces.nasbench_mr import notation
from eproxy_jax.spaces.nasbench_mr.notation import MAX_CHANNELS, NUM_STAGES, Arch

NUM_LEVELS = NUM_STAGES
NUM_TAPS = 3
FUSED_LEVEL = NUM_LEVELS - 2  # where the branches meet at the end
SAME, DOWN, UP = "same", "down", "up"  # 3x3; 3x3 at stride 2; 1x1, then upsampling

# Values are numbered: the zero map, the first stem convolution's output, then the outputs of the convolutions in order.
ZERO, STEM, FIRST_CONV = range(3)

# Gradients of values live in registers. A value's register is its own from its definition to its last use; the outputs
# of the last three modules, which taps read, are in three different ones. A branch's is FIRST_BRANCH + 4 turn + level.
NOWHERE, HIDDEN, FIRST_BRANCH = range(3)
_TURNS = NUM_TAPS


@dataclasses.dataclass(frozen=True)
class ConvShape:
    """One compiled convolution of the program. It serves all convolutions up to its width.

    Attributes:
      kind: ``SAME``, ``DOWN`` or ``UP``.
      level: of its input.
      eighths: its input and output channels, in eighths of the largest number.
    """

    kind: str
    level: int
    eighths: int

    @property
    def kernel_size(self) -> int:
        """Kernel size of the convolution."""
        return 1 if self.kind == UP else 3

    @property
    def stride(self) -> int:
        """Stride of the convolution."""
        return 2 if self.kind == DOWN else 1

    @property
    def conv_level(self) -> int:
        """Level of the convolution's output."""
        return self.level + 1 if self.kind == DOWN else self.level

    @property
    def level_out(self) -> int:
        """Level of what is written, after upsampling."""
        return self.level - 1 if self.kind == UP else self.conv_level


# Most of the work is at level 0: widths are finest there.
_EIGHTHS = {
    (SAME, 0): (1, 2, 3, 4, 5, 6, 7, 8),
    (SAME, 1): (2, 4, 6, 8),
    (SAME, 2): (4, 8),
    (DOWN, 0): (4, 8),
}
_PLACES = [(SAME, level) for level in range(NUM_LEVELS)]
_PLACES += [(DOWN, level) for level in range(NUM_LEVELS - 1)] + [(UP, level) for level in range(1, NUM_LEVELS)]
CONV_SHAPES = tuple(
    ConvShape(kind, level, eighths) for kind, level in _PLACES for eighths in _EIGHTHS.get((kind, level), (8,))
)


def conv_shape(kind: str, level: int, channels: int) -> int:
    """Return the index into ``CONV_SHAPES`` of the narrowest shape that takes ``channels`` (of at most 128)."""
    return next(
        index
        for index, shape in enumerate(CONV_SHAPES)
        if (shape.kind, shape.level) == (kind, level) and shape.eighths * MAX_CHANNELS >= 8 * channels
    )


class Value(NamedTuple):
    """A value that a convolution reads or adds.

    Attributes:
      number: of the value.
      register: of its gradient.
      channels: of at most 128.
    """

    number: int
    register: int
    channels: int


_NOTHING = Value(ZERO, NOWHERE, 0)


class ConvStep(NamedTuple):
    """One convolution of a network with its batch norm.

    It computes ``relu(norm(conv(source)) + addend)`` inside a residual block, and ``relu(norm(conv(source))) +
    addend`` in a fusion (upsampled before the sum from a lower level).

    Attributes:
      layer: name of the stand-alone network's layer that holds the convolution, and suffix of its ``conv`` and
        ``norm``.
      shape: index into ``CONV_SHAPES``.
      source: what it reads.
      addend: what it adds.
      after: whether the addend comes after the ReLU.
      out: its output.
    """

    layer: tuple[str, str]
    shape: int
    source: Value
    addend: Value
    after: bool
    out: Value


class ConvSequence(NamedTuple):
    """A network as a list of convolutions, between the first stem convolution and the fusion at the end.

    Attributes:
      steps: in the order of execution.
      taps: branches of the last three modules that feature taps read, last module first.
    """

    steps: tuple[ConvStep, ...]
    taps: tuple[tuple[Value, ...], ...]


@functools.lru_cache(maxsize=4096)
def conv_sequence(arch: Arch) -> ConvSequence:
    """Return the convolutions of an architecture."""
    (first, second), modules, _ = arch
    steps: list[ConvStep] = []

    def register(module: int, level: int) -> int:
        return FIRST_BRANCH + NUM_LEVELS * ((len(modules) - 1 - module) % _TURNS) + level

    def conv(
        layer: tuple[str, str],
        place: tuple[str, int],
        source: Value,
        out: tuple[int, int],
        addend: Value = _NOTHING,
        after: bool = False,
    ) -> Value:
        """Add a convolution of a kind at a level, whose output has the register and channels ``out``."""
        value = Value(FIRST_CONV + len(steps), *out)
        shape = conv_shape(*place, max(source.channels, value.channels))
        steps.append(ConvStep(layer, shape, source, addend, after, value))
        return value

    branches = [conv(("stem_b", ""), (SAME, 0), Value(STEM, HIDDEN, first), (register(-1, 0), second))]
    taps: list[tuple[Value, ...]] = []
    for m, (num_branches, blocks, channels) in enumerate(modules):
        fused: list[Value] = []
        for level in range(num_branches):
            out, name = (register(m, level), channels[level]), f"module{m}_fuse{level}"
            if level >= len(branches):
                fused.append(conv((f"{name}_new", ""), (DOWN, level - 1), fused[level - 1], out))
                continue
            total = conv((f"{name}_{level}", ""), (SAME, level), branches[level], out)
            for kind, other in ((DOWN, level - 1), (UP, level + 1)):
                if 0 <= other < len(branches):
                    total = conv((f"{name}_{other}", ""), (kind, other), branches[other], out, total, True)
            fused.append(total)
        for level in range(num_branches):
            for block in range(blocks[level]):
                x, name = fused[level], f"module{m}_branch{level}_block{block}"
                hidden = conv((name, "_a"), (SAME, level), x, (HIDDEN, x.channels))
                fused[level] = conv((name, "_b"), (SAME, level), hidden, (x.register, x.channels), x)
        branches = fused
        taps.append(tuple(branches))
    return ConvSequence(tuple(steps), tuple(taps[::-1][:NUM_TAPS]))


# The largest network: everything at its most.
LARGEST = notation.from_numbers([choices[-1] for choices in notation.CHOICES])
MAX_STEPS = len(conv_sequence(LARGEST).steps)


class Instructions(NamedTuple):
    """The convolutions of an encoded architecture; integer arrays [MAX_STEPS], or scalars of one convolution.

    Attributes:
      shape: index into ``CONV_SHAPES``; -1 for none.
      source: number of the value that it reads.
      addend: number of the value that it adds; ``ZERO`` for none.
      inputs: channels that are read.
      features: channels that are written.
      after: 1 where the addend comes after the ReLU.
      first_source: 1 where the gradient of its input starts here on the way back.
      first_addend: the same for the addend.
      source_register: of its input's gradient.
      addend_register: of the addend's gradient; ``NOWHERE`` for none.
      out_register: of its output's gradient.
    """

    shape: Any
    source: Any
    addend: Any
    inputs: Any
    features: Any
    after: Any
    first_source: Any
    first_addend: Any
    source_register: Any
    addend_register: Any
    out_register: Any

    @property
    def is_stem(self) -> Any:
        """Whether this is the second stem convolution."""
        return (self.source_register == HIDDEN) & (self.addend_register == NOWHERE)

    @property
    def begins_block(self) -> Any:
        """Whether this is the first convolution of a residual block."""
        return self.out_register == HIDDEN

    @property
    def ends_block(self) -> Any:
        """Whether this is the second convolution of a residual block."""
        return (self.source_register == HIDDEN) & (self.addend_register != NOWHERE)

    @property
    def enters_module(self) -> Any:
        """Whether this convolution of a fusion reads a branch of the module before."""
        source, out = self.source_register - FIRST_BRANCH, self.out_register - FIRST_BRANCH
        return (source >= 0) & (out >= 0) & (source // NUM_LEVELS != out // NUM_LEVELS)


class Taps(NamedTuple):
    """The branches that feature taps read, [3, 4]; ``ZERO``, ``NOWHERE`` and 0 for branches that are not there."""

    values: Any
    registers: Any
    channels: Any


class Encoded(NamedTuple):
    """The parts of an encoded architecture.

    Attributes:
      steps: its convolutions.
      taps: what feature taps read.
      first: channels of the first stem convolution.
      last: channels of the fusion at the end.
    """

    steps: Instructions
    taps: Taps
    first: Any
    last: Any


def _empty() -> Encoded:
    """Return an encoded architecture without convolutions."""
    steps = Instructions(*(np.zeros(MAX_STEPS, np.int32) for _ in Instructions._fields))
    steps.shape[:] = -1
    taps = Taps(*(np.zeros((NUM_TAPS, NUM_LEVELS), np.int32) for _ in Taps._fields))
    return Encoded(steps, taps, np.zeros((), np.int32), np.zeros((), np.int32))


def encode(arch: Arch, divisor: int) -> np.ndarray:
    """Encode an architecture as one integer array, channels divided by ``divisor``; see :func:`decode`."""
    network, (steps, taps, _, _) = conv_sequence(arch), _empty()
    started = {value.number for tap in network.taps for value in tap}
    for number, step in reversed(list(enumerate(network.steps))):
        source, addend, out = step.source, step.addend, step.out
        row = Instructions(
            shape=step.shape,
            source=source.number,
            addend=addend.number,
            inputs=source.channels // divisor,
            features=out.channels // divisor,
            after=step.after,
            first_source=source.number not in started,
            first_addend=addend.number not in started,
            source_register=source.register,
            addend_register=addend.register,
            out_register=out.register,
        )
        for column, value in zip(steps, row, strict=True):
            column[number] = value
        started |= {source.number, addend.number}
    for slot, tap in enumerate(network.taps):
        for level, value in enumerate(tap):
            taps.values[slot, level], taps.registers[slot, level] = value.number, value.register
            taps.channels[slot, level] = value.channels // divisor
    return loop.pack(Encoded(steps, taps, arch[0][0] // divisor, arch[2] // divisor))


def decode(encoded: Array) -> Encoded:
    """Return the parts of an encoded architecture."""
    return loop.unpack(_empty(), encoded)
