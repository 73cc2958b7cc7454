"""This module prints a page as one HTML file that needs no network: style, script, Vega and data stand in it.

Jinja escapes every text of a file. Data and figures are JSON in script elements that no browser runs, with ``<``, ``>``
and ``&`` as escapes, so that no text can end such an element. The table of architectures is compressed: 15,625 of them
with 28 columns take a fifth of their JSON.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import importlib.resources
import json
import re
from typing import Any

from eproxy_jax.report import blocks
from eproxy_jax.report.blocks import Page

EXTRA = "pip install 'eproxy_jax[report]'"
GENERATOR = "eproxy_jax report"
_ASSETS = ("style.css", "script.js")
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def render(page: Page) -> str:
    """Return a page as HTML.

    Raises:
      ValueError: Jinja, or vl-convert where there are figures, is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError:
        raise ValueError(
            f"report: an HTML page needs Jinja, which is not installed: {EXTRA}, or --out report.md"
        ) from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    figures = {block.name: _figure(block) for block in _figures(page)}
    environment.filters["kind"] = lambda block: "Figure" if isinstance(block, blocks.Figure) else type(block).__name__
    environment.filters["breakable"] = _breakable
    template = environment.from_string(_asset("page.html"))
    style, script = (_asset(name) for name in _ASSETS)
    return template.render(
        page=page,
        generator=GENERATOR,
        style=style,
        script=script,
        vega=vega() if figures else "",
        figures=_json(figures),
        data=_packed(page.data),
    )


def _breakable(text: str) -> Any:
    """Return a long name, escaped, with places where a line may break."""
    import markupsafe

    return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[|,+/)\] ])", text))


def _figures(page: Page) -> list[blocks.Figure]:
    return [block for section in page.sections for block in section.blocks if isinstance(block, blocks.Figure)]


def _figure(figure: blocks.Figure) -> dict[str, Any]:
    own: dict[str, Any] = {"spec": figure.spec}
    if isinstance(figure, blocks.Scatter):
        own |= {"across": figure.across, "up": figure.up}
    return own


def vl_convert() -> Any:
    """Return the module vl_convert, which holds the scripts of Vega and draws pictures.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import vl_convert as module
    except ModuleNotFoundError:
        raise ValueError(
            f"report: figures need vl-convert, which is not installed: {EXTRA}, or --no-plot for a page without figures"
        ) from None
    return module


@functools.cache
def vega() -> str:
    """Return the script of Vega, Vega-Lite and Vega-Embed, which sets ``vegaEmbed``; it takes some seconds.

    Raises:
      ValueError: vl-convert is not installed.
    """
    script = vl_convert().javascript_bundle()
    return script.replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return importlib.resources.files("eproxy_jax.report").joinpath("assets", name).read_text(encoding="utf-8")


def _json(values: Any) -> str:
    r"""Return JSON that stands safely in a script element.

    Example:
      >>> _json(["</script>"])
      '["\\u003c/script\\u003e"]'
    """
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=dataclasses.asdict)
    return text.translate(_ESCAPES)


def _packed(values: Any) -> str:
    """Return JSON, compressed, as base64; equal values give equal texts."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
