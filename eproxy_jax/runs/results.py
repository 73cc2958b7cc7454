"""This module writes the result file: one JSON line per architecture, appended as chunks finish.

Architectures that share a compiled program train together, so lines are appended in another order than asked for. At
its end a run sorts them. So a run that was killed and started again ends with the same file. Each line holds the run's
fingerprint, and a run never continues a file of another one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from eproxy_jax import files
from eproxy_jax.errors import quoted
from eproxy_jax.jsonlines import ANOTHER_OUT, JsonLines, json_number, parse_lines, read_numbers
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


_WHAT = "score file of eproxy"
_COUNTS = ("macs", "params", "effective_macs")
_FIELDS = ("arch", "score", "loss", "losses", *_COUNTS, "status", "run")


class ResultsFile(JsonLines):
    """The result file of one run.

    Args:
      path: the file; its folder is made.
      run: the run's fingerprint.
      archs: strings of all architectures of the run, in order, each once.
      num_steps: S, the length of ``losses``; any if absent.
      why: what to say of a file of another run, from that run's fingerprint.
      earlier: fingerprints of runs whose lines this run replaces; such a file is opened without its lines.

    Attributes:
      known: the strings that have a line.
      replaced: True if the file held lines of an earlier run; ``rewrite`` replaces them.

    Raises:
      ValueError: the file holds a line that is not part of this run; the message holds the line and a remedy.
      OSError: the file cannot be opened for writing.
    """

    def __init__(
        self,
        path: Path,
        run: str,
        archs: Sequence[str],
        num_steps: int | None = None,
        why: Callable[[str], str] | None = None,
        earlier: Collection[str] = (),
    ):
        self._run, self._num_steps, self._why, self._earlier = run, num_steps, why, earlier
        self._place = {arch: place for place, arch in enumerate(archs)}
        self._corrected = False
        self.known: set[str] = set()
        self.replaced = False
        super().__init__(path, _WHAT)

    @override
    def append(self, lines: Sequence[str]) -> None:
        """Write lines of architectures that have none yet, and flush them to the disk."""
        super().append(lines)
        self.known.update(row["arch"] for row in self.rows[len(self.known) :])

    def missing(self) -> list[str]:
        """Return the strings that lack a line, in the order of the run."""
        return [arch for arch in self._place if arch not in self.known]

    def correct(self, rows: Sequence[dict[str, Any]]) -> int:
        """Take rows in place of those of the file, in the same order; :meth:`finish` writes them.

        Returns:
          The number of rows that differ.
        """
        different = sum(new != old for new, old in zip(rows, self.rows, strict=True))
        if different:
            self.rows, self._corrected = list(rows), True
        return different

    def finish(self) -> None:
        """Sort the lines in the order of the architectures; replaces the lines of the whole file, or leaves them."""
        ordered = sorted(self.rows, key=lambda row: self._place[row["arch"]])
        if ordered != self.rows or self._corrected:
            self.rewrite(ordered)
            self._corrected = False

    @override
    def _is_first(self, row: Any) -> bool:
        return isinstance(row, dict) and all(field in row for field in _FIELDS)

    @override
    def _begins(self, text: str) -> bool:
        starts = (f'{{"arch": {json.dumps(arch)}, "score": ' for arch in self._place)
        return len(text) > len('{"arch": ') and any(s.startswith(text) or text.startswith(s) for s in starts)

    @override
    def _check_rows(self) -> None:
        self.known = set()
        if self.rows[0]["run"] in self._earlier:
            self.rows, self.replaced = [], True
            return
        for line, row in enumerate(self.rows, start=1):
            where = f"{self.path}:{line}"
            check_row(row, where)
            check_belongs(row, where, self._run, self._place, self._why)
            _check_steps(row, where, self._num_steps)
            if row["arch"] in self.known:
                raise ValueError(f"{where}: holds {quoted(row['arch'])} a second time: {ANOTHER_OUT}")
            self.known.add(row["arch"])


def check_belongs(
    row: dict[str, Any], where: str, run: str, archs: Collection[str], why: Callable[[str], str] | None = None
) -> None:
    """Check that a line is of a run and of its list.

    Args:
      row: the line.
      where: ``FILE:LINE``, for the message.
      run: the run's fingerprint.
      archs: strings of all architectures of the run.
      why: what to say of a line of another run, from that run's fingerprint.

    Raises:
      ValueError: it is not.
    """
    if row["run"] != run:
        text = why(row["run"]) if why is not None else _other_run(row["run"], run)
        raise ValueError(f"{where}: {text}: {ANOTHER_OUT}")
    if row["arch"] not in archs:
        raise ValueError(
            f"{where}: holds {quoted(row['arch'])}, which this run's list of architectures lacks: {ANOTHER_OUT}"
        )


def _other_run(run: Any, own: str) -> str:
    return (
        f"written by another run ({quoted(run)}; this one is {own!r}): its space, settings, images, seed, execution "
        "form or versions differ"
    )


def check_row(row: Any, where: str) -> None:
    """Check the types of a parsed line.

    Args:
      row: the line.
      where: ``FILE:LINE``, for the message.

    Raises:
      ValueError: a field is absent or has another type.
    """
    if not isinstance(row, dict) or any(field not in row for field in _FIELDS):
        raise ValueError(f"{where}: not a line of a {_WHAT}: {ANOTHER_OUT}")
    losses = row["losses"]
    ok = {
        "arch": isinstance(row["arch"], str),
        "score": is_number(row["score"]),
        "loss": is_number(row["loss"]),
        "losses": isinstance(losses, list) and bool(losses) and all(map(is_number, losses)),
        **{name: is_count(row[name]) for name in _COUNTS},
        "status": isinstance(row["status"], str),
        "run": isinstance(row["run"], str),
    }
    check_fields(row, ok, where)


def check_fields(row: Mapping[str, Any], good: Mapping[str, bool], where: str) -> None:
    """Check that all fields of a line hold what they should.

    Args:
      row: the line.
      good: whether a field does, by name.
      where: ``FILE:LINE``, for the message.

    Raises:
      ValueError: one does not.
    """
    for name, is_good in good.items():
        if not is_good:
            what = f"{quoted(name)[1:-1]}: {quoted(row[name])} is no value of that field"
            raise ValueError(f"{where}: {what}: {ANOTHER_OUT}")


def _check_steps(row: dict[str, Any], where: str, num_steps: int | None) -> None:
    if num_steps is not None and (found := len(row["losses"])) != num_steps:
        raise ValueError(f"{where}: losses: {found} of them, where the run has {num_steps} steps: {ANOTHER_OUT}")


def is_count(value: Any) -> bool:
    """Say if a value is a whole number of 63 bits, not negative."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """Say if a value is a finite number or null."""
    if value is None:
        return True
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def check_file(path: Path, check: Callable[[Any, str], None] = check_row, what: str = _WHAT) -> None:
    """Check that a file is absent, empty or a result file, and change nothing.

    Args:
      path: the file.
      check: checks a parsed line, as :func:`check_row` does.
      what: the word for the file, for messages.

    Raises:
      ValueError: it is somebody else's.
    """
    if not files.writable(path).exists():
        return
    with path.open("rb") as file:
        first = file.readline(2**24)
    if not first:
        return
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        if first.endswith(b"\n") or not first.startswith(b'{"arch": '):  # else the first line may be half written
            raise ValueError(f"{path}:1: not JSON, so not a {what}, and left as it is: {ANOTHER_OUT}") from None
        return
    check(row, f"{path}:1")


def read_rows(
    path: Path, run: str, check: Callable[[Any, str], None] = check_row, what: str = _WHAT
) -> list[dict[str, Any]]:
    """Read the whole lines of a file of results that another process may be writing; none if there is no file.

    Args:
      path: the file. It is opened read-only.
      run: fingerprint that its lines must have.
      check: checks a parsed line, as :func:`check_row` does.
      what: the word for the file, for messages.

    Raises:
      ValueError: a line has another type, or belongs to another run; the message holds its number.
    """
    if not path.exists():
        return []
    rows = parse_lines(path, files.read_bytes(path, what))
    for line, row in enumerate(rows, start=1):
        check(row, f"{path}:{line}")
        if row["run"] != run:
            raise ValueError(
                f"{path}:{line}: {_other_run(row['run'], run)}: give all processes the same flags, and move old files "
                "away"
            )
    return rows


def read_results(path: Path, run: str, num_steps: int | None = None) -> list[dict[str, Any]]:
    """Read a result file of scores as :func:`read_rows` does.

    Args:
      path: the file.
      run: fingerprint that its lines must have.
      num_steps: S; any if absent.

    Raises:
      ValueError: a line has another type, or belongs to another run; the message holds its number.
    """
    rows = read_rows(path, run)
    for line, row in enumerate(rows, start=1):
        _check_steps(row, f"{path}:{line}", num_steps)
    return rows
