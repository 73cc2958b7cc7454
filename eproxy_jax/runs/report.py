"""This module writes the report of a run: the ranked table, the agreement with the truth, the figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax.ranks import RankQuality, rank_quality
from eproxy_jax.runs import outputs
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_DIVERGED, ScoreResult


def ranked_table(result: ScoreResult, top: int = 10, truth: np.ndarray | None = None) -> str:
    """Return a table of the best architectures, one per line.

    Args:
      result: scores of A architectures.
      top: number of lines.
      truth: [A] measured values to show with the scores; NaN if unknown.

    Returns:
      Text with a header line.
    """
    width = max([len(arch) for arch in result.archs] + [4])
    ranking = result.ranking()[:top]
    status = max([len(result.status[i]) for i in ranking] + [8])
    header = f"{'rank':>4}  {'score':>9}  {'MACs/M':>8}  {'params/M':>8}  {'status':{status}}"
    lines = [header + (f"  {'truth':>8}" if truth is not None else "") + "  arch"]
    for rank, i in enumerate(ranking, start=1):
        score = f"{result.score[i]:9.5f}" if math.isfinite(result.score[i]) else f"{'-':>9}"
        sizes = f"{result.macs[i] / 1e6:>8.2f}  {result.params[i] / 1e6:>8.3f}"
        line = f"{rank:>4}  {score}  {sizes}  {result.status[i]:{status}}"
        if truth is not None:
            line += f"  {truth[i]:>8.3f}" if math.isfinite(truth[i]) else f"  {'-':>8}"
        lines.append(f"{line}  {result.archs[i]:{width}}".rstrip())
    diverged, disconnected = result.status.count(STATUS_DIVERGED), result.status.count(STATUS_DISCONNECTED)
    count = f"{len(result.archs)} architectures, {diverged} diverged"
    lines.append(count + (f", {disconnected} disconnected" if disconnected else ""))
    return "\n".join(lines)


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
    lines = [f"{'':{width}}  {'Spearman':>8}  {'Kendall':>8}  {'top-10 %':>8}  {'regret':>8}  {'archs':>6}"]
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
