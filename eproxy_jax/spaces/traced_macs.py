"""Multiply-accumulates of any JAX function, counted in its traced form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-accumulates of the convolutions and matrix products of ``function(*arguments)``.

    Depthwise convolutions that are written as sums of shifted products are neither, and are not counted.

    Loops count every turn whose number is static, conditionals their dearest branch. A ``while`` loop counts once.

    Args:
      function: traceable by JAX.
      *arguments: arrays or ``jax.ShapeDtypeStruct``.

    Example:
      >>> x = jax.ShapeDtypeStruct((5, 2), "float32")
      >>> count(lambda x: x @ x.T, x)
      50
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        shapes: list[Any] = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
        out: Any = getattr(equation.outvars[0].aval, "shape", ()) if equation.outvars else ()
        if name == "dot_general":
            contracted, _ = params["dimension_numbers"]
            total += math.prod(out) * math.prod(shapes[0][i] for i in contracted[0])
        elif name == "conv_general_dilated":
            _, *rest = params["dimension_numbers"].rhs_spec  # where the kernel has its features; inputs and positions
            total += math.prod(out) * math.prod(shapes[1][i] for i in rest)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            turns = params["length"] if name == "scan" else 1
            total += turns * sum(_count(inner) for inner in _inner(params))
    return total


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """The traced functions that an equation calls."""
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found
