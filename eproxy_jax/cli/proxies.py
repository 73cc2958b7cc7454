"""``eproxy proxies`` lists the proxies: what each measures, what it reads, its paper, and the sets it is in."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from eproxy_jax.cli import common

_EPILOG = """\
examples:
  eproxy proxies
  eproxy proxies naswot
  eproxy proxies --json
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    parser = common.add_command(commands, "proxies", "list proxies, their papers and what they need", _EPILOG)
    parser.add_argument("name", nargs="?", metavar="NAME", help="one proxy, or one sum of ranks")
    parser.add_argument("--json", action="store_true", help="JSON: one object, or a list of them")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.refuse_overrides(overrides)
    rows = _rows()
    if arguments.name is not None:
        row = next((row for row in rows if row["proxy"] == arguments.name), None)
        if row is None:
            from eproxy_jax.proxies import get

            get(arguments.name)  # says what there is
        print(json.dumps(row) if arguments.json else _page(row or {}))
        return 0
    if arguments.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['proxy']:14} {','.join(row['needs']):20} {','.join(row['sets']):10} {row['summary']}".rstrip())
    print("\neproxy score --proxy NAME[,NAME...] computes them; eproxy proxies NAME shows the paper of one")
    return 0


def _rows() -> list[dict[str, Any]]:
    """What there is to say of each proxy, then of each sum of ranks, as plain data."""
    from eproxy_jax.columns import EPROXY, EPROXY_SOURCE, EPROXY_SUMMARY
    from eproxy_jax.proxies import AGGREGATES, SETS, get, names, resolve
    from eproxy_jax.proxies.aggregates import SOURCES

    found = []
    for name in names():
        proxy = get(name)
        beside = [other for other in proxy.made_by.columns if other != name]
        found.append(_row(name, proxy.needs, proxy.summary, proxy.source, SETS, beside))
    found.append(_row(EPROXY, ("images",), EPROXY_SUMMARY, EPROXY_SOURCE, {"all": (EPROXY,)}, []))
    for name, columns in AGGREGATES.items():
        reads = {need for proxy in resolve(list(columns)) for need in proxy.needs}
        summary = f"sum of ln(rank) of {', '.join(columns)}"
        found.append(_row(name, sorted(reads), summary, SOURCES[name], {}, list(columns)))
    return found


def _row(name: str, needs: Sequence[str], summary: str, paper: str, sets: Any, beside: list[str]) -> dict[str, Any]:
    return {
        "proxy": name,
        "needs": list(needs),
        "summary": summary,
        "paper": paper,
        "sets": [key for key, members in sets.items() if name in members],
        "computed_with": beside,
    }


def _page(row: dict[str, Any]) -> str:
    lines = [
        f"{row['proxy']}: {row['summary']}",
        f"paper: {row['paper'] or '-'}",
        f"needs: {', '.join(row['needs']) or 'the architecture alone'}",
        f"sets: {', '.join(row['sets']) or '-'}",
        f"computed with: {', '.join(row['computed_with']) or '-'}",
    ]
    return "\n".join(line for text in lines for line in textwrap.wrap(text, 118, subsequent_indent="  "))
