"""Fingerprints of a user's code: equal ones, equal networks.

A run that goes on after a kill must notice that the function that builds its networks has changed. So the identity of a
run holds a fingerprint of that function, by what it does and not by where it stands.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

_DIGITS = 12
_PACKAGE = __name__.partition(".")[0]
# What Python, dataclasses, abc and Linen put into a class. The fields of a dataclass are read from their own table.
_NOT_SOURCE = {
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__match_args__",
    "__module__", "__orig_bases__", "__parameters__", "__qualname__", "__slots__", "__static_attributes__",
    "__weakref__", "_abc_impl", "_compact_name_scope_methods", "_parent_ref", "_state",
}  # fmt: skip
_PLAIN = (bool, int, float, complex, str, bytes, range, np.dtype)


def source_fingerprint(source: Any) -> str:
    """Hash of the code of a function or a class, and of all code of the user that it refers to.

    Counted are bytecode, constants, names, defaults and closure values of functions; names, methods, bases, fields and
    attributes of classes; and the global variables that the code names, functions and classes of the user's other
    modules included. Installed packages, the standard library and this package count by name, objects of their classes
    by fields where they are dataclasses.

    Not counted are comments, docstrings, line numbers, file paths and names of modules. The fingerprint is the same in
    every process. Another version of Python compiles to other bytecode, hence gives another fingerprint.

    Args:
      source: a function, a class, a bound method, or any value made of them and of plain data.

    Returns:
      12 hexadecimal digits.

    Example:
      >>> len(source_fingerprint(lambda width: width + 1))
      12
      >>> def widen(step):
      ...     return lambda width: width + step
      >>> source_fingerprint(widen(1)) == source_fingerprint(widen(2))
      False
    """
    return _Reader({}).digest(source)[:_DIGITS]


class _Reader:
    """Digests of values. ``met`` numbers those that may contain themselves, so that circles end."""

    def __init__(self, met: dict[int, int]):
        self.met = dict(met)
        self.kept: list[Any] = []  # alive, so that no other object takes its id

    def digest(self, value: Any, names: Sequence[str] = ()) -> str:
        """Hash of a value; ``names`` are those that the code which refers to it uses, to find parts of a module."""
        return hashlib.blake2b("\0".join(self._parts(value, names)).encode(), digest_size=16).hexdigest()

    def _parts(self, value: Any, names: Sequence[str]) -> Iterator[str]:
        if value is None or value is ... or isinstance(value, _PLAIN):
            yield from (type(value).__name__, repr(value))
            return
        # Equal constants may or may not be one object, which depends on whether Python read a compiled file.
        if not isinstance(value, (tuple, frozenset, types.CodeType)):
            if id(value) in self.met:
                yield from ("met", str(self.met[id(value)]))
                return
            self.met[id(value)] = len(self.met)
            self.kept.append(value)
        if isinstance(value, types.CodeType):
            yield from self._code(value, None)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from ("method", self.digest(value.__func__), self.digest(value.__self__))
        elif isinstance(value, types.ModuleType):
            yield from self._module(value, names)
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, functools.partial):
            yield from ("partial", *map(self.digest, (value.func, value.args, value.keywords)))
        elif isinstance(value, property):
            yield from ("property", *map(self.digest, (value.fget, value.fset, value.fdel)))
        elif isinstance(value, (staticmethod, classmethod)):
            yield from (type(value).__name__, self.digest(value.__func__))
        elif isinstance(value, functools.cached_property):
            yield from ("property", self.digest(value.func))
        elif callable(value) and hasattr(value, "__wrapped__"):  # jit, cache, custom_vjp with its rules
            rules = [part for _, part in sorted(_attributes(value).items()) if isinstance(part, types.FunctionType)]
            yield from ("wrapped", *map(self.digest, (inspect.unwrap(value), *rules)))
        elif isinstance(value, Mapping):
            yield from ("mapping", *(self.digest(key) + self.digest(part) for key, part in value.items()))
        elif isinstance(value, Set):  # in no order: each member is read by itself
            yield from ("set", *sorted(_Reader(self.met).digest(part) for part in value))
        elif isinstance(value, Sequence):
            yield from ("sequence", *map(self.digest, value))
        elif all(hasattr(value, name) for name in ("__array__", "dtype", "shape")):
            yield from self._array(value)
        else:
            yield from self._object(value)

    def _array(self, array: Any) -> Iterator[str]:
        yield from ("array", str(array.dtype), str(array.shape))
        if isinstance(array.dtype, np.dtype):  # typed keys of JAX have a dtype of their own, and no bytes
            yield hashlib.blake2b(np.asarray(array).tobytes(), digest_size=16).hexdigest()

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        module = function.__globals__.get("__name__")
        if hasattr(function, "__wrapped__"):  # functools.wraps: what it wraps, and below the wrapper's own code
            yield self.digest(inspect.unwrap(function))
        if is_library(module):
            yield from ("library", f"{module}.{function.__code__.co_qualname}")
            if hasattr(function, "__wrapped__"):
                return
        else:
            yield from self._code(function.__code__, function.__doc__)
            yield from map(self.digest, (function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                yield self.digest(cell.cell_contents)
            except ValueError:  # a variable that has no value yet
                yield "empty"
        if not is_library(module):
            names = sorted(_names(function.__code__))
            for name in names:
                if name in function.__globals__:
                    yield name + self.digest(function.__globals__[name], names)

    def _code(self, code: types.CodeType, doc: str | None) -> Iterator[str]:
        constants = code.co_consts
        if doc is not None and constants and constants[0] == doc:
            constants = (None, *constants[1:])  # what stands there in a function without a docstring
        yield from ("code", code.co_code.hex(), code.co_exceptiontable.hex())
        yield from map(repr, (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
        yield from map(repr, (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount))
        yield from map(self.digest, constants)

    def _module(self, module: types.ModuleType, names: Sequence[str]) -> Iterator[str]:
        if is_library(module.__name__):
            yield from ("library", module.__name__)
            return
        yield "module"
        for name in names:
            if hasattr(module, name):
                yield name + self.digest(getattr(module, name), names)

    def _class(self, cls: type) -> Iterator[str]:
        if is_library(cls.__module__):
            yield from ("library", f"{cls.__module__}.{cls.__qualname__}")
            return
        # The name counts: Linen names submodules, and draws their weights, by the name of the class.
        yield from ("class", cls.__name__, *map(self.digest, cls.__bases__))
        for field in getattr(cls, "__dataclass_fields__", {}).values():
            given = [part for part in (field.default, field.default_factory) if part is not dataclasses.MISSING]
            yield from (field.name, *map(self.digest, given))
        for name, value in sorted(vars(cls).items()):
            if name not in _NOT_SOURCE and not _is_generated(value):
                yield name + self.digest(value)

    def _object(self, value: Any) -> Iterator[str]:
        yield from ("object", self.digest(type(value)), str(getattr(value, "__name__", "")))
        if dataclasses.is_dataclass(value):
            parts = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
        elif isinstance(value, types.SimpleNamespace) or not is_library(type(value).__module__):
            parts = _attributes(value)
        else:
            parts = {}  # a lock, a logger: what it holds changes while the program runs
        yield from (name + self.digest(part) for name, part in sorted(parts.items()))


def _names(code: types.CodeType) -> set[str]:
    """Global variables and attributes that code names, those of inner functions included."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _attributes(value: Any) -> dict[str, Any]:
    return getattr(value, "__dict__", {})


def _is_generated(value: Any) -> bool:
    """Whether dataclasses wrote a method, which then says no more than the fields do."""
    return isinstance(value, types.FunctionType) and value.__code__.co_qualname.startswith("__create_fn__.")


def is_library(module: str | None) -> bool:
    """Whether a module is of this package, of the standard library or installed: known by its name."""
    top = (module or "").partition(".")[0]
    if top in sys.stdlib_module_names or top in (_PACKAGE, "builtins"):
        return top != "__main__"
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)
