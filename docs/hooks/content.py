"""This module holds the text of all pages that are written by code, and of files outside docs/ that pages link to."""

import api_pages
import example_pages
import links
import space_pages
from links import ROOT

from eproxy_jax import spaces

_TEXT = {".py": "py", ".toml": "toml", ".txt": "text"}


def generated() -> dict[str, str]:
    """Return the Markdown of the pages that are written by code, by their place below docs/."""
    built_in = [name for name in spaces.names() if type(spaces.get(name)).__module__.startswith("eproxy_jax.")]
    found = {f"spaces/{name}.md": space_pages.page(name) for name in built_in}  # no space of a configuration
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
