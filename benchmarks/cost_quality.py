"""This script shows what a ranking costs and what it is worth: seconds a network against Spearman, NAS-Bench-201.

  python benchmarks/cost_quality.py

It computes nothing: it reads the rows of benchmarks/proxies.py and benchmarks/fit_columns.py in benchmarks/results, and
may be run again when there are more. Spearman is the mean of three data sets, with each function once. A sum of ranks
costs every pass that its columns need, once; a fit costs all passes that its columns were computed in, and one training
for each Eproxy setting. Sizes and graph counts run no network. Seconds of the two sizes of networks stand apart.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, header, markdown_table, write_page

PAGE = "cost_quality_nasbench201"
PROXIES = {"paper": "proxies_nasbench201", "small": "proxies_nasbench201_small"}
FITS = "fit_columns_nasbench201"
TASKS = ("cifar10", "cifar100", "imagenet16-120")
LABELS = 20
SECONDS = "s a network, whole pass"
# Fits that are shown: the name of their row -> the name in the figure.
DEFAULT_FIT, NO_EPROXY = "prior + process", "prior + process, no Eproxy"
SHOWN_FITS = {NO_EPROXY: "fit, no Eproxy", f"{DEFAULT_FIT}, portfolio": "fit, portfolio", DEFAULT_FIT: "fit, full bank"}
# Colours of Okabe and Ito, and a shape for each kind: neither colour-blindness nor grey print hides a kind.
KINDS = {"proxy": ("#595959", "o"), "sum of ranks": ("#0072B2", "s"), "fit, 20 labels": ("#D55E00", "D")}


@dataclasses.dataclass(frozen=True)
class Point:
    """A ranking: its name, its kind, seconds a network (None: unknown), mean Spearman, and the size of networks."""

    name: str
    kind: str
    seconds: float | None
    spearman: float
    size: str


def read_rows(page: str, results: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the rows of a page of results; none if there is no such page."""
    path = results / f"{page}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def seconds_by_pass(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds a network of every pass that rows of benchmarks/proxies.py tell of, Eproxy's as well."""
    from eproxy_jax.proxies.registry import PASSES

    pass_of = {column: one.name for one in PASSES for column in one.columns}
    found = {"sizes": 0.0, "graph_counts": 0.0}
    for row in rows:
        name = row.get("ranking", "")
        own = pass_of.get(name, name if name.startswith("eproxy") else None)
        if own is not None and re.fullmatch(r"[\d.]+", row.get(SECONDS, "")):
            found.setdefault(own, float(row[SECONDS]))
    return found


def cost(columns: Iterable[str], passes: Mapping[str, float]) -> float | None:
    """Return the seconds a network of columns, each pass counted once; None if one of them was not timed."""
    from eproxy_jax.proxies.registry import PASSES

    pass_of = {column: one.name for one in PASSES for column in one.columns}
    needed = {pass_of.get(column, column) for column in columns}
    return sum(passes[name] for name in needed) if needed <= passes.keys() else None


def proxy_points(rows: Sequence[Mapping[str, Any]], size: str) -> list[Point]:
    """Return the points of single proxies and of sums of ranks."""
    from eproxy_jax.proxies import AGGREGATES

    passes, points = seconds_by_pass(rows), []
    for row in rows:
        name = row.get("ranking")
        if name is None or "as written" in name or not all(task in row for task in TASKS):
            continue
        spearman = float(np.mean([float(row[task].split(" / ")[1]) for task in TASKS]))
        kind = "sum of ranks" if name in AGGREGATES else "proxy"
        points.append(Point(name, kind, cost(AGGREGATES.get(name, (name,)), passes), spearman, size))
    return points


def fit_points(rows: Sequence[Mapping[str, Any]], passes: Mapping[str, float], settings: int | None) -> list[Point]:
    """Return the points of fits to 20 labels.

    Args:
      rows: of benchmarks/fit_columns.py; ``settings`` in a row is how many Eproxy settings its columns hold.
      passes: seconds a network, of the size of networks of the fits.
      settings: of the package's portfolio; None if it has none.
    """
    points, methods = [], {row.get("method") for row in rows}
    for method, name in SHOWN_FITS.items():
        if method == DEFAULT_FIT and methods and NO_EPROXY not in methods:
            continue  # no column is Eproxy's: this row is the one without
        if method == NO_EPROXY and NO_EPROXY not in methods:
            method = DEFAULT_FIT
        own = [row for row in rows if row.get("method") == method and row.get("labels") == LABELS]
        own = [row for row in own if "labels_chosen" not in row]
        if {row["task"] for row in own} != set(TASKS):
            continue
        trained = {"fit, no Eproxy": 0, "fit, portfolio": settings}.get(name, own[0].get("settings"))
        cheap = sum(seconds for one, seconds in passes.items() if not one.startswith("eproxy"))
        each = 0.0 if trained == 0 else passes.get("eproxy")
        seconds = None  # unknown without the pages of the size, or without the number of settings
        if trained is not None and each is not None and len(passes) > 2:
            seconds = cheap + trained * each
        points.append(Point(name, "fit, 20 labels", seconds, float(np.mean([row["spearman"] for row in own])), "small"))
    return points


def collect(results: Path = RESULTS) -> list[Point]:
    """Return all points that the pages of results tell of: proxies at the paper's size, fits at the size of theirs."""
    import eproxy_jax as ep

    settings = len(ep.portfolio()) if hasattr(ep, "portfolio") else None  # type: ignore[attr-defined]
    rows = {size: read_rows(page, results) for size, page in PROXIES.items()}
    points = proxy_points(rows["paper"], "paper")
    return points + fit_points(read_rows(FITS, results), seconds_by_pass(rows["small"]), settings)


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no cheaper one equals, cheapest first."""
    best, found = -np.inf, []
    for point in sorted((p for p in points if p.seconds is not None), key=lambda p: (p.seconds, -p.spearman)):
        if point.spearman > best:
            best = point.spearman
            found.append(point)
    return found


# --- the figure ----------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]  # left, bottom, right, top


def overlap(a: Box, b: Box) -> bool:
    """Say whether two boxes share more than an edge."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def place(points: np.ndarray, sizes: np.ndarray, bounds: Box, gap: float, taken: Sequence[Box] = ()) -> list[Box]:
    """Place a label beside each point so that no two labels overlap, and none covers a point.

    Args:
      points: [N, 2], pixels.
      sizes: [N, 2], widths and heights of the labels, pixels.
      bounds: where labels must lie.
      gap: least distance of a label from its point, pixels.
      taken: boxes that no label may cover, besides the points.

    Raises:
      ValueError: there is no room.
    """
    boxes = [*taken, *((x - gap / 2, y - gap / 2, x + gap / 2, y + gap / 2) for x, y in points)]
    found: dict[int, Box] = {}
    crowd = [np.hypot(*(points - point).T).argsort()[1:4] for point in points]
    order = sorted(range(len(points)), key=lambda i: float(np.hypot(*(points[crowd[i]] - points[i]).T).sum()))
    for i in order:
        (x, y), (width, height) = points[i], sizes[i]
        candidates = []
        for step, side in itertools.product(range(-60, 61), (1, -1)):
            middle = y + step * height / 4
            for away in (gap, 3 * gap, 6 * gap, 12 * gap):
                left = x + away if side > 0 else x - away - width
                candidates.append((abs(middle - y) + away + (side < 0), (left, middle - height / 2)))
            candidates.append((abs(middle - y) + 2 * gap, (x - width / 2, middle - height / 2)))
        for _, (left, bottom) in sorted(candidates):
            box = (left, bottom, left + width, bottom + height)
            inside = bounds[0] <= box[0] and bounds[1] <= box[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
            if inside and not any(overlap(box, other) for other in boxes):
                break
        else:
            raise ValueError(f"no room for label {i} of {len(points)}: make the figure larger")
        boxes.append(box)
        found[i] = box
    return [found[i] for i in range(len(points))]


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw seconds, on a logarithmic axis, against Spearman; 780 pixels wide, to be read at 390."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    points = [point for point in points if point.seconds is not None]
    timed = [point.seconds for point in points if point.seconds]
    least = min(timed)
    free = least / 6  # where what costs nothing stands on a logarithmic axis
    place_of = {point: (point.seconds or free, point.spearman) for point in points}
    figure = Figure(figsize=(5.2, 6.0), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    best = front(points)
    line = list(zip(*(place_of[point] for point in best), strict=True))
    axes.step(*line, where="post", color="#999999", lw=1, zorder=1, label="best at its cost")
    for kind, (color, marker) in KINDS.items():
        own = [place_of[point] for point in points if point.kind == kind]
        if own:
            axes.scatter(*zip(*own, strict=True), c=color, marker=marker, s=26, label=kind, zorder=3)
    axes.set_xlim(free / 2, max(timed) * 12)
    low, high = min(p.spearman for p in points), max(p.spearman for p in points)
    axes.set_ylim(low - 0.04, high + 0.08)
    ticks = [t for t in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0) if least / 2 <= t <= max(timed) * 12]
    axes.set_xticks([free, *ticks], ["0", *(f"{tick:g}" for tick in ticks)], fontsize=10)
    axes.minorticks_off()
    axes.tick_params(axis="y", labelsize=10)
    axes.set_xlabel("seconds a network, 2 CPU cores", fontsize=11)
    axes.set_ylabel("Spearman, mean of three data sets", fontsize=11)
    axes.set_title("NAS-Bench-201: cost against quality", fontsize=12)
    axes.grid(alpha=0.25)
    legend = axes.legend(loc="upper left", fontsize=10, framealpha=1)
    canvas.draw()  # the layout is known from here on
    texts = [axes.text(0, 0, point.name, fontsize=9, color=KINDS[point.kind][0]) for point in points]
    renderer = canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in texts]
    sizes = np.asarray([(extent.width + 2, extent.height + 1) for extent in extents])
    pixels = axes.transData.transform([place_of[point] for point in points])
    frame, drawn = axes.get_window_extent(), legend.get_window_extent()
    bounds, covered = (
        (frame.x0 + 2, frame.y0 + 2, frame.x1 - 2, frame.y1 - 2),
        [(drawn.x0, drawn.y0, drawn.x1, drawn.y1)],
    )
    back = axes.transData.inverted()
    for text, box, (x, y) in zip(texts, place(pixels, sizes, bounds, 9, covered), pixels, strict=True):
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        text.set_position(tuple(back.transform((box[0], (box[1] + box[3]) / 2)).tolist()))
        text.set_verticalalignment("center_baseline")
        end = min(max(x, box[0]), box[2]), min(max(y, box[1] + 4), box[3] - 4)  # the nearest of the label
        if np.hypot(end[0] - x, end[1] - y) > 12:
            line = back.transform([(x, y), end])
            axes.plot(*line.T, color=text.get_color(), lw=0.6, alpha=0.6, zorder=2)
    figure.savefig(path, dpi=150, format="png", metadata={"Software": None})


def page(points: Sequence[Point]) -> tuple[str, list[dict[str, Any]]]:
    """Return the page and its rows."""
    best = set(front(points))
    rows = [
        {
            "ranking": point.name,
            "kind": point.kind,
            "size": point.size,
            "Spearman, mean of three data sets": f"{point.spearman:.3f}",
            "s a network": "not measured" if point.seconds is None else f"{point.seconds:.3f}",
            "no cheaper one is as good": "yes" if point in best else "",
        }
        for point in sorted(points, key=lambda p: -p.spearman)
    ]
    text = header("Cost against quality, NAS-Bench-201")
    text += "Spearman with each function once. Seconds are those of the computation on 2 CPU cores, compilation left "
    text += "out; a sum of ranks or a fit costs each pass that its columns need once. Read from "
    pages = [f"{name}.md" for name in (*PROXIES.values(), FITS) if (RESULTS / f"{name}.md").exists()]
    text += ", ".join(f"[{name}]({name})" for name in pages) + ".\n\n"
    return text + markdown_table(rows) + f"\n![Spearman against seconds a network]({PAGE}.png)\n", rows


def main() -> None:
    points = collect()
    draw(points, RESULTS / f"{PAGE}.png")
    write_page(PAGE, *page(points))


if __name__ == "__main__":
    main()
