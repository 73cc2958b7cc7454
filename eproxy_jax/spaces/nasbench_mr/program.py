"""NAS-Bench-MR networks as programs: which convolutions run in which order, and what each reads and adds.

The network, as the benchmark's authors built it (Ding et al., ICLR 2022; their published code). Level l has maps of
1 / 2**l of the images' height and width.

* Stem: two times conv3x3-BN-ReLU, at stride 1 here (PROTOCOL), to the two input channels.
* A module: fusion, then per branch its residual blocks (conv3x3-BN-ReLU-conv3x3-BN plus identity, ReLU). The branch at
  level l of a module has that module's channels; the fusion is what changes channels, so blocks never project.
* Fusion: the new value of a branch that was there before is the sum of conv-BN-ReLU of itself (3x3) and of its
  neighbours only: 3x3 at stride 2 from the level above, 1x1 and then nearest upsampling from the level below. A branch
  that was not there before is conv3x3-BN-ReLU at stride 2 of the new value one level above. The first fusion reads the
  stem.
* End: all four branches, resized to the third one's size (1/4 of the images; bilinear), side by side, and
  conv1x1-BN-ReLU to the last channels.
* Feature taps: the end; and the branches of the second and third last module, resized to 8x8 (bilinear), side by side.

Fixed by PROTOCOL: stride 1 in the stem, the taps ("two and four modules earlier", where fusions and stacks of blocks
count as modules of their own), bilinear resizing. Read out of the published code of the benchmark and of the proxy,
because the data does not say: fusion of neighbours only, its 3x3 convolution from a branch to itself, ReLU inside the
sum, fusion before the blocks, and the size at the end. The rows carry no counts to check this against, but its Spearman
correlations of MACs / parameters with the nine tasks are those that were measured before with the published code: seg
.51 / .60, seg-4x .45 / .37, 3ddet .41 / .34, cls-50-1000 .54 / .55, cls-10-1000 -.13 / -.15, cls-10c -.06 / -.02,
cls-50-100 -.30 / -.30, video -.31 / -.33, video-p -.31 / -.33.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

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
    """What one compiled convolution of the program does; it serves all convolutions up to its width.

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
        """Of the convolution."""
        return 1 if self.kind == UP else 3

    @property
    def stride(self) -> int:
        """Of the convolution."""
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
    """Index into ``CONV_SHAPES`` of the narrowest that takes ``channels`` (of at most 128)."""
    return next(
        index
        for index, shape in enumerate(CONV_SHAPES)
        if (shape.kind, shape.level) == (kind, level) and shape.eighths * MAX_CHANNELS >= 8 * channels
    )


class ConvStep(NamedTuple):
    """One convolution of a network with its batch norm.

    What it computes: ``relu(norm(conv(source)) + addend)`` inside a residual block, ``relu(norm(conv(source))) +
    addend`` in a fusion (upsampled before the sum from a lower level).

    Attributes:
      name: of the stand-alone network's layer that holds the convolution.
      suffix: of the layer's ``conv`` and ``norm``.
      shape: index into ``CONV_SHAPES``.
      source: number of the value that it reads.
      addend: number of the value that it adds; ``ZERO`` for none.
      after: whether the addend comes after the ReLU.
      inputs: channels that are read, of at most 128.
      features: channels that are written.
      registers: of the source, of the addend and of the output.
    """

    name: str
    suffix: str
    shape: int
    source: int
    addend: int
    after: bool
    inputs: int
    features: int
    registers: tuple[int, int, int]


class Tap(NamedTuple):
    """The branches of a module that a feature tap reads.

    Attributes:
      values: their numbers.
      registers: their registers.
      channels: their channels.
    """

    values: tuple[int, ...]
    registers: tuple[int, ...]
    channels: tuple[int, ...]


class Program(NamedTuple):
    """A network as a list of convolutions, between the first stem convolution and the fusion at the end.

    Attributes:
      steps: in the order of execution.
      taps: of the last three modules, last first.
    """

    steps: tuple[ConvStep, ...]
    taps: tuple[Tap, ...]


@functools.lru_cache(maxsize=4096)
def program(arch: Arch) -> Program:
    """The program of an architecture."""
    (first, second), modules, _ = arch
    steps: list[ConvStep] = []

    def register(module: int, level: int) -> int:
        return FIRST_BRANCH + NUM_LEVELS * ((len(modules) - 1 - module) % _TURNS) + level

    def conv(name: str, suffix: str, kind: str, level: int, source: tuple[int, int, int], features: int, out: int,
             addend: tuple[int, int] = (ZERO, NOWHERE), after: bool = False) -> tuple[int, int, int]:  # fmt: skip
        """(number, register, channels) of the output, from those of the source and the addend."""
        value, source_register, inputs = source
        shape = conv_shape(kind, level, max(inputs, features))
        registers = (source_register, addend[1], out)
        steps.append(ConvStep(name, suffix, shape, value, addend[0], after, inputs, features, registers))
        return FIRST_CONV + len(steps) - 1, out, features

    branches = [conv("stem_b", "", SAME, 0, (STEM, HIDDEN, first), second, register(-1, 0))]
    taps: list[Tap] = []
    for m, (num_branches, blocks, channels) in enumerate(modules):
        fused: list[tuple[int, int, int]] = []
        for level in range(num_branches):
            width, out, name = channels[level], register(m, level), f"module{m}_fuse{level}"
            if level >= len(branches):
                fused.append(conv(f"{name}_new", "", DOWN, level - 1, fused[level - 1], width, out))
                continue
            total = conv(f"{name}_{level}", "", SAME, level, branches[level], width, out)
            if level > 0:
                total = conv(
                    f"{name}_{level - 1}", "", DOWN, level - 1, branches[level - 1], width, out, total[:2], True
                )
            if level + 1 < len(branches):
                total = conv(f"{name}_{level + 1}", "", UP, level + 1, branches[level + 1], width, out, total[:2], True)
            fused.append(total)
        for level in range(num_branches):
            for block in range(blocks[level]):
                x, width, name = fused[level], channels[level], f"module{m}_branch{level}_block{block}"
                hidden = conv(name, "_a", SAME, level, x, width, HIDDEN)
                fused[level] = conv(name, "_b", SAME, level, hidden, width, x[1], x[:2])
        branches = fused
        taps.append(Tap(*map(tuple, zip(*branches, strict=True))))  # pyright: ignore[reportArgumentType]
    return Program(tuple(steps), tuple(taps[::-1][:NUM_TAPS]))


# The largest network: everything at its most.
LARGEST = notation.from_numbers([choices[-1] for choices in notation.CHOICES])
MAX_STEPS = len(program(LARGEST).steps)


class Encoded(NamedTuple):
    """The parts of an encoded architecture.

    Attributes:
      steps: [MAX_STEPS, 11]: shape (-1 for none), source, addend, inputs, features; three flags: the addend comes after
        the ReLU, the gradient of the source starts here on the way back, that of the addend does; three registers.
      taps: [3, 3, 4]: per tap the numbers, registers and channels of its branches; ``ZERO``, ``NOWHERE`` and 0 for
        branches that are not there.
      ends: channels of the first stem convolution and of the fusion at the end.
    """

    steps: np.ndarray
    taps: np.ndarray
    ends: np.ndarray


_COLUMNS = 11


def encode(arch: Arch, divisor: int) -> np.ndarray:
    """An architecture as one integer array, channels divided by ``divisor``; see :func:`decode`."""
    parts = program(arch)
    steps = np.zeros((MAX_STEPS, _COLUMNS), np.int32)
    steps[:, 0] = -1
    started = {value for tap in parts.taps for value in tap.values}
    for row, step in reversed(list(zip(steps, parts.steps, strict=False))):
        widths = (step.inputs // divisor, step.features // divisor)
        flags = (step.after, step.source not in started, step.addend not in started)
        row[:] = (step.shape, step.source, step.addend, *widths, *flags, *step.registers)
        started |= {step.source, step.addend}
    taps = np.zeros((NUM_TAPS, 3, NUM_LEVELS), np.int32)
    for slot, tap in zip(taps, parts.taps, strict=True):
        slot[:, : len(tap.values)] = (tap.values, tap.registers, [c // divisor for c in tap.channels])
    ends = np.asarray([arch[0][0] // divisor, arch[2] // divisor], np.int32)
    return np.concatenate([steps.reshape(-1), taps.reshape(-1), ends])


def decode(encoded):
    """The parts of an encoded architecture, NumPy or JAX."""
    steps, taps = MAX_STEPS * _COLUMNS, NUM_TAPS * 3 * NUM_LEVELS
    return Encoded(
        encoded[:steps].reshape(MAX_STEPS, _COLUMNS),
        encoded[steps : steps + taps].reshape(NUM_TAPS, 3, NUM_LEVELS),
        encoded[steps + taps :],
    )
