"""This module computes the columns of a search: those of all candidates, those of a fit, dear ones of some.

Each kind has a file of its own in the folder of the search, which resumes: ``columns.jsonl``, ``fitted.jsonl`` with its
columns, ``dear.jsonl``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax import files
from eproxy_jax.columns import ColumnsResult
from eproxy_jax.errors import listed, quoted
from eproxy_jax.execution.execution import Execution
from eproxy_jax.fits.columns import MACS, PARAMS, PROXIES, Columns
from eproxy_jax.runs import columns as columns_lib
from eproxy_jax.runs import gathering, hosts, ranking, saved_fits
from eproxy_jax.runs.gathering import GRAPH_COUNTS
from eproxy_jax.spaces import SearchSpace
from eproxy_jax.types import STATUS_OK, ProxySettings

FITTED = "fitted"  # the column of what a fit expects
DEAR_FILE = "dear.jsonl"
_OF_SPACE = (MACS, PARAMS, GRAPH_COUNTS)


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What all columns of a search are computed with.

    Attributes:
      space: the search space.
      workdir: folder of the files.
      images: [B, H, W, 3]; None for those made by code.
      weight_seed: seed of weights, noise and targets.
      labels: [B], class of each image, or None.
      num_classes: K, or None.
      settings: of Eproxy, by the name of the column.
      execution: devices and execution form.
      command: the command that started the search.
    """

    space: SearchSpace
    workdir: Path
    images: Any
    weight_seed: int
    labels: Any
    num_classes: int | None
    settings: Mapping[str, ProxySettings]
    execution: Execution
    command: str | None

    def compute(self, archs: Sequence[Any], names: Sequence[str], file: str) -> Columns:
        """Compute columns of proxies, or read those that the file has.

        Args:
          archs: architectures.
          names: the proxies.
          file: name of the file.

        Returns:
          Rows of the connected functions, by canonical string.

        Raises:
          ValueError: see ``ep.runs.score_columns``.
        """
        path = self.workdir / file
        result = columns_lib.score_columns(
            _with_held(archs, path, self.space),
            self.space,
            names,
            self.images,
            self.weight_seed,
            labels=self.labels,
            num_classes=self.num_classes,
            settings=self.settings,
            out=path,
            execution=self.execution,
            command=self.command,
        )
        assert result is not None, "a search is one process"
        return self._rows(archs, result)

    def fitted(self, archs: Sequence[Any], saved: saved_fits.SavedFit) -> Columns:
        """Compute the columns of a fit, and what it expects, in the column ``fitted``."""
        num_classes = saved.made_with.get("num_classes") if self.num_classes is None else self.num_classes
        path = self.workdir / "fitted.jsonl"
        ranked = ranking.rank(
            saved,
            _with_held(archs, path, self.space),
            self.space,
            self.images,
            self.weight_seed,
            labels=self.labels,
            num_classes=num_classes,
            out=path,
            execution=self.execution,
            command=self.command,
        )
        assert ranked is not None, "a search is one process"
        columns = {**ranked.columns.scalars(), FITTED: ranked.score}
        return self._rows(archs, dataclasses.replace(ranked.columns, columns=columns))

    def _rows(self, archs: Sequence[Any], result: ColumnsResult) -> Columns:
        """Return the rows of some architectures of a result: connected functions, by canonical string."""
        space = self.space
        result = result.select(range(len(archs)))  # they stand before those that the file had
        texts = [space.format(space.canonical(space.parse(arch))) for arch in result.archs]
        ok = np.asarray(result.status) == STATUS_OK
        rows = {text: i for i, text in reversed(list(enumerate(texts))) if ok[i]}
        where = list(rows.values())
        numbers = {name: values[where] for name, values in result.scalars().items() if name not in _OF_SPACE}
        return Columns.of(list(rows), numbers)

    def candidates(
        self, names: Sequence[str], saved: saved_fits.SavedFit | None, with_graph_counts: bool = True
    ) -> Callable[[Sequence[Any]], Columns]:
        """Return a function of architectures -> the columns that all candidates have: space, proxies, fit.

        Args:
          names: proxies; none if only the space and the fit tell candidates apart.
          saved: a fit, or None.
          with_graph_counts: False leaves graph counts out.
        """

        def columns_of(archs: Sequence[Any]) -> Columns:
            parsed = [self.space.parse(arch) for arch in archs]
            found = gathering.of_space(self.space, parsed, with_graph_counts).columns
            parts = [self.compute(parsed, names, "columns.jsonl")] if names else []
            parts += [self.fitted(parsed, saved)] if saved is not None else []
            for part in parts:
                found = found.join(part.select([name for name in part.names if name not in found.names]))
            return found

        return columns_of


def _with_held(archs: Sequence[Any], path: Path, space: SearchSpace) -> list[Any]:
    """Return architectures, and behind them those of a file: it grows as the search goes on, and keeps what it has."""
    parsed = [space.parse(arch) for arch in archs]
    held: list[Any] = []
    for line in files.read_text(path, "file of columns").splitlines() if path.exists() else []:
        try:
            held.append(space.parse(json.loads(line)["arch"]))
        except (LookupError, TypeError, ValueError, RecursionError):
            continue  # a half-written last line, or a file of somebody else: who reads it in earnest says so
    own = set(parsed)
    return [*parsed, *(arch for arch in dict.fromkeys(held) if arch not in own)]


def with_fit(columns: Columns, saved: saved_fits.SavedFit) -> Columns:
    """Return columns with what a fit expects of their rows, in the column ``fitted``.

    Raises:
      ValueError: the columns lack one of the fit.
    """
    return columns.join(Columns.of(columns.archs, {FITTED: saved.fitted.predict(columns)[0]}, PROXIES))


def check_dear(names: Sequence[str], held: Sequence[str]) -> None:
    """Check that dear columns are others than those that all candidates have.

    Raises:
      ValueError: one is not.
    """
    if both := [name for name in names if name in held or name in _OF_SPACE]:
        raise ValueError(f"--then: all candidates have {listed(map(quoted, both))} already: name columns that are dear")


def one_process() -> None:
    """Check that the search is one process.

    Raises:
      ValueError: it is one of several.
    """
    if hosts.Process.current().count > 1:
        raise ValueError("a search is one process: start one")
