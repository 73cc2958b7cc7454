"""This module runs the evolution of Discrete Proxy Search: regularised evolution over genomes, inside jit.

One compiled program runs evaluation after evaluation (``lax.scan``). Each one proposes a genome, trains every labelled
architecture under it, ranks them against their labels and records the result. The host only saves and reports, every
``log_every`` evaluations. Each evaluation draws from the key folded with its number, so a stopped search resumes
exactly.

Source: Li et al., ICCV 2023; docs/method.md, "DPS: Discrete Proxy Search". Differs from the reference:

* The callers keep labelled and evaluation architectures apart.
* A setting that diverges has fitness -inf and wins no tournament.
* Architectures that compute the same function are trained once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.errors import check_known, quoted

BLENDS = ("alpha", "rank")


@dataclasses.dataclass(frozen=True)
class SearchSpec:
    """The static part of a search.

    Attributes:
      num_evaluations: N, number of settings to evaluate.
      population_size: number of the most recent evaluations, which compete. The first ones, as many, are random.
      tournament_size: members drawn for each tournament.
      mutation_rate: probability with which each gene of the winner is drawn again.
      blend: how sizes enter a fitness. ``"alpha"`` is the paper's gene for MACs. ``"rank"`` takes the weighted mean of
        the ranks of loss, MACs and parameters that fits the labels best (see ``dps/selection.py``).
      weight_seeds: W, number of weight draws; a fitness averages their ranks. The paper has 1.
      log_every: evaluations per call of the compiled program; the host saves and reports between calls.
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
                raise ValueError(f"dps.{name}: expected an integer >= 1, got {quoted(value)}")
        if not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise ValueError(f"dps.num_steps: expected an integer >= 1, got {quoted(self.num_steps)}")
        if (
            not isinstance(self.mutation_rate, (int, float))
            or isinstance(self.mutation_rate, bool)
            or not 0 < self.mutation_rate <= 1
        ):
            raise ValueError(f"dps.mutation_rate: expected a number in (0, 1], got {quoted(self.mutation_rate)}")
        check_known([self.blend], BLENDS, "dps.blend", "blend")
        if self.tournament_size > self.population_size:
            raise ValueError(
                f"dps.tournament_size {quoted(self.tournament_size)} is larger than "
                f"dps.population_size {self.population_size}"
            )

    def genes_with_effect(self, table: GeneTable) -> GeneTable:
        """Return the table; a blend by rank removes the choices of ``alpha``, which would only dilute the mutations."""
        return table if self.blend == "alpha" else dataclasses.replace(table, alpha=(0.0,))


@flax.struct.dataclass
class SearchState:
    """The whole history of a search; its last ``population_size`` entries are the population.

    Attributes:
      genes: int32 [N, G].
      fitness: [N], Spearman on the labelled architectures; -inf if a training diverged, NaN if not yet evaluated.
      losses: [N, W, A], final losses of the labelled architectures.
      count: number of evaluations done.
    """

    genes: Array
    fitness: Array
    losses: Array
    count: Array


def propose(table: GeneTable, spec: SearchSpec, key: Array, state: SearchState, random_until: Array) -> Array:
    """Propose the next genome [G]: random at first, then a mutant of a tournament's winner. Consumes the key.

    Args:
      table: the gene table.
      spec: sizes and rates.
      key: typed key of this evaluation.
      state: the history so far.
      random_until: evaluations before this number are random. If all are, it is a random search.
    """
    k_random, k_tournament, k_mutate = jax.random.split(key, 3)
    oldest = jnp.maximum(state.count - spec.population_size, 0)
    drawn = jax.random.choice(k_tournament, spec.population_size, (spec.tournament_size,), replace=False)
    entrants = oldest + drawn
    fitness = jnp.where(entrants < state.count, state.fitness[entrants], -jnp.inf)
    parent = state.genes[entrants[jnp.argmax(fitness)]]
    child = table.mutate(k_mutate, parent, spec.mutation_rate)
    return jnp.where(state.count < random_until, table.random_genes(k_random), child)


def add_evaluation(state: SearchState, genes: Array, fitness: Array, losses: Array) -> SearchState:
    """Add one evaluation to the history.

    Args:
      state: the history so far.
      genes: [G].
      fitness: scalar.
      losses: [W, A].
    """
    return SearchState(
        genes=state.genes.at[state.count].set(genes),
        fitness=state.fitness.at[state.count].set(fitness),
        losses=state.losses.at[state.count].set(losses),
        count=state.count + 1,
    )


def initial_state(table: GeneTable, spec: SearchSpec, num_labels: int, dtype: Any = jnp.float32) -> SearchState:
    """Return an empty history."""
    n = spec.num_evaluations
    return SearchState(
        genes=jnp.zeros((n, len(table.sizes)), jnp.int32),
        fitness=jnp.full((n,), jnp.nan, dtype),
        losses=jnp.full((n, spec.weight_seeds, num_labels), jnp.nan, dtype),
        count=jnp.asarray(0, jnp.int32),
    )


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
    """Run ``log_every`` evaluations, or fewer if the total reaches ``stop``. It is to be jitted.

    Args:
      table: the gene table.
      spec: sizes and rates.
      evaluate: genes [G] -> (fitness, losses [W, A]).
      key: typed key of the evolution.
      state: the history so far.
      random_until: see :func:`propose`.
      stop: total number of evaluations.
    """

    def one(state: SearchState) -> SearchState:
        genes = propose(table, spec, jax.random.fold_in(key, state.count), state, random_until)
        return add_evaluation(state, genes, *evaluate(genes))

    def step(state: SearchState, _: None) -> tuple[SearchState, None]:
        return lax.cond(state.count < stop, one, lambda state: state, state), None

    return lax.scan(step, state, None, spec.log_every)[0]


# --- reading a history ---------------------------------------------------------------------------------------
def best_evaluations(state: SearchState, table: GeneTable, count: int = 1) -> list[int]:
    """Return the numbers of the fittest evaluations, best first. Equal settings count once; -inf is left out.

    Args:
      state: a history.
      table: the gene table.
      count: largest number to return.

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
