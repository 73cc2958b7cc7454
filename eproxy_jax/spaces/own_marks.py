"""This module lets proxies look into a user's own modules: it marks what it recognises in them.

A user writes ``flax.linen.Conv``, ``Dense``, ``BatchNorm`` and ``jax.nn.relu``, which set no marks. While a collection
traces such a module (``marks.collecting``), and only then, its layers run with marks: the same functions of the same
parameters, up to rounding. What is marked:

  * ``kernel``: every parameter of two or more dimensions, once.
  * ``relu``: inputs of ``jax.nn.relu`` and ``relu6`` in the trace, Linen or NNX.
  * ``norm``, ``norm_gradient``: ``flax.linen.BatchNorm`` over all axes but the last.
  * ``conv_gradient``: ``flax.linen.Conv``, ``ConvTranspose``, ``Dense``.

Layers of this package mark themselves. Blocks cannot be recognised: a module marks them with ``ep.nn.marks.feature``.
Marks see maps as [B, N, 1, C]. What has another first axis than the images, as tokens of all images in one row, is
passed over.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import convolution, marks, norms

_LAYERS = (nn.Conv, nn.ConvTranspose, nn.Dense)
_applying: contextvars.ContextVar[bool] = contextvars.ContextVar("_applying", default=False)


def as_map(x: Array) -> Array:
    """Return [B, ..., C] as [B, N, 1, C]."""
    return x.reshape(x.shape[0], -1, 1, x.shape[-1])


def mark_kernels(params: Any) -> Any:
    """Mark parameters of two or more dimensions as kernels; returns the tree to go on with."""
    return jax.tree.map(lambda leaf: marks.mark("kernel", leaf) if leaf.ndim > 1 else leaf, params)


def marked(run: Callable[[Callable[..., Any]], Any], batch: int) -> Any:
    """Run a module with marks.

    Args:
      run: interceptor of ``flax.linen.intercept_methods`` -> what the module returns.
      batch: B, number of images.

    Returns:
      What the module returns.
    """

    def relu(apply: Callable[[Array], Array], x: Array) -> Array:
        if x.ndim < 2 or x.shape[0] != batch:
            return apply(x)
        return apply(marks.mark("relu", as_map(x)).reshape(x.shape))

    replaced = {
        name: functools.partial(relu, apply) for name, apply in (("relu", jax.nn.relu), ("relu6", jax.nn.relu6))
    }
    with marks.unmarked("kernel"):  # each parameter has its mark
        return marks.replacing(lambda: run(functools.partial(_intercept, batch)), replaced)()


def _intercept(batch: int, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
    module = context.module
    if _applying.get() or context.method_name != "__call__" or not args or args[0].shape[0] != batch:
        return call(*args, **kwargs)
    if isinstance(module, nn.BatchNorm):
        y = call(*args, **kwargs)
        return _norm(module, args[0], y) if _is_plain(module, args[0], kwargs) else y
    if type(module) in _LAYERS and args[0].ndim > 1 and module.has_variable("params", "kernel"):
        params = {name: module.get_variable("params", name) for name in ("kernel", "bias")}
        params = {name: value for name, value in params.items() if value is not None}
        layer = module.clone(parent=None)
        if all(isinstance(value, jax.Array) for value in params.values()) and _is_hashable(layer):
            return _layer(layer, args[0], params)
    return call(*args, **kwargs)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


# --- batch norms ---------------------------------------------------------------------------------------------


def _is_plain(module: nn.BatchNorm, x: Array, kwargs: Any) -> bool:
    """Say if a batch norm normalises each channel, the last axis, over the whole batch."""
    return x.ndim > 1 and module.axis in (-1, x.ndim - 1) and module.axis_name is None and kwargs.get("mask") is None


def _norm(module: nn.BatchNorm, x: Array, like: Array) -> Array:
    """Compute a batch norm in training mode with marks; the result has the shape and dtype of ``like``."""
    y: Any = norms.normalize(as_map(x).astype(like.dtype), float(module.epsilon))
    if module.use_scale:
        y = y * norms.per_channel(module.get_variable("params", "scale"))
    if module.use_bias:
        y = y + norms.per_channel(module.get_variable("params", "bias"))
    return y.reshape(like.shape).astype(like.dtype)


# --- convolutions and linear layers --------------------------------------------------------------------------


def _apply(layer: nn.Module, params: dict[str, Array], x: Array) -> Array:
    """Apply a layer as it stands: the interceptor does not see it again."""
    token = _applying.set(True)
    try:
        y: Any = layer.apply({"params": params}, x)
        return y
    finally:
        _applying.reset(token)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(layer: nn.Module, x: Array, params: dict[str, Array]) -> Array:
    """Apply a layer of Flax's; its backward pass is marked."""
    return _apply(layer, params, x)


def _layer_bwd(layer: nn.Module, saved: Any, grad: Array) -> Any:
    x, params = saved
    names = tuple(params)
    x, grad, *values = marks.mark("conv_gradient", x, grad, *params.values(), lens=_lens(layer, names))
    params = dict(zip(names, values, strict=True))
    return jax.vjp(lambda x, params: _apply(layer, params, x), x, params)[1](grad)


_layer.defvjp(lambda layer, x, params: (_layer(layer, x, params), (x, params)), _layer_bwd)


@functools.cache
def _lens(layer: nn.Module, names: tuple[str, ...]) -> marks.Lens:
    """Return how rules see the backward pass of a layer: a ``convolution.ConvGradient``."""

    def get(x: Array, grad: Array, *values: Array) -> convolution.ConvGradient:
        params = dict(zip(names, values, strict=True))
        kernel = params["kernel"]
        first = jnp.zeros(kernel.size, kernel.dtype).at[0].set(1).reshape(kernel.shape)
        unit = {**jax.tree.map(jnp.zeros_like, params), "kernel": first}
        out, met = (as_map(_apply(layer, tree, x)) for tree in (params, unit))
        return convolution.ConvGradient(out, as_map(grad), kernel.size // kernel.shape[-1], met[..., 0])

    return marks.Lens(get)
