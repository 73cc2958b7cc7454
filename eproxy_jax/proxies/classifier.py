"""The network whose logits proxies read: a backbone with a linear classifier on its last feature tap."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import convolution, initializers, layers, marks, norms


class Classifier(nn.Module):
    """A universal backbone, the average over the pixels of its last tap, and a linear layer without bias.

    A bias would shift logits by the same constants for all images.

    Attributes:
      backbone: a module ``(images, encoded, init) -> taps``, last stage first. Where it has an attribute
        ``norm_before_pooling`` that is true, batch norm and ReLU stand before the average.
      num_classes: K.
      dtype: dtype of the parameters.
    """

    backbone: nn.Module
    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, encoded: Array, init: Array | int = 0) -> tuple[Array, list[Any]]:
        """Compute logits [B, K], and the feature taps.

        Args:
          images: [B, H, W, 3].
          encoded: the architecture, as its space encodes it.
          init: index into ``initializers.INITS``.
        """
        taps = self.backbone(images, encoded, init)
        x = features_of(taps[0])
        channels = jnp.asarray(channels_of(taps[0]), self.dtype)
        if getattr(self.backbone, "norm_before_pooling", False):
            x = marks.relu(norms.normalize(x))
        shape = (1, 1, x.shape[-1], self.num_classes)
        kernel = self.param("kernel", initializers.conv_kernel, shape, self.dtype, init, None, None, channels)
        used = (jnp.arange(x.shape[-1]) < channels).astype(self.dtype)
        # One pixel of a convolution: so collections see the layer as they see the others.
        logits: Any = convolution.conv2d(x.mean((1, 2), keepdims=True), kernel * used[None, None, :, None])
        return logits[:, 0, 0], taps


def features_of(tap: Any) -> Array:
    """The map of a tap, [B, H, W, C]; channels that are not in use are zero."""
    return tap.features if isinstance(tap, layers.PaddedTap) else tap


def channels_of(tap: Any) -> Any:
    """How many channels of a tap are in use."""
    return tap.channels if isinstance(tap, layers.PaddedTap) else tap.shape[-1]


def pixel_share(tap: Any) -> Any:
    """How many pixels of the network's own map stand behind one pixel of :func:`features_of` a tap, on average."""
    if not isinstance(tap, layers.PaddedTap) or tap.pixels is None:
        return 1.0
    return jnp.asarray(tap.pixels, tap.features.dtype) / (tap.features.shape[1] * tap.features.shape[2])
