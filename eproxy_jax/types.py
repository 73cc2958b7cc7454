"""This module defines the public types: proxy settings and results.

Dimension letters, used in every docstring of the package:

====== ==========================================
``A``  architectures (candidates)
``P``  proxy settings
``S``  training steps
``B``  images
``L``  branches of the proxy head
``H W C``  height, width, channels (arrays are NHWC)
====== ==========================================
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.errors import check_known, quoted
from eproxy_jax.nn import initializers

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

FEATURES = ("net", "wave_l", "wave_m", "wave_h", "dot")


TARGET_SIZE = 8  # height and width of feature maps and targets (docs/method.md, step 2)


MAX_BRANCHES = 3


# Beyond these no machine trains anything: a slip of a digit is told before it eats the memory.
_MAX_STEPS = 1_000_000
_MAX_CHANNELS = 65_536
_MAX_KERNEL = 63


STATUS_OK = "ok"


STATUS_DIVERGED = "diverged"


STATUS_DISCONNECTED = "disconnected"  # the output never depends on the image, see ``SearchSpace.is_connected``


@dataclasses.dataclass(frozen=True)
class BranchSettings:
    """The settings of one branch: they say how its head and its target are built.

    Source: docs/method.md, steps 3 to 5 and "Gene table".

    Attributes:
      features: names of the features that the target sums, at least one: out of ``FEATURES``, or of your own targets.
      level: factor on the target.
      transform_kernel: k_h, size of the trained transform convolution; odd.
      transform_channels: its output channels.
      barrier_kernel: k_b, size of the frozen barrier convolution; odd.
      target_channels: channels of the barrier's output and of the target.
    """

    features: tuple[str, ...] = ("net",)
    level: float = 1.0
    transform_kernel: int = 1
    transform_channels: int = 512
    barrier_kernel: int = 3
    target_channels: int = 64


@dataclasses.dataclass(frozen=True)
class ProxySettings:
    """Eproxy's training settings. The defaults are plain Eproxy.

    Source: Li et al., ICCV 2023; docs/method.md, steps 6 to 8 and "Gene table".

    Attributes:
      branches: one to three branches; branch 0 reads the last stage.
      lr: learning rate of SGD.
      momentum: momentum of SGD, in PyTorch's form.
      weight_decay: weight decay, on tensors with more than one dimension.
      num_steps: training steps; the score is the loss at the last one's forward pass.
      alpha: share of the MACs in the score.
      network_init: initialiser of backbone and transforms; a name in ``initializers.INITS``.
      barrier_init: initialiser of the barrier layers.

    Raises:
      ValueError: a value is not allowed; the message holds the field, the value and the range.

    Example:
      >>> ProxySettings(alpha=0.3).branches[0].target_channels
      64
    """

    branches: tuple[BranchSettings, ...] = (BranchSettings(),)
    lr: float = 1.2
    momentum: float = 0.9
    weight_decay: float = 4e-5
    num_steps: int = 10
    alpha: float = 0.0
    network_init: str = "default"
    barrier_init: str = "default"

    def __post_init__(self):
        _check(self, "lr", _is_number(self.lr) and self.lr > 0, "a positive number")
        _check(self, "momentum", _is_number(self.momentum) and 0 <= self.momentum < 1, "a number in [0, 1)")
        _check(self, "weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "a number >= 0")
        _check(
            self,
            "num_steps",
            _is_int(self.num_steps) and 1 <= self.num_steps <= _MAX_STEPS,
            f"an integer from 1 to {_MAX_STEPS}",
        )
        _check(self, "alpha", _is_number(self.alpha) and -1 <= self.alpha < 1, "a number in [-1, 1)")
        for field in ("network_init", "barrier_init"):
            check_known([getattr(self, field)], initializers.INITS, f"settings.{field}", "initialiser")
        ok = isinstance(self.branches, tuple) and 1 <= len(self.branches) <= MAX_BRANCHES
        _check(self, "branches", ok, f"a tuple of 1 to {MAX_BRANCHES} BranchSettings")
        for number, branch in enumerate(self.branches):
            _check_branch(branch, number)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ProxySettings:
        """Invert ``to_dict``; absent fields keep their defaults.

        Raises:
          ValueError: an unknown field (with the nearest known one) or a bad value.

        Example:
          >>> ProxySettings.from_dict({"lr": 1.0, "branches": [{"features": ["net", "dot"]}]}).branches[0].features
          ('net', 'dot')
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"settings: expected a dict, got {quoted(values)}")
        values = dict(values)
        _check_fields(values, cls, "settings")
        if "branches" in values:
            branches = values["branches"]
            if not isinstance(branches, (list, tuple)):
                raise ValueError(
                    f"settings.branches: expected a list of 1 to {MAX_BRANCHES} dicts, got {quoted(branches)}"
                )
            values["branches"] = tuple(_branch_from_dict(branch, number) for number, branch in enumerate(branches))
        return cls(**values)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return (_is_int(value) and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value))


def _check(owner: Any, field: str, ok: bool, allowed: str, prefix: str = "settings") -> None:
    if not ok:
        raise ValueError(f"{prefix}.{field}: expected {allowed}, got {quoted(getattr(owner, field))}")


def _check_fields(values: dict[str, Any], cls: type, where: str) -> None:
    check_known(values, [field.name for field in dataclasses.fields(cls)], where)


def _branch_from_dict(values: Any, number: int) -> BranchSettings:
    if isinstance(values, BranchSettings):
        return values
    where = f"settings.branches[{number}]"
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a dict, got {quoted(values)}")
    values = dict(values)
    _check_fields(values, BranchSettings, where)
    if isinstance(values.get("features"), list):
        values["features"] = tuple(values["features"])
    return BranchSettings(**values)


def _check_branch(branch: BranchSettings, number: int) -> None:
    where = f"settings.branches[{number}]"
    if not isinstance(branch, BranchSettings):
        raise ValueError(f"{where}: expected BranchSettings, got {quoted(branch)}")
    features = branch.features
    if not isinstance(features, tuple) or not features:
        raise ValueError(
            f"{where}.features: expected a non-empty tuple out of {', '.join(FEATURES)}, got {quoted(features)}"
        )
    for feature in features:
        if not isinstance(feature, str) or not feature.isidentifier():
            raise ValueError(f"{where}.features: expected names such as '{FEATURES[0]}', got {quoted(feature)}")
    _check(branch, "features", len(set(features)) == len(features), "each feature once", where)
    _check(branch, "level", _is_number(branch.level) and branch.level > 0, "a positive number", where)
    for field in ("transform_kernel", "barrier_kernel"):
        value = getattr(branch, field)
        _check(
            branch,
            field,
            _is_int(value) and 1 <= value <= _MAX_KERNEL and value % 2 == 1,
            f"an odd integer from 1 to {_MAX_KERNEL}",
            where,
        )
    for field in ("transform_channels", "target_channels"):
        value = getattr(branch, field)
        _check(
            branch,
            field,
            _is_int(value) and 1 <= value <= _MAX_CHANNELS,
            f"an integer from 1 to {_MAX_CHANNELS}",
            where,
        )


@dataclasses.dataclass(frozen=True)
class ScoreResult:
    """The scores of a list of architectures, in the order given. It is a record of NumPy arrays and no pytree.

    Attributes:
      archs: the architectures' strings, length A.
      score: [A] float64, higher is better; ``-inf`` if the training diverged or the network is disconnected.
      loss: [A] float64, final loss; NaN where the score is ``-inf``.
      losses: [A, S] float64, loss at each step's forward pass; NaN if the network is disconnected.
      macs: [A] int64, multiply-accumulates of the backbone as written for one 3x32x32 image, dead edges included.
      params: [A] int64, trainable parameters of the backbone as written.
      effective_macs: [A] int64, MACs of the canonical form; 0 if the network is disconnected. ``alpha`` blends these
        in, so that equal functions get equal scores.
      status: length A: ``"ok"``, ``"diverged"``, or ``"disconnected"``, for a network whose output never depends on
        the image. Such a network is not trained.
      seconds: {"compile": ..., "run": ...} wall time, s.

    Example:
      >>> one = ScoreResult(("a",), np.ones(1), np.ones(1), np.ones((1, 2)), np.ones(1, int), np.ones(1, int),
      ...     np.ones(1, int), ("ok",), {})
      >>> one.to_rows()[0]["score"]
      1.0
    """

    archs: tuple[str, ...]
    score: Float64[np.ndarray, " A"]
    loss: Float64[np.ndarray, " A"]
    losses: Float64[np.ndarray, "A S"]
    macs: Int64[np.ndarray, " A"]
    params: Int64[np.ndarray, " A"]
    effective_macs: Int64[np.ndarray, " A"]
    status: tuple[str, ...]
    seconds: dict[str, float]

    def ranking(self) -> Int64[np.ndarray, " A"]:
        """Return the indices from best to worst, [A].

        Networks whose training diverged come after all others, and disconnected ones after those. Equal scores keep
        the order given.
        """
        disconnected = np.asarray(self.status) == STATUS_DISCONNECTED
        return np.lexsort((-self.score, disconnected))  # a stable sort, by the last key first

    def select(self, positions: Sequence[int]) -> ScoreResult:
        """Return the result of the architectures at some positions, in that order."""
        where = np.asarray(positions, np.int64)
        return ScoreResult(
            archs=tuple(self.archs[i] for i in where),
            status=tuple(self.status[i] for i in where),
            seconds=self.seconds,
            **{
                name: getattr(self, name)[where]
                for name in ("score", "loss", "losses", "macs", "params", "effective_macs")
            },
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict for each architecture, in the order given, as ``pandas.DataFrame`` takes them.

        Keys: ``arch, score, loss, losses, macs, params, effective_macs, status``. Numbers are Python numbers, and
        ``losses`` is a list of S of them.
        """
        names = ("score", "loss", "losses", "macs", "params", "effective_macs")
        columns = {name: getattr(self, name).tolist() for name in names}
        return [
            {"arch": arch, **{name: column[i] for name, column in columns.items()}, "status": self.status[i]}
            for i, arch in enumerate(self.archs)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of plain lists by field, and ``seconds``."""
        return {
            field.name: value.tolist() if isinstance(value := getattr(self, field.name), np.ndarray) else value
            for field in dataclasses.fields(self)
        }
