"""This module keeps a search on disk: an append-only file of asks and tells, a record of the answer, a figure.

* ``search.jsonl``: the first line says what the search is; then a line for each ask, each tell, and each time that
  candidates or dear columns are added
* ``result.json``: the best architecture, the top, the front, the history, what waits for a value
* ``result.png``: the best so far against queries; of several objectives the front as well

A killed search, started again, asks for what it would have asked for.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax import files, search
from eproxy_jax.errors import check_known, listed, one_line, quoted
from eproxy_jax.fits.columns import Columns
from eproxy_jax.jsonlines import ANOTHER_OUT, HeadedLines, as_json, fingerprint
from eproxy_jax.runs import archs as archs_lib
from eproxy_jax.runs import contents, outputs
from eproxy_jax.runs.entries import VALUE
from eproxy_jax.runs.session import versions
from eproxy_jax.search.acquisition import AUTO, label_free
from eproxy_jax.search.state import GROW, SUPPLY, Result, State, ask_row, columns_row, tell_row
from eproxy_jax.spaces import SearchSpace

WHAT = "file of a search"
MARK = "search"
_KIND = "eproxy_search"
_FAILED = re.compile(r"(?<![a-z])(?:nan|failed)(?![a-z])", re.IGNORECASE)
_EVERY = 10  # measurements, after which a large space is explored again
_AT_ONCE = 16  # candidates that get dear columns at a time
_LINE = re.compile(r":(\d+)$")


class SearchFile(HeadedLines):
    """The file of a search.

    Args:
      path: the file; its folder is made.
      start: the beginning of the search.
      truth: fingerprint of the table that answers; None if a person does.
      more: what the search depends on besides, as plain data.

    Attributes:
      state: the search as far as the file goes.
      mark: fingerprint of the search.

    Raises:
      ValueError: another process is writing the file, it is of another search (the message says what differs), or it
        holds what this search cannot have asked for.
      OSError: the file cannot be written.
    """

    def __init__(self, path: Path, start: State, truth: str | None = None, more: Mapping[str, Any] | None = None):
        identity = json.loads(json.dumps({**start.identity(), "truth": truth, **(more or {})}))
        self.mark = fingerprint(identity)

        def differs(other: dict[str, Any]) -> str:
            found = {name: value for name, value in other.items() if name != _KIND}
            what = listed(outputs.differences(identity, found), 4)
            return f"{path}: another search: {what or 'other inputs'}: {ANOTHER_OUT}"

        super().__init__(path, WHAT, {_KIND: self.mark, **identity}, differs)
        self.state = start
        try:
            for line, row in enumerate(self.rows, start=2):
                try:
                    self.state = search.replay(self.state, [row])
                except ValueError as error:
                    what = str(error).removeprefix("row 1: ")
                    raise ValueError(f"{self.path}:{line}: {what}: {ANOTHER_OUT}") from error
        except BaseException:
            self.close()
            raise

    def ask(self, n: int) -> tuple[str, ...]:
        """Ask for architectures; they are in the file before they are returned."""
        archs, state = search.ask(self.state, n)
        self.append([json.dumps(ask_row(archs))])
        self.state = state
        return archs

    def tell(self, archs: Sequence[Any], values: Any) -> None:
        """Tell values of architectures that were asked for."""
        state = search.tell(self.state, archs, values)
        told = state.told[len(self.state.told) :]
        self.append([json.dumps(tell_row([state.problem.spelling(one.key) for one in told], told))])
        self.state = state

    def supply(self, columns: Columns) -> None:
        """Add dear columns of some candidates."""
        state = search.supply(self.state, columns)
        self.append([json.dumps(columns_row(SUPPLY, columns))])
        self.state = state

    def explore(self, columns_of: Callable[[Sequence[str]], Columns], num: int) -> None:
        """Add candidates that the search expects much of."""
        before = len(self.state.problem.keys)
        columns = search.explore(self.state, columns_of, num).problem.columns
        assert columns is not None
        new = columns.rows(columns.archs[before:])
        self.append([json.dumps(columns_row(GROW, new))])
        self.state = search.grow(self.state, new)


@dataclasses.dataclass(frozen=True)
class Growing:
    """How a search comes to know more before it asks: candidates of a space too large to list, dear columns.

    Attributes:
      columns_of: function of architectures -> the columns that all candidates have; None if the list is fixed.
      pool: how many candidates a search begins with; half of them are random.
      dear_of: function of architectures -> their dear columns; None without a cascade.
      share: largest share of the candidates that get dear columns.
    """

    columns_of: Callable[[Sequence[Any]], Columns] | None = None
    pool: int = 0
    dear_of: Callable[[Sequence[Any]], Columns] | None = None
    share: float = 1.0

    def before_ask(self, file: SearchFile) -> None:
        """Add what the next ask should know; a killed search adds the same again."""
        state = file.state
        if self.columns_of is not None:
            learns = state.strategy.name == "process"
            if state.grown < 1 + learns * (len(state.measured) // _EVERY):
                file.explore(self.columns_of, self.pool // 2 if not state.grown else max(self.pool // 5, 1))
        if self.dear_of is not None:
            most = math.ceil(self.share * int(file.state.problem.feasible.sum()))
            while wanted := search.wanting(file.state, _AT_ONCE, most):
                file.supply(self.dear_of(wanted))


# --- values ----------------------------------------------------------------------------------------------------


def read_results(
    path: str | Path, space: SearchSpace, column: str | None = None, dataset: str | None = None
) -> list[tuple[str, float]]:
    """Read measured values that a person wrote beside architectures.

    A row without a value still waits for it; one that says ``nan`` or ``failed`` is a failed training.

    Args:
      path: a file in any form that ``archs.read_archs`` reads.
      space: the search space.
      column: name of the value, if the file has several.
      dataset: which data set, of a file that holds several.

    Returns:
      (architecture, value) by row; NaN if the training failed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no architectures, no value, or several columns without a choice.
    """
    name, text = contents.name_of(path), contents.read_text(path)
    header = next(csv.reader(io.StringIO(text)), [])
    if "arch" in header and (chosen := column or VALUE) in header:  # as ``eproxy search --ask`` prints it
        found = list(_filled_in(text, name, space, chosen))
    else:
        found = _beside(path, text.split("\n"), name, space, column, dataset)
    if not found:
        raise ValueError(f"{name}: no architecture has a value yet: write them into the file first")
    return found


def _filled_in(text: str, name: str, space: SearchSpace, column: str) -> Iterator[tuple[str, float]]:
    """Yield the rows of a CSV with a header that have a value; the first of them may be anywhere."""
    reader = csv.DictReader(io.StringIO(text))
    for row in reader:
        where, cell = f"{name}:{reader.line_num}", (row[column] or "").strip()
        if not cell:
            continue
        try:
            arch = space.format(space.parse(row["arch"]))
            value = math.nan if _FAILED.fullmatch(cell) else float(cell)
        except ValueError as error:
            raise ValueError(f"{where}: {one_line(error, 300)}") from error
        yield arch, value


def _beside(
    path: str | Path, lines: Sequence[str], name: str, space: SearchSpace, column: str | None, dataset: str | None
) -> list[tuple[str, float]]:
    """Return the rows of any other file that have a value, or say that the training failed."""
    records = archs_lib.read_archs(path, space, dataset)
    names = list(dict.fromkeys(name for record in records for name in record.values))
    if column is not None:
        check_known([column], names, name, "column")
    elif len(names) > 1 and VALUE not in names:
        raise ValueError(f"{name}: several columns of values: {listed(names)}; choose one with --truth-column")
    chosen = column or (VALUE if VALUE in names or not names else names[0])
    found = []
    for record in records:
        where = _LINE.search(record.where)
        failed = where is not None and _FAILED.search(lines[int(where[1]) - 1]) is not None
        if chosen in record.values or failed:
            found.append((space.format(record.arch), record.values.get(chosen, math.nan)))
    return found


def new_results(state: State, results: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the rows that were not told yet: a file that grows may be told again and again.

    Raises:
      ValueError: an architecture cannot be read.
    """
    told = collections.Counter((one.key, repr(one.values[0])) for one in state.told)
    found = []
    for arch, value in results:
        one = state.problem.key(arch), repr(float(value))
        if told[one]:
            told[one] -= 1
        else:
            found.append((arch, value))
    return found


def truth_mark(values: Mapping[str, float]) -> str:
    """Return a fingerprint of the values that a table answers."""
    return hashlib.blake2b(repr(sorted(values.items())).encode(), digest_size=6).hexdigest()


def play(
    file: SearchFile,
    values: Mapping[str, float],
    num_evaluations: int,
    progress: Callable[[State], None] | None = None,
    growing: Growing = Growing(),
) -> None:
    """Let a table answer until so many architectures have been asked for, or none is left.

    Args:
      file: the search.
      values: a value for every key that may be asked for; NaN if the table has none.
      num_evaluations: queries, those of earlier sessions included.
      progress: called with the state after each query.
      growing: how the search comes to know more before it asks.
    """
    if pending := file.state.pending:  # a kill came between the two lines
        file.tell(pending, [values.get(file.state.problem.key(arch), math.nan) for arch in pending])
    while len(file.state.asked) < num_evaluations:
        growing.before_ask(file)
        problem = file.state.problem
        if problem.columns is not None and len(file.state.asked) >= int(problem.feasible.sum()):
            break
        archs = file.ask(1)
        file.tell(archs, [values.get(problem.key(arch), math.nan) for arch in archs])
        if progress is not None:
            progress(file.state)


# --- the answer --------------------------------------------------------------------------------------------------


def described(state: State, result: Result) -> dict[str, Any]:
    """Return an architecture with its value, sizes, and the numbers of constraints and objectives."""
    problem = state.problem
    measured = dict(zip((one.name for one in problem.measured), result.values or (), strict=False))
    return {"arch": result.arch, **measured, **_known(state, result.key)}


def _known(state: State, key: str) -> dict[str, Any]:
    problem = state.problem
    macs, params = problem.space.full_sizes(problem.space.parse(key))
    names = [one.name for one in problem.objectives if not one.measured] + [bound.name for bound in problem.bounds]
    extra = {name: problem.known_of(key, name) for name in dict.fromkeys(names) if name not in ("macs", "params")}
    return {"macs": int(macs), "params": int(params), **extra}


def ranked_rows(state: State, top: int) -> list[dict[str, Any]]:
    """Return the best candidates by the label-free sum of ranks, with its normal score; none for a whole space."""
    problem = state.problem
    if problem.columns is None:
        return []
    prior = getattr(state.strategy, "prior", AUTO)
    free = label_free(problem, prior)
    return [
        {"arch": problem.columns.archs[row], "score": float(free.normal[row]), **_known(state, problem.keys[row])}
        for row in (free.order[:top].tolist() if free.names else [])
    ]


def record_of(state: State, mark: str, top: int, command: str | None) -> dict[str, Any]:
    """Return the content of ``result.json``.

    Args:
      state: the search.
      mark: its fingerprint.
      top: how many of the best to list.
      command: the command that started it.
    """
    sign = state.problem.measured[0].sign
    measured = sorted(state.measured, key=lambda one: -sign * (one.values or (0.0,))[0])
    top_rows = [described(state, one) for one in measured[:top]]
    ranking = ranked_rows(state, top)
    best = top_rows[0] if top_rows else (ranking[0] if ranking else None)
    problem = state.problem
    return {
        MARK: mark,
        **{name: value for name, value in state.identity().items() if name != "columns"},
        "candidates": None if problem.columns is None else int(problem.feasible.sum()),
        "with_dear_columns": None if state.dear is None else len(state.dear),
        "queries": len(state.asked) - len(state.pending),
        "failed": [one.arch for one in state.results if one.failed],
        "pending": list(state.pending),
        "best": best,
        "best_is": "measured" if top_rows else "ranked by proxy alone",
        "top": top_rows,
        "front": [described(state, one) for one in state.front] if len(problem.objectives) > 1 else None,
        "ranking": ranking,
        "history": _history(state),
        "command": command,
        "versions": versions(),
    }


def _history(state: State) -> list[dict[str, Any]]:
    """Return one row a finished query: its value, null if it failed, and the best so far."""
    sign, best, rows = state.problem.measured[0].sign, None, []
    for one in state.results:
        if one.values is None and not one.failed:
            continue
        value = None if one.values is None else one.values[0]
        if value is not None and (best is None or sign * value > sign * best):
            best = value
        rows.append({"arch": one.arch, "value": value, "best": best})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of equal keys as text, the architecture last."""
    names = [name for name in rows[0] if name != "arch"]
    cells = [[_cell(row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    lines = [
        "  ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True)) for line in [names, *cells]
    ]
    return "\n".join(f"{line}  {arch}" for line, arch in zip(lines, ["arch", *(r["arch"] for r in rows)], strict=True))


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def written_files(workdir: Path) -> list[Path]:
    """Return the files that a search writes: its steps, its result, its figure."""
    return [workdir / name for name in ("search.jsonl", "result.json", "result.png")]


def check_outputs(workdir: Path, plots: bool) -> None:
    """Check that no file of somebody else would be replaced.

    Raises:
      ValueError: one would be.
    """
    _, result, figure = written_files(workdir)
    if files.writable(result).exists():
        try:
            held = json.loads(files.read_text(result, "result"))
        except (ValueError, RecursionError):
            held = None
        if not isinstance(held, dict) or MARK not in held:
            raise ValueError(f"{result}: not a result of eproxy search, and left as it is: {outputs.ELSEWHERE}")
    if plots:
        outputs.check_figure(figure, result)


def write_result(workdir: Path, record: Mapping[str, Any]) -> None:
    """Write ``result.json`` as a whole; null stands for what is no number."""
    files.write_atomically(written_files(workdir)[1], as_json(record, indent=1))


def plot(workdir: Path, state: State, title: str) -> None:
    """Draw the values of queries and the best so far; of several objectives, the first two and their front as well.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _, source, path = written_files(workdir)
    rows, objectives = _history(state), state.problem.objectives
    several = len(objectives) > 1
    figure = Figure(figsize=(10.0 if several else 6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1 + several, 1)
    queries = np.arange(1, len(rows) + 1)
    axes.plot(queries, [np.nan if row["value"] is None else row["value"] for row in rows], ".", alpha=0.4)
    axes.plot(queries, [np.nan if row["best"] is None else row["best"] for row in rows], label="best so far")
    axes.set_xlabel("queries")
    axes.set_ylabel(state.problem.measured[0].name)
    axes.legend()
    axes.set_title(title, fontsize=10)
    if several:
        values = state.objective_values() * [one.sign for one in objectives]
        keys = [one.key for one in state.measured]
        front = [keys.index(one.key) for one in state.front]
        axes = figure.add_subplot(1, 2, 2)
        axes.plot(values[:, 1], values[:, 0], ".", alpha=0.4)
        axes.plot(values[front, 1], values[front, 0], "o-", label="front")
        axes.set_xlabel(objectives[1].name)
        axes.set_ylabel(objectives[0].name)
        axes.legend()
    outputs.write_figure(path, source, lambda file, texts: figure.savefig(file, dpi=120, format="png", metadata=texts))


def known_values(state: State, truth: Mapping[Any, float]) -> dict[str, float]:
    """Return the values of a table by key: the mean over all spellings of a function, unless the key itself is there.

    Raises:
      ValueError: the table has no value of any candidate.
    """
    problem = state.problem
    sums: dict[str, list[float]] = {}
    for arch, value in truth.items():
        sums.setdefault(problem.space.format(problem.space.canonical(arch)), []).append(value)
    found = {key: float(np.mean(own)) for key, own in sums.items()}
    for arch, value in truth.items():
        if (text := problem.space.format(arch)) in found:
            found[text] = value
    if problem.columns is not None and not any(key in found for key in problem.keys):
        some = next(iter(truth), None)
        raise ValueError(f"none of the candidates has a measured value; the first measured is {quoted(some)}")
    return found
