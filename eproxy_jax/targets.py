"""Synthetic regression targets.

Source: PROTOCOL, step 5. Each feature is a map [B, 8, 8, C]; a branch's target is ``level`` times the sum of its
features.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.nn import layers, pooling, resizing
from eproxy_jax.types import FEATURES, TARGET_SIZE, BranchSettings

# Cycles across the 8-pixel map; 4 would be the Nyquist limit.
WAVE_FREQUENCIES = {"wave_l": (0.5, 1.5), "wave_m": (1.5, 2.5), "wave_h": (2.5, 3.5)}
_NET_WIDTHS = (64, 128, 256, 512, 1024)


class TargetNet(nn.Module):
    """The random CNN behind feature ``net``: six conv-BN-ReLU blocks 3-64-128-256-512-1024-C, two 2x2 max-pools.

    The pools stand after the first two blocks, so that the wide blocks run at the target's size.

    Attributes:
      features: C, output channels.
      dtype: dtype of the parameters.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, H, W, 3] -> [B, 8, 8, features]."""
        x = images
        for number, width in enumerate((*_NET_WIDTHS, self.features)):
            x = layers.Conv(width, 3, use_bias=True, dtype=self.dtype, name=f"conv{number}")(x)
            x = nn.relu(layers.BatchNorm(affine=False, dtype=self.dtype, name=f"norm{number}")(x))
            if number < 2:
                x = pooling.max_pool_2x2(x)
        return resizing.resize_nearest(x, TARGET_SIZE)


def net(key: Array, images: Array, channels: int) -> Array:
    """Output of a randomly initialised CNN on the same images, [B, 8, 8, channels]; the key is consumed."""
    module = TargetNet(channels, images.dtype)
    return module.apply(module.init(key, images), images)  # pyright: ignore[reportReturnType]


def wave(key: Array, images: Array, channels: int, feature: str) -> Array:
    """Sine waves with random direction, phase and frequency per image and channel, [B, 8, 8, channels].

    Args:
      key: typed key; consumed.
      images: [B, H, W, 3]; only the number of images and the dtype matter.
      channels: C.
      feature: ``wave_l``, ``wave_m`` or ``wave_h``; see ``WAVE_FREQUENCIES``.
    """
    shape, dtype = (images.shape[0], 1, 1, channels), images.dtype
    k_direction, k_phase, k_frequency = jax.random.split(key, 3)
    low, high = WAVE_FREQUENCIES[feature]
    direction = jax.random.uniform(k_direction, shape, dtype, 0, 2 * jnp.pi)
    phase = jax.random.uniform(k_phase, shape, dtype, 0, 2 * jnp.pi)
    frequency = jax.random.uniform(k_frequency, shape, dtype, low, high)
    grid = jnp.arange(TARGET_SIZE, dtype=dtype) / TARGET_SIZE
    along = grid[None, :, None, None] * jnp.sin(direction) + grid[None, None, :, None] * jnp.cos(direction)
    return jnp.sin(2 * jnp.pi * frequency * along + phase)


def dot(key: Array, images: Array, channels: int) -> Array:
    """Each value -1 or +1 at random, [B, 8, 8, channels]; the key is consumed."""
    return jax.random.rademacher(key, (images.shape[0], TARGET_SIZE, TARGET_SIZE, channels), images.dtype)


def feature_map(key: Array, feature: str, images: Array, channels: int) -> Array:
    """One feature, [B, 8, 8, channels]. The key is consumed; the feature's place in ``FEATURES`` is folded in."""
    key = jax.random.fold_in(key, FEATURES.index(feature))
    if feature == "net":
        return net(key, images, channels)
    if feature == "dot":
        return dot(key, images, channels)
    return wave(key, images, channels, feature)


def branch_target(key: Array, branch: BranchSettings, images: Array) -> Array:
    """The target of one branch: ``level`` times the sum of its features.

    Args:
      key: typed key; consumed.
      branch: features, level and channels.
      images: [B, H, W, 3], standardised.

    Returns:
      [B, 8, 8, target_channels].
    """
    maps = [feature_map(key, feature, images, branch.target_channels) for feature in branch.features]
    return branch.level * sum(maps[1:], start=maps[0])
