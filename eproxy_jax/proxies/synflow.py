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
      common: what all entries of the present module of parallel branches are divided by.
      entering: whether the last convolution of such branches was an entry.
      largest: largest value in them since the first entry of the present module.
    """

    scales: Array
    number: Array
    logarithm: Array
    common: Array
    entering: Array
    largest: Array

    @classmethod
    def start(cls, dtype: Any) -> _Scales:
        """Make the state in front of the network."""
        zero, one = jnp.zeros((), dtype), jnp.ones((), dtype)
        return cls(jnp.ones((CAPACITY,), dtype), jnp.zeros((), jnp.int32), zero, one, jnp.zeros((), bool), zero)


def _note_scale(state: _Scales, x: Array) -> _Scales:
    """Note a block's largest value: activations double and redouble, and would leave float32."""
    largest = jnp.max(jnp.abs(x))
    scale = jnp.where(largest > 0, largest, 1)
    scales = with_slot(state.scales, state.number, scale)
    return state._replace(scales=scales, number=state.number + 1, logarithm=state.logarithm + jnp.log(scale))


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


def _divide_branch(state: _Scales, x: Array, enters: Array) -> tuple[_Scales, tuple[Array, Array]]:
    """Divide what comes into a module of parallel branches by the largest value of the module before.

    Branches meet in sums, so that all entries of a module have one number.
    """
    first = enters & ~state.entering
    common = jnp.where(first & (state.largest > 0), state.largest, state.common)
    scale = jnp.where(enters, common, 1)
    x = x / scale
    state = _Scales(
        scales=with_slot(state.scales, state.number, scale),
        number=state.number + 1,
        logarithm=state.logarithm + jnp.where(first, jnp.log(common), 0),
        common=common,
        entering=enters,
        largest=jnp.maximum(jnp.where(first, 0, state.largest), jnp.max(jnp.abs(x))),
    )
    return state, (x, enters)


def _divide_branch_gradient(state: _Scales, grad: Array, enters: Array) -> tuple[_Scales, tuple[Array, Array]]:
    number = state.number - 1
    return state._replace(number=number), (grad / running_slot(state.scales, number), enters)


# How values are kept in range: along a chain of blocks, and in parallel branches.
_SCALING: dict[str, marks.Rule] = {
    "feature": marks.observe(_note_scale),
    "entry": _divide,
    "entry_gradient": _divide,
    "feature_gradient": marks.observe(_leave),
    "block_output_gradient": marks.observe(_leave),
    "fusion": _divide_branch,
    "fusion_gradient": _divide_branch_gradient,
}


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

        rules = {**replaced_norm(1), **_SCALING}
        state, grads = marks.collect(jax.grad(total), rules, _Scales.start(ones.dtype))(params)
        flow = weights_sum(lambda w, g: jnp.abs(w * g), params, grads)
        return {"synflow": state.logarithm + jnp.log(flow)}
