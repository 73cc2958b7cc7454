"""Eproxy whose settings are data: one compiled program trains a candidate under any genome of a gene table.

Branches, kernels and channels change shapes. Here every branch owns weights of the largest shape, and a branch of the
program is chosen by ``lax.switch`` among a few tiers: kernels exactly, channels rounded up to the next of at most three
sizes, so that a narrow pointwise barrier does not pay for a wide 7x7 one. Channels above those in use are zero and stay
zero. The index is a setting's, shared by all candidates, so the switch stays one under ``vmap`` over candidates.

The barrier is linear and its loss a scalar, so one switch gives the loss and its gradient at once.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax import initializers, layers, ops, proxy, targets
from eproxy_jax.genes import GeneTable
from eproxy_jax.types import FEATURES, TARGET_SIZE, ProxySettings

MAX_TIERS = 3
# Tags of the task's draws; proxy.py has tags 0 to 2 for its own.
_TAG_MAPS, _TAG_BARRIERS = 3, 4


def choose_tiers(choices: Sequence[int], count: int = MAX_TIERS) -> tuple[int, ...]:
    """Which sizes to compile, such that rounding the choices up to them adds least.

    Args:
      choices: sizes that may be asked for.
      count: how many to compile at most.

    Returns:
      Ascending; the last one is the largest choice.

    Example:
      >>> choose_tiers((16, 32, 64, 128, 256, 512))
      (64, 256, 512)
    """
    choices = sorted(set(choices))

    def total(tiers: tuple[int, ...]) -> int:
        return sum(min(t for t in tiers if t >= choice) for choice in choices)

    rest = choices[:-1]
    tried = (
        (*inner, choices[-1]) for n in range(min(count, len(choices))) for inner in itertools.combinations(rest, n)
    )
    return min(tried, key=total)


@dataclasses.dataclass(frozen=True)
class TierSpec:
    """The static side of a gene table: what is compiled.

    Attributes:
      branches: L.
      transform_kernels: sizes compiled.
      barrier_kernels: sizes compiled.
      transform_tiers: channels in front of the barrier, ascending.
      target_tiers: channels behind it, ascending.
    """

    branches: int
    transform_kernels: tuple[int, ...]
    barrier_kernels: tuple[int, ...]
    transform_tiers: tuple[int, ...]
    target_tiers: tuple[int, ...]

    @classmethod
    def of(cls, table: GeneTable) -> TierSpec:
        """The tiers of a gene table."""
        return cls(
            table.max_branches,
            tuple(sorted(table.transform_kernel)),
            tuple(sorted(table.barrier_kernel)),
            choose_tiers(table.transform_channels),
            choose_tiers(table.target_channels),
        )

    @property
    def transform_variants(self) -> tuple[tuple[int, int], ...]:
        """(kernel, channels) of each compiled transform."""
        return tuple(itertools.product(self.transform_kernels, self.transform_tiers))

    @property
    def barrier_variants(self) -> tuple[tuple[int, int, int], ...]:
        """(kernel, channels in, channels out) of each compiled barrier."""
        return tuple(itertools.product(self.barrier_kernels, self.transform_tiers, self.target_tiers))


@flax.struct.dataclass
class BranchData:
    """One branch of a setting, as data; all scalars but the weights of the features.

    Attributes:
      features: [F], ``level`` for features in use, else 0.
      transform: index into ``(off, *TierSpec.transform_variants)``.
      transform_area: k_h * k_h.
      transform_channels: channels in use.
      barrier: index into ``(off, *TierSpec.barrier_variants)``.
      barrier_area: k_b * k_b.
      target_channels: channels in use.
      active: whether the branch is used at all.
    """

    features: Array
    transform: Array
    transform_area: Array
    transform_channels: Array
    barrier: Array
    barrier_area: Array
    target_channels: Array
    active: Array


@flax.struct.dataclass
class SettingData:
    """A setting as data.

    Attributes:
      hyper: learning rate and initialiser of the network.
      barrier_init: index into ``initializers.INITS``.
      alpha: the MACs blend, which no training sees.
      branches: length L.
    """

    hyper: proxy.ProxyHyper
    barrier_init: Array
    alpha: Array
    branches: tuple[BranchData, ...]


def setting_data(table: GeneTable, genes: Array, dtype: Any = jnp.float32) -> SettingData:
    """A genome as data.

    Args:
      table: the gene table.
      genes: int32 [G]; may be traced.
      dtype: dtype of what is not an index.

    Returns:
      A ``SettingData``.
    """
    spec, defaults = TierSpec.of(table), ProxySettings()
    used = table.values(genes, "branches")

    def tier(tiers: tuple[int, ...], channels: Array) -> Array:
        return jnp.sum(channels > jnp.asarray(tiers))

    def position(kernels: tuple[int, ...], size: Array) -> Array:
        return jnp.argmax(jnp.asarray(kernels) == size)

    branches = []
    for number in range(spec.branches):
        value = functools.partial(table.values, genes, branch=number)
        active = number < used
        transform_channels, target_channels = value("transform_channels"), value("target_channels")
        low = tier(spec.transform_tiers, transform_channels)
        transform = position(spec.transform_kernels, value("transform_kernel")) * len(spec.transform_tiers) + low
        barrier = position(spec.barrier_kernels, value("barrier_kernel")) * len(spec.transform_tiers) + low
        barrier = barrier * len(spec.target_tiers) + tier(spec.target_tiers, target_channels)
        on = jnp.stack([value(feature) for feature in FEATURES]).astype(dtype)
        branches.append(
            BranchData(
                features=on * value("level").astype(dtype),
                transform=jnp.where(active, 1 + transform, 0),
                transform_area=value("transform_kernel").astype(dtype) ** 2,
                transform_channels=transform_channels,
                barrier=jnp.where(active, 1 + barrier, 0),
                barrier_area=value("barrier_kernel").astype(dtype) ** 2,
                target_channels=target_channels,
                active=active,
            )
        )
    hyper = proxy.ProxyHyper(
        lr=table.values(genes, "lr").astype(dtype),
        momentum=jnp.asarray(defaults.momentum, dtype),
        weight_decay=jnp.asarray(defaults.weight_decay, dtype),
        network_init=table.values(genes, "network_init"),
    )
    barrier_init, alpha = table.values(genes, "barrier_init"), table.values(genes, "alpha").astype(dtype)
    return SettingData(hyper, barrier_init, alpha, tuple(branches))


@flax.struct.dataclass
class TieredTask:
    """What all settings and candidates share: every feature, and unit draws of every barrier.

    Attributes:
      images: [B, H, W, 3], standardised.
      maps: [L, F, B, 8, 8, C], every feature at the most channels.
      uniform: [L, k, k, C_in, C_out], unit draws of the barrier kernels on [-1, 1).
      normal: the same, standard normal.
      bias: [L, C_out], unit draws on [-1, 1).
    """

    images: Array
    maps: Array
    uniform: Array
    normal: Array
    bias: Array


def make_task(key: Array, spec: TierSpec, images: Array) -> TieredTask:
    """Draw the features and barriers that settings choose from.

    A setting with fewer channels takes the first ones, so that settings are compared on common random numbers.

    Args:
      key: typed key; consumed.
      spec: the tiers.
      images: [B, H, W, 3], standardised.

    Returns:
      A ``TieredTask``.
    """
    channels, size = spec.target_tiers[-1], spec.barrier_kernels[-1]
    shape = (size, size, spec.transform_tiers[-1], channels)
    maps, uniform, normal, bias = [], [], [], []
    for branch in range(spec.branches):
        map_key = jax.random.fold_in(jax.random.fold_in(key, _TAG_MAPS), branch)
        maps.append(jnp.stack([targets.feature_map(map_key, feature, images, channels) for feature in FEATURES]))
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, _TAG_BARRIERS), branch), 3)
        uniform.append(jax.random.uniform(keys[0], shape, images.dtype, -1, 1))
        normal.append(jax.random.normal(keys[1], shape, images.dtype))
        bias.append(jax.random.uniform(keys[2], (channels,), images.dtype, -1, 1))
    return TieredTask(images, jnp.stack(maps), jnp.stack(uniform), jnp.stack(normal), jnp.stack(bias))


def rounded(table: GeneTable, genes: Any) -> ProxySettings:
    """The settings that are executed for a genome: its channels rounded up to tiers.

    Args:
      table: the gene table.
      genes: [G], concrete.
    """
    spec, settings = TierSpec.of(table), table.decode(genes)
    branches = tuple(
        dataclasses.replace(
            branch,
            transform_channels=min(tier for tier in spec.transform_tiers if tier >= branch.transform_channels),
            target_channels=min(tier for tier in spec.target_tiers if tier >= branch.target_channels),
        )
        for branch in settings.branches
    )
    return dataclasses.replace(settings, branches=branches)


# --- transform -----------------------------------------------------------------------------------------------


def _pad_last(x: Array, channels: int) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])])


def _uncentre(kernel: Array, size: int) -> Array:
    margin = (size - kernel.shape[0]) // 2
    return jnp.pad(kernel, ((margin, margin), (margin, margin), (0, 0), (0, 0)))


def _transform_op(kernel_size: int, channels: int, most: int, inputs: int) -> ops.Op:
    """Conv, bias, ReLU and batch norm at one tier, padded to ``most`` channels; reads the first ``inputs`` channels.

    Weights: "kernel" [k, k, C_in, most], "bias", "scale", "offset" [most]. Residual: (normalised, reciprocal
    deviation, where ReLU let through).
    """

    def narrow(weights: Any) -> dict[str, Array]:
        return {
            "kernel": ops.kernel_centre(weights["kernel"], kernel_size)[..., :inputs, :channels],
            **{name: weights[name][:channels] for name in ("bias", "scale", "offset")},
        }

    def forward(x: Array, weights: Any):
        own = narrow(weights)
        z: Any = ops.conv2d(x[..., :inputs], own["kernel"])
        z = z + ops.per_channel(own["bias"])
        normalized, rstd = ops.standardize(nn.relu(z))
        y = normalized * ops.per_channel(own["scale"]) + ops.per_channel(own["offset"])
        return _pad_last(y, most), (_pad_last(normalized, most), _pad_last(rstd, most), _pad_last(z > 0, most))

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        own = narrow(weights)
        normalized, rstd, passed = (r[..., :channels] for r in residual)
        grad = grad[..., :channels]
        grads = {"scale": jnp.sum(grad * normalized, (0, 1, 2)), "offset": jnp.sum(grad, (0, 1, 2))}
        grad = ops.normalize_gradient(grad * ops.per_channel(own["scale"]), normalized, rstd) * passed
        grads["bias"] = jnp.sum(grad, (0, 1, 2))
        _, pull = jax.vjp(ops.conv2d, x[..., :inputs], own["kernel"])
        grad_x, grad_kernel = pull(grad)
        grad_kernel = jnp.pad(grad_kernel, ((0, 0), (0, 0), (0, x.shape[-1] - inputs), (0, 0)))
        grads["kernel"] = _uncentre(grad_kernel, weights["kernel"].shape[0])
        return _pad_last(grad_x, x.shape[-1]), {name: _pad_last(value, most) for name, value in grads.items()}

    return ops.Op(forward, backward)


def _off_op(most: int) -> ops.Op:
    """A branch that is not in use."""

    def forward(x: Array, weights: Any):
        y = jnp.zeros((*x.shape[:3], most), x.dtype)
        return y, (y, jnp.zeros((most,), x.dtype), jnp.zeros(y.shape, bool))

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        return jnp.zeros_like(x), jax.tree.map(jnp.zeros_like, weights)

    return ops.Op(forward, backward)


class TieredTransform(nn.Module):
    """The trained transform of a branch, its sizes being data; see :class:`proxy.Transform`.

    Attributes:
      spec: the tiers.
      dtype: dtype of the parameters.
    """

    spec: TierSpec
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tap: Array | layers.PaddedTap, branch: BranchData, init: Array | int = 0) -> Array:
        """[B, H, W, C] -> [B, 8, 8, largest tier], zero in channels that are not in use."""
        if isinstance(tap, layers.PaddedTap):
            x, widths, level, inputs = tap.features, tap.widths, tap.level, tap.channels.astype(self.dtype)
        else:
            x = ops.resize_nearest(tap, TARGET_SIZE)
            widths, level, inputs = x.shape[-1:], 0, jnp.asarray(x.shape[-1], self.dtype)
        size, most = self.spec.transform_kernels[-1], self.spec.transform_tiers[-1]
        used = (jnp.arange(most) < branch.transform_channels).astype(self.dtype)

        def kernel_init(key: Array) -> Array:
            shape, area = (size, size, x.shape[-1], most), branch.transform_area
            kernel = initializers.conv_kernel(key, shape, self.dtype, init, area, branch.transform_channels, inputs)
            radius = jnp.abs(jnp.arange(size) - size // 2)
            inside = (2 * jnp.maximum(radius[:, None], radius[None, :]) + 1) ** 2 <= branch.transform_area
            return kernel * inside[:, :, None, None] * used[None, None, None, :]

        def bias_init(key: Array) -> Array:
            fan_in = branch.transform_area * inputs
            return initializers.conv_bias(key, (most,), self.dtype, fan_in, init) * used

        weights = {
            "kernel": self.param("kernel", kernel_init),
            "bias": self.param("bias", bias_init),
            "scale": self.param("scale", nn.initializers.ones, (most,), self.dtype),
            "offset": self.param("offset", nn.initializers.zeros, (most,), self.dtype),
        }
        variants = [
            _transform_op(kernel, channels, most, width)
            for kernel, channels in self.spec.transform_variants
            for width in widths
        ]
        index = jnp.where(branch.transform > 0, 1 + (branch.transform - 1) * len(widths) + level, 0)
        return ops.switch_op((_off_op(most), *variants), index, x, weights)


class TieredNetwork(nn.Module):
    """Backbone and transforms of every branch that a gene table can ask for.

    Attributes:
      backbone: a module ``(images, encoded, init) -> taps``, last stage first.
      spec: the tiers.
      dtype: dtype of the parameters.
    """

    backbone: nn.Module
    spec: TierSpec
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, encoded: Array, setting: SettingData) -> tuple[Array, ...]:
        """Transformed features of each branch, [B, 8, 8, largest tier].

        Raises:
          ValueError: more branches than the backbone has feature taps.
        """
        init = setting.hyper.network_init
        taps = self.backbone(images, encoded, init)
        if self.spec.branches > len(taps):
            raise ValueError(
                f"genes ask for up to {self.spec.branches} branches, but the backbone has {len(taps)} feature taps: "
                f"narrow the gene 'branches'"
            )
        return tuple(
            TieredTransform(self.spec, self.dtype, name=f"transform{number}")(tap, branch, init)
            for number, (branch, tap) in enumerate(zip(setting.branches, taps, strict=False))
        )


# --- barrier -------------------------------------------------------------------------------------------------


def _barrier_loss(kernel_size: int, channels: int, outputs: int, with_gradient: bool, h: Array, data: Any):
    """Mean squared error behind the barrier at one tier, and its gradient with respect to ``h``."""
    unit = jnp.where(initializers.is_normal(data["init"]), data["normal"], data["uniform"])
    unit = ops.kernel_centre(unit, kernel_size)[..., :channels, :outputs]
    out = ops.frozen_conv2d(h[..., :channels], unit) * data["scale"] + ops.per_channel(data["bias"][:outputs])
    used = (jnp.arange(outputs) < data["target_channels"]).astype(h.dtype)
    count = h.shape[0] * h.shape[1] * h.shape[2] * data["target_channels"]
    error = (out - data["target"][..., :outputs]) * ops.per_channel(used)
    loss = jnp.sum(error * error) / count
    if not with_gradient:
        return loss
    used_in = (jnp.arange(channels) < data["transform_channels"]).astype(h.dtype)
    _, pull = jax.vjp(lambda h: ops.frozen_conv2d(h, unit), h[..., :channels])
    grad = pull(error * (2 * data["scale"] / count))[0] * ops.per_channel(used_in)
    return loss, _pad_last(grad, h.shape[-1])


def _switch_barrier(spec: TierSpec, with_gradient: bool, h: Array, data: Any):
    def off(h: Array, data: Any):
        loss = jnp.zeros((), h.dtype)
        return (loss, jnp.zeros_like(h)) if with_gradient else loss

    variants = [functools.partial(_barrier_loss, *variant, with_gradient) for variant in spec.barrier_variants]
    return lax.switch(data["index"], [off, *variants], h, data)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def barrier_loss(spec: TierSpec, h: Array, data: Any) -> Array:
    """Mean squared error of one branch behind its frozen barrier layer, sizes being data.

    Args:
      spec: the tiers.
      h: [B, 8, 8, largest tier].
      data: what :func:`barrier_data` gives; has no gradient.

    Returns:
      Scalar; 0 for a branch not in use.
    """
    return _switch_barrier(spec, False, h, data)


barrier_loss.defvjp(
    lambda spec, h, data: _switch_barrier(spec, True, h, data),
    lambda spec, grad_h, grad: (grad * grad_h, None),
)


def barrier_data(task: TieredTask, setting: SettingData, number: int) -> dict[str, Array]:
    """What the barrier of one branch needs, computed once a setting."""
    branch, init, dtype = setting.branches[number], setting.barrier_init, task.images.dtype
    fan_in = branch.barrier_area * branch.transform_channels
    return {
        "index": branch.barrier,
        "init": init,
        "uniform": task.uniform[number],
        "normal": task.normal[number],
        "scale": initializers.unit_scale(
            (1, 1, branch.transform_channels, 1), dtype, init, branch.barrier_area, branch.target_channels
        ),
        "bias": initializers.scaled_bias(task.bias[number], fan_in, init),
        "target": jnp.tensordot(branch.features, task.maps[number], 1),
        "transform_channels": branch.transform_channels,
        "target_channels": branch.target_channels,
    }


def candidate_losses(
    network: TieredNetwork, num_steps: int, key: Array, encoded: Array, task: TieredTask, setting: SettingData
) -> Array:
    """Initialise one candidate from its own key and train it under one setting: losses [S]. The key is consumed."""
    params = network.init(key, task.images, encoded, setting)["params"]
    barriers = [barrier_data(task, setting, number) for number in range(network.spec.branches)]

    def loss(params: Any) -> tuple[Array, Array]:
        hidden = network.apply({"params": params}, task.images, encoded, setting)
        pairs = zip(hidden, barriers, strict=True)
        errors = jnp.stack([barrier_loss(network.spec, h, data) for h, data in pairs])  # pyright: ignore[reportArgumentType]
        return jnp.sum(errors), proxy.final_loss(errors)

    return proxy.sgd_losses(loss, params, num_steps, proxy.sgd(setting.hyper))


@dataclasses.dataclass(frozen=True)
class Candidate:
    """:func:`candidate_losses` as a hashable function of its arrays; the setting is a genome.

    Attributes:
      network: a :class:`TieredNetwork`.
      num_steps: S.
      table: the gene table that genomes index.
    """

    network: TieredNetwork
    num_steps: int
    table: GeneTable

    @classmethod
    def of(cls, group: Any, table: GeneTable, num_steps: int = 10, dtype: Any = jnp.float32) -> Candidate:
        """The candidate of a group of architectures under a gene table."""
        return cls(TieredNetwork(group.universal(dtype), TierSpec.of(table), dtype), num_steps, table)

    def __call__(self, key: Array, encoded: Array, task: TieredTask, genes: Array) -> Array:
        """Losses [S] of one candidate under the setting of one genome [G]; the key is consumed."""
        setting = setting_data(self.table, genes, task.images.dtype)
        return candidate_losses(self.network, self.num_steps, key, encoded, task, setting)
