"""Arrays of many shapes on one flat array, at places that are data; functions chosen by data that update it in place.

XLA copies whatever passes through a conditional, but updates the carry of a loop in place: the chosen function is a
loop of one turn among loops of none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


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
