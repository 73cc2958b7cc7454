"""Device programs: what is compiled, kept, and fed with candidates, chunk by chunk.

One program trains the candidates of one group. It is compiled once per (candidate function, shapes, execution) and kept
for later calls of the process, and on disk where :func:`keep_on_disk` says so.

Execution forms:
  * ``map``: candidates of a device one after the other (``lax.map``), each paying for its own operations only. For
    CPUs.
  * ``vmap``: candidates of a device in batches of one fixed width. For accelerators.

In both forms a candidate's randomness comes from its own identity, and devices do not communicate, so that a score
does not depend on order, chunking, padding or device count. On GPUs it depends on the compilation: XLA times kernels to
choose among them, and two compilations differ as two forms do. Kept on disk, a program is compiled once.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eproxy_jax import proxy, spaces
from eproxy_jax.nn import precision as precision_lib

Form = Literal["map", "vmap"]
Grouping = Literal["coarse", "fine"]
Precision = Literal["default", "float32", "bfloat16"]
Device: TypeAlias = Any  # jax.Device, which type checkers take for a variable

_AXIS = "candidates"
_FORMS = ("map", "vmap")
_GROUPINGS = ("coarse", "fine")
# What each precision is for jax.default_matmul_precision.
_PRECISIONS = {"default": None, "float32": "highest", "bfloat16": precision_lib.BFLOAT16_PRODUCTS}
# Candidates of one block of the vmap form. Rounding depends on a batch's size, so it is fixed, whatever the chunks.
VMAP_WIDTH = 32
_MAX_VMAP_WIDTH = 512
# Candidates per device and chunk of the map form: few, so that results are safe on disk every few seconds.
_MAP_CHUNK = 4
# Chunks dispatched ahead: with two, a device that finishes its share early starts on the next chunk.
_CHUNKS_IN_FLIGHT = 2
# Share of the free memory that working memory may take.
_MEMORY_SHARE = 0.8
# Programs are dropped when the process has used this share of the memory mappings that Linux allows it: XLA's CPU
# backend maps every kernel by itself, thousands a program, and crashes at the limit.
_MAPPINGS_SHARE = 0.3


# --- how to run ----------------------------------------------------------------------------------------------


def default_form(devices: Sequence[Device]) -> Form:
    """``map`` on CPUs, ``vmap`` on accelerators."""
    return "map" if all(device.platform == "cpu" for device in devices) else "vmap"


def matmul_precision(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """What programs of a precision are traced in."""
    return jax.default_matmul_precision(_PRECISIONS[precision])


def candidates_mesh(devices: Sequence[Device]) -> Mesh:
    """A 1-D mesh over the candidate axis."""
    return Mesh(np.asarray(devices), (_AXIS,), axis_types=(AxisType.Auto,))


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
      precision: of the operands of matrix products. ``default`` is the backend's own way with float32: exact on CPUs,
        rounded to tf32 or bfloat16 on accelerators. ``float32`` is exact everywhere. ``bfloat16`` rounds operands.
        Sums, statistics, weights and activations are float32 in all three.
      compile_ahead: compile a group's program while the one before runs; on CPUs the two only get in each other's way.
    """

    devices: tuple[Device, ...]
    form: Form
    chunk_size: int
    vmap_width: int = VMAP_WIDTH
    grouping: Grouping = "coarse"
    precision: Precision = "default"
    compile_ahead: bool = False

    @classmethod
    def of(
        cls,
        devices: Sequence[Device] | None = None,
        form: Form | None = None,
        chunk_size: int | None = None,
        vmap_width: int | Literal["auto"] = VMAP_WIDTH,
        grouping: Grouping = "coarse",
        precision: Precision = "default",
    ) -> Execution:
        """Fill in what is absent: this process's devices, the form of their platform, a chunk of a few seconds.

        A width of ``"auto"`` starts at ``VMAP_WIDTH``, to be widened by ``runner.widest``.

        Raises:
          ValueError: an unknown form, grouping or precision, a size below 1.
        """
        devices = tuple(jax.local_devices() if devices is None else devices)
        vmap_width = VMAP_WIDTH if vmap_width == "auto" else vmap_width
        form = default_form(devices) if form is None else form
        choices = (
            ("execution form", form, _FORMS),
            ("grouping", grouping, _GROUPINGS),
            ("precision", precision, _PRECISIONS),
        )
        for name, value, known in choices:
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        for name, value in (("chunk_size", chunk_size), ("vmap_width", vmap_width)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value}")
        block = len(devices) * (1 if form == "map" else vmap_width)
        if chunk_size is None:
            chunk_size = len(devices) * (_MAP_CHUNK if form == "map" else vmap_width)
        ahead = any(device.platform != "cpu" for device in devices)
        return cls(devices, form, -(-chunk_size // block) * block, vmap_width, grouping, precision, ahead)

    def replicate(self, tree: Any) -> Any:
        """Put what all candidates share on every device."""
        return jax.device_put(tree, NamedSharding(candidates_mesh(self.devices), PartitionSpec()))

    @property
    def label(self) -> str:
        """What of it the losses depend on, for the record of a run."""
        parts = [self.form if self.form == "map" else f"vmap {self.vmap_width}"]
        if self.grouping == "fine":
            parts.append("fine groups")
        if self.precision != "default":
            parts.append(f"{self.precision} products")
        return ", ".join(parts)

    def widened(self, width: int) -> Execution:
        """The same in the vmap form with batches of ``width``, one a device and chunk."""
        return dataclasses.replace(self, vmap_width=width, chunk_size=len(self.devices) * width)

    def halved(self) -> Execution | None:
        """The same with half the candidates at a time; None where there is one a device."""
        devices = len(self.devices)
        width = 1 if self.form == "map" else self.vmap_width
        if self.chunk_size > devices * width:
            blocks = self.chunk_size // (devices * width)
            return dataclasses.replace(self, chunk_size=blocks // 2 * devices * width)
        if width == 1:
            return None
        return dataclasses.replace(self, chunk_size=devices * (width // 2), vmap_width=width // 2)


# --- the program ---------------------------------------------------------------------------------------------


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
class ProgramSpec:
    """Everything a compiled program depends on; hashable.

    Attributes:
      losses_of: (key, encoded, *shared) -> losses [S] of one candidate; equal ones share a program.
      num_steps: S.
      encoded_shape: shape of one encoded architecture.
      form: execution form.
      devices: devices.
      chunk_size: N.
      vmap_width: candidates of one block of the vmap form.
      precision: see :class:`Execution`.
      shared: (treedef, (shape, dtype) of each leaf) of the key and what is shared.
    """

    losses_of: Callable[..., Array]
    num_steps: int
    encoded_shape: tuple[int, ...]
    form: Form
    devices: tuple[Device, ...]
    chunk_size: int
    vmap_width: int
    precision: Precision
    shared: Any

    @classmethod
    def of(
        cls,
        losses_of: Callable[..., Array],
        num_steps: int,
        encoded_shape: tuple[int, ...],
        execution: Execution,
        key: Array,
        shared: tuple[Any, ...],
    ) -> ProgramSpec:
        """The spec of actual arguments, of which only shapes and dtypes matter."""
        leaves, treedef = jax.tree.flatten((key, shared))
        shapes = (treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        width = execution.vmap_width if execution.form == "vmap" else 1
        sizes = (execution.form, execution.devices, execution.chunk_size, width, execution.precision)
        return cls(losses_of, num_steps, encoded_shape, *sizes, shapes)

    def lower(self) -> tuple[Any, Mesh]:
        """Trace it: (the lowered program, its mesh)."""
        mesh = candidates_mesh(self.devices)
        split, whole = NamedSharding(mesh, PartitionSpec(_AXIS)), NamedSharding(mesh, PartitionSpec())
        key, shared = jax.tree.unflatten(
            self.shared[0], [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in self.shared[1]]
        )
        dtype = jax.tree.leaves(shared)[0].dtype
        identity = jax.ShapeDtypeStruct((self.chunk_size, 2), jnp.uint32, sharding=split)
        encoded = jax.ShapeDtypeStruct((self.chunk_size, *self.encoded_shape), jnp.int32, sharding=split)
        valid = jax.ShapeDtypeStruct((self.chunk_size,), jnp.bool_, sharding=split)
        program = jax.jit(chunk_program(self.losses_of, self.num_steps, self.form, mesh, self.vmap_width, dtype))
        with matmul_precision(self.precision):
            return program.lower(key, identity, encoded, valid, shared), mesh


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


# --- compiling, and keeping ----------------------------------------------------------------------------------

_kept: dict[ProgramSpec, CompiledProgram] = {}
_num_compilations = 0


def num_compilations() -> int:
    """Device programs compiled so far in this process; those read from disk count."""
    return _num_compilations


def forget() -> None:
    """Drop all compiled programs of this process that are not running."""
    _kept.clear()


def keep_on_disk(folder: str | os.PathLike[str]) -> None:
    """Keep compiled programs in a folder, for later processes (JAX's persistent compilation cache).

    A folder already set, by ``JAX_COMPILATION_CACHE_DIR`` or the caller, stays.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def mappings_left() -> float:
    """Share of the memory mappings this process may have and has not; 1 where the system sets no limit."""
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        with Path("/proc/self/maps").open("rb") as maps:
            return 1 - sum(1 for _ in maps) / limit
    except (OSError, ValueError):
        return 1.0


def _start(spec: ProgramSpec) -> Callable[[], CompiledProgram]:
    """Trace a program now; what is returned compiles it, in any thread, and is to be kept by :func:`_keep`."""
    if spec in _kept:
        return lambda: _kept[spec]
    if mappings_left() < 1 - _MAPPINGS_SHARE:
        forget()
    start = time.perf_counter()
    lowered, mesh = spec.lower()
    traced = time.perf_counter() - start

    def compile() -> CompiledProgram:
        start = time.perf_counter()
        call = lowered.compile()
        memory = getattr(call.memory_analysis(), "temp_size_in_bytes", 0)
        return CompiledProgram(call, mesh, spec.chunk_size, traced + time.perf_counter() - start, int(memory))

    return compile


def _keep(spec: ProgramSpec, program: CompiledProgram) -> CompiledProgram:
    global _num_compilations
    if spec not in _kept:
        _num_compilations += 1
        _kept[spec] = program
    return _kept[spec]


def compile_program(spec: ProgramSpec) -> CompiledProgram:
    """The compiled chunk program; compiled on the first call with an equal spec."""
    return _keep(spec, _start(spec)())


# --- memory --------------------------------------------------------------------------------------------------


def _available_bytes() -> int | None:
    """Memory that Linux could give to a process, bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def free_bytes(devices: Sequence[Device]) -> int | None:
    """Free memory of the fullest of some devices, bytes; None where nobody says. CPU devices share the machine's."""
    free = []
    for device in devices:
        stats = device.memory_stats() if device.platform != "cpu" else None
        if stats and "bytes_limit" in stats:
            free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        elif device.platform == "cpu" and (available := _available_bytes()) is not None:
            free.append(available // len(devices))
    return min(free) if free else None


def fits(program: CompiledProgram) -> bool:
    """Whether the working memory that the compiler reports is there."""
    free = free_bytes(list(program.mesh.devices.flat))
    return free is None or program.temp_bytes <= _MEMORY_SHARE * free


def fitting_width(program: CompiledProgram, execution: Execution) -> int:
    """The most candidates of one batch, a power of two, that the devices' free memory holds.

    Args:
      program: of one group, compiled for ``execution``.
      execution: in the vmap form.
    """
    free = free_bytes(execution.devices)
    if free is None or program.temp_bytes == 0:
        return execution.vmap_width
    most = _MEMORY_SHARE * free * execution.vmap_width / program.temp_bytes
    return int(2 ** np.floor(np.log2(np.clip(most, 1, _MAX_VMAP_WIDTH))))


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


# --- running -------------------------------------------------------------------------------------------------


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

    A group that does not fit in the devices' memory goes on with half the candidates at a time, with a warning.

    Args:
      candidate_of: group -> losses_of, see :class:`ProgramSpec`.
      num_steps: S.
      inputs: architectures by group.
      execution: devices and form.
      key: typed key.
      shared: what all candidates share, replicated.
      compiled: called with the seconds waited for each compilation of this call, before its program runs.

    Yields:
      (positions [n] in the list, losses [n, S]).

    Raises:
      jax.errors.JaxRuntimeError: one candidate a device is too much for its memory.
    """

    def spec(one: GroupInput) -> ProgramSpec:
        return ProgramSpec.of(candidate_of(one.group), num_steps, one.encoded.shape[1:], execution, key, shared)

    with concurrent.futures.ThreadPoolExecutor(1) as background:
        ahead: dict[ProgramSpec, concurrent.futures.Future[CompiledProgram]] = {}

        def program_of(one: GroupInput) -> CompiledProgram:
            before, start, wanted = num_compilations(), time.perf_counter(), spec(one)
            program = _keep(wanted, ahead.pop(wanted).result() if wanted in ahead else _start(wanted)())
            if compiled is not None and num_compilations() > before:
                compiled(time.perf_counter() - start)
            return program

        for number, one in enumerate(inputs):
            done = 0
            while done < len(one.positions):
                try:
                    program = program_of(one)
                    if execution.form == "vmap" and execution.halved() is not None and not fits(program):
                        raise MemoryError(f"{program.temp_bytes / 2**20:.0f} MiB of working memory a device")
                    if execution.compile_ahead and number + 1 < len(inputs) and not ahead:
                        following = spec(inputs[number + 1])
                        ahead[following] = background.submit(_start(following))
                    rest = slice(done, None)
                    for losses in run_program(program, one.identity[rest], one.encoded[rest], key, shared):
                        yield one.positions[done : done + len(losses)], losses
                        done += len(losses)
                except (jax.errors.JaxRuntimeError, MemoryError) as error:
                    halved = execution.halved()
                    if not _out_of_memory(error) or halved is None:
                        raise
                    execution = halved
                    ahead.clear()
                    warnings.warn(_halved_text(error, halved), RuntimeWarning, stacklevel=2)


def _halved_text(error: Exception, halved: Execution) -> str:
    text = f"out of memory ({str(error).splitlines()[0]}); going on with {halved.chunk_size} candidates at a time"
    if halved.form == "vmap":
        text += f", {halved.vmap_width} in a batch: the last digits of losses depend on that (--vmap-width)"
    return text
