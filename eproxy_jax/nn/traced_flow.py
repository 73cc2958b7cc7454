"""This module tells from a trace which outputs of a JAX function depend on an argument: nothing is compiled or run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

# Equations that call one traced function with their own operands.
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call", "custom_vjp_call"}
)


def depends_on_first(function: Callable[..., Any], *arguments: Any) -> list[bool]:
    """Return, for each leaf of ``function(*arguments)``, whether it depends on a leaf of the first argument.

    The trace decides: a product with a constant zero counts as dependence, a value that is never read does not. Where
    the trace is too deep to follow (a ``while`` loop, a custom call), every operand counts as read.

    Args:
      function: traceable by JAX.
      *arguments: arrays or ``jax.ShapeDtypeStruct``, or pytrees of them.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jax.ShapeDtypeStruct((3,), "float32")
      >>> depends_on_first(lambda x, y: (x + y, jnp.zeros_like(x) + y), x, x)
      [True, False]
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    first = len(jax.tree.leaves(arguments[0]))
    return _outputs(jaxpr, [number < first for number in range(len(jaxpr.invars))])


def _outputs(jaxpr: core.Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    depends = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and depends.get(atom, False)

    for equation in jaxpr.eqns:
        found = _results(equation, [read(atom) for atom in equation.invars])
        depends.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _results(equation: Any, operands: list[bool]) -> list[bool]:
    """Return which results of an equation depend on the argument, given which operands do."""
    name, params, count = equation.primitive.name, equation.params, len(equation.outvars)
    if name == "cond" and not operands[0]:
        branches = [_outputs(branch.jaxpr, operands[1:]) for branch in params["branches"]]
        return [any(results) for results in zip(*branches, strict=True)]
    if name == "scan":
        return _scan(params, operands)
    if name in _CALLS:
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        inner = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        if inner is not None and len(inner.invars) == len(operands) and len(inner.outvars) == count:
            return _outputs(inner, operands)
    return [any(operands)] * count


def _scan(params: dict[str, Any], operands: list[bool]) -> list[bool]:
    """Return :func:`_results` of a ``scan``; what is carried may depend only from the second turn on."""
    consts, carried = params["num_consts"], params["num_carry"]
    while True:
        results = _outputs(params["jaxpr"].jaxpr, operands)
        state = [old or new for old, new in zip(operands[consts:][:carried], results, strict=False)]
        if state == operands[consts:][:carried]:
            return [*state, *results[carried:]]
        operands = [*operands[:consts], *state, *operands[consts + carried :]]
