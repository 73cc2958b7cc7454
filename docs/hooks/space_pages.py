"""This module writes the page of a search space out of the space itself: a new space gets its page without a hand."""

import dataclasses
import inspect
import json
import re
from typing import Any

import drawings
from links import ROOT

from eproxy_jax import spaces


def page(name: str) -> str:
    """Return the Markdown of a space's page: sizes, notations, a drawing, and how to use it."""
    space = spaces.get(name)
    notations = space.notations()
    arch = space.canonical(space.parse(notations[0].example))
    text = space.format(arch)
    parts = [
        f"# {name}",
        f"{space.paper}. {space.size[0].upper()}{space.size[1:]}.{_section(name)}",
        "## An architecture",
        _drawn(space, arch, text),
        "## Sizes",
        "Fields of the space, by default those of the benchmark: `ep.spaces.get`, or `sizes` in a configuration.",
        _sizes(space),
        "## Notations",
        "What `parse`, `--arch` and every file of architectures may hold. Text, JSON and Python values are read alike.",
        *(_notation(notation) for notation in notations),
        "## From Python",
        _snippet(name, text),
        "## From the command line",
        f"```bash\neproxy spaces {name}\neproxy plan --space {name} --sample 20\n"
        f"eproxy score --space {name} --sample 20 --seed 0 --workdir runs/{name}\n```",
        _results(name),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(name: str) -> str:
    """Link to the section of docs/spaces.md that names the space in its first lines."""
    text = (ROOT / "docs" / "spaces.md").read_text()
    for heading, body in re.findall(r"^## (.+)\n\n((?:.+\n)+)", text, re.MULTILINE):
        if f"`{name}`" in body and not body.startswith("|"):
            anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            return f" What its programs share, and its codes: [{heading}](../spaces.md#{anchor})."
    return ""


def _drawn(space: spaces.SearchSpace, arch: Any, text: str) -> str:
    graphs = space.structure(arch).graphs
    numbered = "Circles are feature maps and lines are operations; a double circle is an output."
    kind = (
        numbered
        if any(graph.edge_ops for graph in graphs.values())
        else "Boxes are operations; lines are feature maps."
        if graphs
        else "A row is a part of the network: its most channels, and the size of its maps for a 32-pixel image."
    )
    counts = f"{space.macs(arch):,} multiply-accumulates and {space.params(arch):,} parameters"
    return f"{kind} The backbone has {counts}.\n\n```text\n{text}\n```\n\n{drawings.drawing(space, arch)}"


def _sizes(space: spaces.SearchSpace) -> str:
    meanings: dict[str, str] = {}
    for base in reversed(type(space).__mro__):
        section = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        for field, meaning in re.findall(r"^  (\w+): (.*(?:\n   .*)*)", section.partition("\n\n")[0], re.MULTILINE):
            meanings[field] = " ".join(meaning.split())
    rows = [
        f"| `{field.name}` | `{getattr(space, field.name)!r}` | {meanings.get(field.name, '')} |"
        for field in dataclasses.fields(space)
    ]
    return "\n".join(["| size | default | meaning |", "|---|---|---|", *rows])


def _notation(notation: Any) -> str:
    example = notation.example if isinstance(notation.example, str) else json.dumps(notation.example)
    return f"**{notation.name}**: {notation.meaning}\n\n```text\n{example}\n```"


def _snippet(name: str, text: str) -> str:
    return (
        f"```python\nimport eproxy_jax as ep\n\nspace = ep.spaces.get({name!r})\narch = space.parse({text!r})\n"
        "print(space.macs(arch), space.params(arch), space.is_connected(arch))\n"
        f"print(len(space.neighbours(arch)), space.format(space.sample(1, seed=0)[0]))\n```"
    )


def _results(name: str) -> str:
    found = [
        path
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))
        if re.search(rf"(^|_){name}(_|$)", path.stem)
    ]
    if not found:
        return ""
    lines = [f"- [{path.stem.replace('_', ' ')}](../../benchmarks/results/{path.name})" for path in found]
    return "## Measured\n\n" + "\n".join(lines)
