"""This module runs a Discrete Proxy Search: it compiles one program, saves the history, resumes, and fits a proxy."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from scipy import stats

from eproxy_jax import proxy, scoring, spaces
from eproxy_jax.dps import evolution, fitted, tiered
from eproxy_jax.dps.evolution import SearchSpec, SearchState
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.dps.labels import Labels, connected_labels, fitness_of, make_labels
from eproxy_jax.errors import one_line
from eproxy_jax.execution import programs
from eproxy_jax.execution.execution import Execution, candidates_mesh, matmul_precision
from eproxy_jax.execution.grouping import parse_all
from eproxy_jax.images import default_images, standardize
from eproxy_jax.jsonlines import HeadedLines, decode_array, encode_array, fingerprint
from eproxy_jax.progress import Progress

if TYPE_CHECKING:
    from jaxtyping import Key, Num

Kind = Literal["evolution", "random"]
# Tag of the evolution's draws: they do not depend on other draws from the same seed.
_TAG_EVOLUTION = 5


# --- the compiled search -------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _advance_search(
    table: GeneTable,
    spec: SearchSpec,
    execution: Execution,
    keys: tuple[Array, Array],
    state: SearchState,
    random_until: Array,
    stop: Array,
    labels: Labels,
    task: tiered.TieredTask,
) -> SearchState:
    dtype = task.images.dtype
    mesh = candidates_mesh(execution.devices)

    def chunk(group: spaces.Group) -> Callable[..., Array]:
        candidate = tiered.Candidate.of(group, table, spec.num_steps, dtype)
        return programs.chunk_program(candidate, execution.form, mesh, execution.vmap_width)

    parts = [(chunk(part.group), part) for part in labels.functions]
    weights_key, evolution_key = keys

    def evaluate(genes: Array) -> tuple[Array, Array]:
        setting = tiered.setting_task(table, task, genes)

        def final_losses(seed: Array) -> Array:
            weight_key = jax.random.fold_in(weights_key, seed)
            losses = [
                train(weight_key, part.identity, part.encoded, part.valid, (setting,))[:, -1] for train, part in parts
            ]
            return jnp.concatenate(losses)[labels.position]

        losses = lax.map(final_losses, jnp.arange(spec.weight_seeds))
        alpha = table.values(genes, "alpha").astype(dtype)
        return fitness_of(losses, alpha, labels, spec.blend), losses

    return evolution.advance(table, spec, evaluate, evolution_key, state, random_until, stop)


@dataclasses.dataclass(frozen=True)
class Search:
    """A compiled search, ready to run.

    Attributes:
      spec: sizes and rates.
      table: the gene table.
      call: (state, random_until, stop) -> state, ``log_every`` evaluations further.
      initial: the state to start from.
      compile_seconds: time of tracing and compilation, s.
    """

    spec: SearchSpec
    table: GeneTable
    call: Callable[[SearchState, int, int], SearchState]
    initial: SearchState
    compile_seconds: float


def make_search(
    table: GeneTable,
    spec: SearchSpec,
    labels: Labels,
    images: Array,
    key: Array | int,
    search_key: Array | int,
    execution: Execution,
) -> Search:
    """Compile a search, once.

    Args:
      table: the gene table.
      spec: sizes and rates.
      labels: from :func:`make_labels`.
      images: [B, H, W, 3], standardised.
      key: key of weights, features and barriers; a typed key or an integer.
      search_key: key of the evolution; a typed key or an integer.
      execution: devices and execution form.
    """
    weights_key = proxy.typed_key(key)
    task = jax.jit(tiered.make_task, static_argnums=1)(weights_key, tiered.TierSpec.of(table), images)
    evolution_key = jax.random.fold_in(proxy.typed_key(search_key), _TAG_EVOLUTION)
    initial = evolution.initial_state(table, spec, len(labels.truth), images.dtype)
    keys, labels, task, initial = execution.replicate(((weights_key, evolution_key), labels, task, initial))
    zero = execution.replicate(np.asarray(0, np.int32))
    start = time.perf_counter()
    with matmul_precision(execution.precision):
        lowered = _advance_search.lower(table, spec, execution, keys, initial, zero, zero, labels, task)
    program = lowered.compile()
    seconds = time.perf_counter() - start

    def call(state: SearchState, random_until: int, stop: int) -> SearchState:
        limits = execution.replicate((np.asarray(random_until, np.int32), np.asarray(stop, np.int32)))
        return program(keys, state, *limits, labels, task)

    return Search(spec, table, call, initial, seconds)


# --- running it ----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Problem:
    """The problem of a search: all that the search depends on.

    Attributes:
      space: the search space.
      genes: the gene table.
      search: sizes and rates.
      images: [B, H, W, 3], standardised.
      key: key of weights, features and barriers; a typed key or an integer.
      search_key: key of the evolution; a typed key or an integer.
      labelled: architectures, length A.
      truth: their values, higher is better.
      warm: (genome [G], losses [A], fitness) of settings to start from instead of random ones; None for none.
    """

    space: spaces.SearchSpace
    genes: GeneTable
    search: SearchSpec
    images: Array
    key: Array | int
    search_key: Array | int
    labelled: tuple[Any, ...]
    truth: tuple[float, ...]
    warm: tuple[tuple[np.ndarray, np.ndarray, float], ...] | None = None

    def identity(self, kind: Kind, execution: Execution) -> dict[str, Any]:
        """Return all of it as plain data. Equal identities give equal histories."""
        return {
            **scoring.run_identity(self.space, self.images, self.key, execution),
            "genes": self.genes.to_dict(),
            "search": dataclasses.asdict(self.search),
            "seed": proxy.key_identity(self.search_key),
            "labelled": [self.space.format(arch) for arch in self.labelled],
            "truth": list(self.truth),
            "warm": [genes.tolist() for genes, *_ in self.warm or ()],
            "kind": kind,
        }


def prepare(problem: Problem, execution: Execution) -> Search:
    """Compile the search of a problem; see :func:`make_search`."""
    labels = make_labels(problem.space, problem.labelled, problem.truth, execution)
    return make_search(
        problem.genes, problem.search, labels, problem.images, problem.key, problem.search_key, execution
    )


def run(
    search: Search,
    problem: Problem,
    workdir: Path | None,
    kind: Kind,
    execution: Execution,
    max_seconds: float | None = None,
    progress: Callable[[SearchState], None] | None = None,
) -> SearchState:
    """Run a search to its budget, or resume a stopped one.

    Args:
      search: from :func:`prepare`.
      problem: the problem of that search.
      workdir: folder of the history, ``history.KIND.jsonl``, appended every ``log_every`` evaluations; None for none.
      kind: ``"evolution"``, or ``"random"`` for a random search of the same budget.
      execution: devices and execution form.
      max_seconds: stop at the first return to the host after this time.
      progress: called with the state at the start and every ``log_every`` evaluations.

    Returns:
      The history, on the host.

    Raises:
      ValueError: the folder holds the history of another search, or of an older version.
    """
    state = search.initial if kind == "random" else _warm_state(search, problem)
    history = None
    if workdir is not None:
        history = HistoryFile(workdir, kind, fingerprint(problem.identity(kind, execution)))
    try:
        if history is not None:
            state = history.restore(state)
        state = execution.replicate(state)
        total = problem.search.num_evaluations
        # A warm start counts as evaluations, so fewer random ones are left to fill the population.
        random_until = total if kind == "random" else problem.search.population_size
        if progress is not None:
            progress(state)
        start = time.perf_counter()
        while int(state.count) < total and (max_seconds is None or time.perf_counter() - start < max_seconds):
            state = search.call(state, random_until, total)
            host = jax.device_get(state)
            if history is not None:
                history.save(host)
            if progress is not None:
                progress(host)
    finally:
        if history is not None:
            history.close()
    return jax.device_get(state)


def _warm_state(search: Search, problem: Problem) -> SearchState:
    """Return the initial state with the settings of the warm start as evaluations that cost nothing."""
    if not problem.warm:
        return search.initial
    host = jax.tree.map(np.array, jax.device_get(search.initial))
    warm = problem.warm[: problem.search.num_evaluations]
    # Worst first: the population forgets its oldest members first.
    for number, (genes, losses, fitness) in enumerate(reversed(warm)):
        host.genes[number], host.fitness[number], host.losses[number] = genes, fitness, losses[None]
    return host.replace(count=np.asarray(len(warm), np.int32))


def history_path(workdir: Path, kind: Kind) -> Path:
    """Return the history of a kind of search in a folder."""
    return workdir / f"history.{kind}.jsonl"


class HistoryFile:
    """The history of one search on disk: one JSON line for each evaluation, which reads back to the same bits.

    Args:
      workdir: the folder of the file.
      kind: kind of the search.
      run_id: fingerprint of the search; the history of another search is refused.

    Raises:
      ValueError: the folder holds another search, or checkpoints of an older version.
    """

    def __init__(self, workdir: Path, kind: Kind, run_id: str):
        path = history_path(workdir, kind)
        if (old := workdir / "checkpoints").is_dir() and not path.exists():
            raise ValueError(
                f"{old}: checkpoints of an older eproxy_jax, which this version does not resume: choose another "
                "--workdir, or move the folder away"
            )
        other = (
            f"{path}: the history of another search: its space, genes, labels, seed, sizes or versions differ: choose "
            "another --workdir, or move the file away"
        )
        self._file = HeadedLines(path, "history of a search", {"search": run_id}, lambda _: other)

    def restore(self, state: SearchState) -> SearchState:
        """Return the last saved state, or ``state`` if there is none.

        Where the newest line is damaged, the lines before it count, with a warning.

        Raises:
          ValueError: another line is no evaluation; the message holds its number and a remedy.
        """
        rows = self._file.rows
        if not rows:
            return state
        host = jax.tree.map(np.array, jax.device_get(state))
        for number, row in enumerate(rows):
            try:
                if not all(type(gene) is int for gene in row["genes"]):
                    raise TypeError("genes: expected integers")
                host.genes[number] = row["genes"]
                host.fitness[number] = decode_array(row["fitness"], (), host.fitness.dtype)
                host.losses[number] = decode_array(row["losses"], host.losses.shape[1:], host.losses.dtype)
            except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
                where = f"{self._file.path}:{number + 2}: not an evaluation of this search ({one_line(error, 300)})"
                if number == len(rows) - 1:
                    warnings.warn(f"{where}: the lines before it count", RuntimeWarning, stacklevel=2)
                    self._file.rewrite(rows[:-1])
                    return self.restore(state)
                raise ValueError(
                    f"{where}: remove this line and those after it to resume, or choose another --workdir"
                ) from error
        return host.replace(count=np.asarray(len(rows), np.int32))

    def save(self, state: SearchState) -> None:
        """Append the evaluations that the file lacks."""
        genes, fitness, losses = (np.asarray(array) for array in (state.genes, state.fitness, state.losses))
        self._file.append(
            [
                json.dumps(
                    {
                        "genes": genes[i].tolist(),
                        "fitness": encode_array(fitness[i]),
                        "losses": encode_array(losses[i]),
                    }
                )
                for i in range(len(self._file.rows), int(state.count))
            ]
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def show_progress(search: SearchSpec, kind: Kind) -> Callable[[SearchState], None]:
    """Return a callback for :func:`run` that shows evaluations, rate, ETA, diverged and fitness on stderr."""
    meter: list[Progress] = []

    def show(state: SearchState) -> None:
        done = int(state.count)
        if not meter:  # the first call has the state that the search starts from
            meter.append(Progress(search.num_evaluations, done, unit=f"settings ({kind})"))
            return
        fitness = np.asarray(state.fitness)[:done]
        finite = fitness[np.isfinite(fitness)]
        best, median = (finite.max(), np.median(finite)) if len(finite) else (np.nan, np.nan)
        meter[0].update(done, done - len(finite), f", median {median:.3f}", best=float(best))

    return show


# --- the result ----------------------------------------------------------------------------------------------


def fitted_proxy(problem: Problem, state: SearchState, count: int) -> tuple[fitted.FittedProxy, list[int]]:
    """Combine the fittest settings of a history to one proxy.

    Args:
      problem: the search problem.
      state: a history.
      count: largest number of settings.

    Returns:
      (the proxy, numbers of its evaluations, best first).
    """
    numbers = evolution.best_evaluations(state, problem.genes, count)
    settings = [problem.genes.decode(np.asarray(state.genes)[i]) for i in numbers]
    if problem.search.blend == "alpha":
        weights = [(None, 0.0)] * len(numbers)
    else:
        sizes = spaces.size_measures(problem.space, problem.labelled)
        # Several weight seeds count by their mean rank, so ranks replace losses.
        ranks = stats.rankdata(np.asarray(state.losses)[numbers], axis=-1).mean(1)
        weights = fitted.fit_weights(ranks, sizes, problem.truth)[0].tolist()
    members = tuple(fitted.Member(s, *w) for s, w in zip(settings, weights, strict=True))
    return fitted.FittedProxy(members), numbers


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of :func:`search_proxy`.

    Attributes:
      proxy: the fittest settings, for use together.
      fitness: Spearman of the best setting on the labelled architectures.
      history: all evaluations.
      seconds: {"compile": ..., "run": ...} wall time, s.
    """

    proxy: fitted.FittedProxy
    fitness: float
    history: SearchState
    seconds: dict[str, float]


def search_proxy(
    labelled: Mapping[Any, float],
    space: spaces.SearchSpace | str = "nasbench201",
    genes: GeneTable | None = None,
    search: SearchSpec | None = None,
    images: Num[Array | np.ndarray, "B H W 3"] | None = None,
    *,
    key: Key[Array, ""] | int = 0,
    search_key: Key[Array, ""] | int = 0,
    ensemble: int = 8,
    execution: Execution | None = None,
    progress: Callable[[SearchState], None] | None = None,
) -> SearchResult:
    """Search settings that rank a space, from a few labelled architectures (Discrete Proxy Search).

    Source: Li et al., ICCV 2023; docs/method.md, "DPS: Discrete Proxy Search".

    Args:
      labelled: values by architecture, higher is better. Architectures are in any notation that ``space.parse`` reads.
        Labels of disconnected networks are left out, with a warning.
      space: a search space or its registry name.
      genes: the gene table; the paper's by default.
      search: sizes and rates of the search.
      images: [B, H, W, 3], H = W divisible by 4; defaults to the embedded batch. The function standardises it.
      key: key of weights, features and barriers; a typed key or an integer seed.
      search_key: key of the evolution; a typed key or an integer seed.
      ensemble: number of the fittest settings that the proxy combines.
      execution: devices and execution form.
      progress: called with the history at the start and every ``log_every`` evaluations.

    Returns:
      A ``SearchResult``.

    Raises:
      ValueError: an unreadable architecture, fewer than 3 of them, constant values, bad images; every setting diverged.

    Example:
      >>> import flax.linen as nn
      >>> build = lambda width: nn.Sequential([nn.Conv(width, (3, 3)), lambda tap: [tap]])
      >>> family = spaces.from_flax(build, archs=[2, 3, 4])
      >>> narrow = GeneTable(branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(4,),
      ...     target_channels=(4,))
      >>> small = SearchSpec(num_evaluations=4, population_size=2, tournament_size=1, log_every=4, num_steps=2)
      >>> labelled = {2: 71.5, 3: 74.0, 4: 73.0}
      >>> found = search_proxy(labelled, family, narrow, small, default_images(num=2, size=8))
      >>> len(found.history.fitness)
      4
    """
    space = spaces.get(space) if isinstance(space, str) else space
    execution = Execution.of() if execution is None else execution
    for one in (key, search_key):
        proxy.key_identity(one)  # a bad seed is an error at once, not after the first compilation
    batch = standardize(default_images() if images is None else images)
    search = SearchSpec() if search is None else search
    genes = GeneTable() if genes is None else genes
    genes = search.genes_with_effect(genes)
    archs = parse_all(list(labelled), space)
    if len(set(archs)) < len(archs):
        raise ValueError("a labelled architecture stands twice, in two notations: give each once")
    kept = connected_labels(space, dict(zip(archs, labelled.values(), strict=True)))
    problem = Problem(space, genes, search, batch, key, search_key, tuple(kept), tuple(kept.values()))
    compiled = prepare(problem, execution)
    start = time.perf_counter()
    history = run(compiled, problem, None, "evolution", execution, progress=progress)
    seconds = {"compile": compiled.compile_seconds, "run": time.perf_counter() - start}
    found, numbers = fitted_proxy(problem, history, ensemble)
    return SearchResult(found, float(np.asarray(history.fitness)[numbers[0]]), history, seconds)
