"""This module writes settings as one vector of small integers, which Discrete Proxy Search mutates.

A :class:`GeneTable` lists the choices of every gene; a genome is an integer vector [G] of indices into them. The table
is data, so that users can narrow or widen it.

Source: docs/method.md, "DPS: Discrete Proxy Search", "Gene table".

Genes, in order: ``lr, alpha, branches, network_init, barrier_init``, then for each branch the features (one gene each,
0 or 1), ``level, transform_kernel, barrier_kernel, transform_channels, target_channels``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from eproxy_jax.errors import check_known, check_seed, quoted
from eproxy_jax.nn import initializers
from eproxy_jax.types import FEATURES, MAX_BRANCHES, BranchSettings, ProxySettings

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Int32, Key, Num

_GLOBAL_GENES = ("lr", "alpha", "branches", "network_init", "barrier_init")
_BRANCH_GENES = ("level", "transform_kernel", "barrier_kernel", "transform_channels", "target_channels")
_GENES_PER_BRANCH = len(FEATURES) + len(_BRANCH_GENES)
_INITS = ("xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal")
_WIDTHS = (16, 32, 64, 128, 256, 512)


def _tenths(low: int, high: int) -> tuple[float, ...]:
    return tuple(n / 10 for n in range(low, high + 1))


@dataclasses.dataclass(frozen=True)
class GeneTable:
    """The choices of every gene; the defaults are the paper's.

    Attributes:
      lr: learning rates.
      alpha: shares of the MACs; ``(0.0,)`` searches without MACs.
      branches: numbers of branches.
      feature_probability: probability of each feature in a random genome.
      level: factors of the targets.
      transform_kernel: odd sizes.
      barrier_kernel: odd sizes.
      transform_channels: input channels of the barrier.
      target_channels: output channels of the barrier.
      network_init: initialisers of backbone and transform.
      barrier_init: initialisers of the barrier.

    Example:
      >>> table = GeneTable(alpha=(0.0,))
      >>> settings = table.decode(table.random_genes(jax.random.key(0)))
      >>> settings.alpha, table.decode(table.encode(settings)) == settings
      (0.0, True)
    """

    lr: tuple[float, ...] = _tenths(5, 15)
    alpha: tuple[float, ...] = _tenths(-5, 5)
    branches: tuple[int, ...] = (1, 2, 3)
    feature_probability: float = 0.2
    level: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    transform_kernel: tuple[int, ...] = (1, 3, 7)
    barrier_kernel: tuple[int, ...] = (1, 3, 7)
    transform_channels: tuple[int, ...] = _WIDTHS
    target_channels: tuple[int, ...] = _WIDTHS
    network_init: tuple[str, ...] = _INITS
    barrier_init: tuple[str, ...] = _INITS

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name != "feature_probability":
                self._check_choices(field.name, getattr(self, field.name))
        p = self.feature_probability
        if not isinstance(p, (int, float)) or isinstance(p, bool) or not 0 < p <= 1:
            raise ValueError(f"genes.feature_probability: expected a number in (0, 1], got {quoted(p)}")

    def _check_choices(self, name: str, choices: Any) -> None:
        if not isinstance(choices, tuple) or not choices:
            raise ValueError(f"genes.{name}: expected a non-empty tuple of choices, got {quoted(choices)}")
        if not all(isinstance(choice, (int, float, str)) and not isinstance(choice, bool) for choice in choices):
            raise ValueError(f"genes.{name}: expected numbers or names, got {quoted(choices)}")
        if len(set(choices)) != len(choices):
            raise ValueError(f"genes.{name}: a choice stands twice in {quoted(choices)}")
        if name == "branches" and not all(isinstance(n, int) and 1 <= n <= MAX_BRANCHES for n in choices):
            raise ValueError(f"genes.branches: expected integers from 1 to {MAX_BRANCHES}, got {quoted(choices)}")
        for choice in choices:  # the settings check what is allowed
            try:
                if name in _BRANCH_GENES:
                    ProxySettings(branches=(BranchSettings(**{name: choice}),))
                elif name != "branches":
                    ProxySettings(**{name: choice})
            except ValueError as error:
                raise ValueError(f"genes.{name}: choice {quoted(choice)}: {error}") from error

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneTable:
        """Make a table from plain lists and numbers; absent fields keep the paper's choices.

        Raises:
          ValueError: an unknown field (with the nearest known one) or a bad choice.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"genes: expected choices by gene, got {quoted(values)}")
        known = [field.name for field in dataclasses.fields(cls)]
        check_known(values, known, "genes")
        choices = {name: tuple(v) if isinstance(v, (list, tuple)) else v for name, v in values.items()}
        return cls(**choices)  # pyright: ignore[reportArgumentType]

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    # --- layout ---

    @property
    def max_branches(self) -> int:
        """L, the largest number of branches in the table."""
        return max(self.branches)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each gene, length G."""
        per_branch = [f"{gene}.{n}" for n in range(self.max_branches) for gene in (*FEATURES, *_BRANCH_GENES)]
        return (*_GLOBAL_GENES, *per_branch)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each gene, length G."""
        branch = (2,) * len(FEATURES) + tuple(len(getattr(self, gene)) for gene in _BRANCH_GENES)
        return tuple(len(getattr(self, gene)) for gene in _GLOBAL_GENES) + branch * self.max_branches

    # --- genome <-> settings ---

    def decode(self, genes: Int[Array | np.ndarray, " G"] | Sequence[int]) -> ProxySettings:
        """Decode one genome to settings.

        Raises:
          ValueError: wrong length, an index out of range, or a branch in use without features.
        """
        genes = [int(g) for g in np.asarray(genes).reshape(-1)]
        if len(genes) != len(self.sizes) or any(not 0 <= g < n for g, n in zip(genes, self.sizes, strict=True)):
            raise ValueError(f"genes {genes}: expected {len(self.sizes)} indices below {list(self.sizes)}")
        values = {name: getattr(self, name)[genes[i]] for i, name in enumerate(_GLOBAL_GENES)}
        branches = []
        for number in range(values.pop("branches")):
            start = len(_GLOBAL_GENES) + number * _GENES_PER_BRANCH
            own = genes[start : start + _GENES_PER_BRANCH]
            features = tuple(f for f, on in zip(FEATURES, own, strict=False) if on)
            rest = {g: getattr(self, g)[i] for g, i in zip(_BRANCH_GENES, own[len(FEATURES) :], strict=True)}
            branches.append(BranchSettings(features=features, **rest))
        return ProxySettings(branches=tuple(branches), **values)

    def encode(self, settings: ProxySettings) -> Int32[np.ndarray, " G"]:
        """Encode settings as a canonical genome, int32 [G].

        Raises:
          ValueError: a value is none of the table's choices; the message holds the value and the choices.
        """
        genes = [self._index(name, getattr(settings, name)) for name in ("lr", "alpha")]
        genes.append(self._index("branches", len(settings.branches)))
        genes += [self._index(name, getattr(settings, name)) for name in ("network_init", "barrier_init")]
        for branch in settings.branches:
            genes += [int(feature in branch.features) for feature in FEATURES]
            genes += [self._index(name, getattr(branch, name)) for name in _BRANCH_GENES]
        return np.asarray(genes + [0] * (len(self.sizes) - len(genes)), np.int32)

    def _index(self, name: str, value: Any) -> int:
        choices = getattr(self, name)
        for index, choice in enumerate(choices):
            same = choice == value if isinstance(value, str) else math.isclose(choice, value, abs_tol=1e-9)
            if same:
                return index
        raise ValueError(
            f"settings.{name} = {quoted(value)} is none of the gene's choices: {', '.join(map(str, choices))}"
        )

    def canonical(self, genes: Int[Array | np.ndarray, " G"] | Sequence[int]) -> Int32[np.ndarray, " G"]:
        """Set the genes of unused branches to 0, int32 [G], so that equal settings have equal vectors."""
        genes = np.asarray(genes, np.int32).copy()
        used = self.branches[int(genes[_GLOBAL_GENES.index("branches")])]
        genes[len(_GLOBAL_GENES) + used * _GENES_PER_BRANCH :] = 0
        return genes

    # --- random ---

    def random_genes(self, key: Key[Array, ""]) -> Int32[Array, " G"]:
        """Draw a random genome, int32 [G]: uniform choices, and features with their probability. Consumes the key.

        A branch without a feature gets one at random, because it needs a target.
        """
        k_uniform, k_feature, k_repair = jax.random.split(key, 3)
        sizes = jnp.asarray(self.sizes)
        genes = jax.random.randint(k_uniform, sizes.shape, 0, sizes)
        on = jax.random.bernoulli(k_feature, self.feature_probability, sizes.shape)
        genes = jnp.where(jnp.asarray(self._is_feature), on.astype(jnp.int32), genes)
        return self._repair(k_repair, genes.astype(jnp.int32))

    def mutate(
        self, key: Key[Array, ""], genes: Int[Array, " G"], rate: Float[Array, ""] | float
    ) -> Int32[Array, " G"]:
        """Draw each gene again, with probability ``rate``, as in a random genome. Consumes the key.

        Args:
          key: typed key.
          genes: [G].
          rate: mutation rate.

        Returns:
          int32 [G].
        """
        k_which, k_new, k_repair = jax.random.split(key, 3)
        again = jax.random.bernoulli(k_which, rate, genes.shape)
        return self._repair(k_repair, jnp.where(again, self.random_genes(k_new), genes))

    def _repair(self, key: Array, genes: Array) -> Array:
        start = len(_GLOBAL_GENES)
        own = genes[start:].reshape(self.max_branches, _GENES_PER_BRANCH)
        features = own[:, : len(FEATURES)]
        chosen = jax.random.randint(key, (self.max_branches, 1), 0, len(FEATURES))
        one = (jnp.arange(len(FEATURES))[None, :] == chosen).astype(genes.dtype)
        features = jnp.where(jnp.sum(features, axis=1, keepdims=True) > 0, features, one)
        own = jnp.concatenate([features, own[:, len(FEATURES) :]], axis=1)
        return jnp.concatenate([genes[:start], own.reshape(-1)])

    @functools.cached_property
    def _is_feature(self) -> np.ndarray:
        own = np.arange(_GENES_PER_BRANCH) < len(FEATURES)
        return np.concatenate([np.zeros(len(_GLOBAL_GENES), bool), np.tile(own, self.max_branches)])

    # --- genome -> arrays ---

    def values(self, genes: Int[Array, " G"], name: str, branch: int | None = None) -> Num[Array, ""]:
        """Return the numeric value of one gene; the genome may be traced.

        Args:
          genes: [G].
          name: a gene's name; initialisers give their index into ``initializers.INITS``.
          branch: number of the branch, for the genes of a branch.

        Returns:
          Scalar.
        """
        if name in FEATURES:
            return genes[len(_GLOBAL_GENES) + (branch or 0) * _GENES_PER_BRANCH + FEATURES.index(name)]
        choices = getattr(self, name)
        if name in ("network_init", "barrier_init"):
            choices = tuple(initializers.init_index(choice) for choice in choices)
        return jnp.asarray(choices)[self.index(genes, name, branch)]

    def index(self, genes: Int[Array, " G"], name: str, branch: int | None = None) -> Int[Array, ""]:
        """Return the index of one gene's choice. Arguments are those of :meth:`values`."""
        if name in _GLOBAL_GENES:
            return genes[_GLOBAL_GENES.index(name)]
        start = len(_GLOBAL_GENES) + (branch or 0) * _GENES_PER_BRANCH + len(FEATURES)
        return genes[start + _BRANCH_GENES.index(name)]


def without_alpha(table: GeneTable, genes: Any) -> np.ndarray:
    """Return a genome's key in a bank: its canonical form with ``alpha`` set to 0, as no training reads that gene."""
    genes = table.canonical(genes)
    genes[table.names.index("alpha")] = 0
    return genes


def random_settings(table: GeneTable, count: int, seed: int = 0) -> list[np.ndarray]:
    """Return the first ``count`` genomes of an endless random sequence, [G] each, distinct as keys of a bank.

    Raises:
      ValueError: the table has fewer settings than asked for.
    """
    return _distinct_genomes(table, table.random_genes, count, seed, [])


def mutated_settings(table: GeneTable, genes: Any, rate: float, count: int, seed: int = 0) -> list[np.ndarray]:
    """Return ``count`` distinct mutations of one genome, without the genome itself.

    Each gene is drawn again with probability ``rate``.

    Raises:
      ValueError: the table has fewer settings than asked for.
    """
    return _distinct_genomes(table, lambda key: table.mutate(key, jnp.asarray(genes), rate), count, seed, [genes])


_BATCH = 256  # genomes drawn at once


def num_settings(table: GeneTable) -> int:
    """Return how many distinct settings a table has; ``alpha``, which no training reads, does not count.

    Example:
      >>> one = {"level": (1.0,), "transform_kernel": (1,), "barrier_kernel": (1,), "transform_channels": (4,)}
      >>> num_settings(GeneTable(lr=(1.0,), branches=(1,), target_channels=(4,), **one))  # 31 features, 4 x 4 inits
      496
    """
    shared = len(table.lr) * len(table.network_init) * len(table.barrier_init)
    branch = (2 ** len(FEATURES) - 1) * math.prod(len(getattr(table, gene)) for gene in _BRANCH_GENES)
    return shared * sum(branch**used for used in table.branches)


def _distinct_genomes(
    table: GeneTable, draw: Callable[[Array], Array], count: int, seed: int, known: Sequence[Any]
) -> list[np.ndarray]:
    """Return ``count`` genomes of a random sequence, without those in ``known``."""
    key = jax.random.key(check_seed(seed))
    found = {tuple(without_alpha(table, genes).tolist()): np.empty(0) for genes in known}
    first = len(found)
    if count > (most := num_settings(table) - first):
        raise ValueError(f"{count} distinct settings: the gene table has too few ({most}); widen it")
    draws = jax.jit(jax.vmap(lambda number: draw(jax.random.fold_in(key, number))))
    for start in range(0, 100 * count + 1, _BATCH):
        if len(found) == first + count:
            break
        for drawn in np.asarray(draws(jnp.arange(start, start + _BATCH))):
            genes = without_alpha(table, drawn)
            found.setdefault(tuple(genes.tolist()), genes)
            if len(found) == first + count:
                break
    if len(found) < first + count:
        raise ValueError(
            f"{count} distinct settings: {100 * count} random draws found {len(found) - first} of the "
            f"{most} that the gene table has; ask for fewer, or widen it"
        )
    return list(found.values())[first:]
