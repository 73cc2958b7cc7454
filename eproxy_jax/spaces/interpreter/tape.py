"""What interpreters of networks share, whose one compiled program runs many: banks, tapes, chosen functions, gradients.

Weights lie one after the other in a bank, values on a tape, both at places that are data. XLA copies whatever passes
through a conditional (42 ms for a bank of 150 MB on a CPU), but updates the carry of a loop in place: the chosen
function is a loop of one turn among loops of none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import sequential_vmap


class Weights(NamedTuple):
    """Weights of the largest network that a program serves, or gradients of them.

    Attributes:
      kernels: [R, U], each kernel flattened into rows.
      scale: [V], of the batch norms.
      bias: [V].
    """

    kernels: Array
    scale: Array
    bias: Array


def apply_chosen(functions: Sequence[Callable[[Any], Any]], index: Array, carry: Any) -> Any:
    """``functions[index](carry)``; ``carry`` itself where the index is -1. Updates the carry in place."""
    for number, function in enumerate(functions):
        state = (index == number, carry)
        carry = lax.while_loop(lambda s: s[0], lambda s, f=function: (jnp.zeros((), bool), f(s[1])), state)[1]
    return carry


def read(flat: Array, start: Any, shape: tuple[int, ...]) -> Array:
    """The array of ``shape`` that begins at ``start``."""
    return lax.dynamic_slice(flat, (start,), (int(np.prod(shape)),)).reshape(shape)


def write(flat: Array, start: Any, values: Array) -> Array:
    """``flat`` with ``values`` from ``start`` on."""
    return lax.dynamic_update_slice(flat, values.reshape(-1), (start,))


def read_rows(bank: Array, row: Array, shape: tuple[int, ...]) -> Array:
    """The array of ``shape`` in the rows of a bank [R, U] from ``row`` on."""
    size = (int(np.prod(shape)) // bank.shape[1], bank.shape[1])
    return lax.dynamic_slice(bank, (row, jnp.zeros_like(row)), size).reshape(shape)


def write_rows(bank: Array, row: Array, values: Array) -> Array:
    """``bank`` with ``values`` in its rows from ``row`` on."""
    return lax.dynamic_update_slice(bank, values.reshape(-1, bank.shape[1]), (row, jnp.zeros_like(row)))


def owner_of_rows(rows: Array, total: int) -> Array:
    """Which of many kernels each row of a bank is part of, [total].

    Args:
      rows: [N], rows of each kernel; the one after an empty kernel starts where that one does and owns its rows.
      total: rows of the bank. Those behind the last kernel count as its own.
    """
    owner = jnp.searchsorted(jnp.cumsum(rows), jnp.arange(total), side="right")
    return jnp.minimum(owner, len(rows) - 1)


def interpreter(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """A differentiable function out of its two passes; under ``vmap`` the candidates run one after the other.

    Args:
      forward: (spec, stem, weights, plan) -> (outputs, what the backward pass needs).
      backward: (spec, stem's shape, weights, plan, what it needs, gradients of the outputs) -> (gradient of the stem,
        gradients of the weights).

    Returns:
      (spec, stem, weights, plan) -> outputs. ``spec`` is static and hashable; ``plan`` has no gradient.
    """

    @functools.cache
    def passes(spec: Any, shape: tuple[int, ...]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        run_backward = functools.partial(backward, spec, shape)
        return sequential_vmap(functools.partial(forward, spec)), sequential_vmap(run_backward)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def run(spec: Any, stem: Array, weights: Weights, plan: Any) -> Any:
        return passes(spec, stem.shape)[0](stem, weights, plan)[0]

    def run_forward(spec: Any, stem: Array, weights: Weights, plan: Any) -> Any:
        outputs, saved = passes(spec, stem.shape)[0](stem, weights, plan)
        # An empty array that remembers the stem's shape costs nothing.
        return outputs, (weights, plan, saved, jnp.zeros((0, *stem.shape), stem.dtype))

    def run_backward(spec: Any, residuals: Any, grads: Any) -> Any:
        weights, plan, saved, like_stem = residuals
        return (*passes(spec, like_stem.shape[1:])[1](weights, plan, saved, grads), None)

    run.defvjp(run_forward, run_backward)
    return run
