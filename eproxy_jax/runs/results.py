"""The result file: one JSON line an architecture, appended as chunks finish, resumable after a kill.

Lines are appended as networks finish, which need not be in the order asked for: architectures that share a compiled
program are trained together. The last act of a run puts them in that order, so that a run that was killed and started
again ends with the same file. Each line carries the run's fingerprint; lines of another run are never continued.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax.types import ScoreResult


def fingerprint(description: dict[str, Any]) -> str:
    """Twelve hex digits of everything that a score depends on."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _number(value: float) -> float | None:
    """A float32 as its shortest decimal; null for what is not finite, which JSON has no number for."""
    return float(str(np.float32(value))) if math.isfinite(value) else None


def lines_of(result: ScoreResult, run: str) -> list[str]:
    """One JSON line an architecture: arch, score, loss, losses, macs, params, effective_macs, status, run.

    ``score``, ``loss`` and entries of ``losses`` are null where the training diverged.
    """
    return [
        json.dumps(
            {
                "arch": arch,
                "score": float(result.score[i]) if math.isfinite(result.score[i]) else None,
                "loss": _number(result.loss[i]),
                "losses": [_number(value) for value in result.losses[i]],
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
    """The inverse of :func:`lines_of` on parsed lines."""

    def column(name: str, missing: float) -> np.ndarray:
        return np.asarray([missing if row[name] is None else row[name] for row in rows], np.float64)

    losses = [[math.nan if value is None else value for value in row["losses"]] for row in rows]
    return ScoreResult(
        archs=tuple(row["arch"] for row in rows),
        score=column("score", -math.inf),
        loss=column("loss", math.nan),
        losses=np.asarray(losses, np.float64),
        macs=np.asarray([row["macs"] for row in rows], np.int64),
        params=np.asarray([row["params"] for row in rows], np.int64),
        effective_macs=np.asarray([row["effective_macs"] for row in rows], np.int64),
        status=tuple(row["status"] for row in rows),
        seconds={},
    )


class JsonLines:
    """A locked, append-only file of JSON lines; a half-written last line is dropped.

    Args:
      path: the file; its folder is made.

    Attributes:
      rows: lines already there, parsed.
      torn: whether a half-written last line was dropped.

    Raises:
      ValueError: a line is not JSON, or another process is writing the file.
      OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            _lock(self._file, path)  # before reading: another writer may still be appending
            self._file.seek(0)
            content = self._file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self.rows = [_parse_line(path, n, line) for n, line in enumerate(whole.splitlines(), start=1)]
            self._check_rows()
        except ValueError:
            self._file.close()
            raise
        self.torn = len(whole) < len(content)
        self._file.truncate(len(whole))

    def _check_rows(self) -> None:
        """For subclasses that know what lines should hold."""

    def append(self, lines: Sequence[str]) -> None:
        """Write lines and make sure they are on the disk."""
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.extend(json.loads(line) for line in lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_FIELDS = ("arch", "score", "loss", "losses", "macs", "params", "effective_macs", "status", "run")
_FIX = "choose another --out, or move the file away"


class ResultsFile(JsonLines):
    """The scores of one run.

    Args:
      path: the file; its folder is made.
      run: the run's fingerprint.
      archs: strings of all architectures of the run, in order.

    Attributes:
      positions: where each line's architecture stands in ``archs``.

    Raises:
      ValueError: the file holds something that is not part of this run; says the line and what to do.
      OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path, run: str, archs: Sequence[str]):
        self._run = run
        # Equal strings have equal lines: the n-th line of a string is that of its n-th place.
        self._places: dict[str, collections.deque[int]] = {}
        for position, arch in enumerate(archs):
            self._places.setdefault(arch, collections.deque()).append(position)
        self.positions: list[int] = []
        super().__init__(path)

    def append(self, lines: Sequence[str]) -> None:
        """Write lines of architectures that have none yet, and make sure they are on the disk."""
        super().append(lines)
        self.positions += [self._places[row["arch"]].popleft() for row in self.rows[len(self.positions) :]]

    def missing(self) -> dict[str, int]:
        """How many lines each architecture string lacks; complete ones are absent."""
        return {arch: len(places) for arch, places in self._places.items() if places}

    def finish(self) -> None:
        """Put the lines in the order of the architectures; the file is replaced as a whole, if at all."""
        order = sorted(range(len(self.rows)), key=self.positions.__getitem__)
        if order == list(range(len(order))):
            return
        self.rows, self.positions = [self.rows[i] for i in order], sorted(self.positions)
        draft = self.path.with_name(self.path.name + ".sorting")
        with draft.open("wb") as file:
            file.write("".join(json.dumps(row) + "\n" for row in self.rows).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def _check_rows(self) -> None:
        path, run = self.path, self._run
        for number, row in enumerate(self.rows, start=1):
            if not isinstance(row, dict) or any(field not in row for field in _FIELDS):
                raise ValueError(f"{path}:{number}: not a line of an eproxy score file: {_FIX}")
            if row["run"] != run:
                raise ValueError(
                    f"{path}:{number}: written by another run ({row['run']}; this one is {run}): its space, settings, "
                    f"images, seed or execution form differ: {_FIX}"
                )
            places = self._places.get(row["arch"])
            if not places:
                raise ValueError(
                    f"{path}:{number}: holds {row['arch']!r}, which this run's list of architectures "
                    f"{'lacks' if places is None else 'has fewer times'}: {_FIX}"
                )
            self.positions.append(places.popleft())


def _parse_line(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{path}:{number}: not JSON: remove this line and those after it to resume, or {_FIX}"
        ) from error


def _lock(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl; two writers of one file are then the user's to avoid
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f"{path}: another process is writing it: wait for it, or choose another --out") from error
