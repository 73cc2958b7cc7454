"""Running a search from the host: checkpoints, exact resume, warm start, and the honest comparison at its end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax import Array
from scipy import stats

from eproxy_jax import images as images_lib
from eproxy_jax import metrics, scoring, spaces
from eproxy_jax.dps import evolution, fitted, loss_bank, selection, tiered
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.execution import flops, programs
from eproxy_jax.progress import Progress
from eproxy_jax.runs.results import fingerprint
from eproxy_jax.types import ProxySettings

Kind = Literal["evolution", "random"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that a search depends on.

    Attributes:
      space: the search space.
      genes: the choices.
      search: sizes and rates.
      images: [B, H, W, 3], standardised.
      weight_seed: seed of weights, features and barriers.
      seed: seed of the evolution.
      labelled: architectures, length A.
      truth: their values, higher is better.
      warm: genomes [G], their losses [A] and fitness to start from, instead of random ones; None for none.
    """

    space: spaces.SearchSpace
    genes: GeneTable
    search: evolution.SearchSpec
    images: Array
    weight_seed: int
    seed: int
    labelled: tuple[Any, ...]
    truth: tuple[float, ...]
    warm: tuple[tuple[np.ndarray, np.ndarray, float], ...] | None = None

    def identity(self, kind: Kind, execution: programs.Execution) -> dict[str, Any]:
        """All of it as plain data: equal identities, equal histories."""
        return {
            **scoring.run_identity(self.space, self.images, self.weight_seed, execution),
            "genes": self.genes.to_dict(),
            "search": dataclasses.asdict(self.search),
            "seed": self.seed,
            "labelled": [self.space.format(arch) for arch in self.labelled],
            "truth": list(self.truth),
            "warm": [genes.tolist() for genes, *_ in self.warm or ()],
            "kind": kind,
        }


def prepare(problem: Problem, execution: programs.Execution) -> evolution.Search:
    """Compile the search of a problem; see :func:`dps.make_search`."""
    labels = evolution.make_labels(problem.space, problem.labelled, problem.truth, execution)
    return evolution.make_search(
        problem.genes,
        problem.search,
        labels,
        problem.images,
        problem.weight_seed,
        problem.seed,
        execution,
    )


def run(
    search: evolution.Search,
    problem: Problem,
    workdir: Path | None,
    kind: Kind,
    execution: programs.Execution,
    max_seconds: float | None = None,
    progress: Callable[[evolution.SearchState], None] | None = None,
) -> evolution.SearchState:
    """Run a search to its budget, or go on with one that was stopped.

    Args:
      search: from :func:`prepare`.
      problem: what it was prepared for.
      workdir: folder for checkpoints, one each ``log_every`` evaluations; None for none.
      kind: ``"evolution"``, or ``"random"`` for a random search of the same budget.
      execution: devices and form.
      max_seconds: stop after the look of the host at which this much time has gone by.
      progress: called with the state at the start and after every look.

    Returns:
      The history, on the host.

    Raises:
      ValueError: the folder holds checkpoints of another search.
    """
    state = search.initial if kind == "random" else _warm_state(search, problem)
    checkpoints = None
    if workdir is not None:
        run_id = fingerprint(problem.identity(kind, execution))
        checkpoints = Checkpoints(workdir / "checkpoints" / kind, run_id)
        state = checkpoints.restore(state)
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
        if checkpoints is not None:
            checkpoints.save(host)
        if progress is not None:
            progress(host)
    if checkpoints is not None:
        checkpoints.close()
    return jax.device_get(state)


def _warm_state(search: evolution.Search, problem: Problem) -> evolution.SearchState:
    """The initial state with the warm start's settings filed as evaluations that cost nothing."""
    if not problem.warm:
        return search.initial
    host = jax.tree.map(np.array, jax.device_get(search.initial))
    warm = problem.warm[: problem.search.num_evaluations]
    # Worst first: the population forgets its oldest members first.
    for number, (genes, losses, fitness) in enumerate(reversed(warm)):
        host.genes[number], host.fitness[number], host.losses[number] = genes, fitness, losses[None]
    return host.replace(count=np.asarray(len(warm), np.int32))


class Checkpoints:
    """Checkpoints of one search, by Orbax; the last two are kept.

    Args:
      folder: where they lie.
      run_id: fingerprint of the search; checkpoints of another one are refused.

    Raises:
      ValueError: the folder holds another search.
    """

    def __init__(self, folder: Path, run_id: str):
        import orbax.checkpoint as ocp

        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        owner = folder / "run_id.txt"
        if owner.is_file() and owner.read_text().strip() != run_id:
            raise ValueError(
                f"{folder}: checkpoints of another search: its space, genes, labels, seed or sizes differ: choose "
                "another --workdir, or move the folder away"
            )
        owner.write_text(run_id + "\n")
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder / "states", options=options)
        self._ocp = ocp

    def restore(self, state: evolution.SearchState) -> evolution.SearchState:
        """The latest state saved, or ``state`` where there is none."""
        latest = self._manager.latest_step()
        if latest is None:
            return state
        host = jax.tree.map(np.asarray, jax.device_get(dataclasses.asdict(state)))
        restored = self._manager.restore(latest, args=self._ocp.args.StandardRestore(host))
        return evolution.SearchState(**restored)

    def save(self, state: evolution.SearchState) -> None:
        """Save a state under the number of its evaluations."""
        host = {name: np.asarray(value) for name, value in dataclasses.asdict(state).items()}
        self._manager.save(int(state.count), args=self._ocp.args.StandardSave(host))

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


def show_progress(search: evolution.SearchSpec, kind: Kind) -> Callable[[evolution.SearchState], None]:
    """A callback for :func:`run`: evaluations, rate, ETA, diverged, best and median fitness, on stderr."""
    meter: list[Progress] = []

    def show(state: evolution.SearchState) -> None:
        done = int(state.count)
        if not meter:  # called with the state that the search starts from
            meter.append(Progress(search.num_evaluations, done, unit=f"settings ({kind})"))
            return
        fitness = np.asarray(state.fitness)[:done]
        finite = fitness[np.isfinite(fitness)]
        best, median = (finite.max(), np.median(finite)) if len(finite) else (np.nan, np.nan)
        meter[0].update(done, done - len(finite), f", best {best:.3f}, median {median:.3f}")

    return show


# --- warm start ----------------------------------------------------------------------------------------------


def fittest_of_bank(
    bank: loss_bank.LossBank, spec: loss_bank.BankSpec, labelled: Mapping[Any, float], count: int, blend: str
) -> tuple[tuple[np.ndarray, np.ndarray, float], ...]:
    """The settings of a bank that rank labelled architectures best, each with its best blend.

    Args:
      bank: an open bank that holds the labelled architectures.
      spec: what the bank depends on.
      labelled: architectures with their values.
      count: how many settings.
      blend: one of ``dps.BLENDS``.

    Returns:
      (genome [G], losses [A], fitness), best first.

    Raises:
      ValueError: the bank lacks a labelled architecture.
    """
    losses = bank.losses(spec.num_steps)[:, bank.columns(spec.space, list(labelled)), -1]
    truth = np.asarray(list(labelled.values()))
    if blend == "alpha":
        macs = spaces.macs_fractions(spec.space, labelled)
        fitness = selection.fitness(selection.score_matrix(losses, macs, spec.table.alpha), losses, truth)
    else:
        sizes = spaces.size_measures(spec.space, labelled)
        fitness = fitted.fit_weights(losses, sizes, truth)[1][:, None]  # alpha has no effect: its first choice
    chosen = []
    for p, k in selection.best_members(fitness, count):
        genes = bank.genes[p].copy()
        genes[spec.table.names.index("alpha")] = k
        chosen.append((genes, losses[p], float(fitness[p, k])))
    return tuple(chosen)


# --- at the end ----------------------------------------------------------------------------------------------


def fitted_proxy(problem: Problem, state: evolution.SearchState, count: int) -> tuple[fitted.FittedProxy, list[int]]:
    """The fittest settings of a history as one proxy.

    Args:
      problem: what was searched.
      state: a history.
      count: how many settings at most.

    Returns:
      (the proxy, numbers of its evaluations, best first).
    """
    numbers = evolution.best_evaluations(state, problem.genes, count)
    settings = [problem.genes.decode(np.asarray(state.genes)[i]) for i in numbers]
    if problem.search.blend == "alpha":
        weights = [(None, 0.0)] * len(numbers)
    else:
        sizes = spaces.size_measures(problem.space, problem.labelled)
        # Several weight seeds count by their mean rank, so ranks stand in for losses.
        ranks = stats.rankdata(np.asarray(state.losses)[numbers], axis=-1).mean(1)
        weights = fitted.fit_weights(ranks, sizes, problem.truth)[0].tolist()
    members = tuple(fitted.Member(s, *w) for s, w in zip(settings, weights, strict=True))
    return fitted.FittedProxy(members), numbers


def record(
    problem: Problem,
    histories: Mapping[str, evolution.SearchState],
    proxy: fitted.FittedProxy,
    numbers: Sequence[int],
    execution: programs.Execution,
) -> dict[str, Any]:
    """The result file: best settings, whole history, work done, all that the search depends on.

    Args:
      problem: what was searched.
      histories: by kind.
      proxy: what the evolution found.
      numbers: of the proxy's evaluations, best first.
      execution: devices and form.
    """
    state = histories["evolution"]
    count = int(state.count)
    fitness = np.asarray(state.fitness)[:count]
    # A warm start's settings have cost nothing here.
    flops = [setting_flops(problem, np.asarray(state.genes)[i]) for i in range(len(problem.warm or ()), count)]
    return {
        "settings": proxy.to_dict(),
        "best": numbers[0],
        "fitness": float(fitness[numbers[0]]),
        "evaluations": count,
        "diverged": int((~np.isfinite(fitness)).sum()),
        "flops": {
            "needed": float(sum(needed for needed, _ in flops)),
            "executed": float(sum(executed for _, executed in flops)),
        },
        "history": {
            kind: [
                {
                    "genes": np.asarray(one.genes)[i].tolist(),
                    "fitness": float(value) if np.isfinite(value := np.asarray(one.fitness)[i]) else None,
                }
                for i in range(int(one.count))
            ]
            for kind, one in histories.items()
        },
        "problem": problem.identity("evolution", execution),
    }


def setting_flops(problem: Problem, genes: Any) -> tuple[float, float]:
    """Floating-point operations of the convolutions of one evaluation: (needed, executed).

    Needed counts the architectures' and the setting's own kernels and channels, executed what those are rounded up to
    by the architectures' groups and by the tiers of settings (execution form ``map``).
    """
    space, (batch, size) = problem.space, problem.images.shape[:2]
    settings = (problem.genes.decode(genes), tiered.rounded(problem.genes, genes))
    totals = np.zeros(2)
    for arch in scoring.make_plan(problem.labelled, space).distinct:
        backbones = (space.macs(arch), space.group(arch).executed_macs(arch))
        for i, (backbone, setting) in enumerate(zip(backbones, settings, strict=True)):
            transforms, barriers = flops.head_macs(setting, space.tap_channels(arch), batch)
            trained = backbone * batch * (size / 32) ** 2 + transforms
            totals[i] += flops.training_flops(trained, barriers, problem.search.num_steps)
    needed, executed = problem.search.weight_seeds * totals
    return float(needed), float(executed)


def compare(
    problem: Problem,
    found: Mapping[str, fitted.FittedProxy],
    evaluation: Mapping[Any, float],
    path: Path,
    plain: ProxySettings,
    execution: programs.Execution,
) -> dict[str, metrics.RankQuality]:
    """Rank quality on evaluation architectures of what was found, beside everything simpler.

    Args:
      problem: what was searched.
      found: fitted proxies by kind of search.
      evaluation: architectures with their values, disjoint from the labelled ones.
      path: a loss bank of the evaluation's trainings, so that a killed comparison resumes.
      plain: the settings to compare with.
      execution: devices and form.

    Returns:
      Rows by name: ``macs``, ``params``, both ``fitted`` (dead edges removed, sign by the labels), ``plain``,
      ``evolution`` and ``random`` (best setting of each), and their ``... x K`` ensembles.
    """
    space, table, archs = problem.space, problem.genes, list(evaluation)
    truth = np.asarray(list(evaluation.values()))
    sizes, labelled_sizes = (spaces.size_measures(space, some) for some in (archs, problem.labelled))
    macs, params = selection.signs(labelled_sizes, problem.truth)[:, None] * sizes
    fractions = spaces.macs_fractions(space, archs)
    job = scoring.make_job(space, plain, problem.images, problem.weight_seed, execution)
    scores: dict[str, Any] = {
        "macs": [space.macs(arch) for arch in archs],
        "params": [space.params(arch) for arch in archs],
        "macs, fitted": macs,
        "params, fitted": params,
        "plain": scoring.score_plan(job, scoring.make_plan(archs, space)).score,
    }
    spec = loss_bank.BankSpec(space, table, problem.images, problem.weight_seed, problem.search.num_steps)
    genomes = {kind: [table.encode(m.settings) for m in proxy.members] for kind, proxy in found.items()}
    with loss_bank.LossBank(path, spec.identity(execution)) as bank:
        wide = dataclasses.replace(execution, chunk_size=loss_bank.CHUNK * len(execution.devices))
        loss_bank.fill(bank, spec, [g for own in genomes.values() for g in own], archs, wide)
        losses = bank.losses(spec.num_steps)[:, bank.columns(space, archs), -1]
        rows = {kind: bank.rows(table, own) for kind, own in genomes.items()}
    for kind, proxy in found.items():
        own = losses[rows[kind]]
        scores[kind] = fitted.FittedProxy(proxy.members[:1]).scores(own[:1], sizes, fractions)
        scores[f"{kind} x {len(proxy.members)}"] = proxy.scores(own, sizes, fractions)
    return {name: metrics.rank_quality(score, truth) for name, score in scores.items()}


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What :func:`search_proxy` found.

    Attributes:
      proxy: the fittest settings, to be used together.
      fitness: Spearman of the best one on the labelled architectures.
      history: every evaluation.
      seconds: {"compile": ..., "run": ...} wall time, s.
    """

    proxy: fitted.FittedProxy
    fitness: float
    history: evolution.SearchState
    seconds: dict[str, float]


def search_proxy(
    labelled: Mapping[Any, float],
    space: spaces.SearchSpace | str = "nasbench201",
    genes: GeneTable | None = None,
    search: evolution.SearchSpec | None = None,
    images: Any = None,
    *,
    weight_seed: int = 0,
    seed: int = 0,
    ensemble: int = 8,
    execution: programs.Execution | None = None,
    progress: Callable[[evolution.SearchState], None] | None = None,
) -> SearchResult:
    """Discrete Proxy Search: settings that rank a space, from a few labelled architectures.

    Args:
      labelled: value of each architecture, higher is better; architectures in any notation that ``space.parse`` reads.
      space: a search space or its registry name.
      genes: the choices; the paper's by default.
      search: sizes and rates of the search.
      images: [B, H, W, 3], H = W divisible by 4; defaults to the embedded batch. Standardised here.
      weight_seed: seed of weights, features and barriers.
      seed: seed of the evolution.
      ensemble: how many of the fittest settings the proxy combines.
      execution: devices and form.
      progress: called with the history at the start and every ``log_every`` evaluations.

    Returns:
      A ``SearchResult``.

    Raises:
      ValueError: an unreadable architecture, fewer than 3 of them, constant values, bad images; every setting diverged.

    Example:
      >>> space = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
      >>> narrow = GeneTable(branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(4,),
      ...     target_channels=(4,))
      >>> small = dps.SearchSpec(num_evaluations=4, population_size=2, tournament_size=1, log_every=4, num_steps=2)
      >>> labelled = {arch: space.macs(arch) for arch in space.sample(4, seed=0)}
      >>> found = search_proxy(labelled, space, narrow, small, images_lib.default_images(num=2, size=8))
      >>> len(found.history.fitness)
      4
    """
    space = spaces.get(space) if isinstance(space, str) else space
    execution = programs.Execution.of() if execution is None else execution
    batch = images_lib.standardize(images_lib.default_images() if images is None else images)
    search = evolution.SearchSpec() if search is None else search
    genes = GeneTable() if genes is None else genes
    genes = search.genes_with_effect(genes)
    archs = tuple(space.parse(arch) for arch in labelled)
    problem = Problem(space, genes, search, batch, weight_seed, seed, archs, tuple(labelled.values()))
    compiled = prepare(problem, execution)
    start = time.perf_counter()
    history = run(compiled, problem, None, "evolution", execution, progress=progress)
    seconds = {"compile": compiled.compile_seconds, "run": time.perf_counter() - start}
    proxy, numbers = fitted_proxy(problem, history, ensemble)
    return SearchResult(proxy, float(np.asarray(history.fitness)[numbers[0]]), history, seconds)
