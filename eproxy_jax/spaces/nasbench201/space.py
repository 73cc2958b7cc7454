"""This module defines NAS-Bench-201: one four-node cell with five operations, repeated in three stages.

Source: Dong and Yang, "NAS-Bench-201", ICLR 2020; the skeleton as docs/spaces.md gives it.

:meth:`NasBench201.notations` lists the notations. Six plain numbers are NASLib's, in text, tuples and lists alike:
edges (1,2) (1,3) (1,4) (2,3) (2,4) (3,4) with its own codes. Nested codes are this package's.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, ClassVar

import jax.numpy as jnp
from typing_extensions import override

from eproxy_jax.errors import quoted
from eproxy_jax.spaces import base, literals
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.cells.graph import CONV1X1, CONV3X3, EDGES, NONE, NUM_EDGES, POOL, SKIP, Cell
from eproxy_jax.spaces.cells.space import CellNames, CellSpace, check_cell
from eproxy_jax.spaces.nasbench201.fine_groups import ConvGroup
from eproxy_jax.spaces.nasbench201.net import NUM_STAGES, NasBench201Net, UniversalNasBench201

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# NASLib lists edges by source, and numbers the operations skip, none, conv3x3, conv1x1, pool.
_NASLIB_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
_NASLIB_OPS = (SKIP, NONE, CONV3X3, CONV1X1, POOL)
_EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
_NAMES = CellNames("NAS-Bench-201", OPS, _EXAMPLE)
_CODES = {op: code for code, op in enumerate(OPS)}
# The string as published, which is read fast; everything else takes the long way.
_PRINTED = re.compile(r"\s*Structure\([0-9]+ nodes with (.*)\)\s*")  # the same structure, as it is printed
_STRING = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


@base.register("nasbench201")
@dataclasses.dataclass(frozen=True)
class NasBench201(CellSpace):
    """The NAS-Bench-201 space.

    An architecture is a ``Cell`` of six operation codes (see ``cells/graph.py``).

    Attributes:
      stem_channels: channels of the first stage; they double at each of the two residual blocks.
      cells_per_stage: cells in each of the three stages.

    Example:
      >>> space = NasBench201()
      >>> arch = space.parse([[3], [0, 1], [0, 0, 3]])
      >>> space.format(arch)
      '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|'
      >>> space.params(arch)
      556368
    """

    stem_channels: int = 16
    cells_per_stage: int = 5

    name: ClassVar[str] = "nasbench201"
    paper: ClassVar[str] = 'Dong and Yang, "NAS-Bench-201", ICLR 2020'
    ops: ClassVar[tuple[str, ...]] = OPS
    affine: ClassVar[bool] = False
    weighted_input_skip: ClassVar[bool] = False

    def __post_init__(self):
        base.check_positive(self)

    @override
    def parse(self, source: Any) -> Cell:
        if isinstance(source, Cell):
            return check_cell(source, len(OPS), "NAS-Bench-201 cell")
        if hasattr(source, "tostr"):  # the structure of the authors' own code
            source = source.tostr()
        if isinstance(source, str) and (printed := _PRINTED.fullmatch(source)):
            source = printed[1]
        match = _STRING.fullmatch(source) if isinstance(source, str) else None
        if match and all(op in _CODES for op in match.groups()):
            return Cell(map(_CODES.__getitem__, match.groups()))
        value = literals.plain(source, "not a NAS-Bench-201 cell", repr(_EXAMPLE))
        if isinstance(value, str):
            return _parse_string(value)
        codes = literals.integers(value)
        if codes:
            return _parse_naslib(codes, source)
        if literals.integer(value) is not None:
            raise ValueError(
                f"{quoted(source)} is no NAS-Bench-201 cell: the number of a cell depends on the version of the "
                f"benchmark's file; give its string, like {_EXAMPLE!r}"
            )
        if isinstance(value, dict) and isinstance(value.get("arch_str"), str):  # a configuration of the authors' code
            return _parse_string(value["arch_str"].strip())
        return _NAMES.parse(value)

    @override
    def notations(self) -> tuple[Notation, ...]:
        nodes = [[["nor_conv_3x3", 0]], [["nor_conv_3x3", 0], ["avg_pool_3x3", 1]],
                 [["skip_connect", 0], ["nor_conv_3x3", 1], ["skip_connect", 2]]]  # fmt: skip
        edges = {(pair[1], target): pair[0] for target, node in enumerate(nodes, start=1) for pair in node}
        return (
            Notation("string", _EXAMPLE, "NAS-Bench-201 and NATS-Bench: an operation and its source, node by node"),
            Notation("NASLib codes", "(2, 2, 0, 4, 2, 0)",
                     "edges (1,2) (1,3) (1,4) (2,3) (2,4) (3,4); 0 skip, 1 none, 2 conv 3x3, 3 conv 1x1, 4 pool"),
            Notation("nested codes", [[3], [3, 4], [1, 3, 1]],
                     "edges node by node; " + ", ".join(f"{code} {op}" for code, op in enumerate(OPS))),
            Notation("nested names", [[op for op, _ in node] for node in nodes], "edges node by node"),
            Notation("node tuples", nodes, "(operation, source) pairs, node by node: the authors' code"),
            Notation("six names", [op for node in nodes for op, _ in node], "in the order of the string"),
            Notation("operations by edge", {f"{t}<-{s}": op for (s, t), op in edges.items()}, "HPOBench"),
            Notation("operations by edge, NNI",
                     {f"{s}_{t}": op.removeprefix("nor_") for (s, t), op in edges.items()}, "NNI"),
            Notation("configuration", {"name": "infer.tiny", "C": 16, "N": 5, "arch_str": _EXAMPLE, "num_classes": 10},
                     "the authors' code; other keys are ignored"),
        )  # fmt: skip

    @override
    def format(self, arch: Cell) -> str:
        """Write the cell as ``|op~source|+|...|`` with the operations' names."""
        texts, edge = [], 0
        for target in (1, 2, 3):
            texts.append("|" + "|".join(f"{OPS[arch[edge + s]]}~{s}" for s in range(target)) + "|")
            edge += target
        return "+".join(texts)

    def _stages(self) -> list[tuple[int, int]]:
        """Return (channels, spatial size for a 32-pixel image) of each stage."""
        return [(self.stem_channels * 2**i, 32 // 2**i) for i in range(NUM_STAGES)]

    @override
    def macs(self, arch: Cell) -> int:
        """Count the multiply-accumulates of the backbone's convolutions for one 3x32x32 image, dead edges included."""
        stages = self._stages()
        area = sum({CONV1X1: 1, CONV3X3: 9}.get(op, 0) for op in arch)
        total = 9 * 3 * self.stem_channels * 32 * 32
        for channels, size in stages:
            total += self.cells_per_stage * area * channels * channels * size * size
        for channels, size in stages[1:]:  # 3x3 and 1x1 from half the channels, and 3x3
            total += (9 + 1) * (channels // 2) * channels * size * size + 9 * channels * channels * size * size
        return total

    @override
    def max_macs(self) -> int:
        """Return the MACs of the cell with six 3x3 convolutions."""
        return self.macs(Cell((CONV3X3,) * NUM_EDGES))

    @override
    def params(self, arch: Cell) -> int:
        """Count the trainable parameters of the backbone, dead edges included."""
        stages = self._stages()
        area = sum({CONV1X1: 1, CONV3X3: 9}.get(op, 0) for op in arch)
        total = 9 * 3 * self.stem_channels + 2 * self.stem_channels
        for channels, _ in stages:
            total += self.cells_per_stage * area * channels * channels
        for channels, _ in stages[1:]:  # convolutions, and scale and bias of the two batch norms
            total += (9 + 1) * (channels // 2) * channels + 9 * channels * channels + 4 * channels
        return total

    @override
    def tap_channels(self, arch: Cell) -> tuple[int, ...]:
        del arch
        return tuple(channels for channels, _ in self._stages()[::-1])

    @override
    def to_flax(self, arch: Cell, num_classes: int | None = None) -> NasBench201Net:
        cell = check_cell(arch, self.num_ops, self.name)
        return NasBench201Net(cell, self.stem_channels, self.cells_per_stage, num_classes=num_classes)

    @override
    def universal(self, dtype: Any = jnp.float32) -> UniversalNasBench201:
        return UniversalNasBench201(self.stem_channels, self.cells_per_stage, dtype)

    @override
    def fine_group(self, arch: Cell) -> ConvGroup:
        """Return the group of cells with as many 3x3 convolutions into each node, one of 24."""
        return ConvGroup.of(self, arch)

    @override
    def extract(self, arch: Cell, universal_params: Any) -> dict[str, Any]:
        params: dict[str, Any] = {k: v for k, v in universal_params.items() if not k.startswith("stage")}
        for stage in range(NUM_STAGES):
            kernels = universal_params[f"stage{stage}"]
            for n in range(self.cells_per_stage):
                edges = {}
                for edge, op in enumerate(arch):
                    if op in (CONV1X1, CONV3X3):
                        kernel = kernels[n, edge]
                        edges[f"edge{edge}"] = {"conv": {"kernel": kernel if op == CONV3X3 else kernel[1:2, 1:2]}}
                if edges:
                    params[f"stage{stage}_cell{n}"] = edges
        return params


def _parse_string(text: str) -> Cell:
    """Read the benchmark's string; outer bars of a node may be missing."""
    groups = [group.strip() for group in text.split("+")]
    if len(groups) != 3 or "~" not in text:
        raise ValueError(f"not a NAS-Bench-201 string: {quoted(text)}; expected three node groups like {_EXAMPLE!r}")
    cell: list[int] = []
    for target, group in enumerate(groups, start=1):
        tokens = [token.strip() for token in group.removeprefix("|").removesuffix("|").split("|")]
        if len(tokens) != target or not all(tokens):
            raise ValueError(
                f"not a NAS-Bench-201 string: node {target} needs {target} edge(s) like '|nor_conv_3x3~0|', "
                f"got {quoted(group)} in {quoted(text)}"
            )
        for source, token in enumerate(tokens):
            op, _, tail = token.partition("~")
            if tail != str(source):
                raise ValueError(
                    f"edge {quoted(token)} of {quoted(text)}: expected an operation followed by '~{source}'"
                )
            cell.append(_NAMES.code(op))
    return Cell(cell)


def _parse_naslib(codes: list[int], source: Any) -> Cell:
    """Read NASLib's six codes, in its order of edges."""
    if len(codes) != NUM_EDGES:
        raise ValueError(
            f"not a NAS-Bench-201 cell: {quoted(source)}; expected six codes as NASLib's '(4, 3, 3, 0, 0, 0)', nested "
            f"ones like [[3], [3, 4], [1, 3, 1]], or a string like {_EXAMPLE!r}"
        )
    if not all(0 <= code < len(_NASLIB_OPS) for code in codes):
        wrong = next(code for code in codes if not 0 <= code < len(_NASLIB_OPS))
        raise ValueError(
            f"NASLib operation code {quoted(wrong)} in {quoted(source)}: expected 0 to {len(_NASLIB_OPS) - 1}"
        )
    by_edge = dict(zip(_NASLIB_EDGES, codes, strict=True))
    return Cell(_NASLIB_OPS[by_edge[edge]] for edge in EDGES)
