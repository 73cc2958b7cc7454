"""From a list of architectures to a list of losses: plan, chunk, map over candidates and devices.

Data flows one way: strings -> canonical architectures -> plan -> device program -> losses -> scores. One program is
compiled per (space, static settings, shapes, execution form, devices) and kept for later calls.

Execution forms:
  * ``map``: candidates of a device one after the other (``lax.map``), each paying for its own operations only. For
    CPUs.
  * ``vmap``: candidates of a device in batches of one fixed width. For accelerators.

In both forms a candidate's randomness comes from its own identity, and devices do not communicate, so that a score
does not depend on order, chunking, padding or device count.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eproxy_jax import images as images_lib
from eproxy_jax import proxy, spaces
from eproxy_jax.types import STATUS_DIVERGED, STATUS_OK, ProxySettings, ProxyTask, ScoreResult

Form = Literal["map", "vmap"]
Grouping = Literal["coarse", "fine"]
Device: TypeAlias = Any  # jax.Device, which type checkers take for a variable

_AXIS = "candidates"
_FORMS = ("map", "vmap")
_GROUPINGS = ("coarse", "fine")
# Candidates of one block of the vmap form. Rounding depends on a batch's size, so it is fixed, whatever the chunks.
VMAP_WIDTH = 32
# Candidates per device and chunk of the map form: few, so that results are safe on disk every few seconds.
_MAP_CHUNK = 4
# Chunks dispatched ahead: with two, a device that finishes its share early starts on the next chunk.
_CHUNKS_IN_FLIGHT = 2


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


# --- device program ------------------------------------------------------------------------------------------


def default_form(devices: Sequence[Device]) -> Form:
    """``map`` on CPUs, ``vmap`` on accelerators."""
    return "map" if all(device.platform == "cpu" for device in devices) else "vmap"


def candidates_mesh(devices: Sequence[Device]) -> Mesh:
    """A 1-D mesh over the candidate axis."""
    return Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))


def chunk_program(
    losses_of: Callable[..., Array],
    num_steps: int,
    form: Form,
    mesh: Mesh,
    vmap_width: int = VMAP_WIDTH,
    dtype: Any = jnp.float32,
) -> Callable[..., Array]:
    """The function that trains one chunk of candidates, sharded over the mesh.

    Args:
      losses_of: (key, encoded, *shared) -> losses [S] of one candidate.
      num_steps: S.
      form: execution form.
      mesh: 1-D device mesh.
      vmap_width: candidates of one block of the vmap form.
      dtype: of the losses.

    Returns:
      (key, identity [N, 2], encoded [N, ...], valid [N], shared) -> losses [N, S]; N a multiple of the mesh's size
      (times the width in the vmap form). Rows that are not valid are NaN or a waste product. To be jitted.
    """

    def on_device(key: Array, identity: Array, encoded: Array, valid: Array, shared: tuple[Any, ...]) -> Array:
        def train(identity: Array, encoded: Array) -> Array:
            return losses_of(proxy.arch_key(key, identity), encoded, *shared)

        # Blocks without a valid candidate are skipped: a short last chunk costs what it holds.
        width = 1 if form == "map" else vmap_width
        train_block = jax.vmap(train) if form == "vmap" else lambda i, e: train(i[0], e[0])[None]

        def block(arrays: tuple[Array, Array, Array]) -> Array:
            identity, encoded, valid = arrays
            skipped = jnp.full((width, num_steps), jnp.nan, dtype)
            return lax.cond(jnp.any(valid), train_block, lambda i, e: skipped, identity, encoded)

        blocks = jax.tree.map(lambda x: x.reshape(-1, width, *x.shape[1:]), (identity, encoded, valid))
        return lax.map(block, blocks).reshape(-1, num_steps)

    split, whole = PartitionSpec(_AXIS), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(whole, split, split, split, whole),
        out_specs=split,
        check_vma=False,  # nothing is communicated, so there is nothing to check, and custom rules need no annotation
    )


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A compiled chunk program.

    Attributes:
      call: the executable, arguments as in :func:`chunk_program`.
      mesh: its devices.
      chunk_size: N.
      compile_seconds: tracing and compilation, s.
      temp_bytes: working memory per device, bytes.
    """

    call: Any
    mesh: Mesh
    chunk_size: int
    compile_seconds: float
    temp_bytes: int


@functools.lru_cache(maxsize=64)
def _compile(
    losses_of: Callable[..., Array],
    num_steps: int,
    form: Form,
    devices: tuple[Device, ...],
    chunk_size: int,
    encoded_shape: tuple[int, ...],
    shapes: Any,
    vmap_width: int,
) -> CompiledProgram:
    """Compile once per static description. ``shapes`` holds (treedef, leaves) of the key and what is shared."""
    mesh = candidates_mesh(devices)
    split, whole = NamedSharding(mesh, PartitionSpec(_AXIS)), NamedSharding(mesh, PartitionSpec())
    key, shared = jax.tree.unflatten(
        shapes[0], [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in shapes[1]]
    )
    dtype = jax.tree.leaves(shared)[0].dtype
    identity = jax.ShapeDtypeStruct((chunk_size, 2), jnp.uint32, sharding=split)
    encoded = jax.ShapeDtypeStruct((chunk_size, *encoded_shape), jnp.int32, sharding=split)
    valid = jax.ShapeDtypeStruct((chunk_size,), jnp.bool_, sharding=split)
    start = time.perf_counter()
    program = jax.jit(chunk_program(losses_of, num_steps, form, mesh, vmap_width, dtype))
    call = program.lower(key, identity, encoded, valid, shared).compile()
    memory = call.memory_analysis()
    return CompiledProgram(
        call, mesh, chunk_size, time.perf_counter() - start, int(getattr(memory, "temp_size_in_bytes", 0))
    )


def num_compilations() -> int:
    """Device programs compiled so far in this process."""
    return _compile.cache_info().misses


# --- running -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Execution:
    """How candidates are spread over devices; does not change their losses within one form.

    Attributes:
      devices: devices to run on.
      form: execution form.
      chunk_size: candidates per dispatched chunk, a multiple of the number of devices.
      vmap_width: candidates of one block of the vmap form; rounding depends on it.
      grouping: ``coarse``, few programs, or ``fine``, more of them, which waste less work in the vmap form. Rounding
        depends on it; that of fine groups in the vmap form also on the number of devices (seen on the CPU, 4e-7 at
        the second step).
    """

    devices: tuple[Device, ...]
    form: Form
    chunk_size: int
    vmap_width: int = VMAP_WIDTH
    grouping: Grouping = "coarse"

    @classmethod
    def of(
        cls,
        devices: Sequence[Device] | None = None,
        form: Form | None = None,
        chunk_size: int | None = None,
        vmap_width: int = VMAP_WIDTH,
        grouping: Grouping = "coarse",
    ) -> Execution:
        """Fill in what is absent: all devices, the form of their platform, a chunk of a few seconds.

        Raises:
          ValueError: an unknown form or grouping, a size below 1.
        """
        devices = tuple(jax.devices() if devices is None else devices)
        form = default_form(devices) if form is None else form
        for name, value, known in (("execution form", form, _FORMS), ("grouping", grouping, _GROUPINGS)):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for name, value in (("chunk_size", chunk_size), ("vmap_width", vmap_width)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value}")
        block = len(devices) * (1 if form == "map" else vmap_width)
        if chunk_size is None:
            chunk_size = len(devices) * (_MAP_CHUNK if form == "map" else vmap_width)
        return cls(devices, form, -(-chunk_size // block) * block, vmap_width, grouping)

    def replicate(self, tree: Any) -> Any:
        """Put what all candidates share on every device."""
        return jax.device_put(tree, NamedSharding(candidates_mesh(self.devices), PartitionSpec()))

    @property
    def label(self) -> str:
        """What of it the losses depend on, for the record of a run."""
        form = self.form if self.form == "map" else f"vmap {self.vmap_width}"
        return form if self.grouping == "coarse" else f"{form}, fine groups"


def run_identity(space: spaces.SearchSpace, images: Any, weight_seed: int, execution: Execution) -> dict[str, Any]:
    """What losses depend on besides architectures and settings, as plain data: equal ones, equal losses.

    Args:
      space: the search space.
      images: [B, H, W, 3], standardised.
      weight_seed: seed of weights, targets and barriers.
      execution: devices and form.
    """
    return {
        "space": space.name,
        "sizes": dataclasses.asdict(space),  # pyright: ignore[reportArgumentType]
        "images": images_lib.identity(images),
        "weight_seed": weight_seed,
        "form": execution.label,
        "platform": execution.devices[0].platform,
    }


def compile_program(
    losses_of: Callable[..., Array],
    num_steps: int,
    encoded_shape: tuple[int, ...],
    execution: Execution,
    key: Array,
    shared: tuple[Any, ...],
) -> CompiledProgram:
    """The compiled chunk program; compiled on the first call with equal arguments.

    Args:
      losses_of: (key, encoded, *shared) -> losses [S] of one candidate; hashable, equal ones share a program.
      num_steps: S.
      encoded_shape: shape of one encoded architecture.
      execution: devices and form.
      key: typed key.
      shared: tuple of what all candidates share; only shapes and dtypes matter here.
    """
    leaves, treedef = jax.tree.flatten((key, shared))
    shapes = (treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    return _compile(
        losses_of,
        num_steps,
        execution.form,
        execution.devices,
        execution.chunk_size,
        encoded_shape,
        shapes,
        execution.vmap_width,
    )


def run_program(
    program: CompiledProgram, identity: np.ndarray, encoded: np.ndarray, key: Array, shared: tuple[Any, ...]
) -> Iterator[np.ndarray]:
    """Losses of canonical, distinct architectures of one group, chunk by chunk, in the order given.

    Args:
      program: from :func:`compile_program`.
      identity: [A, 2], see ``spaces.arch_identity``.
      encoded: [A, ...], as their group encodes them.
      key: typed key.
      shared: what all candidates share, replicated.

    Yields:
      [n, S] losses of the next n architectures, n <= ``program.chunk_size``.
    """
    split = NamedSharding(program.mesh, PartitionSpec(_AXIS))
    pending: collections.deque[tuple[Array, int]] = collections.deque()
    for start in range(0, len(encoded), program.chunk_size):
        # What is missing in the last chunk repeats its first architecture, and is not valid.
        chunk = np.arange(start, start + program.chunk_size)
        count = int((chunk < len(encoded)).sum())
        chunk[count:] = start
        arrays = (identity[chunk], encoded[chunk], np.arange(len(chunk)) < count)
        losses = program.call(key, *jax.device_put(arrays, split), shared)
        pending.append((losses, count))
        if len(pending) >= _CHUNKS_IN_FLIGHT:
            yield _fetch(*pending.popleft())
    while pending:
        yield _fetch(*pending.popleft())


def _fetch(losses: Array, count: int) -> np.ndarray:
    return np.asarray(losses)[:count]


@dataclasses.dataclass(frozen=True)
class GroupInput:
    """Architectures of one group, as its program takes them.

    Attributes:
      group: the group.
      positions: [n], where they stand in the list.
      identity: uint32 [n, 2], see ``spaces.arch_identity``.
      encoded: int32 [n, ...].
    """

    group: spaces.Group
    positions: np.ndarray
    identity: np.ndarray
    encoded: np.ndarray


def group_inputs(archs: Sequence[Any], space: spaces.SearchSpace, grouping: Grouping) -> list[GroupInput]:
    """Canonical, distinct architectures by group, encoded."""
    found = []
    for group, members in by_group(archs, space, grouping).items():
        own = [archs[i] for i in members]
        identity = np.stack([spaces.arch_identity(space, arch) for arch in own])
        found.append(GroupInput(group, np.asarray(members), identity, group.encode(own)))
    return found


def run_groups(
    candidate_of: Callable[[spaces.Group], Callable[..., Array]],
    num_steps: int,
    inputs: Sequence[GroupInput],
    execution: Execution,
    key: Array,
    shared: tuple[Any, ...],
    compiled: Callable[[float], None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Losses of a list of architectures, one group after the other.

    Args:
      candidate_of: group -> losses_of, see :func:`compile_program`.
      num_steps: S.
      inputs: from :func:`group_inputs`.
      execution: devices and form.
      key: typed key.
      shared: what all candidates share, replicated.
      compiled: called with the seconds of each compilation of this call, before its program runs.

    Yields:
      (positions [n] in the list, losses [n, S]).
    """
    for one in inputs:
        compilations = num_compilations()
        program = compile_program(candidate_of(one.group), num_steps, one.encoded.shape[1:], execution, key, shared)
        if compiled is not None and num_compilations() > compilations:
            compiled(program.compile_seconds)
        done = 0
        for losses in run_program(program, one.identity, one.encoded, key, shared):
            yield one.positions[done : done + len(losses)], losses
            done += len(losses)


# --- plain scoring -------------------------------------------------------------------------------------------


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
        return compile_program(self.candidate(group), self.settings.num_steps, shape, self.execution, self.key, shared)


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
        score=proxy.scores(loss, effective_macs, space.max_macs(), job.settings.alpha),
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
    vmap_width: int = VMAP_WIDTH,
    grouping: Grouping = "coarse",
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
      vmap_width: candidates of one block of the vmap form; more fill an accelerator better and need more memory.
      grouping: ``"coarse"`` or ``"fine"``, see :class:`Execution`.
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
    job = make_job(space, settings, images, key, Execution.of(devices, form, chunk_size, vmap_width, grouping))
    parsed = []
    for position, arch in enumerate(archs):
        try:
            parsed.append(job.space.parse(arch))
        except ValueError as error:
            raise ValueError(f"archs[{position}]: {error}") from error
    plan = make_plan(parsed, job.space)
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
