"""This module groups the steps of a network into blocks, and blocks of equal form into classes.

Blocks are the modules that ran the steps: a cell, an edge, a residual block. Two blocks are of one class if they do the
same with other sizes; the sizes in which they differ are the class's arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

from eproxy_jax.exports.network import Network, Path, Step

Sizes = Callable[[Step], Sequence[tuple[str, int]]]  # what a printer writes of a step's sizes, by role
_DEFAULT_NAMES = {"conv": "conv", "halving_conv": "reduce", "dense": "dense", "batch_norm": "norm"}


@dataclasses.dataclass
class Layer:
    """A step in its block. ``name`` is its place among the block's layers; operations without weights have none."""

    step: Step
    name: str = ""

    @property
    def inputs(self) -> tuple[int, ...]:
        """Values that it reads."""
        return self.step.inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        """The value that it gives."""
        return (self.step.output,)

    @property
    def normed(self) -> bool:
        """Whether it tells training from evaluation."""
        return self.step.op == "batch_norm"


@dataclasses.dataclass
class Block:
    """Items that one module runs.

    Attributes:
      name: its place in the block around it.
      kind: class name of the module.
      items: layers and blocks, in order.
      inputs: values from outside, in the order of their first use.
      outputs: values that are read outside.
      form: index of its class; set by :func:`classify`.
      arguments: values of the class's arguments, in order; set by :func:`classify`.
    """

    name: str
    kind: str
    items: list[Item]
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    form: int = -1
    arguments: tuple[int, ...] = ()

    @property
    def normed(self) -> bool:
        """Whether it tells training from evaluation."""
        return any(item.normed for item in self.items)


Item = Layer | Block


def tree(network: Network) -> Block:
    """Return the whole network as a block of blocks."""
    root = _build(network.steps, 0, "", network)
    _connect(root, {network.output})
    return root


def _build(steps: Sequence[Step], depth: int, name: str, network: Network) -> Block:
    runs = [
        (head, list(run)) for head, run in groupby(steps, lambda s: s.scope[depth] if len(s.scope) > depth else None)
    ]
    heads = [head for head, _ in runs]
    items: list[Item] = []
    for head, run in runs:
        if head is None:
            items += [Layer(step, "_".join((step.owner or ())[depth:])) for step in run]
            continue
        inner = _build(run, depth + 1, head, network)
        if len(inner.items) == 1 or heads.count(head) > 1:  # a module around one thing, or one that runs in parts
            for item in inner.items:
                item.name = "_".join(filter(None, (head, item.name)))
            items += inner.items
        else:
            items.append(inner)
    taken: set[str] = set()
    for item in items:
        if isinstance(item, Layer) and item.step.owner is not None and (len(items) > 1 or not depth):
            item.name = item.name or _DEFAULT_NAMES[item.step.op]
        item.name = _free(item.name, taken) if item.name else ""
        taken.add(item.name)
    path = steps[0].scope[:depth] if steps else ()
    return Block(name, network.kinds.get(path, "Network") if depth else "Network", items)


def _free(name: str, taken: set[str], before: str = "_") -> str:
    """Return the name, with a number behind it if it is taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}{before}{number}", number + 1
    return free


def _connect(block: Block, wanted: set[int]) -> None:
    """Set inputs and outputs of a block and of the blocks in it; ``wanted`` is read outside."""
    made = {step.output for step in steps_of(block)}
    reads = list(dict.fromkeys(value for step in steps_of(block) for value in step.inputs if value not in made))
    block.inputs = tuple(reads)
    block.outputs = tuple(step.output for step in steps_of(block) if step.output in wanted)
    for item in block.items:
        if isinstance(item, Block):
            others = {v for other in block.items if other is not item for step in steps_of(other) for v in step.inputs}
            _connect(item, wanted | others)


def steps_of(item: Item) -> Iterator[Step]:
    """Yield all steps of a layer or block, in order."""
    if isinstance(item, Layer):
        yield item.step
    else:
        for inner in item.items:
            yield from steps_of(inner)


def paths(block: Block, above: Path = ()) -> Iterator[tuple[Path, Step]]:
    """Yield the path of each layer with weights or statistics in the exported network, and its step."""
    for item in block.items:
        if isinstance(item, Block):
            yield from paths(item, (*above, item.name))
        elif item.step.owner is not None:
            yield (*above, item.name), item.step


# --- classes -------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Form:
    """A class of blocks.

    Attributes:
      name: of the class.
      example: one of its blocks; all have the same items.
      parameters: names of its arguments.
      expressions: for each item, the text of each of its sizes by role, or of each argument of a block.
      places: paths of its blocks.
    """

    name: str
    example: Block
    parameters: tuple[str, ...]
    expressions: list[dict[str, str]]
    places: list[str]


def classify(root: Block, sizes: Sizes) -> list[Form]:
    """Sort blocks into classes, inner ones first; the last one is the network's own.

    Args:
      root: of :func:`tree`.
      sizes: which sizes of a step the language writes, by role.
    """
    forms: dict[Any, list[tuple[str, Block]]] = {}

    def visit(block: Block, place: str) -> None:
        for item in block.items:
            if isinstance(item, Block):
                visit(item, f"{place}.{item.name}" if place else item.name)
        key = _signature(block)
        block.form = list(forms).index(key) if key in forms else len(forms)
        forms.setdefault(key, []).append((place, block))

    visit(root, "")
    found: list[Form] = []
    names: set[str] = set()
    for members in forms.values():  # an inner class is met, and so placed, before every class that uses it
        blocks = [block for _, block in members]
        rows = [
            [
                list(sizes(item.step))
                if isinstance(item, Layer)
                else list(zip(found[item.form].parameters, item.arguments, strict=True))
                for item in block.items
            ]
            for block in blocks
        ]
        parameters, expressions = _arguments(rows)
        for block, row in zip(blocks, rows, strict=True):
            flat = [value for item in row for _, value in item]
            block.arguments = tuple(flat[column] for column in parameters.values())
        name = _free(blocks[0].kind, names, "")
        names.add(name)
        found.append(Form(name, blocks[0], tuple(parameters), expressions, [place for place, _ in members]))
    return found


def _signature(block: Block) -> Any:
    """Return what blocks of one class have in common, hashable."""
    local = {value: number for number, value in enumerate(block.inputs)}
    found: list[Any] = [block.kind]
    for item in block.items:
        wiring = tuple(local[value] for value in item.inputs)
        if isinstance(item, Layer):
            step = item.step
            weights = tuple(step.weights)
            found.append((step.op, item.name, step.form, tuple(step.sizes), weights, len(step.shape), wiring))
        else:
            found.append((item.form, item.name, wiring))
        for value in item.outputs:
            local[value] = len(local)
    return (*found, tuple(local[value] for value in block.outputs))


def _arguments(rows: list[list[list[tuple[str, int]]]]) -> tuple[dict[str, int], list[dict[str, str]]]:
    """Find the sizes in which the blocks of a class differ.

    Args:
      rows: of each block, of each item, (role, value) pairs.

    Returns:
      Each argument's name and its first place among the sizes; of each item, the text of each size by role.
    """
    flat = [[pair for item in row for pair in item] for row in rows]
    parameters: dict[str, int] = {}
    known: dict[tuple[int, ...], str] = {}
    texts: list[str] = []
    for column, pairs in enumerate(zip(*flat, strict=True)):
        role, values = pairs[0][0], tuple(value for _, value in pairs)
        if len(set(values)) == 1:
            texts.append(str(values[0]))
            continue
        if values not in known:
            known[values] = _free(role, set(parameters))
            parameters[known[values]] = column
        texts.append(known[values])
    expressions, place = [], 0
    for item in rows[0]:
        expressions.append({role: texts[place + n] for n, (role, _) in enumerate(item)})
        place += len(item)
    return parameters, expressions
