"""This module reads architectures that were printed or stored as plain values, without evaluating any text.

It knows JSON, Python's literals, records such as ``Genotype(normal=[...], reduce=[...])``, ``range(2, 6)``, and what
NumPy prints: ``array([[0, 1], [0, 0]], dtype=int8)``, ``[[0 1] [0 0]]``, ``np.int64(3)``. Text and values take one
path (:func:`plain`), so that a notation has one meaning in every container.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eproxy_jax.errors import did_you_mean, quoted

MAX_LENGTH = 100_000  # characters; the longest published architecture has about 2,000
MAX_DEPTH = 20  # containers within containers
MAX_DIGITS = 18  # of an integer
MAX_ITEMS = 10_000  # of an array or a range

_BRACKETS = re.compile(r"[\[\](){}]")
_LONG_INTEGER = re.compile(f"[0-9]{{{MAX_DIGITS + 1}}}")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\s*=\s*(?=[A-Za-z'\"\[({|])")  # DARTS = Genotype(...)
_OPENS = re.compile(r"""[\[({'"]|[A-Za-z_][A-Za-z0-9_.]*\(|[-+.]?[0-9]""")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
    | (?P<string>[bu]?'(?:[^'\\]|\\.)*'|[bu]?"(?:[^"\\]|\\.)*")
    | (?P<name>[A-Za-z_][A-Za-z0-9_.]*(?:-[A-Za-z0-9_.]+)*)
    | (?P<mark>[\[\](){},:=])
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = {
    "True": True, "true": True, "False": False, "false": False, "None": None, "null": None,
    "nan": math.nan, "NaN": math.nan, "inf": math.inf, "Infinity": math.inf,
}  # fmt: skip
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_CLOSING = {"[": "]", "(": ")"}
# Calls that stand for their first argument, such as array([1, 2], dtype=int8) and np.int64(3).
_WRAPPERS = re.compile("(?:as)?array|tensor|Tensor|Array|matrix|list|tuple|(?:u?int|float)[0-9]*|bool_?|str_?")


def plain(source: Any, what: str = "", example: str = "") -> Any:
    """Return an architecture's source as a plain value: lists, dicts, strings, numbers.

    Args:
      source: text, or a value. Text that is a literal becomes that value. Tuples, arrays and ranges become lists, named
        tuples and dataclasses dicts.
      what: the start of messages, such as ``"not a NAS-Bench-101 cell"``.
      example: text that could be read, for messages.

    Returns:
      The value. Text that is no literal is returned without quotes, outer spaces and a final comma.

    Raises:
      ValueError: the text starts like a literal with brackets and is none, or it is too long or nested too deep.

    Example:
      >>> plain("(2, 0, 4)") == plain("[2, 0, 4]") == plain((2, 0, 4)) == [2, 0, 4]
      True
      >>> plain("'|none~0|',")
      '|none~0|'
      >>> plain("DARTS = Genotype(normal=[('none', 0)])")
      {'normal': [['none', 0]]}
    """
    try:
        value = _plain_text(source) if isinstance(source, str) else _plain_value(source, 0)
        return {key: _cell(entry) for key, entry in value.items()} if isinstance(value, dict) else value
    except ValueError as error:
        parts = (f"{what}: " if what else "", str(error), f"; expected text like {example}" if example else "")
        raise ValueError("".join(parts)) from error


def check_keys(found: Mapping[Any, Any], needed: Sequence[str], where: str, like: str):
    """Check that an object has some keys. It may have others, but a misspelt one is named.

    Args:
      found: the object.
      needed: the keys.
      where: the start of the message.
      like: what the object should look like, for the message.

    Raises:
      ValueError: a key is missing.
    """
    missing = [name for name in needed if name not in found]
    if missing:
        unknown = misspelt(found, missing)
        raise ValueError(f"{where}: {', '.join(missing)} missing{unknown and f', {unknown}'}; expected {like}")


def misspelt(found: Iterable[Any], missing: Sequence[str]) -> str:
    """Return ``"unknown key 'widht' (did you mean 'width'?)"`` for the first key that is nearly a missing one.

    Where there is none, the text is empty.
    """
    for key in found:
        if isinstance(key, str) and len(key) < 40 and (hint := did_you_mean(key, missing, cutoff=0.75)):
            return f"unknown key {key!r}{hint}"
    return ""


def _cell(value: Any) -> Any:
    """Return an object's value as a plain value; where a table's row became the object, lists are text."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "(", "{"):
        return value
    try:
        return read(value.strip())
    except ValueError:
        return value


def _plain_text(source: str) -> Any:
    value: Any = source
    for _ in range(3):  # text within text: a cell of a table that holds a quoted tuple
        text = value.strip().rstrip(",;").rstrip()
        text = text[match.end() :] if (match := _ASSIGNMENT.match(text)) else text
        if not _OPENS.match(text):
            return text
        try:
            value = read(text)
        except ValueError:
            if text[0] in "[({" or text[-1] == ")":
                raise
            return text
        if not isinstance(value, str):
            return value
    return value.strip()


def read(text: str) -> Any:
    """Return the value of a literal; several of them separated by commas are a list.

    Raises:
      ValueError: not a literal; says where it stops being one.

    Example:
      >>> read("Genotype(normal=[('none', 0)], normal_concat=range(2, 4))")
      {'normal': [['none', 0]], 'normal_concat': [2, 3]}
      >>> read("[[0 1] [0 0]]")
      [[0, 1], [0, 0]]
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(
            f"text of {len(text):,} characters, {quoted(text)}: an architecture has {MAX_LENGTH:,} at most"
        )
    _check_depth(text)
    if text[:1] in ("[", "{", '"'):
        hooks: dict[str, Any] = {}
        if "{" in text:
            hooks["object_pairs_hook"] = _object
        if _LONG_INTEGER.search(text):
            hooks["parse_int"] = _integer
        try:
            return json.loads(text, **hooks)
        except json.JSONDecodeError:
            pass
    return _Reader(text).top()


def integer(value: Any) -> int | None:
    """Return a whole number as an int, or None: 3 and 3.0 are whole, True is not a number.

    Example:
      >>> integer(3.0), integer(True), integer("3")
      (3, None, None)
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**MAX_DIGITS:
        return int(value)
    return None


def integers(value: Any) -> list[int] | None:
    """Return a list of whole numbers as ints, or None."""
    if not isinstance(value, list):
        return None
    found = [integer(entry) for entry in value]
    return None if None in found else found  # pyright: ignore[reportReturnType]


def _check_depth(text: str):
    if text.count("[") + text.count("(") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += 1 if match.group() in "[({" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"{quoted(text)} has more than {MAX_DEPTH} brackets within brackets")


def _object(pairs: list[tuple[str, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {quoted(twice)} stands twice in one object")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("+-")) > MAX_DIGITS:
        raise ValueError(f"the number {quoted(text)} has more than {MAX_DIGITS} digits")
    return int(text)


def _plain_value(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind is int or kind is str or kind is float or kind is bool or value is None:
        return value
    if depth > MAX_DEPTH:
        raise ValueError(f"{quoted(value)} has more than {MAX_DEPTH} containers within containers")
    if hasattr(value, "_fields") and isinstance(value, tuple):
        return {name: _plain_value(entry, depth + 1) for name, entry in zip(value._fields, value, strict=True)}  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, (list, tuple)):
        return [_plain_value(entry, depth + 1) for entry in value]
    if isinstance(value, Mapping):
        return {key: _plain_value(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, range):
        return _range(value)
    if hasattr(value, "tolist"):  # NumPy, JAX, PyTorch
        size = getattr(value, "size", 0)
        if isinstance(size, int) and size > MAX_ITEMS:
            raise ValueError(f"an array of {size:,} numbers: no architecture has as many")
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain_value(getattr(value, name), depth + 1) for name in names}
    return value


def _range(value: range) -> list[int]:
    if len(value) > MAX_ITEMS:
        raise ValueError(f"{quoted(value)} has more than {MAX_ITEMS:,} numbers")
    return list(value)


class _Reader:
    """A recursive-descent reader; its depth is bounded by :func:`_check_depth`.

    Args:
      text: what to read.
    """

    def __init__(self, text: str):
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        position, end = 0, len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self.error(position)
            self.tokens.append((match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup)))
            position = match.end()
        self.place = 0

    def error(self, position: int, wanted: str = "a value") -> ValueError:
        """Return the error to raise at a position of the text."""
        rest = self.text[position:].strip()
        found = quoted(rest[:20]) if rest else "the end"
        return ValueError(
            f"{quoted(self.text)} is no literal: expected {wanted} at character {position}, found {found}"
        )

    def fail(self, wanted: str) -> ValueError:
        """Return the error to raise at the next token."""
        at = self.tokens[self.place][2] if self.place < len(self.tokens) else len(self.text)
        return self.error(at, wanted)

    def mark(self) -> str:
        """Return the next token if it is a mark, else nothing."""
        if self.place < len(self.tokens):
            kind, text, _ = self.tokens[self.place]
            return text if kind == "mark" else ""
        return ""

    def skip(self, mark: str):
        """Move past a mark that must be there."""
        if self.mark() != mark:
            raise self.fail(repr(mark))
        self.place += 1

    def top(self) -> Any:
        """Read the whole text."""
        values = [self.value()]
        single = True
        while self.mark() == ",":
            single = False
            self.place += 1
            if self.place < len(self.tokens):
                values.append(self.value())
        if self.place < len(self.tokens):
            raise self.fail("the end")
        return values[0] if single else values

    def value(self) -> Any:
        """Read one value."""
        if self.place >= len(self.tokens):
            raise self.fail("a value")
        kind, text, _ = self.tokens[self.place]
        if kind == "mark":
            if text == "{":
                return self.mapping()
            if text in _CLOSING:
                return self.sequence(text)
            raise self.fail("a value")
        self.place += 1
        if kind == "number":
            return _integer(text) if text.lstrip("+-").isdigit() else float(text)
        if kind == "string":
            return _unquoted(text)
        if self.mark() == "(":
            return self.call(text.rpartition(".")[2])
        return _WORDS.get(text, text)

    def sequence(self, opening: str) -> Any:
        """Read a list or a tuple; commas may be missing. One value in parentheses is that value."""
        self.place += 1
        values, comma = [], False
        while self.mark() != _CLOSING[opening]:
            values.append(self.value())
            if self.mark() == ",":
                comma = True
                self.place += 1
        self.place += 1
        return values[0] if opening == "(" and len(values) == 1 and not comma else values

    def mapping(self) -> dict[Any, Any]:
        """Read a dict; keys are strings, numbers, or tuples of them."""
        self.place += 1
        pairs = []
        while self.mark() != "}":
            key = self.value()
            self.skip(":")
            pairs.append((_hashable(key), self.value()))
            if self.mark() == ",":
                self.place += 1
            elif self.mark() != "}":
                raise self.fail("',' or '}'")
        self.place += 1
        return _object(pairs)

    def call(self, name: str) -> Any:
        """Read a record ``Name(key=value)``, a range, an array, or a wrapped value."""
        self.place += 1
        values, pairs = [], []
        while self.mark() != ")":
            named = self.place + 1 < len(self.tokens) and self.tokens[self.place + 1][:2] == ("mark", "=")
            if named and self.tokens[self.place][0] == "name":
                key = self.tokens[self.place][1]
                self.place += 2
                pairs.append((key, self.value()))
            else:
                values.append(self.value())
            if self.mark() == ",":
                self.place += 1
            elif self.mark() != ")":
                raise self.fail("',' or ')'")
        self.place += 1
        if name == "range":
            bounds = integers(values)
            if pairs or bounds is None or not 1 <= len(bounds) <= 3 or bounds[2:] == [0]:
                raise ValueError(f"{quoted(self.text)}: range() takes one to three integers")
            return _range(range(*bounds))
        if len(values) == 1 and _WRAPPERS.fullmatch(name):
            return values[0]
        if name in ("dict", "OrderedDict") and len(values) == 1 and isinstance(values[0], list) and not pairs:
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in values[0]):
                raise ValueError(f"{quoted(self.text)}: {name}([...]) takes pairs of a key and a value")
            return _object([(_hashable(key), entry) for key, entry in values[0]])
        if values and pairs:
            raise ValueError(f"{quoted(self.text)}: name all fields of {name}(...), or none")
        return _object(pairs) if pairs else values


def _hashable(key: Any) -> Any:
    if isinstance(key, dict):
        raise ValueError(f"{quoted(key)} is the key of an object: keys are strings, numbers or tuples of them")
    return tuple(map(_hashable, key)) if isinstance(key, list) else key


def _unquoted(text: str) -> str:
    text = text[text.index(text[-1]) + 1 : -1]
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else _ESCAPES.get(m[2], m[2]), text)
