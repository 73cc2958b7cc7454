"""``eproxy score``: architectures in, a ranked and resumable file of scores out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eproxy_jax.cli import common
from eproxy_jax.cli.common import UsageError

_EPILOG = """\
examples:
  eproxy score --space nasbench201 --sample 20 --seed 0
  eproxy score --config configs/nasbench201.py:small --config.settings.alpha=0.3 --archs archs.txt --out scores.jsonl
  eproxy score --space transnas_micro --archs micro.json --limit 300 --truth micro.json --workdir runs/scene

--archs reads .txt (one a line), .json ([arch, value] pairs), .jsonl and .csv. A killed run, started again with the same
flags, resumes. Overrides of a configuration are --config.FIELD=VALUE.
"""


def add_parser(commands: Any) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    score = common.add_command(commands, "score", "score architectures of one search space", _EPILOG)
    what = common.add_proxy_flags(score)
    what.add_argument("--settings", metavar="FILE", help="proxy settings (JSON, also from eproxy dps)")

    common.add_arch_flags(score)

    output = score.add_argument_group("output")
    output.add_argument("--out", metavar="FILE", help="result file, JSON lines (default WORKDIR/scores.jsonl)")
    output.add_argument("--workdir", metavar="DIR", help="folder for results, run record and figure (default .)")
    output.add_argument("--truth", metavar="FILE", help="measured values to compare the ranking with")
    output.add_argument("--truth-column", metavar="NAME", help="which value of --truth, where it has several")
    output.add_argument(
        "--top", type=common.positive, default=10, metavar="K", help="rows of the ranked table (default 10)"
    )
    output.add_argument("--no-plot", action="store_true", help="draw no figure")

    common.add_execution_flags(score)

    several = score.add_argument_group("several processes, one share each (jax.distributed; a --workdir that all see)")
    several.add_argument("--distributed", action="store_true", help="join the cluster JAX finds: TPU pod, Slurm, ...")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, where JAX finds no cluster")
    several.add_argument("--num-processes", type=common.positive, metavar="N", help="with --coordinator")
    several.add_argument("--process-id", type=common.natural, metavar="I", help="with --coordinator: 0 to N - 1")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    _check_choices(arguments, overrides)
    from eproxy_jax import scoring
    from eproxy_jax.dps import fitted
    from eproxy_jax.runs import archs as archs_lib
    from eproxy_jax.runs import report

    spec = common.run_spec(arguments, overrides)
    proxy = fitted.FittedProxy((fitted.Member(spec.settings),))
    if arguments.settings is not None:
        proxy = common.read_proxy(Path(arguments.settings))
    archs = common.architectures(arguments, spec.space)
    truth = None
    if arguments.truth is not None:
        measured = archs_lib.read_truth(arguments.truth, spec.space, arguments.truth_column)
        truth = report.truth_of(archs, measured)
        known = sum(arch in measured for arch in archs)
        if known < 3:
            raise UsageError(
                f"{arguments.truth}: {known} of the {len(archs)} architectures have a value; need at least 3"
            )
    execution = common.execution_of(arguments)
    if arguments.vmap_width == "auto":
        job = scoring.make_job(spec.space, proxy.members[0].settings, spec.images, spec.weight_seed, execution)
        execution = scoring.widest(job, scoring.make_plan(archs, spec.space).distinct)
        common.announce(f"execution: {execution.label}")
    workdir = Path(arguments.workdir or ".")
    out = Path(arguments.out) if arguments.out else workdir / "scores.jsonl"
    workdir.mkdir(parents=True, exist_ok=True)
    if proxy.is_plain:
        scored = _score_settings(spec, proxy.members[0].settings, archs, out, execution)
    else:
        scored = _score_fitted(spec, proxy, archs, out, execution)
    if scored is None:
        return 0
    result, record = scored

    print(report.ranked_table(result, arguments.top, truth))
    if truth is not None:
        print()
        print(report.quality_table(report.quality_rows(result, truth)))
    print()
    print(f"scores:  {out}  ({record['distinct']} distinct networks)")
    if not arguments.no_plot:
        _plot(out.with_suffix(".png"), result, truth, f"{spec.space.name}, {len(archs)} architectures")
    return 0


def _score_settings(
    spec: Any, settings: Any, archs: Sequence[Any], out: Path, execution: Any
) -> tuple[Any, Any] | None:
    """Scores under one setting, in its own resumable file: (result, record of the run); None but in process 0."""
    from eproxy_jax import scoring
    from eproxy_jax.runs import hosts
    from eproxy_jax.runs import results as results_lib

    process = hosts.Process.current()
    job = scoring.make_job(spec.space, settings, spec.images, spec.weight_seed, execution)
    plan = scoring.make_plan(archs, spec.space)
    identity = scoring.run_identity(spec.space, job.task.images, spec.weight_seed, execution)
    identity["settings"] = settings.to_dict()
    run_id = results_lib.fingerprint(identity)
    results = results_lib.ResultsFile(process.path(out), run_id, [spec.space.format(arch) for arch in archs])
    try:
        seconds = _train(job, plan, results, run_id, out, process)
    finally:
        results.close()
    if process.index:
        common.announce(f"{results.path}: share {process.index} of {process.count} done; process 0 collects")
        return None
    before = _record_path(out)
    if before.is_file() and (record := common.read_json(before)).get("run") == run_id:  # time of earlier sessions
        seconds = {name: round(value + record["seconds"][name], 2) for name, value in seconds.items()}
    result = results_lib.result_of(results.rows)
    return result, _write_record(out, run_id, identity, result, len(plan.distinct), seconds, execution)


def _score_fitted(spec: Any, proxy: Any, archs: Sequence[Any], out: Path, execution: Any) -> tuple[Any, Any] | None:
    """Scores of several settings used together, each in a file of its own beside ``out``; None but in process 0."""
    import numpy as np

    from eproxy_jax import spaces
    from eproxy_jax.runs import results as results_lib

    members, seconds, records = [], {"compile": 0.0, "run": 0.0}, []
    for number, member in enumerate(proxy.members):
        common.announce(f"setting {number + 1} of {len(proxy.members)}")
        path = out.with_suffix(f".member{number}.jsonl")
        scored = _score_settings(spec, member.settings, archs, path, execution)
        if scored is None:
            continue
        result, record = scored
        members.append(result)
        records.append(record)
        seconds = {name: round(seconds[name] + record["seconds"][name], 2) for name in seconds}
    if not members:
        return None
    first = members[0]
    sizes = spaces.size_measures(spec.space, archs)
    blends = any(member.macs_weight is None for member in proxy.members)  # else the largest network is not needed
    fractions = spaces.macs_fractions(spec.space, archs) if blends else None
    scores = proxy.scores(np.stack([result.loss for result in members]), sizes, fractions)
    status = tuple("ok" if np.isfinite(score) else "diverged" for score in scores)
    # Loss and curve are those of the best member: a mean over settings would mean nothing.
    result = first.replace(score=scores, status=status)
    identity = {"members": [record["run"] for record in records], "settings": proxy.to_dict()}
    run_id = results_lib.fingerprint(identity)
    results = results_lib.ResultsFile(out, run_id, list(result.archs))
    try:
        results.append(results_lib.lines_of(result, run_id)[len(results.rows) :])
    finally:
        results.close()
    return result, _write_record(out, run_id, identity, result, records[0]["distinct"], seconds, execution)


def _write_record(
    out: Path, run_id: str, identity: Any, result: Any, distinct: int, seconds: dict[str, float], execution: Any
) -> dict[str, Any]:
    """Write OUT.run.json, and return what is in it."""
    record = {
        "run": run_id,
        **identity,
        "archs": len(result.archs),
        "distinct": distinct,
        "diverged": result.status.count("diverged"),
        "seconds": seconds,
        "devices": [str(device) for device in execution.devices],
        "command": common.command_line(),
        "versions": common.versions(),
    }
    _record_path(out).write_text(json.dumps(record, indent=1) + "\n")
    return record


def _record_path(out: Path) -> Path:
    return out.with_suffix(".run.json")


def _check_choices(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    common.check_source(arguments, overrides)
    common.check_archs(arguments)
    if arguments.truth_column is not None and arguments.truth is None:
        raise UsageError("--truth-column needs --truth FILE")


def _train(job: Any, plan: Any, results: Any, run: str, out: Path, process: Any) -> dict[str, float]:
    """Train what is missing of this process's share, appending lines as chunks finish; then, in process 0, collect."""
    import numpy as np

    from eproxy_jax import progress, scoring
    from eproxy_jax.runs import hosts
    from eproxy_jax.runs import results as results_lib

    if results.torn:
        print(f"eproxy: {results.path}: dropped a half-written last line", file=sys.stderr)
    if results.rows:
        print(
            f"eproxy: {results.path}: resuming after {len(results.rows)} of {len(plan.archs)} architectures",
            file=sys.stderr,
        )
    missing: dict[int, list[int]] = {}  # architectures without a line, by network
    for position in sorted(set(range(len(plan.archs))) - set(results.positions)):
        missing.setdefault(int(plan.index[position]), []).append(position)
    diverged = sum(row["status"] == "diverged" for row in results.rows)

    def append(networks: Sequence[int], losses: np.ndarray) -> None:
        """Append the lines of trained networks."""
        nonlocal diverged
        places = sorted((position, row) for row, n in enumerate(networks) for position in missing.pop(n))
        archs = [plan.archs[position] for position, _ in places]
        result = scoring.collect(job, archs, losses[[row for _, row in places]], {})
        results.append(results_lib.lines_of(result, run))
        diverged += result.status.count("diverged")

    # After a kill, lines may be missing of networks that other lines hold.
    line_of = {int(plan.index[position]): line for line, position in enumerate(results.positions)}
    if again := [n for n in missing if n in line_of]:
        append(again, results_lib.result_of([results.rows[line_of[n]] for n in again]).losses)
    todo = process.share(missing)
    if process.index:  # what process 0 has already, from an earlier run, with more or fewer processes
        done = {row["arch"] for row in hosts.read_lines(out, run)}
        todo = [n for n in todo if not all(job.space.format(plan.archs[p]) in done for p in missing[n])]
    compiled: list[float] = []
    start = time.perf_counter()
    if todo:
        groups = scoring.by_group([plan.distinct[n] for n in todo], job.space, job.execution.grouping)
        print(
            f"eproxy: {len(todo)} distinct networks, {len(groups)} program(s), "
            f"{len(job.execution.devices)} {job.execution.devices[0].platform} device(s)",
            file=sys.stderr,
        )
        own = sum(len(missing[n]) for n in todo)
        meter = progress.Progress(len(results.rows) + own, len(results.rows))

        def show_compiled(seconds: float) -> None:
            compiled.append(seconds)
            print(f"eproxy: compiled program {len(compiled)} in {seconds:.1f} s", file=sys.stderr)

        for positions, losses in scoring.run(job, [plan.distinct[n] for n in todo], show_compiled):
            append([todo[i] for i in positions], losses)
            meter.update(len(results.rows), diverged)
    if process.index == 0 and process.count > 1:
        common.announce(f"own share done, {len(results.rows)} of {len(plan.archs)}; waiting for the other processes")
        meter = progress.Progress(len(plan.archs), len(results.rows))
        others = [other.path(out) for other in process.others]
        hosts.collect(results, others, run, len(plan.archs), lambda: meter.update(len(results.rows)))
    results.finish()
    seconds = time.perf_counter() - start - sum(compiled)
    return {"compile": round(sum(compiled), 2), "run": round(seconds, 2)}


def _plot(path: Path, result: Any, truth: Any, title: str) -> None:
    from eproxy_jax.runs import report

    try:
        report.scatter_plot(path, result, truth, title)
    except ModuleNotFoundError:
        print("no figure: matplotlib is not installed; pip install 'eproxy_jax[plot]', or --no-plot")
        return
    print(f"figure:  {path}")
