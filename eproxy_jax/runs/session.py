"""This module holds what runs into files share, whatever they compute: arguments, meeting, record."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from jax import Array

from eproxy_jax import files, progress, spaces
from eproxy_jax._version import __version__
from eproxy_jax.errors import quoted
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import Networks, distinct_networks
from eproxy_jax.jsonlines import fingerprint
from eproxy_jax.runs import hosts, outputs
from eproxy_jax.runs.meeting import Guest, Host


def versions() -> dict[str, str]:
    """Return the versions of the packages behind a run."""
    named = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
    return {"eproxy_jax": __version__, **named, "python": platform.python_version()}


@dataclasses.dataclass(frozen=True)
class Session:
    """One process's part of a run into files.

    Attributes:
      space: the search space.
      networks: the networks of distinct architectures as written.
      texts: the strings of these architectures.
      key: key of weights and all other draws.
      execution: devices and execution form.
      process: this process among those of the run.
      wait: largest time without a sign of life of another process, s.
      meeting: where the processes met; None for a process alone.
      command: the command that started the run, for its record.
      say: prints a line for the person who waits.
    """

    space: spaces.SearchSpace
    networks: Networks
    texts: tuple[str, ...]
    key: Array | int
    execution: Execution
    process: hosts.Process
    wait: float
    meeting: Host | Guest | None
    command: str
    say: Callable[[str], None]

    @classmethod
    def of(
        cls,
        parsed: Sequence[Any],
        space: spaces.SearchSpace,
        key: Array | int,
        execution: Execution | None,
        process: hosts.Process | None,
        wait: float,
        command: str | None,
        say: Callable[[str], None],
        **own: Any,
    ) -> Self:
        """Make the session of a list of parsed architectures, repeated ones included; ``own``: fields of a subclass.

        Raises:
          ValueError: the list is empty.
        """
        archs = list(dict.fromkeys(parsed))
        process = hosts.Process.current() if process is None else process
        progress.set_process(process.index, process.count)
        return cls(
            space=space,
            networks=distinct_networks(archs, space),
            texts=tuple(space.format(arch) for arch in archs),
            key=key,
            execution=Execution.of() if execution is None else execution,
            process=process,
            wait=wait,
            meeting=None,
            command=" ".join(sys.argv) if command is None else command,
            say=say,
            **own,
        )

    @property
    def is_first(self) -> bool:
        """Whether this process writes the final file and its record."""
        return self.process.index == 0

    def positions(self, parsed: Sequence[Any]) -> list[int]:
        """Return the position of each parsed architecture among the distinct ones."""
        place = {arch: i for i, arch in enumerate(self.networks.archs)}
        return [place[arch] for arch in parsed]

    # --- several processes ---

    @contextlib.contextmanager
    def met(self, terms: Mapping[str, Any], out: Path, shared: Path | None = None) -> Iterator[Self]:
        """Meet the other processes of the run; yields the session with its meeting once all agree.

        Args:
          terms: what the run is about to do, by name; plain data. The list and the file are added.
          out: the result file.
          shared: the file whose shares say that all of them agreed in an earlier session; ``out`` by default.

        Raises:
          ValueError: a process is about to do something else, or is late.
        """
        texts = {name: value if isinstance(value, str) else fingerprint({name: value}) for name, value in terms.items()}
        texts["list of architectures"] = f"{len(self.texts)} architectures, {fingerprint({'archs': self.texts})}"
        texts["result file"] = out.name
        resumed = any(path.exists() for path in self.shares(out if shared is None else shared).values())
        with self.process.meet(texts, out) as meeting:
            meeting.wait_for_all(self.wait, self.say, resumed=resumed)
            yield dataclasses.replace(self, meeting=meeting)

    def shares(self, out: Path) -> dict[int, Path]:
        """Return the files of the other processes, by their number."""
        return {other.index: other.path(out) for other in self.process.others}

    def waiting(self) -> dict[str, Any]:
        """Return how :func:`hosts.await_shares` waits in this session."""
        assert not isinstance(self.meeting, Guest)
        return {"meeting": self.meeting, "patience": hosts.Patience(self.wait), "say": self.say}


# --- the record ----------------------------------------------------------------------------------------------


def why_other(run_id: str, identity: Mapping[str, Any], record: Mapping[str, Any] | None) -> Callable[[str], str]:
    """Return what says how a run differs from this one, as far as its record tells."""

    def why(other: str) -> str:
        names = outputs.differences(identity, record) if record is not None and record["run"] == other else []
        what = f"other {', '.join(names)}" if names else "its space, settings, images, seed, form or versions differ"
        return f"written by another run ({quoted(other)}; this one is {run_id!r}): {what}"

    return why


def total_seconds(earlier: Mapping[str, Any] | None, run_id: str, own: Mapping[str, float]) -> dict[str, float]:
    """Return the seconds of this session and of earlier ones.

    Args:
      earlier: what the run's record says, with fields ``run`` and ``seconds``, as far as they are what they should be.
      run_id: fingerprint of the run.
      own: {"compile": s, "run": s} of this session.
    """
    known = earlier.get("seconds") if earlier is not None and earlier["run"] == run_id else None
    total = {}
    for name in ("compile", "run"):
        value = known.get(name) if isinstance(known, dict) else None
        before = value if isinstance(value, (int, float)) and 0 <= value < 1e12 else 0.0
        total[name] = round(own.get(name, 0.0) + before, 2)
    return total


def write_record(
    session: Session,
    out: Path,
    run_id: str,
    identity: Mapping[str, Any],
    seconds: Mapping[str, Any],
    more: Mapping[str, Any],
    execution: Execution | None = None,
    *,
    finished: bool,
) -> dict[str, Any]:
    """Write OUT.run.json and return its content.

    Args:
      session: the arguments of the run.
      out: the result file.
      run_id: fingerprint of the run.
      identity: what the fingerprint is of.
      seconds: of this session and of earlier ones.
      more: other fields.
      execution: as it ran, where that is not the session's.
      finished: False for a run that goes on.
    """
    record = {
        "run": run_id,
        "out": out.name,
        "finished": finished,
        **identity,
        "archs": len(session.texts),
        "distinct": len(session.networks.distinct),
        **more,
        "disconnected": int((~session.networks.connected).sum()),
        "seconds": seconds,
        "devices": [str(device) for device in (execution or session.execution).devices],
        "command": session.command,
        "versions": versions(),
    }
    files.write_atomically(outputs.record_path(out), json.dumps(record, indent=1) + "\n")
    return record
