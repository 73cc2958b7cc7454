"""This module lets a trace show whole operations, convolutions and pools, instead of the arithmetic they are made of.

Outside :func:`whole_operations` an operation is just its function. Inside, its call becomes one equation of the trace,
with the operation's name and its static arguments. So another language can print the network.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax import core as jax_core
from jax.extend import core

_whole: contextvars.ContextVar[bool] = contextvars.ContextVar("_whole", default=False)
_Function = TypeVar("_Function", bound=Callable[..., Any])

OPERATION = core.Primitive("eproxy_operation")
OPERATION.def_abstract_eval(lambda *operands, aval, **_: aval)


def operation(function: _Function) -> _Function:
    """Declare a function of arrays, and of static arguments after them, as one whole operation.

    Example:
      >>> @operation
      ... def scaled(x, by):
      ...     return x * by
      >>> with whole_operations():
      ...     trace = jax.make_jaxpr(lambda x: scaled(x, 3))(1.0)
      >>> trace.eqns[0].params["name"], trace.eqns[0].params["static"]
      ('scaled', (3,))
    """

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if not _whole.get():
            return function(*arguments, **named)
        return whole(function, *inspect.signature(function).bind(*arguments, **named).args)

    if hasattr(function, "defvjp"):  # a ``jax.custom_vjp``, whose gradients are defined after it
        call.defvjp = function.defvjp  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
    return call  # pyright: ignore[reportReturnType]


def whole(function: Callable[..., Any], *arguments: Any, name: str = "", static: tuple[Any, ...] = ()) -> Any:
    """Put one equation into the trace for ``function(*arguments)``, whose result is one array.

    Args:
      function: its shapes are looked at, it does not run.
      *arguments: arrays, then static arguments.
      name: of the operation; the function's own if absent.
      static: hashable facts, after the static arguments.
    """
    count = sum(isinstance(argument, jax.Array) for argument in arguments)
    arrays, rest = arguments[:count], arguments[count:]
    with _set(False):
        shape = jax.eval_shape(lambda *arrays: function(*arrays, *rest), *arrays)
    aval = jax_core.ShapedArray(shape.shape, shape.dtype)
    return OPERATION.bind(*arrays, name=name or function.__name__, static=(*rest, *static), aval=aval)


@contextlib.contextmanager
def whole_operations() -> Iterator[None]:
    """Let operations be single equations of what is traced in this context."""
    with _set(True):
        yield


@contextlib.contextmanager
def _set(value: bool) -> Iterator[None]:
    token = _whole.set(value)
    try:
        yield
    finally:
        _whole.reset(token)
