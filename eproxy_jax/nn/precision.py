"""This module computes matrix products at the precision of the context."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

# The value of jax.default_matmul_precision under which products take bfloat16 operands and sum in float32.
BFLOAT16_PRODUCTS = "BF16_BF16_F32"


def operands(*arrays: Array) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """Return the operands of a product and its options, at the precision of the context.

    They are rounded here and not by the compiler, for XLA's CPU backend ignores ``jax.default_matmul_precision``.
    """
    bfloat16 = jax.config.jax_default_matmul_precision == BFLOAT16_PRODUCTS  # pyright: ignore[reportAttributeAccessIssue]
    if not bfloat16 or any(array.dtype != jnp.float32 for array in arrays):
        return arrays, {}
    options = {"precision": lax.Precision.DEFAULT, "preferred_element_type": jnp.float32}
    return tuple(array.astype(jnp.bfloat16) for array in arrays), options


def product(a: Array, b: Array) -> Array:
    """Return ``a @ b``, as the programs compute products; convolutions round alike.

    Inside ``jax.default_matmul_precision(BFLOAT16_PRODUCTS)`` operands are rounded to bfloat16 and summed in float32.

    Args:
      a: [..., M, K].
      b: [..., K, N].

    Returns:
      [..., M, N].
    """
    (a, b), options = operands(a, b)
    return jnp.matmul(a, b, **options)
