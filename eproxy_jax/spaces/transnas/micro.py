"""This module defines TransNAS-Bench-101's micro space: a four-node cell with four operations, in a fixed skeleton.

Source: Duan et al., "TransNAS-Bench-101", CVPR 2021; the skeleton as docs/spaces.md gives it.

:meth:`TransNasMicro.notations` lists the notations. Digits, flat or nested, mean the same in all of them: NASLib
numbers and orders this benchmark's edges as its strings do.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from typing_extensions import override

from eproxy_jax.errors import quoted
from eproxy_jax.nn import initializers, layers, marks
from eproxy_jax.spaces import base, literals
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.cells import net
from eproxy_jax.spaces.cells.graph import CONV1X1, CONV3X3, NONE, NUM_EDGES, SKIP, Cell
from eproxy_jax.spaces.cells.space import CellNames, CellSpace, check_cell
from eproxy_jax.spaces.transnas.skeleton import (
    NUM_TAPS,
    Stem,
    TransNasNet,
    module_shapes,
    stem_macs,
    stem_params,
    tap_channels,
)

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
_PREFIX = "64-41414-"  # the one macro skeleton of the micro space
_EXAMPLE = "64-41414-3_21_013"
_STRING = re.compile(rf"(?:{_PREFIX})?([0-9])_([0-9])([0-9])_([0-9])([0-9])([0-9])")
_NAMES = CellNames("TransNAS-Bench-101-micro", OPS, _EXAMPLE)


@base.register("transnas_micro")
@dataclasses.dataclass(frozen=True)
class TransNasMicro(CellSpace):
    """The TransNAS-Bench-101 micro space.

    An architecture is a ``Cell`` of six operation codes (see ``cells/graph.py``).

    Attributes:
      stem_channels: channels that enter the first module (64 in the benchmark); even.
      macro: the macro code of the skeleton, digits 1 to 4.

    Example:
      >>> space = TransNasMicro()
      >>> space.format(space.parse("64-41414-3_21_013"))
      '64-41414-3_21_013'
    """

    stem_channels: int = 64
    macro: str = "41414"

    name: ClassVar[str] = "transnas_micro"
    paper: ClassVar[str] = 'Duan et al., "TransNAS-Bench-101", CVPR 2021'
    ops: ClassVar[tuple[str, ...]] = OPS
    affine: ClassVar[bool] = True
    weighted_input_skip: ClassVar[bool] = True

    def __post_init__(self):
        base.check_positive(self)
        if self.stem_channels % 2:
            raise ValueError(f"TransNasMicro.stem_channels: expected an even integer, got {self.stem_channels}")
        if not isinstance(self.macro, str) or not re.fullmatch("[1-4]{3,8}", self.macro):
            raise ValueError(f"TransNasMicro.macro: expected three to eight digits 1 to 4, got {quoted(self.macro)}")

    @override
    def parse(self, source: Any) -> Cell:
        if isinstance(source, Cell):
            return check_cell(source, len(OPS), "TransNAS-Bench-101-micro cell")
        value = literals.plain(source, "not a TransNAS-Bench-101-micro cell", repr(_EXAMPLE))
        if isinstance(value, str):
            match = _STRING.fullmatch(value)
            if not match:
                raise ValueError(
                    f"not a TransNAS-Bench-101-micro string: {quoted(source)}; expected {_PREFIX!r} and one digit per "
                    f"edge like {_EXAMPLE!r}"
                )
            return check_cell(list(map(int, match.groups())), len(OPS), f"TransNAS-Bench-101-micro string {value!r}")
        codes = literals.integers(value)
        if codes is not None and len(codes) == NUM_EDGES:
            return check_cell(codes, len(OPS), f"TransNAS-Bench-101-micro cell {quoted(source)}")
        return _NAMES.parse(value)

    @override
    def notations(self) -> tuple[Notation, ...]:
        codes = ", ".join(f"{code} {op}" for code, op in enumerate(OPS))
        names = [["nor_conv_3x3"], ["nor_conv_1x1", "skip_connect"], ["none", "skip_connect", "nor_conv_3x3"]]
        return (
            Notation("string", _EXAMPLE, f"the benchmark: a digit an edge, grouped by target node; {codes}"),
            Notation("string without prefix", "3_21_013", "the same cell; 64-41414 is the only skeleton"),
            Notation("NASLib codes", "(3, 2, 1, 0, 1, 3)", "the same digits, flat"),
            Notation("nested codes", [[3], [2, 1], [0, 1, 3]], "the same digits, node by node"),
            Notation("nested names", names, "the same, by name"),
            Notation("node tuples", [[[op, source] for source, op in enumerate(node)] for node in names],
                     "(operation, source) pairs, node by node"),
        )  # fmt: skip

    @override
    def format(self, arch: Cell) -> str:
        """Write the cell as ``64-41414-a_bc_def``, a digit per edge."""
        a, b, c, d, e, f = arch
        return f"{_PREFIX}{a}_{b}{c}_{d}{e}{f}"

    def _edge_weights(self, arch: Cell) -> list[tuple[int, int, int]]:
        """Return (kernel weights, batch-norm parameters, output positions) of every weighted edge of every cell."""
        found = []
        for shape in module_shapes(self.macro, self.stem_channels):
            for channels_in, stride in shape.cells():
                reshapes = stride > 1 or channels_in != shape.channels
                for edge, op in enumerate(arch):
                    from_input = edge in net.INPUT_EDGES
                    fan = channels_in if from_input else shape.channels
                    area = {CONV1X1: 1, CONV3X3: 9, SKIP: 1 if from_input and reshapes else 0}.get(op, 0)
                    if area:
                        found.append((area * fan * shape.channels, 2 * shape.channels, shape.size**2))
        return found

    @override
    def macs(self, arch: Cell) -> int:
        """Count the multiply-accumulates of the backbone's convolutions for one 3x32x32 image, dead edges included."""
        weights = self._edge_weights(arch)
        return stem_macs(self.stem_channels) + sum(kernel * positions for kernel, _, positions in weights)

    @override
    def max_macs(self) -> int:
        """Return the MACs of the cell with six 3x3 convolutions."""
        return self.macs(Cell((CONV3X3,) * NUM_EDGES))

    @override
    def params(self, arch: Cell) -> int:
        """Count the trainable parameters of the backbone, dead edges included."""
        return stem_params(self.stem_channels) + sum(kernel + norm for kernel, norm, _ in self._edge_weights(arch))

    @override
    def _full(self) -> TransNasMicro:
        """Return the space with the same modules at the benchmark's width."""
        return TransNasMicro(macro=self.macro)

    @override
    def tap_channels(self, arch: Cell) -> tuple[int, ...]:
        del arch
        return tap_channels(self.macro, self.stem_channels)

    @override
    def to_flax(self, arch: Cell, num_classes: int | None = None) -> TransNasMicroNet:
        cell = check_cell(arch, self.num_ops, self.name)
        return TransNasMicroNet(cell, self.macro, stem_channels=self.stem_channels, num_classes=num_classes)

    @override
    def universal(self, dtype: Any = jnp.float32) -> UniversalTransNasMicro:
        return UniversalTransNasMicro(self.stem_channels, self.macro, dtype)

    @override
    def extract(self, arch: Cell, universal_params: Any) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for name, value in universal_params.items():
            if not name.startswith("module"):
                params[name] = value
                continue
            shape = module_shapes(self.macro, self.stem_channels)[int(name.removeprefix("module").partition("_")[0])]
            channels_in, stride = shape.cells()[int(name.rpartition("cell")[2])]
            reshapes = stride > 1 or channels_in != shape.channels
            edges = {}
            for edge, op in enumerate(arch):
                from_input = edge in net.INPUT_EDGES
                if op == NONE or (op == SKIP and not (from_input and reshapes)):
                    continue
                group = net.INPUT_EDGES if from_input else net.INNER_EDGES
                kernel = value["input_kernels" if from_input else "inner_kernels"][group.index(edge)]
                if op != CONV3X3:
                    kernel = kernel[1:2, 1:2]
                norm = {"scale": value[f"scale{edge}"], "bias": value[f"bias{edge}"]}
                weights = {"kernel": kernel} if op == SKIP else {"conv": {"kernel": kernel}}
                edges[f"edge{edge}"] = {**weights, "norm": norm}
            if edges:
                params[name] = edges
        return params


# --- modules -------------------------------------------------------------------------------------------------


class TransNasMicroNet(TransNasNet):
    """A stand-alone TransNAS-Bench-101-micro network.

    Attributes:
      cell: six operation codes.
      macro: the macro code.
    """

    cell: Cell
    macro: str = "41414"

    piece: ClassVar[str] = "cell"

    def macro_code(self) -> str:
        """Return the macro code, digits 1 to 4, one per module."""
        return self.macro

    def make_piece(self, channels_in: int, channels: int, stride: int) -> nn.Module:
        """Build a cell, [B, H, W, channels_in] -> [B, H / stride, W / stride, channels]."""
        del channels_in  # a cell sees it
        return net.CellNet(self.cell, channels, stride, True, self.track, self.dtype)


class UniversalCell(nn.Module):
    """A cell whose operations are data; each edge owns a 3x3 kernel, of which 1x1 operations use the centre.

    The two halves of a factorised reduction share one kernel, so that xavier and kaiming count its fan-out as a whole.
    """

    features: int
    stride: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, cell: Array, init: Array | int = 0) -> Array:
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]."""
        reshapes = self.stride > 1 or x.shape[-1] != self.features
        weights: list[Any] = [{} for _ in range(NUM_EDGES)]
        for group, edges, fan in (
            ("input_kernels", net.INPUT_EDGES, x.shape[-1]),
            ("inner_kernels", net.INNER_EDGES, self.features),
        ):
            shape = (len(edges), 3, 3, fan, self.features)
            area = net.edge_area(cell, edges, self.dtype)
            kernels = self.param(group, initializers.conv_kernel, shape, self.dtype, init, area)
            for edge, kernel in zip(edges, layers.unstack(kernels), strict=True):
                weights[edge]["kernel"] = kernel
        for edge in range(NUM_EDGES):  # not stacked: weight decay tells vectors from matrices by their dimensions
            for name, fill in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros)):
                weights[edge][name] = self.param(f"{name}{edge}", fill, (self.features,), self.dtype)
        input_ops = net.edge_ops(len(OPS), affine=True, stride=self.stride, reshapes=reshapes)
        inner_ops = net.edge_ops(len(OPS), affine=True, stride=1, reshapes=False)
        return net.apply_cell(x, cell, weights, input_ops, inner_ops)


class UniversalTransNasMicro(nn.Module):
    """Every TransNAS-Bench-101-micro network in one module: the cell is data.

    Attributes:
      stem_channels: channels that enter the first module.
      macro: the macro code.
      dtype: dtype of the parameters.
    """

    stem_channels: int = 64
    macro: str = "41414"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, cell: Array, init: Array | int = 0) -> list[Array]:
        """Return the feature taps after the last three modules, last first.

        Args:
          images: [B, H, W, 3].
          cell: operation codes, integer [6].
          init: index into ``initializers.INITS``.

        Returns:
          Three arrays [B, H', W', C'].
        """
        stem, taps = Stem(self.stem_channels, dtype=self.dtype, name="stem"), []
        x = marks.feature(stem(images, True, init))
        for m, shape in enumerate(module_shapes(self.macro, self.stem_channels)):
            for c, (_, stride) in enumerate(shape.cells()):
                universal = UniversalCell(shape.channels, stride, self.dtype, name=f"module{m}_cell{c}")
                x = marks.feature(universal(x, cell, init))
            taps.append(x)
        return taps[::-1][:NUM_TAPS]
