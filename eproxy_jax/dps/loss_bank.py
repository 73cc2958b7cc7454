"""This module keeps a loss bank on disk: the losses of many settings on many architectures.

A setting's losses depend neither on the task, nor on the labelled architectures, nor on ``alpha``. With the matrix
[settings, archs, steps] of a space on disk, any task, draw of labels, number of labels or fitness is fitted in
milliseconds (``dps/selection.py``). A bank can be extended at any time.

The file holds JSON lines: a header with all that the losses depend on, then records of architectures and of losses.
Each record is appended and flushed by itself, so that a killed run loses the losses of one setting at most.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from eproxy_jax import proxy, scoring, spaces
from eproxy_jax.dps import fitted, selection, tiered
from eproxy_jax.dps.genes import GeneTable, mutated_settings, random_settings, without_alpha
from eproxy_jax.dps.labels import connected_labels
from eproxy_jax.errors import one_line
from eproxy_jax.execution import programs
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import GroupInput, distinct_networks, group_inputs
from eproxy_jax.jsonlines import ANOTHER_OUT, HeadedLines, fingerprint, json_number, read_numbers
from eproxy_jax.progress import Progress

# Candidates per device and call: a setting's architectures need few calls, and each call reports progress.
CHUNK = 64


@dataclasses.dataclass(frozen=True)
class BankSpec:
    """The description of a bank: all that its losses depend on besides settings and architectures.

    Attributes:
      space: the search space.
      table: the gene table that genomes index.
      images: [B, H, W, 3], standardised.
      key: key of weights, features and barriers; a typed key or an integer.
      num_steps: S.
    """

    space: spaces.SearchSpace
    table: GeneTable
    images: Array
    key: Array | int = 0
    num_steps: int = 10

    def identity(self, execution: Execution) -> dict[str, Any]:
        """Return all of it as plain data, for the header of the file."""
        return {
            **scoring.run_identity(self.space, self.images, self.key, execution),
            "genes": {name: choices for name, choices in self.table.to_dict().items() if name != "alpha"},
            "num_steps": self.num_steps,
        }


class LossBank:
    """A bank on disk, and a context manager that closes its file.

    Args:
      path: the file; made if absent.
      identity: see :meth:`BankSpec.identity`.
      read_only: open an existing bank to read it; it is neither made nor changed.

    Raises:
      FileNotFoundError: ``read_only``, and there is no such file.
      ValueError: the file is not a bank, or it is one of another space, gene table, images, seed, form or version.
    """

    def __init__(self, path: Path, identity: dict[str, Any], read_only: bool = False):
        header = {"bank": fingerprint(identity), **identity}
        self.path = path
        self._num_steps = identity.get("num_steps")
        self._position: dict[str, int] = {}
        self._losses: dict[tuple[int, ...], dict[int, np.ndarray]] = {}  # by genome, then by position

        def differs(found: dict[str, Any]) -> str:
            names = [name for name in header if name != "bank" and found.get(name) != header[name]]
            return f"{path}: a loss bank with other {', '.join(names)}: choose another file, or make them equal"

        self._file = HeadedLines(path, "loss bank", header, differs, read_only)
        try:
            for number, row in enumerate(self._file.rows, start=2):
                self._read(row, number)
        except ValueError:
            self._file.close()
            raise

    def _read(self, row: Any, number: int) -> None:
        try:
            if "archs" in row:
                archs = row["archs"]
                if not isinstance(archs, list) or not all(isinstance(arch, str) for arch in archs):
                    raise TypeError("archs: expected a list of strings")
                self._add_archs(archs)
            else:
                setting, start = tuple(row["setting"]), row["start"]
                if not all(type(gene) is int for gene in (*setting, start)):
                    raise TypeError("setting, start: expected integers")
                if start < 0 or start + len(row["losses"]) > len(self._position):
                    raise ValueError(f"losses of architectures {start} on: the lines before have no so many")
                for one in row["losses"]:
                    if not all(v is None or type(v) in (int, float) for v in one):
                        raise TypeError("losses: expected numbers")
                    if len(one) != self._num_steps:
                        raise ValueError(f"losses: {len(one)} of them, where the bank has {self._num_steps} steps")
                self._add_losses(setting, start, row["losses"])
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path}:{number}: not a line of a loss bank ({one_line(error, 300)}): {ANOTHER_OUT}"
            ) from error

    def _add_archs(self, archs: Sequence[str]) -> None:
        for arch in archs:
            self._position.setdefault(arch, len(self._position))

    def _add_losses(self, setting: tuple[int, ...], start: int, losses: Sequence[Sequence[float | None]]) -> None:
        plain = [read_numbers(one) for one in losses]
        self._losses.setdefault(setting, {}).update(enumerate(plain, start))

    @property
    def archs(self) -> list[str]:
        """The canonical strings of the architectures, length A."""
        return list(self._position)

    @property
    def genes(self) -> list[np.ndarray]:
        """The genomes, length P, in order of first appearance; their ``alpha`` genes are 0."""
        return [np.asarray(setting, np.int32) for setting in self._losses]

    def columns(self, space: spaces.SearchSpace, archs: Sequence[Any]) -> list[int]:
        """Return the position of each architecture's function along A.

        Raises:
          ValueError: the bank lacks one; the message says how to add it.
        """
        texts = [space.format(space.canonical(arch)) for arch in archs]
        absent = [text for text in texts if text not in self._position]
        if absent:
            raise ValueError(
                f"{self.path}: lacks {len(absent)} of the architectures, such as {absent[0]}: add them with "
                "eproxy bank --archs FILE"
            )
        return [self._position[text] for text in texts]

    def rows(self, table: GeneTable, settings: Sequence[Any]) -> list[int]:
        """Return the position of each genome along P, whatever its ``alpha``. The bank must hold all of them."""
        known = {setting: p for p, setting in enumerate(self._losses)}
        return [known[tuple(without_alpha(table, genes).tolist())] for genes in settings]

    def add_archs(self, archs: Sequence[str]) -> list[int]:
        """Append the new ones of some canonical architectures; returns the positions of all."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self._position]
        if new:
            self._file.append([json.dumps({"archs": new})])
            self._add_archs(new)
        return [self._position[arch] for arch in archs]

    def missing(self, genes: Any, positions: Sequence[int]) -> list[int]:
        """Return the positions that lack losses under a setting, ascending."""
        known = self._losses.get(tuple(int(g) for g in genes), {})
        return sorted(set(positions) - known.keys())

    def append(self, genes: Any, start: int, losses: np.ndarray) -> None:
        """Append the losses [n, S] under one setting of n architectures, from position ``start`` on."""
        setting = tuple(int(g) for g in genes)
        plain = [[json_number(v) for v in one] for one in losses]
        self._file.append([json.dumps({"setting": setting, "start": start, "losses": plain})])
        # The rounded values, as a reader of the file sees them: a resumed run then equals an undisturbed one.
        self._add_losses(setting, start, plain)

    def losses(self, num_steps: int) -> np.ndarray:
        """Return the losses, [P, A, S] float64; NaN if a training diverged or is missing, as of disconnected networks.

        The bank of an older version may hold losses of disconnected networks: ``space.is_connected`` tells them.
        """
        out = np.full((len(self._losses), len(self._position), num_steps), np.nan)
        for p, by_arch in enumerate(self._losses.values()):
            for position, losses in by_arch.items():
                out[p, position] = losses
        return out

    def computed(self) -> np.ndarray:
        """Return which trainings have been done, [P, A] boolean."""
        out = np.zeros((len(self._losses), len(self._position)), bool)
        for p, by_arch in enumerate(self._losses.values()):
            out[p, list(by_arch)] = True
        return out

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> LossBank:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def settings_to_try(
    table: GeneTable, known: Sequence[np.ndarray], rate: float, num_mutations: int, num_random: int, seed: int = 0
) -> list[np.ndarray]:
    """Return the genomes to fill a bank with: known ones, mutations of the first of them, and random ones.

    Args:
      table: the gene table.
      known: genomes [G]; the configuration's settings first.
      rate: mutation rate.
      num_mutations: number of mutations of the first known genome.
      num_random: number of random genomes.
      seed: seed of mutations and random genomes.
    """
    mutations = mutated_settings(table, known[0], rate, num_mutations, seed)
    return [*known, *mutations, *random_settings(table, num_random, seed)]


def show_progress() -> Callable[[int, int, int], None]:
    """Return a callback for :func:`fill` that shows trainings, rate, ETA and diverged on stderr."""
    meter: list[Progress] = []

    def show(done: int, total: int, diverged: int) -> None:
        if (
            not meter or meter[-1].total != total
        ):  # other work; the rate leaves its first setting out, of unknown seconds
            meter.append(Progress(total, done, unit="trainings"))
        meter[-1].update(done, diverged)

    return show


def fill(
    bank: LossBank,
    spec: BankSpec,
    settings: Sequence[np.ndarray],
    archs: Sequence[Any],
    execution: Execution | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, float]:
    """Train the missing pairs of settings x architectures.

    Args:
      bank: the bank that gets the losses, one setting after the other.
      spec: all that the losses depend on.
      settings: genomes [G]; their ``alpha`` does not matter.
      archs: architectures of the space; equal functions are trained once, and disconnected networks never.
      execution: devices and execution form.
      progress: called with (trainings done, in total, diverged) after each setting.

    Returns:
      {"compile": s, "run": s}, wall time.
    """
    space = spec.space
    execution = Execution.of(chunk_size=CHUNK * len(jax.local_devices())) if execution is None else execution
    networks = distinct_networks(archs, space)
    distinct = networks.distinct
    # Disconnected networks are known to the bank, without losses: whoever asks for them gets NaN.
    dead = [space.canonical(archs[i]) for i in np.flatnonzero(~networks.connected).tolist()]
    positions = bank.add_archs([space.format(arch) for arch in (*distinct, *dead)])[: len(distinct)]
    by_position = dict(zip(positions, distinct, strict=True))
    keys = [without_alpha(spec.table, genes) for genes in settings]
    todo = [(genes, missing) for genes in keys if (missing := bank.missing(genes, positions))]
    total, done, diverged = sum(len(missing) for _, missing in todo), 0, 0
    if not todo:
        return {"compile": 0.0, "run": 0.0}

    def candidate_of(group: spaces.Group) -> tiered.Candidate:
        return tiered.Candidate.of(group, spec.table, spec.num_steps, spec.images.dtype)

    key = proxy.typed_key(spec.key)
    task = jax.jit(tiered.make_task, static_argnums=1)(key, tiered.TierSpec.of(spec.table), spec.images)
    key, task = execution.replicate((key, task))
    setting_task = jax.jit(tiered.setting_task, static_argnums=0)

    @functools.lru_cache(maxsize=1)  # most settings lack the same architectures
    def inputs_of(positions: tuple[int, ...]) -> list[GroupInput]:
        return group_inputs([by_position[p] for p in positions], space, execution.grouping)

    compiled: list[float] = []
    start_time = time.perf_counter()
    for genes, missing in todo:
        shared = (setting_task(spec.table, task, execution.replicate(genes)),)
        losses = np.empty((len(missing), spec.num_steps))
        inputs = inputs_of(tuple(missing))
        for some, chunk in programs.run_groups(candidate_of, inputs, execution, key, shared, compiled.append):
            losses[some] = chunk
        for run in np.split(np.arange(len(missing)), np.flatnonzero(np.diff(missing) != 1) + 1):
            bank.append(genes, missing[run[0]], losses[run])
        done += len(missing)
        diverged += int((~np.isfinite(losses[:, -1])).sum())
        if progress is not None:
            progress(done, total, diverged)
    return {"compile": sum(compiled), "run": time.perf_counter() - start_time - sum(compiled)}


def fittest_of_bank(
    bank: LossBank, spec: BankSpec, labelled: Mapping[Any, float], count: int, blend: str
) -> tuple[tuple[np.ndarray, np.ndarray, float], ...]:
    """Return the settings of a bank that rank labelled architectures best, each with its best blend.

    Args:
      bank: an open bank that holds the labelled architectures.
      spec: all that the bank depends on.
      labelled: architectures with their values; disconnected ones are left out.
      count: number of settings.
      blend: one of ``evolution.BLENDS``.

    Returns:
      (genome [G], losses [A], fitness), best first.

    Raises:
      ValueError: the bank lacks a labelled architecture.
    """
    labelled = connected_labels(spec.space, labelled)
    losses = bank.losses(spec.num_steps)[:, bank.columns(spec.space, list(labelled)), -1]
    truth = np.asarray(list(labelled.values()))
    if blend == "alpha":
        macs = spaces.macs_fractions(spec.space, labelled)
        fitness = selection.fitness(selection.score_matrix(losses, macs, spec.table.alpha), losses, truth)
    else:
        sizes = spaces.size_measures(spec.space, labelled)
        fitness = fitted.fit_weights(losses, sizes, truth)[1][:, None]  # alpha has no effect: take its first choice
    chosen = []
    for p, k in selection.best_members(fitness, count):
        genes = bank.genes[p].copy()
        genes[spec.table.names.index("alpha")] = k
        chosen.append((genes, losses[p], float(fitness[p, k])))
    return tuple(chosen)
