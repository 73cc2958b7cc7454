"""This module lays out what fits and searches found: settings in words, their quality, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eproxy_jax.errors import quoted
from eproxy_jax.fits.fitted import Fitted
from eproxy_jax.report import figures, words
from eproxy_jax.report.blocks import NONE, QUALITY, Block, Cell, Header, Section, Table, Text, number, short
from eproxy_jax.report.reading import Source


def found(sources: Sequence[Source]) -> Section:
    """Lay out fits, and settings of Discrete Proxy Search: in words, and their quality."""
    blocks: list[Block] = []
    for source in sources:
        if source.kind == "fit":
            blocks += _fit(source)
        elif source.kind == "dps":
            try:
                said = words.of_proxy(source.record["settings"])
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:
                raise ValueError(f"{source.path}: settings: {error}") from error
            blocks.append(Text((f"{source.label}: settings that Discrete Proxy Search found.", *said), is_list=True))
            if table := _record_table(source.record.get("evaluation"), f"{source.label}: on held-out architectures."):
                blocks.append(table)
    return Section("found", "Settings and fits", tuple(blocks))


def _fit(source: Source) -> list[Block]:
    try:
        fit = Fitted.from_dict(source.more["model"])
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error
    found: list[Block] = [Text((f"{source.label}: a fit of {source.space[0]}.", *words.of_fit(fit)), is_list=True)]
    rows = {"left-out labels": source.record.get("leave_one_out"), **source.record.get("quality", {})}
    if table := _record_table(
        {name: row for name, row in rows.items() if row}, f"{source.label}: on labels left out, and held out."
    ):
        found.append(table)
    return found


def _record_table(rows: Any, caption: str) -> Table | None:
    """Return the table of rank qualities that a record holds; None if it holds none."""
    if not isinstance(rows, dict) or not rows:
        return None
    fields = ("spearman", "kendall_tau", "top_precision", "ndcg", "regret")
    cells = []
    for name, row in rows.items():
        values = [row.get(field) if isinstance(row, dict) else None for field in fields]
        count = row.get("count") if isinstance(row, dict) else None
        good = [value if isinstance(value, (int, float)) else math.nan for value in values]
        cells.append((
            Cell(name, name), *(number(value, ".2f" if i == 2 else ".3f") for i, value in enumerate(good)),
            number(count, ",d") if isinstance(count, int) else NONE,
        ))  # fmt: skip
    return Table(caption, (Header("ranking"), *QUALITY[:5], QUALITY[6]), tuple(cells))


def searches(sources: Sequence[Source]) -> Section:
    """Lay out the best so far of searches of architectures and of settings, and what they found."""
    blocks: list[Block] = []
    queries = [source for source in sources if source.kind == "search" and source.record["history"]]
    if queries:
        series = {source.label: _so_far(source.record["history"]) for source in queries}
        archs = {
            source.label: [row["arch"] for row in source.record["history"] if row["best"] is not None]
            for source in queries
        }
        caption = "Best measured value so far against queries; each point is the network that was asked for."
        blocks.append(figures.lines(
            "queries", caption, series, "queries", "best so far", is_step=True, archs=archs, integers=True
        ))  # fmt: skip
        blocks += [table for source in queries if (table := _top_of_search(source)) is not None]
    tried = [source for source in sources if source.kind == "dps"]
    if tried:
        series = {
            f"{source.label}, {kind}": _best_fitness([row["fitness"] for row in rows])
            for source in tried
            for kind, rows in source.record["history"].items()
        }
        caption = "Best fitness so far (Spearman on the labelled architectures) against settings tried."
        blocks.append(figures.lines(
            "fitness", caption, series, "settings tried", "best fitness so far", is_step=True, integers=True
        ))  # fmt: skip
    return Section("searches", "Searches", tuple(blocks))


def _so_far(history: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(i, row["best"]) for i, row in enumerate(history, start=1) if row["best"] is not None]


def _best_fitness(values: Sequence[float | None]) -> list[tuple[float, float]]:
    best, found = -math.inf, []
    for i, value in enumerate(values, start=1):
        best = best if value is None else max(best, value)
        if math.isfinite(best):
            found.append((float(i), best))
    return found


def _top_of_search(source: Source) -> Table | None:
    rows = source.record.get("front") or source.record.get("top")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "arch" in row for row in rows):
        return None
    names = [name for name in rows[0] if name != "arch"]
    cells = tuple(
        (Cell(str(row["arch"]), str(row["arch"]), is_code=True), *(_any(row.get(name)) for name in names))
        for row in rows
    )
    what = "the front" if source.record.get("front") else "the best that were measured"
    headers = (Header("architecture"), *(Header(name, True) for name in names))
    return Table(f"{source.label}: {what}.", headers, cells, limit=15)


def _any(value: Any) -> Cell:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Cell(short(value), float(value))
    return Cell("-" if value is None else quoted(value))
