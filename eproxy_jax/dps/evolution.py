"""Discrete Proxy Search: regularised evolution over genomes, inside jit.

One compiled program proposes a genome, trains every labelled architecture under it, ranks them against their labels and
files the result, evaluation after evaluation (``lax.scan``); the host only looks in every ``log_every`` evaluations.
Everything random is drawn from the key folded with the number of the evaluation, so a search that was stopped goes on
exactly as if it had not been.

Source: PROTOCOL, "DPS: Discrete Proxy Search". Differs from the reference: labelled and evaluation architectures are
kept apart by the callers; a setting that diverges has fitness -inf and wins no tournament; architectures that compute
the same function are trained once.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax import ranks, scoring, spaces
from eproxy_jax.dps import selection, tiered
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.errors import did_you_mean
from eproxy_jax.execution import programs

BLENDS = ("alpha", "rank")


@dataclasses.dataclass(frozen=True)
class SearchSpec:
    """The static side of a search.

    Attributes:
      num_evaluations: N, settings tried.
      population_size: the most recent evaluations compete; as many random ones come first.
      tournament_size: members drawn for each tournament.
      mutation_rate: probability with which each gene of the winner is drawn again.
      blend: how sizes enter a fitness: MACs by ``"alpha"``, the paper's gene, or by ``"rank"``, the best weighted mean
        of the ranks of loss, MACs and parameters on the labels (see :mod:`eproxy_jax.dps.evolution.selection`).
      weight_seeds: W, weight draws whose ranks are averaged in a fitness; 1 in the paper.
      log_every: evaluations between two looks of the host.
      num_steps: S.
    """

    num_evaluations: int = 200
    population_size: int = 40
    tournament_size: int = 10
    mutation_rate: float = 0.2
    blend: str = "rank"
    weight_seeds: int = 1
    log_every: int = 10
    num_steps: int = 10

    def __post_init__(self):
        for name in ("num_evaluations", "population_size", "tournament_size", "weight_seeds", "log_every"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"dps.{name}: expected an integer >= 1, got {value!r}")
        if not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"dps.num_steps: expected an integer >= 1, got {self.num_steps!r}")
        if not isinstance(self.mutation_rate, (int, float)) or not 0 < self.mutation_rate <= 1:
            raise ValueError(f"dps.mutation_rate: expected a number in (0, 1], got {self.mutation_rate!r}")
        if self.blend not in BLENDS:
            raise ValueError(
                f"dps.blend: unknown blend {self.blend!r}{did_you_mean(str(self.blend), BLENDS)}; "
                f"known: {', '.join(BLENDS)}"
            )
        if self.tournament_size > self.population_size:
            raise ValueError(
                f"dps.tournament_size {self.tournament_size} is larger than dps.population_size {self.population_size}"
            )

    def genes_with_effect(self, table: GeneTable) -> GeneTable:
        """The table without choices of ``alpha`` where ranks are blended: they would only dilute the mutations."""
        return table if self.blend == "alpha" else dataclasses.replace(table, alpha=(0.0,))


@flax.struct.dataclass
class SearchState:
    """The whole history of a search; its last ``population_size`` entries are the population.

    Attributes:
      genes: int32 [N, G].
      fitness: [N], Spearman on the labelled architectures; -inf where a training diverged, NaN where not yet evaluated.
      losses: [N, W, A], final losses of the labelled architectures.
      count: evaluations done.
    """

    genes: Array
    fitness: Array
    losses: Array
    count: Array


@flax.struct.dataclass
class Functions:
    """Distinct functions of one group as arrays, padded to a whole number of blocks on every device.

    Attributes:
      identity: uint32 [M, 2].
      encoded: int32 [M, ...].
      valid: [M]; padding is not.
      group: their group.
    """

    identity: Array
    encoded: Array
    valid: Array
    group: spaces.Group = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Labels:
    """The labelled architectures as arrays.

    Attributes:
      functions: what they compute, by group.
      position: int32 [A], the function of each labelled architecture, counted through all groups, padding included.
      truth: [A], higher is better.
      macs: [A], those of the backbone without dead work over the space's largest: what ``alpha`` blends in.
      sizes: [2, A], see ``spaces.size_measures``: what blends by rank take.
    """

    functions: tuple[Functions, ...]
    position: Array
    truth: Array
    macs: Array
    sizes: Array


def make_labels(
    space: spaces.SearchSpace, archs: Sequence[Any], truth: Sequence[float], execution: programs.Execution
) -> Labels:
    """Prepare labelled architectures.

    The functions of a group are dealt to devices so that these finish together.

    Args:
      space: the search space.
      archs: architectures, length A.
      truth: their measured values, higher is better.
      execution: devices and form.

    Raises:
      ValueError: fewer than 3 architectures, one of them twice, constant or non-finite values.
    """
    values = np.asarray(truth, np.float64)
    if len(archs) != len(values):
        raise ValueError(f"{len(archs)} labelled architectures, but {len(values)} values")
    if len(archs) < 3:
        raise ValueError(f"a search needs at least 3 labelled architectures, got {len(archs)}")
    if len(set(archs)) < len(archs):
        raise ValueError("a labelled architecture stands twice: give each once")
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        raise ValueError("labels: expected finite values that are not all equal")
    plan = scoring.make_plan(archs, space)
    macs = spaces.macs_fractions(space, plan.distinct)
    block = len(execution.devices) * (1 if execution.form == "map" else execution.vmap_width)
    functions: list[Functions] = []
    place = np.empty(len(plan.distinct), np.int32)
    before = 0
    for group, members in scoring.by_group(plan.distinct, space).items():
        size = -(-len(members) // block) * block
        order = _deal(members, macs, len(execution.devices), size)
        chosen = [plan.distinct[i if i >= 0 else members[-1]] for i in order]  # padding (-1) is not valid
        place[order[order >= 0]] = before + np.flatnonzero(order >= 0)
        before += size
        identity = np.stack([spaces.arch_identity(space, arch) for arch in chosen])
        functions.append(Functions(identity, group.encode(chosen), order >= 0, group))  # pyright: ignore[reportArgumentType]
    return Labels(
        functions=tuple(functions),
        position=place[plan.index],  # pyright: ignore[reportArgumentType]
        truth=values.astype(np.float32),  # pyright: ignore[reportArgumentType]
        macs=macs[plan.index].astype(np.float32),  # pyright: ignore[reportArgumentType]
        sizes=spaces.size_measures(space, archs).astype(np.float32),  # pyright: ignore[reportArgumentType]
    )


def _deal(members: Sequence[int], macs: np.ndarray, devices: int, size: int) -> np.ndarray:
    """The order of a group's members in an array of ``size`` split over devices; padding, -1, stands last on each."""
    room = size // devices
    costs = macs + macs.mean()  # what does not grow with MACs is about as much on average
    piles: list[list[int]] = [[] for _ in range(devices)]
    for i in sorted(members, key=lambda i: -costs[i]):
        min((pile for pile in piles if len(pile) < room), key=lambda pile: costs[pile].sum()).append(i)
    return np.concatenate([pile + [-1] * (room - len(pile)) for pile in piles])


def fitness_of(losses: Array, alpha: Array, labels: Labels, blend: str) -> Array:
    """Spearman of a setting's scores with the labels; -inf if a loss is not finite.

    Args:
      losses: [W, A] final losses; with several weight seeds the ranks are averaged.
      alpha: scalar, the MACs blend of the setting.
      labels: the labelled architectures.
      blend: one of ``BLENDS``.

    Returns:
      Scalar.
    """

    def mean_rank(scores: Array) -> Array:
        return jnp.mean(jax.vmap(ranks.average_ranks)(scores), axis=0)

    truth = labels.truth.astype(losses.dtype)
    if blend == "alpha":
        fitness = ranks.spearman(mean_rank(-losses * (1 - alpha * labels.macs[None, :])), truth)
    else:
        by_loss = ranks.standardized(mean_rank(-losses))
        by_size = jax.vmap(lambda size: ranks.standardized(ranks.average_ranks(size)))(labels.sizes)
        shares = jnp.asarray(selection.SHARES, losses.dtype)
        of_loss = 1 - jnp.sum(jnp.abs(shares), axis=1, keepdims=True)
        blends = of_loss * by_loss[None, :] + jnp.matmul(shares, by_size.astype(losses.dtype), precision="highest")
        fitness = jnp.max(jax.vmap(lambda score: ranks.spearman(score, truth))(blends))
    return jnp.where(jnp.all(jnp.isfinite(losses)), fitness, -jnp.inf)


def propose(table: GeneTable, spec: SearchSpec, key: Array, state: SearchState, random_until: Array) -> Array:
    """The next genome [G]: random at first, then a mutant of the winner of a tournament; the key is consumed.

    Args:
      table: the gene table.
      spec: sizes and rates.
      key: typed key of this evaluation.
      state: what has been tried.
      random_until: evaluations before this number are random; all of them make it a random search.
    """
    k_random, k_tournament, k_mutate = jax.random.split(key, 3)
    oldest = jnp.maximum(state.count - spec.population_size, 0)
    drawn = jax.random.choice(k_tournament, spec.population_size, (spec.tournament_size,), replace=False)
    entrants = oldest + drawn
    fitness = jnp.where(entrants < state.count, state.fitness[entrants], -jnp.inf)
    parent = state.genes[entrants[jnp.argmax(fitness)]]
    child = table.mutate(k_mutate, parent, spec.mutation_rate)
    return jnp.where(state.count < random_until, table.random_genes(k_random), child)


def initial_state(table: GeneTable, spec: SearchSpec, num_labels: int, dtype: Any = jnp.float32) -> SearchState:
    """Nothing tried yet."""
    n = spec.num_evaluations
    return SearchState(
        genes=jnp.zeros((n, len(table.sizes)), jnp.int32),
        fitness=jnp.full((n,), jnp.nan, dtype),
        losses=jnp.full((n, spec.weight_seeds, num_labels), jnp.nan, dtype),
        count=jnp.asarray(0, jnp.int32),
    )


# Tag under which the evolution draws, apart from whatever else a seed serves.
_TAG_EVOLUTION = 5

Evaluate = Callable[[Array], tuple[Array, Array]]


def advance(
    table: GeneTable,
    spec: SearchSpec,
    evaluate: Evaluate,
    key: Array,
    state: SearchState,
    random_until: Array,
    stop: Array,
) -> SearchState:
    """``log_every`` evaluations, or fewer when ``stop`` of them in all are reached. To be jitted.

    Args:
      table: the gene table.
      spec: sizes and rates.
      evaluate: genes [G] -> (fitness, losses [W, A]).
      key: typed key of the evolution.
      state: what has been tried.
      random_until: see :func:`propose`.
      stop: number of evaluations after which nothing is done any more.
    """

    def one(state: SearchState) -> SearchState:
        genes = propose(table, spec, jax.random.fold_in(key, state.count), state, random_until)
        fitness, losses = evaluate(genes)
        return SearchState(
            genes=state.genes.at[state.count].set(genes),
            fitness=state.fitness.at[state.count].set(fitness),
            losses=state.losses.at[state.count].set(losses),
            count=state.count + 1,
        )

    def step(state: SearchState, _: None) -> tuple[SearchState, None]:
        return lax.cond(state.count < stop, one, lambda state: state, state), None

    return lax.scan(step, state, None, spec.log_every)[0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _advance_search(
    table: GeneTable,
    spec: SearchSpec,
    execution: programs.Execution,
    keys: tuple[Array, Array],
    state: SearchState,
    random_until: Array,
    stop: Array,
    labels: Labels,
    task: tiered.TieredTask,
) -> SearchState:
    dtype = task.images.dtype
    mesh = programs.candidates_mesh(execution.devices)

    def chunk(group: spaces.Group) -> Callable[..., Array]:
        candidate = tiered.Candidate.of(group, table, spec.num_steps, dtype)
        return programs.chunk_program(candidate, spec.num_steps, execution.form, mesh, execution.vmap_width, dtype)

    parts = [(chunk(part.group), part) for part in labels.functions]
    weights, evolution = keys

    def evaluate(genes: Array) -> tuple[Array, Array]:
        setting = tiered.setting_task(table, task, genes)

        def final_losses(seed: Array) -> Array:
            weight_key = jax.random.fold_in(weights, seed)
            losses = [
                train(weight_key, part.identity, part.encoded, part.valid, (setting,))[:, -1] for train, part in parts
            ]
            return jnp.concatenate(losses)[labels.position]

        losses = lax.map(final_losses, jnp.arange(spec.weight_seeds))
        alpha = table.values(genes, "alpha").astype(dtype)
        return fitness_of(losses, alpha, labels, spec.blend), losses

    return advance(table, spec, evaluate, evolution, state, random_until, stop)


@dataclasses.dataclass(frozen=True)
class Search:
    """A search ready to run: its program, and what it runs on.

    Attributes:
      spec: sizes and rates.
      table: the gene table.
      call: (state, random_until, stop) -> state, ``log_every`` evaluations further.
      initial: the state to start from.
      compile_seconds: tracing and compilation, s.
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
    weight_seed: int,
    seed: int,
    execution: programs.Execution,
) -> Search:
    """Compile a search, once.

    Args:
      table: the gene table.
      spec: sizes and rates.
      labels: from :func:`make_labels`.
      images: [B, H, W, 3], standardised.
      weight_seed: of weights, features and barriers.
      seed: of the evolution.
      execution: devices and form.
    """
    key = jax.random.key(weight_seed)
    task = jax.jit(tiered.make_task, static_argnums=1)(key, tiered.TierSpec.of(table), images)
    evolution_key = jax.random.fold_in(jax.random.key(seed), _TAG_EVOLUTION)
    initial = initial_state(table, spec, len(labels.truth), images.dtype)
    keys, labels, task, initial = execution.replicate(((key, evolution_key), labels, task, initial))
    zero = execution.replicate(np.asarray(0, np.int32))
    start = time.perf_counter()
    with programs.matmul_precision(execution.precision):
        lowered = _advance_search.lower(table, spec, execution, keys, initial, zero, zero, labels, task)
    program = lowered.compile()
    seconds = time.perf_counter() - start

    def call(state: SearchState, random_until: int, stop: int) -> SearchState:
        limits = execution.replicate((np.asarray(random_until, np.int32), np.asarray(stop, np.int32)))
        return program(keys, state, *limits, labels, task)

    return Search(spec, table, call, initial, seconds)


# --- reading a history ---------------------------------------------------------------------------------------


def best_evaluations(state: SearchState, table: GeneTable, count: int = 1) -> list[int]:
    """Numbers of the fittest evaluations, best first, equal settings once; -inf is left out.

    Args:
      state: a history.
      table: the gene table.
      count: how many at most.

    Raises:
      ValueError: every evaluation diverged.
    """
    fitness = np.asarray(state.fitness)[: int(state.count)]
    order = [int(i) for i in np.argsort(-fitness, kind="stable") if np.isfinite(fitness[i])]
    if not order:
        raise ValueError(
            f"all {len(fitness)} settings of the search diverged: lower the gene 'lr', or check images and labels"
        )
    found: dict[tuple[int, ...], int] = {}
    for i in order:
        found.setdefault(tuple(table.canonical(np.asarray(state.genes)[i]).tolist()), i)
    return list(found.values())[:count]
