"""The command line: ``eproxy score``.

Reads flags and configuration at the edge, hands frozen specs to the library, and turns its errors into one line and
exit status 2. Nothing here is numeric.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXIT_USAGE = 2

_SCORE_EPILOG = """\
examples:
  eproxy score --space nasbench201 --sample 20 --seed 0
  eproxy score --config configs/nasbench201.py:small --config.settings.alpha=0.3 --archs archs.txt --out scores.jsonl
  eproxy score --space transnas_micro --archs micro.json --limit 300 --truth micro.json --workdir runs/scene

--archs reads .txt (one a line), .json ([arch, value] pairs), .jsonl and .csv. A killed run, started again with the same
flags, resumes. Overrides of a configuration are --config.FIELD=VALUE.
"""


class UsageError(Exception):
    """A mistake of the user, to be told in one line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``eproxy`` console script.

    Args:
      argv: arguments without the program's name; those of the process when absent.

    Returns:
      Exit status: 0, or 2 for bad input.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if argv is None:  # as a program; a caller of main has a JAX of its own
        _configure_cpu_devices(arguments.devices)
    overrides = [text for text in rest if text.startswith("--config.")]
    unknown = [text for text in rest if not text.startswith("--config.")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if any("=" not in text for text in overrides):
        parser.error("configuration overrides are written --config.FIELD=VALUE, with '='")
    try:
        return _score(arguments, overrides)
    except (UsageError, ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"eproxy: error: {message}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\neproxy: interrupted; start it again with the same flags to resume", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from eproxy_jax import __version__

    parser = argparse.ArgumentParser(
        prog="eproxy", description="Rank candidate networks for neural architecture search without training them."
    )
    parser.add_argument("--version", action="version", version=f"eproxy_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    score = commands.add_parser(
        "score",
        help="score architectures of one search space",
        epilog=_SCORE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = score.add_argument_group("what to score with")
    what.add_argument("--space", metavar="NAME", help="search space; enough alone: plain Eproxy at the paper's size")
    what.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="configuration file, such as configs/nasbench201.py:small"
    )
    what.add_argument("--settings", metavar="FILE", help="proxy settings (JSON) instead of the configuration's")
    what.add_argument(
        "--images", metavar="SOURCE", help="dead_leaves, one_over_f, white_noise, .npy/.npz or CIFAR-10 folder"
    )
    what.add_argument(
        "--weight-seed", type=_natural, metavar="N", help="seed of weights, targets and barrier (default 0)"
    )

    which = score.add_argument_group("which architectures (one of --archs, --sample, --all)")
    which.add_argument("--archs", metavar="FILE", help="a file of architectures")
    which.add_argument("--sample", type=_positive, metavar="N", help="N distinct random ones")
    which.add_argument("--all", action="store_true", help="the whole space")
    which.add_argument("--limit", type=_positive, metavar="N", help="a random subset of N out of --archs or --all")
    which.add_argument("--seed", type=_natural, metavar="S", default=0, help="seed of --sample and --limit (default 0)")

    output = score.add_argument_group("output")
    output.add_argument("--out", metavar="FILE", help="result file, JSON lines (default WORKDIR/scores.jsonl)")
    output.add_argument("--workdir", metavar="DIR", help="folder for results, run record and figure (default .)")
    output.add_argument("--truth", metavar="FILE", help="measured values to compare the ranking with")
    output.add_argument("--truth-column", metavar="NAME", help="which value of --truth, where it has several")
    output.add_argument("--top", type=_positive, default=10, metavar="K", help="rows of the ranked table (default 10)")
    output.add_argument("--no-plot", action="store_true", help="draw no figure")

    execution = score.add_argument_group("execution (does not change scores within one form)")
    execution.add_argument(
        "--form", choices=("map", "vmap"), help="one candidate at a time, or batches (default by backend)"
    )
    execution.add_argument("--chunk-size", type=_positive, metavar="N", help="candidates per dispatched chunk")
    execution.add_argument(
        "--vmap-width", type=_positive, default=32, metavar="N", help="candidates of one batch (default 32)"
    )
    execution.add_argument(
        "--devices", type=_positive, metavar="N", help="devices to use (default: all; CPU: one a core)"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text}")
    return value


# --- score ---------------------------------------------------------------------------------------------------


def _score(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    _check_choices(arguments, overrides)
    from eproxy_jax import arch_files, progress, report, results_file, runner

    spec = _run_spec(arguments, overrides)
    archs = _architectures(arguments, spec.space)
    truth = None
    if arguments.truth is not None:
        measured = arch_files.read_truth(arguments.truth, spec.space, arguments.truth_column)
        truth = report.truth_of(archs, measured)
        known = sum(arch in measured for arch in archs)
        if known < 3:
            raise UsageError(
                f"{arguments.truth}: {known} of the {len(archs)} architectures have a value; need at least 3"
            )
    execution = runner.Execution.of(
        _devices(arguments.devices), arguments.form, arguments.chunk_size, arguments.vmap_width
    )
    job = runner.make_job(spec.space, spec.settings, spec.images, spec.weight_seed, execution)
    plan = runner.make_plan(archs, spec.space)

    workdir = Path(arguments.workdir or ".")
    out = Path(arguments.out) if arguments.out else workdir / "scores.jsonl"
    workdir.mkdir(parents=True, exist_ok=True)
    identity = _identity(spec, job)
    run = results_file.fingerprint(identity)
    texts = [spec.space.format(arch) for arch in archs]
    results = results_file.ResultsFile(out, run, texts)
    try:
        seconds = _run(job, plan, results, run, progress)
    finally:
        results.close()
    result = results_file.result_of(results.rows)
    record = {
        "run": run,
        **identity,
        "archs": len(archs),
        "distinct": len(plan.distinct),
        "diverged": result.status.count("diverged"),
        "seconds": seconds,
        "devices": [str(device) for device in job.execution.devices],
        "command": " ".join(["eproxy", *(sys.argv[1:])]),
        "versions": _versions(),
    }
    out.with_suffix(".run.json").write_text(json.dumps(record, indent=1) + "\n")

    print(report.ranked_table(result, arguments.top, truth))
    if truth is not None:
        print()
        print(report.quality_table(report.quality_rows(result, truth)))
    print()
    print(f"scores:  {out}  ({len(plan.distinct)} distinct networks)")
    if not arguments.no_plot:
        _plot(out.with_suffix(".png"), result, truth, f"{spec.space.name}, {len(archs)} architectures")
    return 0


def _check_choices(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    if (arguments.space is None) == (arguments.config is None):
        raise UsageError("give either --space NAME or --config FILE")
    if overrides and arguments.config is None:
        raise UsageError("--config.FIELD=VALUE overrides need --config FILE")
    if sum([arguments.archs is not None, arguments.sample is not None, arguments.all]) > 1:
        raise UsageError("--archs, --sample and --all exclude one another")
    if arguments.limit is not None and arguments.sample is not None:
        raise UsageError("--limit is for --archs and --all; --sample already says how many")
    if arguments.truth_column is not None and arguments.truth is None:
        raise UsageError("--truth-column needs --truth FILE")


def _configure_cpu_devices(wanted: int | None) -> None:
    """On the CPU, one JAX device per core: devices run candidates side by side. Call before JAX starts its backend."""
    import jax

    jax.config.update("jax_num_cpu_devices", wanted or _available_cores())


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices(wanted: int | None) -> list[Any]:
    import jax

    devices = jax.devices()
    if wanted is not None and wanted > len(devices):
        raise UsageError(f"--devices {wanted}: JAX has {len(devices)} ({devices[0].platform})")
    return devices[:wanted]


def _run_spec(arguments: argparse.Namespace, overrides: Sequence[str]) -> Any:
    from eproxy_jax import config as config_lib
    from eproxy_jax.types import ProxySettings

    if arguments.config is not None:
        config = config_lib.load_config(arguments.config, overrides)
    else:
        config = config_lib.default_config(arguments.space)
    with config.unlocked():
        if arguments.images is not None:
            config.images.source = arguments.images
        if arguments.weight_seed is not None:
            config.weight_seed = arguments.weight_seed
    spec = config_lib.build(config)
    if arguments.settings is not None:
        values = _read_json(Path(arguments.settings))
        spec = dataclasses.replace(spec, settings=ProxySettings.from_dict(values))
    return spec


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a JSON object of settings")
    return values


def _architectures(arguments: argparse.Namespace, space: Any) -> list[Any]:
    """The architectures asked for, each string once."""
    from eproxy_jax import arch_files
    from eproxy_jax.spaces.base import draw_distinct

    if arguments.archs is None and not arguments.all:
        return space.sample(arguments.sample or min(20, space.num_archs), arguments.seed)
    if arguments.archs is not None:
        archs = [record.arch for record in arch_files.read_archs(arguments.archs, space)]
    else:
        archs = list(space.enumerate())
    distinct = list(dict.fromkeys(archs))
    if len(distinct) < len(archs):
        print(
            f"eproxy: {len(archs) - len(distinct)} repeated lines of {arguments.archs} are scored once", file=sys.stderr
        )
    if arguments.limit is not None and arguments.limit < len(distinct):
        return [distinct[i] for i in draw_distinct(len(distinct), arguments.limit, arguments.seed, "the list")]
    return distinct


def _identity(spec: Any, job: Any) -> dict[str, Any]:
    """Everything that a score depends on besides the architecture: equal identities, equal files."""
    from eproxy_jax import images

    return {
        "space": spec.space.name,
        "sizes": dataclasses.asdict(spec.space),
        "settings": spec.settings.to_dict(),
        "images": images.identity(job.task.images),
        "weight_seed": spec.weight_seed,
        "form": job.execution.label,
        "platform": job.execution.devices[0].platform,
    }


def _versions() -> dict[str, str]:
    import flax
    import jax

    from eproxy_jax import __version__

    return {
        "eproxy_jax": __version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "python": platform.python_version(),
    }


def _run(job: Any, plan: Any, results: Any, run: str, progress_lib: Any) -> dict[str, float]:
    """Train what is missing in the file, appending lines in order as chunks finish."""
    import numpy as np

    from eproxy_jax import results_file, runner

    written = len(results.rows)
    if results.torn:
        print(f"eproxy: {results.path}: dropped a half-written last line", file=sys.stderr)
    if written:
        print(f"eproxy: {results.path}: resuming after {written} of {len(plan.archs)} architectures", file=sys.stderr)
    # Networks are numbered by first appearance, so lines already written hold every network below this number.
    known = int(plan.index[:written].max()) + 1 if written else 0
    losses: list[Any] = [None] * len(plan.distinct)
    for row, network in zip(results.rows, plan.index[:written], strict=True):
        losses[network] = [np.nan if value is None else value for value in row["losses"]]
    diverged = sum(row["status"] == "diverged" for row in results.rows)

    def append_ready() -> None:
        """Append the lines, next in order, whose network has been trained."""
        nonlocal written, diverged
        end = written
        while end < len(plan.archs) and plan.index[end] < known:
            end += 1
        if end > written:
            ready = np.asarray([losses[network] for network in plan.index[written:end]])
            result = runner.collect(job, plan.archs[written:end], ready, {})
            results.append(results_file.lines_of(result, run))
            diverged += result.status.count("diverged")
            written = end

    append_ready()  # after a kill, the next lines may be of networks that earlier lines hold
    if known == len(plan.distinct):
        return {"compile": 0.0, "run": 0.0}
    print(
        f"eproxy: compiling for {len(job.execution.devices)} {job.execution.devices[0].platform} device(s)",
        file=sys.stderr,
    )
    compile_seconds = job.program().compile_seconds
    print(f"eproxy: compiled in {compile_seconds:.1f} s", file=sys.stderr)
    start = time.perf_counter()
    meter = progress_lib.Progress(len(plan.archs), written)
    for chunk in runner.run(job, plan.distinct[known:]):
        for row in chunk:
            losses[known] = row
            known += 1
        append_ready()
        meter.update(written, diverged)
    return {"compile": round(compile_seconds, 2), "run": round(time.perf_counter() - start, 2)}


def _plot(path: Path, result: Any, truth: Any, title: str) -> None:
    from eproxy_jax import report

    try:
        report.scatter_plot(path, result, truth, title)
    except ModuleNotFoundError:
        print("no figure: matplotlib is not installed; pip install 'eproxy_jax[plot]', or --no-plot")
        return
    print(f"figure:  {path}")


if __name__ == "__main__":
    sys.exit(main())
