"""This module loops over instructions that are data, so that one compiled program runs many networks.

XLA copies whatever passes through a conditional, but updates the carry of a loop in place. So the function that an
instruction chooses is no branch of ``lax.switch``: it is a loop of one turn among loops of none.

Activations lie on tapes. Where a loop's body reads from an array and writes to other places of it within one fused
operation, XLA copies the array whole; comments say where code avoids that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import sequential_vmap

from eproxy_jax.nn import resizing
from eproxy_jax.spaces.interpreter.bank import Weights
from eproxy_jax.types import TARGET_SIZE

# --- instructions --------------------------------------------------------------------------------------------


def apply_chosen(functions: Sequence[Callable[[Any], Any]], index: Array, carry: Any) -> Any:
    """Return ``functions[index](carry)``, or ``carry`` itself where the index is -1. Updates the carry in place."""
    for number, function in enumerate(functions):
        state = (index == number, carry)
        carry = lax.while_loop(lambda s: s[0], lambda s, f=function: (jnp.zeros((), bool), f(s[1])), state)[1]
    return carry


def pack(network: Any) -> np.ndarray:
    """Return the arrays of a network as one row of int32."""
    return np.concatenate([np.asarray(leaf, np.int32).reshape(-1) for leaf in jax.tree.leaves(network)])


def unpack(like: Any, row: Array) -> Any:
    """Invert :func:`pack` for a network whose arrays have the shapes of those of ``like``."""
    leaves, treedef = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [row[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    return jax.tree.unflatten(treedef, parts)


def instruction(instructions: Any, number: Array) -> Any:
    """Return one of many instructions: a NamedTuple of arrays [N, ...] -> the same of arrays [...]."""
    return jax.tree.map(lambda field: lax.dynamic_index_in_dim(field, number, keepdims=False), instructions)


def forward(step: Callable[[Any, Any], Any], instructions: Any, length: Any, carry: Any) -> Any:
    """Run instructions in order.

    Args:
      step: (instruction, carry) -> carry.
      instructions: a NamedTuple of arrays [N, ...]; ``step`` gets the same of arrays [...].
      length: how many there are; those behind are ignored.
      carry: the first one.

    Returns:
      The last carry.
    """
    return lax.fori_loop(0, length, lambda number, carry: step(instruction(instructions, number), carry), carry)


def backward(step: Callable[[Any, Any], Any], instructions: Any, length: Any, carry: Any) -> Any:
    """Run instructions as :func:`forward` does, from the last one to the first."""

    def reversed_step(number: Array, carry: Any) -> Any:
        return step(instruction(instructions, length - 1 - number), carry)

    return lax.fori_loop(0, length, reversed_step, carry)


# --- taps ----------------------------------------------------------------------------------------------------


def read_tap(read_map: Callable[[Array], Array], count: Array, tap: Array) -> Array:
    """Read the maps that together make a feature tap, and resize them (nearest).

    Args:
      read_map: (n) -> map [B, H, W, C].
      count: how many there are.
      tap: [N, B, 8, 8, C], which keeps what it holds from ``count`` on.

    Returns:
      [N, B, 8, 8, C].
    """

    def put(n: Array, tap: Array) -> Array:
        return lax.dynamic_update_index_in_dim(tap, resizing.resize_nearest(read_map(n), TARGET_SIZE), n, 0)

    return lax.fori_loop(0, count, put, tap)


def side_by_side(maps: Array) -> Array:
    """Put maps side by side: [N, B, H, W, C] -> [B, H, W, N * C]."""
    maps = jnp.moveaxis(maps, 0, -2)
    return maps.reshape(*maps.shape[:-2], -1)


def apart(tap: Array, count: int) -> Array:
    """Invert :func:`side_by_side`: [..., H, W, N * C] -> [N, ..., H, W, C]."""
    return jnp.moveaxis(tap.reshape(*tap.shape[:-1], count, -1), -2, 0)


def transposed(linear: Callable[[Array], Array], shape: tuple[int, ...], grad: Array) -> Array:
    """Return the gradient of a linear function's input, of ``shape``, from its output's gradient ``grad``."""
    return jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, grad.dtype))(grad)[0]


def tap_gradient(grad: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of a map of ``shape``, from that of its resized form, [B, 8, 8, C]."""
    return transposed(lambda x: resizing.resize_nearest(x, TARGET_SIZE), shape, grad)


# --- gradients -----------------------------------------------------------------------------------------------


def differentiable(run_forward: Callable[..., Any], run_backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a differentiable function of its two passes. Under ``vmap`` the candidates run one after the other.

    Args:
      run_forward: (spec, stem, weights, network) -> (outputs, what the backward pass needs).
      run_backward: (spec, stem's shape, weights, network, what it needs, gradients of the outputs) -> (gradient of the
        stem, gradients of the weights).

    Returns:
      (spec, stem, weights, network) -> outputs. ``spec`` is static and hashable; ``network`` has no gradient.
    """

    @functools.cache
    def passes(spec: Any, shape: tuple[int, ...]) -> tuple[Callable[..., Any], Callable[..., Any]]:
        backward_pass = functools.partial(run_backward, spec, shape)
        return sequential_vmap(functools.partial(run_forward, spec)), sequential_vmap(backward_pass)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def run(spec: Any, stem: Array, weights: Weights, network: Any) -> Any:
        return passes(spec, stem.shape)[0](stem, weights, network)[0]

    def run_fwd(spec: Any, stem: Array, weights: Weights, network: Any) -> Any:
        outputs, saved = passes(spec, stem.shape)[0](stem, weights, network)
        # An empty array that remembers the stem's shape costs nothing.
        return outputs, (weights, network, saved, jnp.zeros((0, *stem.shape), stem.dtype))

    def run_bwd(spec: Any, residuals: Any, grads: Any) -> Any:
        weights, network, saved, like_stem = residuals
        return (*passes(spec, like_stem.shape[1:])[1](weights, network, saved, grads), None)

    run.defvjp(run_fwd, run_bwd)
    return run
