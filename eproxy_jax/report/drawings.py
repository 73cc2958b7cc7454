"""This module draws the graphs of an architecture as small SVG: vertices in a row, edges as arcs, a colour for each op.

A layout in a row needs no search, shows several edges between two vertices, and reads from left to right.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from eproxy_jax.report.figures import PALETTE
from eproxy_jax.spaces.structure import Graph, Structure

_STEP, _RADIUS, _MARGIN, _RISE = 46, 9, 12, 15  # pixels
_DASHES = ("", "6 3", "2 3", "9 3 2 3")  # with the colours: 32 operations that differ


def style_of(op: int) -> str:
    """Return the SVG attributes of an operation's line; further operations reuse the colours with dashes."""
    dash = _DASHES[op // len(PALETTE) % len(_DASHES)]
    return f'stroke="{PALETTE[op % len(PALETTE)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def legend(structure: Structure) -> tuple[tuple[str, str], ...]:
    """Return (name, drawing of a short line) of each operation."""
    sample = (
        '<svg viewBox="0 0 28 10" width="28" height="10" aria-hidden="true"><path d="M1 5H27" fill="none" {}/></svg>'
    )
    lines = [(name, sample.format(f'stroke-width="4" {style_of(op)}')) for op, name in enumerate(structure.ops)]
    return tuple(lines)


def draw(graph: Graph, ops: Sequence[str], name: str) -> str:
    """Return the drawing of a graph, with a description for those who do not see it.

    Args:
      graph: the graph.
      ops: names of the operations.
      name: of the graph.
    """
    count = max((max(edge) for edge in graph.edges), default=0)
    count = 1 + max(count, *graph.outputs, *graph.inputs) if graph.outputs or graph.inputs else 1 + count
    known: dict[tuple[int, int], int] = {}
    paths, above, below = [], 0, 0
    for i, (source, target) in enumerate(graph.edges):
        nth = known[source, target] = known.get((source, target), -1) + 1
        span = target - source
        # Neighbours are joined straight; longer edges bow up and down in turn, so that few of them cross.
        rise = 0 if span == 1 and nth == 0 else _RISE * (span - 1 + nth) * (1 if (span + nth + source) % 2 else -1)
        above, below = min(above, rise), max(below, rise)
        colour = style_of(graph.edge_ops[i]) if graph.edge_ops else 'stroke="currentColor" stroke-opacity=".45"'
        paths.append((source, target, rise, colour))
    top = _MARGIN + _RADIUS - above
    width, height = _STEP * (count - 1) + 2 * (_MARGIN + _RADIUS), top + below + _MARGIN + _RADIUS
    drawn = "".join(_edge(*path, top) for path in paths)  # pyright: ignore[reportCallIssue]
    drawn += "".join(_vertex(graph, vertex, top) for vertex in range(count))
    about = escape(f"{name}: {describe(graph, ops)}")
    return (
        f'<svg class="graph" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{about}</title>{drawn}</svg>"
    )


def _x(vertex: int) -> int:
    return _MARGIN + _RADIUS + _STEP * vertex


def _edge(source: int, target: int, rise: int, colour: str, y: int) -> str:
    x, end = _x(source), _x(target)
    # The top of a cubic curve whose handles are 4/3 away is 1 away.
    handle = y + rise * 4 / 3
    curve = f"M{x} {y}C{x + 12} {handle:.0f} {end - 12} {handle:.0f} {end} {y}"
    return f'<path d="{curve}" fill="none" stroke-width="3" {colour}/>'


def _vertex(graph: Graph, vertex: int, y: int) -> str:
    fill = "var(--surface, #fff)"
    op = graph.vertex_ops[vertex] if graph.vertex_ops else -1
    border = style_of(op) if op >= 0 else 'stroke="currentColor"'
    if op >= 0:
        fill = PALETTE[op % len(PALETTE)]
    text = "in" if vertex in graph.inputs else "out" if vertex in graph.outputs and op < 0 else ""
    label = (
        f'<text x="{_x(vertex)}" y="{y + 2.5}" text-anchor="middle" font-size="7.5" fill="currentColor">{text}</text>'
    )
    circle = f'<circle cx="{_x(vertex)}" cy="{y}" r="{_RADIUS}" fill="{fill}" stroke-width="1.5" {border}/>'
    return circle + (label if text else "")


def describe(graph: Graph, ops: Sequence[str]) -> str:
    """Return a graph in words.

    Example:
      >>> describe(Graph(((0, 1), (1, 2)), (2,), edge_ops=(0, 1)), ("skip", "conv"))
      '0 to 1 skip; 1 to 2 conv'
    """
    if graph.vertex_ops:
        named = [f"{vertex} is {ops[op]}" for vertex, op in enumerate(graph.vertex_ops) if op >= 0]
        return "; ".join([*named, *(f"{source} to {target}" for source, target in graph.edges)])
    edges = zip(graph.edges, graph.edge_ops, strict=True)
    return "; ".join(f"{source} to {target} {ops[op]}" for (source, target), op in edges) or "no edge"
