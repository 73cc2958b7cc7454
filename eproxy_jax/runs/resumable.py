"""This module scores into files: it appends results as they come, and resumes a killed run.

The command ``eproxy score`` and :func:`score` write the same files:

* ``scores.jsonl``: one line per architecture, see ``results.py``
* ``scores.run.json``: all that the run depends on, seconds, devices, versions
* ``scores.memberN.jsonl``, ``scores.memberN.run.json``: the same for each setting of a fitted proxy

Before anything is trained, all of them are looked at: a file that is not of this run is refused, not replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optax
from jax import Array

from eproxy_jax import files, scoring, spaces
from eproxy_jax.dps.fitted import FittedProxy, Member
from eproxy_jax.errors import quoted
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import by_group, parse_all
from eproxy_jax.images import default_images, standardize
from eproxy_jax.jsonlines import ANOTHER_OUT, as_float32, fingerprint, read_numbers
from eproxy_jax.progress import Progress, announce
from eproxy_jax.runs import hosts, outputs
from eproxy_jax.runs.results import ResultsFile, check_file, lines_of, read_results, result_of
from eproxy_jax.runs.session import Session, total_seconds, why_other, write_record
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_DIVERGED, ProxySettings, ScoreResult

if TYPE_CHECKING:
    from jaxtyping import Key, Num


@dataclasses.dataclass(frozen=True)
class _Run(Session):
    """The arguments that all files of one run share.

    Attributes:
      images: [B, H, W, 3], not yet standardised.
      targets: features of your own.
      optimizer: replaces SGD.
    """

    images: Any
    targets: scoring.Targets | None
    optimizer: optax.GradientTransformation | None


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
    process: hosts.Process | None = None,
    wait: float = hosts.WAIT_SECONDS,
    command: str | None = None,
    say: Callable[[str], None] = announce,
) -> ScoreResult | None:
    """Score a list of architectures into a file, or resume a stopped run.

    Scores are those of ``ep.score``. In a run of several processes each process makes the same call, with a folder that
    all of them see. Process 0 collects the lines.

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
      process: this process among those of the run; by default, the number that ``jax.distributed`` gave it.
      wait: largest time without a sign of life of another process, s.
      command: the command that started the run, for its record; this process's by default.
      say: prints a line for the person who waits; on stderr by default.

    Returns:
      A ``ScoreResult`` in the order of ``archs``, or None in processes other than the first.

    Raises:
      ValueError: an unreadable architecture, an empty list, bad images, a file of another run or of somebody else, a
        file that another process is writing, or processes that do not agree. The lines of the file stay.
      OSError: the file cannot be written.
    """
    space = spaces.get(space) if isinstance(space, str) else space
    parsed = parse_all(archs, space)
    if not isinstance(proxy, FittedProxy):
        proxy = FittedProxy((Member(ProxySettings() if proxy is None else proxy),))
    run = _Run.of(
        parsed, space, key, execution, process, wait, command, say, images=images, targets=targets, optimizer=optimizer
    )
    path = files.folder(workdir) / "scores.jsonl" if out is None else files.writable(out)
    files.folder(path.parent)
    _check_outputs(run, proxy, path)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(_met(run, proxy, path))
        if proxy.is_plain:
            scored = _score_setting(run, proxy.members[0].settings, path)
        else:
            scored = _score_fitted(run, proxy, path)
    if scored is None:
        return None
    return scored[0].select(run.positions(parsed))


def written_files(out: Path, proxy: ProxySettings | FittedProxy, process: hosts.Process | None = None) -> list[Path]:
    """Return all files that a run writes, its figure left out.

    Args:
      out: the result file.
      proxy: settings, or a fitted proxy.
      process: this process among those of the run.
    """
    outs = [out]
    if isinstance(proxy, FittedProxy) and not proxy.is_plain:
        outs += [outputs.member_path(out, number) for number in range(len(proxy.members))]
    shares = [] if process is None else [p.path(one) for one in outs for p in (process, *process.others)]
    return list(dict.fromkeys([*outs, *map(outputs.record_path, outs), *shares]))


def _check_outputs(run: _Run, proxy: FittedProxy, out: Path) -> None:
    """Check that no file of somebody else stands where this run will write.

    Raises:
      ValueError: one does.
      OSError: a name is too long, or a file cannot be read.
    """
    outputs.check_distinct(written_files(out, proxy, run.process), {})
    outs = [out] if proxy.is_plain else [outputs.member_path(out, n) for n in range(len(proxy.members))]
    if run.process.index == 0:
        for path in dict.fromkeys([out, *outs]):
            outputs.read_record(outputs.record_path(path))
    for path in outs:
        check_file(run.process.path(path))
    if run.process.index == 0:
        check_file(out)
    if proxy.is_plain or run.execution.auto_width:  # one file, opened before its training; or identities not known yet
        return
    identity = _identity(run)
    identities = [{**identity, "settings": member.settings.to_dict()} for member in proxy.members]
    for path, one in zip(outs, identities, strict=True):
        results, *_ = _open(run, path, one)
        results.close()
        if results.torn:
            run.say(f"{results.path}: dropped a half-written last line")
    if run.process.index == 0:
        results, *_ = _open_fitted(run, proxy, out, [fingerprint(one) for one in identities])
        results.close()


def _identity(run: _Run) -> dict[str, Any]:
    """Return all that losses depend on besides architectures and settings, before anything is on a device."""
    images = standardize(default_images() if run.images is None else run.images)
    return scoring.run_identity(run.space, images, run.key, run.execution, run.targets, run.optimizer)


def _met(run: _Run, proxy: FittedProxy, out: Path) -> contextlib.AbstractContextManager[_Run]:
    """Meet the other processes of the run, see :meth:`Session.met`."""
    if run.process.count == 1:
        return contextlib.nullcontext(run)
    terms = {**_identity(run), "settings": fingerprint(proxy.to_dict())}
    return run.met(terms, out, out if proxy.is_plain else outputs.member_path(out, 0))


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
    results, run_id, before = _open(run, out, identity)
    first = run.process.index == 0
    try:
        if first:
            _write_record(run, out, run_id, identity, total_seconds(before, run_id, {}))
        seconds = _Training(run, job, results, run_id, out).finish()
    finally:
        results.close()
    if not first:
        run.say(f"{results.path}: share {run.process.index} of {run.process.count} done; process 0 collects")
        return None
    result = dataclasses.replace(result_of(results.rows), seconds=total_seconds(before, run_id, seconds))
    return result, _write_record(run, out, run_id, identity, result.seconds, result, job.execution)


def _open(run: _Run, out: Path, identity: dict[str, Any]) -> tuple[ResultsFile, str, dict[str, Any] | None]:
    """Open the file of one setting, or this process's share of it; returns it, the run's fingerprint, its record.

    Raises:
      ValueError: the file or its record is that of another run, or of somebody else.
    """
    run_id, first = fingerprint(identity), run.process.index == 0
    before = outputs.read_record(outputs.record_path(out)) if first else None
    steps, why = identity["settings"]["num_steps"], why_other(run_id, identity, before)
    results = ResultsFile(run.process.path(out), run_id, run.texts, steps, why)
    try:
        if first:
            outputs.check_record(before, out, run_id, bool(results.rows))
    except ValueError:
        results.close()
        raise
    return results, run_id, before


class _Training:
    """Trains the networks of this process's share that a result file lacks, and appends lines as chunks finish."""

    def __init__(self, run: _Run, job: scoring.Job, results: ResultsFile, run_id: str, out: Path):
        self._run, self._job, self._results, self._run_id, self._out = run, job, results, run_id, out
        self._num_steps = job.settings.num_steps
        self._diverged = sum(row["status"] == STATUS_DIVERGED for row in results.rows)
        dead = {text for text, ok in zip(run.texts, run.networks.connected.tolist(), strict=True) if not ok}
        for row in results.rows:
            if row["arch"] in dead and row["status"] != STATUS_DISCONNECTED:
                raise ValueError(
                    f"{results.path}: has a score of a disconnected network, {quoted(row['arch'])}, as older versions "
                    f"gave it: {ANOTHER_OUT}"
                )
        if results.rows and (wrong := results.correct([json.loads(line) for line in self._lines(results.rows)])):
            run.say(f"{results.path}: {wrong} lines did not follow from their losses and are computed anew")
        self._best = max((row["score"] for row in results.rows if row["score"] is not None), default=-math.inf)
        row_of = {row["arch"]: row for row in results.rows}
        self._missing: dict[int, list[Any]] = {}  # architectures without a line, by network
        self._trained: dict[int, list[float | None]] = {}  # losses of networks that have a line
        self._disconnected: list[Any] = []  # of these, those without a line
        for arch, text, network in zip(run.networks.archs, run.texts, run.networks.index.tolist(), strict=True):
            if network < 0:
                self._disconnected += [arch] if text not in row_of else []
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
        if run.is_first:  # a share stays as it was appended, for process 0 may be reading it
            results.finish()
        seconds = time.perf_counter() - start - sum(compiled)
        return {"compile": round(sum(compiled), 2), "run": round(seconds, 2)}

    def _todo(self) -> list[int]:
        """Return the networks of this process's share that have no line."""
        run = self._run
        todo = run.process.share(list(self._missing))
        if run.process.index:  # leave out what process 0 has from an earlier run, with more or fewer processes
            done = {row["arch"] for row in read_results(self._out, self._run_id, self._job.settings.num_steps)}
            todo = [n for n in todo if not all(run.space.format(arch) in done for arch in self._missing[n])]
        return todo

    def _lines(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Return the lines that follow from the losses of some rows."""
        arch_of = dict(zip(self._run.texts, self._run.networks.archs, strict=True))
        archs = [arch_of[row["arch"]] for row in rows]
        return lines_of(
            scoring.score_losses(self._job, archs, read_numbers([row["losses"] for row in rows]), {}), self._run_id
        )

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
        self._best = max([self._best, *result.score[np.isfinite(result.score)].tolist()])

    def _train(self, todo: Sequence[int], compiled: list[float]) -> None:
        run, job, results = self._run, self._job, self._results
        distinct = [run.networks.distinct[n] for n in todo]
        devices = job.execution.devices
        run.say(
            f"{len(todo)} distinct networks, {len(by_group(distinct, job.space, job.execution.grouping))} program(s), "
            f"{len(devices)} {devices[0].platform} device(s)"
        )
        own = sum(len(self._missing[n]) for n in todo)

        def show_compiled(seconds: float) -> None:
            compiled.append(seconds)
            run.say(f"compiled program {len(compiled)} in {seconds:.1f} s")

        with Progress(len(results.rows) + own, len(results.rows)) as meter:
            for positions, losses in job.evaluation.run(distinct, show_compiled):
                self._append([todo[i] for i in positions], losses)
                if run.meeting is not None:
                    run.meeting.check()
                meter.update(len(results.rows), self._diverged, best=self._best)

    def _collect(self) -> None:
        """Wait for the lines of the other processes."""
        run, results = self._run, self._results
        run.say(f"own share done, {len(results.rows)} of {len(run.texts)}; waiting for the other processes")
        meter = Progress(len(run.texts), len(results.rows))
        owed = {
            text: run.process.owner(network)
            for text, network in zip(run.texts, run.networks.index.tolist(), strict=True)
        }
        hosts.collect(
            results,
            run.shares(self._out),
            self._run_id,
            owed,
            self._lines,
            num_steps=self._job.settings.num_steps,
            update=lambda: meter.update(len(results.rows)),
            **run.waiting(),
        )


# --- several settings together -------------------------------------------------------------------------------


def _score_fitted(run: _Run, proxy: FittedProxy, out: Path) -> tuple[ScoreResult, dict[str, Any]] | None:
    """Score under each setting of a fitted proxy, in its own file, and combine; None except in process 0.

    Percentiles depend on the list, so the run's identity holds it. If the list has changed, all lines of ``out`` are
    computed anew from the losses, and only new networks are trained.
    """
    members, seconds, records = [], {"compile": 0.0, "run": 0.0}, []
    for number, member in enumerate(proxy.members):
        run.say(f"setting {number + 1} of {len(proxy.members)}")
        scored = _score_setting(run, member.settings, outputs.member_path(out, number))
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
    results, run_id, identity = _open_fitted(run, proxy, out, [record["run"] for record in records])
    try:
        if results.replaced:
            run.say(f"{out}: the list has changed: the percentiles of all architectures are computed anew")
        rows = [json.loads(line) for line in lines_of(result, run_id)]
        if results.replaced or results.rows != rows:
            results.rewrite(rows)
    finally:
        results.close()
    return result, _write_record(run, out, run_id, identity, seconds, result, run.execution)


def _open_fitted(
    run: _Run, proxy: FittedProxy, out: Path, members: list[str]
) -> tuple[ResultsFile, str, dict[str, Any]]:
    """Open the file of a fitted proxy; returns it, the run's fingerprint and its identity.

    Args:
      run: the arguments of the run.
      proxy: the fitted proxy.
      out: the file.
      members: fingerprints of the runs of its settings.

    Raises:
      ValueError: the file or its record is that of another run, or of somebody else.
    """
    listed = fingerprint({"archs": sorted(run.texts)})
    identity = {"members": members, "settings": proxy.to_dict(), "list": listed}
    run_id = fingerprint(identity)
    before = outputs.read_record(outputs.record_path(out))
    same = before is not None and all(before.get(name) == identity[name] for name in ("members", "settings"))
    earlier = [before["run"]] if before is not None and same and before["run"] != run_id else []
    results = ResultsFile(out, run_id, run.texts, None, why_other(run_id, identity, before), earlier)
    try:
        if not same:
            outputs.check_record(before, out, run_id, bool(results.rows))
    except ValueError:
        results.close()
        raise
    return results, run_id, identity


def _write_record(
    run: _Run,
    out: Path,
    run_id: str,
    identity: Any,
    seconds: dict[str, float],
    result: ScoreResult | None = None,
    execution: Execution | None = None,
) -> dict[str, Any]:
    """Write OUT.run.json and return its content; without a result, the record of a run that goes on."""
    diverged = None if result is None else result.status.count(STATUS_DIVERGED)
    return write_record(
        run, out, run_id, identity, seconds, {"diverged": diverged}, execution, finished=result is not None
    )
