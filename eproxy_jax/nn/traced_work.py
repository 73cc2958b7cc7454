"""This module counts the work of any JAX function from its trace: multiply-accumulates and the bytes that must move.

Counted are convolutions, matrix products and sums. Work of another form, such as a sum of shifted products, looks like
any element-wise arithmetic in the trace. A function that does such work says how much it does, see :func:`counted`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from jax.extend import core


class Operation(NamedTuple):
    """One operation that no compiler can merge away, as often as it runs.

    Attributes:
      macs: multiply-accumulates of one turn; 0 of a reduction.
      bytes: of its operands and its result.
      turns: how often it runs.
    """

    macs: int
    bytes: int
    turns: int


_Function = TypeVar("_Function", bound=Callable[..., Any])
_COUNTED: dict[str, Callable[..., int]] = {}


def counted(macs: Callable[..., int], static_argnums: Sequence[int] = ()) -> Callable[[_Function], _Function]:
    """Return a decorator that states the multiply-accumulates of a function whose work the trace does not show.

    The function becomes a jitted one, whose call keeps its name in the trace of its caller. XLA inlines it.

    Args:
      macs: shapes of the arrays that the function takes and gives, in order -> multiply-accumulates. Under ``vmap``
        batched ones have a further axis in front.
      static_argnums: arguments that are no arrays, see ``jax.jit``.

    Example:
      >>> @counted(lambda x, y, out: math.prod(out))
      ... def product(x, y):
      ...     return x * y
      >>> x = jax.ShapeDtypeStruct((5, 2), "float32")
      >>> count(product, x, x)
      10
    """

    def decorate(function: _Function) -> _Function:
        name = f"counted_{function.__module__}.{function.__qualname__}"
        _COUNTED[name] = macs

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return function(*arguments)

        call.__name__ = name
        jitted: Any = jax.jit(call, static_argnums=tuple(static_argnums))
        return jitted

    return decorate


def operations(function: Callable[..., Any], *arguments: Any, platform: str = "cpu") -> Iterator[Operation]:
    """Yield convolutions, matrix products, sums and calls of :func:`counted` functions in ``function(*arguments)``.

    Element-wise work is left out, for it can fuse into those. Loops count every turn where the number of turns is
    static, conditionals their most expensive branch. A ``while`` loop counts once.

    Args:
      function: traceable by JAX.
      *arguments: arrays or ``jax.ShapeDtypeStruct``.
      platform: what it is to be compiled for, as ``lax.platform_dependent`` names it.

    Example:
      >>> x = jax.ShapeDtypeStruct((5, 2), "float32")
      >>> list(operations(lambda x: x @ x.T, x))
      [Operation(macs=50, bytes=180, turns=1)]
    """
    return _operations(jax.make_jaxpr(function)(*arguments).jaxpr, 1, platform)


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the multiply-accumulates of all :func:`operations`.

    Example:
      >>> x = jax.ShapeDtypeStruct((5, 2), "float32")
      >>> count(lambda x: x @ x.T, x)
      50
    """
    return sum(operation.macs * operation.turns for operation in operations(function, *arguments))


def _operations(jaxpr: core.Jaxpr, turns: int, platform: str) -> Iterator[Operation]:
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        avals: list[Any] = [variable.aval for variable in (*equation.invars, *equation.outvars)]
        if name in ("dot_general", "conv_general_dilated", "reduce_sum"):
            size = sum(aval.size * aval.dtype.itemsize for aval in avals)
            yield Operation(_macs(name, params, avals), size, turns)
        elif name == "jit" and params["name"] in _COUNTED:
            size = sum(aval.size * aval.dtype.itemsize for aval in avals)
            yield Operation(_COUNTED[params["name"]](*(aval.shape for aval in avals)), size, turns)
        elif name == "cond":
            taken = params["branches"]
            if params.get("branches_platforms") is not None:
                platforms = zip(taken, params["branches_platforms"], strict=True)
                taken = [next(branch for branch, names in platforms if names is None or platform in names)]
            branches = [list(_operations(branch.jaxpr, turns, platform)) for branch in taken]
            yield from max(branches, key=lambda branch: sum(operation.macs * operation.turns for operation in branch))
        else:
            for inner in _inner(params):
                yield from _operations(inner, turns * (params["length"] if name == "scan" else 1), platform)


def _macs(name: str, params: dict[str, Any], avals: list[Any]) -> int:
    out = math.prod(avals[-1].shape)
    if name == "dot_general":
        contracted, _ = params["dimension_numbers"]
        return out * math.prod(avals[0].shape[i] for i in contracted[0])
    if name == "conv_general_dilated":
        _, *rest = params["dimension_numbers"].rhs_spec  # where the kernel has its features; inputs and positions
        return out * math.prod(avals[1].shape[i] for i in rest)
    return 0


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Return the traced functions that an equation calls."""
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found
