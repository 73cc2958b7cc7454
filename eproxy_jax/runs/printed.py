"""This module writes the report of a run: the ranked table, the agreement with the truth, the figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.columns import ColumnsResult
from eproxy_jax.proxies.aggregates import AGGREGATES, aggregates_of
from eproxy_jax.ranks import RankQuality, rank_quality
from eproxy_jax.runs import outputs
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_DIVERGED, ScoreResult

if TYPE_CHECKING:
    from eproxy_jax.runs.ranking import Ranked

_RANK_SUM = next(iter(AGGREGATES))  # ours, the default ranking of columns


def ranked_table(result: ScoreResult, top: int = 10, truth: np.ndarray | None = None) -> str:
    """Return a table of the best architectures, one per line.

    Args:
      result: scores of A architectures.
      top: number of lines.
      truth: [A] measured values to show with the scores; NaN if unknown.

    Returns:
      Text with a header line.
    """
    ranking = result.ranking()[:top]
    lines = _ranked(result, ranking, result.score, "score", lambda value: f"{value:9.5f}", truth)
    diverged, disconnected = result.status.count(STATUS_DIVERGED), result.status.count(STATUS_DISCONNECTED)
    count = f"{len(result.archs)} architectures, {diverged} diverged"
    lines.append(count + (f", {disconnected} disconnected" if disconnected else ""))
    return "\n".join(lines)


def columns_table(result: ColumnsResult, top: int = 10, truth: np.ndarray | None = None) -> str | None:
    """Return a table of the best architectures by ``rank_sum``, or by the first column of numbers if it lacks columns.

    Args:
      result: columns of A architectures.
      top: number of lines.
      truth: [A] measured values to show with them; NaN if unknown.

    Returns:
      Text with a header line; None if no column holds numbers.
    """
    columns = result.scalars()
    if not columns:
        return None
    sums = aggregates_of(columns)
    by = _RANK_SUM if _RANK_SUM in sums else next(iter(columns))
    values = sums[by] if by in sums else columns[by]
    disconnected = np.asarray(result.status) == STATUS_DISCONNECTED
    ranking = np.lexsort((-values, disconnected))[:top]
    lines = _ranked(result, ranking, values, by, lambda value: f"{value:.6g}", truth)
    count = f"{len(result.archs)} architectures"
    lines.append(count + (f", {disconnected.sum()} disconnected" if disconnected.any() else ""))
    return "\n".join(lines)


def fitted_table(ranked: Ranked, top: int = 10, truth: np.ndarray | None = None) -> str:
    """Return a table of the best architectures by a fit, with the standard deviation of each score.

    Args:
      ranked: scores of A architectures.
      top: number of lines.
      truth: [A] measured values to show with the scores; NaN if unknown.

    Returns:
      Text with a header line.
    """
    ranking = ranked.ranking()[:top]
    lines = _ranked(ranked.columns, ranking, ranked.score, "score", lambda value: f"{value:.3f}", truth)
    spreads = ["     std", *(f"{ranked.deviation[i]:8.3f}" for i in ranking)]
    lines = [f"{line[:16]}{spread}{line[16:]}" for line, spread in zip(lines, spreads, strict=True)]
    disconnected = int(np.isneginf(ranked.score).sum())
    count = f"{len(ranked.archs)} architectures"
    return "\n".join([*lines, count + (f", {disconnected} disconnected" if disconnected else "")])


def fitted_rows(ranked: Ranked, truth: np.ndarray) -> dict[str, RankQuality]:
    """Measure how well a fit agrees with the truth, and each of its columns alone, see :func:`column_rows`.

    Args:
      ranked: scores of A architectures.
      truth: [A] measured values. NaN (unknown) is left out.

    Raises:
      ValueError: fewer than 3 architectures have a value.
    """
    known = np.isfinite(truth)
    return {"fitted": rank_quality(ranked.score[known], truth[known]), **column_rows(ranked.columns, truth)}


def _ranked(
    result: ScoreResult | ColumnsResult,
    ranking: Sequence[int] | np.ndarray,
    values: np.ndarray,
    name: str,
    text: Callable[[float], str],
    truth: np.ndarray | None,
) -> list[str]:
    """Return the lines of a ranked table.

    Args:
      result: the architectures, their sizes and status.
      ranking: positions, best first.
      values: [A], what they are ranked by.
      name: its name.
      text: makes text of a finite value.
      truth: [A] measured values; NaN if unknown.
    """
    width = max([len(arch) for arch in result.archs] + [4])
    status = max([len(result.status[i]) for i in ranking] + [8])
    shown = [text(values[i]) if math.isfinite(values[i]) else "-" for i in ranking]
    wide = max(9, len(name), *map(len, shown))
    header = f"{'rank':>4}  {name:>{wide}}  {'MACs/M':>8}  {'params/M':>8}  {'status':{status}}"
    lines = [header + (f"  {'truth':>8}" if truth is not None else "") + "  arch"]
    for rank, (i, value) in enumerate(zip(ranking, shown, strict=True), start=1):
        sizes = f"{result.macs[i] / 1e6:>8.2f}  {result.params[i] / 1e6:>8.3f}"
        line = f"{rank:>4}  {value:>{wide}}  {sizes}  {result.status[i]:{status}}"
        if truth is not None:
            line += f"  {truth[i]:>8.3f}" if math.isfinite(truth[i]) else f"  {'-':>8}"
        lines.append(f"{line}  {result.archs[i]:{width}}".rstrip())
    return lines


def column_rows(result: ColumnsResult, truth: np.ndarray) -> dict[str, RankQuality]:
    """Measure how well each column agrees with the truth, each sum of ranks whose columns are there, and sizes alone.

    Args:
      result: columns of A architectures; the ranks of sums are those in this list.
      truth: [A] measured values. NaN (unknown) is left out.

    Returns:
      Rank quality by name of columns, then of sums, then ``macs as written`` and ``params as written``.

    Raises:
      ValueError: fewer than 3 architectures have a value.
    """
    known = np.isfinite(truth)
    columns = result.scalars()
    columns |= aggregates_of(columns)
    columns |= {"macs as written": result.macs, "params as written": result.params}
    return {name: rank_quality(column[known], truth[known]) for name, column in columns.items()}


def quality_rows(result: ScoreResult, truth: np.ndarray) -> dict[str, RankQuality]:
    """Measure how well the score, MACs alone and parameters alone agree with the truth.

    Networks that diverged or are disconnected share the last rank of the score. MACs and parameters are those of the
    networks as written, which is what the field quotes. Effective MACs are without dead edges, and 0 for disconnected
    networks: they know of these what the score knows.

    Args:
      result: scores of A architectures.
      truth: [A] measured values. NaN (unknown) is left out.

    Returns:
      Rank quality of ``eproxy``, ``macs``, ``params`` and ``effective macs``.

    Raises:
      ValueError: fewer than 3 architectures have a value.
    """
    known = np.isfinite(truth)
    columns = {"eproxy": result.score, "macs": result.macs, "params": result.params}
    columns["effective macs"] = result.effective_macs
    return {name: rank_quality(column[known], truth[known]) for name, column in columns.items()}


def quality_table(rows: dict[str, RankQuality]) -> str:
    """Return the rows of :func:`quality_rows` as text."""
    width = max(8, *map(len, rows))
    names = ("Spearman", "Kendall", "top-10 %")
    header = "  ".join(f"{name:>8}" for name in names)
    lines = [f"{'':{width}}  {header}  {'nDCG':>6}  {'regret':>8}  {'archs':>6}"]
    for name, row in rows.items():
        lines.append(
            f"{name:{width}}  {row.spearman:>8.3f}  {row.kendall_tau:>8.3f}  {row.top_precision:>8.2f}  "
            f"{row.ndcg:>6.3f}  {row.regret:>8.3f}  {row.count:>6}"
        )
    return "\n".join(lines)


def scatter_plot(path: Path, result: ScoreResult, truth: np.ndarray | None, title: str, source: Path) -> None:
    """Draw the score against the truth (against MACs if there is none) as a PNG.

    Args:
      path: the figure.
      result: scores of A architectures.
      truth: [A] measured values; NaN if unknown.
      title: title of the figure.
      source: the file that the figure shows; its name is written into the figure.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = np.isfinite(result.score)
    if truth is not None:
        shown &= np.isfinite(truth)
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colour = result.macs[shown] / 1e6 if truth is not None else result.params[shown] / 1e6
    horizontal = truth[shown] if truth is not None else result.macs[shown] / 1e6
    points = axes.scatter(horizontal, result.score[shown], c=colour, s=14, cmap="viridis")
    figure.colorbar(points, label="MACs (M)" if truth is not None else "parameters (M)")
    axes.set_xlabel("measured value" if truth is not None else "MACs (M)")
    axes.set_ylabel("Eproxy score (higher is better)")
    axes.set_title(title, fontsize=10)
    outputs.write_figure(path, source, lambda file, texts: figure.savefig(file, dpi=120, format="png", metadata=texts))


def quality_plot(path: Path, rows: Mapping[str, RankQuality], title: str, source: Path) -> None:
    """Draw the Spearman correlation of each row as a bar, as a PNG.

    Args:
      path: the figure.
      rows: rank quality by name; a correlation that is NaN has no bar.
      title: title of the figure.
      source: the file that the figure shows; its name is written into the figure.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 1.2 + 0.22 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = sorted(rows, key=lambda name: (math.isfinite(rows[name].spearman), rows[name].spearman))
    heights = [rows[name].spearman if math.isfinite(rows[name].spearman) else 0.0 for name in names]
    axes.barh(range(len(names)), heights, color=["C1" if name in AGGREGATES else "C0" for name in names])
    axes.set_yticks(range(len(names)), [name if len(name) <= 40 else f"...{name[-37:]}" for name in names], fontsize=8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(min(0.0, *heights) - 0.02, 1)
    axes.set_xlabel("Spearman with the measured values")
    axes.set_title(title, fontsize=10)
    outputs.write_figure(path, source, lambda file, texts: figure.savefig(file, dpi=120, format="png", metadata=texts))


def search_plot(path: Path, fitness: Mapping[str, Any], title: str, source: Path) -> None:
    """Draw the fitness of every evaluation of some searches, and the best so far, as a PNG.

    Args:
      path: the figure.
      fitness: [N] by search; not finite if a setting diverged or was not reached.
      title: title of the figure.
      source: the file that the figure shows; its name is written into the figure.

    Raises:
      ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(fitness.items()):
        values = np.where(np.isfinite(values), values, np.nan)
        best = np.fmax.accumulate(values)
        axes.plot(np.arange(1, len(values) + 1), values, ".", color=f"C{number}", alpha=0.4, markersize=4)
        axes.plot(np.arange(1, len(values) + 1), best, color=f"C{number}", label=name)
    axes.set_xlabel("settings evaluated")
    axes.set_ylabel("Spearman on the labelled architectures")
    axes.legend()
    axes.set_title(title, fontsize=10)
    outputs.write_figure(path, source, lambda file, texts: figure.savefig(file, dpi=120, format="png", metadata=texts))
