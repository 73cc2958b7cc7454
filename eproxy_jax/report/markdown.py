"""This module prints a page as Markdown, with its figures and drawings as pictures beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from eproxy_jax.report import blocks
from eproxy_jax.report.blocks import Page
from eproxy_jax.report.html import vl_convert
from eproxy_jax.report.numbers import kept

MARK = "<!-- made by eproxy_jax report -->"
_MOST_POINTS = 3000  # of a picture: more lie upon each other
_MARKUP = re.compile(r"([\\`*_\[\]|~#$])")
_CONFIG = {"background": "white", "font": "DejaVu Sans", "range": {"ramp": {"scheme": "viridis", "extent": [0, 0.92]}}}


def render(page: Page, stem: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return a page as Markdown, and the figures that it shows, by name of file.

    Args:
      page: the page.
      stem: how names of figures begin.
    """
    parts = [MARK, f"# {escaped(page.title)}", " ".join(map(escaped, page.summary))]
    specs: dict[str, dict[str, Any]] = {}
    for section in page.sections:
        own: list[str] = []
        for block in section.blocks:
            if isinstance(block, blocks.Figure):
                name = f"{stem}.{block.name}.png"
                specs[name] = _filled(block, page.data)
                own.append(f"![{escaped(block.caption)}](<{name}>)\n\n{escaped(block.caption)}")
            elif text := _block(block):
                own.append(text)
        if own:
            parts += [f"## {escaped(section.title)}", *own]
    parts.append(f"Made by eproxy\\_jax {escaped(page.version)}.")
    return "\n\n".join(part for part in parts if part) + "\n", specs


def escaped(text: str) -> str:
    r"""Return a text that Markdown shows as it is.

    Example:
      >>> escaped("a|b_<c>")
      'a\\|b\\_&lt;c&gt;'
    """
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def code(text: str) -> str:
    """Return a text as code that may stand in a table, whatever signs it holds."""
    return "<code>" + html.escape(" ".join(text.split()), quote=False).translate(_IN_TABLES) + "</code>"


_IN_TABLES = {ord(sign): f"&#{ord(sign)};" for sign in "|\\`*_[]~$"}


def _block(block: blocks.Block) -> str:
    if isinstance(block, blocks.Text):
        if block.is_list:
            return "\n".join([escaped(block.sentences[0]), "", *(f"- {escaped(one)}" for one in block.sentences[1:])])
        return " ".join(map(escaped, block.sentences))
    if isinstance(block, blocks.Table):
        return _table(block)
    if isinstance(block, blocks.Drawings):
        rows = [f"{one.title}. {code(one.arch)}: {escaped(one.facts)}" for one in block.drawings]
        return "\n".join([escaped(block.caption), "", *rows])
    return ""  # the table of all architectures is in the files themselves


def _table(table: blocks.Table) -> str:
    head = "| " + " | ".join(escaped(one.name) for one in table.headers) + " |"
    rule = "|" + "|".join("---:" if one.is_number else "---" for one in table.headers) + "|"
    lines = [f"| {' | '.join(code(c.text) if c.is_code else escaped(c.text) for c in row)} |" for row in table.rows]
    return "\n".join([escaped(table.caption), "", head, rule, *lines])


def _filled(figure: blocks.Figure, data: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return the spec of a figure with the rows that the HTML page would make of its table, thinned."""
    spec = dict(figure.spec)
    if isinstance(figure, blocks.Scatter):
        rows = points(data, figure.across[0], figure.up[0])
        spec["datasets"] = {"archs": rows}
    if spec.get("width") == "container":
        spec["width"] = 640
    return {**spec, "config": _CONFIG}


def points(data: Mapping[str, list[Any]], across: str, up: str) -> list[dict[str, Any]]:
    """Return the points of a scatter plot: those with both values, thinned if they are many."""
    x, y, macs = (_scaled(data, name) for name in (across, up, "MACs (M)"))
    rows = [
        {"arch": arch, "x": a, "y": b, "macs": c}
        for arch, a, b, c in zip(data["arch"], x, y, macs, strict=True)
        if a is not None and b is not None
    ]
    if len(rows) <= _MOST_POINTS:
        return rows
    return [rows[i] for i in kept(np.asarray([row["y"] for row in rows], float), _MOST_POINTS)]


def _scaled(data: Mapping[str, list[Any]], name: str) -> list[Any]:
    if name != "MACs (M)":
        return data[name]
    return [None if value is None else value / 1e6 for value in data["macs as written"]]


def picture(spec: Mapping[str, Any]) -> bytes:
    """Return a figure as a PNG.

    Raises:
      ValueError: vl-convert is not installed.
    """
    return vl_convert().vegalite_to_png(dict(spec), scale=1.5)
