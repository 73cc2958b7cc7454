"""This module compiles device programs, keeps them, and feeds them with candidates, chunk by chunk.

One program evaluates the candidates of one group: it maps a function of one candidate over many. It is compiled once
per (candidate function, shapes, execution) and kept for later calls of the process. After :func:`keep_on_disk` it is
kept on disk as well.

A candidate's randomness comes from its own identity, and devices do not communicate. So a result does not depend on
order, chunking, padding or device count. On GPUs it depends on the compilation: XLA times kernels to choose among them,
so two compilations differ as two forms do. A program on disk is compiled only once.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eproxy_jax import proxy, spaces
from eproxy_jax.execution import memory
from eproxy_jax.execution.execution import (
    AXIS,
    VMAP_WIDTH,
    Device,
    Execution,
    Form,
    Precision,
    candidates_mesh,
    matmul_precision,
)
from eproxy_jax.execution.grouping import GroupInput
from eproxy_jax.spaces.flax_family import explain_errors

# Number of chunks dispatched at once. With two, a device that finishes early starts on the next chunk.
_CHUNKS_IN_FLIGHT = 2
# Programs are dropped when the process has used this share of the memory mappings that Linux allows. XLA's CPU backend
# maps every kernel by itself, thousands per program, and crashes at the limit.
_MAPPINGS_SHARE = 0.3

# (key, encoded, *shared) -> arrays of one candidate. Equal functions share a compiled program.
BoundCandidateFn = Callable[..., Any]


# --- the program ---------------------------------------------------------------------------------------------


def chunk_program(
    candidate: BoundCandidateFn, form: Form, mesh: Mesh, vmap_width: int = VMAP_WIDTH
) -> Callable[..., Any]:
    """Return the function that evaluates one chunk of candidates, sharded over the mesh. It is to be jitted.

    Args:
      candidate: (key, encoded, *shared) -> a pytree of arrays of one candidate.
      form: execution form.
      mesh: 1-D device mesh.
      vmap_width: candidates of one block of the vmap form.

    Returns:
      (key, identity [N, 2], encoded [N, ...], valid [N], shared) -> the candidate's pytree with a leading axis N. N is
      a multiple of the mesh's size (times the width in the vmap form). Do not read rows that are not valid: they are
      NaN, 0 if the dtype has no NaN, or the result of padding.
    """

    def on_device(key: Array, identity: Array, encoded: Array, valid: Array, shared: tuple[Any, ...]) -> Any:
        def evaluate(identity: Array, encoded: Array) -> Any:
            return candidate(proxy.candidate_key(key, identity), encoded, *shared)

        def evaluate_alone(identity: Array, encoded: Array) -> Any:
            return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], evaluate(identity[0], encoded[0]))

        # Blocks without a valid candidate are skipped, so that a short last chunk costs no more than its candidates.
        width = 1 if form == "map" else vmap_width
        # Under jit it is traced once, for its shapes and for the program.
        evaluate_block = jax.jit(jax.vmap(evaluate) if form == "vmap" else evaluate_alone, inline=True)

        def block(arrays: tuple[Array, Array, Array]) -> Any:
            identity, encoded, valid = arrays
            skipped = jax.tree.map(_nothing, jax.eval_shape(evaluate_block, identity, encoded))
            return lax.cond(jnp.any(valid), evaluate_block, lambda i, e: skipped, identity, encoded)

        blocks = jax.tree.map(lambda x: x.reshape(-1, width, *x.shape[1:]), (identity, encoded, valid))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lax.map(block, blocks))

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(whole, split, split, split, whole),
        out_specs=split,
        check_vma=False,  # devices do not communicate: nothing to check, and custom rules need no annotation
    )


def _nothing(leaf: jax.ShapeDtypeStruct) -> Array:
    return jnp.full(leaf.shape, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0, leaf.dtype)


@dataclasses.dataclass(frozen=True)
class ProgramSpec:
    """The description of a compiled program: all that it depends on. It is hashable.

    Attributes:
      candidate: (key, encoded, *shared) -> arrays of one candidate. Equal functions share a program.
      encoded_shape: shape of one encoded architecture.
      form: execution form.
      devices: devices.
      chunk_size: N.
      vmap_width: candidates of one block of the vmap form.
      precision: see :class:`Execution`.
      shared: (treedef, (shape, dtype) of each leaf) of the key and the shared arrays.
    """

    candidate: BoundCandidateFn
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
        candidate: BoundCandidateFn,
        encoded_shape: tuple[int, ...],
        execution: Execution,
        key: Array,
        shared: tuple[Any, ...],
    ) -> ProgramSpec:
        """Make the spec of actual arguments; only their shapes and dtypes matter."""
        leaves, treedef = jax.tree.flatten((key, shared))
        shapes = (treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        width = execution.vmap_width if execution.form == "vmap" else 1
        sizes = (execution.form, execution.devices, execution.chunk_size, width, execution.precision)
        return cls(candidate, encoded_shape, *sizes, shapes)

    def lower(self) -> tuple[Any, Mesh]:
        """Trace the program; returns (the lowered program, its mesh)."""
        mesh = candidates_mesh(self.devices)
        split, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
        key, shared = jax.tree.unflatten(
            self.shared[0], [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in self.shared[1]]
        )
        identity = jax.ShapeDtypeStruct((self.chunk_size, 2), jnp.uint32, sharding=split)
        encoded = jax.ShapeDtypeStruct((self.chunk_size, *self.encoded_shape), jnp.int32, sharding=split)
        valid = jax.ShapeDtypeStruct((self.chunk_size,), jnp.bool_, sharding=split)
        program = jax.jit(chunk_program(self.candidate, self.form, mesh, self.vmap_width))
        with matmul_precision(self.precision):
            return program.lower(key, identity, encoded, valid, shared), mesh


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """A compiled chunk program.

    Attributes:
      call: the executable; its arguments are those of :func:`chunk_program`'s result.
      mesh: its devices.
      chunk_size: N.
      compile_seconds: time of tracing and compilation, s.
      temp_bytes: working memory per device, bytes.
    """

    call: Any
    mesh: Mesh
    chunk_size: int
    compile_seconds: float
    temp_bytes: int

    @property
    def devices(self) -> list[Device]:
        """The devices that the program runs on."""
        return list(self.mesh.devices.flat)


# --- compiling, and keeping ----------------------------------------------------------------------------------


_kept: dict[ProgramSpec, CompiledProgram] = {}


def _lower(spec: ProgramSpec) -> Callable[[], CompiledProgram]:
    """Trace a program now, under the JAX configuration of this thread; the returned function compiles it."""
    start = time.perf_counter()
    lowered, mesh = spec.lower()
    traced = time.perf_counter() - start

    def finish() -> CompiledProgram:
        start = time.perf_counter()
        call = lowered.compile()
        temp_bytes = int(getattr(call.memory_analysis(), "temp_size_in_bytes", 0))
        return CompiledProgram(call, mesh, spec.chunk_size, traced + time.perf_counter() - start, temp_bytes)

    return finish


def compile_program(spec: ProgramSpec) -> CompiledProgram:
    """Return the compiled chunk program. The first call with an equal spec compiles it."""
    if spec not in _kept:
        if memory.mappings_left() < 1 - _MAPPINGS_SHARE:
            forget()
        _kept[spec] = _lower(spec)()
    return _kept[spec]


def num_compilations() -> int:
    """Return the number of programs compiled since the last :func:`forget`; programs read from disk count."""
    return len(_kept)


def forget() -> None:
    """Drop all compiled programs of this process, except those that run."""
    _kept.clear()


def keep_on_disk(folder: str | os.PathLike[str]) -> None:
    """Keep compiled programs in a folder, for later processes (JAX's persistent compilation cache).

    A folder that ``JAX_COMPILATION_CACHE_DIR`` or the caller has set stays.

    Raises:
      OSError: the folder cannot be made, or may not be written.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    path = Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: may not be written")
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


# --- running -------------------------------------------------------------------------------------------------


def run_program(program: CompiledProgram, one: GroupInput, key: Array, shared: tuple[Any, ...]) -> Iterator[Any]:
    """Yield the results of the architectures of one group, chunk by chunk, in the order given.

    Args:
      program: from :func:`compile_program`.
      one: canonical, distinct architectures.
      key: typed key.
      shared: the arrays that all candidates share, replicated.

    Yields:
      The candidate's pytree, each leaf with a leading axis: the next n architectures, n <= ``program.chunk_size``.
    """
    split = NamedSharding(program.mesh, PartitionSpec(AXIS))
    pending: collections.deque[tuple[Any, int]] = collections.deque()
    total = len(one.positions)
    for start in range(0, total, program.chunk_size):
        # The last chunk is filled up with its first architecture; these rows are not valid.
        chunk = np.arange(start, start + program.chunk_size)
        count = int((chunk < total).sum())
        chunk[count:] = start
        arrays = (one.identity[chunk], one.encoded[chunk], np.arange(len(chunk)) < count)
        pending.append((program.call(key, *jax.device_put(arrays, split), shared), count))
        if len(pending) >= _CHUNKS_IN_FLIGHT:
            yield _fetch(*pending.popleft())
    while pending:
        yield _fetch(*pending.popleft())


def _fetch(rows: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], rows)


class _Compiler:
    """Compiles programs on demand or, on accelerators, one group ahead in another thread."""

    def __init__(self, background: concurrent.futures.Executor, compiled: Callable[[float], None] | None):
        self._background = background
        self._compiled = compiled
        self._ahead: dict[ProgramSpec, concurrent.futures.Future[CompiledProgram]] = {}

    def program_of(self, spec: ProgramSpec) -> CompiledProgram:
        """Return the program, and report the seconds spent waiting for its compilation, if any."""
        if spec in _kept:
            return _kept[spec]
        start = time.perf_counter()
        if spec in self._ahead:
            _kept[spec] = self._ahead.pop(spec).result()
        program = compile_program(spec)
        if self._compiled is not None:
            self._compiled(time.perf_counter() - start)
        return program

    def prepare(self, spec: ProgramSpec) -> None:
        """Trace a program now and compile it in the background, unless it exists or another one is compiling."""
        if spec not in _kept and not self._ahead:
            self._ahead[spec] = self._background.submit(_lower(spec))

    def drop(self) -> None:
        """Forget the programs that are compiling."""
        self._ahead.clear()


def run_groups(
    candidate_of: Callable[[spaces.Group], BoundCandidateFn],
    inputs: Sequence[GroupInput],
    execution: Execution,
    key: Array,
    shared: tuple[Any, ...],
    compiled: Callable[[float], None] | None = None,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield the results of a list of architectures, one group after the other.

    If a group does not fit in the devices' memory, it continues with half the candidates at a time, with a warning.

    Args:
      candidate_of: group -> function of one candidate, see :class:`ProgramSpec`.
      inputs: architectures by group.
      execution: devices and execution form.
      key: typed key, replicated.
      shared: the arrays that all candidates share, replicated.
      compiled: called before a new program runs, with the seconds spent waiting for its compilation.

    Yields:
      (positions [n] in the list, the candidate's pytree with a leading axis n).

    Raises:
      jax.errors.JaxRuntimeError: one candidate is too large for a device's memory.
      ValueError: the same of a user's own network, or its code fails while it runs.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        compiler = _Compiler(background, compiled)
        for number, one in enumerate(inputs):
            following = inputs[number + 1] if number + 1 < len(inputs) else None
            done = 0
            while done < len(one.positions):
                try:
                    rest = one.since(done)
                    for rows in _run_group(candidate_of, rest, following, execution, key, shared, compiler):
                        count = len(jax.tree.leaves(rows)[0])
                        yield one.positions[done : done + count], rows
                        done += count
                except (jax.errors.JaxRuntimeError, MemoryError) as error:
                    halved = execution.halved()
                    if not memory.is_out_of_memory(error) or halved is None:
                        with explain_errors(one.group.universal()):
                            raise
                    execution = halved
                    compiler.drop()
                    warnings.warn(_halved_text(error, halved), RuntimeWarning, stacklevel=2)


def _run_group(
    candidate_of: Callable[[spaces.Group], BoundCandidateFn],
    one: GroupInput,
    following: GroupInput | None,
    execution: Execution,
    key: Array,
    shared: tuple[Any, ...],
    compiler: _Compiler,
) -> Iterator[Any]:
    """Yield the results of one group, chunk by chunk; the next group's program may compile meanwhile."""

    def spec(one: GroupInput) -> ProgramSpec:
        return ProgramSpec.of(candidate_of(one.group), one.encoded.shape[1:], execution, key, shared)

    program = compiler.program_of(spec(one))
    can_shrink = execution.form == "vmap" and execution.halved() is not None
    if can_shrink and not memory.fits(program.temp_bytes, program.devices):
        raise MemoryError(f"{program.temp_bytes / 2**20:.0f} MiB of working memory a device")
    if execution.compile_ahead and following is not None:
        compiler.prepare(spec(following))
    yield from run_program(program, one, key, shared)


def _halved_text(error: Exception, halved: Execution) -> str:
    text = f"out of memory ({str(error).splitlines()[0]}); going on with {halved.chunk_size} candidates at a time"
    if halved.form == "vmap":
        text += f", {halved.vmap_width} in a batch: the last digits of losses depend on that (--vmap-width)"
    return text
