"""``eproxy suggest`` prints the architectures to measure, with an empty place for each value."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import common, fit
from eproxy_jax.cli.common import UsageError

if TYPE_CHECKING:
    from eproxy_jax.runs import Gathered
    from eproxy_jax.spaces import SearchSpace

_EPILOG = """\
examples:
  eproxy suggest --columns runs/cheap/columns.jsonl --num-labels 20 > twenty.csv
  eproxy suggest --space nasbench201 --all --num-labels 20 --json
  eproxy suggest --columns runs/cheap/columns.jsonl --truth twenty.csv --settings runs/fit/settings.json --by top

Fill in the column "value"; the file is then one for --labels or --truth. Architectures of --truth that have a value are
left out, and so are disconnected ones. Without --columns, only sizes and graph counts tell architectures apart.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    parser = common.add_command(commands, "suggest", "suggest which architectures to measure", _EPILOG)
    columns = parser.add_argument_group("columns")
    columns.add_argument("--columns", metavar="FILE", nargs="+", default=[], help="files of columns, see eproxy fit")
    fit.add_space_flags(columns)
    fit.add_choice_flags(columns)
    common.add_arch_flags(parser)
    which = parser.add_argument_group("which to suggest")
    which.add_argument("--num-labels", type=common.positive, default=20, metavar="M", help="how many (default 20)")
    which.add_argument(
        "--by", default="diverse", metavar="WAY", help="diverse (default), or top: good ones that differ"
    )
    which.add_argument(
        "--keep", type=float, default=1.0, metavar="SHARE", help="choose from this share, the best ones (default 1)"
    )
    which.add_argument("--settings", metavar="FILE", help="a fit of eproxy fit, which says what is good")
    common.add_truth_flags(which)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of CSV")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.check_archs(arguments)
    common.check_truth(arguments)
    from eproxy_jax.fits.suggest import suggest
    from eproxy_jax.progress import announce
    from eproxy_jax.runs import gathering, saved_fits

    gathered = _gathered(arguments, overrides)
    space, columns = gathered.space, gathered.columns
    measured: set[str] = set()
    if arguments.truth is not None:
        truth = common.read_truth(arguments, arguments.truth, space)
        common.announce_truth(truth)
        measured |= {space.format(space.canonical(arch)) for arch in truth}
    fitted = None
    if arguments.settings is not None:
        saved = saved_fits.load(arguments.settings)
        known = {name: value for name, value in saved.made_with.items() if name in gathered.made_with}
        gathering.check_same(arguments.settings, known, gathered.made_with)
        fitted = saved.fitted
        measured |= set(fitted.archs)
    chosen = suggest(
        columns, arguments.num_labels, arguments.by, measured, fitted, keep=arguments.keep, seed=arguments.seed
    )
    if arguments.by == "top" and not measured:
        announce("labels of good architectures alone make a poor fit: measure as many of --by diverse as well")
    if arguments.json:
        for arch in chosen:
            print(json.dumps({"arch": arch, "value": None}))
        return 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([("arch", "value"), *((arch, "") for arch in chosen)])
    return 0


def _gathered(arguments: argparse.Namespace, overrides: Sequence[str]) -> Gathered:
    """Return the columns of the files, or those that the space gives to the architectures of the flags."""
    from eproxy_jax.runs import gathering

    if not arguments.columns:
        common.check_source(arguments, overrides)
        space = common.space_of(arguments, overrides)
        return gathering.of_space(space, _archs(arguments, space), not arguments.no_graph_counts)
    listed = {"--archs": arguments.archs, "--sample": arguments.sample, "--all": arguments.all}
    if given := [flag for flag, value in listed.items() if value]:
        raise UsageError(f"{given[0]}: the files of --columns say which architectures there are: leave it out")
    space = fit.space_of(arguments, overrides)
    return common.gather_columns(arguments, space)


def _archs(arguments: argparse.Namespace, space: SearchSpace) -> list[Any]:
    if arguments.archs is None and arguments.sample is None and not arguments.all:
        raise UsageError("give columns by --columns FILE, or architectures by --archs FILE, --sample N or --all")
    return common.architectures(arguments, space)
