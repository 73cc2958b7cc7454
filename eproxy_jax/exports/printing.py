"""This module prints classes of blocks as Python, for any library: a :class:`Language` writes each step."""

from __future__ import annotations

import abc
import keyword
import re
from collections.abc import Sequence

from eproxy_jax.exports.blocks import Block, Form, Item, Layer
from eproxy_jax.exports.network import SIZES, Step

_GENERIC = re.compile(r"[xy][0-9]*")
_NUMBERED = re.compile(r"(.*?)([0-9]+)")
_RESERVED = {"self", "train", "nn", "jnp", "lax", "torch", "functional", "n"}


class Language(abc.ABC):
    """How a library writes layers and operations. ``sizes`` below are texts by role: numbers, or names of arguments."""

    @abc.abstractmethod
    def sizes(self, step: Step) -> list[tuple[str, int]]:
        """Return the sizes of a step that the library writes, by role."""

    @abc.abstractmethod
    def layer(self, item: Layer, sizes: dict[str, str], values: Sequence[str]) -> str:
        """Return the expression of a step: a layer or an operation applied to values."""

    @abc.abstractmethod
    def block(self, name: str, form: Form, item: Block, values: Sequence[str]) -> str:
        """Return the expression of a block applied to values; ``name`` is Python source of its name."""

    def argument(self, text: str) -> str:
        """Return the source of a size: a number, or an argument of the class."""
        return text if text.isdigit() else f"self.{text}"

    def sized(self, step: Step, left_out: Sequence[str] = ()) -> list[tuple[str, int]]:
        """Return the sizes of a step by role, but for some."""
        return [(role, step.sizes[role]) for role in SIZES if role in step.sizes and role not in left_out]


def body(language: Language, form: Form, forms: Sequence[Form]) -> tuple[list[str], str, list[str]]:
    """Print the steps of a class.

    Returns:
      Names of its inputs; the result's expression; lines in between.
    """
    block = form.example
    inputs = ["x"] if len(block.inputs) == 1 else [f"x{n}" for n in range(len(block.inputs))]
    names = _Names(block, inputs)
    lines: list[str] = []
    for first, count in runs(form):
        item, sizes = block.items[first], form.expressions[first]
        values = [names.of[value] for value in item.inputs]
        if isinstance(item, Layer):
            expression = language.layer(item, sizes, values)
        else:
            name = loop_name(item.name) if count > 1 else f'"{item.name}"'
            expression = language.block(name, forms[item.form], item, values)
            expression = expression.replace("ARGUMENTS", ", ".join(map(language.argument, sizes.values())))
        if count > 1:  # each turn reads what the turn before gave
            names.of[block.items[first + count - 1].outputs[0]] = given = values[0]
        else:
            given = names.give(item, first)
        line = f"{given} = {expression}"
        lines += [f"for n in {loop_range(item, count)}:", f"    {line}"] if count > 1 else [line]
    result = ", ".join(names.of[value] for value in block.outputs)
    if lines and lines[-1].startswith(f"{result} = "):
        return inputs, lines[-1].removeprefix(f"{result} = "), lines[:-1]
    return inputs, result, lines


class _Names:
    """Names of values inside a class: those in a plain chain are all called x."""

    def __init__(self, block: Block, inputs: Sequence[str]):
        self.of = dict(zip(block.inputs, inputs, strict=True))
        self._last = {value: number for number, item in enumerate(block.items) for value in item.inputs}
        self._last.update(dict.fromkeys(block.outputs, len(block.items)))
        self._fresh = 0
        self._taken = set(inputs)

    def give(self, item: Item, number: int) -> str:
        """Name what an item gives, by the value that ends with it, by the item, or anew."""
        ending = [v for v in dict.fromkeys(item.inputs) if self._last[v] == number and _GENERIC.fullmatch(self.of[v])]
        own = item.name.replace(".", "_")
        if len(item.outputs) > 1:
            parts = [self._new(f"{own}_{n}") for n in range(len(item.outputs))]
            self.of.update(zip(item.outputs, parts, strict=True))
            return ", ".join(parts)
        if ending and (not own or len(set(item.inputs)) == 1):
            name = self.of[ending[0]]
        elif own:
            name = self._new(own)
        else:
            self._fresh += 1
            name = self._new(f"y{self._fresh if self._fresh > 1 else ''}")
        self.of[item.outputs[0]] = name  # pyright: ignore[reportGeneralTypeIssues]
        return name

    def _new(self, name: str) -> str:
        name = re.sub(r"\W", "_", name)
        while name in self._taken or name in _RESERVED or keyword.iskeyword(name):
            name += "_"
        self._taken.add(name)
        return name


# --- loops ---------------------------------------------------------------------------------------------------


def runs(form: Form) -> list[tuple[int, int]]:
    """Return (first item, number of items) of what is printed as one: equal blocks in a row are a loop."""
    items, found, first = form.example.items, [], 0
    last = {value: number for number, item in enumerate(items) for value in item.inputs}
    while first < len(items):
        end = first + 1
        while end < len(items) and _follows(form, end, last):
            end += 1
        found.append((first, end - first))
        first = end
    return found


def _follows(form: Form, number: int, last: dict[int, int]) -> bool:
    """Return whether an item is the item before it once more, behind it, with the next number in its name."""
    before, item = form.example.items[number - 1], form.example.items[number]
    if not (isinstance(before, Block) and isinstance(item, Block)) or item.form != before.form:
        return False
    names = [_NUMBERED.fullmatch(one.name) for one in (before, item)]
    if names[0] is None or names[1] is None or names[0][1] != names[1][1] or int(names[0][2]) + 1 != int(names[1][2]):
        return False
    chained = len(before.outputs) == 1 and item.inputs == before.outputs and last[before.outputs[0]] == number
    alone = len(before.inputs) == 1 and last[before.inputs[0]] == number - 1
    return chained and alone and form.expressions[number] == form.expressions[number - 1]


def loop_name(name: str) -> str:
    """Return the name of a numbered item in its loop, as Python source."""
    match = _NUMBERED.fullmatch(name)
    return f'f"{match[1]}{{n}}"' if match else f'"{name}"'


def loop_range(item: Item, count: int) -> str:
    """Return the ``range`` of a loop that begins with a numbered item."""
    match = _NUMBERED.fullmatch(item.name)
    first = int(match[2]) if match else 0
    return f"range({count})" if first == 0 else f"range({first}, {first + count})"


# --- pieces that languages share -----------------------------------------------------------------------------


def plus(*texts: str) -> str:
    """Return the sum of two sizes as source."""
    if all(text.isdigit() for text in texts):
        return str(sum(map(int, texts)))
    return " + ".join(text for text in texts if text != "0")


def half(kernel: str, dilation: str = "1") -> str:
    """Return the source of PyTorch's "same" padding."""
    if kernel.isdigit() and dilation.isdigit():
        return str(int(dilation) * (int(kernel) // 2))
    return f"{kernel} // 2" if dilation == "1" else f"{dilation} * ({kernel} // 2)"


def pair(first: str, second: str) -> str:
    """Return two sizes as the source of a tuple."""
    return f"({first}, {second})"


def wrapped(lines: Sequence[str], limit: int = 110) -> list[str]:
    """Break long lines at the first bracket of the expression."""
    found = []
    for line in lines:
        start = line.find("(") + 1
        if len(line) <= limit or not start or line.lstrip().startswith(("def ", "class ", "for ", '"""')):
            found.append(line)
            continue
        depth, end = 1, start
        while depth:
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        indent = line[: len(line) - len(line.lstrip())]
        inner = re.split(r", (?![^(]*\))", line[start : end - 1])  # at commas outside brackets
        rows = [""]
        for part in inner:
            if rows[-1] and len(rows[-1]) + len(part) > limit - len(indent) - 8:
                rows.append("")
            rows[-1] += f"{part}, "
        rows = [f"{indent}    {row.rstrip()}" for row in rows]
        found += [line[:start], *rows[:-1], rows[-1].removesuffix(","), f"{indent}{line[end - 1 :]}"]
    return found


def places(form: Form) -> str:
    """Say where the blocks of a class are."""
    shown = ", ".join(form.places) if len(form.places) < 6 else f"{form.places[0]} to {form.places[-1]}"
    return f"{shown} ({len(form.places)} times)" if len(form.places) > 5 else shown
