"""This module lays out a page: which section shows what, each only where there is something to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eproxy_jax.progress import format_seconds
from eproxy_jax.ranks import RankQuality
from eproxy_jax.report import drawings, figures, numbers, outcomes
from eproxy_jax.report.blocks import (
    NONE,
    QUALITY,
    AllArchs,
    Block,
    Cell,
    Drawing,
    Drawings,
    Header,
    Page,
    Section,
    Table,
    Text,
    number,
    plain,
    short,
)
from eproxy_jax.report.evidence import MACS, PARAMS, Column, Evidence
from eproxy_jax.report.reading import KINDS, Source

TOP = 20
_MILLION = 1e6
_MOST_NUMBERS = 600_000  # of the table of a page


def page(
    evidence: Evidence,
    version: str,
    *,
    by: str | None = None,
    draws: int = 4,
    with_figures: bool = True,
    show: Callable[[int, int], object] | None = None,
) -> Page:
    """Lay a page out.

    Args:
      evidence: what is known.
      version: of this package.
      by: the column that orders lists; by default the best that is known without measured values.
      draws: draws of labels for each point of the label-efficiency curve; 0 leaves it out.
      with_figures: False leaves figures out.
      show: gets the fits that are done and those in all.
    """
    leading = evidence.best(by)
    quality = {task: numbers.qualities(evidence, task) for task in evidence.tasks}
    sections = [_runs(evidence.sources)]
    if quality:
        sections.append(_agreement(evidence, quality))
    if evidence.archs and leading is not None:
        sections += _of_archs(evidence, leading, quality, draws if with_figures else 0, show)
    sections += [outcomes.found(evidence.sources), outcomes.searches(evidence.sources)]
    if evidence.archs and leading is not None:
        sections.append(_all_archs(evidence, leading))
    shown = [_without_figures(one) if not with_figures else one for one in sections if one.blocks]
    title = f"Report on {evidence.space.name}"
    data = {} if leading is None else data_of(evidence, leading)
    return Page(title, _summary(evidence, quality), tuple(one for one in shown if one.blocks), data, version)


def _without_figures(section: Section) -> Section:
    kept = tuple(block for block in section.blocks if not isinstance(block, figures.Figure))
    return Section(section.name, section.title, kept)


def _summary(evidence: Evidence, quality: Mapping[str, Mapping[str, RankQuality]]) -> tuple[str, ...]:
    found = []
    if evidence.archs:
        found.append(
            f"{len(evidence.archs):,} architectures of {evidence.space.name}, {len(evidence.columns)} columns."
        )
    for task, rows in quality.items():
        found += [_best_of(evidence, task, rows)] if rows else []
    if evidence.archs and not quality:
        found.append("No measured values: nothing has checked the direction of any ranking.")
    return tuple(found)


def _best_of(evidence: Evidence, task: str, rows: Mapping[str, RankQuality]) -> str:
    """Return which column ranks a task best, beside MACs, which a proxy has to beat."""
    others = {name: row.spearman for name, row in rows.items() if evidence.columns[name].kind != "size"}
    macs = rows[MACS].spearman if MACS in rows else math.nan
    if not others:
        return f"On {task}, MACs alone have a Spearman of {macs:.3f}."
    best = max(others, key=lambda name: (math.isfinite(others[name]), others[name]))
    if macs >= others[best]:
        return f"On {task}, nothing beats MACs alone, Spearman {macs:.3f}; the next is {best}, {others[best]:.3f}."
    return f"On {task}, {best} ranks best: Spearman {others[best]:.3f}; MACs alone {macs:.3f}."


# --- what was run --------------------------------------------------------------------------------------------


def _runs(sources: Sequence[Source]) -> Section:
    headers = (
        Header("run"), Header("what"), Header("networks", True), Header("compile", about="time of compiling"),
        Header("run time", about="time of running"), Header("made with"), Header("command"),
    )  # fmt: skip
    rows = tuple(_run(source) for source in sources)
    return Section(
        "runs", "What was run", (Table("Each result of this page, and the command that made it.", headers, rows),)
    )


def _run(source: Source) -> tuple[Cell, ...]:
    record = source.record
    compiling, running = _seconds(record.get("seconds"))
    count = record.get("archs") or record.get("candidates") or record.get("evaluations")
    devices = record.get("devices")
    parts = [f"{len(devices)} x {record.get('platform', '')}"] if isinstance(devices, list) and devices else []
    versions = record.get("versions")
    parts += [f"{name} {one}" for name, one in versions.items()] if isinstance(versions, dict) else []
    made_with = ", ".join(parts) or "-"
    kind = KINDS[source.kind] + (", unfinished" if record.get("finished") is False else "")
    return (
        Cell(source.label, source.label),
        Cell(kind, kind),
        number(count, ",d") if isinstance(count, int) else NONE,
        NONE if compiling is None else Cell(format_seconds(compiling), compiling),
        NONE if running is None else Cell(format_seconds(running), running),
        Cell(made_with, made_with),
        Cell(str(record.get("command") or "-"), str(record.get("command")), is_code=True),
    )


def _seconds(seconds: Any) -> tuple[float | None, float | None]:
    """Return the seconds of compiling and of the rest, whatever the depth of a record's ``seconds``."""
    if not isinstance(seconds, dict):
        return None, None
    compiling = running = 0.0
    for name, value in seconds.items():
        if isinstance(value, dict):
            one, other = _seconds(value)
            compiling, running = compiling + (one or 0), running + (other or 0)
        elif isinstance(value, (int, float)) and math.isfinite(value):
            compiling, running = (compiling + value, running) if name == "compile" else (compiling, running + value)
    return compiling, running


# --- agreement -----------------------------------------------------------------------------------------------


def _agreement(evidence: Evidence, quality: Mapping[str, Mapping[str, RankQuality]]) -> Section:
    blocks: list[Block] = []
    if len(quality) > 1:
        blocks.append(_overview(evidence, quality))
    for task, rows in quality.items():
        cells = []
        for name, row in rows.items():
            column = evidence.columns[name]
            values = (row.spearman, row.kendall_tau, row.top_precision, row.ndcg, row.regret)
            cells.append((
                Cell(name, name), *(number(value, ".2f" if i == 2 else ".3f") for i, value in enumerate(values)),
                number(column.seconds, ".3g"), number(row.count, ",d"),
            ))  # fmt: skip
        caption = f"Each column against {task}."
        is_folded = any(isinstance(block, Table) for block in blocks[1:])
        blocks.append(Table(caption, (Header("column"), *QUALITY), tuple(cells), is_folded=is_folded))
    notes = [
        "Networks that diverged or are disconnected rank last. MACs and parameters as written stand there to compare."
    ]
    if any(column.labelled for column in evidence.columns.values()):
        notes.append("The labels of a fit are left out of its row.")
    return Section("agreement", "Agreement with measured values", (Text(tuple(notes)), *blocks))


def _overview(evidence: Evidence, quality: Mapping[str, Mapping[str, RankQuality]]) -> Table:
    rows = []
    for name, column in evidence.columns.items():
        own = [quality[task][name].spearman if name in quality[task] else math.nan for task in quality]
        mean = float(np.mean(own))
        rows.append((column.kind == "size", -mean if math.isfinite(mean) else math.inf, (
            Cell(name, name), *map(number, own), number(mean), number(column.seconds, ".3g"),
            number(int((~np.isnan(column.values)).sum()), ",d"),
        )))  # fmt: skip
    rows.sort(key=lambda one: one[:2])
    headers = (
        Header("column"), *(Header(task, True, f"Spearman with {task}") for task in quality),
        Header("mean", True, "mean over the tasks"), QUALITY[5],
        Header("networks", True, "architectures that the column is known of"),
    )  # fmt: skip
    return Table("Spearman of each column with each task.", headers, tuple(row for *_, row in rows))


# --- architectures -------------------------------------------------------------------------------------------


def _of_archs(
    evidence: Evidence,
    leading: Column,
    quality: Mapping[str, Mapping[str, RankQuality]],
    draws: int,
    show: Callable[[int, int], object] | None,
) -> list[Section]:
    ranked = list(next(iter(quality.values()))) if quality else []
    names = [*ranked, *(name for name in evidence.columns if name not in ranked)]
    sections = [_scatter(evidence, leading, names)]
    shown = [evidence.columns[name] for name in names]
    if len(shown) > 1:
        matrix = numbers.correlations(shown)
        about = Text(("Columns that agree say the same thing twice. Those of low correlation add to each other.",))
        sections.append(Section("correlations", "Columns against each other", (about, figures.heat_map(names, matrix))))
    sections += [
        _losses(evidence),
        _learning(evidence, draws, show),
        _top(evidence, leading),
        _front(evidence, leading),
    ]
    return sections


def _scatter(evidence: Evidence, leading: Column, names: Sequence[str]) -> Section:
    across = [*evidence.tasks, MACS, PARAMS]
    up = [*([leading.name] if not evidence.tasks else []), *names]
    figure = figures.scatter(across, list(dict.fromkeys(up)), len(evidence.archs))
    return Section("scatter", "Every architecture", (figure,))


def _losses(evidence: Evidence) -> Section:
    blocks: list[Block] = []
    task = next(iter(evidence.tasks), None)
    for name, losses in evidence.losses.items():
        colour = evidence.columns[MACS].values / _MILLION if task is None else evidence.tasks[task]
        figure = figures.loss_curves(evidence.archs, losses, colour, "MACs (M)" if task is None else task)
        blocks.append(figure if len(evidence.losses) == 1 else _renamed(figure, name, len(blocks)))
        if steps := numbers.by_step(evidence, losses):
            caption = f"Spearman of {name} with the measured values, if training stopped after each step."
            step_figure = figures.lines("steps", caption, steps, "training step", "Spearman", integers=True)
            blocks.append(step_figure if len(evidence.losses) == 1 else _renamed(step_figure, name, len(blocks)))
    return Section("losses", "Training losses", tuple(blocks))


def _renamed(figure: figures.Figure, name: str, place: int) -> figures.Figure:
    return figures.Figure(f"{figure.name}{place}", f"{name}: {figure.caption}", figure.spec, figure.wide)


def _learning(evidence: Evidence, draws: int, show: Callable[[int, int], object] | None) -> Section:
    blocks: list[Block] = []
    for task in evidence.tasks if draws else ():
        learned = numbers.learning(evidence, task, draws, show)
        if learned is None:
            continue
        spread = ", ".join(f"{count} labels ±{value:.3f}" for count, value in learned.spread.items())
        caption = (
            f"{task}: Spearman of a fit to a few labels on what is no label; mean of {learned.draws} draws, "
            f"{learned.num_archs:,} functions. Spread of one draw: {spread}. Dashed lines need no label."
        )
        series = {"fit": learned.points}
        blocks.append(figures.lines(
            f"labels{len(blocks)}", caption, series, "labels", "Spearman", levels=learned.levels, integers=True
        ))  # fmt: skip
    return Section("labels", "What labels bring", tuple(blocks))


def _top(evidence: Evidence, leading: Column) -> Section:
    order = ranking(leading)[:TOP]
    drawn, structure = [], None
    for place, i in enumerate(order, start=1):
        structure = evidence.space.structure(evidence.parsed[i])
        graphs = structure.graphs.items()
        svg = tuple((name, drawings.draw(graph, structure.ops, name)) for name, graph in graphs)
        drawn.append(Drawing(f"{place}", evidence.archs[i], _facts(evidence, leading, int(i)), svg))
    legend = drawings.legend(structure) if structure is not None and structure.graphs else ()
    caption = f"The {len(drawn)} best architectures by {leading.name}."
    return Section("top", f"The top {len(drawn)}", (Drawings(caption, legend, tuple(drawn)),) if drawn else ())


def _facts(evidence: Evidence, leading: Column, i: int) -> str:
    parts = [f"{leading.name} {short(leading.values[i])}"]
    parts += [f"{task} {short(values[i])}" for task, values in evidence.tasks.items() if math.isfinite(values[i])]
    macs, params = (evidence.columns[name].values[i] / _MILLION for name in (MACS, PARAMS))
    return ", ".join([*parts, f"{short(macs)} M MACs", f"{short(params)} M parameters"])


def ranking(column: Column) -> np.ndarray:
    """Return the positions of architectures with a finite value, best first; equal values as given."""
    known = np.flatnonzero(np.isfinite(column.values))
    return known[np.argsort(-column.values[known], kind="stable")]


def _front(evidence: Evidence, leading: Column) -> Section:
    task = next(iter(evidence.tasks), None)
    name, value = (leading.name, leading.values) if task is None else (task, evidence.tasks[task])
    cost = evidence.columns[MACS].values
    front = numbers.best_of_size(cost, value)
    if not front.any() or name in (MACS, PARAMS):
        return Section("front", "", ())
    figure = figures.front(evidence.archs, cost / _MILLION, value, front, "MACs (M)", name)
    order = np.flatnonzero(front)[np.argsort(cost[front], kind="stable")]
    shown = [leading.name] if task is not None else []
    headers = (
        Header("architecture"), Header("MACs (M)", True), Header("parameters (M)", True), Header(name, True),
        *(Header(one, True) for one in shown),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(evidence.archs[i], evidence.archs[i], is_code=True), number(float(cost[i]) / _MILLION, ".2f"),
            number(float(evidence.columns[PARAMS].values[i]) / _MILLION, ".3f"),
            Cell(short(float(value[i])), float(value[i])),
            *(_short(float(evidence.columns[one].values[i])) for one in shown),
        )
        for i in order
    )  # fmt: skip
    table = Table(f"The front of {name} against MACs, the smallest first.", headers, rows, limit=15)
    return Section("front", "Pareto front: the best of each size", (figure, table))


def _short(value: float) -> Cell:
    return Cell(short(value), float(value)) if math.isfinite(value) else NONE


def _all_archs(evidence: Evidence, leading: Column) -> Section:
    count = len(_on_page(evidence, leading))
    caption = "All architectures, the best first."
    if count < len(evidence.archs):
        caption = f"{count:,} of {len(evidence.archs):,} architectures, the best and others evenly; so in the figures."
    columns = list(dict.fromkeys([leading.name, *evidence.tasks, MACS, PARAMS, *evidence.columns]))
    return Section("all", "All architectures", (AllArchs(caption, tuple(columns), leading.name),))


def data_of(evidence: Evidence, leading: Column) -> dict[str, list[Any]]:
    """Return the page's table of architectures: strings, and values in four or five digits, by column.

    A page of more than 600,000 numbers would be larger than 3 MB. It holds the best architectures and others evenly.
    """
    if not evidence.archs:
        return {}
    where = _on_page(evidence, leading)
    values = {
        **evidence.tasks,
        **{n: c.values for n, c in evidence.columns.items()},
    }
    digits = dict.fromkeys((MACS, PARAMS), 12) | dict.fromkeys(evidence.tasks, 5)
    shown = {name: plain(one[where], digits.get(name, 4)) for name, one in values.items()}
    return {"arch": [evidence.archs[i] for i in where], **shown}


def _on_page(evidence: Evidence, leading: Column) -> np.ndarray:
    return numbers.kept(leading.values, _MOST_NUMBERS // (len(evidence.columns) + len(evidence.tasks)))
