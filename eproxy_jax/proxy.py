"""This module computes Eproxy for one candidate: head, frozen barrier layer, ten SGD steps, score.

All of it is pure functions of (key, arrays, static spec) of ONE candidate; :mod:`eproxy_jax.scoring` maps them over
many.

Source: Li et al., "Extensible and Efficient Proxy for Neural Architecture Search", ICCV 2023; docs/method.md, steps 1
to 8.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from eproxy_jax import spaces
from eproxy_jax.errors import check_seed, quoted
from eproxy_jax.images import standardize
from eproxy_jax.nn import convolution, initializers, layers, norms, resizing
from eproxy_jax.spaces.flax_family import explain_errors
from eproxy_jax.targets import TargetFn, branch_target, check_features
from eproxy_jax.types import TARGET_SIZE, ProxySettings

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Key, Num

# First level of the key tree: draws under one tag do not depend on draws under another.
_TAG_TARGET, _TAG_BARRIER, _TAG_ARCH = range(3)


@dataclasses.dataclass(frozen=True)
class ProxySpec:
    """The static part of the settings: a change of it needs another compiled program.

    Attributes:
      num_steps: S.
      heads: per branch (transform_kernel, transform_channels).
    """

    num_steps: int
    heads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, settings: ProxySettings) -> ProxySpec:
        """Take the static part of ``settings``."""
        heads = tuple((branch.transform_kernel, branch.transform_channels) for branch in settings.branches)
        return cls(settings.num_steps, heads)


@flax.struct.dataclass
class ProxyHyper:
    """The part of the settings that is data: a change of it compiles nothing.

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
        """Take the data part of ``settings``."""
        return cls(
            lr=jnp.asarray(settings.lr, dtype),
            momentum=jnp.asarray(settings.momentum, dtype),
            weight_decay=jnp.asarray(settings.weight_decay, dtype),
            network_init=jnp.asarray(initializers.init_index(settings.network_init), jnp.int32),
        )


@flax.struct.dataclass
class ProxyTask:
    """The regression task of all candidates. Its arrays depend on (key, settings, images) only.

    Attributes:
      images: [B, H, W, 3], standardised.
      targets: per branch [B, 8, 8, target_channels].
      barriers: per branch {"kernel": [k_b, k_b, transform_channels, target_channels], "bias": [target_channels]}.
    """

    images: Float[Array, "B H W 3"]
    targets: tuple[Float[Array, "B 8 8 _"], ...]
    barriers: tuple[dict[str, Float[Array, " ..."]], ...]


class ProxyNetwork(nn.Module):
    """The trained network: backbone and transforms, all that stands before the barrier layers.

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
        """Compute the transformed features of each branch.

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
    """The trained transform of a branch: resize to 8x8, conv with bias, ReLU, batch norm.

    Source: docs/method.md, steps 2 and 3.
    """

    kernel_size: int
    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tap: Array | layers.PaddedTap, init: Array | int = 0) -> Array:
        """Map [B, H, W, C] to [B, 8, 8, features]."""
        if isinstance(tap, layers.PaddedTap):
            x = layers.TapConv(self.features, self.kernel_size, self.dtype, name="conv")(tap, init)
        else:
            x = resizing.resize_nearest(tap, TARGET_SIZE)
            x = layers.Conv(self.features, self.kernel_size, use_bias=True, dtype=self.dtype, name="conv")(x, init)
        return layers.BatchNorm(dtype=self.dtype, name="norm")(nn.relu(x))


def make_task(
    key: Array, settings: ProxySettings, images: Array, named_targets: Mapping[str, TargetFn] | None = None
) -> ProxyTask:
    """Draw the targets and the barrier layers that all candidates share.

    Differs from the reference: one draw of the barrier serves all candidates. So it is one unbatched convolution under
    ``vmap``, and adds no noise between candidates.

    Args:
      key: typed key; consumed.
      settings: the proxy's settings.
      images: [B, H, W, 3], standardised.
      named_targets: features of your own by name, see :data:`eproxy_jax.targets.TargetFn`.

    Returns:
      A ``ProxyTask``.
    """
    init = initializers.init_index(settings.barrier_init)
    branch_targets, barriers = [], []
    for number, branch in enumerate(settings.branches):
        target_key = jax.random.fold_in(jax.random.fold_in(key, _TAG_TARGET), number)
        branch_targets.append(branch_target(target_key, branch, images, named_targets))
        kernel_key, bias_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, _TAG_BARRIER), number))
        size = branch.barrier_kernel
        shape = (size, size, branch.transform_channels, branch.target_channels)
        fan_in = size * size * branch.transform_channels
        kernel = initializers.conv_kernel(kernel_key, shape, images.dtype, init)
        bias = initializers.conv_bias(bias_key, shape[-1:], images.dtype, fan_in, init)
        barriers.append({"kernel": kernel, "bias": bias})
    return ProxyTask(images=images, targets=tuple(branch_targets), barriers=tuple(barriers))


def candidate_key(key: Array, identity: Array) -> Array:
    """Fold the hash of an architecture's canonical form, uint32 [2], into the key."""
    key = jax.random.fold_in(key, _TAG_ARCH)
    return jax.random.fold_in(jax.random.fold_in(key, identity[0]), identity[1])


def branch_losses(hidden: tuple[Array, ...], task: ProxyTask) -> Array:
    """Return the mean squared error of each branch behind its frozen barrier layer, [L]."""
    errors = [
        jnp.mean((convolution.frozen_conv2d(h, barrier["kernel"]) + norms.per_channel(barrier["bias"]) - target) ** 2)
        for h, barrier, target in zip(hidden, task.barriers, task.targets, strict=True)
    ]
    return jnp.stack(errors)


def final_loss(losses: Array) -> Array:
    """Return L = sum_i MSE_i / 2^i over the last axis: [..., L] -> [...].

    Source: docs/method.md, step 7.
    """
    weights = 0.5 ** jnp.arange(losses.shape[-1], dtype=losses.dtype)
    return jnp.sum(losses * weights, axis=-1)


def sgd(hyper: ProxyHyper) -> optax.GradientTransformation:
    """Return SGD in PyTorch's form: v = m v + g, p -= lr v, with weight decay on tensors of two or more dimensions.

    Source: docs/method.md, step 6.
    """

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
    """Minimise a loss, starting from ``params``, and report it at each step.

    Args:
      loss: params -> (minimised scalar, reported scalar).
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

    # Nobody would see the update of the last step: only its forward pass counts.
    trained, losses = lax.scan(step, _Train(params, optimizer.init(params)), None, num_steps - 1)
    return jnp.append(losses, loss(trained.params)[1])


def train_losses(
    network: nn.Module,
    num_steps: int,
    params: Any,
    encoded: Array,
    task: ProxyTask,
    hyper: ProxyHyper,
    optimizer: optax.GradientTransformation | None = None,
) -> Array:
    """Train backbone and transforms on the batch and return the loss at each step.

    Args:
      network: a :class:`ProxyNetwork`.
      num_steps: S.
      params: the network's parameters.
      encoded: the architecture, as its space encodes it.
      task: images, targets and barriers.
      hyper: learning rate, momentum, weight decay.
      optimizer: replaces SGD with ``hyper``.

    Returns:
      [S]: L at each step's forward pass, before that step's update.
    """

    def loss(params: Any) -> tuple[Array, Array]:
        errors = branch_losses(network.apply({"params": params}, task.images, encoded), task)  # pyright: ignore[reportArgumentType]
        return jnp.sum(errors), final_loss(errors)

    return sgd_losses(loss, params, num_steps, sgd(hyper) if optimizer is None else optimizer)


def candidate_losses(
    network: nn.Module,
    num_steps: int,
    key: Array,
    encoded: Array,
    task: ProxyTask,
    hyper: ProxyHyper,
    optimizer: optax.GradientTransformation | None = None,
) -> Array:
    """Initialise one candidate from its own key and train it; returns losses [S]. Consumes the key."""
    params = network.init(key, task.images, encoded, hyper.network_init)["params"]
    return train_losses(network, num_steps, params, encoded, task, hyper, optimizer)


# --- the public pair -----------------------------------------------------------------------------------------

Task = tuple[ProxyTask, ProxyHyper]


@dataclasses.dataclass(frozen=True)
class Training:
    """Eproxy as a function of one candidate's backbone, for ``ep.evaluate``. Equal objects share compiled programs.

    Attributes:
      spec: the static part of the settings.
      optimizer: replaces the settings' SGD.
    """

    spec: ProxySpec
    optimizer: optax.GradientTransformation | None = None

    def __call__(self, backbone: nn.Module, key: Array, encoded: Array, task: Task) -> Array:
        """Return the losses [S] of one candidate. Consumes the key."""
        arrays, hyper = task
        network = ProxyNetwork(backbone, self.spec.heads, arrays.images.dtype)
        with explain_errors(backbone):
            return candidate_losses(network, self.spec.num_steps, key, encoded, arrays, hyper, self.optimizer)


@functools.partial(jax.jit, static_argnums=(1, 3))
def _compiled_task(
    key: Array, settings: ProxySettings, images: Array, named_targets: tuple[tuple[str, TargetFn], ...]
) -> ProxyTask:
    return make_task(key, settings, images, dict(named_targets))


def compiled_task(
    key: Array, settings: ProxySettings, images: Array, named_targets: Mapping[str, TargetFn] | None = None
) -> ProxyTask:
    """Call :func:`make_task` as one compiled program, which later calls with equal settings use again."""
    return _compiled_task(key, settings, images, tuple(sorted((named_targets or {}).items())))


class Eproxy(NamedTuple):
    """Eproxy as a pair of pure functions, from :func:`eproxy`.

    Attributes:
      init: (key, images [B, H, W, 3]) -> task: targets, barriers and hyperparameters, shared by all candidates.
      losses: (key, encoded, task) -> [S], the losses of one candidate at each step. ``jax.vmap`` and ``jax.jit``
        accept it.
    """

    init: Callable[[Key[Array, ""] | int, Num[Array | np.ndarray, "B H W 3"]], Task]
    losses: Callable[[Key[Array, ""], Int[Array, " ..."], Task], Float[Array, " S"]]


def eproxy(
    group: spaces.Group,
    settings: ProxySettings | None = None,
    targets: Mapping[str, TargetFn] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    dtype: Any = jnp.float32,
) -> Eproxy:
    """Build Eproxy as a pair of pure functions of one candidate.

    Args:
      group: architectures that share a program, ``space.group(arch)``.
      settings: defaults to plain Eproxy.
      targets: features of your own by name: functions (key, images, channels) -> [B, 8, 8, channels].
      optimizer: an optax transformation that replaces the settings' SGD.
      dtype: dtype of parameters and images.

    Returns:
      ``init`` and ``losses``, see :class:`Eproxy`.

    Raises:
      ValueError: the settings name a feature that is neither built in nor among ``targets``; bad images, in ``init``.

    Example:
      >>> from eproxy_jax.images import default_images
      >>> space = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
      >>> arch = space.parse([[3], [0, 3], [1, 0, 3]])
      >>> settings = ProxySettings.from_dict({"branches": [{"features": ["dot"], "transform_channels": 4}]})
      >>> init, losses = eproxy(space.group(arch), settings)
      >>> task = init(0, default_images(num=2, size=8))
      >>> encoded = jnp.asarray(space.group(arch).encode([arch])[0])
      >>> jax.eval_shape(losses, jax.random.key(1), encoded, task).shape  # or jax.jit(losses)(...)
      (10,)
    """
    settings = ProxySettings() if settings is None else settings
    check_features(settings, targets)
    training, backbone = Training(ProxySpec.of(settings), optimizer), group.universal(dtype)

    def init(key: Key[Array, ""] | int, images: Num[Array | np.ndarray, "B H W 3"]) -> Task:
        images = jnp.asarray(standardize(images), dtype)
        return compiled_task(typed_key(key), settings, images, targets), ProxyHyper.of(settings, dtype)

    def losses(key: Key[Array, ""], encoded: Int[Array, " ..."], task: Task) -> Float[Array, " S"]:
        return training(backbone, key, encoded, task)

    return Eproxy(init, losses)


def typed_key(key: Array | int) -> Array:
    """Return a typed key from an integer seed; a typed key stays as it is.

    Raises:
      ValueError: neither, or a seed below 0 or above 2 ** 32 - 1.
    """
    return key if _is_typed_key(key) else jax.random.key(_checked_seed(key))


def key_identity(key: Array | int) -> int | list[int]:
    """Return a key as plain data, for the record of a run: the integer seed, or the data of a typed key."""
    return jax.random.key_data(key).tolist() if _is_typed_key(key) else _checked_seed(key)


def _is_typed_key(key: Any) -> TypeGuard[Array]:
    return hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def _checked_seed(key: Any) -> int:
    if hasattr(key, "shape") and not isinstance(key, np.integer):
        raise ValueError(f"key: expected an integer seed or a typed key, jax.random.key(seed), got {quoted(key)}")
    return check_seed(key, "key")


# --- the score -----------------------------------------------------------------------------------------------


def blend_macs(loss: Any, alpha: Any, fraction: Any) -> Any:
    """Return the score -(L (1 - alpha MACs / MACs_max)), higher is better, for arrays of NumPy or JAX.

    A fraction above 1 counts as 1: otherwise the factor could become negative, and the largest loss would rank first.

    Source: docs/method.md, step 8.

    Args:
      loss: final losses.
      alpha: share of the MACs; broadcasts with ``loss``.
      fraction: array, effective MACs over the space's largest; broadcasts with ``loss``.
    """
    return -(loss * (1 - alpha * fraction.clip(0, 1)))


def scores(loss: np.ndarray, fraction: np.ndarray | float, alpha: float) -> np.ndarray:
    """Apply :func:`blend_macs` to a list of architectures; the score is ``-inf`` if L is not finite.

    Args:
      loss: [A] final losses.
      fraction: [A], MACs of the canonical forms over the space's largest; any value if ``alpha`` is 0.
      alpha: share of the MACs.

    Returns:
      [A] float64.
    """
    loss = np.asarray(loss, np.float64)
    return np.where(np.isfinite(loss), blend_macs(loss, alpha, np.asarray(fraction, np.float64)), -np.inf)
