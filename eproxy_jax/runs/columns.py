"""This module computes columns of proxies into a file: it appends as chunks finish, and resumes column by column.

The command ``eproxy score --proxy`` and :func:`score_columns` write the same files:

* ``columns.jsonl``: one line per architecture, see ``columns_file.py``
* ``columns.run.json``: all that the columns depend on, seconds of each pass, devices, versions

A second call with more proxies or more architectures computes what the file lacks and keeps what it has.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

from eproxy_jax import files, spaces
from eproxy_jax.columns import Column, ColumnJob, ColumnsResult, wanted_columns
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import by_group, parse_all
from eproxy_jax.jsonlines import fingerprint
from eproxy_jax.progress import Progress, announce
from eproxy_jax.runs import hosts, outputs
from eproxy_jax.runs.columns_file import WHAT, ColumnsFile, check_made_with, check_row, columns_of, decode, encode
from eproxy_jax.runs.results import check_file, read_rows
from eproxy_jax.runs.session import Session, total_seconds, why_other, write_record
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_OK, ProxySettings

if TYPE_CHECKING:
    from jaxtyping import Int, Key, Num


@dataclasses.dataclass(frozen=True)
class _Run(Session):
    """The arguments of a run.

    Attributes:
      job: what candidates share.
      columns: the columns asked for.
    """

    job: ColumnJob
    columns: tuple[Column, ...]

    @property
    def passes(self) -> dict[str, Column]:
        """A column of each pass, by the name of the pass."""
        return {column.made_by.name: column for column in self.columns}


def score_columns(
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = "nasbench201",
    proxy: Sequence[str] | str = "cheap",
    images: Num[Array | np.ndarray, "B H W 3"] | None = None,
    key: Key[Array, ""] | int = 0,
    *,
    labels: Int[Array | np.ndarray, " B"] | Sequence[int] | None = None,
    num_classes: int | None = None,
    settings: ProxySettings | Mapping[str, ProxySettings] | None = None,
    workdir: str | os.PathLike[str] = ".",
    out: str | os.PathLike[str] | None = None,
    execution: Execution | None = None,
    process: hosts.Process | None = None,
    wait: float = hosts.WAIT_SECONDS,
    command: str | None = None,
    say: Callable[[str], None] = announce,
) -> ColumnsResult | None:
    """Compute columns of proxies of a list of architectures into a file, or go on with a file.

    Values are those of ``ep.score(..., proxy=...)``. Columns and architectures that the file has already are kept; all
    columns of a pass are computed together, and all of them are kept. In a run of several processes each process makes
    the same call, with a folder that all of them see. Process 0 collects the lines.

    Args:
      archs: architectures in any notation that ``space.parse`` reads; repeated ones are computed once.
      space: a search space or its registry name.
      proxy: names out of ``ep.proxies.names()``, ``eproxy``, ``eproxy:NAME``, or a set (``cheap``, ``all``).
      images: [B, H, W, 3], as in ``ep.score``; 128 made by code by default.
      key: typed key, or an integer seed for one.
      labels: [B], class of each image, 0 to K - 1; random ones by default.
      num_classes: K; by default one more than the largest label, or 10.
      settings: of Eproxy; or settings by name, ``""`` for the column ``eproxy``, NAME for ``eproxy:NAME``.
      workdir: folder of the files; made if absent.
      out: the file; ``WORKDIR/columns.jsonl`` by default.
      execution: devices and execution form; all devices by default.
      process: this process among those of the run; by default, the number that ``jax.distributed`` gave it.
      wait: largest time without a sign of life of another process, s.
      command: the command that started the run, for its record; this process's by default.
      say: prints a line for the person who waits; on stderr by default.

    Returns:
      A ``ColumnsResult`` in the order of ``archs``, or None in processes other than the first.

    Raises:
      ValueError: an unreadable architecture, an empty list, an unknown proxy, bad images or labels, a file of another
        run or of somebody else, a file that another process is writing, or processes that do not agree. The lines of
        the file stay.
      OSError: the file cannot be written.
    """
    space = spaces.get(space) if isinstance(space, str) else space
    columns = wanted_columns(proxy, {"": settings} if isinstance(settings, ProxySettings) else settings)
    parsed = parse_all(archs, space)
    job = ColumnJob.of(space, images, labels, num_classes, key, execution)
    run = _Run.of(parsed, space, key, job.execution, process, wait, command, say, job=job, columns=tuple(columns))
    path = files.folder(workdir) / "columns.jsonl" if out is None else files.writable(out)
    files.folder(path.parent)
    _check_outputs(run, path)
    identity = job.identity()
    own = {column.name: job.identity_of(column, run.networks.distinct) for column in run.passes.values()}
    own = {name: own[column.name] for column in run.passes.values() for name in column.made_by.columns}
    with contextlib.ExitStack() as stack:
        if run.process.count > 1:
            listed = ", ".join(run.passes)
            run = stack.enter_context(run.met({**identity, "proxies": listed, "sources or settings": own}, path))
        result = _Computing(run, path, identity, own).finish()
    return None if result is None else result.select(run.positions(parsed))


def written_files(out: Path, process: hosts.Process) -> list[Path]:
    """Return all files that a run writes, its figure left out."""
    return list(dict.fromkeys([out, outputs.record_path(out), *(p.path(out) for p in (process, *process.others))]))


def _check_outputs(run: _Run, out: Path) -> None:
    """Check that no file of somebody else stands where this run will write.

    Raises:
      ValueError: one does.
      OSError: a name is too long, or a file cannot be read.
    """
    outputs.check_distinct(written_files(out, run.process), {})
    if run.is_first:
        outputs.read_record(outputs.record_path(out))
    check_file(run.process.path(out), check_row, WHAT)  # that of process 0 is the final file


class _Computing:
    """Computes what a file lacks, pass by pass, and appends lines as chunks finish.

    Args:
      run: the arguments of the run.
      out: the final file.
      identity: what all columns depend on.
      own: what each column depends on besides.
    """

    def __init__(self, run: _Run, out: Path, identity: dict[str, Any], own: Mapping[str, dict[str, Any]]):
        self._run, self._out, self._identity, self._own = run, out, identity, own
        self._run_id = fingerprint(identity)
        self._before = outputs.read_record(outputs.record_path(out)) if run.is_first else None
        made_with = {name: fingerprint(one) for name, one in own.items() if one}
        space, networks = run.space, run.networks
        known = {
            text: {
                "status": STATUS_OK if ok else STATUS_DISCONNECTED,
                "macs_as_written": int(space.macs(arch)),
                "params_as_written": int(space.params(arch)),
            }
            for text, arch, ok in zip(run.texts, networks.archs, networks.connected.tolist(), strict=True)
        }
        self._known, self._made_with = known, made_with
        why = why_other(self._run_id, identity, self._before)
        self._results = ColumnsFile(run.process.path(out), self._run_id, known, made_with, why, self._why_column)
        self._seconds: dict[str, dict[str, float]] = {}
        self._compiled = 0

    def finish(self) -> ColumnsResult | None:
        """Compute; process 0 also collects the others and returns the result."""
        run, results = self._run, self._results
        try:
            if run.is_first:
                outputs.check_record(self._before, self._out, self._run_id, bool(results.rows))
                self._write_record(finished=False)
            if results.torn:
                run.say(f"{results.path}: dropped a half-written last line")
            if count := int((~run.networks.connected).sum()):
                run.say(f"{count} disconnected (their output never depends on the image): not run, ranked last")
            self._compute()
            if run.is_first and run.process.count > 1:
                self._collect()
            if run.is_first:  # a share stays as it was appended, for process 0 may be reading it
                results.finish()
        finally:
            results.close()
        if not run.is_first:
            run.say(f"{results.path}: share {run.process.index} of {run.process.count} done; process 0 collects")
            return None
        self._write_record(finished=True)
        return self._result()

    # --- computing ---

    def _compute(self) -> None:
        run, is_resumed = self._run, bool(self._results.rows)
        lacking = {name: self._lacking(column) for name, column in run.passes.items()}
        todo = {name: run.process.share(list(missing)) for name, missing in lacking.items()}
        own = len(run.process.share(range(len(run.networks.distinct)))) * len(todo)
        done = own - sum(map(len, todo.values()))
        if is_resumed:
            run.say(f"{self._results.path}: resuming after {done} of {own} (networks x passes)")
        run.job.check([column for column in run.columns if todo[column.made_by.name]], run.networks.distinct)
        if any(todo.values()):
            devices = run.execution.devices
            run.say(f"{own - done} (networks x passes), {len(devices)} {devices[0].platform} device(s)")
        with Progress(own, done, "networks x passes") as meter:
            for name, column in run.passes.items():
                if todo[name]:
                    done = self._run_pass(column, todo[name], lacking[name], meter, done)

    def _lacking(self, column: Column) -> dict[int, list[str]]:
        """Return the strings that lack the columns of a pass, by network, once what needs no computing is appended."""
        run, results, names = self._run, self._results, column.made_by.columns
        elsewhere = set() if run.is_first else self._of_first(names)
        lacking: dict[int, list[str]] = {}
        held: dict[int, str] = {}
        for text, network in zip(run.texts, run.networks.index.tolist(), strict=True):
            if results.has(text, names):
                held[network] = text
            elif text not in elsewhere:
                lacking.setdefault(network, []).append(text)
        rows = []
        for text in lacking.pop(-1, []) if run.is_first else []:
            rows.append(results.row(text, dict.fromkeys(names)))
        lacking.pop(-1, None)
        for network in [n for n in lacking if n in held]:  # after a kill, or for another string of the same function
            columns = {name: results.columns[held[network]][name] for name in names}
            rows += [results.row(text, columns) for text in lacking.pop(network)]
        if rows:
            results.add(rows)
        return lacking

    def _of_first(self, names: Sequence[str]) -> set[str]:
        """Return the strings whose columns process 0 has from an earlier run, with more or fewer processes."""
        rows = read_rows(self._out, self._run_id, check_row, WHAT)
        return {row["arch"] for row in rows if all(name in row for name in names)}

    def _run_pass(
        self, column: Column, todo: Sequence[int], lacking: Mapping[int, list[str]], meter: Progress, done: int
    ) -> int:
        """Compute one pass; returns how many networks x passes are done."""
        run, results, name = self._run, self._results, column.made_by.name
        archs = [run.networks.distinct[n] for n in todo]
        if column.made_by.make is not None or column.settings is not None:
            programs = len(by_group(archs, run.space, run.execution.grouping))
            run.say(f"{name}: {len(todo)} distinct networks, {programs} program(s)")
        compiled: list[float] = []

        def show_compiled(seconds: float) -> None:
            compiled.append(seconds)
            self._compiled += 1
            run.say(f"compiled program {self._compiled} in {seconds:.1f} s")

        start = time.perf_counter()
        for positions, values in run.job.run(column, archs, show_compiled, run.networks.distinct):
            rows = []
            for i, position in enumerate(positions):
                columns = {one: encode(values[one][i], _is_exact(column)) for one in column.made_by.columns}
                rows += [results.row(text, columns) for text in lacking[todo[position]]]
            results.add(rows)
            if run.meeting is not None:
                run.meeting.check()
            done += len(positions)
            meter.update(done, more=f", {name}")
        seconds = time.perf_counter() - start - sum(compiled)
        self._seconds[name] = {"compile": round(sum(compiled), 2), "run": round(seconds, 2)}
        if run.is_first:
            self._write_record(finished=False)
        return done

    # --- the lines of others ---

    def _collect(self) -> None:
        """Wait for the lines of the other processes."""
        run, results = self._run, self._results
        passes = {name: column.made_by.columns for name, column in run.passes.items()}
        owed = {
            (text, name): run.process.owner(network)
            for text, network in zip(run.texts, run.networks.index.tolist(), strict=True)
            for name, columns in passes.items()
            if not results.has(text, columns)
        }
        total = len(run.texts) * len(passes)
        run.say(f"own share done, {total - len(owed)} of {total} (architectures x passes); waiting for the others")
        meter = Progress(total, total - len(owed), "archs x passes")

        def take(path: Path) -> None:
            rows = []
            for line, row in enumerate(read_rows(path, self._run_id, check_row, WHAT), start=1):
                check_made_with(row, f"{path}:{line}", self._made_with, self._why_column)
                for name, columns in passes.items():
                    if (row["arch"], name) in owed and all(one in row for one in columns):
                        del owed[row["arch"], name]
                        rows.append(results.row(row["arch"], {one: columns_of(row)[one] for one in columns}))
            if rows:
                results.add(rows)
                meter.update(total - len(owed))

        hosts.await_shares(run.shares(self._out), take, lambda: collections.Counter(owed.values()), **run.waiting())

    # --- result and record ---

    def _result(self) -> ColumnsResult:
        run, held = self._run, self._results.columns
        known = [self._known[text] for text in run.texts]
        found = {
            column.name: decode([held[text][column.name] for text in run.texts], _is_exact(column))
            for column in run.columns
        }
        seconds = self._all_seconds()
        return ColumnsResult(
            archs=run.texts,
            columns=found,
            macs=np.asarray([one["macs_as_written"] for one in known], np.int64),
            params=np.asarray([one["params_as_written"] for one in known], np.int64),
            status=tuple(one["status"] for one in known),
            seconds={name: seconds[name] for name in run.passes},
        )

    def _earlier(self, field: str) -> dict[str, Any]:
        """Return a field of the record of earlier sessions that holds one entry a column or pass."""
        before = self._before if self._before is not None and self._before["run"] == self._run_id else {}
        value = before.get(field)
        return dict(value) if isinstance(value, dict) else {}

    def _all_seconds(self) -> dict[str, dict[str, float]]:
        earlier, run_id = self._earlier("seconds"), self._run_id
        names = dict.fromkeys([*earlier, *self._run.passes])
        return {
            name: total_seconds({"run": run_id, "seconds": earlier.get(name)}, run_id, self._seconds.get(name, {}))
            for name in names
        }

    def _write_record(self, *, finished: bool) -> None:
        run = self._run
        columns = self._earlier("columns")
        for name, column in run.passes.items():
            columns |= {one: {"pass": name, **self._own[one]} for one in column.made_by.columns}
        identity = {**self._identity, "num_images": len(run.job.inputs.images)}
        write_record(
            run, self._out, self._run_id, identity, self._all_seconds(), {"columns": columns}, finished=finished
        )

    def _why_column(self, name: str) -> str:
        """Say how a column differs from that of an earlier session, as far as the record tells."""
        found = outputs.differences(self._own[name], self._earlier("columns").get(name, {}))
        return f": other {', '.join(found)}" if found else ""


def _is_exact(column: Column) -> bool:
    """Whether a column is computed in float64 on the host: sizes and counts may be beyond float32."""
    return column.settings is None and column.made_by.make is None
