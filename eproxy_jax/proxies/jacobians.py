"""Proxies of input Jacobians and of activation patterns: how differently a network treats different images.

Networks have PyTorch's default weights and batch norms in training mode, which couples the images of a batch: that is
how these proxies are defined.

Sources: Mellor, Turner, Storkey, Crowley, "Neural Architecture Search without Training", ICML 2021 (naswot, and jacov
in its first version); Lopes, Alirezazadeh, Alexandre, "EPE-NAS", ICANN 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import marks
from eproxy_jax.proxies.classifier import Classifier
from eproxy_jax.proxies.gathering import Patterns, add_pattern

_JACOV_EPSILON = 1e-5
MANY_CLASSES = 100  # above, epe_nas compares classes with each other


@dataclasses.dataclass(frozen=True)
class Jacobians:
    """naswot, jacov and epe_nas as a function of one candidate, for ``ep.evaluate``. Equal objects share programs.

    Attributes:
      columns: names out of ``naswot``, ``jacov``, ``epe_nas``.
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
          images: [B, H, W, 3].
          labels: [B], 0 to K - 1; only ``epe_nas`` reads them.

        Returns:
          A scalar for each column; NaN where it is not defined.
        """
        model = Classifier(network, self.num_classes, images.dtype)
        return self.of_params(network, model.init(key, images, encoded)["params"], encoded, images, labels)

    def of_params(
        self, network: nn.Module, params: Any, encoded: Array, images: Array, labels: Array
    ) -> dict[str, Array]:
        """Compute the columns for given parameters of a :class:`Classifier`."""
        model = Classifier(network, self.num_classes, images.dtype)

        def run(images: Array) -> Array:
            return model.apply({"params": params}, images, encoded)[0]  # pyright: ignore[reportReturnType]

        def jacobians(images: Array) -> Array:
            logits, pull_back = jax.vjp(run, images)
            return pull_back(jnp.broadcast_to(image_weights(logits), logits.shape))[0]

        # One forward pass shows the patterns and leads to the Jacobians.
        function = jacobians if {"jacov", "epe_nas"} & set(self.columns) else run
        rules = {"relu": marks.observe(add_pattern)} if "naswot" in self.columns else {}
        state, rows = marks.collect(function, rules, Patterns.zero(len(images), images.dtype))(images)
        rows = rows.reshape(len(images), -1)
        out: dict[str, Array] = {}
        if "naswot" in self.columns:
            sign, logarithm = jnp.linalg.slogdet(state.kernel())
            out["naswot"] = jnp.where(sign == 0, -jnp.inf, logarithm)
        if "jacov" in self.columns:
            out["jacov"] = jacov(rows)
        if "epe_nas" in self.columns:
            out["epe_nas"] = epe_nas(rows, labels, self.num_classes)
        return out


def image_weights(logits: Array) -> Array:
    """Weights of the images in the sum of logits whose gradient is the Jacobian, [B, K] -> [B, 1].

    They are ones, as published. Where a batch norm comes last, each class has mean 0 over the batch whatever the images
    are: the published gradient is zero, and rounding would decide. There every other image counts negatively. That
    ranks networks of TransNAS-Bench-101 as the rounding of published columns does, and depends on no machine.
    """
    least = jnp.finfo(logits.dtype).eps ** 0.5
    constant = jnp.all(jnp.abs(jnp.mean(logits, 0)) <= least * jnp.std(logits, 0))
    signs = jnp.where(jnp.arange(len(logits)) % 2 == 0, 1, -1).astype(logits.dtype)
    return jnp.where(constant, signs, 1)[:, None]


def correlations(rows: Array, within: Array) -> Array:
    """Correlation coefficients of the rows [B, N], [B, B].

    Args:
      rows: one for each image.
      within: [B, B] 0 or 1; pairs that do not count get 0.
    """
    centred = rows - jnp.mean(rows, 1, keepdims=True)
    norms = jnp.sqrt(jnp.sum(centred**2, 1, keepdims=True))
    unit = centred / norms
    return jnp.where(within > 0, jnp.clip(unit @ unit.T, -1, 1), 0)


def jacov(rows: Array) -> Array:
    """-sum of ln(v + 1e-5) + 1 / (v + 1e-5) over the eigenvalues v of the Jacobians' correlations, [B, N] -> scalar."""
    matrix = correlations(rows, jnp.ones((len(rows), len(rows)), rows.dtype))
    finite = jnp.all(jnp.isfinite(matrix))
    values = jnp.linalg.eigvalsh(jnp.where(finite, matrix, 0)) + _JACOV_EPSILON
    return jnp.where(finite, -jnp.sum(jnp.log(values) + 1 / values), jnp.nan)


def epe_nas(rows: Array, labels: Array, num_classes: int) -> Array:
    """Correlations of the Jacobians within each class, logarithms summed.

    Args:
      rows: Jacobian of each image, [B, N].
      labels: [B].
      num_classes: K.

    Returns:
      Sum over classes of the absolute sum of ln(|R| + 1e-5) over the class's entries; above ``MANY_CLASSES`` classes,
      the sum of differences between classes over the number of classes seen.
    """
    same = (labels[:, None] == labels[None]).astype(rows.dtype)
    matrix = correlations(rows, same)
    logarithms = jnp.where(same > 0, jnp.log(jnp.abs(matrix) + _JACOV_EPSILON), 0)
    members = jax.nn.one_hot(labels, num_classes, dtype=rows.dtype)  # [B, K]
    of_class = jnp.einsum("ik,ij->k", members, logarithms)
    if num_classes <= MANY_CLASSES:
        return jnp.sum(jnp.abs(of_class))
    sizes = jnp.sum(members, 0)
    of_class, seen = of_class / jnp.maximum(sizes, 1), (sizes > 0).astype(rows.dtype)
    differences = jnp.abs(of_class[:, None] - of_class[None]) * seen[:, None] * seen[None]
    return jnp.sum(differences) / jnp.sum(seen)
