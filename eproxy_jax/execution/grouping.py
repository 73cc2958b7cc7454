"""This module sorts a list of architectures into the distinct networks of each compiled program."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from eproxy_jax import spaces
from eproxy_jax.execution.execution import Grouping


@dataclasses.dataclass(frozen=True)
class Networks:
    """The distinct networks to run for a list of architectures.

    Attributes:
      archs: the architectures asked for, length A.
      distinct: canonical forms of connected networks, each once, in order of first appearance.
      index: [A], position of each architecture's canonical form in ``distinct``; -1 if the network is disconnected.
    """

    archs: tuple[Any, ...]
    distinct: tuple[Any, ...]
    index: np.ndarray

    @property
    def connected(self) -> np.ndarray:
        """Which networks can depend on the image, [A] boolean: the others are not to be run."""
        return self.index >= 0

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows [D, ...] of the distinct networks in the order of ``archs``, [A, ...].

        Rows of disconnected networks are NaN.

        Raises:
          ValueError: a network is disconnected, and the rows are of a type that has no NaN.
        """
        if self.connected.all():
            return rows[self.index]
        check_has_nan(rows.dtype, int((~self.connected).sum()))
        found = np.full((len(self.archs), *rows.shape[1:]), np.nan, rows.dtype)
        found[self.connected] = rows[self.index[self.connected]]
        return found


def check_has_nan(dtype: Any, count: int) -> None:
    """Check that a type has the NaN which stands for the results of ``count`` disconnected networks.

    Raises:
      ValueError: it has none.
    """
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"{count} of the architectures are disconnected: their output never depends on the image, so their result "
            f"is NaN, which {dtype} lacks: return floats, leave them out (space.is_connected), or run them all the "
            'same (disconnected="run")'
        )


@dataclasses.dataclass(frozen=True)
class GroupInput:
    """The architectures of one group, as its program takes them.

    Attributes:
      group: the group.
      positions: [n], their positions in the list.
      identity: uint32 [n, 2], see ``spaces.arch_identity``.
      encoded: int32 [n, ...].
    """

    group: spaces.Group
    positions: np.ndarray
    identity: np.ndarray
    encoded: np.ndarray

    def since(self, done: int) -> GroupInput:
        """Return the input without its first ``done`` architectures."""
        return GroupInput(self.group, self.positions[done:], self.identity[done:], self.encoded[done:])


def parse_all(archs: Sequence[Any], space: spaces.SearchSpace) -> list[Any]:
    """Parse architectures from any notation that the space reads.

    Raises:
      ValueError: one of them is unreadable; the message holds its position.
    """
    parsed = []
    for position, arch in enumerate(archs):
        try:
            parsed.append(space.parse(arch))
        except ValueError as error:
            raise ValueError(f"archs[{position}]: {error}") from error
    return parsed


def distinct_networks(archs: Sequence[Any], space: spaces.SearchSpace, run_disconnected: bool = False) -> Networks:
    """Bring architectures to canonical form, merge duplicates, and leave out disconnected networks.

    Args:
      archs: architectures of the space, as ``space.parse`` returns them.
      space: the search space.
      run_disconnected: treat disconnected networks as all others.

    Raises:
      ValueError: the list is empty.
    """
    if not archs:
        raise ValueError("no architectures to score: the list is empty")
    position: dict[Any, int] = {}
    index = [
        position.setdefault(space.canonical(arch), len(position))
        if run_disconnected or space.is_connected(arch)
        else -1
        for arch in archs
    ]
    return Networks(tuple(archs), tuple(position), np.asarray(index, np.int64))


def by_group(
    archs: Sequence[Any], space: spaces.SearchSpace, grouping: Grouping = "coarse"
) -> dict[spaces.Group, list[int]]:
    """Group the positions of canonical architectures by compiled program, in order of first appearance."""
    group_of = space.fine_group if grouping == "fine" else space.group
    positions: dict[spaces.Group, list[int]] = {}
    for position, arch in enumerate(archs):
        positions.setdefault(group_of(arch), []).append(position)
    return positions


def group_inputs(archs: Sequence[Any], space: spaces.SearchSpace, grouping: Grouping) -> list[GroupInput]:
    """Group and encode canonical, distinct architectures."""
    found = []
    for group, members in by_group(archs, space, grouping).items():
        own = [archs[i] for i in members]
        identity = np.stack([spaces.arch_identity(space, arch) for arch in own])
        found.append(GroupInput(group, np.asarray(members), identity, group.encode(own)))
    return found
