"""A fitted proxy: settings found by a search, each with its share of MACs, combined by their mean rank.

What ``eproxy dps`` writes and ``eproxy score --settings`` reads. A fitted proxy ranks a list of architectures: its
score is a mean percentile within the list, so unlike a plain score it depends on the other architectures of the list.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from eproxy_jax import selection
from eproxy_jax.types import ProxySettings


@dataclasses.dataclass(frozen=True)
class Member:
    """One setting of a fitted proxy.

    Attributes:
      settings: the setting.
      macs_weight: share of the MACs' ranks, in [-1, 1]; None to blend by the setting's ``alpha`` instead.
    """

    settings: ProxySettings
    macs_weight: float | None = None

    def __post_init__(self):
        weight = self.macs_weight
        ok = weight is None or (isinstance(weight, (int, float)) and not isinstance(weight, bool) and -1 <= weight <= 1)
        if not ok:
            raise ValueError(f"members: macs_weight: expected a number in [-1, 1] or null, got {weight!r}")


@dataclasses.dataclass(frozen=True)
class FittedProxy:
    """Settings that are used together.

    Attributes:
      members: best first.
    """

    members: tuple[Member, ...]

    def __post_init__(self):
        if not self.members:
            raise ValueError("members: expected at least one")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, for JSON."""
        return {
            "members": [{"settings": m.settings.to_dict(), "macs_weight": m.macs_weight} for m in self.members],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FittedProxy:
        """The inverse of :meth:`to_dict`; a dict without ``members`` is one plain setting.

        Raises:
          ValueError: an unknown field or a bad value.
        """
        if "members" not in values:
            return cls((Member(ProxySettings.from_dict(values)),))
        if set(values) != {"members"} or not isinstance(values["members"], list):
            raise ValueError(f"a fitted proxy has one field, 'members', a list; got {sorted(values)}")
        members = []
        for number, member in enumerate(values["members"]):
            if not isinstance(member, dict) or not {"settings"} <= set(member) <= {"settings", "macs_weight"}:
                raise ValueError(f"members[{number}]: expected 'settings' and 'macs_weight', got {member!r}")
            try:
                settings = ProxySettings.from_dict(member["settings"])
                members.append(Member(settings, member.get("macs_weight")))
            except ValueError as error:
                raise ValueError(f"members[{number}]: {error}") from error
        return cls(tuple(members))

    @property
    def is_plain(self) -> bool:
        """Whether it is a single setting whose score needs no ranking."""
        return len(self.members) == 1 and self.members[0].macs_weight is None

    def scores(self, losses: Any, macs: Any) -> np.ndarray:
        """Mean percentile of every architecture over the members.

        Args:
          losses: [K, A] final losses under each member; not finite where a training diverged, which ranks last.
          macs: [A], MACs of the canonical forms over the space's largest.

        Returns:
          [A] in (0, 1], higher is better; ``-inf`` where the training diverged under every member.
        """
        losses = np.asarray(losses, np.float64)
        percentiles = [
            stats.rankdata(member_score(member, row, macs)) / losses.shape[1]
            for member, row in zip(self.members, losses, strict=True)
        ]
        return np.where(np.isfinite(losses).any(0), np.mean(percentiles, axis=0), -np.inf)


def member_score(member: Member, losses: Any, macs: Any) -> np.ndarray:
    """Scores [A] of one member from its final losses [A] and the MACs [A] of canonical forms over the largest."""
    losses = np.asarray(losses, np.float64)
    if member.macs_weight is None:
        return selection.score_matrix(losses[None], macs, [member.settings.alpha])[0, 0]
    blend = selection.rank_blends(losses[None], macs, [member.macs_weight])[0, 0]
    return np.where(np.isfinite(losses), blend, -np.inf)


def fit_weights(losses: Any, macs: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    """The share of MACs with which each setting ranks labelled architectures best.

    Args:
      losses: [P, M] final losses of the labelled architectures.
      macs: [M].
      truth: [M].

    Returns:
      (weights [P], fitness [P]); fitness is -inf where a training diverged.
    """
    fitness = selection.fitness(selection.rank_blends(losses, macs), losses, truth)
    blends = [selection.best_blend(row) for row in fitness]
    return np.asarray(selection.MACS_WEIGHTS)[blends], fitness.max(1)
