"""This module holds the universal NAS-Bench-101 cell's operations. Data say which one runs, and how wide it is.

Each operation of :class:`Choice` has a width of its own under ``lax.map``; under ``vmap`` all run at full width.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from eproxy_jax.nn import choice as choice_lib
from eproxy_jax.nn import convolution, marks, norms, pooling
from eproxy_jax.spaces.nasbench101 import graph

VERTEX_OPS = (graph.POOL, graph.CONV1X1, graph.CONV3X3)  # by op code, from 1 on; 0 is a vertex that is not there
CODE_POOL, CODE_CONV1X1, CODE_CONV3X3 = 1, 2, 3
TIERS = range(1, graph.MAX_OUTPUT_FAN_IN + 1)

# Weights of an operation: "kernel" [k, k, C_in, C], "scale" and "bias" [C]. The residual is (rstd [C], normalised
# output [B, H, W, C]), padded with zeros beyond the tier.


def _widen(x: Array, like: Array) -> Array:
    """Add zeros after the end of each axis, up to the shape of ``like``."""
    return jnp.pad(x, [(0, wide - narrow) for wide, narrow in zip(like.shape, x.shape, strict=True)])


def _conv_bn_relu_op(width: int, pointwise: bool, cut_input: bool) -> choice_lib.Op:
    """Return the operation relu(batch_norm(conv(x))) on the first ``width`` channels.

    Args:
      width: channels of the output that are computed; the rest are zeros.
      pointwise: use the centre of the kernel only.
      cut_input: read only the first ``width`` channels as well.
    """

    def cut(x: Array, weights: Any) -> tuple[Array, Array]:
        kernel = convolution.kernel_centre(weights["kernel"], 1) if pointwise else weights["kernel"]
        return (x[..., :width], kernel[..., :width, :width]) if cut_input else (x, kernel[..., :width])

    def forward(x: Array, weights: Any):
        normalized, rstd = norms.standardize(convolution.conv2d(*cut(x, weights)))
        scale, bias = weights["scale"][:width], weights["bias"][:width]
        y = marks.relu(normalized * norms.per_channel(scale) + norms.per_channel(bias))
        pads = ((0, 0), (0, 0), (0, 0), (0, weights["scale"].shape[0] - width))
        return jnp.pad(y, pads), (_widen(rstd, weights["scale"]), jnp.pad(normalized, pads))

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        rstd, normalized = residual[0][:width], residual[1][..., :width]
        grad = jnp.where(y[..., :width] > 0, grad[..., :width], 0)
        grads = {"scale": jnp.sum(grad * normalized, (0, 1, 2)), "bias": jnp.sum(grad, (0, 1, 2))}
        grad = norms.normalize_gradient(grad * norms.per_channel(weights["scale"][:width]), normalized, rstd)
        # The primals that vjp computes again are linear in what they need, so XLA drops them.
        with marks.unmarked():
            _, pull = jax.vjp(convolution.conv2d, *cut(x, weights))
        grad_x, grad_kernel = pull(grad)
        _, widen = jax.vjp(cut, x, weights)
        grad_x, grad_weights = widen((grad_x, grad_kernel))
        return grad_x, {"kernel": grad_weights["kernel"], **{k: _widen(g, weights[k]) for k, g in grads.items()}}

    return choice_lib.Op(forward, backward)


def _weightless_op(function: Any, gradient: Any) -> choice_lib.Op:
    """Return the operation ``function(x, C)``, with ``gradient(x, grad)``, in the residual layout of convolutions."""

    def forward(x: Array, weights: Any):
        y = function(x, weights["scale"].shape[0])
        return y, (jnp.zeros_like(weights["scale"]), jnp.zeros_like(y))

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        del y, residual
        return gradient(x, grad), jax.tree.map(jnp.zeros_like, weights)

    return choice_lib.Op(forward, backward)


_ABSENT = _weightless_op(
    lambda x, channels: jnp.zeros((*x.shape[:-1], channels), x.dtype), lambda x, grad: jnp.zeros_like(x)
)
_POOL = _weightless_op(lambda x, channels: pooling.max_pool_3x3(x), pooling.max_pool_3x3_gradient)


def tier_widths(channels: int) -> list[int]:
    """Return the width of the vertices of each tier: the output's channels over k, rounded up, for k = 1 to 4."""
    return [-(-channels // k) for k in TIERS]


class Choice(NamedTuple):
    """Operations that data chooses from, and how to do without the choice.

    Attributes:
      ops: what a conditional chooses from, by index.
      batched: (index, x, weights) -> (y, residual) and its backward: the same at full width, for batches in which
        every candidate chooses for itself.
    """

    ops: tuple[choice_lib.Op, ...]
    batched: choice_lib.Op


@functools.cache
def vertex_choice(channels: int) -> Choice:
    """Return the operations of a vertex: not there, max pool, and both convolutions in each tier."""
    convs = [_conv_bn_relu_op(w, pointwise, True) for pointwise in (True, False) for w in tier_widths(channels)]
    full, tiers = convs[len(TIERS)], len(TIERS)

    def at_full_width(index: Array, weights: Any) -> dict[str, Array]:
        kernel = weights["kernel"]
        centre = jnp.zeros(kernel.shape[:2], kernel.dtype).at[1, 1].set(1)[:, :, None, None]
        return {**weights, "kernel": jnp.where(index < CODE_CONV1X1 + tiers, kernel * centre, kernel)}

    def forward(index: Array, x: Array, weights: Any):
        y, residual = full.forward(x, at_full_width(index, weights))
        other = jnp.where(index == CODE_POOL, pooling.max_pool_3x3(x), jnp.zeros_like(x))
        return jnp.where(index < CODE_CONV1X1, other, y), residual

    def backward(index: Array, x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        is_conv = index >= CODE_CONV1X1
        grad_x, grads = full.backward(x, at_full_width(index, weights), y, residual, jnp.where(is_conv, grad, 0))
        pooled = pooling.max_pool_3x3_gradient(x, jnp.where(index == CODE_POOL, grad, 0))
        return jnp.where(is_conv, grad_x, pooled), at_full_width(index, grads)

    return Choice((_ABSENT, _POOL, *convs), choice_lib.Op(forward, backward))  # pyright: ignore[reportArgumentType]


@functools.cache
def projection_choice(channels: int, widths: tuple[int, ...]) -> Choice:
    """Return the operations of an edge from the input: not there, and the pointwise convolution of each width."""
    full = _conv_bn_relu_op(channels, True, False)

    def forward(index: Array, x: Array, weights: Any):
        y, residual = full.forward(x, weights)
        return jnp.where(index > 0, y, 0), residual

    def backward(index: Array, x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        return full.backward(x, weights, y, residual, jnp.where(index > 0, grad, 0))

    convs = (_conv_bn_relu_op(w, True, False) for w in widths)
    return Choice((_ABSENT, *convs), choice_lib.Op(forward, backward))  # pyright: ignore[reportArgumentType]


@functools.cache
def _halves(choice: Choice) -> tuple[Any, Any]:
    """Return forward and backward of a choice, each with a batching rule."""

    def half(branches: list[Any], batched: Any) -> Any:
        @custom_vmap
        def choose(index: Array, *arguments: Any):
            return lax.switch(index, branches, *arguments)

        @choose.def_vmap
        def _(axis_size: int, in_batched: Any, *arguments: Any):
            def spread(part: Array, is_batched: bool) -> Array:
                return part if is_batched else jnp.broadcast_to(part[None], (axis_size, *part.shape))

            out = jax.vmap(batched)(*jax.tree.map(spread, arguments, tuple(in_batched)))
            return out, jax.tree.map(lambda _: True, out)

        return choose

    forwards, backwards = [op.forward for op in choice.ops], [op.backward for op in choice.ops]
    return half(forwards, choice.batched.forward), half(backwards, choice.batched.backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def choose(choice: Choice, index: Array, x: Array, weights: Any) -> Array:
    """Apply operation ``index`` of a choice, [B, H, W, C_in] -> [B, H, W, C].

    It works like ``choice.switch_op``, except under ``vmap`` over ``index``: there one convolution of full width
    serves all convolutions. ``switch_op`` would run each of them in each tier, and XLA's CPU backend, fusing what the
    selects between them combine, would compile without end.
    """
    return _halves(choice)[0](index, x, weights)[0]


def _choose_fwd(choice: Choice, index: Array, x: Array, weights: Any):
    y, residual = _halves(choice)[0](index, x, weights)
    return y, (index, x, weights, y, residual)


def _choose_bwd(choice: Choice, saved: Any, grad: Array):
    return (None, *_halves(choice)[1](*saved, grad))


choose.defvjp(_choose_fwd, _choose_bwd)
