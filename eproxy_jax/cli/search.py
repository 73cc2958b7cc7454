"""``eproxy search`` finds the best architecture with few measurements: by proxy, against a table, or step by step."""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import common, fit
from eproxy_jax.cli.common import UsageError

if TYPE_CHECKING:
    from eproxy_jax.runs.searching import SearchFile
    from eproxy_jax.search import State
    from eproxy_jax.spaces import SearchSpace

_EPILOG = """\
examples:
  eproxy search --space nasbench201 --columns runs/cheap/columns.jsonl --max-macs 1e8 --workdir runs/s
  eproxy search --columns runs/cheap/columns.jsonl --truth accuracy.json --num-evaluations 50 --workdir runs/played
  eproxy search --columns runs/cheap/columns.jsonl --ask 4 --workdir runs/mine > four.csv
  eproxy search --columns runs/cheap/columns.jsonl --tell four.csv --ask 4 --workdir runs/mine > next.csv
  eproxy search --columns runs/cheap/columns.jsonl hw.csv --minimize hw:latency --max hw:latency=5 --workdir runs/front

Without --truth, --ask and --tell nothing is measured, and the best is that of a label-free ranking. --ask prints a
CSV: train these, write each value beside its architecture, "nan" where the training failed, and --tell the file. Rows
without a value wait; rows that were told before are told once. A killed search, started again with the same flags,
resumes.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    search = common.add_command(commands, "search", "find the best architecture with few measurements", _EPILOG)
    which = search.add_argument_group("candidates")
    which.add_argument("--columns", metavar="FILE", nargs="+", default=[], help="files of columns, see eproxy fit")
    fit.add_space_flags(which)
    fit.add_choice_flags(which)
    which.add_argument("--archs", metavar="FILE", help="without --columns: a file of candidates")
    which.add_argument("--sample", type=common.positive, metavar="N", help="without --columns: N random candidates")
    which.add_argument("--all", action="store_true", help="without --columns: the whole space, listed")
    which.add_argument("--limit", type=common.positive, metavar="N", help="a random subset of N of --archs or --all")
    wanted = search.add_argument_group("what is wanted")
    wanted.add_argument("--max-macs", type=_number, metavar="M", help="of the network that is trained in earnest")
    wanted.add_argument("--max-params", type=_number, metavar="M", help="of the network that is trained in earnest")
    wanted.add_argument(
        "--max", type=_named, action="append", default=[], metavar="COLUMN=X", help="largest value of any column"
    )
    wanted.add_argument(
        "--min", type=_named, action="append", default=[], metavar="COLUMN=X", help="smallest value of any column"
    )
    wanted.add_argument(
        "--minimize",
        action="append",
        default=[],
        metavar="NAME",
        help="a further objective: macs, params or a column; the answer is then a front",
    )
    measured = search.add_argument_group("measured values")
    common.add_truth_flags(measured)
    common.add_dataset_flag(measured)
    measured.add_argument(
        "--num-evaluations", type=common.positive, metavar="N", help="queries of --truth (default 50)"
    )
    measured.add_argument("--ask", type=common.positive, metavar="N", help="print N architectures to measure, as CSV")
    measured.add_argument("--tell", metavar="FILE", help="values of architectures that were asked for")
    how = search.add_argument_group("how")
    how.add_argument(
        "--strategy", default="process", metavar="NAME", help="process (default), evolution, random, by_proxy"
    )
    how.add_argument("--seed", type=common.seed, default=0, metavar="K", help="of all draws (default 0)")
    output = search.add_argument_group("output")
    output.add_argument("--workdir", metavar="DIR", default=".", help="folder of the search (default .)")
    output.add_argument("--top", type=common.positive, default=10, metavar="K", help="how many to list (default 10)")
    output.add_argument("--no-plot", action="store_true", help="draw no figure")


def _number(text: str) -> float:
    value = float(text)
    if math.isnan(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text}")
    return value


def _named(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"expected COLUMN=NUMBER, got {text}")
    return name, _number(value)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    _check_flags(arguments)
    from eproxy_jax import files
    from eproxy_jax.runs import outputs, searching

    space = _space(arguments, overrides)
    truth = None
    if arguments.truth is not None:
        truth = common.read_truth(arguments, arguments.truth, space)
        common.announce_truth(truth)
    columns = _candidates(arguments, space, truth)
    start = _start(arguments, space, columns)
    values = None
    if truth is not None:
        sign = start.problem.measured[0].sign  # the file holds values as the table has them
        values = {key: sign * value for key, value in searching.known_values(start, truth).items()}
    told = None
    if arguments.tell is not None:
        told = searching.read_results(arguments.tell, space, arguments.truth_column, arguments.dataset)
    workdir = files.folder(arguments.workdir)
    written = searching.written_files(workdir)
    common.check_outputs(arguments, written[: 2 if arguments.no_plot else 3])
    message = f"{workdir}: another search is running in this folder: wait for it, or choose another --workdir"
    with files.locked_folder(workdir, message):
        searching.check_outputs(workdir, not arguments.no_plot)
        file = searching.SearchFile(written[0], start, None if values is None else searching.truth_mark(values))
        try:
            outputs.check_marked(written[1], searching.MARK, file.mark)
            asked = _step(arguments, file, values, told)
            record = searching.record_of(file.state, file.mark, arguments.top, common.command_line())
            searching.write_result(workdir, record)
            _report(arguments, workdir, file.state, record, asked)
        finally:
            file.close()
    return 0


def _check_flags(arguments: argparse.Namespace) -> None:
    listed = {"--archs": arguments.archs, "--sample": arguments.sample, "--all": arguments.all}
    if arguments.columns and (given := [flag for flag, value in listed.items() if value]):
        raise UsageError(f"{given[0]}: the files of --columns say which architectures there are: leave it out")
    common.check_archs(arguments)
    if arguments.limit is not None and arguments.archs is None and not arguments.all:
        raise UsageError("--limit is for --archs and --all")
    if arguments.truth is not None and (arguments.ask is not None or arguments.tell is not None):
        raise UsageError("--truth answers every query itself: leave --ask and --tell out")
    if arguments.num_evaluations is not None and arguments.truth is None:
        raise UsageError("--num-evaluations counts the queries of --truth FILE: give one, or --ask N")
    if arguments.tell == "-":
        raise UsageError("--tell: standard input cannot be told twice: name a file")
    if arguments.tell is None:
        common.check_truth(arguments)


def _space(arguments: argparse.Namespace, overrides: Sequence[str]) -> SearchSpace:
    if arguments.columns:
        return fit.space_of(arguments, overrides)
    common.check_source(arguments, overrides)
    return common.space_of(arguments, overrides)


def _candidates(arguments: argparse.Namespace, space: SearchSpace, truth: Any) -> Any:
    """Return the columns of the candidates, those with values if a table answers; None searches the whole space."""
    from eproxy_jax.progress import announce
    from eproxy_jax.runs import gathering

    with_graph_counts = not arguments.no_graph_counts
    if arguments.columns:
        # A table may hold the values beside columns: what is asked for is no evidence.
        measured = {} if truth is None or arguments.truth == "-" else {Path(arguments.truth): truth.column}
        columns = gathering.gather(
            arguments.columns,
            space,
            with_graph_counts=with_graph_counts,
            dataset=arguments.dataset,
            leave_out=arguments.leave_out,
            values=measured,
        ).columns
    elif arguments.archs is not None or arguments.sample is not None or arguments.all:
        announce("without --columns, only sizes and graph counts tell candidates apart")
        archs = common.architectures(arguments, space)
        columns = gathering.of_space(space, archs, with_graph_counts).columns
    elif arguments.strategy in ("evolution", "random"):
        return None
    else:
        raise UsageError(
            "give columns by --columns FILE, candidates by --archs FILE, --sample N or --all, or --strategy evolution"
        )
    if truth is None:
        return columns
    known = {space.format(space.canonical(arch)) for arch in truth}
    kept = [arch for arch in columns.archs if arch in known]
    if not kept:
        raise UsageError(f"{truth.name}: none of the {len(columns):,} candidates has a value there")
    if len(kept) < len(columns):
        announce(f"{truth.name}: {len(kept):,} of the {len(columns):,} candidates have a value, and are searched")
    return columns.rows(kept)


def _start(arguments: argparse.Namespace, space: SearchSpace, columns: Any) -> State:
    from eproxy_jax import search
    from eproxy_jax.errors import check_known

    lows, highs = dict(arguments.min), dict(arguments.max)
    for name, value in (("macs", arguments.max_macs), ("params", arguments.max_params)):
        if value is not None:
            highs[name] = min(value, highs.get(name, math.inf))
    constraints = {name: (lows.get(name), highs.get(name)) for name in {**lows, **highs}}
    known = dict.fromkeys(["macs", "params", *(() if columns is None else columns.names)])
    check_known(arguments.minimize, known, "--minimize", "column")
    value = "-value" if arguments.lower_is_better else "value"
    return search.init(
        space,
        columns,
        arguments.strategy,
        objectives=[value, *(f"-{name}" for name in arguments.minimize)],
        constraints=constraints,
        seed=arguments.seed,
    )


def _step(arguments: argparse.Namespace, file: SearchFile, values: Any, told: Any) -> tuple[str, ...]:
    """Play, tell and ask as the flags say; returns what is asked for."""
    from eproxy_jax.progress import Progress, announce
    from eproxy_jax.runs import searching

    if values is not None:
        total = arguments.num_evaluations or 50
        with Progress(total, len(file.state.asked), unit="queries", after=2) as shown:

            def show(state: State) -> None:
                best, sign = state.best, state.problem.measured[0].sign
                value = None if best is None or best.values is None else sign * best.values[0]
                failed = len(state.results) - len(state.measured)
                shown.update(len(state.asked), None, f", {failed} failed" if failed else "", value)

            searching.play(file, values, total, show)
    if told is not None:
        new = searching.new_results(file.state, told)
        if new:
            file.tell([arch for arch, _ in new], [value for _, value in new])
        known = len(told) - len(new)
        announce(f"{len(new)} values told" + (f"; {known} were told before" if known else ""))
    return () if arguments.ask is None else file.ask(arguments.ask)


def _report(
    arguments: argparse.Namespace, workdir: Path, state: State, record: dict[str, Any], asked: tuple[str, ...]
) -> None:
    from eproxy_jax.progress import announce
    from eproxy_jax.runs import searching

    say = print
    if asked:  # standard output is the CSV
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([("arch", "value"), *((arch, "") for arch in asked)])
        say = announce
    elif rows := record["front"] or record["top"] or record["ranking"]:
        print("front:" if record["front"] else "measured:" if record["top"] else "ranked by proxy alone:")
        print(searching.table(rows))
        print()
    if not state.measured:
        say(common.UNCHECKED)
    say(f"{record['queries']} queries, {len(record['failed'])} failed, {len(record['pending'])} wait for a value")
    say(f"result:  {searching.written_files(workdir)[1]}")
    if state.measured and not arguments.no_plot:
        figure = searching.written_files(workdir)[2]
        title = f"{state.problem.space.name}, {state.strategy.name}"
        say(common.draw(figure, lambda: searching.plot(workdir, state, title)))
