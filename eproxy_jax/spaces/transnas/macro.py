"""This module defines TransNAS-Bench-101's macro space: four to six modules, each with its stride and widening.

Source: Duan et al., "TransNAS-Bench-101", CVPR 2021; the skeleton as docs/spaces.md gives it.

A module is two residual blocks. :meth:`TransNasMacro.notations` lists the notations; ``macro_code.py`` says which codes
there are, and how they are built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.nn import layers, marks
from eproxy_jax.spaces import base
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.interpreter import bank
from eproxy_jax.spaces.structure import Structure
from eproxy_jax.spaces.transnas import macro_code
from eproxy_jax.spaces.transnas.macro_code import MAX_MODULES, Code
from eproxy_jax.spaces.transnas.macro_interpreter import BlockShape
from eproxy_jax.spaces.transnas.macro_net import UniversalTransNasMacro, block_shape, map_sizes
from eproxy_jax.spaces.transnas.skeleton import CELLS_PER_MODULE, TransNasNet, stem_macs, stem_params, tap_channels


@base.register("transnas_macro")
@dataclasses.dataclass(frozen=True)
class TransNasMacro(base.SearchSpace, base.Group):
    """The TransNAS-Bench-101 macro space.

    An architecture is a tuple of four to six digits.

    Attributes:
      stem_channels: channels that enter the first module (64 in the benchmark); even.

    Example:
      >>> space = TransNasMacro()
      >>> arch = space.parse("64-2314-basic")
      >>> arch, space.format(space.canonical(arch))
      ((2, 3, 1, 4), '64-2312-basic')
    """

    stem_channels: int = 64

    name: ClassVar[str] = "transnas_macro"
    paper: ClassVar[str] = 'Duan et al., "TransNAS-Bench-101", CVPR 2021'

    def __post_init__(self):
        base.check_positive(self)
        if self.stem_channels % 2:
            raise ValueError(f"TransNasMacro.stem_channels: expected an even integer, got {self.stem_channels}")

    @override
    def parse(self, source: Any) -> Code:
        return macro_code.parse(source)

    @override
    def notations(self) -> tuple[Notation, ...]:
        meaning = "a digit a module: 1 keeps the shape, 2 doubles the channels, 3 halves the size, 4 does both"
        return (
            Notation("string", "64-2311-basic", f"the benchmark: {meaning}"),
            Notation("digits", [2, 3, 1, 1], "the digits one by one"),
            Notation("number", 2311, "the digits as one number"),
            Notation("NASLib codes", "(2, 3, 1, 1, 0, 0)", "the digits one by one, with zeros up to six"),
        )

    @override
    def format(self, arch: Code) -> str:
        """Write ``64-MACROCODE-basic``; 64 is part of the notation, whatever ``stem_channels`` is."""
        return f"64-{macro_code.digits(arch)}-{macro_code.BLOCK}"

    @property
    @override
    def num_archs(self) -> int:
        return len(macro_code.all_codes())

    @override
    def enumerate(self) -> Iterator[Code]:
        """Return every code, short ones first, then in lexicographic order."""
        return iter(macro_code.all_codes())

    @override
    def sample(self, num: int, seed: int) -> list[Code]:
        codes = macro_code.all_codes()
        return [codes[i] for i in sampling.draw_distinct(len(codes), num, seed, type(self).__name__)]

    @override
    def neighbours(self, arch: Code) -> list[Code]:
        """Return the codes with one digit changed, put in or taken out."""
        found: dict[Code, None] = {}
        for place in range(len(arch) + 1):
            head, tail = arch[:place], arch[place:]
            found |= {(*head, digit, *tail): None for digit in (1, 2, 3, 4)}
            if tail:
                found |= {(*head, digit, *tail[1:]): None for digit in (1, 2, 3, 4)}
                found[(*head, *tail[1:])] = None
        return [code for code in found if code != arch and not macro_code.problem(code)]

    @override
    def canonical(self, arch: Code) -> Code:
        """Return the code as built, with a last 4 written as 2, where that is a code of the space.

        On maps of 1x1 pixel, too, halving makes no difference: a 4 does what a 2 does. But which maps are that small
        depends on the images, so such codes are not merged.
        """
        built = macro_code.built(arch)
        return arch if macro_code.problem(built) else built

    @override
    def structure(self, arch: Code) -> Structure:
        """Return the modules of each kind, and after each place the widenings and strides so far, as built."""
        code = macro_code.built(arch)
        numbers: dict[str, float] = {"modules": len(code)}
        numbers |= {kind: code.count(digit) for digit, kind in enumerate(("plain", "widen", "stride", "both"), start=1)}
        for place in range(1, MAX_MODULES + 1):
            before = code[:place] if place <= len(code) else ()
            numbers[f"widenings_after{place}"] = macro_code.doublings(before)
            numbers[f"strides_after{place}"] = macro_code.halvings(before)
        return Structure(numbers=numbers)

    @override
    def encode(self, archs: Sequence[Code]) -> np.ndarray:
        """Encode codes as digits as built, int32 [A, 6]; shorter codes have zeros in front."""
        rows = [(0,) * (MAX_MODULES - len(arch)) + macro_code.built(arch) for arch in archs]
        return np.asarray(rows, np.int32).reshape(-1, MAX_MODULES)

    def _blocks(self, arch: Code) -> list[tuple[BlockShape, int]]:
        """Return the shape of each residual block, for 32-pixel images, and its output positions."""
        sizes = map_sizes((8, 8))
        shapes = [block_shape(self.stem_channels, sizes, *step) for step in macro_code.steps(arch)]
        return [(shape, shape.size[0] * shape.size[1]) for shape in shapes]

    @override
    def macs(self, arch: Code) -> int:
        return stem_macs(self.stem_channels) + sum(b.num_weights * positions for b, positions in self._blocks(arch))

    @override
    def max_macs(self) -> int:
        """Return the MACs of the code that doubles three times at once and halves at the end only."""
        return self.macs((2, 2, 2, 1, 1, 3))

    @override
    def params(self, arch: Code) -> int:
        blocks = sum(shape.num_weights + 2 * shape.num_scales for shape, _ in self._blocks(arch))
        return stem_params(self.stem_channels) + blocks

    @override
    def tap_channels(self, arch: Code) -> tuple[int, ...]:
        return tap_channels(macro_code.digits(arch), self.stem_channels)

    @override
    def to_flax(self, arch: Code, num_classes: int | None = None) -> TransNasMacroNet:
        code = macro_code.parse(arch)
        return TransNasMacroNet(code, stem_channels=self.stem_channels, num_classes=num_classes)

    @override
    def universal(self, dtype: Any = jnp.float32) -> UniversalTransNasMacro:
        return UniversalTransNasMacro(self.stem_channels, dtype)

    @override
    def extract(self, arch: Code, universal_params: Any) -> dict[str, Any]:
        places: dict[bank.Path, bank.KernelPlace | bank.NormPlace] = {}
        row = scale = 0
        for number, (shape, _) in enumerate(self._blocks(arch)):
            module, block = divmod(number, CELLS_PER_MODULE)
            for suffix, step in zip(("a", "b", "shortcut"), shape.steps, strict=False):
                name = f"module{module}_block{block}"
                places[name, f"conv_{suffix}"] = bank.KernelPlace(row, step.kernel)
                places[name, f"norm_{suffix}"] = bank.NormPlace(scale, step.channels)
                row, scale = row + step.num_weights // self.stem_channels, scale + step.channels
        return {"stem": universal_params["stem"], **bank.extract(universal_params, places)}


# --- modules -------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """A residual block: conv3x3-BN-ReLU-conv3x3-BN plus shortcut, then ReLU.

    Where ``projects``, the shortcut is a 1x1 convolution and batch norm.
    """

    features: int
    stride: int = 1
    projects: bool = False
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]."""

        def conv_norm(x: Array, size: int, stride: int, suffix: str) -> Array:
            x = layers.Conv(self.features, size, stride, dtype=self.dtype, name=f"conv_{suffix}")(x)
            return layers.BatchNorm(True, self.track, self.dtype, name=f"norm_{suffix}")(x, train)

        y = marks.relu(conv_norm(x, 3, self.stride, "a"))
        y = conv_norm(y, 3, 1, "b")
        return marks.relu(y + (conv_norm(x, 1, self.stride, "shortcut") if self.projects else x))


class TransNasMacroNet(TransNasNet):
    """A stand-alone TransNAS-Bench-101-macro network.

    Attributes:
      code: the macro code; a last 4 is read as 2.
    """

    code: Code

    piece: ClassVar[str] = "block"

    def macro_code(self) -> str:
        """Return the macro code, digits 1 to 4, one per module."""
        return macro_code.digits(self.code)

    def make_piece(self, channels_in: int, channels: int, stride: int) -> nn.Module:
        """Build a residual block, [B, H, W, channels_in] -> [B, H / stride, W / stride, channels]."""
        projects = stride > 1 or channels_in != channels
        return BasicBlock(channels, stride, projects, self.track, self.dtype)
