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

_SMOOTHING = 0.05  # share of the uniform distribution in the class probabilities
_DECILES = 9


class _Derivatives(NamedTuple):
    """Derivative of one logit of each image to the first entry of each parameter, [P, B], and how many."""

    rows: Array
    number: Array


def _added(state: _Derivatives, row: Array, counts: Array | int = 1) -> _Derivatives:
    """Add a parameter, if it counts.

    Backward passes meet the last parameter first. So later rows overwrite earlier ones, and the first parameters of
    the network stay. Their order does not matter.
    """
    place = state.number % len(state.rows)
    row = jnp.where(jnp.asarray(counts, bool), row, state.rows[place])
    return _Derivatives(with_slot(state.rows, place, row), state.number + counts)


def _add_kernel(state: _Derivatives, out: Array, grad: Array, weights: Array, met: Array) -> _Derivatives:
    """Add the first weight of a kernel: what it met in each image, times the gradient of the first channel."""
    del out, weights
    return _added(state, jnp.sum(met * grad[..., 0], (1, 2)))


def _norm_rule(through: marks.Rule) -> marks.Rule:
    """Return ``through``, which also adds the scale and the bias of a batch norm's first channel.

    Networks of this package leave scale and bias out where benchmarks train them as 1 and 0: they count all the same.
    """

    def rule(state: _Derivatives, grad: Array, *others: Array) -> tuple[_Derivatives, Any]:
        normalized, counts = others[1], others[2].astype(jnp.int32) if len(others) > 2 else 1
        state = _added(state, jnp.sum(grad[..., 0], (1, 2)), counts)
        state = _added(state, jnp.sum(grad[..., 0] * normalized[..., 0], (1, 2)), counts)
        return through(state, grad, *others)

    return rule


@dataclasses.dataclass(frozen=True)
class FisherSpectrum:
    """vkdnw as a function of one candidate, for ``ep.evaluate``.

    Attributes:
      num_classes: K.
      max_tensors: P, the first parameters of a network that count.
    """

    num_classes: int
    max_tensors: int = 128

    def __call__(self, network: nn.Module, key: Array, encoded: Array, noise: Array) -> dict[str, Array]:
        """Compute the entropy of the Fisher matrix's spectrum.

        The first entry stands for each parameter of the network: kernels, scales and biases. Batch norms are in
        evaluation mode with mean 0 and variance 1.

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
            none = _Derivatives(jnp.zeros((self.max_tensors, len(noise)), noise.dtype), jnp.zeros((), jnp.int32))
            start = _added(none, jnp.full(len(noise), weights[0]))  # the bias of the linear layer
            rules = {**fixed, "conv_gradient": marks.observe(_add_kernel)}
            rules["norm_gradient"] = _norm_rule(fixed["norm_gradient"])
            return marks.collect(jax.grad(lambda p: jnp.sum(logits(p) @ weights)), rules, start)(params)[0]

        outputs = marks.collect(logits, fixed, ())(params)[1]
        derivatives = lax.map(of_class, jnp.arange(self.num_classes))
        number = derivatives.number[0]
        return {"vkdnw": spectrum_entropy(derivatives.rows, outputs, jnp.minimum(number, self.max_tensors))}


def spectrum_entropy(rows: Array, logits: Array, number: Array) -> Array:
    """Entropy of the deciles of the Fisher matrix's eigenvalues.

    Args:
      rows: [K, P, B], derivatives of logits; zeros from ``number`` on.
      logits: [B, K].
      number: weights that are in use.
    """
    classes = logits.shape[-1]
    p = (1 - _SMOOTHING) * jax.nn.softmax(logits) + _SMOOTHING / classes
    # diag(p) - p p' is the matrix of a weighted variance: rows less their mean are a root of the Fisher matrix. The
    # squares of its singular values keep small eigenvalues that rounding would drown in the matrix.
    mean = jnp.einsum("kpb,bk->pb", rows, p)
    root = (rows - mean[None]) * jnp.sqrt(p.T / len(logits))[:, None]  # [K, P, B]
    root = jnp.moveaxis(root, 1, 0).reshape(rows.shape[1], -1)
    found = jnp.linalg.svd(root, compute_uv=False)[::-1] ** 2
    values = jnp.concatenate([jnp.zeros(len(root) - len(found), found.dtype), found])
    unused = values.shape[0] - number  # zeros of what pads the matrix come first
    places = unused + jnp.arange(1, _DECILES + 1) / (_DECILES + 1) * (number - 1)
    deciles = jnp.interp(places, jnp.arange(values.shape[0]), values)
    shares = deciles / (jnp.sum(deciles) + 1e-10)
    return -jnp.sum(shares * jnp.log(shares + 1e-10))
