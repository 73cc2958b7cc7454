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
    spans = sorted({row[b] - row[a] for a, b in graph.edges})
    columns, x = {}, 74.0
    for span in spans:  # each length has a column of its own for its labels, so that none covers another
        texts = [_label(graph, ops, i) for i, (a, b) in enumerate(graph.edges) if row[b] - row[a] == span]
        columns[span] = x
        x += max(map(len, texts)) * _CHARACTER + 24 if any(texts) else 34
    boxes = [len(_vertex_label(graph, ops, v)) for v in vertices]
    left = max(60.0, max(boxes) * _CHARACTER / 2 + 14) if graph.vertex_ops else 60.0
    shift = left - 60.0
    lines, labels = [], []
    ends: dict[tuple[int, int], int] = {}
    for i, (a, b) in enumerate(graph.edges):
        twins = ends[a, b] = ends.get((a, b), 0) + 1
        y1, y2, span = row[a] * _ROW + 32, row[b] * _ROW + 32, row[b] - row[a]
        column = columns[span] + shift + (boxes and graph.vertex_ops and max(boxes) * _CHARACTER / 2 or 0)
        middle, text = (y1 + y2) / 2 + 16 * (twins - 1), _label(graph, ops, i)
        if span == 1 and twins == 1:
            lines.append(f'<path d="M{left} {y1 + 14}V{y2 - 15}" marker-end="url(#tip)"/>')
        else:
            lines.append(
                f'<path d="M{left + 13} {y1 + 6}C{column} {y1 + 14} {column} {middle - 22} {column} {middle}'
                f'S{column} {y2 - 14} {left + 15} {y2 - 7}" marker-end="url(#tip)"/>'
            )
        if text:
            width = len(text) * _CHARACTER + 8
            at = column - 4
            labels.append(
                f'<rect x="{at:.0f}" y="{middle - 10:.0f}" width="{width:.0f}" height="20" rx="4"/>'
                f'<text x="{at + 4:.0f}" y="{middle + 4:.0f}">{html.escape(text)}</text>'
            )
    marks = []
    for vertex in vertices:
        y, text = row[vertex] * _ROW + 32, _vertex_label(graph, ops, vertex)
        if graph.vertex_ops:
            width = len(text) * _CHARACTER + 14
            marks.append(f'<rect class="vertex" x="{left - width / 2:.0f}" y="{y - 14}" width="{width:.0f}" height="28" rx="6"/>')
        else:
            marks.append(f'<circle class="vertex" cx="{left}" cy="{y}" r="13"/>')
            if vertex in graph.outputs:
                marks.append(f'<circle class="ring" cx="{left}" cy="{y}" r="10"/>')
        marks.append(f'<text class="vertex" x="{left}" y="{y + 4}">{html.escape(text)}</text>')
    width, height = x + shift + (max(boxes) * _CHARACTER / 2 if graph.vertex_ops else 0) + 20, len(vertices) * _ROW
    said = f"{name}: " + "; ".join(
        f"{row[a]} to {row[b]}" + (f" by {_label(graph, ops, i)}" if graph.edge_ops else "")
        for i, (a, b) in enumerate(graph.edges)
    )
    body = f'<g class="lines">{"".join(lines)}</g><g class="labels">{"".join(labels)}</g>{"".join(marks)}'
    return _figure(body, width, height, name, said)


def _label(graph: Graph, ops: Sequence[str], edge: int) -> str:
    return ops[graph.edge_ops[edge]] if graph.edge_ops else ""


def _vertex_label(graph: Graph, ops: Sequence[str], vertex: int) -> str:
    if vertex in graph.inputs:
        return "in" if len(graph.inputs) == 1 else f"in {1 + graph.inputs.index(vertex)}"[-1:] if not graph.vertex_ops else "in"
    if graph.vertex_ops:
        return ops[graph.vertex_ops[vertex]] if graph.vertex_ops[vertex] >= 0 else "out"
    return "out" if graph.outputs == (vertex,) else str(vertex)


def _layers(space: SearchSpace, arch: object) -> str:
    """Draw the parts of a network as rows: as long as their most channels, with their size and convolutions."""
    rows: list[dict[str, int | str]] = []
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
        body.append(
            f'<text x="4" y="{y + 15}">{html.escape(row["part"])}</text>'
            f'<rect class="bar" x="{name:.0f}" y="{y}" width="{length:.0f}" height="20" rx="3" opacity="{opacity:.2f}"/>'
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
