"""Proxies of weights and of their gradients under a classification loss.

Networks have PyTorch's default weights and batch norms in training mode. Only weights of convolutions and of the linear
layer count.

Sources: Abdelfattah, Mehrotra, Dudziak, Lane, "Zero-Cost Proxies for Lightweight NAS", ICLR 2021 (grad_norm, plain,
l2_norm); Lee, Ajanthan, Torr, "SNIP", ICLR 2019; Wang, Zhang, Grosse, "GraSP", ICLR 2020; Turner, Crowley, O'Boyle,
Storkey, Gray, "BlockSwap", ICLR 2020 (fisher); Li, Yang, Bhardwaj, Marculescu, "ZiCo", ICLR 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from eproxy_jax.nn import marks
from eproxy_jax.proxies.classifier import Classifier
from eproxy_jax.proxies.gathering import is_kernel, layer_sums, weights_sum


@dataclasses.dataclass(frozen=True)
class WeightGradients:
    """The proxies of weight gradients as a function of one candidate, for ``ep.evaluate``.

    Attributes:
      columns: names out of ``grad_norm``, ``snip``, ``plain``, ``l2_norm``, ``fisher``, ``grasp``, ``zico``.
      num_classes: K.
    """

    columns: tuple[str, ...]
    num_classes: int

    def __call__(
        self, network: nn.Module, key: Array, encoded: Array, images: Array, labels: Array
    ) -> dict[str, Array]:
        """Compute the columns.

        Args:
          network: a universal module.
          key: of the candidate; consumed.
          encoded: the architecture.
          images: [2, B, H, W, 3], two batches; only ``zico`` reads the second.
          labels: [2, B], 0 to K - 1.

        Returns:
          A scalar for each column.
        """
        model = Classifier(network, self.num_classes, images.dtype)
        params = model.init(key, images[0], encoded)["params"]
        return self.of_params(network, params, encoded, images, labels)

    def of_params(
        self, network: nn.Module, params: Any, encoded: Array, images: Array, labels: Array
    ) -> dict[str, Array]:
        """Compute the columns for given parameters of a :class:`Classifier`."""
        model = Classifier(network, self.num_classes, images.dtype)

        def run(params: Any, batch: Array) -> Array:
            return model.apply({"params": params}, batch, encoded)[0]  # pyright: ignore[reportReturnType]

        def loss(params: Any, number: int = 0) -> Array:
            logits = run(params, images[number])
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[number]))

        def over_layers(of_layer: Callable[[Array], Array], tree: Any) -> Array:
            return layer_sums(lambda tree: run(tree, images[0]), of_layer, tree)

        out: dict[str, Array] = {}
        # One trace gives the gradients, and what fisher reads on the way.
        rule = {"conv_gradient": marks.observe(_add_fisher)} if "fisher" in self.columns else {}
        out["fisher"], grads = marks.collect(jax.grad(loss), rule, jnp.zeros((), images.dtype))(params)
        if "grad_norm" in self.columns:
            out["grad_norm"] = over_layers(_norm, grads)
        if "l2_norm" in self.columns:
            out["l2_norm"] = over_layers(_norm, params)
        if "snip" in self.columns:
            out["snip"] = weights_sum(lambda w, g: jnp.abs(w * g), params, grads)
        if "plain" in self.columns:
            out["plain"] = weights_sum(lambda w, g: w * g, params, grads)
        if "grasp" in self.columns:
            slope = marks.differentiable_forward(jax.grad(loss))
            curved = jax.jvp(slope, (params,), (_kernels_only(grads),))[1]
            out["grasp"] = weights_sum(lambda w, h: -w * h, params, curved)
        if "zico" in self.columns:
            ratios = jax.tree.map(_mean_over_deviation, grads, jax.grad(loss)(params, 1))
            out["zico"] = over_layers(_log_of_sum, ratios)
        return {name: out[name] for name in self.columns}


def _kernels_only(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf if is_kernel(leaf) else jnp.zeros_like(leaf), tree)


def _norm(kernel: Array) -> Array:
    return jnp.sqrt(jnp.sum(kernel * kernel))


def _mean_over_deviation(first: Array, second: Array) -> Array:
    """Mean of absolute gradients over their deviation, of two batches; 0 where they do not differ."""
    deviation = jnp.abs(first - second) / 2
    mean = (jnp.abs(first) + jnp.abs(second)) / 2
    return jnp.where(deviation > 0, mean / jnp.where(deviation > 0, deviation, 1), 0)


def _log_of_sum(ratios: Array) -> Array:
    total = jnp.sum(ratios)
    return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1)), 0)


def _add_fisher(total: Array, out: Array, grad: Array, weights: Array, met: Array) -> Array:
    """Add a convolution's Fisher information, counted once a weight; see ``convolution.ConvGradient``."""
    del met
    of_channel = jnp.sum(out * grad, (1, 2))  # [B, C]
    return total + weights * jnp.sum(jnp.mean(of_channel**2, 0)) / 2
