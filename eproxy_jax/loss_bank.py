"""The loss bank: losses of many settings on many architectures, computed once, kept, extended on demand.

A setting's losses do not depend on the task, on which architectures are labelled, nor on ``alpha``. With the matrix
[settings, archs, steps] of a space on disk, any task, draw of labels, number of labels or fitness is fitted in
milliseconds (:mod:`eproxy_jax.selection`).

The file is JSON lines: a header with all that the losses depend on, then records of architectures and of losses,
appended and flushed one by one, so that a killed run loses at most the setting it was working on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from eproxy_jax import images as images_lib
from eproxy_jax import runner, spaces, tiered
from eproxy_jax.genes import GeneTable
from eproxy_jax.results_file import JsonLines, fingerprint

# Candidates per device and call: one setting's architectures in few calls, each with its own progress.
CHUNK = 64


@dataclasses.dataclass(frozen=True)
class BankSpec:
    """What the losses of a bank depend on besides settings and architectures.

    Attributes:
      space: the search space.
      table: the gene table that genomes index.
      images: [B, H, W, 3], standardised.
      weight_seed: seed of weights, features and barriers.
      num_steps: S.
    """

    space: spaces.SearchSpace
    table: GeneTable
    images: Array
    weight_seed: int = 0
    num_steps: int = 10

    def identity(self, execution: runner.Execution) -> dict[str, Any]:
        """All of it as plain data, for the file's header."""
        return {
            "space": self.space.name,
            "sizes": dataclasses.asdict(self.space),  # pyright: ignore[reportArgumentType]
            "genes": {name: choices for name, choices in self.table.to_dict().items() if name != "alpha"},
            "images": images_lib.identity(self.images),
            "weight_seed": self.weight_seed,
            "num_steps": self.num_steps,
            "form": execution.label,
            "platform": execution.devices[0].platform,
        }


class LossBank:
    """A bank on disk.

    Args:
      path: the file; made when absent.
      identity: see :meth:`BankSpec.identity`.

    Attributes:
      archs: canonical strings of the architectures, length A.
      genes: genomes, length P, in order of first appearance; ``alpha`` genes are 0.

    Raises:
      ValueError: the file is not a bank, or of another space, gene table, images, seed or form.
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        header = {"bank": fingerprint(identity), **identity}
        self.path, self.archs, self.genes = path, [], []
        self._position: dict[str, int] = {}
        self._settings: dict[tuple[int, ...], int] = {}
        self._losses: dict[int, dict[int, list[float]]] = {}
        self._file = JsonLines(path)
        try:
            if not self._file.rows:
                self._file.append([json.dumps(header)])
            self._check_header(self._file.rows[0], header)
            for number, row in enumerate(self._file.rows[1:], start=2):
                self._read(row, number)
        except ValueError:
            self._file.close()
            raise

    def _check_header(self, found: Any, header: dict[str, Any]) -> None:
        if not isinstance(found, dict) or "bank" not in found:
            raise ValueError(f"{self.path}:1: not a loss bank: choose another file")
        if found["bank"] != header["bank"]:
            different = [name for name in header if name != "bank" and found.get(name) != header[name]]
            raise ValueError(
                f"{self.path}: a loss bank with other {', '.join(different)}: choose another file, or make them equal"
            )

    def _read(self, row: Any, number: int) -> None:
        try:
            if "archs" in row:
                self._add_archs(row["archs"])
            else:
                index = self._setting(tuple(row["setting"]))
                start = row["start"]
                losses = [[math.nan if v is None else v for v in one] for one in row["losses"]]
                self._losses[index].update(enumerate(losses, start))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path}:{number}: not a line of a loss bank ({error})") from error

    def _add_archs(self, archs: Sequence[str]) -> None:
        for arch in archs:
            self._position.setdefault(arch, len(self._position))
        self.archs = list(self._position)

    def _setting(self, genes: tuple[int, ...]) -> int:
        if genes not in self._settings:
            self._settings[genes] = len(self.genes)
            self._losses[len(self.genes)] = {}
            self.genes.append(np.asarray(genes, np.int32))
        return self._settings[genes]

    def add_archs(self, archs: Sequence[str]) -> list[int]:
        """Positions of canonical architectures, new ones appended."""
        new = [arch for arch in dict.fromkeys(archs) if arch not in self._position]
        if new:
            self._file.append([json.dumps({"archs": new})])
            self._add_archs(new)
        return [self._position[arch] for arch in archs]

    def missing(self, genes: Any, positions: Sequence[int]) -> list[int]:
        """Positions whose losses under a setting are not there yet, ascending."""
        known = self._losses.get(self._settings.get(tuple(int(g) for g in genes), -1), {})
        return sorted(set(positions) - known.keys())

    def append(self, genes: Any, start: int, losses: np.ndarray) -> None:
        """Losses [n, S] of the architectures from position ``start`` on under one setting."""
        setting = tuple(int(g) for g in genes)
        plain = [[float(str(v)) if np.isfinite(v) else None for v in np.asarray(one, np.float32)] for one in losses]
        self._file.append([json.dumps({"setting": setting, "start": start, "losses": plain})])
        index = self._setting(setting)
        # As a reader of the file would see them, so that a resumed run is not told from an undisturbed one.
        self._losses[index].update(enumerate([[math.nan if v is None else v for v in one] for one in plain], start))

    def losses(self, num_steps: int) -> np.ndarray:
        """[P, A, S] float64; NaN where a training diverged, and where nothing has been computed."""
        out = np.full((len(self.genes), len(self.archs), num_steps), np.nan)
        for setting, by_arch in self._losses.items():
            for position, losses in by_arch.items():
                out[setting, position] = losses
        return out

    def computed(self) -> np.ndarray:
        """[P, A] boolean: which trainings have been done."""
        out = np.zeros((len(self.genes), len(self.archs)), bool)
        for setting, by_arch in self._losses.items():
            out[setting, list(by_arch)] = True
        return out

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def without_alpha(table: GeneTable, genes: Any) -> np.ndarray:
    """A genome's key in a bank: canonical, with the gene that no training sees set to 0."""
    genes = table.canonical(genes)
    genes[table.names.index("alpha")] = 0
    return genes


def random_settings(table: GeneTable, count: int, seed: int = 0) -> list[np.ndarray]:
    """The first ``count`` genomes of an endless random sequence, [G] each, distinct as keys of a bank.

    Raises:
      ValueError: the table has fewer settings than asked for.
    """
    found: dict[tuple[int, ...], np.ndarray] = {}
    draw = jax.jit(table.random_genes)
    for number in range(100 * count):
        if len(found) == count:
            return list(found.values())
        genes = without_alpha(table, draw(jax.random.fold_in(jax.random.key(seed), number)))
        found.setdefault(tuple(genes.tolist()), genes)
    raise ValueError(f"{count} distinct settings: the gene table has too few (found {len(found)}); widen it")


def fill(
    bank: LossBank,
    spec: BankSpec,
    settings: Sequence[np.ndarray],
    archs: Sequence[Any],
    execution: runner.Execution | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, float]:
    """Train what is missing of settings x architectures.

    Args:
      bank: where losses go, one setting after the other.
      spec: what they depend on.
      settings: genomes [G]; their ``alpha`` does not matter.
      archs: architectures of the space; equal functions are trained once.
      execution: devices and form.
      progress: called with (trainings done, in total, diverged) after each setting.

    Returns:
      {"compile": s, "run": s}, wall time.
    """
    space = spec.space
    execution = runner.Execution.of(chunk_size=CHUNK * len(jax.devices())) if execution is None else execution
    canonical = list(dict.fromkeys(space.canonical(arch) for arch in archs))
    by_text = {space.format(arch): arch for arch in canonical}
    positions = bank.add_archs(list(by_text))
    by_position = dict(zip(positions, canonical, strict=True))
    keys = [without_alpha(spec.table, genes) for genes in settings]
    todo = [(genes, missing) for genes in keys if (missing := bank.missing(genes, positions))]
    total, done, diverged = sum(len(missing) for _, missing in todo), 0, 0
    if not todo:
        return {"compile": 0.0, "run": 0.0}
    candidate = tiered.Candidate.of(space, spec.table, spec.num_steps, spec.images.dtype)
    key = jax.random.key(spec.weight_seed)
    task = jax.jit(tiered.make_task, static_argnums=1)(key, candidate.network.spec, spec.images)
    key, task = execution.replicate((key, task))
    shared = (task, execution.replicate(np.asarray(keys[0])))
    program = runner.compile_program(candidate, spec.num_steps, space, execution, key, shared)
    start_time = time.perf_counter()
    for genes, missing in todo:
        shared = (task, execution.replicate(genes))
        archs = [by_position[position] for position in missing]
        losses = np.concatenate(list(runner.run_program(program, space, archs, key, shared)))
        for run in np.split(np.arange(len(missing)), np.flatnonzero(np.diff(missing) != 1) + 1):
            bank.append(genes, missing[run[0]], losses[run])
        done += len(missing)
        diverged += int((~np.isfinite(losses[:, -1])).sum())
        if progress is not None:
            progress(done, total, diverged)
    return {"compile": program.compile_seconds, "run": time.perf_counter() - start_time}
