"""This module lets data choose operations: one switch (``switch_op``) picks from forward and backward pairs (``Op``).

A data-dependent choice must not store the union of the residuals of all its branches. So each operation is a pair of
functions that share one residual layout.

Weights of a cell edge are a dict: "kernel" [3, 3, C_in, C_out] (1x1 operations use its centre) and, in affine spaces,
"scale" and "bias" [C_out]. The residual of an edge operation is (rstd [C_out], normalised output or None).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import convolution, marks, norms


class Op(NamedTuple):
    """One operation of a cell edge: a pair of functions, with a residual layout that all operations of a choice share.

    Attributes:
      forward: (x, weights) -> (y, residual).
      backward: (x, weights, y, residual, grad of y) -> (grad of x, grads of weights).
    """

    forward: Callable[[Array, Any], tuple[Array, Any]]
    backward: Callable[[Array, Any, Array, Any, Array], tuple[Array, Any]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def switch_op(ops: tuple[Op, ...], index: Array, x: Array, weights: Any) -> Array:
    """Apply ``ops[index]``; ``index`` is data.

    Under ``lax.map`` only the chosen operation runs, forward and backward. Under ``vmap`` over ``index`` all run and
    the result is selected.

    Args:
      ops: the operations; equal output shape and residual layout.
      index: integer scalar.
      x: [B, H, W, C].
      weights: a pytree that every operation can read.

    Returns:
      The operation's output.
    """
    return _switch_forward(ops, index, x, weights)[0]


def _switch_forward(ops: tuple[Op, ...], index: Array, x: Array, weights: Any):
    return lax.switch(index, [op.forward for op in ops], x, weights)


def _switch_op_fwd(ops: tuple[Op, ...], index: Array, x: Array, weights: Any):
    y, residual = _switch_forward(ops, index, x, weights)
    return y, (index, x, weights, y, residual)


def _switch_op_bwd(ops: tuple[Op, ...], saved: Any, grad: Array):
    index, *arguments = saved
    grad_x, grad_weights = lax.switch(index, [op.backward for op in ops], *arguments, grad)
    return None, grad_x, grad_weights


switch_op.defvjp(_switch_op_fwd, _switch_op_bwd)


def narrow_conv_op(width: int, size: int) -> Op:
    """Return a convolution that reads the first ``width`` input channels through the central positions of its kernel.

    Args:
      width: channels read.
      size: kernel positions in either direction.

    Returns:
      An ``Op`` whose weights are {"kernel"}, without residual.
    """

    def narrow(x: Array, kernel: Array) -> Array:
        return convolution.conv2d(x[..., :width], convolution.kernel_centre(kernel, size)[:, :, :width])

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        del y, residual
        with marks.unmarked():
            _, pull = jax.vjp(narrow, x, weights["kernel"])
        grad_x, kernel = pull(grad)
        return grad_x, {"kernel": kernel}

    return Op(lambda x, weights: (narrow(x, weights["kernel"]), ()), backward)


# Weights of an edge are a dict: "kernel" [3, 3, C_in, C_out] (1x1 operations use its centre) and, in affine spaces,
# "scale" and "bias" [C_out]. The residual is (rstd [C_out], normalised output or None).
def conv_bn_op(convolve: Callable[[Array, Array], Array], affine: bool) -> Op:
    """Return the edge operation batch_norm(convolve(x, kernel)).

    Args:
      convolve: (x [B, H, W, C_in], kernel [3, 3, C_in, C_out]) -> [B, H', W', C_out].
      affine: whether the batch norm scales and shifts.

    Returns:
      An ``Op``.
    """

    def forward(x: Array, weights: Any):
        normalized, rstd = norms.standardize(convolve(x, weights["kernel"]))
        if affine:
            return norms.affine(normalized, weights["scale"], weights["bias"]), (rstd, normalized)
        return normalized, (rstd, None)

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        rstd, normalized = residual
        grads: dict[str, Array] = {}
        if affine:
            grad, *vectors = norms.affine_normalize_gradient(grad, normalized, rstd, weights["scale"])
            grads["scale"], grads["bias"] = vectors
        else:
            grad = norms.normalize_gradient(grad, y, rstd)
        # The primal that vjp computes again is linear in what it needs, so XLA drops it.
        with marks.unmarked():
            _, pull = jax.vjp(convolve, x, weights["kernel"])
        grad_x, grads["kernel"] = pull(grad)
        return grad_x, grads

    return Op(forward, backward)


def linear_op(function: Callable[[Array], Array], gradient: Callable[[Array, Array], Array], affine: bool) -> Op:
    """Return the edge operation of a weightless linear ``function`` that keeps the shape.

    Args:
      function: x [B, H, W, C] -> [B, H, W, C].
      gradient: (x, gradient of the output) -> gradient of x.
      affine: whether the other operations' batch norms scale and shift, which decides the residual layout.
    """

    def forward(x: Array, weights: Any):
        y = function(x)
        channels = weights["kernel"].shape[-1]
        return y, (jnp.zeros((channels,), x.dtype), jnp.zeros_like(y) if affine else None)

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        del y, residual
        return gradient(x, grad), jax.tree.map(jnp.zeros_like, weights)

    return Op(forward, backward)


def relu_conv3x3(stride: int) -> Callable[[Array, Array], Array]:
    """Return (x, kernel) -> the 3x3 convolution of ReLU(x) with an edge's kernel slot."""
    return lambda x, kernel: convolution.conv2d(marks.relu(x), kernel, stride)


def relu_conv1x1(stride: int) -> Callable[[Array, Array], Array]:
    """Return (x, kernel) -> the 1x1 convolution of ReLU(x) with the centre of an edge's kernel slot."""
    return lambda x, kernel: convolution.conv2d(marks.relu(x), convolution.kernel_centre(kernel, 1), stride)


def factorized_reduce(x: Array, kernel: Array, stride: int) -> Array:
    """Apply the convolution of a ``skip`` that changes shape, without its batch norm.

    At stride 2: ReLU, then two 1x1 convolutions to half the channels each, the second reading the input shifted by
    one pixel. At stride 1 (only the channels change): one 1x1 convolution.

    Args:
      x: [B, H, W, C_in].
      kernel: [1, 1, C_in, C_out]; at stride 2 its output halves are the two convolutions.
      stride: 1 or 2.

    Returns:
      [B, ceil(H / stride), ceil(W / stride), C_out].
    """
    if stride == 1:
        return convolution.conv2d(x, kernel, 1)
    return convolution.halving_conv2d(marks.relu(x), kernel)
