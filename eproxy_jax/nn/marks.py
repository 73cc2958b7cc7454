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
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
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

# Names of marks that are not set at present; ``None`` among them stands for all.
_silent: contextvars.ContextVar[frozenset[str | None]] = contextvars.ContextVar("_silent", default=frozenset())
_collecting: contextvars.ContextVar[bool] = contextvars.ContextVar("_collecting", default=False)


class Lens(NamedTuple):
    """What rules see of a mark whose operands are storage, such as a tape or a bank. Only collections compute it.

    Attributes:
      get: (*operands) -> what a rule sees.
      put: (what the rule returned, *operands) -> the operands that the network goes on with. Where it is absent,
        rules only look.
      when: (*operands) -> whether there is anything to see, a boolean scalar. Where it is absent, there always is.
    """

    get: Callable[..., Sequence[Any]]
    put: Callable[..., Sequence[Array]] | None = None
    when: Callable[..., Array] | None = None


def mark(name: str, *operands: Array, **static: Any) -> Any:
    """Return the operands, and let collections see them.

    Use what is returned: a mark whose results nobody uses may be removed.

    Args:
      name: what the operands are; the rules of :func:`collect` have such names.
      *operands: arrays.
      **static: hashable facts about them. A :class:`Lens` by the name of ``lens`` is none for rules: they see the
        operands through it.

    Returns:
      The operand, or a tuple of several.
    """
    if not _silent.get() & {None, name}:
        operands = tuple(_mark.bind(*operands, name=name, static=tuple(sorted(static.items()))))
    return operands[0] if len(operands) == 1 else operands


@contextlib.contextmanager
def unmarked(*names: str) -> Iterator[None]:
    """Let code set no marks of these names, or none at all: what backward passes compute again was seen already."""
    token = _silent.set(_silent.get() | frozenset(names or (None,)))
    try:
        yield
    finally:
        _silent.reset(token)


def replaceable(name: str, *operands: Array) -> Any:
    """Mark operands that rules may replace, also in what backward passes compute again.

    Where :func:`unmarked` silences the name itself, the mark is called ``NAME_again``: who only looks does not see it
    twice, and who replaces something does so there as well.
    """
    return mark(f"{name}_again" if name in _silent.get() else name, *operands)


def collecting() -> bool:
    """Say if a collection is tracing: code that cannot be marked as it stands may run in another form then."""
    return _collecting.get()


# --- marked functions ----------------------------------------------------------------------------------------


@operation
def relu(x: Array) -> Array:
    """Apply ReLU; collections see its input under the name ``relu``."""
    return jax.nn.relu(mark("relu", x))


def live(x: Array) -> Array:
    """Which channels of a map [..., C] are in use, as 0 or 1 [C]: channels that only pad a program are all zero."""
    return jnp.any(x != 0, tuple(range(x.ndim - 1))).astype(x.dtype)


# Marks between blocks. A rule sees each of them so:
#   feature           (x)            output of the stem, of a cell or of a block, [B, H, W, C]; rules only look.
#   entry             (x, distance)  what enters blocks: a feature, or a map that a block made of one. ``distance`` says
#                                    how many features ago that one was marked: 1, which is left out where it always is
#                                    1, or 2. What the rule returns goes on.
#   entry_gradient    (grad, distance)  the gradient of such a map, before it flows back to the feature.
#   feature_gradient  (grad, used)   all that came back to a feature; which channels [C] it has, 0 or 1, left out where
#                                    it has all. What the rule returns goes on to the block that made the feature.
# Going back, a rule sees the entries of a feature at distance 1 before the feature, and its entry at distance 2 before
# the feature that followed it.
#
# A program that has both ends of a block at hand marks them, so that nothing is kept from block to block:
#   block_output_gradient  (grad)          in place of ``feature_gradient``, before the block's backward pass.
#   block_input_gradient   (grad; out)     what came out at its input; ``out`` is the shape of its output, static.
# Where branches run side by side, a block is part of one of them. ``ends``, ``begins``, ``first`` and ``enters`` are
# data: the convolution at hand ends or begins a block, makes the stem's output, enters a module of branches.
#   branch                  (before, x, ends, first)    input and output of the block; of the stem, the output alone.
#   branch_output_gradient  (grad, channels, ends)      ``channels`` says how many are in use.
#   branch_input_gradient   (grad, channels, begins; out)
#   fusion, fusion_gradient (x, enters)                 output of any convolution's batch norm, and its gradient. Those
#                           that enter a module meet in sums: what rules do to one of them they do to all.


@jax.custom_vjp
def feature(x: Array, channels: Array | None = None) -> Array:
    """Mark ``x``, the output of the stem, of a cell or of a block, [B, H, W, C], and return it.

    All that is behind it reads the result: a network that reads features of before beside it sets the marks ``entry``
    itself. Collections see ``feature``, ``entry`` and the gradients of both.

    Args:
      x: the output.
      channels: how many are in use, an integer scalar, where the others only pad the program.
    """
    del channels  # of interest on the way back
    return mark("entry", mark("feature", x))


def _with_used(grad: Array, channels: Array) -> tuple[Array, Array]:
    return grad, (jnp.arange(grad.shape[-1]) < channels).astype(grad.dtype)


_COUNTED = Lens(_with_used, lambda results, grad, channels: (results[0], channels))


def _feature_bwd(channels: Array | None, grad: Array) -> tuple[Array, None]:
    grad = mark("entry_gradient", grad)
    if channels is None:
        return mark("feature_gradient", grad), None
    return mark("feature_gradient", grad, channels, lens=_COUNTED)[0], None


feature.defvjp(lambda x, channels: (feature(x, channels), channels), _feature_bwd)


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
        closed, shape = _traced(function, *arguments)
        walk = _Walk(rules)
        end, results = walk.run(closed, state, jax.tree.leaves(arguments))
        return end, jax.tree.unflatten(jax.tree.structure(shape), results)

    return collected


def _traced(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """Trace a function for a collection: its closed trace and the shapes of its results."""
    token = _collecting.set(True)
    try:
        return jax.make_jaxpr(function, return_shape=True)(*arguments)
    finally:
        _collecting.reset(token)


def shown(function: Callable[..., Any]) -> Callable[..., frozenset[str]]:
    """Return a function of the same arguments that gives the names of the marks in the trace; nothing is run.

    Example:
      >>> import jax.numpy as jnp
      >>> sorted(shown(jax.grad(lambda x: jnp.sum(feature(relu(x)))))(jnp.ones((1, 2, 2, 3))))
      ['entry', 'entry_gradient', 'feature', 'feature_gradient', 'relu']
    """

    def names(jaxpr: Any) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
            if equation.primitive is _mark:
                found |= {equation.params["name"]}
            found = found.union(*map(names, core.jaxprs_in_params(equation.params)))
        return found

    return lambda *arguments: names(_traced(function, *arguments)[0])


def replacing(function: Callable[..., Any], others: Mapping[str, Callable[..., Array]]) -> Callable[..., Any]:
    """Return a function that calls others in place of jitted functions and custom derivatives of these names.

    One whose operand is marked under the same name stays.

    Args:
      function: traceable.
      others: by name: operands -> the one result.
    """

    @functools.wraps(function)
    def replaced(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        _, results = _Walk({}, others=others).run(closed, (), jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return replaced


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


def _see(rule: Rule, state: Any, operands: Sequence[Any], static: dict[str, Any]) -> tuple[Any, Sequence[Any]]:
    """Call a rule at a mark, through its lens."""
    lens: Lens | None = static.pop("lens", None)
    if lens is None:
        return rule(state, *operands, **static)

    def look(state: Any, operands: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        state, results = rule(state, *lens.get(*operands), **static)
        return state, operands if lens.put is None else list(lens.put(results, *operands))

    if lens.when is None:
        return look(state, operands)
    # A loop of one turn or none: a conditional would copy the storage.
    start = (lens.when(*operands), state, operands if lens.put is not None else ())

    def turn(carry: Any) -> Any:
        state, kept = look(carry[1], carry[2] if lens.put is not None else operands)
        return jnp.zeros((), bool), state, kept if lens.put is not None else ()

    _, state, kept = lax.while_loop(lambda carry: carry[0], turn, start)
    return state, operands if lens.put is None else kept


class _Walk:
    """Evaluates the operations of a trace with a state beside them."""

    def __init__(
        self, rules: Mapping[str, Rule], inlines: bool = False, others: Mapping[str, Callable[..., Array]] | None = None
    ):
        self._rules, self._inlines, self._others = rules, inlines, others or {}
        self._marked: set[Any] = set()  # variables that marks give, of the names of ``others``
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
                or equation.params.get("name") in self._others
                or any(map(self._has_marks, core.jaxprs_in_params(equation.params)))
                for equation in jaxpr.eqns
            )
        return self._known[id(jaxpr)]

    def _other(self, equation: Any) -> Callable[..., Array] | None:
        """Return what stands in place of an equation, if anything."""
        name = equation.params.get("name")
        return None if name not in self._others or equation.invars[0] in self._marked else self._others[name]

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
            if params["name"] in self._others:
                self._marked.update(equation.outvars)
                return state, _mark.bind(*operands, **params)
            rule = self._rules.get(params["name"])
            return (state, operands) if rule is None else _see(rule, state, operands, dict(params["static"]))
        if (other := self._other(equation)) is not None:
            return state, [other(*operands)]
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
            for own, given in zip(closed.jaxpr.invars, equation.invars, strict=True):  # several calls share a trace
                is_marked = not isinstance(given, core.Literal) and given in self._marked
                (self._marked.add if is_marked else self._marked.discard)(own)
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
