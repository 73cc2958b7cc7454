"""Marks say what passes through a place inside a network, and a collection runs the network and gathers from them.

A mark is an identity: networks compile to the same programs with marks as without. :func:`collect` traces a function,
walks through its operations, and calls a rule at each mark of a name that it knows. Rules pass a state on: what is
gathered is the state at the end. The walk goes into conditionals and loops, whose carries it extends by the state. So
an operation that was not chosen contributes nothing, whatever chose it, and architectures stay data.

This is the one way in which proxies see the inside of networks: the inputs of ReLUs, outputs of batch norms and blocks,
gradients of weights.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax import Array, lax
from jax.custom_batching import sequential_vmap
from jax.extend import core
from jax.extend.core import primitives
from jax.interpreters import ad, batching, mlir

from eproxy_jax.nn.recording import operation

_mark = core.Primitive("eproxy_mark")
_mark.multiple_results = True
_mark.def_impl(lambda *operands, **_: list(operands))
_mark.def_abstract_eval(lambda *operands, **_: list(operands))
mlir.register_lowering(_mark, lambda ctx, *operands, **_: operands)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **named: Any) -> tuple[list[Any], list[Any]]:
    return _mark.bind(*primals, **named), list(tangents)


def _batch(operands: Sequence[Any], dims: Sequence[Any], **named: Any) -> tuple[list[Any], list[Any]]:
    return _mark.bind(*operands, **named), list(dims)


ad.primitive_jvps[_mark] = _jvp
batching.primitive_batchers[_mark] = _batch

_silent: contextvars.ContextVar[bool] = contextvars.ContextVar("_silent", default=False)


def mark(name: str, *operands: Array, **static: Any) -> Any:
    """Return the operands, and let collections see them.

    Use what is returned: a mark whose results nobody uses may be removed.

    Args:
      name: what the operands are; the rules of :func:`collect` have such names.
      *operands: arrays.
      **static: hashable facts about them.

    Returns:
      The operand, or a tuple of several.
    """
    if not _silent.get():
        operands = tuple(_mark.bind(*operands, name=name, static=tuple(sorted(static.items()))))
    return operands[0] if len(operands) == 1 else operands


@contextlib.contextmanager
def unmarked() -> Iterator[None]:
    """Let code that computes something a second time, as backward passes do, set no marks."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


# --- marked functions ----------------------------------------------------------------------------------------


@operation
def relu(x: Array) -> Array:
    """Apply ReLU; collections see its input under the name ``relu``."""
    return jax.nn.relu(mark("relu", x))


@jax.custom_vjp
def feature(x: Array) -> Array:
    """Mark ``x``, the output of the stem, of a cell or of a block, [B, H, W, C], and return it.

    Collections see it under the name ``feature``, and its gradient under ``feature_gradient``.
    """
    return mark("feature", x)


feature.defvjp(lambda x: (feature(x), None), lambda _, grad: (mark("feature_gradient", grad),))


# --- collections ---------------------------------------------------------------------------------------------


# What happens at a mark: (state, *operands, **static) -> (next state, what the network goes on with).
Rule: TypeAlias = Callable[..., tuple[Any, Sequence[Array]]]


def observe(function: Callable[..., Any]) -> Rule:
    """Make a rule of a function (state, *operands, **static) -> state: the network goes on with the operands."""

    def rule(state: Any, *operands: Array, **static: Any) -> tuple[Any, Sequence[Array]]:
        return function(state, *operands, **static), operands

    return rule


def collect(function: Callable[..., Any], rules: Mapping[str, Rule], state: Any) -> Callable[..., tuple[Any, Any]]:
    """Return a function that also gathers what its marks show.

    The result is not meant to be differentiated: where ``function`` calls a ``jax.custom_vjp``, the gradient is that
    of its primal. Differentiate inside: ``collect(jax.grad(loss), ...)`` sees the marks of both passes.

    Args:
      function: any traceable function of arrays.
      rules: rules by the name of the mark; other marks are passed over.
      state: a pytree of arrays, which every rule returns with the same structure, shapes and dtypes.

    Returns:
      (*arguments) -> (state at the end, what ``function`` returns).

    Example:
      >>> import jax.numpy as jnp
      >>> def network(x, chosen):
      ...     return lax.cond(chosen, lambda x: mark("double", 2 * x), lambda x: x, x)
      >>> total = collect(network, {"double": observe(lambda total, y: total + jnp.sum(y))}, jnp.zeros(()))
      >>> [float(total(jnp.ones(3), chosen)[0]) for chosen in (True, False)]
      [6.0, 0.0]
    """

    @functools.wraps(function)
    def collected(*arguments: Any) -> tuple[Any, Any]:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        walk = _Walk(rules)
        end, results = walk.run(closed, state, jax.tree.leaves(arguments))
        return end, jax.tree.unflatten(jax.tree.structure(shape), results)

    return collected


def differentiable_forward(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function with gradients of its own replaced by those of its operations.

    JAX refuses forward-mode derivatives of a ``jax.custom_vjp``. Of ``differentiable_forward(jax.grad(loss))`` it has
    them, which are products with the Hessian.
    """

    @functools.wraps(function)
    def inlined(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        _, results = _Walk({}, inlines=True).run(closed, (), jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return inlined


class _Walk:
    """Evaluates the operations of a trace with a state beside them."""

    def __init__(self, rules: Mapping[str, Rule], inlines: bool = False):
        self._rules, self._inlines = rules, inlines
        self._known: dict[int, bool] = {}
        self._alive: list[Any] = []  # keeps the traces whose ids are keys

    def _has_marks(self, jaxpr: Any) -> bool:
        """Return whether a trace, or one inside it, has a mark with a rule."""
        jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
        if id(jaxpr) not in self._known:
            self._alive.append(jaxpr)
            self._known[id(jaxpr)] = any(
                (equation.primitive is _mark and equation.params["name"] in self._rules)
                or (self._inlines and equation.primitive.name == "custom_vjp_call")
                or any(map(self._has_marks, core.jaxprs_in_params(equation.params)))
                for equation in jaxpr.eqns
            )
        return self._known[id(jaxpr)]

    def run(self, closed: Any, state: Any, arguments: Sequence[Any]) -> tuple[Any, list[Any]]:
        """Evaluate a closed trace."""
        jaxpr, values = closed.jaxpr, {}

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else values[atom]

        values.update(zip(jaxpr.constvars, closed.consts, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            state, results = self._equation(equation, state, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return state, [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, state: Any, operands: list[Any]) -> tuple[Any, Sequence[Any]]:
        primitive, params = equation.primitive, equation.params
        if primitive is _mark:
            rule = self._rules.get(params["name"])
            return (state, operands) if rule is None else rule(state, *operands, **dict(params["static"]))
        inner = list(core.jaxprs_in_params(params))
        inlined = self._inlines and primitive.name == "custom_vjp_call"
        if not inlined and not any(map(self._has_marks, inner)):
            with equation.ctx.manager:
                results = primitive.bind(*operands, **primitive.get_bind_params(params))
            return state, results if primitive.multiple_results else [results]
        if primitive is primitives.cond_p:
            return self._cond(params, state, operands)
        if primitive is primitives.while_p:
            return self._while(params, state, operands)
        if primitive is primitives.scan_p:
            return self._scan(params, state, operands)
        if primitive.name == "custom_vmap_call":
            # Loops over instructions run one candidate after the other under vmap, and go on to do so.
            walk = sequential_vmap(lambda state, *operands: self.run(params["call"], state, operands))
            return walk(state, *operands)
        if primitive.name == "custom_vjp_call":
            return self.run(params["call_jaxpr"], state, operands)
        if len(inner) == 1:  # jit, closed_call, custom_jvp_call, remat
            (jaxpr,) = (v for v in params.values() if isinstance(v, (core.Jaxpr, core.ClosedJaxpr)))
            closed = jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())
            return self.run(closed, state, operands)
        raise NotImplementedError(f"marks inside {primitive.name!r} cannot be collected")

    def _cond(self, params: Any, state: Any, operands: list[Any]) -> tuple[Any, Any]:
        branches = [
            lambda state, *operands, branch=branch: self.run(branch, state, operands) for branch in params["branches"]
        ]
        return lax.switch(operands[0], branches, state, *operands[1:])

    def _while(self, params: Any, state: Any, operands: list[Any]) -> tuple[Any, Any]:
        ends, first = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        of_condition, of_body, carry = operands[:ends], operands[ends:first], operands[first:]

        def goes_on(both: Any) -> Any:
            # A condition sees no state: marks in it are passed over.
            return core.jaxpr_as_fun(params["cond_jaxpr"])(*of_condition, *both[1])[0]

        def turn(both: Any) -> Any:
            return self.run(params["body_jaxpr"], both[0], [*of_body, *both[1]])

        return lax.while_loop(goes_on, turn, (state, carry))

    def _scan(self, params: Any, state: Any, operands: list[Any]) -> tuple[Any, Any]:
        first, count = params["num_consts"], params["num_carry"]
        constants, carry, xs = operands[:first], operands[first : first + count], operands[first + count :]

        def turn(both: Any, x: Any) -> Any:
            state, results = self.run(params["jaxpr"], both[0], [*constants, *both[1], *x])
            return (state, list(results[:count])), list(results[count:])

        options = {name: params[name] for name in ("length", "reverse", "unroll")}
        (state, carry), ys = lax.scan(turn, (state, carry), xs, **options)
        return state, [*carry, *ys]
