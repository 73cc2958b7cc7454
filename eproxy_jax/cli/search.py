"""``eproxy search`` finds the best architecture with few measurements: by proxy, against a table, or step by step."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eproxy_jax.cli import common, fit, search_inputs
from eproxy_jax.cli.common import UsageError

if TYPE_CHECKING:
    from eproxy_jax.fits.columns import Columns
    from eproxy_jax.runs.searching import Growing, SearchFile
    from eproxy_jax.search import State
    from eproxy_jax.spaces import SearchSpace

_POOL = 200  # candidates of a space too large to list, before anything is measured
_THEN_SHARE = 0.25
_EPILOG = """\
examples:
  eproxy search --space nasbench201 --columns runs/cheap/columns.jsonl --max-macs 1e8 --workdir runs/s
  eproxy search --columns runs/cheap/columns.jsonl --truth accuracy.json --num-evaluations 50 --workdir runs/played
  eproxy search --columns runs/cheap/columns.jsonl --ask 4 --workdir runs/mine > four.csv
  eproxy search --columns runs/cheap/columns.jsonl --tell four.csv --ask 4 --workdir runs/mine > next.csv
  eproxy search --config configs/nasbench201.py:small --sample 300 --proxy rank_sum --then eproxy --truth accuracy.json
  eproxy search --config configs/nds.py:DARTS,small --proxy rank_sum --ask 4 --workdir runs/darts > four.csv
  eproxy search --columns runs/cheap/columns.jsonl --settings runs/fit/settings.json --workdir runs/fitted
  eproxy search --columns runs/cheap/columns.jsonl hw.csv --minimize hw:latency --max hw:latency=5 --workdir runs/front

Without --truth, --ask and --tell nothing is measured, and the best is that of --settings or of a label-free ranking.
--then computes dear columns as the search goes on, only of what can still win. A space too large to list, for which
neither --columns nor a list is given, is searched by evolution, which proposes the candidates. --ask prints a CSV:
train these, write each value beside its architecture, "nan" where the training failed, and --tell the file. Rows
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
    computed = search.add_argument_group("columns that the search computes, into files that resume")
    computed.add_argument("--proxy", metavar="NAME[,NAME...]", help="columns of all candidates, as of eproxy score")
    computed.add_argument("--settings", metavar="FILE", help="a fit of eproxy fit: its columns, and the prior")
    computed.add_argument(
        "--then", metavar="NAME[,NAME...]", help="dear columns, of what can still win: eproxy, eproxy:FILE, any proxy"
    )
    computed.add_argument(
        "--then-share", type=_share, metavar="S", help="largest share of candidates with dear columns (default 0.25)"
    )
    computed.add_argument(
        "--pool", type=common.positive, metavar="N", help="candidates to begin with, in a large space (default 200)"
    )
    computed.add_argument("--num-classes", type=common.positive, metavar="K", help="classes of the classifier")
    common.add_input_flags(computed)
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
    common.add_execution_flags(search)


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share in (0, 1], got {text}")
    return value


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


class _Candidates(NamedTuple):
    """What is searched.

    Attributes:
      columns: of the candidates; None for the whole space.
      prior: the columns that rank before anything is measured; None for the usual sum of ranks.
      growing: how the search comes to know more.
      more: what the search depends on besides its columns, as plain data.
    """

    columns: Columns | None
    prior: tuple[str, ...] | None
    growing: Growing
    more: dict[str, Any]


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
    workdir = files.folder(arguments.workdir)
    written = searching.written_files(workdir)
    common.check_outputs(arguments, [*written[: 2 if arguments.no_plot else 3], *search_inputs.written(workdir)])
    message = f"{workdir}: another search is running in this folder: wait for it, or choose another --workdir"
    with files.locked_folder(workdir, message):
        searching.check_outputs(workdir, not arguments.no_plot)
        found = _candidates(arguments, overrides, space, truth, workdir)
        start = _start(arguments, space, found)
        values = None
        if truth is not None:
            sign = start.problem.measured[0].sign  # the file holds values as the table has them
            values = {key: sign * value for key, value in searching.known_values(start, truth).items()}
        told = None
        if arguments.tell is not None:
            told = searching.read_results(arguments.tell, space, arguments.truth_column, arguments.dataset)
        mark = None if values is None else searching.truth_mark(values)
        file = searching.SearchFile(written[0], start, mark, found.more)
        try:
            outputs.check_marked(written[1], searching.MARK, file.mark)
            asked = _step(arguments, file, values, told, found.growing)
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
    if arguments.proxy is not None and arguments.columns:
        raise UsageError("--proxy computes the columns of all candidates, --columns reads them: give one of them")
    if arguments.then is None and arguments.then_share is not None:
        raise UsageError("--then-share is the largest share of candidates with the columns of --then: give these")
    if arguments.then is not None and arguments.strategy != "process":
        raise UsageError("--then: only --strategy process says what can still win")
    if arguments.then is not None and not (arguments.columns or arguments.proxy or arguments.settings):
        raise UsageError("--then: nothing cheap says what can still win: give --columns FILE, or --proxy rank_sum")
    if not (arguments.proxy or arguments.then or arguments.settings):
        for flag in ("images", "weight_seed", "num_classes"):
            if getattr(arguments, flag) is not None:
                raise UsageError(
                    f"--{flag.replace('_', '-')}: nothing is computed here: it goes with --proxy or --then"
                )


def _space(arguments: argparse.Namespace, overrides: Sequence[str]) -> SearchSpace:
    if arguments.columns and arguments.then is not None and arguments.space is None and arguments.config is None:
        raise UsageError("--then computes columns: name the --config of the files of --columns, for sizes and images")
    if arguments.columns:
        return fit.space_of(arguments, overrides)
    common.check_source(arguments, overrides)
    return common.space_of(arguments, overrides)


def _candidates(
    arguments: argparse.Namespace, overrides: Sequence[str], space: SearchSpace, truth: Any, workdir: Path
) -> _Candidates:
    """Return the candidates with their columns, those with values if a table answers."""
    from eproxy_jax.runs.search_columns import FITTED
    from eproxy_jax.runs.searching import Growing

    saved = search_inputs.saved_fit(arguments)
    sources = search_inputs.sources(arguments, overrides, space, workdir, saved)
    columns_of = sources.candidates(space, saved, not arguments.no_graph_counts)
    listed_ones = arguments.archs is not None or arguments.sample is not None or arguments.all
    whole = not (arguments.columns or listed_ones or arguments.proxy or saved)
    pool = arguments.pool or _POOL
    growing = Growing()
    if arguments.columns:
        columns = _of_files(arguments, space, truth, saved)
    elif listed_ones:
        columns = columns_of(common.architectures(arguments, space))
    elif whole and arguments.strategy in ("evolution", "random"):
        return _Candidates(None, None, growing, {})
    elif space.num_archs is not None:
        raise UsageError(
            "give columns by --columns FILE, candidates by --archs FILE, --sample N or --all, or --strategy evolution"
        )
    elif truth is not None:
        columns = columns_of([arch for arch in truth if space.is_connected(arch)])
    else:
        columns = columns_of(_first(arguments, space, pool - pool // 2))
        growing = Growing(columns_of, pool)
    if growing.columns_of is None and arguments.pool is not None:
        raise UsageError("--pool is for spaces too large to list: --columns, a list or --truth say what is searched")
    if columns is not None and truth is not None:
        columns = _measured(columns, space, truth)
    share = arguments.then_share or _THEN_SHARE
    growing = sources.growing(growing, columns, share)
    more = {"pool": pool} if growing.columns_of else {}
    more |= {"then": [*sources.dear, share]} if sources.dear else {}
    return _Candidates(columns, (FITTED,) if saved else None, growing, more)


def _of_files(arguments: argparse.Namespace, space: SearchSpace, truth: Any, saved: Any) -> Columns:
    from eproxy_jax.runs import gathering, search_columns

    # A table may hold the values beside columns: what is asked for is no evidence.
    measured = {} if truth is None or arguments.truth == "-" else {Path(arguments.truth): truth.column}
    gathered = common.gather_columns(arguments, space, measured)
    if saved is None:
        return gathered.columns
    known = {name: value for name, value in saved.made_with.items() if name in gathered.made_with}
    gathering.check_same(arguments.settings, known, gathered.made_with)
    return search_columns.with_fit(gathered.columns, saved)


def _measured(columns: Columns, space: SearchSpace, truth: Any) -> Columns:
    from eproxy_jax.progress import announce

    known = {space.format(space.canonical(arch)) for arch in truth}
    kept = [arch for arch in columns.archs if arch in known]
    if not kept:
        raise UsageError(f"{truth.name}: none of the {len(columns):,} candidates has a value there")
    if len(kept) < len(columns):
        announce(f"{truth.name}: {len(kept):,} of the {len(columns):,} candidates have a value, and are searched")
    return columns.rows(kept)


def _first(arguments: argparse.Namespace, space: SearchSpace, num: int) -> tuple[str, ...]:
    """Return random architectures of a large space that keep the constraints on sizes."""
    from eproxy_jax import search

    limits = {name: pair for name, pair in _limits(arguments).items() if name in ("macs", "params")}
    return search.ask(search.init(space, None, "random", constraints=limits, seed=arguments.seed), num)[0]


def _limits(arguments: argparse.Namespace) -> dict[str, tuple[float | None, float | None]]:
    lows, highs = dict(arguments.min), dict(arguments.max)
    for name, value in (("macs", arguments.max_macs), ("params", arguments.max_params)):
        if value is not None:
            highs[name] = min(value, highs.get(name, math.inf))
    return {name: (lows.get(name), highs.get(name)) for name in {**lows, **highs}}


def _start(arguments: argparse.Namespace, space: SearchSpace, found: _Candidates) -> State:
    from eproxy_jax import search
    from eproxy_jax.errors import check_known

    columns = found.columns
    known = dict.fromkeys(["macs", "params", *(() if columns is None else columns.names)])
    check_known(arguments.minimize, known, "--minimize", "column")
    value = "-value" if arguments.lower_is_better else "value"
    strategy = search.make_strategy(arguments.strategy)
    if found.prior is not None and isinstance(strategy, (search.Process, search.ByProxy)):
        strategy = dataclasses.replace(strategy, prior=found.prior)
    return search.init(
        space,
        columns,
        strategy,
        objectives=[value, *(f"-{name}" for name in arguments.minimize)],
        constraints=_limits(arguments),
        seed=arguments.seed,
    )


def _step(arguments: argparse.Namespace, file: SearchFile, values: Any, told: Any, growing: Growing) -> tuple[str, ...]:
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

            searching.play(file, values, total, show, growing)
    if told is not None:
        new = searching.new_results(file.state, told)
        if new:
            file.tell([arch for arch, _ in new], [value for _, value in new])
        known = len(told) - len(new)
        announce(f"{len(new)} values told" + (f"; {known} were told before" if known else ""))
    if arguments.ask is None:
        if values is None and told is None and growing.columns_of is not None:
            growing.before_ask(file)  # the best by proxy alone is one that evolution has found
        return ()
    if growing.columns_of is None and growing.dear_of is None:
        return file.ask(arguments.ask)
    asked: list[str] = []
    for _ in range(arguments.ask):
        growing.before_ask(file)
        asked += file.ask(1)
    return tuple(asked)


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
