"""Eproxy of one candidate: head, frozen barrier layer, ten SGD steps, score.

Everything here is a pure function of (key, arrays, static spec) of ONE candidate; :mod:`eproxy_jax.scoring` maps it
over many. Source: PROTOCOL, "Eproxy: the score of one architecture".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from eproxy_jax import targets
from eproxy_jax.nn import convolution, initializers, layers, norms, resizing
from eproxy_jax.types import TARGET_SIZE, ProxySettings, ProxyTask

# First level of the key tree: what is drawn under each tag does not depend on what else is drawn.
_TAG_TARGET, _TAG_BARRIER, _TAG_ARCH = range(3)


@dataclasses.dataclass(frozen=True)
class ProxySpec:
    """The static part of the settings: what changes a compiled program.

    Attributes:
      num_steps: S.
      heads: per branch (transform_kernel, transform_channels).
    """

    num_steps: int
    heads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, settings: ProxySettings) -> ProxySpec:
        """The static part of ``settings``."""
        heads = tuple((branch.transform_kernel, branch.transform_channels) for branch in settings.branches)
        return cls(settings.num_steps, heads)


@flax.struct.dataclass
class ProxyHyper:
    """The part of the settings that is data: changing it compiles nothing.

    Attributes:
      lr: scalar.
      momentum: scalar.
      weight_decay: scalar.
      network_init: integer scalar, index into ``initializers.INITS``.
    """

    lr: Array
    momentum: Array
    weight_decay: Array
    network_init: Array

    @classmethod
    def of(cls, settings: ProxySettings, dtype: Any = jnp.float32) -> ProxyHyper:
        """The data part of ``settings``."""
        return cls(
            lr=jnp.asarray(settings.lr, dtype),
            momentum=jnp.asarray(settings.momentum, dtype),
            weight_decay=jnp.asarray(settings.weight_decay, dtype),
            network_init=jnp.asarray(initializers.init_index(settings.network_init), jnp.int32),
        )


class ProxyNetwork(nn.Module):
    """Backbone and trained transforms: everything in front of the barrier layers.

    Attributes:
      backbone: a module ``(images, encoded, init) -> taps``, last stage first.
      heads: per branch (transform_kernel, transform_channels).
      dtype: dtype of the parameters.
    """

    backbone: nn.Module
    heads: tuple[tuple[int, int], ...]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, encoded: Array, init: Array | int = 0) -> tuple[Array, ...]:
        """Transformed features of each branch.

        Args:
          images: [B, H, W, 3].
          encoded: the architecture, as its space encodes it.
          init: index into ``initializers.INITS``.

        Returns:
          Per branch [B, 8, 8, transform_channels].

        Raises:
          ValueError: more branches than the backbone has feature taps.
        """
        taps = self.backbone(images, encoded, init)
        if len(self.heads) > len(taps):
            raise ValueError(
                f"settings ask for {len(self.heads)} branches, but the backbone has {len(taps)} feature taps"
            )
        return tuple(
            Transform(*head, self.dtype, name=f"transform{branch}")(tap, init)
            for branch, (head, tap) in enumerate(zip(self.heads, taps, strict=False))
        )


class Transform(nn.Module):
    """The trained transform of a branch: resize to 8x8, conv with bias, ReLU, batch norm (PROTOCOL, steps 2 and 3)."""

    kernel_size: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tap: Array | layers.PaddedTap, init: Array | int = 0) -> Array:
        """[B, H, W, C] -> [B, 8, 8, features]."""
        if isinstance(tap, layers.PaddedTap):
            x = layers.TapConv(self.features, self.kernel_size, self.dtype, name="conv")(tap, init)
        else:
            x = resizing.resize_nearest(tap, TARGET_SIZE)
            x = layers.Conv(self.features, self.kernel_size, use_bias=True, dtype=self.dtype, name="conv")(x, init)
        return layers.BatchNorm(dtype=self.dtype, name="norm")(nn.relu(x))


def make_task(key: Array, settings: ProxySettings, images: Array) -> ProxyTask:
    """Targets and barrier layers, shared by all candidates.

    Differs from the reference: one draw of the barrier serves all candidates, so that it is one unbatched convolution
    under ``vmap`` and no source of noise between candidates.

    Args:
      key: typed key; consumed.
      settings: the proxy's settings.
      images: [B, H, W, 3], standardised.

    Returns:
      A ``ProxyTask``.
    """
    init = initializers.init_index(settings.barrier_init)
    branch_targets, barriers = [], []
    for number, branch in enumerate(settings.branches):
        target_key = jax.random.fold_in(jax.random.fold_in(key, _TAG_TARGET), number)
        branch_targets.append(targets.branch_target(target_key, branch, images))
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, _TAG_BARRIER), number))
        size = branch.barrier_kernel
        shape = (size, size, branch.transform_channels, branch.target_channels)
        fan_in = size * size * branch.transform_channels
        kernel = initializers.conv_kernel(kernel_key, shape, images.dtype, init)
        bias = initializers.conv_bias(bias_key, shape[-1:], images.dtype, fan_in, init)
        barriers.append({"kernel": kernel, "bias": bias})
    return ProxyTask(images=images, targets=tuple(branch_targets), barriers=tuple(barriers))


def arch_key(key: Array, identity: Array) -> Array:
    """The key of one architecture: ``key`` folded with the hash of its canonical form, uint32 [2]."""
    key = jax.random.fold_in(key, _TAG_ARCH)
    return jax.random.fold_in(jax.random.fold_in(key, identity[0]), identity[1])


def branch_losses(hidden: tuple[Array, ...], task: ProxyTask) -> Array:
    """Mean squared error of each branch behind its frozen barrier layer, [L]."""
    errors = [
        jnp.mean((convolution.frozen_conv2d(h, barrier["kernel"]) + norms.per_channel(barrier["bias"]) - target) ** 2)
        for h, barrier, target in zip(hidden, task.barriers, task.targets, strict=True)
    ]
    return jnp.stack(errors)


def final_loss(losses: Array) -> Array:
    """L = sum_i MSE_i / 2^i over the last axis (PROTOCOL, step 7): [..., L] -> [...]."""
    weights = 0.5 ** jnp.arange(losses.shape[-1], dtype=losses.dtype)
    return jnp.sum(losses * weights, axis=-1)


def sgd(hyper: ProxyHyper) -> optax.GradientTransformation:
    """SGD in PyTorch's form: v = m v + g, p -= lr v; weight decay on tensors with more than one dimension."""

    def decays(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    return optax.chain(
        optax.add_decayed_weights(hyper.weight_decay, decays),  # pyright: ignore[reportArgumentType]
        optax.sgd(hyper.lr, hyper.momentum),  # pyright: ignore[reportArgumentType]
    )


class _Train(NamedTuple):
    params: Any
    opt_state: Any


def sgd_losses(
    loss: Callable[[Any], tuple[Array, Array]], params: Any, num_steps: int, optimizer: optax.GradientTransformation
) -> Array:
    """Minimise a loss from ``params`` on and watch it.

    Args:
      loss: params -> (what is minimised, what is reported).
      params: initial parameters.
      num_steps: S.
      optimizer: see :func:`sgd`.

    Returns:
      [S]: the reported loss at each step's forward pass, before that step's update.
    """

    def step(carry: _Train, _: None) -> tuple[_Train, Array]:
        grads, reported = jax.grad(loss, has_aux=True)(carry.params)
        updates, opt_state = optimizer.update(grads, carry.opt_state, carry.params)
        return _Train(optax.apply_updates(carry.params, updates), opt_state), reported

    # The last step's update would not be seen: its forward pass is all that counts.
    trained, losses = lax.scan(step, _Train(params, optimizer.init(params)), None, num_steps - 1)
    return jnp.append(losses, loss(trained.params)[1])


def train_losses(
    network: nn.Module, num_steps: int, params: Any, encoded: Array, task: ProxyTask, hyper: ProxyHyper
) -> Array:
    """Train backbone and transforms on the one batch and watch the loss.

    Args:
      network: a :class:`ProxyNetwork`.
      num_steps: S.
      params: the network's parameters.
      encoded: the architecture, as its space encodes it.
      task: images, targets and barriers.
      hyper: learning rate, momentum, weight decay.

    Returns:
      [S]: L at each step's forward pass, before that step's update.
    """

    def loss(params: Any) -> tuple[Array, Array]:
        errors = branch_losses(network.apply({"params": params}, task.images, encoded), task)  # pyright: ignore[reportArgumentType]
        return jnp.sum(errors), final_loss(errors)

    return sgd_losses(loss, params, num_steps, sgd(hyper))


def candidate_losses(
    network: nn.Module, num_steps: int, key: Array, encoded: Array, task: ProxyTask, hyper: ProxyHyper
) -> Array:
    """Initialise one candidate from its own key and train it: losses [S]. The key is consumed."""
    params = network.init(key, task.images, encoded, hyper.network_init)["params"]
    return train_losses(network, num_steps, params, encoded, task, hyper)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """:func:`candidate_losses` as a hashable function of its arrays, so that equal ones share a compiled program.

    Attributes:
      network: a :class:`ProxyNetwork`.
      num_steps: S.
    """

    network: nn.Module
    num_steps: int

    def __call__(self, key: Array, encoded: Array, task: ProxyTask, hyper: ProxyHyper) -> Array:
        """Losses [S] of one candidate; the key is consumed."""
        return candidate_losses(self.network, self.num_steps, key, encoded, task, hyper)


def scores(loss: np.ndarray, effective_macs: np.ndarray, max_macs: int, alpha: float) -> np.ndarray:
    """-(L (1 - alpha MACs / MACs_max)), higher is better (PROTOCOL, step 8); ``-inf`` where L is not finite.

    Args:
      loss: [A] final losses.
      effective_macs: [A] MACs of the canonical forms.
      max_macs: largest MACs in the space.
      alpha: the blend.

    Returns:
      [A] float64.
    """
    loss = np.asarray(loss, np.float64)
    score = -(loss * (1 - alpha * np.asarray(effective_macs, np.float64) / max_macs))
    return np.where(np.isfinite(loss), score, -np.inf)
