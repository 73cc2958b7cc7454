"""This module evaluates any function of one candidate over a list of architectures.

Data flows one way: architectures -> canonical forms -> groups -> device programs -> rows. A result depends on
(architecture, function, shared arrays, key) only. Eproxy itself goes through :class:`Evaluation`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eproxy_jax import proxy, spaces
from eproxy_jax._version import __version__
from eproxy_jax.errors import check_known, one_line
from eproxy_jax.execution import memory
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import by_group, check_has_nan, distinct_networks, group_inputs, parse_all
from eproxy_jax.execution.programs import CompiledProgram, ProgramSpec, compile_program, run_groups
from eproxy_jax.jsonlines import ANOTHER_OUT, HeadedLines, decode_array, encode_array, fingerprint
from eproxy_jax.sources import source_fingerprint

if TYPE_CHECKING:
    from jaxtyping import Key, PyTree, Shaped

# (network, key, encoded, *shared) -> a pytree of arrays of one candidate. The network is a Linen module
# ``network.init/apply(images, encoded, init) -> taps``. Equal functions share compiled programs.
CandidateFn = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class OnNetwork:
    """A function of one candidate, bound to the network of its group. Equal objects share a compiled program.

    Attributes:
      fn: (network, key, encoded, *shared) -> arrays.
      network: the group's universal module.
    """

    fn: CandidateFn
    network: nn.Module

    def __call__(self, key: Array, encoded: Array, *shared: Any) -> Any:
        """Return the function's result for one candidate. Consumes the key."""
        return self.fn(self.network, key, encoded, *shared)


def arch_key(key: Key[Array, ""] | int, space: spaces.SearchSpace, arch: Any) -> Key[Array, ""]:
    """Return the key that an architecture gets in a run with ``key``.

    Architectures that compute the same function get the same key.

    Args:
      key: typed key of the run, or an integer seed for one.
      space: the search space.
      arch: an architecture, as ``space.parse`` returns it.
    """
    return proxy.candidate_key(proxy.typed_key(key), jnp.asarray(spaces.arch_identity(space, arch)))


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A function of one candidate, with all that its candidates share, on devices.

    Attributes:
      fn: see :data:`CandidateFn`.
      space: the search space.
      key: typed key, replicated.
      shared: the arrays that all candidates share, replicated.
      execution: devices and execution form.
      dtype: dtype of the networks' parameters.
    """

    fn: CandidateFn
    space: spaces.SearchSpace
    key: Array
    shared: tuple[Any, ...]
    execution: Execution
    dtype: Any = jnp.float32

    @classmethod
    def of(
        cls,
        fn: CandidateFn,
        space: spaces.SearchSpace,
        key: Array,
        shared: tuple[Any, ...],
        execution: Execution,
        dtype: Any = jnp.float32,
    ) -> Evaluation:
        """Make an evaluation; puts the key and the shared arrays on the devices."""
        key, shared = execution.replicate((key, jax.tree.map(jnp.asarray, shared)))
        return cls(fn, space, key, shared, execution, dtype)

    def candidate(self, group: spaces.Group) -> OnNetwork:
        """Bind the function to the network of a group."""
        return OnNetwork(self.fn, group.universal(self.dtype))

    def run(
        self, archs: Sequence[Any], compiled: Callable[[float], None] | None = None
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Evaluate canonical, distinct architectures of the space, chunk by chunk.

        Args:
          archs: the architectures.
          compiled: called after each compilation, with the seconds spent waiting for it.

        Yields:
          (positions [n] in ``archs``, the function's pytree with a leading axis n).
        """
        inputs = group_inputs(archs, self.space, self.execution.grouping)
        return run_groups(self.candidate, inputs, self.execution, self.key, self.shared, compiled)

    def program(self, arch: Any) -> CompiledProgram:
        """Return the compiled program of a canonical architecture's group. The first equal call compiles it."""
        (group,) = by_group([arch], self.space, self.execution.grouping)
        shape = group.encode([arch]).shape[1:]
        return compile_program(ProgramSpec.of(self.candidate(group), shape, self.execution, self.key, self.shared))

    def structure(self, arch: Any) -> Any:
        """Return shapes and dtypes of the function's result; compiles nothing."""
        group = self.space.group(arch)
        encoded = jnp.asarray(group.encode([arch])[0])
        return jax.eval_shape(self.candidate(group), self.key, encoded, *self.shared)

    def widened(self, archs: Sequence[Any]) -> Evaluation:
        """Return an evaluation with batches as wide as the devices' memory allows, if the execution asks for that.

        To find the width, the method compiles the program of the largest architecture.
        """
        execution = self.execution
        if not execution.auto_width or not archs:
            return self
        largest = self.program(max(archs, key=self.space.macs))
        width = memory.fitting_width(largest.temp_bytes, execution.vmap_width, execution.devices)
        return dataclasses.replace(self, execution=execution.widened(width))


def identity_of(space: spaces.SearchSpace, key: Array | int, execution: Execution) -> dict[str, Any]:
    """Return, as plain data, all that a result depends on besides architectures and function.

    Other versions of this package or of JAX may round otherwise, so they are part of it.

    Args:
      space: the search space.
      key: typed key, or the integer seed of one.
      execution: devices and execution form.
    """
    return {
        **space.identity(),
        "weight_seed": proxy.key_identity(key),
        "form": execution.label,
        "platform": execution.devices[0].platform,
        "versions": {"eproxy_jax": __version__, "jax": jax.__version__},
    }


def evaluate(
    fn: CandidateFn,
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = "nasbench201",
    *,
    key: Key[Array, ""] | int = 0,
    shared: tuple[PyTree[Shaped[Array | np.ndarray, " ..."]], ...] = (),
    execution: Execution | None = None,
    dtype: Any = jnp.float32,
    progress: Callable[[int, int], None] | None = None,
    path: str | os.PathLike[str] | None = None,
    identity: Mapping[str, Any] | None = None,
    disconnected: Literal["nan", "run"] = "nan",
) -> PyTree[Shaped[np.ndarray, "A ..."]]:
    """Evaluate any function of one candidate over a list of architectures.

    Architectures that compute the same function are evaluated once. A result depends on its own architecture only: not
    on order, duplicates, chunking or device count. Within one execution form this holds to the bit.

    A disconnected network computes a constant: its output never depends on the image (``space.is_connected``). By
    default it is not evaluated, and its results are NaN: a proxy ranks it last, with the score ``-inf``.

    Args:
      fn: (network, key, encoded, *shared) -> a pytree of arrays of ONE candidate. JAX traces it and maps it
        over candidates. ``network`` is a Linen module: ``network.init(key, images, encoded, init)`` and
        ``network.apply(variables, images, encoded, init) -> taps``. Pass the same function object again to use its
        compiled programs again.
      archs: architectures in any notation that ``space.parse`` reads, length A.
      space: a search space or its registry name.
      key: typed key, or an integer seed for one. Each architecture gets its own key, see :func:`arch_key`.
      shared: arrays, or pytrees of them, that all candidates share, such as images.
      execution: devices and execution form; all devices by default.
      dtype: dtype of the networks' parameters.
      progress: called with (networks done, networks in total) after each chunk.
      path: a file that gets the results as JSON lines. After a kill, a call with the same arguments continues where
        the file ends.
      identity: plain data for the file that names all else that ``fn`` depends on, besides its source and ``shared``.
      disconnected: ``"nan"`` gives NaN for disconnected networks, ``"run"`` evaluates them as all others.

    Returns:
      The pytree of ``fn`` with a leading axis A, NumPy arrays in the order of ``archs``.

    Raises:
      ValueError: an unreadable architecture (with its position), an empty list, a file of another evaluation; a
        disconnected network, where ``fn`` gives integers, which have no NaN.

    Example:
      >>> space = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
      >>> def num_weights(network, key, encoded, images):
      ...     params = network.init(key, images, encoded)["params"]
      ...     return sum(jnp.sum(leaf != 0) for leaf in jax.tree.leaves(params))
      >>> evaluate(num_weights, space.sample(3, 0), space, shared=(jnp.ones((2, 8, 8, 3)),)).shape
      (3,)
    """
    space = spaces.get(space) if isinstance(space, str) else space
    execution = Execution.of() if execution is None else execution
    check_known([disconnected], ("nan", "run"), "disconnected", "choice")
    networks = distinct_networks(parse_all(archs, space), space, run_disconnected=disconnected == "run")
    job = Evaluation.of(fn, space, proxy.typed_key(key), shared, execution, dtype).widened(networks.distinct)
    structure = job.structure(space.canonical(networks.archs[0]))
    if not networks.connected.all():
        for leaf in jax.tree.leaves(structure):
            check_has_nan(leaf.dtype, int((~networks.connected).sum()))
    rows: list[Any] = [None] * len(networks.distinct)
    texts = [space.format(arch) for arch in networks.distinct]
    file = None
    if path is not None:
        name = {
            **identity_of(space, key, job.execution),  # as it runs, with the width that memory allowed
            "dtype": jnp.dtype(dtype).name,
            "function": source_fingerprint(fn),
            "shared": _digest(job.shared),
            **(identity or {}),
        }
        file = _ColumnFile(Path(path), name, structure)
        rows = [file.known.get(text) for text in texts]
    try:
        missing = [i for i, row in enumerate(rows) if row is None]
        done = len(rows) - len(missing)
        if missing:
            todo = [networks.distinct[i] for i in missing]
            for positions, chunk in job.run(todo):
                own = [jax.tree.map(lambda leaf, n=n: leaf[n], chunk) for n in range(len(positions))]
                for position, row in zip(positions, own, strict=True):
                    rows[missing[position]] = row
                if file is not None:
                    file.append([texts[missing[position]] for position in positions], own)
                done += len(own)
                if progress is not None:
                    progress(done, len(rows))
    finally:
        if file is not None:
            file.close()
    if not rows:
        stacked = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape), leaf.dtype), structure)
    else:
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    return jax.tree.map(networks.spread, stacked)


def _digest(shared: tuple[Any, ...]) -> str:
    """Hash arrays: 12 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=6)
    for leaf in jax.tree.leaves(shared):
        array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


class _ColumnFile:
    """The results of one evaluation on disk, one JSON line for each network.

    Attributes:
      known: results of the file by canonical string.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], structure: Any):
        leaves, self._treedef = jax.tree.flatten(structure)
        header = {"evaluation": fingerprint({**identity, "leaves": [f"{x.dtype} {x.shape}" for x in leaves]})}
        self._file, self.known = HeadedLines(path, "file of an evaluation", {**header, **identity}, _differs(path)), {}
        try:
            for number, row in enumerate(self._file.rows, start=2):
                try:
                    pairs = zip(row["leaves"], leaves, strict=True)
                    arrays = [decode_array(value, leaf.shape, leaf.dtype) for value, leaf in pairs]
                    self.known[row["arch"]] = jax.tree.unflatten(self._treedef, arrays)
                except (KeyError, OverflowError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{path}:{number}: not a line of an evaluation ({one_line(error, 300)}): {ANOTHER_OUT}"
                    ) from error
        except ValueError:
            self._file.close()
            raise

    def append(self, archs: Sequence[str], rows: Sequence[Any]) -> None:
        """Write results of networks and flush them to the disk."""
        encoded = [[encode_array(np.asarray(leaf)) for leaf in jax.tree.leaves(row)] for row in rows]
        self._file.append([json.dumps({"arch": a, "leaves": e}) for a, e in zip(archs, encoded, strict=True)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _differs(path: Path) -> Callable[[Any], str]:
    """Return a function that gives the error message for the file of another evaluation."""
    return lambda _: (
        f"{path}: not of this evaluation: its function, space, key, form, versions or shared arrays differ: "
        f"{ANOTHER_OUT}"
    )
