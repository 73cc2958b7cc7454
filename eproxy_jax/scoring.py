"""This module turns a list of architectures into a list of scores: it groups, trains and collects.

Data flows one way: strings -> canonical architectures -> groups -> device programs -> losses -> scores. A score depends
on (architecture, settings, images, key) only.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optax
from jax import Array

from eproxy_jax import proxy, spaces
from eproxy_jax.execution.evaluation import Evaluation, identity_of
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import Networks, distinct_networks, parse_all
from eproxy_jax.images import batch_identity, default_images, standardize
from eproxy_jax.sources import source_fingerprint
from eproxy_jax.targets import TargetFn, check_features
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_DIVERGED, STATUS_OK, ProxySettings, ScoreResult

if TYPE_CHECKING:
    from jaxtyping import Key, Num

Targets = Mapping[str, TargetFn]


@dataclasses.dataclass(frozen=True)
class Job:
    """The arguments of a run except its architectures, on its devices.

    Attributes:
      settings: the proxy's settings.
      evaluation: Eproxy as a function of one candidate, with all that candidates share.
    """

    settings: ProxySettings
    evaluation: Evaluation

    @property
    def space(self) -> spaces.SearchSpace:
        """The search space."""
        return self.evaluation.space

    @property
    def execution(self) -> Execution:
        """Devices and execution form."""
        return self.evaluation.execution

    @property
    def task(self) -> proxy.ProxyTask:
        """Images, targets, barriers."""
        return self.evaluation.shared[0][0]

    @property
    def hyper(self) -> proxy.ProxyHyper:
        """The data part of the settings."""
        return self.evaluation.shared[0][1]

    def widened(self, archs: Sequence[Any]) -> Job:
        """Return a job with batches as wide as memory allows, if the execution asks for that."""
        return dataclasses.replace(self, evaluation=self.evaluation.widened(archs))


def make_job(
    space: spaces.SearchSpace | str,
    settings: ProxySettings | None = None,
    images: Any = None,
    key: Array | int = 0,
    execution: Execution | None = None,
    targets: Targets | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Job:
    """Check the arguments of :func:`score` and prepare the data that all candidates share.

    Raises:
      ValueError: bad images, an unknown space, an unknown feature.
    """
    space = spaces.get(space) if isinstance(space, str) else space
    settings = ProxySettings() if settings is None else settings
    check_features(settings, targets)
    execution = Execution.of() if execution is None else execution
    typed_key = proxy.typed_key(key)
    batch = standardize(default_images() if images is None else images)
    task = proxy.compiled_task(typed_key, settings, batch, targets)
    hyper = proxy.ProxyHyper.of(settings, batch.dtype)
    training = proxy.Training(proxy.ProxySpec.of(settings), optimizer)
    evaluation = Evaluation.of(training, space, typed_key, ((task, hyper),), execution, batch.dtype)
    return Job(settings, evaluation)


def run_identity(
    space: spaces.SearchSpace,
    images: Any,
    key: Array | int,
    execution: Execution,
    targets: Targets | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> dict[str, Any]:
    """Return, as plain data, all that losses depend on besides architectures and settings.

    Equal identities give equal losses.

    Args:
      space: the search space.
      images: [B, H, W, 3], standardised.
      key: key of weights, targets and barriers.
      execution: devices and execution form.
      targets: features of your own.
      optimizer: replaces SGD.
    """
    own = {}
    if targets:
        own["targets"] = {name: source_fingerprint(function) for name, function in sorted(targets.items())}
    if optimizer is not None:
        own["optimizer"] = [source_fingerprint(part) for part in optimizer]
    return {**identity_of(space, key, execution), "images": batch_identity(images), **own}


def score_losses(job: Job, archs: Sequence[Any], losses: np.ndarray, seconds: dict[str, float]) -> ScoreResult:
    """Turn losses into scores.

    Args:
      job: the job that gave the losses.
      archs: architectures as written, length A.
      losses: [A, S]; those of disconnected networks do not count.
      seconds: {"compile": ..., "run": ...}.
    """
    space = job.space
    connected = np.asarray([space.is_connected(arch) for arch in archs], bool)
    losses = np.where(connected[:, None], np.asarray(losses, np.float64), np.nan)
    finite = np.isfinite(losses[:, -1])
    loss = np.where(finite, losses[:, -1], np.nan)
    # The largest MACs of a user's family need a trace of every network, so they are computed only if they count.
    fraction = spaces.macs_fractions(space, archs) if job.settings.alpha else 0.0
    return ScoreResult(
        archs=tuple(space.format(arch) for arch in archs),
        score=proxy.scores(loss, fraction, job.settings.alpha),
        loss=loss,
        losses=losses,
        macs=np.asarray([space.macs(arch) for arch in archs], np.int64),
        params=np.asarray([space.params(arch) for arch in archs], np.int64),
        effective_macs=np.asarray([spaces.effective_macs(space, arch) for arch in archs], np.int64),
        status=statuses(finite, connected),
        seconds=seconds,
    )


def statuses(finite: Any, connected: Any) -> tuple[str, ...]:
    """Return the status of each network, from whether its loss is finite [A] and whether it is connected [A]."""
    return tuple(
        (STATUS_OK if ok else STATUS_DIVERGED) if sees else STATUS_DISCONNECTED
        for ok, sees in zip(finite, connected, strict=True)
    )


def score(
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = "nasbench201",
    settings: ProxySettings | None = None,
    images: Num[Array | np.ndarray, "B H W 3"] | None = None,
    key: Key[Array, ""] | int = 0,
    *,
    targets: Targets | None = None,
    optimizer: optax.GradientTransformation | None = None,
    execution: Execution | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoreResult:
    """Compute the Eproxy scores of a list of architectures.

    A score depends on (architecture, settings, images, key) only: not on order, duplicates, chunking or device count.
    Architectures that compute the same function are trained once and get equal scores. Disconnected networks, whose
    output never depends on the image, are not trained and rank last. ``ep.runs.score`` does the same into a file, and
    resumes after a kill.

    Args:
      archs: architectures in any notation that ``space.parse`` reads.
      space: a search space or its registry name.
      settings: defaults to plain Eproxy.
      images: [B, H, W, 3], H = W divisible by 4; defaults to the embedded batch. The function
        standardises it.
      key: typed key, or an integer seed for one.
      targets: features of your own by name, for the settings' ``features``: functions (key, images, channels) ->
        [B, 8, 8, channels].
      optimizer: an optax transformation that replaces the settings' SGD.
      execution: devices and execution form, see :class:`Execution`; all devices by default.
      progress: called with (networks done, networks in total) after each chunk.

    Returns:
      A ``ScoreResult`` in the order of ``archs``.

    Raises:
      ValueError: an unreadable architecture (with its position), an empty list, bad images, an unknown feature.

    Example:
      >>> space = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
      >>> settings = ProxySettings.from_dict({"branches": [{"transform_channels": 8, "target_channels": 4}]})
      >>> result = score([[[3], [0, 3], [1, 0, 3]]], space, settings, default_images(num=4, size=8))
      >>> result.status
      ('ok',)
    """
    job = make_job(space, settings, images, key, execution, targets, optimizer)
    networks = distinct_networks(parse_all(archs, job.space), job.space)
    return score_networks(job.widened(networks.distinct), networks, progress)


def score_networks(job: Job, networks: Networks, progress: Callable[[int, int], None] | None = None) -> ScoreResult:
    """Train the networks of a list and score it: the second half of :func:`score`.

    Args:
      job: the data that the candidates share, and how to run them.
      networks: the networks of a list of architectures of the job's space.
      progress: as in :func:`score`.

    Returns:
      A ``ScoreResult`` in the order of ``networks.archs``.
    """
    compiled: list[float] = []
    start, done = time.perf_counter(), 0
    losses = np.empty((len(networks.distinct), job.settings.num_steps))
    for positions, chunk in job.evaluation.run(networks.distinct, compiled.append):
        losses[positions] = chunk
        done += len(chunk)
        if progress is not None:
            progress(done, len(networks.distinct))
    seconds = {"compile": sum(compiled), "run": time.perf_counter() - start - sum(compiled)}
    return score_losses(job, networks.archs, networks.spread(losses), seconds)
