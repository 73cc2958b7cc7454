"""This module names the files of a run, and refuses to replace a file that is not of that run.

All names derive from the result file, so the names of one run differ from each other, and from those of a run with
another result file. Before a run trains anything, it looks at all that it will write.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from eproxy_jax import files
from eproxy_jax.errors import quoted

ELSEWHERE = "choose another file (--out, --workdir), or move this one away"
_SOFTWARE, _SOURCE = "Software", "Source"  # keywords of a PNG's text
_PNG = b"\x89PNG\r\n\x1a\n"


def derived(out: Path, ending: str) -> Path:
    """Return the path of a file beside a result file.

    Only ``.jsonl`` is cut off, so that ``a.jsonl`` and ``a.txt`` have no file in common.

    Example:
      >>> derived(Path("a.jsonl"), ".run.json").name, derived(Path("a.txt"), ".run.json").name
      ('a.run.json', 'a.txt.run.json')
    """
    return out.with_name(out.name.removesuffix(".jsonl") + ending)


def record_path(out: Path) -> Path:
    """Return the path of the record of a result file."""
    return derived(out, ".run.json")


def figure_path(out: Path) -> Path:
    """Return the path of the figure of a result file."""
    return derived(out, ".png")


def member_path(out: Path, number: int) -> Path:
    """Return the result file of one setting of a fitted proxy."""
    return derived(out, f".member{number}.jsonl")


def share_path(out: Path, index: int, count: int) -> Path:
    """Return the file of a process's share; the result file itself for process 0."""
    return out if index == 0 else derived(out, f".{index}of{count}.jsonl")


def check_distinct(written: Iterable[Path], read: Mapping[Path, str]) -> None:
    """Check that no file of a command is written and read, and that every name can be written.

    Args:
      written: the files that the command will write.
      read: the flag of each file that the command reads.

    Raises:
      ValueError: a file is both, is no regular file, or has a name that no file can have.
      OSError: a name is too long.
    """
    for path in map(files.writable, written):
        for other, flag in read.items():
            if files.same_file(path, other):
                raise ValueError(f"{path}: would be written, but {flag} reads it: choose another --out or --workdir")


# --- the record ----------------------------------------------------------------------------------------------


def read_record(path: Path) -> dict[str, Any] | None:
    """Read the record of a run; None if there is none.

    A record that is not JSON is set aside with a warning, and the run goes on as if there were none.

    Raises:
      ValueError: the file is somebody else's.
    """
    if not files.writable(path).exists():
        return None
    try:
        record = json.loads(files.read_text(path, "run record"))
    except (ValueError, RecursionError):
        set_aside(path, "not a readable record of a run")
        return None
    if not isinstance(record, dict) or "run" not in record:
        raise ValueError(f"{path}: not a record of eproxy, and left as it is: {ELSEWHERE}")
    return record


def set_aside(path: Path, why: str) -> None:
    """Rename a file that cannot be read, and warn: nothing is lost, and the run goes on."""
    aside = next(name for n in range(10**6) if not (name := path.with_name(f"{path.name}.damaged{n or ''}")).exists())
    path.rename(aside)
    warnings.warn(f"{path}: {why}: kept as {aside.name} and made anew", RuntimeWarning, stacklevel=2)


def check_record(record: Mapping[str, Any] | None, out: Path, run: str, has_lines: bool) -> None:
    """Check that a run may replace the record of its result file.

    Args:
      record: from :func:`read_record`.
      out: the result file.
      run: fingerprint of the run.
      has_lines: True if the result file holds lines.

    Raises:
      ValueError: the record is that of another run, or of another result file.
    """
    if record is None or record["run"] == run:
        return
    if record.get("finished") is False and record.get("out") == out.name and not has_lines:
        return  # a run that was stopped before its first line
    raise ValueError(
        f"{record_path(out)}: the record of another run ({quoted(record['run'])}; this one is {quoted(run)}): "
        f"{ELSEWHERE}"
    )


def check_marked(path: Path, mark: str, value: str) -> None:
    """Check that a JSON file is absent, or holds a mark of who wrote it. One that is not JSON is set aside.

    Args:
      path: the file.
      mark: name of the field.
      value: what the field must hold.

    Raises:
      ValueError: the file has no mark, or another one.
    """
    if not files.writable(path).exists():
        return
    try:
        found = json.loads(files.read_text(path, "record"))
    except (ValueError, RecursionError):
        set_aside(path, "not readable")
        return
    if not isinstance(found, dict) or mark not in found:
        raise ValueError(f"{path}: not written by eproxy, and left as it is: {ELSEWHERE}")
    if found[mark] != value:
        raise ValueError(f"{path}: of another {mark} ({quoted(found[mark])}; this one is {quoted(value)}): {ELSEWHERE}")


def differences(own: Any, other: Any, name: str = "") -> list[str]:
    """Return where two identities differ, as ``field (this, there)`` texts.

    Example:
      >>> differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
      ['b.c (2, there 3)']
    """
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        found = []
        for key in own:
            found += differences(own[key], other.get(key), f"{name}.{key}" if name else key)
        return found
    if own == other or (isinstance(own, tuple) and list(own) == other):
        return []
    return [f"{name} ({quoted(own)}, there {quoted(other)})"]


# --- figures -------------------------------------------------------------------------------------------------


def write_figure(path: Path, source: Path, draw: Callable[[Any, dict[str, str]], None]) -> None:
    """Write a figure, with the name of the file that it shows as a text inside.

    Args:
      path: the figure.
      source: the file that it shows.
      draw: (binary file, text by keyword) -> None, such as ``figure.savefig``.
    """
    import io

    content = io.BytesIO()
    draw(content, {_SOFTWARE: "eproxy_jax", _SOURCE: json.dumps(source.name)})
    files.write_atomically(path, content.getvalue())


def check_figure(path: Path, source: Path) -> None:
    """Check that there is no figure yet, or one of the same file.

    Raises:
      ValueError: the figure is somebody else's, or shows another file.
    """
    if not files.writable(path).exists():
        return
    texts = _png_texts(path)
    if texts.get(_SOFTWARE) != "eproxy_jax" or texts.get(_SOURCE) != json.dumps(source.name):
        raise ValueError(
            f"{path}: not the figure of {source.name}, and left as it is: choose another --out or --workdir, or "
            "--no-plot"
        )


def _png_texts(path: Path) -> dict[str, str]:
    """Return the texts in front of a PNG's pixels; none if it is no PNG."""
    with path.open("rb") as file:
        content = file.read(2**16)
    found: dict[str, str] = {}
    position = len(_PNG)
    while content.startswith(_PNG) and position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        data = content[position + 8 : position + 8 + size]
        if kind == b"IDAT":
            break
        if kind == b"tEXt" and b"\0" in data:
            keyword, text = data.split(b"\0", 1)
            found[keyword.decode("latin-1")] = text.decode("latin-1")
        position += 12 + size
    return found
