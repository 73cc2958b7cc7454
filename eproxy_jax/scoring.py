"""From a list of architectures to a list of scores: plan, train, collect.

Data flows one way: strings -> canonical architectures -> plan -> groups -> device programs -> losses -> scores. A score
depends on (architecture, settings, images, key) only.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax import Array

from eproxy_jax import images as images_lib
from eproxy_jax import proxy, spaces
from eproxy_jax.execution.programs import (
    VMAP_WIDTH,
    CompiledProgram,
    Device,
    Execution,
    Form,
    Grouping,
    GroupInput,
    Precision,
    ProgramSpec,
    compile_program,
    fitting_width,
    run_groups,
)
from eproxy_jax.types import STATUS_DIVERGED, STATUS_OK, ProxySettings, ProxyTask, ScoreResult

# --- plan ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which networks to train for a list of architectures.

    Attributes:
      archs: the architectures asked for, length A.
      distinct: canonical forms, each once, in order of first appearance.
      index: [A], position of each architecture's canonical form in ``distinct``.
    """

    archs: tuple[Any, ...]
    distinct: tuple[Any, ...]
    index: np.ndarray


def by_group(
    archs: Sequence[Any], space: spaces.SearchSpace, grouping: Grouping = "coarse"
) -> dict[spaces.Group, list[int]]:
    """Positions of canonical architectures by the compiled program they need, in order of first appearance."""
    group_of = space.fine_group if grouping == "fine" else space.group
    positions: dict[spaces.Group, list[int]] = {}
    for position, arch in enumerate(archs):
        positions.setdefault(group_of(arch), []).append(position)
    return positions


def make_plan(archs: Sequence[Any], space: spaces.SearchSpace) -> Plan:
    """Canonicalise and merge duplicates.

    Args:
      archs: architectures of the space, as ``space.parse`` returns them.
      space: the search space.

    Raises:
      ValueError: the list is empty.
    """
    if not archs:
        raise ValueError("no architectures to score: the list is empty")
    position: dict[Any, int] = {}
    index = [position.setdefault(space.canonical(arch), len(position)) for arch in archs]
    return Plan(tuple(archs), tuple(position), np.asarray(index, np.int64))


def group_inputs(archs: Sequence[Any], space: spaces.SearchSpace, grouping: Grouping) -> list[GroupInput]:
    """Canonical, distinct architectures by group, encoded."""
    found = []
    for group, members in by_group(archs, space, grouping).items():
        own = [archs[i] for i in members]
        identity = np.stack([spaces.arch_identity(space, arch) for arch in own])
        found.append(GroupInput(group, np.asarray(members), identity, group.encode(own)))
    return found


# --- plain scoring -------------------------------------------------------------------------------------------


def run_identity(space: spaces.SearchSpace, images: Any, weight_seed: int, execution: Execution) -> dict[str, Any]:
    """What losses depend on besides architectures and settings, as plain data: equal ones, equal losses.

    Args:
      space: the search space.
      images: [B, H, W, 3], standardised.
      weight_seed: seed of weights, targets and barriers.
      execution: devices and form.
    """
    return {
        **space.identity(),
        "images": images_lib.identity(images),
        "weight_seed": weight_seed,
        "form": execution.label,
        "platform": execution.devices[0].platform,
    }


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything a run needs besides its architectures, on its devices.

    Attributes:
      space: the search space.
      settings: the proxy's settings.
      key: typed key.
      task: images, targets, barriers.
      hyper: the data part of the settings.
      execution: devices and form.
    """

    space: spaces.SearchSpace
    settings: ProxySettings
    key: Array
    task: ProxyTask
    hyper: proxy.ProxyHyper
    execution: Execution

    def candidate(self, group: spaces.Group) -> proxy.Candidate:
        """What trains one architecture of a group."""
        spec = proxy.ProxySpec.of(self.settings)
        dtype = self.task.images.dtype
        network = proxy.ProxyNetwork(group.universal(dtype), spec.heads, dtype)
        return proxy.Candidate(network, spec.num_steps)  # pyright: ignore[reportArgumentType]

    def program(self, arch: Any) -> CompiledProgram:
        """The compiled program of a canonical architecture's group; compiled on the first call of an equal job."""
        (group,) = by_group([arch], self.space, self.execution.grouping)
        shape, shared = group.encode([arch]).shape[1:], (self.task, self.hyper)
        steps = self.settings.num_steps
        return compile_program(ProgramSpec.of(self.candidate(group), steps, shape, self.execution, self.key, shared))


def make_job(
    space: spaces.SearchSpace | str,
    settings: ProxySettings | None = None,
    images: Any = None,
    key: Array | int = 0,
    execution: Execution | None = None,
) -> Job:
    """Check the arguments of :func:`score` and prepare what all candidates share.

    Args:
      space: a search space or its registry name.
      settings: defaults to plain Eproxy.
      images: [B, H, W, 3]; defaults to the embedded batch. Standardised here.
      key: typed key, or an integer seed for one.
      execution: devices and form; all devices by default.

    Raises:
      ValueError: bad images, an unknown space.
    """
    space = spaces.get(space) if isinstance(space, str) else space
    settings = ProxySettings() if settings is None else settings
    execution = Execution.of() if execution is None else execution
    typed_key = jax.random.key(key) if isinstance(key, int) else key
    batch = images_lib.standardize(images_lib.default_images() if images is None else images)
    task = jax.jit(proxy.make_task, static_argnums=1)(typed_key, settings, batch)
    hyper = proxy.ProxyHyper.of(settings, batch.dtype)
    typed_key, task, hyper = execution.replicate((typed_key, task, hyper))
    return Job(space, settings, typed_key, task, hyper, execution)


def widest(job: Job, archs: Sequence[Any]) -> Execution:
    """The job's execution with batches as wide as the devices' memory holds; unchanged in the map form.

    The program of the largest architecture is compiled for this, unless it is there already.

    Args:
      job: in the vmap form.
      archs: canonical architectures of the space.
    """
    if job.execution.form == "map":
        return job.execution
    program = job.program(max(archs, key=job.space.macs))
    return job.execution.widened(fitting_width(program, job.execution))


def run(
    job: Job, archs: Sequence[Any], compiled: Callable[[float], None] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Losses of canonical, distinct architectures of a job: (positions [n], losses [n, S]), see :func:`run_groups`."""
    inputs = group_inputs(archs, job.space, job.execution.grouping)
    shared = (job.task, job.hyper)
    return run_groups(job.candidate, job.settings.num_steps, inputs, job.execution, job.key, shared, compiled)


def collect(job: Job, archs: Sequence[Any], losses: np.ndarray, seconds: dict[str, float]) -> ScoreResult:
    """Scores out of losses.

    Args:
      job: what the candidates shared.
      archs: architectures as written, length A.
      losses: [A, S].
      seconds: {"compile": ..., "run": ...}.
    """
    space = job.space
    losses = np.asarray(losses, np.float64)
    finite = np.isfinite(losses[:, -1])
    loss = np.where(finite, losses[:, -1], np.nan)
    effective_macs = np.asarray([space.macs(space.canonical(arch)) for arch in archs], np.int64)
    return ScoreResult(
        archs=tuple(space.format(arch) for arch in archs),
        # The largest network takes long to find in a family of thousands, and only ``alpha`` asks for it.
        score=proxy.scores(loss, effective_macs, space.max_macs() if job.settings.alpha else 1, job.settings.alpha),
        loss=loss,
        losses=losses,
        macs=np.asarray([space.macs(arch) for arch in archs], np.int64),
        params=np.asarray([space.params(arch) for arch in archs], np.int64),
        effective_macs=effective_macs,
        status=tuple(STATUS_OK if ok else STATUS_DIVERGED for ok in finite),
        seconds=seconds,
    )


def score(
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = "nasbench201",
    settings: ProxySettings | None = None,
    images: Any = None,
    key: Array | int = 0,
    *,
    devices: Sequence[Device] | None = None,
    form: Form | None = None,
    chunk_size: int | None = None,
    vmap_width: int | Literal["auto"] = VMAP_WIDTH,
    grouping: Grouping = "coarse",
    precision: Precision = "default",
    progress: Callable[[int, int], None] | None = None,
) -> ScoreResult:
    """Eproxy scores of a list of architectures.

    A score depends on (architecture, settings, images, key) only: not on order, duplicates, chunking or device count.
    Architectures that compute the same function are trained once and get equal scores.

    Args:
      archs: architectures in any notation that ``space.parse`` reads.
      space: a search space or its registry name.
      settings: defaults to plain Eproxy.
      images: [B, H, W, 3], H = W divisible by 4; defaults to the embedded batch. Standardised here.
      key: typed key, or an integer seed for one.
      devices: defaults to all devices.
      form: ``"map"`` or ``"vmap"``; chosen by the devices' platform when absent.
      chunk_size: candidates per dispatched chunk.
      vmap_width: candidates of one block of the vmap form; more fill an accelerator better and need more memory. As
        many as fit with ``"auto"``: the last digits of losses then depend on the devices' memory.
      grouping: ``"coarse"`` or ``"fine"``, see :class:`Execution`.
      precision: ``"default"``, ``"float32"`` or ``"bfloat16"``, see :class:`Execution`.
      progress: called with (networks done, networks in total) after each chunk.

    Returns:
      A ``ScoreResult`` in the order of ``archs``.

    Raises:
      ValueError: an unreadable architecture (with its position), an empty list, bad images or options.

    Example:
      >>> space = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
      >>> settings = ProxySettings.from_dict({"num_steps": 2, "branches": [{"transform_channels": 4}]})
      >>> result = score([[[3], [0, 3], [1, 0, 3]]], space, settings, images_lib.default_images(num=2, size=8))
      >>> result.status
      ('ok',)
    """
    execution = Execution.of(devices, form, chunk_size, vmap_width, grouping, precision)
    job = make_job(space, settings, images, key, execution)
    parsed = []
    for position, arch in enumerate(archs):
        try:
            parsed.append(job.space.parse(arch))
        except ValueError as error:
            raise ValueError(f"archs[{position}]: {error}") from error
    plan = make_plan(parsed, job.space)
    if vmap_width == "auto":
        job = dataclasses.replace(job, execution=widest(job, plan.distinct))
    return score_plan(job, plan, progress)


def score_plan(job: Job, plan: Plan, progress: Callable[[int, int], None] | None = None) -> ScoreResult:
    """Train what a plan needs: the second half of :func:`score`.

    Args:
      job: what the candidates share, and how to run them.
      plan: of architectures of the job's space.
      progress: as in :func:`score`.

    Returns:
      A ``ScoreResult`` in the order of ``plan.archs``.
    """
    compiled: list[float] = []
    start, done = time.perf_counter(), 0
    losses = np.empty((len(plan.distinct), job.settings.num_steps))
    for positions, chunk in run(job, plan.distinct, compiled.append):
        losses[positions] = chunk
        done += len(chunk)
        if progress is not None:
            progress(done, len(plan.distinct))
    seconds = {"compile": sum(compiled), "run": time.perf_counter() - start - sum(compiled)}
    return collect(job, plan.archs, losses[plan.index], seconds)
