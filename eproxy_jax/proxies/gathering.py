"""What proxies gather from inside a network, as rules for :func:`eproxy_jax.nn.marks.collect`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import marks, norms
from eproxy_jax.nn.marks import live

CAPACITY = 8192  # blocks or batch norms of one network whose numbers are kept apart: more than the deepest has


def layer_sums(run: Callable[[Any], Any], of_layer: Callable[[Array], Array], params: Any) -> Array:
    """Sum a number of each layer's kernel.

    Args:
      run: params -> anything; runs the network forward. Its results are not needed, and what leads to them alone is
        not computed where the network is no loop.
      of_layer: kernel [k, k, C_in, C_out] -> scalar.
      params: the network's parameters, or any tree like them, such as gradients.

    Returns:
      A scalar.
    """
    rule = marks.observe(lambda total, kernel: total + of_layer(kernel))
    zero = jnp.zeros((), jax.tree.leaves(params)[0].dtype)
    return marks.collect(run, {"kernel": rule}, zero)(params)[0]


def is_kernel(leaf: Array) -> bool:
    """Say if a parameter is weights of convolutions or of the linear layer: vectors are scales and biases."""
    return leaf.ndim > 1


def weights_sum(of_weights: Callable[[Array, Array], Array], params: Any, others: Any) -> Array:
    """Sum a function of weights and something like them, such as gradients, over all kernels.

    Args:
      of_weights: (kernels, others), arrays of one shape -> an array.
      params: the network's parameters.
      others: a tree like ``params``.

    Returns:
      A scalar.
    """
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True)
    return jnp.sum(jnp.stack([jnp.sum(of_weights(w, other)) for w, other in pairs if is_kernel(w)]))


# --- batch norm replaced -------------------------------------------------------------------------------------


def replaced_norm(factor: float) -> dict[str, marks.Rule]:
    """Rules under which batch norms multiply by a constant, forward and backward.

    Args:
      factor: 1 for none at all.
    """

    def forward(state: Any, x: Array, normalized: Array, rstd: Array) -> tuple[Any, Any]:
        return state, (x, x * jnp.asarray(factor, x.dtype), jnp.full_like(rstd, factor))

    def backward(state: Any, grad: Array, through: Array, *others: Array) -> tuple[Any, Any]:
        return state, (grad, grad * jnp.asarray(factor, grad.dtype), *others)

    return {"norm": forward, "norm_again": forward, "norm_gradient": backward}


FIXED_STATISTICS = (1 + norms.BATCH_NORM_EPSILON) ** -0.5  # of a batch norm in evaluation mode that saw nothing


# --- activation patterns -------------------------------------------------------------------------------------


class Patterns(NamedTuple):
    """Agreement of the images' activation patterns.

    Attributes:
      agreement: [B, B], units that two images put on the same side, less those on different sides.
      units: scalar, number of units.
    """

    agreement: Array
    units: Array

    @classmethod
    def zero(cls, batch: int, dtype: Any) -> Patterns:
        """Make the state before the first ReLU."""
        return cls(jnp.zeros((batch, batch), dtype), jnp.zeros((), dtype))

    def kernel(self) -> Array:
        """Units on the same side for each pair of images, [B, B]: x x' + (1 - x)(1 - x)' summed over ReLUs."""
        return (self.agreement + self.units) / 2


def add_pattern(state: Patterns, x: Array) -> Patterns:
    """Add the inputs of a ReLU, [B, H, W, C]."""
    used = live(x)
    signs = jnp.where(x > 0, 1, -1).astype(x.dtype) * norms.per_channel(used)
    rows = signs.reshape(x.shape[0], -1)
    pixels = x.shape[1] * x.shape[2]
    return Patterns(state.agreement + rows @ rows.T, state.units + pixels * jnp.sum(used))


# --- spectra -------------------------------------------------------------------------------------------------


def covariance_entropy(x: Array) -> Array:
    """Entropy of the normalised spectrum of a map's channel covariance, [B, H, W, C] -> scalar.

    Channels that are all zero add nothing.
    """
    rows = x.reshape(-1, x.shape[-1])
    rows = rows - jnp.mean(rows, 0, keepdims=True)
    count, channels = rows.shape
    # The nonzero eigenvalues of X'X and XX' are the same: the smaller one is taken.
    product = rows.T @ rows if channels <= count else rows @ rows.T
    values = jnp.maximum(jnp.linalg.eigvalsh(product / count), 0)
    total = jnp.sum(values)
    shares = values / jnp.where(total > 0, total, 1)
    return -jnp.sum(shares * jnp.log(shares + 1e-8))


def running_slot(values: Array, number: Array) -> Array:
    """The entry of a state array at a counter."""
    return lax.dynamic_index_in_dim(values, number, keepdims=False)


def with_slot(values: Array, number: Array, value: Array) -> Array:
    """A state array with an entry at a counter."""
    return lax.dynamic_update_index_in_dim(values, value, number, 0)
