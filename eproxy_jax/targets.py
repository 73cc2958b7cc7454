"""This module draws the synthetic regression targets.

Each feature is a map [B, 8, 8, C]. The target of a branch is ``level`` times the sum of its features.

Source: docs/method.md, step 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from eproxy_jax.errors import check_known, quoted
from eproxy_jax.nn import initializers, layers, pooling, resizing
from eproxy_jax.types import FEATURES, TARGET_SIZE, BranchSettings, ProxySettings

# Cycles across the 8-pixel map; 4 would be the Nyquist limit.
WAVE_FREQUENCIES = {"wave_l": (0.5, 1.5), "wave_m": (1.5, 2.5), "wave_h": (2.5, 3.5)}
_NET_WIDTHS = (64, 128, 256, 512, 1024)


class TargetNet(nn.Module):
    """The random CNN behind feature ``net``: six conv-BN-ReLU blocks 3-64-128-256-512-1024-C, two 2x2 max-pools.

    The pools follow the first two blocks, so that the wide blocks run at the size of the target.

    Attributes:
      features: C, output channels.
      dtype: dtype of the parameters.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Map [B, H, W, 3] to [B, 8, 8, features]."""
        x = images
        for number, width in enumerate((*_NET_WIDTHS, self.features)):
            x = layers.Conv(width, 3, use_bias=True, dtype=self.dtype, name=f"conv{number}")(x)
            x = nn.relu(layers.BatchNorm(affine=False, dtype=self.dtype, name=f"norm{number}")(x))
            if number < 2:
                x = pooling.max_pool_2x2(x)
        return resizing.resize_nearest(x, TARGET_SIZE)


def net(key: Array, images: Array, channels: int) -> Array:
    """Return the output of a random CNN on the same images, [B, 8, 8, channels]. Consumes the key."""
    module = TargetNet(channels, images.dtype)
    return module.apply(module.init(key, images), images)  # pyright: ignore[reportReturnType]


def wave(key: Array, images: Array, channels: int, feature: str) -> Array:
    """Draw sine waves with random direction, phase and frequency per image and channel, [B, 8, 8, channels].

    Args:
      key: typed key; consumed.
      images: [B, H, W, 3]; only the number of images and the dtype matter.
      channels: C.
      feature: ``wave_l``, ``wave_m`` or ``wave_h``; see ``WAVE_FREQUENCIES``.
    """
    shape, dtype = (images.shape[0], 1, 1, channels), images.dtype
    k_direction, k_phase, k_frequency = jax.random.split(key, 3)
    low, high = WAVE_FREQUENCIES[feature]
    direction = initializers.draw(jax.random.uniform, k_direction, shape, dtype, 0, 2 * jnp.pi)
    phase = initializers.draw(jax.random.uniform, k_phase, shape, dtype, 0, 2 * jnp.pi)
    frequency = initializers.draw(jax.random.uniform, k_frequency, shape, dtype, low, high)
    grid = jnp.arange(TARGET_SIZE, dtype=dtype) / TARGET_SIZE
    along = grid[None, :, None, None] * jnp.sin(direction) + grid[None, None, :, None] * jnp.cos(direction)
    return jnp.sin(2 * jnp.pi * frequency * along + phase)


def dot(key: Array, images: Array, channels: int) -> Array:
    """Draw each value as -1 or +1 at random, [B, 8, 8, channels]. Consumes the key."""
    shape = (images.shape[0], TARGET_SIZE, TARGET_SIZE, channels)
    return initializers.draw(jax.random.rademacher, key, shape, images.dtype)


# A feature of your own: (key, images [B, H, W, 3], channels) -> [B, 8, 8, channels]; the key is consumed.
TargetFn = Callable[[Array, Array, int], Array]


def _wave(feature: str) -> TargetFn:
    return lambda key, images, channels: wave(key, images, channels, feature)


BUILT_IN: dict[str, TargetFn] = {"net": net, **{feature: _wave(feature) for feature in WAVE_FREQUENCIES}, "dot": dot}


def check_features(settings: ProxySettings, named: Mapping[str, TargetFn] | None = None) -> None:
    """Check that every feature of the settings has a function.

    Args:
      settings: the proxy's settings.
      named: features of your own by name.

    Raises:
      ValueError: a feature is unknown (with the nearest known one), or a name hides a built-in feature.
    """
    named = {} if named is None else named
    if hidden := sorted(set(named) & set(BUILT_IN)):
        raise ValueError(f"targets: {quoted(hidden[0])} is a built-in feature: give yours another name")
    known = (*BUILT_IN, *named)
    for number, branch in enumerate(settings.branches):
        for feature in branch.features:
            check_known([feature], known, f"settings.branches[{number}].features", "feature")


def feature_map(
    key: Array, feature: str, images: Array, channels: int, named: Mapping[str, TargetFn] | None = None
) -> Array:
    """Return one feature, [B, 8, 8, channels]. Consumes the key.

    A built-in feature folds its index in ``FEATURES`` into the key; one of your own folds in the hash of its name.
    """
    if feature in BUILT_IN:
        return BUILT_IN[feature](jax.random.fold_in(key, FEATURES.index(feature)), images, channels)
    own = (named or {})[feature]
    digest = hashlib.blake2b(feature.encode(), digest_size=4).digest()
    out = own(jax.random.fold_in(key, int.from_bytes(digest, "little")), images, channels)
    shape = (images.shape[0], TARGET_SIZE, TARGET_SIZE, channels)
    if out.shape != shape:
        raise ValueError(f"targets: {quoted(feature)} returns {list(out.shape)}: expected {list(shape)}")
    return jnp.asarray(out, images.dtype)


def branch_target(
    key: Array, branch: BranchSettings, images: Array, named: Mapping[str, TargetFn] | None = None
) -> Array:
    """Return the target of one branch: ``level`` times the sum of its features.

    Args:
      key: typed key; consumed.
      branch: features, level and channels.
      images: [B, H, W, 3], standardised.
      named: features of your own by name.

    Returns:
      [B, 8, 8, target_channels].
    """
    maps = [feature_map(key, feature, images, branch.target_channels, named) for feature in branch.features]
    return branch.level * sum(maps[1:], start=maps[0])
