"""This module reads lists of architectures, with or without measured values, as the field's benchmarks store them.

* ``.txt``: one architecture per line. Blank lines and lines that start with ``#`` are skipped.
* ``.json``: one of four forms.

  * a list of architectures
  * a list of ``[architecture, value]`` pairs
  * a table: an object with ``"fields"`` (names of columns) and ``"rows"``, read like a ``.csv`` file
  * a file of NDS: a list of objects with ``"net"``, or an object of such lists. The value is 100 minus the last entry
    of ``"test_ep_top1"``, errors in %.

* ``.jsonl``: one object with ``"arch"`` per line, such as ``eproxy score`` writes. Its numbers are values.
* ``.csv``: a header and rows. The reader finds the column of architectures by parsing; numeric columns are values.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eproxy_jax import spaces
from eproxy_jax.errors import did_you_mean
from eproxy_jax.spaces import SearchSpace

_VALUE = "value"  # name of the values in files that do not name them


@dataclasses.dataclass(frozen=True)
class ArchRecord:
    """One architecture of a file.

    Attributes:
      where: ``FILE:LINE`` or ``FILE: entry N``.
      arch: the architecture, as ``space.parse`` returns it.
      values: its numbers, by column name.
      is_run: True if the values are those of one training run; the architecture may have several runs.
    """

    where: str
    arch: Any
    values: dict[str, float]
    is_run: bool = False


def read_archs(path: str | Path, space: SearchSpace) -> list[ArchRecord]:
    """Read all architectures of a file, in order.

    Raises:
      FileNotFoundError: no such file.
      ValueError: unknown format, an empty file, or an entry that is no architecture of the space (with its line).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of architectures at {str(path)!r}")
    readers = {".txt": _read_txt, ".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv}
    if path.suffix not in readers:
        raise ValueError(f"{path}: architectures come as {', '.join(readers)}, not {path.suffix or 'without ending'!r}")
    try:
        entries = list(readers[path.suffix](path, space))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from error
    if not entries:
        raise ValueError(f"{path}: no architectures in it")
    return [ArchRecord(where, _parse(source, space, where), *rest) for where, source, *rest in entries]


def read_truth(path: str | Path, space: SearchSpace, column: str | None = None) -> dict[Any, float]:
    """Read measured values by architecture.

    Args:
      path: a file with values (``.json`` pairs, ``.csv``, ``.jsonl``).
      space: the search space.
      column: name of the value; needed if a file has several.

    Returns:
      Value of each architecture, higher is better. If the file has single runs, it is the mean of the runs.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no values, several columns without a choice, a value that is not finite, or one architecture with
        two values.
    """
    records = read_archs(path, space)
    columns = sorted({name for record in records for name in record.values})
    if column is None:
        if len(columns) != 1:
            found = f"columns: {', '.join(columns)}; choose one with --truth-column" if columns else "found none"
            raise ValueError(f"{path}: expected one value an architecture, {found}")
        column = columns[0]
    elif column not in columns:
        raise ValueError(f"{path}: no value column {column!r}{did_you_mean(column, columns)}; it has {columns}")
    truth: dict[Any, list[float]] = {}
    for record in records:
        value = record.values.get(column, math.nan)
        if not math.isfinite(value):
            raise ValueError(f"{record.where}: {column!r} is not a finite number")
        runs = truth.setdefault(record.arch, [])
        if record.is_run or not runs:
            runs.append(value)
        elif runs[0] != value:
            raise ValueError(f"{record.where}: the architecture stands twice, with {runs[0]} and {value}")
    return {arch: math.fsum(runs) / len(runs) for arch, runs in truth.items()}


def _parse(source: Any, space: SearchSpace, where: str) -> Any:
    try:
        return space.parse(source)
    except ValueError as error:
        for other in spaces.names():
            if other != space.name and _parses(source, spaces.get(other)):
                raise ValueError(
                    f"{where}: {source!r} belongs to space {other!r}, not {space.name!r}: "
                    f"use --space {other}, or one file a space"
                ) from error
        raise ValueError(f"{where}: {error}") from error


def _parses(source: Any, space: SearchSpace) -> bool:
    try:
        space.parse(source)
    except ValueError:
        return False
    return True


_Entries = Iterator[tuple[Any, ...]]  # (where, source, values), or (where, source, values, is_run)


def _read_txt(path: Path, space: SearchSpace) -> _Entries:
    del space
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{path}:{number}", line.strip(), {}


def _read_json(path: Path, space: SearchSpace) -> _Entries:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}): repair or regenerate the file") from error
    if isinstance(content, dict) and {"fields", "rows"} <= content.keys():
        yield from _read_table(path, content["fields"], content["rows"], space)
        return
    lists: dict[str, Any] = {str(path): content}
    if isinstance(content, dict):
        lists = {f"{path}: {name}": rows for name, rows in content.items()}
    if lists and all(map(_is_nds_list, lists.values())):
        for where, rows in lists.items():
            yield from _read_nds(where, rows)
        return
    if not isinstance(content, list):
        raise ValueError(
            f"{path}: expected a list of architectures or of [architecture, value] pairs, "
            'an object with "fields" and "rows", or the rows of an NDS file, objects with "net"'
        )
    for number, entry in enumerate(content, start=1):
        where = f"{path}: entry {number}"
        if isinstance(entry, list) and len(entry) == 2 and _is_number(entry[1]) and not _parses(entry, space):
            yield where, entry[0], {_VALUE: float(entry[1])}
        else:
            yield where, entry, {}


def _is_nds_list(content: Any) -> bool:
    """Say if this is a list of NDS rows. The first row decides, so that an error names a bad later row."""
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "net" in content[0]


def _read_nds(where: str, rows: list[Any]) -> _Entries:
    for number, row in enumerate(rows, start=1):
        place = f"{where}: entry {number}"
        if not isinstance(row, dict) or "net" not in row:
            raise ValueError(f'{place}: expected an object with "net", as the rows before it are')
        errors = row.get("test_ep_top1")
        if errors is None:  # architectures only
            yield place, row["net"], {}
            continue
        if not isinstance(errors, list) or not errors or not _is_number(errors[-1]):
            raise ValueError(f'{place}: expected "test_ep_top1" to be a list of errors in %, one an epoch')
        yield place, row["net"], {_VALUE: 100 - float(errors[-1])}, True


def _read_table(path: Path, fields: Any, rows: Any, space: SearchSpace) -> _Entries:
    if not isinstance(fields, list) or not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f'{path}: "fields" must be a list of names and "rows" a list of lists')
    for number, row in enumerate(rows, start=1):
        if len(row) != len(fields):
            raise ValueError(f"{path}: row {number}: {len(row)} cells in a row, {len(fields)} names in the fields")
    if not rows:
        return
    column = _arch_column(rows[0], space, f"{path}: row 1")
    for number, row in enumerate(rows, start=1):
        values = {str(name): float(cell) for name, cell in zip(fields, row, strict=True) if _is_number(cell)}
        yield f"{path}: row {number}", row[column], values


def _arch_column(row: list[Any], space: SearchSpace, where: str) -> int:
    """Find the column of architectures in a table.

    The first row decides, so that an error names a later row that does not parse.
    """
    found = [i for i, cell in enumerate(row) if _parses(cell, space)]
    if not found:
        others = {o for o in spaces.names() if any(_parses(cell, spaces.get(o)) for cell in row)}
        hint = f"; its rows belong to space {', '.join(sorted(others))}" if others else ""
        raise ValueError(f"{where}: no column holds architectures of space {space.name!r}{hint}")
    return found[0]


def _read_jsonl(path: Path, space: SearchSpace) -> _Entries:
    del space
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg}): repair or remove the line") from error
        if not isinstance(entry, dict) or "arch" not in entry:
            raise ValueError(f"{where}: expected an object with 'arch'")
        yield where, entry["arch"], {k: float(v) for k, v in entry.items() if k != "arch" and _is_number(v)}


def _read_csv(path: Path, space: SearchSpace) -> _Entries:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = [(reader.line_num, row) for row in reader if row]
    if not rows:
        return
    column = _arch_column(rows[0][1], space, f"{path}:{rows[0][0]}")
    for number, row in rows:
        if len(row) != len(header):
            raise ValueError(f"{path}:{number}: {len(row)} cells in a row, {len(header)} in the header")
        values = {}
        for name, cell in zip(header, row, strict=True):
            try:
                values[name] = float(cell)
            except ValueError:
                continue  # a text column
        yield f"{path}:{number}", row[column], values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
