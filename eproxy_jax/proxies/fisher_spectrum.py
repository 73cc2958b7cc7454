"""VKDNW: the spectrum of the empirical Fisher information of a network at initialisation.

Source: Tybl, Neumann, "Training-free Neural Architecture Search through Variance of Knowledge of Deep Network Weights",
CVPR 2025.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import initializers, marks
from eproxy_jax.proxies.classifier import Classifier
from eproxy_jax.proxies.gathering import FIXED_STATISTICS, replaced_norm, with_slot

MAX_TENSORS = 128
_SMOOTHING = 0.05  # share of the uniform distribution in the class probabilities
_DECILES = 9


class _Derivatives(NamedTuple):
    """Derivative of one logit of each image to one weight of each kernel, [MAX_TENSORS, B], and how many kernels."""

    rows: Array
    number: Array


def _add(state: _Derivatives, out: Array, grad: Array, weights: Array, met: Array) -> _Derivatives:
    """Add the first weight of a kernel: what it met in each image, times the gradient of the first channel.

    Backward passes meet the last kernel first. So later rows overwrite earlier ones, and the first kernels of the
    network stay. Their order does not count.
    """
    del out, weights
    place = state.number % MAX_TENSORS
    return _Derivatives(with_slot(state.rows, place, jnp.sum(met * grad[..., 0], (1, 2))), state.number + 1)


@dataclasses.dataclass(frozen=True)
class FisherSpectrum:
    """vkdnw as a function of one candidate, for ``ep.evaluate``.

    Attributes:
      num_classes: K.
    """

    num_classes: int

    def __call__(self, network: nn.Module, key: Array, encoded: Array, noise: Array) -> dict[str, Array]:
        """Compute the entropy of the Fisher matrix's spectrum.

        One weight stands for each kernel of convolutions and of the linear layer. Batch norms are in evaluation mode
        with mean 0 and variance 1.

        Args:
          network: a universal module.
          key: of the candidate; consumed.
          encoded: the architecture.
          noise: [B, H, W, 3].

        Returns:
          {"vkdnw": scalar}, 0 to ln 9.
        """
        model = Classifier(network, self.num_classes, noise.dtype)
        params = model.init(key, noise, encoded, initializers.KAIMING_FAN_IN)["params"]
        return self.of_params(network, params, encoded, noise)

    def of_params(self, network: nn.Module, params: Any, encoded: Array, noise: Array) -> dict[str, Array]:
        """Compute the column for given parameters of a :class:`Classifier`."""
        model = Classifier(network, self.num_classes, noise.dtype)
        fixed = replaced_norm(FIXED_STATISTICS)

        def logits(params: Any) -> Array:
            return model.apply({"params": params}, noise, encoded)[0]  # pyright: ignore[reportReturnType]

        def of_class(number: Array) -> _Derivatives:
            weights = jax.nn.one_hot(number, self.num_classes, dtype=noise.dtype)
            start = _Derivatives(jnp.zeros((MAX_TENSORS, len(noise)), noise.dtype), jnp.zeros((), jnp.int32))
            rules = {**fixed, "conv_gradient": marks.observe(_add)}
            return marks.collect(jax.grad(lambda p: jnp.sum(logits(p) @ weights)), rules, start)(params)[0]

        outputs = marks.collect(logits, fixed, ())(params)[1]
        derivatives = lax.map(of_class, jnp.arange(self.num_classes))
        number = derivatives.number[0]
        return {"vkdnw": spectrum_entropy(derivatives.rows, outputs, jnp.minimum(number, MAX_TENSORS))}


def spectrum_entropy(rows: Array, logits: Array, number: Array) -> Array:
    """Entropy of the deciles of the Fisher matrix's eigenvalues.

    Args:
      rows: [K, P, B], derivatives of logits; zeros from ``number`` on.
      logits: [B, K].
      number: weights that are in use.
    """
    classes = logits.shape[-1]
    p = (1 - _SMOOTHING) * jax.nn.softmax(logits) + _SMOOTHING / classes
    covariance = jax.vmap(jnp.diag)(p) - p[:, :, None] * p[:, None]
    # The covariance is singular along the ones: its square root by eigenvalues, which a Cholesky factor would not be.
    fisher = jnp.einsum("kpb,bkl,lqb->pq", rows, covariance, rows) / len(logits)
    values = jnp.maximum(jnp.linalg.eigvalsh(fisher), 0)
    unused = values.shape[0] - number  # zeros of what pads the matrix come first
    places = unused + jnp.arange(1, _DECILES + 1) / (_DECILES + 1) * (number - 1)
    deciles = jnp.interp(places, jnp.arange(values.shape[0]), values)
    shares = deciles / (jnp.sum(deciles) + 1e-10)
    return -jnp.sum(shares * jnp.log(shares + 1e-10))
