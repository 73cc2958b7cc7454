"""This module holds weight initialisers whose kind is data, so that one compiled program serves all of them.

A kind is an index into ``INITS``, one of the settings that the search varies. Each kind is a unit distribution
(uniform on [-1, 1) or standard normal) times a scale that depends on the fans (numbers of inputs and outputs). Fans
count the kernel's area, as PyTorch's do.

Source: docs/method.md, steps 1 and 4. PyTorch's default initialisers unless the settings say xavier or kaiming, uniform
or normal; kaiming with fan_out and the ReLU gain; biases 0.01 for xavier, 0 for kaiming.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

INITS = ("default", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")

# Two more that other proxies are defined with; no setting of Eproxy names them.
KAIMING_FAN_IN = len(INITS)  # normal, ReLU gain, fan_in
UNIT_NORMAL = len(INITS) + 1  # standard normal whatever the fans


def init_index(name: str) -> int:
    """Return the position of an initialiser's name in ``INITS``."""
    return INITS.index(name)


def _scales(fan_in: Array, fan_out: Array) -> Array:
    """Return the scale of each kind's unit distribution, [len(INITS) + 2, ...]."""
    shape = jnp.broadcast_shapes(fan_in.shape, fan_out.shape)
    fan_in, fan_out = jnp.broadcast_to(fan_in, shape), jnp.broadcast_to(fan_out, shape)
    return jnp.stack(
        [
            1 / jnp.sqrt(fan_in),  # kaiming_uniform(a=sqrt(5)): bound sqrt(6 / (1 + 5) / fan_in)
            jnp.sqrt(6 / (fan_in + fan_out)),
            jnp.sqrt(2 / (fan_in + fan_out)),
            jnp.sqrt(6 / fan_out),
            jnp.sqrt(2 / fan_out),
            jnp.sqrt(2 / fan_in),
            jnp.ones_like(fan_in),
        ]
    )


def unit_scale(
    shape: Any, dtype, init: Array | int, area: Any = None, features: Any = None, inputs: Any = None
) -> Array:
    """Return what a unit draw of :func:`conv_kernel` is multiplied by; arguments as there, sizes may be traced."""
    positions = jnp.asarray(shape[-4] * shape[-3] if area is None else area, dtype)
    outputs = jnp.asarray(shape[-1] if features is None else features, dtype)
    channels_in = jnp.asarray(shape[-2] if inputs is None else inputs, dtype)
    return _scales(positions * channels_in, positions * outputs)[init]


def is_normal(init: Array | int) -> Array:
    """Return whether the unit distribution is the standard normal one (else uniform on [-1, 1))."""
    init = jnp.asarray(init)
    return (init == INITS.index("xavier_normal")) | (init >= INITS.index("kaiming_normal"))


def draw(sample: Callable[..., Array], key: Array, shape: tuple[int, ...], *arguments: Any) -> Array:
    """Draw ``sample(key, shape, *arguments)`` with the same bits in a program that compiles faster.

    XLA's CPU backend compiles a draw of four to six axes for 1 to 2 s, a flat one for .2 s; bits depend on positions in
    the flat order only.
    """
    return sample(key, (math.prod(shape),), *arguments).reshape(shape)


def conv_kernel(
    key: Array,
    shape: tuple[int, ...],
    dtype,
    init: Array | int = 0,
    area: Array | None = None,
    features: Array | None = None,
    inputs: Array | None = None,
) -> Array:
    """Draw convolution kernels.

    Args:
      key: typed key; consumed.
      shape: [..., k, k, C_in, C_out]; leading axes stack independent kernels. Any shape where ``area``, ``features``
        and ``inputs`` are given: rows of many kernels, say.
      dtype: floating dtype of the result.
      init: index into ``INITS``; may be traced.
      area: kernel positions that the fans count, broadcastable to ``shape``; ``k * k`` when absent. A 1x1 convolution
        that lives in the centre of a 3x3 slot says 1.
      features: output channels that ``fan_out`` counts; C_out when absent. A convolution padded with unused channels
        says how many are used.
      inputs: the same for ``fan_in`` and C_in.

    Returns:
      Array of ``shape``.
    """
    unit = lax.cond(
        is_normal(init),
        lambda k: draw(jax.random.normal, k, shape, dtype),
        lambda k: draw(jax.random.uniform, k, shape, dtype, -1, 1),
        key,
    )
    return unit * unit_scale(shape, dtype, init, area, features, inputs)


def conv_bias(key: Array, shape: tuple[int, ...], dtype, fan_in: Any, init: Array | int = 0) -> Array:
    """Draw convolution biases: uniform +-1/sqrt(fan_in) by default, 0.01 for xavier, 0 for kaiming.

    Args:
      key: typed key; consumed.
      shape: [C_out].
      dtype: floating dtype of the result.
      fan_in: k * k * C_in of the kernel beside it; may be traced.
      init: index into ``INITS``; may be traced.

    Returns:
      Array of ``shape``.
    """
    return scaled_bias(jax.random.uniform(key, shape, dtype, -1, 1), fan_in, init)


def scaled_bias(unit: Array, fan_in: Any, init: Array | int) -> Array:
    """Return :func:`conv_bias` from unit draws on [-1, 1), which all kinds but the default leave unused."""
    init, dtype = jnp.asarray(init), unit.dtype
    constant = jnp.where(init < INITS.index("kaiming_uniform"), jnp.asarray(0.01, dtype), jnp.asarray(0, dtype))
    return jnp.where(init == 0, unit / jnp.sqrt(jnp.asarray(fan_in, dtype)), constant)
