"""This module turns settings into data: one compiled program trains a candidate under any genome of a gene table.

Branches, kernels and channels change shapes. So every branch owns weights of the largest shape, and ``lax.switch``
chooses the computation. It chooses kernel sizes exactly. It rounds channels up to one of at most three widths, the
*tiers*, so that a narrow pointwise barrier does not cost as much as a wide 7x7 one. Unused channels are zero and stay
zero. The index belongs to the setting, which all candidates share, so the switch remains one under ``vmap``.

A branch ends in its loss, a scalar. So one switch gives the loss and its gradients at once, and no wide array passes
through it.

Source: docs/method.md, "Settings as data".
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax import proxy, targets
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.nn import choice, convolution, initializers, layers, norms, resizing
from eproxy_jax.spaces.flax_family import explain_errors
from eproxy_jax.types import FEATURES, TARGET_SIZE, ProxySettings

MAX_TIERS = 3
# Tags of the task's draws; proxy.py uses tags 0 to 2.
_TAG_MAPS, _TAG_BARRIERS = 3, 4


def choose_tiers(choices: Sequence[int], count: int = MAX_TIERS) -> tuple[int, ...]:
    """Choose the sizes to compile, so that rounding the choices up to them adds the least.

    Args:
      choices: the sizes of a gene.
      count: largest number of sizes to compile.

    Returns:
      The sizes, ascending; the last one is the largest choice.

    Example:
      >>> choose_tiers((16, 32, 64, 128, 256, 512))
      (64, 256, 512)
    """
    choices = sorted(set(choices))

    def total(tiers: tuple[int, ...]) -> int:
        return sum(min(tier for tier in tiers if tier >= size) for size in choices)

    rest = choices[:-1]
    tried = (
        (*inner, choices[-1]) for n in range(min(count, len(choices))) for inner in itertools.combinations(rest, n)
    )
    return min(tried, key=total)


@dataclasses.dataclass(frozen=True)
class TierSpec:
    """The static part of a gene table: the shapes to compile.

    Attributes:
      branches: L.
      transform_kernels: compiled kernel sizes of the transform.
      barrier_kernels: compiled kernel sizes of the barrier.
      transform_tiers: compiled input channels of the barrier, ascending.
      target_tiers: compiled output channels of the barrier, ascending.
    """

    branches: int
    transform_kernels: tuple[int, ...]
    barrier_kernels: tuple[int, ...]
    transform_tiers: tuple[int, ...]
    target_tiers: tuple[int, ...]

    @classmethod
    def of(cls, table: GeneTable) -> TierSpec:
        """Choose the tiers of a gene table."""
        return cls(
            table.max_branches,
            tuple(sorted(table.transform_kernel)),
            tuple(sorted(table.barrier_kernel)),
            choose_tiers(table.transform_channels),
            choose_tiers(table.target_channels),
        )

    @property
    def barrier_variants(self) -> tuple[tuple[int, int], ...]:
        """(kernel, output channels) of each barrier; every tier of input channels has all of these."""
        return tuple(itertools.product(self.barrier_kernels, self.target_tiers))


@flax.struct.dataclass
class BranchData:
    """One branch of a setting as data; all fields are scalars except ``features``.

    Attributes:
      features: [F], ``level`` for features in use, else 0.
      tier: index into ``(off, *TierSpec.transform_tiers)``; off if the branch is not in use.
      transform: index into ``TierSpec.transform_kernels``.
      transform_area: k_h * k_h.
      transform_channels: channels in use.
      barrier: index into ``TierSpec.barrier_variants``.
      barrier_area: k_b * k_b.
      target_channels: channels in use.
    """

    features: Array
    tier: Array
    transform: Array
    transform_area: Array
    transform_channels: Array
    barrier: Array
    barrier_area: Array
    target_channels: Array


@flax.struct.dataclass
class SettingData:
    """A setting as data.

    Attributes:
      hyper: learning rate and initialiser of the network.
      barrier_init: index into ``initializers.INITS``.
      branches: length L.
    """

    hyper: proxy.ProxyHyper
    barrier_init: Array
    branches: tuple[BranchData, ...]


def setting_data(table: GeneTable, genes: Array, dtype: Any = jnp.float32) -> SettingData:
    """Turn a genome into data.

    Args:
      table: the gene table.
      genes: int32 [G]; may be traced.
      dtype: dtype of the values that are no indices.

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
        transform_channels, target_channels = value("transform_channels"), value("target_channels")
        barrier = position(spec.barrier_kernels, value("barrier_kernel")) * len(spec.target_tiers)
        on = jnp.stack([value(feature) for feature in FEATURES]).astype(dtype)
        branches.append(
            BranchData(
                features=on * value("level").astype(dtype),
                tier=jnp.where(number < used, 1 + tier(spec.transform_tiers, transform_channels), 0),
                transform=position(spec.transform_kernels, value("transform_kernel")),
                transform_area=value("transform_kernel").astype(dtype) ** 2,
                transform_channels=transform_channels,
                barrier=barrier + tier(spec.target_tiers, target_channels),
                barrier_area=value("barrier_kernel").astype(dtype) ** 2,
                target_channels=target_channels,
            )
        )
    hyper = proxy.ProxyHyper(
        lr=table.values(genes, "lr").astype(dtype),
        momentum=jnp.asarray(defaults.momentum, dtype),
        weight_decay=jnp.asarray(defaults.weight_decay, dtype),
        network_init=table.values(genes, "network_init"),
    )
    return SettingData(hyper, table.values(genes, "barrier_init"), tuple(branches))


@flax.struct.dataclass
class TieredTask:
    """The data that all settings and candidates share: every feature, and unit draws of every barrier.

    Attributes:
      images: [B, H, W, 3], standardised.
      maps: [L, F, B, 8, 8, C], every feature with the largest number of channels.
      uniform: [L, k, k, C_in, C_out], unit draws of the barrier kernels on [-1, 1).
      normal: [L, k, k, C_in, C_out], standard normal draws of the barrier kernels.
      bias: [L, C_out], unit draws on [-1, 1).
    """

    images: Array
    maps: Array
    uniform: Array
    normal: Array
    bias: Array


def make_task(key: Array, spec: TierSpec, images: Array) -> TieredTask:
    """Draw the features and barriers that settings choose from.

    A setting with fewer channels takes the first ones, so that all settings use common random numbers.

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
        uniform.append(initializers.draw(jax.random.uniform, keys[0], shape, images.dtype, -1, 1))
        normal.append(initializers.draw(jax.random.normal, keys[1], shape, images.dtype))
        bias.append(jax.random.uniform(keys[2], (channels,), images.dtype, -1, 1))
    return TieredTask(images, jnp.stack(maps), jnp.stack(uniform), jnp.stack(normal), jnp.stack(bias))


def rounded(table: GeneTable, genes: Any) -> ProxySettings:
    """Return the settings that run for a genome: its channels rounded up to tiers.

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


# --- a switch that gives a scalar and its gradient at once ---------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def switch_scalar(branches: tuple[Callable[[Any, Any], Array], ...], index: Array, x: Any, data: Any) -> Array:
    """Return ``branches[index](x, data)``, a scalar; the same switch computes its gradient.

    If the backward pass were another switch, it would need the residuals of all branches. A branch that ends in a
    scalar knows its gradients when it ends, so no wide array passes from one switch to another.

    Args:
      branches: functions (x, data) -> scalar.
      index: integer scalar.
      x: a pytree of arrays with a gradient.
      data: a pytree of arrays without a gradient.
    """
    return lax.switch(index, branches, x, data)


switch_scalar.defvjp(
    lambda branches, index, x, data: lax.switch(index, [jax.value_and_grad(branch) for branch in branches], x, data),
    lambda branches, grads, grad: (None, jax.tree.map(lambda own: grad * own, grads), None),
)


# --- barrier -------------------------------------------------------------------------------------------------


def _barrier_error(kernel_size: int, outputs: int, h: Array, data: Any) -> Array:
    """Return the mean squared error behind the barrier at one tier, without the unused channels of ``h``."""
    used_in = (jnp.arange(h.shape[-1]) < data["transform_channels"]).astype(h.dtype)
    unit = convolution.kernel_centre(data["unit"], kernel_size)[..., : h.shape[-1], :outputs]
    out = convolution.frozen_conv2d(h * norms.per_channel(used_in), unit)
    out = out * data["scale"] + norms.per_channel(data["bias"][:outputs])
    used = (jnp.arange(outputs) < data["target_channels"]).astype(h.dtype)
    error = (out - data["target"][..., :outputs]) * norms.per_channel(used)
    return jnp.sum(error * error) / (h.shape[0] * h.shape[1] * h.shape[2] * data["target_channels"])


def barrier_data(task: TieredTask, setting: SettingData, number: int) -> dict[str, Array]:
    """Return the data of one branch's barrier: unit draws and their scale, bias, target, sizes."""
    branch, init, dtype = setting.branches[number], setting.barrier_init, task.images.dtype
    fan_in = branch.barrier_area * branch.transform_channels
    return {
        "variant": branch.barrier,
        "unit": jnp.where(initializers.is_normal(init), task.normal[number], task.uniform[number]),
        "scale": initializers.unit_scale(
            (1, 1, branch.transform_channels, 1), dtype, init, branch.barrier_area, branch.target_channels
        ),
        "bias": initializers.scaled_bias(task.bias[number], fan_in, init),
        "target": jnp.tensordot(branch.features, task.maps[number], 1),
        "transform_channels": branch.transform_channels,
        "target_channels": branch.target_channels,
    }


# --- head: transform and barrier -----------------------------------------------------------------------------


def _off(x: Any, data: Any) -> Array:
    """Return 0, the loss of a branch that is not in use."""
    del data
    return jnp.zeros((), x[0].dtype)


def _head_error(spec: TierSpec, widths: tuple[int, ...], channels: int, x: Any, data: Any) -> Array:
    """Return the mean squared error of one branch at one tier of transform channels."""
    tap, weights = x
    conv_ops = tuple(choice.narrow_conv_op(width, size) for size in spec.transform_kernels for width in widths)
    index = data["transform"] * len(widths) + data["level"]
    z: Any = choice.switch_op(conv_ops, index, tap, {"kernel": weights["kernel"][..., :channels]})
    z = norms.normalize(nn.relu(z + norms.per_channel(weights["bias"][:channels])))
    h = norms.affine(z, weights["scale"][:channels], weights["offset"][:channels])
    barriers = tuple(functools.partial(_barrier_error, *variant) for variant in spec.barrier_variants)
    return switch_scalar(barriers, data["barrier"]["variant"], h, data["barrier"])


def head_loss(spec: TierSpec, widths: tuple[int, ...], tap: Array, weights: Any, data: Any) -> Array:
    """Return the mean squared error of one branch, with transform and frozen barrier layer; sizes are data.

    Args:
      spec: the tiers.
      widths: possible numbers of used channels of ``tap``.
      tap: [B, 8, 8, C], the resized feature tap.
      weights: "kernel" [k, k, C, largest tier], "bias", "scale", "offset" [largest tier].
      data: "tier" and "transform" as in ``BranchData``, "level" an index into ``widths``, "barrier" the result of
        :func:`barrier_data`. It has no gradient.

    Returns:
      Scalar; 0 for a branch not in use.
    """
    heads = tuple(functools.partial(_head_error, spec, widths, channels) for channels in spec.transform_tiers)
    return switch_scalar((_off, *heads), data["tier"], (tap, weights), data)


class TieredHead(nn.Module):
    """The trained transform of a branch and its frozen barrier; all sizes are data. See :class:`proxy.Transform`.

    Attributes:
      spec: the tiers.
      dtype: dtype of the parameters.
    """

    spec: TierSpec
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tap: Array | layers.PaddedTap, branch: BranchData, barrier: dict[str, Array], init: Array | int = 0
    ) -> Array:
        """Map [B, H, W, C] to the mean squared error, a scalar; 0 if the branch is not in use."""
        if isinstance(tap, layers.PaddedTap):
            x, widths, level, inputs = tap.features, tap.widths, tap.level, tap.channels.astype(self.dtype)
        else:
            x = resizing.resize_nearest(tap, TARGET_SIZE)
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
        data = {"tier": branch.tier, "transform": branch.transform, "level": level, "barrier": barrier}
        return head_loss(self.spec, widths, x, weights, data)


class TieredNetwork(nn.Module):
    """The backbone, and a head for each of the L branches of a gene table.

    Attributes:
      backbone: a module ``(images, encoded, init) -> taps``, last stage first.
      spec: the tiers.
      dtype: dtype of the parameters.
    """

    backbone: nn.Module
    spec: TierSpec
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Array, encoded: Array, setting: SettingData, barriers: Sequence[dict[str, Array]]
    ) -> Array:
        """Return the mean squared error of each branch, [L]; ``barriers`` has the :func:`barrier_data` of each.

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
        errors = [
            TieredHead(self.spec, self.dtype, name=f"transform{number}")(tap, branch, barrier, init)
            for number, (branch, barrier, tap) in enumerate(zip(setting.branches, barriers, taps, strict=False))
        ]
        return jnp.stack(errors)


@flax.struct.dataclass
class SettingTask:
    """The data that all candidates of one setting share, computed once per setting.

    Attributes:
      images: [B, H, W, 3], standardised.
      setting: the setting as data.
      barriers: :func:`barrier_data` of each branch.
    """

    images: Array
    setting: SettingData
    barriers: tuple[dict[str, Array], ...]


def setting_task(table: GeneTable, task: TieredTask, genes: Array) -> SettingTask:
    """Make the task of one setting.

    Args:
      table: the gene table that ``genes`` index.
      task: the data that all settings share.
      genes: int32 [G]; may be traced.

    Returns:
      A ``SettingTask``.
    """
    setting = setting_data(table, genes, task.images.dtype)
    barriers = tuple(barrier_data(task, setting, number) for number in range(len(setting.branches)))
    return SettingTask(task.images, setting, barriers)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """The training of one candidate under one setting, as a hashable function of its arrays.

    Attributes:
      network: a :class:`TieredNetwork`.
      num_steps: S.
    """

    network: TieredNetwork
    num_steps: int

    @classmethod
    def of(cls, group: Any, table: GeneTable, num_steps: int = 10, dtype: Any = jnp.float32) -> Candidate:
        """Make the training for a group of architectures under any setting of a gene table."""
        return cls(TieredNetwork(group.universal(dtype), TierSpec.of(table), dtype), num_steps)

    def __call__(self, key: Array, encoded: Array, task: SettingTask) -> Array:
        """Initialise one candidate from its own key and train it; returns losses [S]. Consumes the key."""
        with explain_errors(self.network.backbone):
            return self._losses(key, encoded, task)

    def _losses(self, key: Array, encoded: Array, task: SettingTask) -> Array:
        arguments = task.images, encoded, task.setting, task.barriers
        params = self.network.init(key, *arguments)["params"]

        def loss(params: Any) -> tuple[Array, Array]:
            errors: Any = self.network.apply({"params": params}, *arguments)
            return jnp.sum(errors), proxy.final_loss(errors)

        return proxy.sgd_losses(loss, params, self.num_steps, proxy.sgd(task.setting.hyper))
