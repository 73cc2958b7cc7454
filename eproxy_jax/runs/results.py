"""This module writes the result file: one JSON line per architecture, appended as chunks finish.

Architectures that share a compiled program train together, so lines are appended in another order than asked for. At
its end a run sorts them. So a run that was killed and started again ends with the same file. Each line holds the run's
fingerprint, and a run never continues a file of another one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax.jsonlines import ANOTHER_OUT, JsonLines, json_number, read_numbers
from eproxy_jax.types import ScoreResult


def lines_of(result: ScoreResult, run: str) -> list[str]:
    """Return one JSON line per architecture: arch, score, loss, losses, macs, params, effective_macs, status, run.

    ``score``, ``loss`` and entries of ``losses`` are null if the training diverged; all of them if the network is
    disconnected. Losses are float32 numbers, see :func:`eproxy_jax.jsonlines.json_number`.
    """
    return [
        json.dumps(
            {
                "arch": arch,
                "score": float(result.score[i]) if math.isfinite(result.score[i]) else None,
                "loss": json_number(result.loss[i]),
                "losses": [json_number(value) for value in result.losses[i]],
                "macs": int(result.macs[i]),
                "params": int(result.params[i]),
                "effective_macs": int(result.effective_macs[i]),
                "status": result.status[i],
                "run": run,
            }
        )
        for i, arch in enumerate(result.archs)
    ]


def result_of(rows: Sequence[dict[str, Any]]) -> ScoreResult:
    """Invert :func:`lines_of` on parsed lines: losses come back to the bit."""
    scores = [-math.inf if row["score"] is None else row["score"] for row in rows]
    return ScoreResult(
        archs=tuple(row["arch"] for row in rows),
        score=np.asarray(scores, np.float64),
        loss=read_numbers([row["loss"] for row in rows]),
        losses=read_numbers([row["losses"] for row in rows]),
        macs=np.asarray([row["macs"] for row in rows], np.int64),
        params=np.asarray([row["params"] for row in rows], np.int64),
        effective_macs=np.asarray([row["effective_macs"] for row in rows], np.int64),
        status=tuple(row["status"] for row in rows),
        seconds={},
    )


_FIELDS = ("arch", "score", "loss", "losses", "macs", "params", "effective_macs", "status", "run")


class ResultsFile(JsonLines):
    """The result file of one run.

    Args:
      path: the file; its folder is made.
      run: the run's fingerprint.
      archs: strings of all architectures of the run, in order, each once.

    Attributes:
      known: the strings that have a line.

    Raises:
      ValueError: the file holds a line that is not part of this run; the message holds the line and a remedy.
      OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path, run: str, archs: Sequence[str]):
        self._run = run
        self._place = {arch: place for place, arch in enumerate(archs)}
        self.known: set[str] = set()
        super().__init__(path)

    def append(self, lines: Sequence[str]) -> None:
        """Write lines of architectures that have none yet, and flush them to the disk."""
        super().append(lines)
        self.known.update(row["arch"] for row in self.rows[len(self.known) :])

    def missing(self) -> list[str]:
        """Return the strings that lack a line, in the order of the run."""
        return [arch for arch in self._place if arch not in self.known]

    def finish(self) -> None:
        """Sort the lines in the order of the architectures; replaces the whole file, or leaves it."""
        ordered = sorted(self.rows, key=lambda row: self._place[row["arch"]])
        if ordered == self.rows:
            return
        self.rows = ordered
        draft = self.path.with_name(self.path.name + ".sorting")
        with draft.open("wb") as file:
            file.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def _check_rows(self) -> None:
        path, run = self.path, self._run
        for line, row in enumerate(self.rows, start=1):
            if not isinstance(row, dict) or any(field not in row for field in _FIELDS):
                raise ValueError(f"{path}:{line}: not a line of an eproxy score file: {ANOTHER_OUT}")
            if row["run"] != run:
                raise ValueError(
                    f"{path}:{line}: written by another run ({row['run']}; this one is {run}): its space, settings, "
                    f"images, seed or execution form differ: {ANOTHER_OUT}"
                )
            if row["arch"] not in self._place:
                raise ValueError(
                    f"{path}:{line}: holds {row['arch']!r}, which this run's list of architectures lacks: {ANOTHER_OUT}"
                )
            if row["arch"] in self.known:
                raise ValueError(f"{path}:{line}: holds {row['arch']!r} a second time: {ANOTHER_OUT}")
            self.known.add(row["arch"])
