"""This module is the hook of MkDocs: it adds the pages that are written by code, and makes links lead into the site."""

import re
from pathlib import Path
from typing import Any

import api_pages
import content
import example_pages
import links
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from eproxy_jax import spaces


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are written by code into the navigation."""
    nav: list[Any] = list(config.nav or [])
    for entry in nav:
        if "Search spaces" in entry:
            entry["Search spaces"] += [f"spaces/{name}.md" for name in spaces.names()]
        if "Examples" in entry:
            entry["Examples"] = ["examples/index.md", *(f"examples/{p.stem}.md" for p in example_pages.examples())]
        if "Results" in entry:
            entry["Results"].append({"Result pages": "source/benchmarks/results/index.md"})
        if "Reference" in entry:
            entry["Reference"].append({"API": [{_api_title(uri): uri} for uri in api_pages.pages()]})
    config.nav = nav
    return config


def _api_title(uri: str) -> str:
    name = Path(uri).stem
    return "ep" if name == "index" else f"ep.{name}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are written by code, and the files outside docs/ that pages link to."""
    written = content.generated()
    pages = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    pages |= {f"docs/{uri}": text for uri, text in written.items()}
    for uri, text in (written | content.sources(pages)).items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page below docs/; those of files outside are rewritten already."""
    uri = page.file.src_uri
    return markdown if uri.startswith("source/") else links.rewritten(markdown, f"docs/{uri}")


def on_page_content(html: str, **_: Any) -> str:
    """Drop the roles of docstrings, such as the ``:func:`` of ``:func:`score```; the name stays."""
    return re.sub(r":(?:class|func|meth|mod|attr|data):(?=<code>)", "", html)
