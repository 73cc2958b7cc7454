"""Genotypes of the NDS cell spaces: how they are read, written, checked, mutated and made canonical.

A genotype is a normal cell, a reduction cell, a width and a depth. Each node of a cell adds two operations, each of one
of the cell's two inputs (0 and 1) or of an earlier node (2, 3, ...). A cell's output are all its nodes side by side
(DARTS, PNAS), or those that no other node reads (ENAS, NASNet, Amoeba).

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019, and the files published there.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from eproxy_jax.errors import did_you_mean
from eproxy_jax.spaces.nds_cells.cell_ops import NONE, SKIP

Edge = tuple[str, int]
Cell = tuple[Edge, ...]  # two edges a node

MIN_DEPTH = 5  # a reduction cell needs a cell that is none before and after it
_KEYS = ("normal", "normal_concat", "reduce", "reduce_concat")


class NdsArch(NamedTuple):
    """An architecture.

    Attributes:
      normal: (operation, input) pairs of the normal cell, two a node.
      reduce: the same of the reduction cell.
      width: channels of a node before the first reduction.
      depth: number of cells.
    """

    normal: Cell
    reduce: Cell
    width: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the genotypes of one space may have.

    Attributes:
      label: what the space is called in messages.
      ops: names of operations.
      nodes: nodes of a cell.
      concat_all: all nodes are the output; else those that no other node reads.
      widths: of the design space; others can be read, but are not drawn.
      depths: the same.
      max_params: parameters of the ImageNet form of what is drawn are fewer.
    """

    label: str
    ops: tuple[str, ...]
    nodes: int
    concat_all: bool
    widths: tuple[int, ...] = (32, 48, 64, 80, 96)
    depths: tuple[int, ...] = (6, 10, 14, 18, 22)
    max_params: int = 6_000_000

    @property
    def example(self) -> str:
        """What a genotype looks like, for messages."""
        edges = f'[["{self.ops[-1]}", 0], ["{self.ops[0]}", 1], ...]'
        concat = f"[2, ..., {self.nodes + 1}]"
        return (
            f'{{"genotype": {{"normal": {edges}, "normal_concat": {concat}, "reduce": {edges}, '
            f'"reduce_concat": {concat}}}, "width": 32, "depth": 14}}'
        )


def concat(cell: Cell, rules: Rules) -> tuple[int, ...]:
    """The nodes that are a cell's output, counted from 2 on."""
    read = {source for _, source in cell} if not rules.concat_all else set()
    return tuple(node for node in range(2, rules.nodes + 2) if node not in read)


# --- reading and writing -------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse(source: Any, rules: Rules) -> NdsArch:
    """Read an architecture: the ``net`` object of an NDS file, the same as JSON text, or an :class:`NdsArch`.

    Raises:
      ValueError: not an architecture of the space.
    """
    what = f"not a network of the {rules.label} space"
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{what}: {_short(source)} is not JSON; expected text like {rules.example}") from error
    if isinstance(source, (list, tuple)) and len(source) == 4:
        normal, reduce, width, depth = source
        return _check(normal, reduce, width, depth, rules=rules, what=what)
    if not isinstance(source, dict):
        raise ValueError(f"{what}: {_short(source)}; expected an object like {rules.example}")
    allowed = ("genotype", "width", "depth", "aux", "drop_prob")
    _check_keys(source, allowed, allowed[:3], f"{what}: the network", rules)
    if source.get("drop_prob", 0) != 0:
        raise ValueError(f"{what}: drop_prob is {source['drop_prob']!r}; scores are without drop path: set it to 0")
    genotype = source["genotype"]
    if not isinstance(genotype, dict):
        raise ValueError(f"{what}: the genotype is {_short(genotype)}; expected an object like {rules.example}")
    _check_keys(genotype, _KEYS, _KEYS, f"{what}: the genotype", rules)
    arch = _check(genotype["normal"], genotype["reduce"], source["width"], source["depth"], rules=rules, what=what)
    for name, cell in (("normal", arch.normal), ("reduce", arch.reduce)):
        given, expected = genotype[f"{name}_concat"], concat(cell, rules)
        if not isinstance(given, (list, tuple)) or not all(map(_is_int, given)) or tuple(sorted(given)) != expected:
            rule = "all nodes" if rules.concat_all else "the nodes that no other node reads"
            raise ValueError(
                f"{what}: {name}_concat is {_short(given)}; in this space a cell's output is {rule}: {list(expected)}"
            )
    return arch


def _check_keys(found: dict[Any, Any], allowed: tuple[str, ...], needed: tuple[str, ...], where: str, rules: Rules):
    for key in found:
        if key not in allowed:
            hint = did_you_mean(str(key), allowed)
            if key in ("ds", "ws", "block_type"):
                hint = " (it is of an AnyNet space: nds_resnet, nds_resnext_a, nds_resnext_b or nds_vanilla)"
            raise ValueError(f"{where} has an unknown key {key!r}{hint}; allowed: {', '.join(allowed)}")
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}; expected an object like {rules.example}")


def _check(normal: Any, reduce: Any, width: Any, depth: Any, rules: Rules, what: str) -> NdsArch:
    if not _is_int(width) or width < 1:
        raise ValueError(f"{what}: width is {_short(width)}; expected a positive integer, like {rules.widths[0]}")
    if not _is_int(depth) or depth < MIN_DEPTH:
        raise ValueError(
            f"{what}: depth is {_short(depth)}; expected {MIN_DEPTH} cells or more, like {rules.depths[0]}, so that "
            "normal cells stand before, between and after the two reduction cells"
        )
    normal, reduce = _check_cell(normal, "normal", rules, what), _check_cell(reduce, "reduce", rules, what)
    return NdsArch(normal, reduce, width, depth)


def _check_cell(cell: Any, name: str, rules: Rules, what: str) -> Cell:
    number = 2 * rules.nodes
    if not isinstance(cell, (list, tuple)) or len(cell) != number:
        count = f" of {len(cell)}" if isinstance(cell, (list, tuple)) else ""
        raise ValueError(
            f"{what}: {name} is {_short(cell)}, a {type(cell).__name__}{count}; expected a list of {number} "
            f"[operation, input] pairs, two for each of {rules.nodes} nodes"
        )
    for place, edge in enumerate(cell):
        where = f"{what}: {name}[{place}]"
        if not isinstance(edge, (list, tuple)) or len(edge) != 2:
            raise ValueError(f'{where} is {_short(edge)}; expected a pair like ["{rules.ops[0]}", 0]')
        op, source = edge
        if op not in rules.ops:
            raise ValueError(
                f"{where}: unknown operation {_short(op)}{did_you_mean(str(op), rules.ops)}; this space has "
                f"{', '.join(rules.ops)}"
            )
        last = 1 + place // 2
        if not _is_int(source) or not 0 <= source <= last:
            cyclic = " (a node cannot read itself or a later node)" if _is_int(source) and source > last else ""
            raise ValueError(
                f"{where}: input is {_short(source)}{cyclic}; node {last + 1} reads 0 or 1, the cell's inputs"
                + (f", or nodes 2 to {last}" if last > 1 else "")
            )
    return tuple((op, source) for op, source in cell)


def inputs_read(cell: Cell, rules: Rules) -> frozenset[int]:
    """Which of a cell's inputs, 0 (older) and 1 (newer), its output depends on."""
    reads = [frozenset({0}), frozenset({1})]
    for place in range(0, len(cell), 2):
        reads.append(frozenset().union(*(reads[source] for op, source in cell[place : place + 2] if op != NONE)))
    return frozenset().union(*(reads[node] for node in concat(cell, rules)))


def to_text(arch: NdsArch, rules: Rules) -> str:
    """The ``net`` object of an NDS file as JSON text without spaces."""
    genotype = {
        "normal": arch.normal,
        "normal_concat": concat(arch.normal, rules),
        "reduce": arch.reduce,
        "reduce_concat": concat(arch.reduce, rules),
    }
    return json.dumps({"genotype": genotype, "width": arch.width, "depth": arch.depth}, separators=(",", ":"))


# --- the set of genotypes ------------------------------------------------------------------------------------


def neighbours(arch: NdsArch, rules: Rules) -> list[NdsArch]:
    """The architectures with one operation or input changed, or the next width or depth of the design space."""
    found = []
    for name in ("normal", "reduce"):
        cell: Cell = getattr(arch, name)
        for place, (op, source) in enumerate(cell):
            edges = [(other, source) for other in rules.ops if other != op]
            edges += [(op, other) for other in range(2 + place // 2) if other != source]
            found += [arch._replace(**{name: (*cell[:place], edge, *cell[place + 1 :])}) for edge in edges]
    for name, steps in (("width", rules.widths), ("depth", rules.depths)):
        value = getattr(arch, name)
        below, above = [s for s in steps if s < value], [s for s in steps if s > value]
        found += [arch._replace(**{name: step}) for step in (*below[-1:], *above[:1])]
    return found


def _orders(cell: Cell, nodes: int) -> Iterator[tuple[int, ...]]:
    """Orders of the nodes in which none comes before one that it reads."""
    needs = [{source - 2 for _, source in cell[2 * n : 2 * n + 2] if source >= 2} for n in range(nodes)]
    for order in itertools.permutations(range(nodes)):
        if all(needs[node] <= set(order[:place]) for place, node in enumerate(order)):
            yield order


@functools.lru_cache(maxsize=1 << 16)
def canonical_cell(cell: Cell) -> Cell:
    """The one cell that stands for all that compute the same function.

    * What has no weights gives zeros for zeros: such an edge from a node of two ``none`` is ``none``, in turn.
    * A ``none`` edge may say any input: it says 0.
    * The two edges of a node, and nodes in any order that is possible, are interchangeable.

    Only a space with ``none`` has nodes that are zero.
    """
    nodes, zero, edges = len(cell) // 2, set(), []
    for place, (op, source) in enumerate(cell):
        passes_zero = source in zero and (op == SKIP or "_pool_" in op)
        edges.append((NONE, 0) if op == NONE or passes_zero else (op, source))
        if place % 2 and edges[-1] == edges[-2] == (NONE, 0):
            zero.add(2 + place // 2)

    def relabelled(order: tuple[int, ...]) -> Cell:
        place = {0: 0, 1: 1, **{2 + node: 2 + new for new, node in enumerate(order)}}
        pairs = (sorted((op, place[s]) for op, s in edges[2 * node : 2 * node + 2]) for node in order)
        return tuple(edge for pair in pairs for edge in pair)

    return min(relabelled(order) for order in _orders(tuple(edges), nodes))
