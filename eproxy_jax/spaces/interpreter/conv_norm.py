"""This module has the step that interpreters of residual networks share: a convolution and its batch norm.

The step runs forward and backward. What follows a batch norm (an addend, ReLU) is the interpreters' own. Its input and
its normalised output are kept for the backward pass. Everything else is cheap to compute again.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from eproxy_jax.nn import convolution, marks, norms
from eproxy_jax.spaces.interpreter.bank import Weights, read, read_norm, read_rows, write_kernel, write_norm


class Place(NamedTuple):
    """The place of a step's weights in the bank.

    Attributes:
      row: first row of the kernel.
      scale: position of the first scale and bias.
    """

    row: Array
    scale: Array


class Kept(NamedTuple):
    """The arrays of a step that its backward pass reads.

    Attributes:
      x: [B, H, W, C_in], input.
      normalized: [B, H', W', C], normalised output.
      rstd: [C], reciprocal deviations.
    """

    x: Array
    normalized: Array
    rstd: Array


class ConvNorm(NamedTuple):
    """The part of a step that is compiled: its kernel shape and stride.

    Attributes:
      kernel: (k, k, C_in, C).
      stride: 1 or 2.
    """

    kernel: tuple[int, int, int, int]
    stride: int = 1

    @property
    def num_weights(self) -> int:
        """Kernel weights."""
        return int(np.prod(self.kernel))

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.kernel[3]

    def _reads_padding(self, x: Array) -> bool:
        return x.shape[1] == x.shape[2] == 1 and self.kernel[0] == 3

    def _convolve(self, x: Array, kernel: Array) -> Array:
        """Run ``conv2d``. On a single pixel, 8 of 9 kernel positions read padding only and are left out."""
        if self._reads_padding(x):
            kernel = marks.mark("kernel", kernel)[1:2, 1:2]  # collections see the whole kernel
            with marks.unmarked():
                return convolution.conv2d(x, kernel, self.stride)
        return convolution.conv2d(x, kernel, self.stride)

    def _convolve_gradients(self, x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
        """Return the gradients of the input and of the kernel."""
        silent = contextlib.nullcontext()
        if self._reads_padding(x):
            lens = convolution.gradient_lens(self.stride)
            x, kernel, grad = marks.mark("conv_gradient", x, kernel, grad, lens=lens)
            silent = marks.unmarked()
        with marks.unmarked():  # the forward pass has shown its kernel
            _, pull = jax.vjp(self._convolve, x, kernel)
        with silent:
            return pull(grad)

    def forward(self, weights: Weights, place: Place, x: Array) -> Kept:
        """Run the convolution and normalise its output."""
        kernel = read_rows(weights.kernels, place.row, self.kernel)
        return Kept(x, *norms.standardize(self._convolve(x, kernel)))

    def output(self, weights: Weights, place: Place, normalized: Array) -> Array:
        """Return the batch norm's output."""
        return norms.affine(normalized, *read_norm(weights, place.scale, (self.channels,)))

    def backward(
        self, weights: Weights, place: Place, kept: Kept, grad: Array, grads: Weights
    ) -> tuple[Array, Weights]:
        """Return the gradient of the input, and ``grads`` with those of the weights; ``grad`` is that of the output."""
        scale = read(weights.scale, place.scale, (self.channels,))
        grad, *vectors = norms.affine_normalize_gradient(grad, kept.normalized, kept.rstd, scale)
        kernel = read_rows(weights.kernels, place.row, self.kernel)
        grad_x, grad_kernel = self._convolve_gradients(kept.x, kernel, grad)
        return grad_x, write_norm(write_kernel(grads, place.row, grad_kernel), place.scale, *vectors)
