"""This module draws architectures as SVG text, by what their space says they are made of.

A space with graphs has its cells drawn: circles are feature maps, lines are operations. For another one the layers of
the network are rows, one for each part, as long as the part has channels. Colours come from the page, so that a drawing
is readable in the light and in the dark theme.
"""

import html
import itertools
import math
from collections.abc import Sequence

from eproxy_jax.exports.exported import exported
from eproxy_jax.spaces import SearchSpace
from eproxy_jax.spaces.structure import Graph

_ROW, _CHARACTER = 64, 7.2  # pixels between vertices, and of a character at 12 pixels


def drawing(space: SearchSpace, arch: object) -> str:
    """Return the drawings of a canonical architecture as HTML, empty where there is nothing to draw.

    Args:
      space: its search space.
      arch: a parsed architecture.
    """
    structure = space.structure(arch)
    if structure.graphs:
        figures = [_graph(graph, structure.ops, name) for name, graph in structure.graphs.items()]
    else:
        figures = [_layers(space, arch)]
    return '<div class="drawing">' + "".join(figures) + "</div>"


def _graph(graph: Graph, ops: Sequence[str], name: str) -> str:
    """Draw a graph: vertices below each other, edges of one step straight, longer ones as arcs to the right."""
    vertices = sorted({*itertools.chain(*graph.edges), *graph.inputs, *graph.outputs})
    row = {vertex: position for position, vertex in enumerate(vertices)}
    spans = [row[target] - row[source] for source, target in graph.edges]
    texts = [ops[op] for op in graph.edge_ops] or [""] * len(graph.edges)
    names = [_vertex_name(graph, ops, vertex) for vertex in vertices]
    # Half the width of each vertex: a box as wide as its name, or a circle.
    halves = [len(text) * _CHARACTER / 2 + 7 if graph.vertex_ops else 13.0 for text in names]
    half = max(halves)
    middle = half + 8
    columns, x = {}, middle + 14  # edges of one length have a column for their labels, so that none covers another
    for span in sorted(set(spans)):
        columns[span] = x if graph.edge_ops else x + half
        x += max(len(text) for text, other in zip(texts, spans, strict=True) if other == span) * _CHARACTER + 24
    lines, labels, seen = [], [], set()
    for (source, target), span, text in zip(graph.edges, spans, texts, strict=True):
        top, bottom, column = row[source] * _ROW + 32, row[target] * _ROW + 32, columns[span]
        y = (top + bottom) / 2
        if span == 1 and (source, target) not in seen:
            lines.append(f"M{middle} {top + 14}V{bottom - 15}")
        else:
            y += 16 if (source, target) in seen else 0
            start, end = middle + halves[row[source]], middle + halves[row[target]] + 2
            lines.append(
                f"M{start} {top + 6}C{column} {top + 14} {column} {y - 22} {column} {y}"
                f"S{column} {bottom - 14} {end} {bottom - 7}"
            )
        seen.add((source, target))
        if text:
            labels.append(
                f'<rect x="{column - 4}" y="{y - 10}" width="{len(text) * _CHARACTER + 8:.0f}" height="20" rx="4"/>'
                f'<text x="{column}" y="{y + 4}">{html.escape(text)}</text>'
            )
    marks = []
    for vertex, text in zip(vertices, names, strict=True):
        y = row[vertex] * _ROW + 32
        if graph.vertex_ops:
            box = (
                f'x="{middle - halves[row[vertex]]}" y="{y - 14}" width="{2 * halves[row[vertex]]}" height="28" rx="6"'
            )
            marks.append(f'<rect class="vertex" {box}/>')
        else:
            marks.append(f'<circle class="vertex" cx="{middle}" cy="{y}" r="13"/>')
            if vertex in graph.outputs:
                marks.append(f'<circle class="ring" cx="{middle}" cy="{y}" r="16"/>')
        marks.append(f'<text class="vertex" x="{middle}" y="{y + 4}">{html.escape(text)}</text>')
    arcs = "".join(f'<path d="{line}" marker-end="url(#tip)"/>' for line in lines)
    said = "; ".join(
        f"{names[row[source]]} to {names[row[target]]}" + (f" by {text}" if text else "")
        for (source, target), text in zip(graph.edges, texts, strict=True)
    )
    body = f'<g class="lines">{arcs}</g><g class="labels">{"".join(labels)}</g>{"".join(marks)}'
    return _figure(body, x + (0 if graph.edge_ops else half), len(vertices) * _ROW, name, said)


def _vertex_name(graph: Graph, ops: Sequence[str], vertex: int) -> str:
    if vertex in graph.inputs and len(graph.inputs) == 1:
        return "in"
    if graph.vertex_ops:
        return ops[graph.vertex_ops[vertex]] if graph.vertex_ops[vertex] >= 0 else "out"
    return "out" if graph.outputs == (vertex,) else str(vertex)


def _layers(space: SearchSpace, arch: object) -> str:
    """Draw the parts of a network as rows: as long as their most channels, with their size and convolutions."""
    rows: list[dict] = []
    for step in exported(space, arch).network.steps:
        if step.owner is None or len(step.shape) != 4 or step.op == "batch_norm":
            continue
        if not rows or rows[-1]["part"] != step.owner[0]:
            rows.append({"part": step.owner[0], "layers": 0, "macs": 0, "channels": 0, "pixels": step.shape[1]})
        last = rows[-1]
        last["layers"] += 1
        last["macs"] += step.macs
        last["channels"] = max(last["channels"], step.shape[3])
        last["pixels"] = step.shape[1]
    longest = max((row["channels"] for row in rows), default=1)
    name = max(len(row["part"]) for row in rows) * _CHARACTER + 16
    shades = {pixels: i for i, pixels in enumerate(dict.fromkeys(row["pixels"] for row in rows))}
    body = []
    for i, row in enumerate(rows):
        y, length = i * 26 + 4, max(4.0, 170 * math.sqrt(row["channels"] / longest))
        opacity = 1 - 0.75 * shades[row["pixels"]] / max(1, len(shades))
        text = f"{row['channels']} channels, {row['pixels']}x{row['pixels']}"
        bar = f'x="{name:.0f}" y="{y}" width="{length:.0f}" height="20" rx="3" opacity="{opacity:.2f}"'
        body.append(
            f'<text x="4" y="{y + 15}">{html.escape(row["part"])}</text><rect class="bar" {bar}/>'
            f'<text x="{name + length + 8:.0f}" y="{y + 15}">{text}</text>'
        )
    said = "; ".join(f"{row['part']}: {row['channels']} channels at {row['pixels']} pixels" for row in rows)
    return _figure(f'<g class="rows">{"".join(body)}</g>', name + 170 + 170, len(rows) * 26 + 8, "layers", said)


def _figure(body: str, width: float, height: float, name: str, said: str) -> str:
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    return (
        f'<figure><svg role="img" aria-label="{html.escape(said)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" xmlns="http://www.w3.org/2000/svg">{tip}{body}</svg>'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
    )
