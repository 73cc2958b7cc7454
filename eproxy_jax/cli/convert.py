"""``eproxy convert`` prints a file of architectures, in any form, as JSON lines of canonical strings and values."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from eproxy_jax import files
from eproxy_jax.cli import common
from eproxy_jax.cli.common import UsageError
from eproxy_jax.errors import quoted

_EPILOG = """\
examples:
  eproxy convert --space nasbench201 accuracy.csv
  eproxy convert --space nasbench201 --dataset cifar10 zc_nasbench201.json --out archs.jsonl
  zcat runs.json.gz | eproxy convert --space nds_darts - | head

One line an architecture, in the order of the file: {"arch": the space's own string, then the numbers beside it by
name}. Every command reads such lines.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    convert = common.add_command(commands, "convert", "print a file of architectures as JSON lines", _EPILOG)
    convert.add_argument("file", metavar="FILE", help="architectures in any common form; - for standard input")
    convert.add_argument("--space", metavar="NAME", help="search space")
    convert.add_argument("--config", metavar="FILE[:VARIANT]", help="configuration file, for the sizes of its space")
    common.add_dataset_flag(convert)
    convert.add_argument("--out", metavar="FILE", help="a new file (default: standard output)")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.check_source(arguments, overrides)
    lines = _lines(arguments, overrides)
    if arguments.out is None:
        for line in lines:
            sys.stdout.write(line)
        sys.stdout.flush()
        return 0
    out = files.writable(arguments.out)
    if out.exists():
        raise UsageError(f"{out}: there is such a file: remove it, or name another --out")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: there is no folder {quoted(str(out.parent))}: make it, or name another --out")
    content = "".join(lines)
    files.write_atomically(out, content)
    print(f"archs:   {Path(out)}  ({content.count(chr(10))} architectures)")
    return 0


def _lines(arguments: argparse.Namespace, overrides: Sequence[str]) -> Iterator[str]:
    """One JSON line an architecture, as they are read."""
    from eproxy_jax.runs.archs import iterate

    space = common.space_of(arguments, overrides)
    for record in iterate(arguments.file, space, arguments.dataset, shown=not sys.stdout.isatty()):
        yield json.dumps({"arch": space.format(record.arch), **record.values}) + "\n"
