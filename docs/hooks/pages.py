"""This module is the hook of MkDocs: it adds the pages that are written by code, and makes links lead into the site."""

import re
from pathlib import Path
from typing import Any

import api_pages
import example_pages
import links
import space_pages
from links import ROOT
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from eproxy_jax import spaces

_TEXT = {".py": "py", ".toml": "toml", ".txt": "text"}


def generated() -> dict[str, str]:
    """Return the Markdown of the pages that are written by code, by their place below docs/."""
    found = {f"spaces/{name}.md": space_pages.page(name) for name in spaces.names()}
    found |= {f"examples/{path.stem}.md": example_pages.page(path) for path in example_pages.examples()}
    return found | {"examples/index.md": example_pages.index()} | api_pages.pages()


def sources(pages: dict[str, str]) -> dict[str, str | bytes]:
    """Return copies of the files outside docs/ that pages link to, by their place in the site.

    Args:
      pages: Markdown by path relative to the repository.
    """
    found: dict[str, str | bytes] = {}
    waiting = [target for path, text in pages.items() for target in links.linked(text, path)]
    while waiting:
        path = waiting.pop()
        uri = links.site_uri(path)
        if path.startswith("docs/") or uri.startswith("examples/") or uri in found:
            continue
        file = ROOT / path
        if file.is_dir():
            listed = sorted(file.glob("*.md")) or sorted(file.glob("*.py"))
            lines = [f"- [{entry.stem.replace('_', ' ')}]({entry.name})" for entry in listed]
            text = f"# {path}\n\n" + "\n".join(lines) + "\n"
            waiting += [f"{path}/{entry.name}" for entry in listed]
            found[uri] = links.rewritten(text, f"{path}/index.md")
        elif file.suffix == ".md":
            text = file.read_text()
            waiting += links.linked(text, path)
            found[uri] = links.rewritten(text, path)
        elif file.suffix in _TEXT:
            found[uri] = f"# {path}\n\n```{_TEXT[file.suffix]}\n{file.read_text()}```\n"
        else:
            found[uri] = file.read_bytes()
    return found


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
    written = generated()
    pages = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    pages |= {f"docs/{uri}": text for uri, text in written.items()}
    for uri, content in (written | sources(pages)).items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page below docs/; those of files outside are rewritten already."""
    uri = page.file.src_uri
    return markdown if uri.startswith("source/") else links.rewritten(markdown, f"docs/{uri}")


def on_page_content(html: str, **_: Any) -> str:
    """Drop the roles of docstrings, such as the ``:func:`` of ``:func:`score```; the name stays."""
    return re.sub(r":(?:class|func|meth|mod|attr|data):(?=<code>)", "", html)
