"""This module turns labelled architectures into arrays and measures how well a setting ranks them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import stats

from eproxy_jax import proxy, ranks, spaces
from eproxy_jax.dps import selection
from eproxy_jax.errors import quoted
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import by_group, distinct_networks

MIN_LABELS = 3  # of which a rank correlation says anything


@flax.struct.dataclass
class Functions:
    """The distinct functions of one group as arrays, padded to a whole number of blocks on every device.

    Attributes:
      identity: uint32 [M, 2].
      encoded: int32 [M, ...].
      valid: [M]; False for padding.
      group: the group.
    """

    identity: Array
    encoded: Array
    valid: Array
    group: spaces.Group = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Labels:
    """The labelled architectures as arrays.

    Attributes:
      functions: their distinct functions, by group.
      position: int32 [A], index of each architecture's function over all groups, padding included.
      truth: [A], ranks of the values, higher is better. They are ranked in float64, before they become float32.
      macs: [A], see ``spaces.macs_fractions``; ``alpha`` blends these in.
      sizes: [2, A], ranks of ``spaces.size_measures``; blends by rank use these.
    """

    functions: tuple[Functions, ...]
    position: Array
    truth: Array
    macs: Array
    sizes: Array


def connected_labels(
    space: spaces.SearchSpace, labelled: Mapping[Any, float], say: Callable[[str], object] = warnings.warn
) -> dict[Any, float]:
    """Leave out labels of disconnected networks, and say so.

    A disconnected network ranks last under every setting and proxy. So its label tells nothing about them.

    Args:
      space: the search space.
      labelled: values by architecture, as ``space.parse`` returns it.
      say: gets one line if labels are left out; a warning by default.

    Raises:
      ValueError: fewer than 3 labels are left.
    """
    kept = {arch: value for arch, value in labelled.items() if space.is_connected(arch)}
    if left_out := len(labelled) - len(kept):
        text = (
            f"{left_out} of the {len(labelled)} labelled architectures are disconnected: their output never depends "
            "on the image, and every proxy ranks them last"
        )
        if len(kept) < MIN_LABELS:
            raise ValueError(f"{text}: a search or fit needs at least {MIN_LABELS} others, got {len(kept)}")
        say(f"{text}; the other {len(kept)} are used")
    return kept


def make_labels(
    space: spaces.SearchSpace, archs: Sequence[Any], truth: Sequence[float], execution: Execution
) -> Labels:
    """Turn labelled architectures into arrays.

    The functions of a group are spread over devices so that all devices finish together.

    Args:
      space: the search space.
      archs: architectures, length A.
      truth: their measured values, higher is better.
      execution: devices and execution form.

    Raises:
      ValueError: fewer than 3 architectures, one of them twice or disconnected, constant or non-finite values.
    """
    values = np.asarray(truth, np.float64)
    if len(archs) != len(values):
        raise ValueError(f"{len(archs)} labelled architectures, but {len(values)} values")
    if len(archs) < MIN_LABELS:
        raise ValueError(f"a search needs at least {MIN_LABELS} labelled architectures, got {len(archs)}")
    if len(set(archs)) < len(archs):
        raise ValueError("a labelled architecture stands twice: give each once")
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        raise ValueError("labels: expected finite values that are not all equal")
    networks = distinct_networks(archs, space)
    if not networks.connected.all():
        first = space.format(archs[int(np.argmin(networks.connected))])
        raise ValueError(f"labelled architecture {quoted(first)} is disconnected: leave it out (connected_labels)")
    macs = spaces.macs_fractions(space, networks.distinct)
    block = len(execution.devices) * (1 if execution.form == "map" else execution.vmap_width)
    functions: list[Functions] = []
    place = np.empty(len(networks.distinct), np.int32)
    before = 0
    for group, members in by_group(networks.distinct, space).items():
        size = -(-len(members) // block) * block
        order = _deal(members, macs, len(execution.devices), size)
        chosen = [networks.distinct[i if i >= 0 else members[-1]] for i in order]  # padding (-1) is not valid
        place[order[order >= 0]] = before + np.flatnonzero(order >= 0)
        before += size
        identity = np.stack([spaces.arch_identity(space, arch) for arch in chosen])
        functions.append(Functions(identity, group.encode(chosen), order >= 0, group))  # pyright: ignore[reportArgumentType]
    return Labels(
        functions=tuple(functions),
        position=place[networks.index],  # pyright: ignore[reportArgumentType]
        truth=stats.rankdata(values).astype(np.float32),  # pyright: ignore[reportArgumentType]
        macs=macs[networks.index].astype(np.float32),  # pyright: ignore[reportArgumentType]
        sizes=stats.rankdata(spaces.size_measures(space, archs), axis=-1).astype(np.float32),  # pyright: ignore[reportArgumentType]
    )


def _deal(members: Sequence[int], macs: np.ndarray, devices: int, size: int) -> np.ndarray:
    """Return the order of a group's members in an array split over devices; padding (-1) comes last on each device."""
    capacity = size // devices
    costs = macs + macs.mean()  # the cost that does not grow with MACs is about as large, on average
    piles: list[list[int]] = [[] for _ in range(devices)]
    for i in sorted(members, key=lambda i: -costs[i]):
        min((pile for pile in piles if len(pile) < capacity), key=lambda pile: costs[pile].sum()).append(i)
    return np.concatenate([pile + [-1] * (capacity - len(pile)) for pile in piles])


def fitness_of(losses: Array, alpha: Array, labels: Labels, blend: str) -> Array:
    """Return Spearman's correlation of a setting's scores with the labels; -inf if a loss is not finite.

    Source: docs/method.md, "Fitness".

    Args:
      losses: [W, A] final losses; with several weight seeds the ranks are averaged.
      alpha: scalar, the setting's share of MACs.
      labels: the labelled architectures.
      blend: one of ``BLENDS``.

    Returns:
      Scalar.
    """

    def mean_rank(scores: Array) -> Array:
        return jnp.mean(jax.vmap(ranks.average_ranks)(scores), axis=0)

    truth = labels.truth.astype(losses.dtype)
    if blend == "alpha":
        scores = proxy.blend_macs(losses, alpha, labels.macs[None, :].astype(losses.dtype))
        fitness = ranks.spearman(mean_rank(scores), truth)
    else:
        by_loss = ranks.standardized(mean_rank(-losses))
        by_size = jax.vmap(lambda size: ranks.standardized(ranks.average_ranks(size)))(labels.sizes)
        shares = jnp.asarray(selection.SHARES, losses.dtype)
        blends = selection.blend_ranks(by_loss[None, :], by_size.astype(losses.dtype), shares)
        fitness = jnp.max(jax.vmap(lambda score: ranks.spearman(score, truth))(blends))
    return jnp.where(jnp.all(jnp.isfinite(losses)), fitness, -jnp.inf)
