"""This module reads pickled data sets, such as CIFAR's, without Python's unpickler.

A pickle is a program. Here a small interpreter runs the few instructions that build plain data and numeric arrays, and
refuses all others. It imports nothing, calls nothing that the file names, and works within limits of time and memory.
Protocols 0 to 5 are read, as Python 2 and 3 write them.
"""

from __future__ import annotations

import codecs
import dataclasses
import math
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

_MAX_STEPS = 2_000_000  # a file of ImageNet16 takes 130,000, one of CIFAR-100 260,000
_MAX_DIGITS = 20  # of integers: labels and sizes
_COPIED = 2**16  # bytes; longer byte strings stay views of the file
_MAX_DIMENSIONS = 8
_NUMBERS = frozenset(kind + size for kind in "iuf" for size in "1248") - {"f1"} | {"b1"}
_LATIN = frozenset(["latin1", "latin-1"])
_BUILDERS = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "array" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "buffer" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("__builtin__", "bytes"): "bytes",
    ("builtins", "bytes"): "bytes",
}
_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}


class PickleError(ValueError):
    """The bytes are damaged, or hold more than plain data and numeric arrays."""


def read_pickle(content: bytes) -> dict[str, Any]:
    """Read a pickled dictionary of plain data and numeric arrays.

    Args:
      content: the file's bytes.

    Returns:
      The values by name. Values are integers, floats, texts, bytes, lists, tuples, dictionaries and NumPy arrays. Large
      byte strings and arrays are views of ``content``.

    Raises:
      PickleError: damaged, not a dictionary with names as keys, another kind of data, or beyond the limits.
    """
    machine = _Machine(content)
    try:
        value = machine.run()
    except PickleError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise PickleError(f"damaged at byte {machine.position}") from error
    if not isinstance(value, dict):
        raise PickleError(f"a {type(value).__name__}, where a dictionary is expected")
    named = {}
    for key, part in value.items():
        name = key.decode("latin-1") if isinstance(key, bytes) else key
        if not isinstance(name, str):
            raise PickleError("a dictionary whose keys are no names")
        named[name] = part.value if isinstance(part, _Array) else part
    return named


class _Mark:
    """Where a list of items begins on the stack."""


@dataclasses.dataclass(frozen=True)
class _Builder:
    """One of the few functions that a file may name."""

    name: str


@dataclasses.dataclass(eq=False)
class _Dtype:
    """A number's dtype while it is put together."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype:
        return np.dtype(("" if self.order == "|" else self.order) + self.code)


@dataclasses.dataclass(eq=False)
class _Array:
    """An array while it is put together."""

    value: np.ndarray | None = None


class _Machine:
    """The interpreter: a stack, a memo and a position in the bytes."""

    def __init__(self, content: bytes):
        self.content, self.view, self.position = content, memoryview(content), 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.encodable = len(content)  # characters that may still be encoded: none twice

    def run(self) -> Any:
        content, steps = self.content, _STEPS
        for _ in range(_MAX_STEPS):
            if self.position >= len(content):
                raise PickleError("it ends early")
            code = content[self.position]
            self.position += 1
            if code == 0x2E:  # "."
                if len(self.stack) != 1:
                    raise PickleError("it ends early")
                return self.stack[0]
            step = steps.get(code)
            if step is None:
                raise PickleError(
                    f"{_NAMES.get(code, 'an unknown instruction')} at byte {self.position - 1} is no data"
                )
            step(self)
        raise PickleError(f"more than {_MAX_STEPS:,} instructions, which no data set of images needs")

    # --- bytes -----------------------------------------------------------------------------------------------

    def take(self, size: int) -> bytes | memoryview:
        start, self.position = self.position, self.position + size
        if self.position > len(self.content):
            raise PickleError("it ends early")
        return self.content[start : self.position] if size <= _COPIED else self.view[start : self.position]

    def number(self, form: str) -> int:
        size = struct.calcsize(form)
        return struct.unpack(form, self.take(size))[0]

    def line(self) -> bytes:
        end = self.content.find(b"\n", self.position)
        if end < 0:
            raise PickleError("it ends early")
        start, self.position = self.position, end + 1
        return self.content[start:end]

    # --- the stack -------------------------------------------------------------------------------------------

    def since_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _Mark:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise PickleError(f"damaged at byte {self.position}")

    def tuple(self, size: int) -> None:
        if size > len(self.stack):
            raise PickleError(f"damaged at byte {self.position}")
        start = len(self.stack) - size
        self.stack[start:] = [tuple(self.stack[start:])]

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise PickleError(f"damaged at byte {self.position}")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise PickleError(f"damaged at byte {self.position}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, bytes)):  # integers of one hash would make a dictionary slow
                raise PickleError("a dictionary whose keys are no names")
            target[key] = value

    # --- values ----------------------------------------------------------------------------------------------

    def text(self, size: int) -> None:
        self.stack.append(str(self.take(size), "utf-8", "surrogatepass"))

    def integer(self, size: int) -> None:
        if size > _MAX_DIGITS:
            raise PickleError("an integer of more digits than labels and sizes have")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def decimal(self, text: bytes) -> int:
        if len(text) > _MAX_DIGITS:
            raise PickleError("an integer of more digits than labels and sizes have")
        return int(text)

    def integer_line(self) -> None:
        text = self.line()
        self.stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else self.decimal(text))

    def string_line(self) -> None:
        text = self.line().strip()
        if len(text) < 2 or text[:1] not in (b"'", b'"') or text[:1] != text[-1:]:
            raise PickleError(f"damaged at byte {self.position}")
        self.stack.append(codecs.escape_decode(text[1:-1])[0])  # pyright: ignore[reportAttributeAccessIssue]

    def builder(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError(f"damaged at byte {self.position}")
        found = _BUILDERS.get((module, name))
        if found is None:
            raise PickleError(f"it asks for {module[:60]}.{name[:60]}, which is not array data")
        self.stack.append(_Builder(found))

    def stack_builder(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.builder(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Builder) or type(arguments) is not tuple:
            raise PickleError(f"damaged at byte {self.position}")
        self.stack.append(self.built(function.name, arguments))

    def built(self, name: str, arguments: tuple[Any, ...]) -> Any:
        match name, arguments:
            case "bytes", ():
                return b""
            case "encode", (str() as text, (str() | bytes()) as codec) if _text(codec) in _LATIN:
                self.encodable -= len(text)
                if self.encodable < 0:
                    raise PickleError("it encodes more than it contains")
                return text.encode("latin-1")
            case "dtype", ((str() | bytes()) as code, *_) if _text(code) in _NUMBERS:
                return _Dtype(_text(code))
            case "dtype", ((str() | bytes()) as code, *_):
                raise PickleError(f"an array of dtype {_text(code)[:20]!r}, where numbers are expected")
            case "array", (_Builder(name="ndarray"), tuple(), _):
                return _Array()
            case "buffer", (data, _Dtype() as dtype, tuple() as shape, order):
                return _Array(_array(data, dtype, shape, _text(order) == "F"))
            case "scalar", (_Dtype() as dtype, data):
                return _array(data, dtype, (), False).item()
        raise PickleError(f"damaged at byte {self.position}")

    def build(self) -> None:
        state = self.stack.pop()
        match self.stack[-1], state:
            case _Array() as array, (1, tuple() as shape, _Dtype() as dtype, (bool() | int()) as fortran, data):
                array.value = _array(data, dtype, shape, bool(fortran))
            case _Dtype() as dtype, (int(), (str() | bytes()) as order, None, None, None, *_):
                if _text(order) not in ("|", "<", ">", "="):
                    raise PickleError(f"damaged at byte {self.position}")
                dtype.order = _text(order)
            case _:
                raise PickleError(f"state at byte {self.position - 1} that is not of a numeric array")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _array(data: Any, dtype: _Dtype, shape: tuple[Any, ...], fortran: bool) -> np.ndarray:
    """Return the array of the bytes, a view of them."""
    sound = len(shape) <= _MAX_DIMENSIONS and all(type(size) is int and size >= 0 for size in shape)
    if not sound or not isinstance(data, (bytes, memoryview)):
        raise PickleError("an array whose shape or content is no data")
    numbers = dtype.numpy()
    if math.prod(shape) * numbers.itemsize != len(data):
        raise PickleError(f"an array of shape {list(shape)} with {len(data)} bytes")
    return np.frombuffer(data, numbers).reshape(shape, order="F" if fortran else "C")


def _steps() -> dict[int, Callable[[_Machine], None]]:
    """Instructions by code. What is not here is refused."""

    def push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
        return lambda m: m.stack.append(make(m))

    return {
        ord(code): step
        for code, step in {
            "\x80": lambda m: m.take(1),  # protocol
            "\x95": lambda m: m.take(8),  # frame
            "(": push(lambda m: _Mark),
            "N": push(lambda m: None),
            "\x88": push(lambda m: True),
            "\x89": push(lambda m: False),
            "K": push(lambda m: m.number("<B")),
            "M": push(lambda m: m.number("<H")),
            "J": push(lambda m: m.number("<i")),
            "I": _Machine.integer_line,
            "L": push(lambda m: m.decimal(m.line().rstrip(b"L"))),
            "\x8a": lambda m: m.integer(m.number("<B")),
            "\x8b": lambda m: m.integer(m.number("<I")),
            "G": push(lambda m: m.number(">d")),
            "F": push(lambda m: float(m.line())),
            "U": push(lambda m: m.take(m.number("<B"))),
            "T": push(lambda m: m.take(m.number("<I"))),
            "S": _Machine.string_line,
            "C": push(lambda m: m.take(m.number("<B"))),
            "B": push(lambda m: m.take(m.number("<I"))),
            "\x8e": push(lambda m: m.take(m.number("<Q"))),
            "\x96": push(lambda m: m.take(m.number("<Q"))),
            "X": lambda m: m.text(m.number("<I")),
            "\x8c": lambda m: m.text(m.number("<B")),
            "\x8d": lambda m: m.text(m.number("<Q")),
            "V": push(lambda m: str(m.line(), "raw-unicode-escape")),
            "}": push(lambda m: {}),
            "]": push(lambda m: []),
            ")": push(lambda m: ()),
            "l": push(lambda m: m.since_mark()),
            "t": push(lambda m: tuple(m.since_mark())),
            "\x85": lambda m: m.tuple(1),
            "\x86": lambda m: m.tuple(2),
            "\x87": lambda m: m.tuple(3),
            "d": _dictionary,
            "a": lambda m: m.extend([m.stack.pop()]),
            "e": lambda m: m.extend(m.since_mark()),
            "s": _set_item,
            "u": lambda m: m.update(m.since_mark()),
            "q": lambda m: m.put(m.number("<B")),
            "r": lambda m: m.put(m.number("<I")),
            "p": lambda m: m.put(m.decimal(m.line())),
            "\x94": lambda m: m.put(len(m.memo)),
            "h": lambda m: m.get(m.number("<B")),
            "j": lambda m: m.get(m.number("<I")),
            "g": lambda m: m.get(m.decimal(m.line())),
            "c": lambda m: m.builder(str(m.line(), "ascii"), str(m.line(), "ascii")),
            "\x93": _Machine.stack_builder,
            "R": _Machine.reduce,
            "b": _Machine.build,
        }.items()
    }


def _dictionary(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.stack.append({})
    machine.update(items)


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.update([key, value])


_STEPS = _steps()
