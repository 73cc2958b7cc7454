"""This module lets several processes, on one host or many, score one list: each trains a share of it.

A share needs nothing from the others, so processes do not communicate while they train. Every process appends to its
own file, in a folder that all of them see. Process 0 appends the lines of the others to the final file. A killed
process, started again with the same flags, resumes; the others go on meanwhile. How they agree at the start, and how
they notice that one of them is gone: ``meeting.py``.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from eproxy_jax.errors import quoted
from eproxy_jax.progress import format_seconds
from eproxy_jax.runs import outputs
from eproxy_jax.runs.meeting import EndedError, Guest, Host, Roll
from eproxy_jax.runs.results import ResultsFile, read_results

WAIT_SECONDS = 600.0  # default of --wait
_POLL_SECONDS = 0.5
_CALLS = itertools.count()  # of this process that met others
_KEY = "eproxy_jax/meeting"  # in the key-value store of JAX's distributed runtime


@dataclasses.dataclass(frozen=True)
class Process:
    """One of the processes of a run.

    Attributes:
      index: number of this process; process 0 collects the lines.
      count: number of processes.
      coordinator: HOST:PORT where process 0 listens. If absent, process 0 chooses a port, and JAX's distributed runtime
        tells it to the others.
    """

    index: int = 0
    count: int = 1
    coordinator: str | None = None

    def __post_init__(self):
        if self.coordinator is not None:
            address_of(self.coordinator)

    @classmethod
    def current(cls) -> Process:
        """Return this process, as JAX's distributed runtime numbers it."""
        return cls(jax.process_index(), jax.process_count())

    def share(self, networks: Sequence[int]) -> list[int]:
        """Return the networks that this process trains. Shares are disjoint and cover all networks."""
        return [n for n in networks if self.owner(n) == self.index]

    def owner(self, network: int) -> int:
        """Return the number of the process that trains a network."""
        return network % self.count

    def path(self, out: Path) -> Path:
        """Return the file of this process: ``out`` for the first, ``out.1of4.jsonl`` and so on for the others."""
        return outputs.share_path(out, self.index, self.count)

    @property
    def others(self) -> list[Process]:
        """The other processes of the run."""
        return [Process(i, self.count) for i in range(self.count) if i != self.index]

    def meet(self, terms: Mapping[str, str], out: Path) -> Host | Guest:
        """Return this process's side of the meeting, a context manager.

        Args:
          terms: what this process is about to do, by name; all processes must have the same.
          out: the result file; its folder must be the same.
        """
        call = next(_CALLS)
        if self.index == 0:
            address = ("", 0) if self.coordinator is None else address_of(self.coordinator)
            host = Host(address, Roll(terms, self.count), out.parent, f".{outputs.derived(out, '.meeting').name}", call)
            if self.coordinator is None:
                _publish(host.port)
            return host
        address = None if self.coordinator is None else address_of(self.coordinator)
        return Guest(lambda: address or _published(), self.index, self.count, terms, out.parent, call)


def address_of(text: str) -> tuple[str, int]:
    """Parse HOST:PORT.

    Raises:
      ValueError: no host, no port, or a port that is none of 1 to 65535.

    Example:
      >>> address_of("host0:1234"), address_of("[::1]:80")
      (('host0', 1234), ('::1', 80))
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 2**16:
        raise ValueError(
            f"--coordinator {quoted(text)}: expected HOST:PORT, such as host0:1234, with a port of 1 to 65535"
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def start(wait: float = WAIT_SECONDS) -> None:
    """Join JAX's distributed runtime, on TPU pods, Slurm, Open MPI and Kubernetes, where JAX finds the processes.

    Call before JAX starts its backend.

    Args:
      wait: largest time until all have joined, s.

    Raises:
      ValueError: JAX finds no cluster.
      RuntimeError: the coordinator cannot be reached.
    """
    jax.config.update("jax_enable_recoverability", True)  # if one process dies, the others continue
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending the process
    jax.distributed.initialize(initialization_timeout=max(1, round(wait)))


def _client() -> tuple[Any, str]:
    """Return the client of JAX's key-value store, and the host of its coordinator; JAX has no public name for them."""
    from jax._src import distributed

    state = distributed.global_state
    host = (state.coordinator_address or "").rpartition(":")[0].removeprefix("[").removesuffix("]")
    return state.client, host


def _publish(port: int) -> None:
    client, _ = _client()
    client.key_value_set(_KEY, str(port), allow_overwrite=True)


def _published() -> tuple[str, int] | None:
    client, host = _client()
    try:
        return host, int(client.blocking_key_value_get(_KEY, 1000))
    except jax.errors.JaxRuntimeError:  # not yet
        return None


class Patience:
    """Says when a wait for other processes is over: no sign of life of one of them, for too long.

    Args:
      wait: largest time without a sign, s.
      clock: seconds.
    """

    def __init__(self, wait: float, clock: Callable[[], float] = time.monotonic):
        self._wait, self._clock = wait, clock
        self._lines: dict[int, tuple[int, float]] = {}

    def check(self, owed: Mapping[int, int], silent_for: Callable[[int], float]) -> None:
        """Check the processes that owe lines.

        Args:
          owed: number of lines that each process owes.
          silent_for: seconds since the last sign of life of a process. A new line is a sign, too.

        Raises:
          EndedError: a process is silent for too long; the message says what to start again.
        """
        now = self._clock()
        for process, count in owed.items():
            if self._lines.get(process, (None, 0))[0] != count:
                self._lines[process] = (count, now)
            silence = min(silent_for(process), now - self._lines[process][1])
            if count and silence > self._wait:
                raise EndedError(
                    f"no sign of life from process {process} for {format_seconds(self._wait)} (--wait); it owes "
                    f"{count} lines: start processes {process} and 0 again with the same flags; all lines so far are "
                    "kept"
                )


def await_shares(
    paths: Mapping[int, Path],
    take: Callable[[Path], None],
    owed: Callable[[], Mapping[int, int]],
    *,
    meeting: Host | None = None,
    patience: Patience | None = None,
    say: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Take the lines of other processes, until none owes any.

    Args:
      paths: files of the other processes, by number; they need not exist yet.
      take: takes what is new out of one of them.
      owed: the number of lines that each process owes; empty when all are there.
      meeting: who is alive; if absent, only new lines are signs of life.
      patience: says when the wait is over.
      say: prints a line for the person who waits.
      sleep: waits some seconds between two looks.

    Raises:
      ValueError: a process is silent for too long, or ``take`` refuses a file.
    """
    patience = Patience(WAIT_SECONDS) if patience is None else patience
    told: dict[int, str] = {}
    while owed():
        for path in paths.values():
            take(path)
        if not (still := owed()):
            break
        if meeting is not None:
            meeting.check()
            for process, why in meeting.roll.failed.items():
                if told.get(process) != why:
                    told[process] = why
                    say(f"process {process} has ended: {why}; waiting for it to be started again (--wait)")
        silent = (lambda _: float("inf")) if meeting is None else meeting.roll.silent_for
        patience.check(still, silent)
        sleep(_POLL_SECONDS)


def collect(
    results: ResultsFile,
    paths: Mapping[int, Path],
    run: str,
    owed: Mapping[str, int],
    lines: Callable[[list[dict[str, Any]]], list[str]],
    *,
    num_steps: int | None = None,
    update: Callable[[], None] = lambda: None,
    **waiting: Any,
) -> None:
    """Append the lines of other processes to the final file, until it is complete.

    Args:
      results: the final file.
      paths: files of the other processes, by number; they need not exist yet.
      run: the run's fingerprint.
      owed: the process that owes each missing architecture.
      lines: makes lines of the final file out of rows of the others: scores follow from losses.
      num_steps: S, the number of losses in a row.
      update: called after lines were added.
      waiting: how to wait, see :func:`await_shares`.

    Raises:
      ValueError: a file belongs to another run, or a process is silent for too long.
    """

    def take(path: Path) -> None:
        missing = set(results.missing())
        rows = {row["arch"]: row for row in read_results(path, run, num_steps) if row["arch"] in missing}
        if rows:
            results.append(lines(list(rows.values())))
            update()

    await_shares(paths, take, lambda: collections.Counter(owed[arch] for arch in results.missing()), **waiting)
