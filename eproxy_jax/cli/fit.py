"""``eproxy fit`` fits a ranking to columns out of files and to a few labels; it trains nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import common
from eproxy_jax.cli.common import UsageError

if TYPE_CHECKING:
    from eproxy_jax.spaces import SearchSpace

_EPILOG = """\
examples:
  eproxy score --config configs/nasbench201.py:small --proxy cheap --all --workdir runs/cheap
  eproxy fit --columns runs/cheap/columns.jsonl --truth accuracy.json --num-labels 20 --seed 0 --workdir runs/fit
  eproxy fit --columns runs/cheap/columns.jsonl bank.jsonl mine.csv --labels twenty.csv --workdir runs/fit
  eproxy score --config configs/nasbench201.py:small --settings runs/fit/settings.json --sample 100

--columns are files of eproxy score, with or without --proxy, loss banks, and tables of numbers of your own. Sizes and
graph counts come from the space. The quality on left-out labels is printed first, then that on held-out architectures.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    fit = common.add_command(commands, "fit", "fit a ranking to columns and a few labels", _EPILOG)
    columns = fit.add_argument_group("columns")
    columns.add_argument("--columns", metavar="FILE", nargs="+", required=True, help="files of columns")
    add_space_flags(columns)
    add_choice_flags(columns)
    labels = fit.add_argument_group("labels")
    common.add_truth_flags(labels)
    common.add_dataset_flag(labels)
    labels.add_argument(
        "--labels", metavar="FILE", help="labelled architectures and their values (default: drawn from --truth)"
    )
    labels.add_argument("--num-labels", type=common.positive, metavar="M", help="how many to draw (default 20)")
    labels.add_argument("--seed", type=common.seed, default=0, metavar="S", help="of the draw (default 0)")
    how = fit.add_argument_group("method")
    how.add_argument(
        "--method",
        default="process",
        metavar="NAME",
        help="process (default), ridge, blend (of eproxy dps), alpha (the paper's form), best_column",
    )
    how.add_argument(
        "--prior",
        metavar="NAME",
        help="rank_sum, az_nas, vkdnw_agg, columns with commas between them, or none (default: what is there of "
        "rank_sum)",
    )
    output = fit.add_argument_group("output")
    output.add_argument("--workdir", metavar="DIR", default=".", help="folder for settings and predictions (default .)")
    output.add_argument("--no-plot", action="store_true", help="draw no figure")


def add_space_flags(group: Any) -> None:
    """Add --space and --config, which files of eproxy make unnecessary."""
    group.add_argument("--space", metavar="NAME", help="search space (default: that of the files)")
    group.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="configuration file, for sizes or a space of your own"
    )


def add_choice_flags(group: Any) -> None:
    """Add --leave-out and --no-graph-counts."""
    group.add_argument(
        "--leave-out", metavar="NAME", nargs="+", default=[], help="columns to leave out, also as '*.time'"
    )
    group.add_argument("--no-graph-counts", action="store_true", help="leave counts in the graph out")


def space_of(arguments: argparse.Namespace, overrides: Sequence[str]) -> SearchSpace:
    """Return the search space of --space or --config, or that of the files of --columns."""
    from eproxy_jax.runs import gathering

    if arguments.space is not None and arguments.config is not None:
        raise UsageError("give one of --space NAME and --config FILE")
    if overrides and arguments.config is None:
        raise UsageError("--config.FIELD=VALUE overrides need --config FILE")
    if "-" in arguments.columns:
        raise UsageError("--columns: standard input has no record beside it: name files")
    if arguments.space is None and arguments.config is None:
        return gathering.space_of_files(arguments.columns)
    return common.space_of(arguments, overrides)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    _check_choices(arguments)
    from eproxy_jax import files, runs
    from eproxy_jax.runs import fitting, outputs, printed

    space = space_of(arguments, overrides)
    workdir = files.folder(arguments.workdir)
    written, figure = fitting.written_files(workdir), workdir / "fit.png"
    common.check_outputs(arguments, [*written, *([] if arguments.no_plot else [figure])])
    if not arguments.no_plot:
        outputs.check_figure(figure, written[0])
    truth, labels = (_values(arguments, path, space) for path in (arguments.truth, arguments.labels))
    measured = [(path, one.column) for path, one in ((arguments.truth, truth), (arguments.labels, labels)) if one]
    gathered = common.gather_columns(arguments, space, {Path(path): column for path, column in measured if path != "-"})
    result = runs.fit(
        gathered,
        truth,
        labels,
        num_labels=arguments.num_labels or 20,
        seed=arguments.seed,
        method=arguments.method,
        prior=_prior(arguments.prior),
        workdir=workdir,
        command=common.command_line(),
    )
    fitted = result.saved.fitted
    print(f"{len(gathered.columns)} architectures, {len(fitted.names)} columns, {len(fitted.labels)} labels")
    print(f"leave-one-out, weight of the prior {fitted.prior_weight:.2f}:")
    print(printed.quality_table({"left out": fitted.quality}))
    print()
    if result.quality:
        print("held-out architectures:")
        print(printed.quality_table(result.quality))
    else:
        print("no held-out architectures: --truth FILE of 3 or more that are no labels compares with simpler rankings")
    print()
    print(f"settings:    {written[0]}  (eproxy score --settings)")
    print(f"predictions: {written[1]}")
    if result.quality and not arguments.no_plot:
        title = f"{space.name}, {len(fitted.labels)} labels, {fitted.method}"
        rows = {"left-out labels": fitted.quality, **result.quality}
        print(common.draw(figure, lambda: printed.quality_plot(figure, rows, title, written[0])))
    return 0


def _check_choices(arguments: argparse.Namespace) -> None:
    if arguments.truth is None and arguments.labels is None:
        raise UsageError("give measured values by --truth FILE, or labels by --labels FILE")
    if arguments.labels is not None and arguments.num_labels is not None:
        raise UsageError("--num-labels draws labels from --truth; with --labels FILE the file says which")
    if arguments.truth == "-" and arguments.labels == "-":
        raise UsageError("--truth and --labels: standard input can be read once; name a file")


def _values(arguments: argparse.Namespace, path: str | None, space: SearchSpace) -> Any:
    if path is None:
        return None
    truth = common.read_truth(arguments, path, space)
    common.announce_truth(truth)
    return truth


def _prior(text: str | None) -> str | list[str] | None:
    if text is None:
        return "auto"
    if text == "none":
        return None
    return [name.strip() for name in text.split(",") if name.strip()] if "," in text else text
