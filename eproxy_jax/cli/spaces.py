"""``eproxy spaces`` lists the search spaces, their sizes, and every notation that they read, with an example."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import common

if TYPE_CHECKING:
    from eproxy_jax.spaces import SearchSpace

_EPILOG = """\
examples:
  eproxy spaces
  eproxy spaces nasbench201
  eproxy spaces nasbench201 --json
"""
_COLUMNS = 118


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    parser = common.add_command(commands, "spaces", "list search spaces, their sizes and notations", _EPILOG)
    parser.add_argument("name", nargs="?", metavar="NAME", help="one space: its sizes, and its notations with examples")
    parser.add_argument("--json", action="store_true", help="JSON: one object, or a list of them")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.refuse_overrides(overrides)
    from eproxy_jax import spaces

    if arguments.name is None:
        rows = [_summary(spaces.get(name)) for name in spaces.names()]
        if arguments.json:
            print(json.dumps(rows))
            return 0
        for row in rows:
            print(f"{row['space']:16} {row['size']:31} {row['paper']}".rstrip())
        print("\neproxy spaces NAME shows the sizes and the notations of one")
        return 0
    description = _description(spaces.get(arguments.name))
    print(json.dumps(description) if arguments.json else _page(description))
    return 0


def _summary(space: SearchSpace) -> dict[str, Any]:
    return {"space": space.name, "size": space.size, "paper": space.paper}


def _description(space: SearchSpace) -> dict[str, Any]:
    """What there is to say of a space, as plain data."""
    meanings = _attributes(type(space))
    notations = space.notations()
    return {
        **_summary(space),
        "sizes": [
            {"name": field.name, "default": getattr(space, field.name), "meaning": meanings.get(field.name, "")}
            for field in dataclasses.fields(space)
        ],
        "canonical": space.format(space.canonical(space.parse(notations[0].example))),
        "notations": [notation._asdict() for notation in notations],
    }


def _attributes(kind: type) -> dict[str, str]:
    """Attributes that the docstrings of a class and its bases describe."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = (
            inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        )
        for name, text in re.findall(r"^  (\w+): (.*(?:\n   .*)*)", section, re.MULTILINE):
            found[name] = re.sub(r":\w+:`([^`]+)`", r"\1()", " ".join(text.split()))
    return found


def _page(description: dict[str, Any]) -> str:
    """The description as text."""
    lines = [
        f"{description['space']}: {description['size']}",
        description["paper"],
        "",
        "sizes (configuration fields):",
    ]
    for size in description["sizes"]:
        lines += _wrapped(f"  {size['name']} = {size['default']!r}  {size['meaning']}", "      ")
    lines += ["", "the first example below, in canonical form:", f"  {description['canonical']}", ""]
    lines.append("notations; text, JSON and Python values are read alike, keys of an object beside them are values:")
    for notation in description["notations"]:
        lines += _wrapped(f"  {notation['name']}: {notation['meaning']}", "    ")
        example = notation["example"]
        text = example if isinstance(example, str) else json.dumps(example)
        lines.append(f"    {' '.join(text.split())}")
    return "\n".join(lines)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, subsequent_indent=indent, drop_whitespace=True)
