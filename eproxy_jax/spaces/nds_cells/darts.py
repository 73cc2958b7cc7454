"""This module has the DARTS space at CIFAR sizes: an architecture is a genotype alone, width and depth are the space's.

Source: Liu, Simonyan and Yang, "DARTS", ICLR 2019: 36 channels and 20 cells on CIFAR; NAS-Bench-301 trains 32 channels
and 8 cells. Networks and programs are those of ``nds_darts``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from eproxy_jax import sampling
from eproxy_jax.errors import quoted
from eproxy_jax.spaces import base
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.nds_cells import notation, program
from eproxy_jax.spaces.nds_cells.cell_ops import NONE
from eproxy_jax.spaces.nds_cells.notation import NdsArch, Rules
from eproxy_jax.spaces.nds_cells.space import NdsCells, NdsDarts

_RULES = dataclasses.replace(NdsDarts.rules, widths=(36,), depths=(20,))
_OPS = tuple(op for op in _RULES.ops if op != NONE)


@base.register("darts")
@dataclasses.dataclass(frozen=True)
class Darts(NdsCells):
    """The DARTS space at one width and depth.

    An architecture is an ``NdsArch`` of the space's width and depth. Genotypes with ``none``, or with two edges from
    one input, can be read. Only those of the DARTS space are drawn: a node has two inputs, ``none`` is left out.

    Attributes:
      width_divisor: the width is divided by it (and rounded up): a size for small machines.
      width: channels of a node before the first reduction.
      depth: number of cells.

    Example:
      >>> space = Darts()
      >>> space.parse(space.sample(1, 0)[0]).width
      36
    """

    width: int = 36
    depth: int = 20

    name: ClassVar[str] = "darts"
    rules: ClassVar[Rules] = _RULES
    paper: ClassVar[str] = 'Liu et al., "DARTS", ICLR 2019; Siems et al., "NAS-Bench-301", 2020'

    @override
    def parse(self, source: Any) -> NdsArch:
        """Read a genotype.

        Raises:
          ValueError: not a genotype of the space, or one with another width or depth.
        """
        arch = super().parse(source)
        for name in ("width", "depth"):
            own, given = getattr(self, name), getattr(arch, name)
            if own != given:
                raise ValueError(
                    f"{quoted(source)} has the {name} {given}, the space {own}: give the space this {name} "
                    f"(sizes.{name} of a configuration), or leave it out of the network"
                )
        return arch

    @override
    def format(self, arch: NdsArch) -> str:
        """Write the genotype as JSON text without spaces; width and depth are the space's."""
        return notation.genotype_text(arch, self.rules)

    @override
    def notations(self) -> tuple[Notation, ...]:
        arch = super().parse(json.dumps(super().notations()[0].example))
        return notation.notations(arch, self.rules)

    @override
    def identity(self) -> dict[str, Any]:
        """Return the name and the sizes: the string of an architecture has neither width nor depth."""
        return base.SearchSpace.identity(self)

    @property
    @override
    def size(self) -> str:
        pairs = [node * (node - 1) // 2 for node in range(2, self.rules.nodes + 2)]
        count = int(np.prod(pairs)) * len(_OPS) ** (2 * self.rules.nodes)
        return f"{float(count**2):.1e} architectures"

    @override
    def sample(self, num: int, seed: int) -> list[NdsArch]:
        """Draw distinct genotypes uniformly: two inputs a node, and an operation for each of them.

        Raises:
          ValueError: ``num`` is less than 1.
        """
        rng = sampling.generator(seed)

        def cell() -> notation.Cell:
            edges = []
            for node in range(self.rules.nodes):
                inputs = sorted(rng.choice(node + 2, 2, replace=False).tolist())
                edges += [(_OPS[rng.integers(len(_OPS))], source) for source in inputs]
            return tuple(edges)

        return sampling.draw_until(lambda: NdsArch(cell(), cell(), self.width, self.depth), num, self.name)

    @override
    def neighbours(self, arch: NdsArch) -> list[NdsArch]:
        """Return the genotypes with another operation or input on one edge; a node keeps two different inputs."""
        found = []
        for other in notation.neighbours(arch, self.rules):
            if (other.width, other.depth) != (arch.width, arch.depth):
                continue
            changed = [
                new for cell in ("normal", "reduce") for new in _changed(getattr(arch, cell), getattr(other, cell))
            ]
            if all(op != NONE and source != beside for op, source, beside in changed):
                found.append(other)
        return found

    @override
    def max_macs(self) -> int:
        """Return the MACs of the largest genotype that can be read."""
        return _max_macs(self.rules, self.width, self.depth, self.width_divisor)

    @override
    def full_sizes(self, arch: NdsArch) -> tuple[int, int]:
        """Return the MACs and the parameters of the backbone at full width."""
        full = dataclasses.replace(self, width_divisor=1)
        arch = full.canonical(arch)
        return full.macs(arch), full.params(arch)


def _changed(cell: notation.Cell, other: notation.Cell) -> list[tuple[str, int, int]]:
    """Return (operation, input, input of the edge beside it) of each edge that is not as before."""
    return [(*edge, other[place ^ 1][1]) for place, edge in enumerate(other) if edge != cell[place]]


@functools.lru_cache(maxsize=64)
def _max_macs(rules: Rules, width: int, depth: int, width_divisor: int) -> int:
    """Return the MACs of the largest network. Edges add up, so all edges of one kind have the same best operation.

    Edges of a normal cell are of one kind, those of a reduction cell of two. They read the cell's inputs with stride 2,
    or an earlier node, which the edges of all nodes but the first can.
    """
    edges, channels = 2 * rules.nodes, -(-width // width_divisor)

    def macs(normal: str, first: str, later: tuple[str, int]) -> int:
        reduce = ((first, 0),) * 2 + (later,) * (edges - 2)
        return program.macs(NdsArch(((normal, 0),) * edges, reduce, width, depth), rules, channels)

    normal = max(rules.ops, key=lambda op: macs(op, _OPS[0], (_OPS[0], 0)))
    first = max(rules.ops, key=lambda op: macs(normal, op, (op, 0)))
    return max(macs(normal, first, (op, source)) for op in rules.ops for source in (0, 2))
