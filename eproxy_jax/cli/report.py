"""``eproxy report`` makes a page out of runs: tables, figures, the best architectures; it trains nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import common, fit
from eproxy_jax.cli.common import UsageError

if TYPE_CHECKING:
    from eproxy_jax.spaces import SearchSpace

_EPILOG = """\
examples:
  eproxy report runs/all --out report.html
  eproxy report runs/columns runs/fit runs/search --truth cifar10.json cifar100.json --workdir runs
  eproxy report runs/columns/columns.jsonl --truth accuracy.json --by rank_sum --out report.md

A run is a folder or a file that eproxy score, fit, dps or search wrote; its content says what it holds. The page is one
file that needs no network; Markdown has its figures as pictures beside it. A report that stands there is replaced.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    report = common.add_command(commands, "report", "make a page out of runs: tables, figures, architectures", _EPILOG)
    report.add_argument("runs", metavar="RUN", nargs="+", help="a folder or a file of eproxy score, fit, dps or search")
    what = report.add_argument_group("what to compare with")
    what.add_argument(
        "--truth", metavar="FILE", nargs="+", default=[], help="measured values, higher is better, a file for each task"
    )
    what.add_argument(
        "--truth-column",
        metavar="NAME",
        nargs="+",
        default=[],
        help="names of values, if files have several: all tasks",
    )
    what.add_argument(
        "--lower-is-better", action="store_true", help="the values are errors, losses or times: lower is better"
    )
    common.add_dataset_flag(what)
    fit.add_space_flags(what)
    shown = report.add_argument_group("what to show")
    shown.add_argument(
        "--by", metavar="COLUMN", help="orders the lists (default: a fit, else a sum of ranks, else Eproxy)"
    )
    shown.add_argument(
        "--draws",
        type=common.natural,
        default=4,
        metavar="N",
        help="draws of labels for a point of the curve of labels (default 4; 0: no such curve)",
    )
    shown.add_argument("--no-plot", action="store_true", help="draw no figure")
    output = report.add_argument_group("output")
    output.add_argument("--out", metavar="FILE", help="the page, .html or .md (default WORKDIR/report.html)")
    output.add_argument("--workdir", metavar="DIR", default=".", help="folder of the page (default .)")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    if "-" in arguments.runs:
        raise UsageError("standard input has no record beside it: name folders or files")
    if arguments.truth.count("-") > 1:
        raise UsageError("--truth: standard input can be read once; name files")
    if not arguments.truth and (arguments.truth_column or arguments.lower_is_better):
        raise UsageError("--truth-column and --lower-is-better say how to read --truth FILE: give one")
    from eproxy_jax import files, report
    from eproxy_jax.progress import Progress
    from eproxy_jax.report import reading, writing

    out = Path(arguments.out) if arguments.out else files.folder(arguments.workdir) / "report.html"
    out = writing.check_out(out)
    common.check_outputs(arguments, [out])
    space = _space(arguments, overrides)
    sources = reading.read(arguments.runs)
    space = reading.space_of(sources) if space is None else space
    truths = _truths(arguments, space)
    shown: list[Progress] = []

    def show(done: int, total: int) -> None:
        if not shown or done == 1:
            shown.append(Progress(total, unit="fits to few labels", after=2))
        shown[-1].update(done)

    written = report.write(
        sources, out, truths, space=space, by=arguments.by, draws=arguments.draws,
        with_figures=not arguments.no_plot, show=show,
    )  # fmt: skip
    print(f"report: {written.path}  ({written.size / 1e6:.1f} MB)")
    if written.figures:
        print(f"figures: {', '.join(figure.name for figure in written.figures)}")
    if not truths:
        print(common.UNCHECKED)
    return 0


def _space(arguments: argparse.Namespace, overrides: Sequence[str]) -> SearchSpace | None:
    """Return the search space of --space or --config; None leaves it to the results."""
    if arguments.space is not None and arguments.config is not None:
        raise UsageError("give one of --space NAME and --config FILE")
    if overrides and arguments.config is None:
        raise UsageError("--config.FIELD=VALUE overrides need --config FILE")
    if arguments.space is None and arguments.config is None:
        return None
    return common.space_of(arguments, overrides)


def _truths(arguments: argparse.Namespace, space: SearchSpace) -> dict[str, Any]:
    """Read the measured values of all tasks, by name: of the file, and of the column if there are several."""
    from eproxy_jax.runs import contents, truth

    found: dict[str, Any] = {}
    for path in arguments.truth:
        for column in arguments.truth_column or [None]:
            one = truth.read_truth(
                path, space, column, dataset=arguments.dataset, lower_is_better=arguments.lower_is_better
            )
            common.announce_truth(one)
            name = "measured" if path == "-" else Path(contents.name_of(path)).name.partition(".")[0]
            if len(arguments.truth_column) > 1:
                name = f"{name}: {column}"
            while name in found:
                name += "'"
            found[name] = one
    return found
