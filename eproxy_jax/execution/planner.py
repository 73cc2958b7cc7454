"""This module predicts what a list of architectures costs, before anything is compiled or run.

Architectures -> canonical forms -> distinct functions -> groups that share a program -> padded chunks, with the work
and the memory of each. One code serves every space. Groups state their work in the ``map`` form
(``Group.executed_macs``); in the ``vmap`` form the planner counts it in the traced program.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eproxy_jax import proxy, spaces
from eproxy_jax.execution import flops
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import by_group, distinct_networks
from eproxy_jax.nn import traced_work
from eproxy_jax.types import ProxySettings


@dataclasses.dataclass(frozen=True)
class GroupPlan:
    """The plan of one compiled program.

    Attributes:
      group: the group.
      networks: number of distinct architectures.
      padding: number of empty rows in its blocks.
      flops_needed: floating-point operations that the trainings need.
      flops_executed: floating-point operations that the program executes, padding included.
      bytes_per_device: parameters, optimiser state, gradients and saved activations of one block, predicted.
    """

    group: spaces.Group
    networks: int
    padding: int
    flops_needed: float
    flops_executed: float
    bytes_per_device: int


@dataclasses.dataclass(frozen=True)
class WorkPlan:
    """The plan of a whole list.

    Attributes:
      architectures: length of the list.
      distinct: number of networks to train.
      disconnected: number of architectures whose output never depends on the image: they are not trained.
      groups: one entry for each compiled program.
      execution: devices, form, grouping.
    """

    architectures: int
    distinct: int
    disconnected: int
    groups: tuple[GroupPlan, ...]
    execution: Execution

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON: architectures, distinct, disconnected, programs, flops_needed, ..."""
        needed, executed = (sum(getattr(g, name) for g in self.groups) for name in ("flops_needed", "flops_executed"))
        return {
            "architectures": self.architectures,
            "distinct": self.distinct,
            "disconnected": self.disconnected,
            "programs": len(self.groups),
            "flops_needed": needed,
            "flops_executed": executed,
            "flops_executed_per_needed": round(executed / needed, 4) if needed else 1.0,
            "padding": sum(group.padding for group in self.groups),
            "bytes_per_device": max((group.bytes_per_device for group in self.groups), default=0),
            "chunk_size": self.execution.chunk_size,
            "form": self.execution.label,
            "devices": len(self.execution.devices),
            "groups": [
                {"group": _label(g.group), **{k: v for k, v in vars(g).items() if k != "group"}} for g in self.groups
            ],
        }


def _label(group: Any) -> str:
    """Return the fields that distinguish a group from others of its space, as text."""
    fields = {f.name: getattr(group, f.name) for f in dataclasses.fields(group) if f.name not in ("space", "family")}
    return ", ".join(f"{name}={value}" for name, value in fields.items())


def plan(
    archs: Sequence[Any],
    space: spaces.SearchSpace,
    settings: ProxySettings,
    image_shape: tuple[int, ...],
    execution: Execution,
    progress: Callable[[int, int], None] | None = None,
) -> WorkPlan:
    """Plan the scoring of a list of architectures; compiles and runs nothing.

    Args:
      archs: architectures of the space.
      space: the search space.
      settings: the proxy's settings.
      image_shape: (B, H, W, 3).
      execution: devices, form, grouping.
      progress: called with (networks planned, networks in total) after each.

    Raises:
      ValueError: the list is empty.
    """
    networks = distinct_networks(archs, space)
    distinct = networks.distinct
    planned = itertools.count(1)

    def needed_flops(arch: Any) -> float:
        needed = flops.needed_flops(space, settings, arch, *image_shape[:2])
        if progress is not None:
            progress(next(planned), len(distinct))
        return needed

    groups = [
        _plan_group(group, [distinct[i] for i in members], needed_flops, space, settings, image_shape, execution)
        for group, members in by_group(distinct, space, execution.grouping).items()
    ]
    return WorkPlan(len(archs), len(distinct), int((~networks.connected).sum()), tuple(groups), execution)


def _plan_group(
    group: spaces.Group,
    archs: list[Any],
    needed_flops: Callable[[Any], float],
    space: spaces.SearchSpace,
    settings: ProxySettings,
    image_shape: tuple[int, ...],
    execution: Execution,
) -> GroupPlan:
    batch, size = image_shape[:2]
    needed = sum(map(needed_flops, archs))
    network = proxy.ProxyNetwork(group.universal(), proxy.ProxySpec.of(settings).heads)  # pyright: ignore[reportArgumentType]
    width = 1 if execution.form == "map" else execution.vmap_width
    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    one = jax.ShapeDtypeStruct(group.encode(archs[:1]).shape[1:], jnp.int32)
    params = jax.eval_shape(lambda x, e: network.init(jax.random.key(0), x, e)["params"], images, one)

    def forward(params: Any, images: Any, encoded: Any) -> Any:
        return network.apply({"params": params}, images, encoded)

    if execution.form == "map":
        padding = 0
        extra = sum(group.executed_macs(arch) - space.macs(arch) for arch in archs) * batch * (size / 32) ** 2
        executed = needed + flops.training_flops(extra, 0, settings.num_steps)
    else:
        # Each device gets whole blocks; a block without any network is skipped.
        padding = math.ceil(len(archs) / width) * width - len(archs)
        pair = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), (params, one))
        trained = traced_work.count(jax.vmap(forward, (0, None, 0)), pair[0], images, pair[1]) / 2
        frozen = flops.head_macs(settings, space.tap_channels(archs[0]), batch)[1]
        executed = (len(archs) + padding) * flops.training_flops(trained, frozen, settings.num_steps)
    saved = jax.eval_shape(lambda p, x, e: jax.vjp(lambda p: forward(p, x, e), p)[1], params, images, one)
    # Parameters, momenta and gradients, and the activations that the backward pass reads.
    memory = width * (3 * _bytes(params) + _bytes(saved))
    return GroupPlan(group, len(archs), padding, needed, executed, memory)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
