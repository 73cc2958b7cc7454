"""``eproxy score`` scores architectures into a resumable file and prints the ranking.

``--proxy`` is in ``columns.py``, ``--settings`` of a fit in ``ranking.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eproxy_jax.cli import columns, common, ranking

_EPILOG = """\
examples:
  eproxy score --space nasbench201 --sample 20 --seed 0
  eproxy score --config configs/nasbench201.py:small --config.settings.alpha=0.3 --archs archs.txt --out scores.jsonl
  eproxy score --space transnas_micro --archs micro.json --limit 300 --truth micro.json --workdir runs/scene
  eproxy score --config configs/nasbench201.py:small --proxy cheap,eproxy --sample 300 --truth accuracy.json

--archs and --truth read text, JSON, JSON lines and delimited tables, gzip or not: the content says what a file is. A
killed run, started again with the same flags, resumes. Overrides of a configuration are --config.FIELD=VALUE.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    score = common.add_command(commands, "score", "score architectures of one search space", _EPILOG)
    what = common.add_proxy_flags(score)
    what.add_argument(
        "--settings",
        metavar="FILE",
        help="proxy settings: JSON, also from eproxy dps or eproxy fit, or SPACE/TASK of those found before",
    )
    what.add_argument(
        "--columns",
        metavar="FILE",
        nargs="+",
        default=[],
        help="tables of your own columns, where --settings is a fit that has any",
    )

    columns.add_flags(score)
    common.add_arch_flags(score)

    output = score.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FILE",
        help="result file, JSON lines (default WORKDIR/scores.jsonl; with --proxy, WORKDIR/columns.jsonl)",
    )
    output.add_argument("--workdir", metavar="DIR", help="folder for results, run record and figure (default .)")
    common.add_truth_flags(output)
    output.add_argument(
        "--top", type=common.positive, default=10, metavar="K", help="rows of the ranked table (default 10)"
    )
    output.add_argument("--no-plot", action="store_true", help="draw no figure")

    common.add_execution_flags(score)

    several = score.add_argument_group("several processes, one share each (jax.distributed; a --workdir that all see)")
    several.add_argument("--distributed", action="store_true", help="join the cluster JAX finds: TPU pod, Slurm, ...")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, if JAX finds no cluster")
    several.add_argument("--num-processes", type=common.positive, metavar="N", help="with --coordinator")
    several.add_argument("--process-id", type=common.natural, metavar="I", help="with --coordinator: 0 to N - 1")
    several.add_argument(
        "--wait",
        type=common.seconds,
        default=600.0,
        metavar="T",
        help="give up after T seconds without a sign of life of another process (default 600)",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    saved = _saved_fit(arguments)
    _check_choices(arguments, overrides, saved is not None)
    if arguments.proxy is not None:
        return columns.run(arguments, overrides)
    if saved is not None:
        return ranking.run(arguments, overrides, saved)
    from eproxy_jax import runs
    from eproxy_jax.runs import outputs, printed, resumable

    spec = common.run_spec(arguments, overrides)
    proxy = common.read_proxy(Path(arguments.settings)) if arguments.settings is not None else spec.settings
    archs = common.architectures(arguments, spec.space)
    out, figure, process = common.destination_of(
        arguments, "scores.jsonl", lambda out, process: resumable.written_files(out, proxy, process), draws=True
    )
    truth = None if arguments.truth is None else common.match_truth(arguments, archs, spec.space).values
    result = runs.score(
        archs,
        spec.space,
        proxy,
        spec.images,
        spec.weight_seed,
        out=out,
        targets=spec.targets,
        optimizer=spec.optimizer,
        execution=common.execution_of(arguments),
        process=process,
        wait=arguments.wait,
        command=common.command_line(),
    )
    if result is None:
        return 0
    distinct = common.read_json(outputs.record_path(out))["distinct"]
    print(printed.ranked_table(result, arguments.top, truth))
    if truth is not None:
        print()
        print(printed.quality_table(printed.quality_rows(result, truth)))
    print()
    print(f"scores:  {out}  ({distinct} distinct networks)")
    if truth is None:
        print(common.UNCHECKED)
    if figure is not None:
        title = f"{spec.space.name}, {len(archs)} architectures"
        print(common.draw(figure, lambda: printed.scatter_plot(figure, result, truth, title, out)))
    return 0


def _saved_fit(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return the content of --settings if it is a fit of columns."""
    if arguments.settings is None or not Path(arguments.settings).is_file():
        return None
    values = common.read_json(Path(arguments.settings))
    return values if common.is_saved_fit(values) else None


def _check_choices(arguments: argparse.Namespace, overrides: Sequence[str], fitted: bool) -> None:
    common.check_source(arguments, overrides)
    common.check_archs(arguments)
    common.check_truth(arguments)
    columns.check_flags(arguments, overrides, fitted)
    if arguments.columns and not fitted:
        raise common.UsageError("--columns needs --settings FILE of eproxy fit: nothing else reads columns")
