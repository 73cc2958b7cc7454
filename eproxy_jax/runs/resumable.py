"""This module scores into files: it appends results as they come, and resumes a killed run.

The command ``eproxy score`` and :func:`score` write the same files:

* ``scores.jsonl``: one line per architecture, see ``results.py``
* ``scores.run.json``: all that the run depends on, seconds, devices, versions
* ``scores.memberN.jsonl``, ``scores.memberN.run.json``: the same for each setting of a fitted proxy
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optax
from jax import Array

from eproxy_jax import scoring, spaces
from eproxy_jax._version import __version__
from eproxy_jax.dps.fitted import FittedProxy, Member
from eproxy_jax.errors import quoted
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import Networks, by_group, distinct_networks, parse_all
from eproxy_jax.jsonlines import ANOTHER_OUT, as_float32, fingerprint, read_numbers
from eproxy_jax.progress import Progress, announce
from eproxy_jax.runs import hosts
from eproxy_jax.runs.results import ResultsFile, lines_of, result_of
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_DIVERGED, ProxySettings, ScoreResult

if TYPE_CHECKING:
    from jaxtyping import Key, Num


def versions() -> dict[str, str]:
    """Return the versions of the packages behind a run."""
    named = {name: importlib.metadata.version(name) for name in ("jax", "flax")}
    return {"eproxy_jax": __version__, **named, "python": platform.python_version()}


@dataclasses.dataclass(frozen=True)
class _Run:
    """The arguments that all files of one run share.

    Attributes:
      space: the search space.
      networks: the networks of distinct architectures as written.
      texts: the strings of these architectures.
      images: [B, H, W, 3], not yet standardised.
      key: key of weights, targets and barriers.
      targets: features of your own.
      optimizer: replaces SGD.
      execution: devices and execution form.
      process: this process among those of the run.
      command: the command that started the run, for its record.
      say: prints a line for the person who waits.
    """

    space: spaces.SearchSpace
    networks: Networks
    texts: tuple[str, ...]
    images: Any
    key: Array | int
    targets: scoring.Targets | None
    optimizer: optax.GradientTransformation | None
    execution: Execution
    process: hosts.Process
    command: str
    say: Callable[[str], None]


def score(
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = "nasbench201",
    proxy: ProxySettings | FittedProxy | None = None,
    images: Num[Array | np.ndarray, "B H W 3"] | None = None,
    key: Key[Array, ""] | int = 0,
    *,
    workdir: str | os.PathLike[str] = ".",
    out: str | os.PathLike[str] | None = None,
    targets: scoring.Targets | None = None,
    optimizer: optax.GradientTransformation | None = None,
    execution: Execution | None = None,
    command: str | None = None,
    say: Callable[[str], None] = announce,
) -> ScoreResult | None:
    """Score a list of architectures into a file, or resume a stopped run.

    Scores are those of ``ep.score``. In a run of several processes (``jax.distributed``) each process makes the same
    call, with a folder that all of them see. Process 0 collects the lines.

    Args:
      archs: architectures in any notation that ``space.parse`` reads; repeated ones are scored once.
      space: a search space or its registry name.
      proxy: settings, or a fitted proxy; plain Eproxy by default.
      images: [B, H, W, 3], H = W divisible by 4; defaults to the embedded batch.
      key: typed key, or an integer seed for one.
      workdir: folder of the files; made if absent.
      out: the result file; ``WORKDIR/scores.jsonl`` by default.
      targets: features of your own by name, as in ``ep.score``.
      optimizer: replaces the settings' SGD, as in ``ep.score``.
      execution: devices and execution form; all devices by default.
      command: the command that started the run, for its record; this process's by default.
      say: prints a line for the person who waits; on stderr by default.

    Returns:
      A ``ScoreResult`` in the order of ``archs``, or None in processes other than the first.

    Raises:
      ValueError: an unreadable architecture, an empty list, bad images, a file of another run, or a file that another
        process is writing. The lines of the file stay.
      OSError: the file cannot be written.
    """
    space = spaces.get(space) if isinstance(space, str) else space
    parsed = parse_all(archs, space)
    if not isinstance(proxy, FittedProxy):
        proxy = FittedProxy((Member(ProxySettings() if proxy is None else proxy),))
    archs = list(dict.fromkeys(parsed))
    run = _Run(
        space=space,
        networks=distinct_networks(archs, space),
        texts=tuple(space.format(arch) for arch in archs),
        images=images,
        key=key,
        targets=targets,
        optimizer=optimizer,
        execution=Execution.of() if execution is None else execution,
        process=hosts.Process.current(),
        command=" ".join(sys.argv) if command is None else command,
        say=say,
    )
    path = Path(workdir) / "scores.jsonl" if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = proxy.is_plain
    scored = _score_setting(run, proxy.members[0].settings, path) if plain else _score_fitted(run, proxy, path)
    if scored is None:
        return None
    position = {arch: i for i, arch in enumerate(archs)}
    return scored[0].select([position[arch] for arch in parsed])


def record_path(out: str | os.PathLike[str]) -> Path:
    """Return the path of the record of a result file."""
    return Path(out).with_suffix(".run.json")


# --- one setting, one file -----------------------------------------------------------------------------------


def _score_setting(run: _Run, settings: ProxySettings, out: Path) -> tuple[ScoreResult, dict[str, Any]] | None:
    """Score under one setting, in its own resumable file; returns (result, record), or None except in process 0."""
    own = (run.targets, run.optimizer)
    job = scoring.make_job(run.space, settings, run.images, run.key, run.execution, *own)
    job = job.widened(run.networks.distinct)
    if run.execution.auto_width:
        run.say(f"execution: {job.execution.label}")
    identity = scoring.run_identity(run.space, job.task.images, run.key, job.execution, *own)
    identity["settings"] = settings.to_dict()
    run_id = fingerprint(identity)
    results = ResultsFile(run.process.path(out), run_id, run.texts)
    try:
        seconds = _Training(run, job, results, run_id, out).finish()
    finally:
        results.close()
    if run.process.index:
        run.say(f"{results.path}: share {run.process.index} of {run.process.count} done; process 0 collects")
        return None
    before = record_path(out)
    if before.is_file():  # add the time of earlier sessions
        record = json.loads(before.read_text(encoding="utf-8"))
        if record.get("run") == run_id:
            seconds = {name: round(value + record["seconds"][name], 2) for name, value in seconds.items()}
    result = dataclasses.replace(result_of(results.rows), seconds=seconds)
    return result, _write_record(run, out, run_id, identity, result, job.execution)


class _Training:
    """Trains the networks of this process's share that a result file lacks, and appends lines as chunks finish."""

    def __init__(self, run: _Run, job: scoring.Job, results: ResultsFile, run_id: str, out: Path):
        self._run, self._job, self._results, self._run_id, self._out = run, job, results, run_id, out
        self._num_steps = job.settings.num_steps
        self._diverged = sum(row["status"] == STATUS_DIVERGED for row in results.rows)
        row_of = {row["arch"]: row for row in results.rows}
        self._missing: dict[int, list[Any]] = {}  # architectures without a line, by network
        self._trained: dict[int, list[float | None]] = {}  # losses of networks that have a line
        self._disconnected: list[Any] = []  # of these, those without a line
        for arch, text, network in zip(run.networks.archs, run.texts, run.networks.index.tolist(), strict=True):
            if network < 0:
                if text not in row_of:
                    self._disconnected.append(arch)
                elif row_of[text]["status"] != STATUS_DISCONNECTED:
                    raise ValueError(
                        f"{results.path}: has a score of a disconnected network, {quoted(text)}, as older versions "
                        f"gave it: {ANOTHER_OUT}"
                    )
            elif text in row_of:
                self._trained[network] = row_of[text]["losses"]
            else:
                self._missing.setdefault(network, []).append(arch)

    def finish(self) -> dict[str, float]:
        """Train the share; process 0 also collects the others. Returns {"compile": s, "run": s} of this session."""
        run, results = self._run, self._results
        if results.torn:
            run.say(f"{results.path}: dropped a half-written last line")
        if results.rows:
            run.say(f"{results.path}: resuming after {len(results.rows)} of {len(run.texts)} architectures")
        if count := int((~run.networks.connected).sum()):
            run.say(f"{count} disconnected (their output never depends on the image): not trained, ranked last")
        if self._disconnected and run.process.index == 0:
            self._append_lines(self._disconnected, np.full((len(self._disconnected), self._num_steps), np.nan))
        # After a kill, some architectures of a trained network may lack their lines.
        if again := [network for network in self._missing if network in self._trained]:
            self._append(again, read_numbers([self._trained[network] for network in again]))
        compiled: list[float] = []
        start = time.perf_counter()
        if todo := self._todo():
            self._train(todo, compiled)
        if run.process.index == 0 and run.process.count > 1:
            self._collect()
        results.finish()
        seconds = time.perf_counter() - start - sum(compiled)
        return {"compile": round(sum(compiled), 2), "run": round(seconds, 2)}

    def _todo(self) -> list[int]:
        """Return the networks of this process's share that have no line."""
        run = self._run
        todo = run.process.share(list(self._missing))
        if run.process.index:  # leave out what process 0 has from an earlier run, with more or fewer processes
            done = {row["arch"] for row in hosts.read_lines(self._out, self._run_id)}
            todo = [n for n in todo if not all(run.space.format(arch) in done for arch in self._missing[n])]
        return todo

    def _append(self, numbers: Sequence[int], losses: np.ndarray) -> None:
        """Append the lines of trained networks: losses [n, S]."""
        pairs = [(arch, row) for row, number in enumerate(numbers) for arch in self._missing.pop(number)]
        self._append_lines([arch for arch, _ in pairs], losses[[row for _, row in pairs]])

    def _append_lines(self, archs: Sequence[Any], losses: np.ndarray) -> None:
        """Append the lines of architectures: losses [n, S].

        Scores follow from the losses that the file keeps, so that those of a resumed run are equal to the bit.
        """
        result = scoring.score_losses(self._job, archs, as_float32(losses), {})
        self._results.append(lines_of(result, self._run_id))
        self._diverged += result.status.count(STATUS_DIVERGED)

    def _train(self, todo: Sequence[int], compiled: list[float]) -> None:
        run, job, results = self._run, self._job, self._results
        distinct = [run.networks.distinct[n] for n in todo]
        devices = job.execution.devices
        run.say(
            f"{len(todo)} distinct networks, {len(by_group(distinct, job.space, job.execution.grouping))} program(s), "
            f"{len(devices)} {devices[0].platform} device(s)"
        )
        own = sum(len(self._missing[n]) for n in todo)
        meter = Progress(len(results.rows) + own, len(results.rows))

        def show_compiled(seconds: float) -> None:
            compiled.append(seconds)
            run.say(f"compiled program {len(compiled)} in {seconds:.1f} s")

        for positions, losses in job.evaluation.run(distinct, show_compiled):
            self._append([todo[i] for i in positions], losses)
            meter.update(len(results.rows), self._diverged)

    def _collect(self) -> None:
        """Wait for the lines of the other processes."""
        run, results = self._run, self._results
        run.say(f"own share done, {len(results.rows)} of {len(run.texts)}; waiting for the other processes")
        meter = Progress(len(run.texts), len(results.rows))
        others = [other.path(self._out) for other in run.process.others]
        hosts.collect(results, others, self._run_id, len(run.texts), lambda: meter.update(len(results.rows)))


# --- several settings together -------------------------------------------------------------------------------


def _score_fitted(run: _Run, proxy: FittedProxy, out: Path) -> tuple[ScoreResult, dict[str, Any]] | None:
    """Score under each setting of a fitted proxy, in its own file, and combine; None except in process 0."""
    members, seconds, records = [], {"compile": 0.0, "run": 0.0}, []
    for number, member in enumerate(proxy.members):
        run.say(f"setting {number + 1} of {len(proxy.members)}")
        scored = _score_setting(run, member.settings, out.with_suffix(f".member{number}.jsonl"))
        if scored is None:
            continue
        result, record = scored
        members.append(result)
        records.append(record)
        seconds = {name: round(seconds[name] + record["seconds"][name], 2) for name in seconds}
    if not members:
        return None
    sizes = spaces.size_measures(run.space, run.networks.archs)
    blends = any(member.macs_weight is None for member in proxy.members)  # otherwise the largest network is not needed
    fractions = spaces.macs_fractions(run.space, run.networks.archs) if blends else None
    connected = run.networks.connected
    scores = proxy.scores(np.stack([result.loss for result in members]), sizes, fractions, connected)
    status = scoring.statuses(np.isfinite(scores), connected)
    # Loss and curve are those of the best member: a mean over settings has no meaning.
    result = dataclasses.replace(members[0], score=scores, status=status, seconds=seconds)
    identity = {"members": [record["run"] for record in records], "settings": proxy.to_dict()}
    run_id = fingerprint(identity)
    results = ResultsFile(out, run_id, run.texts)
    try:
        results.append(lines_of(result, run_id)[len(results.rows) :])
    finally:
        results.close()
    return result, _write_record(run, out, run_id, identity, result, run.execution)


def _write_record(
    run: _Run, out: Path, run_id: str, identity: Any, result: ScoreResult, execution: Execution
) -> dict[str, Any]:
    """Write OUT.run.json and return its content."""
    record = {
        "run": run_id,
        **identity,
        "archs": len(result.archs),
        "distinct": len(run.networks.distinct),
        "diverged": result.status.count(STATUS_DIVERGED),
        "disconnected": result.status.count(STATUS_DISCONNECTED),
        "seconds": result.seconds,
        "devices": [str(device) for device in execution.devices],
        "command": run.command,
        "versions": versions(),
    }
    record_path(out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record
