"""This module says figures as Vega-Lite: what is drawn, and no colour of the page, which the page's style chooses.

The data of a figure stand in it, or it names ``archs``: rows that the page makes of its own table. People who
cannot tell red from green can read every colour scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.report.blocks import Figure, Scatter, plain

if TYPE_CHECKING:
    from jaxtyping import Float64

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name: nothing is loaded from it
# Okabe and Ito, Color Universal Design, 2008; black is the page's own colour of text.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#7f7f7f", "#b8a800")
_HEIGHT = 320  # pixels
_MOST_CURVES = 80


def _spec(height: int = _HEIGHT, **more: Any) -> dict[str, Any]:
    return {"$schema": SCHEMA, "width": "container", "height": height, **more}


def _axis(field: str, title: str, zero: bool = False, **more: Any) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title, "scale": {"zero": zero}, **more}


def _tip(**titles: str) -> list[dict[str, Any]]:
    """Fields of the box that a pointed-at mark shows, by title; an architecture and names are texts."""
    texts = ("arch", "name", "row", "column")
    return [
        {"field": field, "title": title, "type": "nominal"}
        if field in texts
        else {"field": field, "title": title, "type": "quantitative", "format": ".5~g"}
        for field, title in titles.items()
    ]


def scatter(across: Sequence[str], up: Sequence[str], count: int) -> Scatter:
    """Draw each architecture as a point; the page offers other columns."""
    spec = _spec(
        380,
        data={"name": "archs"},
        mark={"type": "point", "filled": True, "size": 36 if count <= 2000 else 14, "opacity": 0.75},
        encoding={
            "x": _axis("x", across[0]),
            "y": _axis("y", up[0]),
            "color": {
                "field": "macs",
                "type": "quantitative",
                "title": "MACs (M)",
                "legend": {"orient": "top", "type": "gradient", "gradientLength": 160},
            },
            "tooltip": _tip(arch="architecture", x=across[0], y=up[0], macs="MACs (M)"),
        },
    )
    caption = "Each point is an architecture; its colour says its MACs. Point at one to read its name and its values."
    return Scatter("scatter", caption, spec, across=tuple(across), up=tuple(up))


def heat_map(names: Sequence[str], matrix: Float64[np.ndarray, "C C"]) -> Figure:
    """Draw rank correlations of columns with each other."""
    values = [
        {"row": row, "column": column, "value": plain([matrix[i, j]], 3)[0]}
        for i, row in enumerate(names)
        for j, column in enumerate(names)
        if math.isfinite(matrix[i, j])
    ]
    step = max(26, min(56, 320 // len(names)))  # pixels
    place = {"type": "nominal", "sort": list(names), "title": None}
    colour = {
        "field": "value",
        "type": "quantitative",
        "title": "Spearman",
        "scale": {"scheme": "blueorange", "domain": [-1, 1], "reverse": True},
        "legend": {"orient": "top", "gradientLength": 160},
    }
    spec = {
        "$schema": SCHEMA,
        "data": {"values": values},
        "width": {"step": step},
        "height": {"step": step},
        "mark": {"type": "rect", "tooltip": True},
        "encoding": {
            "x": {"field": "column", **place, "axis": {"labelAngle": -60, "labelLimit": 160}},
            "y": {"field": "row", **place, "axis": {"labelLimit": 160}},
            "color": colour,
            "tooltip": _tip(row="column", column="and", value="Spearman"),
        },
    }
    caption = (
        "Spearman's correlation of each column with each other one: blue agrees, orange ranks the other way round."
    )
    return Figure("correlations", caption, spec, wide=True)


def loss_curves(archs: Sequence[str], losses: Float64[np.ndarray, "A S"], colour: np.ndarray, name: str) -> Figure:
    """Draw the training loss of some architectures at each step, evenly chosen among their final losses."""
    whole = np.flatnonzero(np.isfinite(losses).all(1))
    order = whole[np.argsort(losses[whole, -1], kind="stable")]
    if len(order) > _MOST_CURVES:
        order = order[np.linspace(0, len(order) - 1, _MOST_CURVES).round().astype(int)]
    values = [
        {"arch": archs[i], "step": step, "loss": loss, "colour": plain(colour[i : i + 1])[0]}
        for i in order
        for step, loss in enumerate(plain(losses[i]), start=1)
    ]
    spec = _spec(
        data={"values": values},
        mark={"type": "line", "strokeWidth": 1.4, "opacity": 0.75, "point": {"size": 12, "filled": True}},
        encoding={
            "x": _axis("step", "training step", axis={"tickMinStep": 1}),
            "y": _axis("loss", "loss"),
            "detail": {"field": "arch"},
            "color": {
                "field": "colour",
                "type": "quantitative",
                "title": name,
                "legend": {"orient": "top", "type": "gradient", "gradientLength": 160},
            },
            "tooltip": _tip(arch="architecture", step="step", loss="loss", colour=name),
        },
    )
    shown = f"{len(whole):,} networks"
    if len(order) < len(whole):
        shown = f"{len(order)} of {shown}, evenly chosen by final loss"
    return Figure("losses", f"Loss of Eproxy's training at each step, of {shown}.", spec)


def lines(
    name: str,
    caption: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    *,
    levels: Mapping[str, float] | None = None,
    is_step: bool = False,
    archs: Mapping[str, Sequence[str]] | None = None,
    integers: bool = False,
) -> Figure:
    """Draw lines of several series, and levels that do not depend on x.

    Args:
      name: of the figure.
      caption: what it shows.
      series: points (x, y) by name.
      x: title of the axis.
      y: title of the axis.
      levels: y by name: lines across the figure.
      is_step: values hold until the next point.
      archs: the architecture of each point, by name of series.
      integers: x are whole numbers.
    """
    points = [
        {"name": one, "x": plain([a])[0], "y": plain([b])[0]} | ({"arch": archs[one][i]} if archs else {})
        for one, held in series.items()
        for i, (a, b) in enumerate(held)
        if math.isfinite(b)
    ]
    largest = max((one["x"] for one in points), default=1)
    smallest = min((one["x"] for one in points), default=0)
    flat = [
        {"name": one, "x": end, "y": plain([level])[0]}
        for one, level in (levels or {}).items()
        if math.isfinite(level)
        for end in (smallest, largest)
    ]
    names = [*series, *(levels or {})]
    colour = {
        "field": "name",
        "type": "nominal",
        "title": None,
        "sort": names,
        "scale": {"domain": names, "range": [PALETTE[i % len(PALETTE)] for i in range(len(names))]},
        "legend": {"orient": "top", "columns": 2, "labelLimit": 260, "symbolType": "stroke"},
    }
    axes = {"x": _axis("x", x, axis={"tickMinStep": 1} if integers else {}), "y": _axis("y", y)}
    tip = _tip(name="line", **({"arch": "architecture"} if archs else {}), x=x, y=y)
    line: dict[str, Any] = {"type": "line", "point": {"size": 30, "filled": True}, "strokeWidth": 2}
    if is_step:
        line["interpolate"] = "step-after"
    layers = [{"data": {"values": points}, "mark": line, "encoding": {**axes, "color": colour, "tooltip": tip}}]
    if flat:
        dashed = {"type": "line", "strokeDash": [6, 4], "strokeWidth": 1.5}
        tips = _tip(name="line", y=y)
        layers.append(
            {"data": {"values": flat}, "mark": dashed, "encoding": {**axes, "color": colour, "tooltip": tips}}
        )
    return Figure(name, caption, _spec(layer=layers))


def front(
    archs: Sequence[str], cost: np.ndarray, value: np.ndarray, on_front: np.ndarray, cost_name: str, value_name: str
) -> Figure:
    """Draw architectures by cost and value, and the front of those that no other one beats in both."""
    order = np.flatnonzero(on_front)[np.argsort(cost[on_front], kind="stable")]
    best = [
        {"arch": archs[i], "x": a, "y": b}
        for i, a, b in zip(order, plain(cost[order]), plain(value[order]), strict=True)
    ]
    axes = {"x": _axis("x", cost_name), "y": _axis("y", value_name)}
    tip = _tip(arch="architecture", x=cost_name, y=value_name)
    cloud = {
        "data": {"name": "archs"},
        "mark": {"type": "point", "filled": True, "size": 14, "opacity": 0.35, "color": "#7f7f7f"},
        "encoding": {**axes, "tooltip": tip},
    }
    dots = {"size": 50, "filled": True, "color": PALETTE[3]}
    line = {
        "data": {"values": best},
        "mark": {"type": "line", "interpolate": "step-after", "color": PALETTE[3], "point": dots},
        "encoding": {**axes, "tooltip": tip},
    }  # fmt: skip
    caption = (
        f"{len(order)} architectures of which no other one has fewer {cost_name} and a higher {value_name}, and all "
        "the others in grey."
    )
    return Scatter("front", caption, _spec(layer=[cloud, line]), across=(cost_name,), up=(value_name,))
