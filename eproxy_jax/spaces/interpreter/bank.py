"""This module keeps the weights of any network that a program serves in one bank, at places that are data.

Kernels lie one after the other in rows of one array, scales and biases of batch norms in two vectors. The arrays are
as long as the largest network needs. A smaller network never reads what it does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.nn import initializers

Path = tuple[str, ...]


class Weights(NamedTuple):
    """The weights of the largest network that a program serves, or their gradients.

    Attributes:
      kernels: [R, U], each kernel flattened into rows.
      scale: [V], of the batch norms.
      bias: [V].
    """

    kernels: Array
    scale: Array
    bias: Array


# --- reading and writing -------------------------------------------------------------------------------------


def read(flat: Array, start: Any, shape: tuple[int, ...]) -> Array:
    """Return the array of ``shape`` that begins at ``start``."""
    return lax.dynamic_slice(flat, (start,), (int(np.prod(shape)),)).reshape(shape)


def write(flat: Array, start: Any, values: Array) -> Array:
    """Return ``flat`` with ``values`` from ``start`` on."""
    return lax.dynamic_update_slice(flat, values.reshape(-1), (start,))


def read_rows(rows: Array, row: Array, shape: tuple[int, ...]) -> Array:
    """Return the array of ``shape`` that fills the rows [R, U] from ``row`` on."""
    size = (int(np.prod(shape)) // rows.shape[1], rows.shape[1])
    return lax.dynamic_slice(rows, (row, jnp.zeros_like(row)), size).reshape(shape)


def write_rows(rows: Array, row: Array, values: Array) -> Array:
    """Return ``rows`` [R, U] with ``values`` in the rows from ``row`` on."""
    return lax.dynamic_update_slice(rows, values.reshape(-1, rows.shape[1]), (row, jnp.zeros_like(row)))


def read_up_to(rows: Array, row: Array, most: int, count: Array) -> Array:
    """Return the first ``count`` numbers of the rows [R, U] from ``row`` on, with zeros behind them: [most]."""
    place = jnp.arange(most)
    values = jnp.take(rows.reshape(-1), row * rows.shape[1] + place, mode="clip")
    return jnp.where(place < count, values, 0)


def read_norm(weights: Weights, start: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the scales and the biases of ``shape`` that begin at ``start``."""
    return read(weights.scale, start, shape), read(weights.bias, start, shape)


def write_norm(weights: Weights, start: Array, scale: Array, bias: Array) -> Weights:
    """Return ``weights`` with these scales and biases from ``start`` on."""
    return weights._replace(scale=write(weights.scale, start, scale), bias=write(weights.bias, start, bias))


def write_kernel(weights: Weights, row: Array, kernel: Array) -> Weights:
    """Return ``weights`` with a kernel in the rows from ``row`` on."""
    return weights._replace(kernels=write_rows(weights.kernels, row, kernel))


# --- initialisation ------------------------------------------------------------------------------------------


def before(sizes: Array) -> Array:
    """Return where each of many arrays begins that lie one after the other, [N]."""
    return jnp.cumsum(sizes).astype(jnp.int32) - sizes


def owner_of_rows(rows: Array, total: int) -> Array:
    """Return the index of the kernel that each row of a bank is part of, [total].

    Args:
      rows: [N], rows of each kernel. An empty kernel owns no row: the kernel after it starts at the same place.
      total: rows of the bank. Those behind the last kernel count as its own.
    """
    owner = jnp.searchsorted(jnp.cumsum(rows), jnp.arange(total), side="right")
    return jnp.minimum(owner, len(rows) - 1)


def init_rows(
    key: Array, shape: tuple[int, int], dtype: Any, init: Array | int, owner: Array, fans: tuple[Array, Array, Array]
) -> Array:
    """Draw the kernels of a whole bank. The fans of a kernel scale each of its rows.

    Args:
      key: typed key; consumed.
      shape: [R, U].
      dtype: of the result.
      init: index into ``initializers.INITS``.
      owner: [R], see :func:`owner_of_rows`.
      fans: area, features and inputs of each kernel, [N] each, as ``initializers.conv_kernel`` takes them; 0 where
        there is no kernel.
    """
    area, features, inputs = (jnp.maximum(fan, 1).astype(dtype)[owner][:, None] for fan in fans)
    return initializers.conv_kernel(key, shape, dtype, init, area, features, inputs)


def declare(module: nn.Module, kernels: Callable[[Array], Array], num_scales: int, dtype: Any) -> Weights:
    """Declare the parameters ``kernels``, ``scale`` and ``bias`` of a universal module.

    Args:
      module: the module, inside its compact method.
      kernels: typed key -> [R, U].
      num_scales: V.
      dtype: of the parameters.
    """
    return Weights(
        module.param("kernels", kernels),
        module.param("scale", nn.initializers.ones, (num_scales,), dtype),
        module.param("bias", nn.initializers.zeros, (num_scales,), dtype),
    )


# --- a stand-alone network's parameters out of a bank --------------------------------------------------------


class KernelPlace(NamedTuple):
    """The place of a kernel in the bank.

    Attributes:
      row: its first row.
      shape: as it lies in the bank, [k, k', C_in, C_out].
      used: (inputs, features) that are in use; all of them where absent.
    """

    row: int
    shape: tuple[int, ...]
    used: tuple[int, int] | None = None


class NormPlace(NamedTuple):
    """The place of the scales and biases of a batch norm.

    Attributes:
      start: position of the first.
      channels: how many are in use.
    """

    start: int
    channels: int


def nested(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """Return a tree of dicts, from its leaves by path."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = leaf
    return tree


def extract_norm(universal_params: Any, place: Any) -> dict[str, Any]:
    """Return the scale and the bias at ``place``, a slice or indices."""
    return {name: universal_params[name][place] for name in ("scale", "bias")}


def extract(universal_params: Any, places: Mapping[Path, KernelPlace | NormPlace]) -> dict[str, Any]:
    """Return the parameters of a stand-alone network's layers, from those of a universal module.

    Args:
      universal_params: with ``kernels``, ``scale`` and ``bias``.
      places: what lies where, by the path of its layer.
    """
    rows, leaves = universal_params["kernels"], {}
    flat, unit = rows.reshape(-1), rows.shape[1]
    for path, place in places.items():
        if isinstance(place, NormPlace):
            leaves[path] = extract_norm(universal_params, slice(place.start, place.start + place.channels))
            continue
        start = place.row * unit
        kernel = flat[start : start + int(np.prod(place.shape))].reshape(place.shape)
        inputs, features = place.used or place.shape[2:]
        leaves[path] = {"kernel": kernel[:, :, :inputs, :features]}
    return nested(leaves)
