"""This module holds what stand-alone networks of all spaces share: feature taps, and a classifier on the last one."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array


class StandAloneNet(nn.Module, kw_only=True):
    """Base of networks that a user can go on to train. Subclasses give ``features`` and call ``super().setup()``.

    Attributes:
      num_classes: classifier outputs; None for a backbone only.
      dtype: dtype of the parameters.
    """

    num_classes: int | None = None
    dtype: Any = jnp.float32

    @property
    def track(self) -> bool:
        """Whether batch norms keep running averages: a network with a classifier will be evaluated."""
        return self.num_classes is not None

    def setup(self):
        """Add the classifier."""
        if self.num_classes is not None:
            self.classifier = nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.dtype)

    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps, last one first.

        Args:
          images: [B, H, W, 3].
          train: normalise with batch statistics.

        Returns:
          Arrays [B, H', W', C'].
        """
        raise NotImplementedError

    def before_pooling(self, tap: Array, train: bool) -> Array:
        """Apply what stands between the last tap and its average over pixels, [B, H', W', C'] -> [B, H', W', C']."""
        del train
        return tap

    def __call__(self, images: Array, train: bool = True) -> Array | list[Array]:
        """Return class logits [B, num_classes]; for a backbone only, the feature taps."""
        taps = self.features(images, train)
        if self.num_classes is None:
            return taps
        return self.classifier(self.before_pooling(taps[0], train).mean((1, 2)))
