"""This module lets several processes, on one host or many, score one list: each trains a share of it.

Processes find each other through ``jax.distributed``. A share needs nothing from the others, so processes do not
communicate while they train. Every process appends to its own file, in a folder that all of them see. Process 0 appends
the lines of the others to the final file. A killed process, started again with the same flags, resumes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from eproxy_jax.runs.results import ResultsFile

_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Process:
    """One of the processes of a run.

    Attributes:
      index: number of this process; process 0 collects the lines.
      count: number of processes.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Process:
        """Return this process, as JAX's distributed runtime numbers it."""
        return cls(jax.process_index(), jax.process_count())

    def share(self, networks: Sequence[int]) -> list[int]:
        """Return the networks that this process trains. Shares are disjoint and cover all networks."""
        return [n for n in networks if n % self.count == self.index]

    def path(self, out: Path) -> Path:
        """Return the file of this process: ``out`` for the first, ``out.1of4.jsonl`` and so on for the others."""
        return out if self.index == 0 else out.with_suffix(f".{self.index}of{self.count}{out.suffix}")

    @property
    def others(self) -> list[Process]:
        """The other processes of the run."""
        return [Process(i, self.count) for i in range(self.count) if i != self.index]


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join JAX's distributed runtime. Call before JAX starts its backend.

    Args:
      coordinator: HOST:PORT of process 0. If absent, JAX finds it, on TPU pods, Slurm, Open MPI and Kubernetes.
      num_processes: number of processes of the run.
      process_id: number of this process, 0 <= process_id < num_processes.

    Raises:
      ValueError: JAX finds no cluster, or the arguments do not fit together.
      RuntimeError: the coordinator cannot be reached.
    """
    # If one process dies, the others continue, and it may come back.
    jax.config.update("jax_enable_recoverability", True)
    jax.distributed.initialize(coordinator, num_processes, process_id)


def read_lines(path: Path, run: str) -> list[dict[str, Any]]:
    """Read the whole lines of a file that another process may be writing; none if there is no file.

    Args:
      path: a result file.
      run: fingerprint that its lines must have.

    Raises:
      ValueError: a line belongs to another run.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    rows = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
    if other := next((row["run"] for row in rows if row["run"] != run), None):
        raise ValueError(
            f"{path}: written by another run ({other}; this one is {run}): give all processes the same flags, "
            "and move old files away"
        )
    return rows


def collect(
    results: ResultsFile, paths: Sequence[Path], run: str, count: int, update: Callable[[], None] = lambda: None
) -> None:
    """Append the lines of other processes to the final file, until it is complete.

    Args:
      results: the final file.
      paths: files of the other processes; they need not exist yet.
      run: the run's fingerprint.
      count: number of lines of the complete file.
      update: called after lines were added.

    Raises:
      ValueError: a file belongs to another run.
    """
    while len(results.rows) < count:
        missing = set(results.missing())
        for path in paths:
            lines = [json.dumps(row) for row in read_lines(path, run) if row["arch"] in missing]
            if lines:
                results.append(lines)
                update()
        if len(results.rows) < count:
            time.sleep(_POLL_SECONDS)
