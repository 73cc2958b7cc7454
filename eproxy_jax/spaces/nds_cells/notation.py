"""This module reads, writes and checks genotypes of the NDS cell spaces, mutates them and makes them canonical.

A genotype is a normal cell, a reduction cell, a width and a depth. Each node of a cell adds two operations, each of one
of the cell's two inputs (0 and 1) or of an earlier node (2, 3, ...). A cell's output is all its nodes side by side
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

from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.spaces import literals
from eproxy_jax.spaces.base import MAX_CHANNELS, Notation
from eproxy_jax.spaces.nds_cells.cell_ops import NONE, SKIP
from eproxy_jax.spaces.structure import Graph

Edge = tuple[str, int]
Cell = tuple[Edge, ...]  # two edges a node

MIN_DEPTH = 5  # a reduction cell needs a cell that is none before and after it
MAX_WIDTH, MAX_DEPTH = MAX_CHANNELS, 200
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
    """The rules that the genotypes of one space keep.

    Attributes:
      label: what the space is called in messages.
      ops: names of operations.
      nodes: nodes of a cell.
      concat_all: all nodes are the output; else those that no other node reads.
      widths: of the design space; others can be read, but are not drawn.
      depths: the same.
      max_params: parameters of the ImageNet form of what is drawn are fewer.
      compact_ops: operations by code in NASLib's index pairs; empty where there are none.
    """

    label: str
    ops: tuple[str, ...]
    nodes: int
    concat_all: bool
    widths: tuple[int, ...] = (32, 48, 64, 80, 96)
    depths: tuple[int, ...] = (6, 10, 14, 18, 22)
    max_params: int = 6_000_000
    compact_ops: tuple[str, ...] = ()

    @property
    def example(self) -> str:
        """An example of a genotype, for messages."""
        edges = f'[["{self.ops[-1]}", 0], ["{self.ops[0]}", 1], ...]'
        concat = f"[2, ..., {self.nodes + 1}]"
        return (
            f'{{"genotype": {{"normal": {edges}, "normal_concat": {concat}, "reduce": {edges}, '
            f'"reduce_concat": {concat}}}, "width": 32, "depth": 14}}'
        )


def concat(cell: Cell, rules: Rules) -> tuple[int, ...]:
    """Return the nodes that are a cell's output, counted from 2 on."""
    read = {source for _, source in cell} if not rules.concat_all else set()
    return tuple(node for node in range(2, rules.nodes + 2) if node not in read)


def used_ops(rules: Rules) -> tuple[str, ...]:
    """Return the operations of a space without ``none``."""
    return tuple(op for op in rules.ops if op != NONE)


def graph(cell: Cell, rules: Rules) -> Graph:
    """Return a cell as a graph from its two inputs to its output nodes, whose edges are operations but ``none``."""
    codes = {op: code for code, op in enumerate(used_ops(rules))}
    found = [((source, 2 + place // 2), codes[op]) for place, (op, source) in enumerate(cell) if op != NONE]
    edges, ops = tuple(edge for edge, _ in found), tuple(op for _, op in found)
    return Graph(edges, concat(cell, rules), inputs=(0, 1), edge_ops=ops)


# --- reading and writing -------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def parse(source: Any, rules: Rules, width: int, depth: int) -> NdsArch:
    """Read an architecture from any notation of the space, see :func:`notations`.

    Args:
      source: text or a value.
      rules: of the space.
      width: of a genotype that comes without one.
      depth: the same.

    Raises:
      ValueError: not an architecture of the space.
    """
    what = f"not a network of the {rules.label} space"
    value: Any = literals.plain(source, what, rules.example)
    sizes: dict[str, Any] = {"width": width, "depth": depth}
    if isinstance(value, dict):
        keys = [name for name in ("genotype", "width", "depth") if name not in value]
        if unknown := literals.misspelt(value, keys):  # other keys are ignored
            raise ValueError(f"{what}: the network has an {unknown}")
        if literals.integer(value.get("drop_prob", 0)) != 0:
            raise ValueError(
                f"{what}: drop_prob is {quoted(value['drop_prob'])}; scores are without drop path: set it to 0"
            )
        sizes |= {name: value[name] for name in sizes if name in value}
        value = literals.plain(value.get("genotype", value))
        if not isinstance(value, dict) and not _are_cells(value):
            raise ValueError(f"{what}: the genotype is {quoted(value)}; expected an object like {rules.example}")
    if isinstance(value, list) and len(value) == 4:
        if _is_int(value[2]) or _is_int(value[3]):  # normal, reduce, width, depth
            return _check(*value, rules=rules, what=what)
        value = dict(zip(_KEYS, value, strict=True))  # a Genotype as a plain tuple
    elif _are_cells(value):
        value = {"normal": _of_pairs(value[0], rules), "reduce": _of_pairs(value[1], rules)}
    if not isinstance(value, dict):
        raise ValueError(f"{what}: {quoted(source)}; expected an object like {rules.example}")
    genotype: dict[Any, Any] = _of_choices(value, rules) or value
    if not {"normal", "reduce"} <= genotype.keys():
        if {"ds", "ws"} & genotype.keys():
            raise ValueError(f"{what}: {quoted(source)} is an AnyNet of stages, which has no cells")
        where = f"{what}: keys of the genotype"
        literals.check_keys(genotype, ("normal", "reduce"), where, f"an object like {rules.example}")
    arch = _check(genotype["normal"], genotype["reduce"], **sizes, rules=rules, what=what)
    for name, cell in (("normal", arch.normal), ("reduce", arch.reduce)):
        given, expected = genotype.get(f"{name}_concat"), concat(cell, rules)
        if given is not None and sorted(literals.integers(given) or ()) != list(expected):
            rule = "all nodes" if rules.concat_all else "the nodes that no other node reads"
            raise ValueError(
                f"{what}: {name}_concat is {quoted(given)}; in this space a cell's output is {rule}: {list(expected)}"
            )
    return arch


def _are_cells(value: Any) -> bool:
    """Say if this is a normal and a reduction cell, one after the other."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(cell, list) and cell for cell in value)


def _of_pairs(cell: list[Any], rules: Rules) -> list[Any]:
    """Replace codes by names in compact index pairs (input, operation); other pairs stay."""
    cell = _flat(cell, rules)
    pairs = [literals.integers(pair) for pair in cell]
    if not rules.compact_ops or not all(pair is not None and len(pair) == 2 for pair in pairs):
        return cell
    found = []
    for pair in pairs:
        source, code = pair or (0, 0)
        if not 0 <= code < len(rules.compact_ops):
            raise ValueError(
                f"not a network of the {rules.label} space: the pair {tuple(pair or ())} has the operation {code}; in "
                f"pairs (input, operation) of NAS-Bench-301 they are 0 to {len(rules.compact_ops) - 1}: "
                f"{', '.join(rules.compact_ops)}"
            )
        found.append([rules.compact_ops[code], source])
    return found


def _of_choices(value: dict[Any, Any], rules: Rules) -> dict[str, Any] | None:
    """Read a genotype from an object with one entry a choice, as NNI and NAS-Bench-301's configurations have it."""
    found = {}
    config = {key.rpartition(":")[2]: entry for key, entry in value.items() if isinstance(key, str)}
    for name in ("normal", "reduce"):
        cell, first_edge = [], 0
        for node in range(2, rules.nodes + 2):
            if f"{name}/op_{node}_0" in value:
                pairs = [(value.get(f"{name}/op_{node}_{k}"), value.get(f"{name}/input_{node}_{k}")) for k in (0, 1)]
                cell += [[op, source[0] if isinstance(source, list) and source else source] for op, source in pairs]
            elif f"inputs_node_{name}_3" in config:
                inputs = str(config.get(f"inputs_node_{name}_{node}", "0_1")).split("_")
                sources = [int(text) if text.isascii() and text.isdigit() and len(text) < 3 else -1 for text in inputs]
                cell += [[config.get(f"edge_{name}_{first_edge + source}"), source] for source in sources]
            else:
                return None
            first_edge += node
        found[name] = cell
    return found


def _check(normal: Any, reduce: Any, width: Any, depth: Any, rules: Rules, what: str) -> NdsArch:
    if not _is_int(width) or width < 1:
        raise ValueError(f"{what}: width is {quoted(width)}; expected a positive integer, like {rules.widths[0]}")
    if not _is_int(depth) or depth < MIN_DEPTH:
        raise ValueError(
            f"{what}: depth is {quoted(depth)}; expected {MIN_DEPTH} cells or more, like {rules.depths[0]}, so that "
            "normal cells stand before, between and after the two reduction cells"
        )
    for name, value, most in (("width", width, MAX_WIDTH), ("depth", depth, MAX_DEPTH)):
        if value > most:
            raise ValueError(f"{what}: {name} is {quoted(value)}, more than any machine could run; at most {most:,}")
    normal, reduce = _check_cell(normal, "normal", rules, what), _check_cell(reduce, "reduce", rules, what)
    return NdsArch(normal, reduce, width, depth)


def _check_cell(cell: Any, name: str, rules: Rules, what: str) -> Cell:
    number, cell = 2 * rules.nodes, _flat(cell, rules)
    if not isinstance(cell, list) or len(cell) != number:
        count = f" of {len(cell)}" if isinstance(cell, list) else ""
        raise ValueError(
            f"{what}: {name} is {quoted(cell)}, a {type(cell).__name__}{count}; expected a list of {number} "
            f"[operation, input] pairs, two for each of {rules.nodes} nodes"
        )
    found = []
    for place, edge in enumerate(cell):
        where = f"{what}: {name}[{place}]"
        if not isinstance(edge, list) or len(edge) != 2:
            raise ValueError(f'{where} is {quoted(edge)}; expected a pair like ["{rules.ops[0]}", 0]')
        op, source = edge if isinstance(edge[0], str) or not isinstance(edge[1], str) else edge[::-1]
        code = literals.integer(op)
        if code is not None and rules.compact_ops and 0 <= code <= len(rules.compact_ops):
            op = (NONE, *rules.compact_ops)[code]  # DARTS numbers its primitives so
        if isinstance(op, str) and op not in rules.ops:
            op = _ALIASES.get(op.lower(), op.lower())
        if op not in rules.ops:
            hint = did_you_mean(op, rules.ops) if isinstance(op, str) and len(op) < 80 else ""
            raise ValueError(
                f"{where}: unknown operation {quoted(edge[0])}{hint}; this space has {', '.join(rules.ops)}"
            )
        last = 1 + place // 2
        if not _is_int(source) or not 0 <= source <= last:
            cyclic = " (a node cannot read itself or a later node)" if _is_int(source) and source > last else ""
            raise ValueError(
                f"{where}: input is {quoted(source)}{cyclic}; node {last + 1} reads 0 or 1, the cell's inputs"
                + (f", or nodes 2 to {last}" if last > 1 else "")
            )
        found.append((op, source))
    return tuple(found)


def _flat(cell: Any, rules: Rules) -> Any:
    """Return the edges of a cell that is written node by node; others stay."""
    if isinstance(cell, list) and len(cell) == rules.nodes and all(_is_node(node) for node in cell):
        return [edge for node in cell for edge in node]
    return cell


def _is_node(value: Any) -> bool:
    """Say if this is the two edges of a node."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(edge, list) for edge in value)


def inputs_read(cell: Cell, rules: Rules) -> frozenset[int]:
    """Return the cell's inputs, 0 (older) and 1 (newer), that its output depends on."""
    reads = [frozenset({0}), frozenset({1})]
    for place in range(0, len(cell), 2):
        reads.append(frozenset().union(*(reads[source] for op, source in cell[place : place + 2] if op != NONE)))
    return frozenset().union(*(reads[node] for node in concat(cell, rules)))


def _genotype(arch: NdsArch, rules: Rules) -> dict[str, Any]:
    return {
        "normal": arch.normal,
        "normal_concat": concat(arch.normal, rules),
        "reduce": arch.reduce,
        "reduce_concat": concat(arch.reduce, rules),
    }


def notations(arch: NdsArch, rules: Rules) -> tuple[Notation, ...]:
    """Return the notations of a space that has cells, with one architecture as the example."""
    genotype = json.loads(json.dumps(_genotype(arch, rules)))
    cells = {name: [[tuple(edge) for edge in pair] for pair in zip(*[iter(genotype[name])] * 2, strict=True)]
             for name in ("normal", "reduce")}  # fmt: skip
    flat = {name: [edge for pair in cells[name] for edge in pair] for name in cells}
    text = ", ".join(f"{key}={flat.get(key, genotype[key])}" for key in _KEYS)
    if rules.concat_all:
        text = text.replace(str(genotype["normal_concat"]), f"range(2, {rules.nodes + 2})")
    sizes = "width and depth are the space's"
    found = [
        Notation("Genotype", f"Genotype({text})", f"what DARTS and its successors print; {sizes}"),
        Notation("genotype object", genotype, f"the same as JSON; {sizes}"),
        Notation("genotype tuple", [genotype[key] for key in _KEYS], f"a Genotype as a plain list; {sizes}"),
        Notation("pairs by node", {name: cells[name] for name in cells}, f"two edges a node; {sizes}"),
        Notation("choices, NNI", {
            f"{name}/{part}_{node}_{place}": edge[part == "input"]
            for name in cells for node, pair in enumerate(cells[name], start=2)
            for place, edge in enumerate(pair) for part in ("op", "input")
        }, f"NNI: an operation and an input for each edge; {sizes}"),
    ]  # fmt: skip
    if rules.compact_ops and all(op != NONE for cell in (arch.normal, arch.reduce) for op, _ in cell):
        pairs = [[(source, rules.compact_ops.index(op)) for op, source in flat[name]] for name in cells]
        meaning = ", ".join(f"{code} {op}" for code, op in enumerate(rules.compact_ops))
        found.append(Notation("index pairs", str(pairs), f"NASLib and NAS-Bench-301: (input, operation); {meaning}"))
        primitives = {name: [[rules.compact_ops.index(op) + 1, source] for op, source in flat[name]] for name in cells}
        meaning = "(operation, input), operations as DARTS numbers them: 0 none, then the same"
        found.append(Notation("genotype of indices", primitives, meaning))
    return tuple(found)


# How the field's tools call operations that have another name in NDS.
_ALIASES = {"identity": SKIP, "skip": SKIP, "zero": NONE}


def genotype_text(arch: NdsArch, rules: Rules) -> str:
    """Write the genotype alone as JSON text without spaces."""
    return json.dumps(_genotype(arch, rules), separators=(",", ":"))


def to_text(arch: NdsArch, rules: Rules) -> str:
    """Write the ``net`` object of an NDS file as JSON text without spaces."""
    return json.dumps(
        {"genotype": _genotype(arch, rules), "width": arch.width, "depth": arch.depth}, separators=(",", ":")
    )


# --- the set of genotypes ------------------------------------------------------------------------------------


def neighbours(arch: NdsArch, rules: Rules) -> list[NdsArch]:
    """Return the architectures with one operation or input changed, or the next width or depth of the design space."""
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
    """Yield the orders of the nodes in which none comes before one that it reads."""
    needs = [{source - 2 for _, source in cell[2 * n : 2 * n + 2] if source >= 2} for n in range(nodes)]
    for order in itertools.permutations(range(nodes)):
        if all(needs[node] <= set(order[:place]) for place, node in enumerate(order)):
            yield order


@functools.lru_cache(maxsize=1 << 16)
def canonical_cell(cell: Cell) -> Cell:
    """Return the one cell that stands for all that compute the same function.

    * Operations without weights map zeros to zeros: on an edge from a node of two ``none`` they are ``none`` in turn.
    * The input of a ``none`` edge does not matter: here it is 0.
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
