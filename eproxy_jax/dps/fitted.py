"""This module defines fitted proxies: settings from a search, each with shares of MACs and parameters.

``eproxy dps`` writes a fitted proxy and ``eproxy score --settings`` reads it. It ranks a list of architectures by the
mean percentile over its settings. So, unlike a plain score, its score depends on the other architectures of the list.

Source: docs/method.md, "Fitted proxies".
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array
from scipy import stats

from eproxy_jax.dps import selection
from eproxy_jax.errors import check_known, quoted
from eproxy_jax.types import ProxySettings

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Num

_WEIGHTS = ("macs_weight", "params_weight")
_WEIGHTS_TEXT = " and ".join(map(repr, _WEIGHTS))
_ROUNDING = 1e-6  # error of shares that are means of others


@dataclasses.dataclass(frozen=True)
class Member:
    """One setting of a fitted proxy.

    Attributes:
      settings: the setting.
      macs_weight: share of the MACs' ranks, in [-1, 1]; None blends by the setting's ``alpha`` instead.
      params_weight: share of the parameters' ranks; 0 if ``macs_weight`` is None.
    """

    settings: ProxySettings
    macs_weight: float | None = None
    params_weight: float = 0.0

    def __post_init__(self):
        for name, default in zip(_WEIGHTS, (None, 0.0), strict=True):
            weight = getattr(self, name)
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and -1 <= weight <= 1
            if not number and weight is not default:
                allowed = "a number in [-1, 1]" + (" or null" if default is None else "")
                raise ValueError(f"members: {name}: expected {allowed}, got {quoted(weight)}")
        if abs(self.macs_weight or 0) + abs(self.params_weight) > 1 + _ROUNDING:
            raise ValueError(
                f"members: macs_weight {self.macs_weight} and params_weight {self.params_weight}: "
                "expected shares whose sizes sum to at most 1"
            )
        if self.macs_weight is None and self.params_weight:
            raise ValueError("members: params_weight: needs macs_weight, for alpha blends MACs alone; 0 is a number")


@dataclasses.dataclass(frozen=True)
class FittedProxy:
    """Settings that are used together.

    Attributes:
      members: the settings with their shares, best first.
    """

    members: tuple[Member, ...]

    def __post_init__(self):
        if not self.members:
            raise ValueError("members: expected at least one")

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {
            "members": [
                {"settings": m.settings.to_dict(), "macs_weight": m.macs_weight, "params_weight": m.params_weight}
                for m in self.members
            ],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FittedProxy:
        """Invert :meth:`to_dict`; a dict without ``members`` is one plain setting.

        A field ``search`` beside ``members``, the fingerprint of the search that found them, is not read.

        Raises:
          ValueError: an unknown field or a bad value.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a proxy: expected a dict of settings, got {quoted(values)}")
        if "members" not in values:
            return cls((Member(ProxySettings.from_dict(values)),))
        if not {"members"} <= set(values) <= {"members", "search"} or not isinstance(values["members"], list):
            raise ValueError(f"a fitted proxy has one field, 'members', a list; got {quoted(list(values))}")
        members = []
        for number, member in enumerate(values["members"]):
            if not isinstance(member, dict) or not {"settings"} <= set(member) <= {"settings", *_WEIGHTS}:
                raise ValueError(f"members[{number}]: expected 'settings', {_WEIGHTS_TEXT}, got {quoted(member)}")
            try:
                settings = ProxySettings.from_dict(member["settings"])
                members.append(Member(settings, **{name: member[name] for name in _WEIGHTS if name in member}))
            except ValueError as error:
                raise ValueError(f"members[{number}]: {error}") from error
        return cls(tuple(members))

    @property
    def is_plain(self) -> bool:
        """True for a single setting whose score needs no ranking."""
        return len(self.members) == 1 and self.members[0].macs_weight is None

    def scores(
        self,
        losses: Num[Array | np.ndarray, "K A"],
        sizes: Num[Array | np.ndarray, "2 A"],
        macs: Num[Array | np.ndarray, " A"] | None = None,
        connected: Bool[np.ndarray, " A"] | None = None,
    ) -> Float64[np.ndarray, " A"]:
        """Return the mean percentile of every architecture over the members.

        Percentiles are among connected networks only: disconnected ones in the list change no score of the others.

        Args:
          losses: [K, A] final losses under each member. A loss that is not finite (diverged) ranks last.
          sizes: [2, A], see ``spaces.size_measures``.
          macs: [A], see ``spaces.macs_fractions``; needed by members that blend by ``alpha``.
          connected: [A], False for disconnected networks (``space.is_connected``); all are connected if absent.

        Returns:
          [A] in (0, 1], higher is better; ``-inf`` if the training diverged under every member, and for disconnected
          networks.
        """
        losses, sizes = np.asarray(losses, np.float64), np.asarray(sizes)
        kept = np.ones(losses.shape[1], bool) if connected is None else np.asarray(connected, bool)
        scores = np.full(losses.shape[1], -np.inf)
        if not kept.any():
            return scores
        own, fractions = losses[:, kept], None if macs is None else np.asarray(macs)[kept]
        percentiles = [
            stats.rankdata(member_score(member, row, sizes[:, kept], fractions)) / own.shape[1]
            for member, row in zip(self.members, own, strict=True)
        ]
        scores[kept] = np.where(np.isfinite(own).any(0), np.mean(percentiles, axis=0), -np.inf)
        return scores


def member_score(member: Member, losses: Any, sizes: Any, macs: Any = None) -> np.ndarray:
    """Return the scores [A] of one member from its final losses [A]; see :meth:`FittedProxy.scores`.

    Raises:
      ValueError: the member blends by ``alpha``, and ``macs`` is absent.
    """
    losses = np.asarray(losses, np.float64)
    if member.macs_weight is None:
        if macs is None:
            raise ValueError("a member without macs_weight blends MACs by alpha: pass macs (spaces.macs_fractions)")
        return selection.score_matrix(losses[None], macs, [member.settings.alpha])[0, 0]
    blend = selection.rank_blends(losses[None], sizes, [(member.macs_weight, member.params_weight)])[0, 0]
    return np.where(np.isfinite(losses), blend, -np.inf)


def fit_weights(losses: Any, sizes: Any, truth: Any, shares: Any = selection.SHARES) -> tuple[np.ndarray, np.ndarray]:
    """Fit the shares of MACs and parameters of each setting to labelled architectures.

    Args:
      losses: [P, M] final losses of the labelled architectures.
      sizes: [2, M], see ``spaces.size_measures``.
      truth: [M], their values.
      shares: [K, 2], the shares to choose from.

    Returns:
      (weights [P, 2], best Spearman of each setting [P]). The latter is -inf if a training diverged.
    """
    fitness = selection.fitness(selection.rank_blends(losses, sizes, shares), losses, truth)
    return np.stack([selection.mean_share(row, len(truth), shares) for row in fitness]), fitness.max(1)


# --- settings that were found --------------------------------------------------------------------------------


def _found_folder() -> Traversable:
    return importlib.resources.files("eproxy_jax").joinpath("found")


def found_names() -> tuple[tuple[str, str], ...]:
    """Return the sorted pairs (space, task) that :func:`found` loads."""
    folders = [folder for folder in _found_folder().iterdir() if folder.is_dir()]
    pairs = [(folder.name, file.name) for folder in folders for file in folder.iterdir()]
    return tuple(sorted((space, name.removesuffix(".json")) for space, name in pairs if name.endswith(".json")))


def found(space: str, task: str) -> FittedProxy:
    """Load the settings that Discrete Proxy Search found with 20 labels of a task.

    They fit any architecture of the space. The search ran at the size ``small`` of the space's configuration: use the
    settings at that size.

    Args:
      space: a search space's registry name.
      task: a task's name, see :func:`found_names`.

    Raises:
      ValueError: there are no settings for this pair (with the nearest names).

    Example:
      >>> len(found("nasbench201", "cifar100").members)
      8
    """
    names = found_names()
    check_known([space], sorted({known for known, _ in names}), "found", "space")
    check_known([task], [known for other, known in names if other == space], f"found({space!r}, ...)", "task")
    text = _found_folder().joinpath(space, f"{task}.json").read_text(encoding="utf-8")
    return FittedProxy.from_dict(json.loads(text))
