"""Synflow: how much of the summed output flows through the weights of a network without batch norms.

Source: Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic
flow", NeurIPS 2020; as a proxy in Abdelfattah et al., ICLR 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import marks
from eproxy_jax.proxies.classifier import Classifier
from eproxy_jax.proxies.gathering import CAPACITY, replaced_norm, running_slot, weights_sum, with_slot


class _Scales(NamedTuple):
    """What the outputs of blocks were divided by where the blocks behind read them.

    Attributes:
      scales: [CAPACITY], in order.
      number: how many.
      logarithm: sum of their logarithms.
    """

    scales: Array
    number: Array
    logarithm: Array


def _note_scale(state: _Scales, x: Array) -> _Scales:
    """Note a block's largest value: activations double and redouble, and would leave float32."""
    largest = jnp.max(jnp.abs(x))
    scale = jnp.where(largest > 0, largest, 1)
    scales = with_slot(state.scales, state.number, scale)
    return _Scales(scales, state.number + 1, state.logarithm + jnp.log(scale))


def _divide(state: _Scales, x: Array, distance: Array | int = 1) -> tuple[_Scales, tuple[Array]]:
    """Divide what enters a block, or its gradient, by the same number.

    Without batch norms, a block's output is proportional to its inputs together. A map of the feature before the last
    one was not divided by that one's scale yet: it is divided by both.
    """
    x = x / running_slot(state.scales, state.number - 1)
    before = running_slot(state.scales, jnp.maximum(state.number - 2, 0))
    return state, (x / jnp.where(jnp.asarray(distance) > 1, before, 1),)


def _leave(state: _Scales, grad: Array, *_: Array) -> _Scales:
    """Go back over a block's output."""
    del grad
    return state._replace(number=state.number - 1)


@dataclasses.dataclass(frozen=True)
class Synflow:
    """Synflow as a function of one candidate, for ``ep.evaluate``: the logarithm of the published score.

    Attributes:
      num_classes: K, outputs of the linear layer.
    """

    num_classes: int

    def __call__(self, network: nn.Module, key: Array, encoded: Array, ones: Array) -> dict[str, Array]:
        """Compute ln of the sum of |w dR / dw| over the weights of convolutions and of the linear layer.

        R is the sum of the logits. Weights are absolute values, batch norms are left out.

        Args:
          network: a universal module.
          key: of the candidate; consumed.
          encoded: the architecture.
          ones: [1, H, W, 3].

        Returns:
          {"synflow": scalar}; -inf where nothing flows.
        """
        model = Classifier(network, self.num_classes, ones.dtype)
        return self.of_params(network, model.init(key, ones, encoded)["params"], encoded, ones)

    def of_params(self, network: nn.Module, params: Any, encoded: Array, ones: Array) -> dict[str, Array]:
        """Compute the column for given parameters of a :class:`Classifier`."""
        model = Classifier(network, self.num_classes, ones.dtype)
        params = jax.tree.map(jnp.abs, params)

        def total(params: Any) -> Array:
            return jnp.sum(model.apply({"params": params}, ones, encoded)[0])

        rules = {
            **replaced_norm(1),
            "feature": marks.observe(_note_scale),
            "entry": _divide,
            "entry_gradient": _divide,
            "feature_gradient": marks.observe(_leave),
        }
        zero = jnp.zeros((), ones.dtype)
        start = _Scales(jnp.ones((CAPACITY,), ones.dtype), jnp.zeros((), jnp.int32), zero)
        state, grads = marks.collect(jax.grad(total), rules, start)(params)
        flow = weights_sum(lambda w, g: jnp.abs(w * g), params, grads)
        return {"synflow": state.logarithm + jnp.log(flow)}
