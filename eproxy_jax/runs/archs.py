"""This module reads lists of architectures, with or without measured values, as people and benchmarks store them.

The content says what a file is; its name does not count.

* lines: an architecture a line; with values behind it; cells of any common delimiter, with or without a header
* JSON lines, and lines of Python's lists and dicts
* JSON: a list of architectures, of rows ``[architecture, value, ...]`` or of records; an object by architecture, by
  hash or by name; a table of ``fields`` and ``rows``, or of columns; files of NDS and of NAS-Bench-Suite-Zero

Where in a row or a record the architecture is, ``entries.py`` finds by trying. All numbers beside it are values.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eproxy_jax import progress, spaces
from eproxy_jax.errors import listed, quoted
from eproxy_jax.runs import contents, entries, tables
from eproxy_jax.runs.entries import MISSING, SAMPLE, Plan, Repeated, Trial
from eproxy_jax.spaces import SearchSpace

_MAX_LEVELS = 3  # objects around the lists of a file: search spaces, data sets
_MAX_SETS = 64  # lists, or columns, that one object holds by name
_MAX_PYTHON = 2**22  # characters of a file that is one list or dict of Python
_TABLES = (("fields", "rows"), ("columns", "data"), ("header", "rows"))
_SILENT_SECONDS = 2  # of reading, before progress is shown


@dataclasses.dataclass(frozen=True, slots=True)
class ArchRecord:
    """One architecture of a file.

    Attributes:
      where: ``FILE:LINE`` or ``FILE: entry N``.
      arch: the architecture, as ``space.parse`` returns it.
      values: the finite numbers beside it, by name.
    """

    where: str
    arch: Any
    values: dict[str, float]


def read_archs(path: str | Path, space: SearchSpace, dataset: str | None = None) -> list[ArchRecord]:
    """Read all architectures of a file, in order.

    Args:
      path: the file; ``-`` is standard input.
      space: the search space.
      dataset: which data set, of a file that holds several by name; files that hold none ignore it.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no architectures of the space, an entry that is none (with its line), or several data sets.
    """
    return list(iterate(path, space, dataset))


def iterate(
    path: str | Path, space: SearchSpace, dataset: str | None = None, shown: bool = True
) -> Iterator[ArchRecord]:
    """Yield the records of :func:`read_archs` one by one, as they are parsed; ``shown``: show progress if long."""
    name = contents.name_of(path)
    text = contents.read_text(path)
    lists = _located(text, name, space, dataset)
    total = sum(len(found.entries) for found in lists)
    records = (record for found in lists for record in _records(found, space))
    yield from progress.track(records, "architectures read", _SILENT_SECONDS, total) if shown else records


class _List(NamedTuple):
    """Entries that follow one plan.

    Attributes:
      place: what messages write before an entry's number.
      entries: the entries; lines and their numbers where there is a reading.
      plan: where in an entry the architecture is.
      numbers: of the entries; from 1 on if absent.
      reading: how lines become entries.
    """

    place: str
    entries: Sequence[Any]
    plan: Plan
    numbers: Sequence[int | str] | None = None
    reading: tables.Reading | None = None


def _records(found: _List, space: SearchSpace) -> Iterator[ArchRecord]:
    for number, entry in zip(found.numbers or itertools.count(1), found.entries, strict=False):
        if found.reading is not None:
            number, entry = entry
        where = f"{found.place}{number}"
        if found.reading is not None:
            try:
                entry = found.reading.entry(entry)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
        plan = found.plan
        source = plan.source(entry)
        try:
            if source is MISSING:
                raise ValueError(_expected(plan, entry))
            arch = space.parse(source)
        except ValueError as error:
            other = entries.find([entry], Trial(space)) if plan.names is None else None
            if other is None:
                raise ValueError(f"{where}: {_reason(source, space, error)}") from error
            plan = other
            arch = space.parse(plan.source(entry))
        yield ArchRecord(where, arch, plan.values(entry, where))


def _expected(plan: Plan, entry: Any) -> str:
    if plan.kind == "key":
        return f'expected an object with "{plan.place}", as the entries before it are, got {quoted(entry)}'
    return f"expected a row with the architecture in place {plan.place + 1}, got {quoted(entry)}"


def _reason(source: Any, space: SearchSpace, error: ValueError) -> str:
    """Say why a source is no architecture; name its space where it is the own string of exactly one other."""
    text = source if isinstance(source, str) else None
    if source is not MISSING and text is None:
        try:
            text = json.dumps(source, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError):
            text = None
    if text is not None and len(text) <= entries.MAX_TEXT:
        others = [name for name in spaces.names() if name != space.name and _is_own(text.strip(), spaces.get(name))]
        if len(others) == 1:
            return (
                f"{quoted(source)} belongs to space {others[0]!r}, not {space.name!r}: use --space {others[0]}, "
                "or one file a space"
            )
    return str(error)


def _is_own(text: str, space: SearchSpace) -> bool:
    """Say if a text is the canonical string of a space: codes that several spaces share are not."""
    try:
        return space.format(space.parse(text)) == text
    except ValueError:
        return False


# --- from text to lists --------------------------------------------------------------------------------------


def _located(text: str, name: str, space: SearchSpace, dataset: str | None) -> list[_List]:
    """Find the lists of entries in a text, and the plan of each."""
    trial = Trial(space)
    start = text.lstrip()[:1]
    error: ValueError | None = None
    if start and start in '[{"':
        try:
            content = load(text, name)
        except json.JSONDecodeError as damage:
            if start != '"':
                error = ValueError(f"{name}:{damage.lineno}: not JSON ({damage.msg}): repair or regenerate the file")
        else:
            return _Document(name, trial, space, dataset).lists(content)
    lines = tables.lines_of(text, name)
    if not lines:
        raise ValueError(f"{name}: no architectures in it")
    if error is not None and (objects := _json_lines(lines, name)) is not None:
        return _Document(name, trial, space, dataset).lines(objects)
    reading = tables.choose(lines, trial)
    if reading is not None:
        if not reading.lines:
            raise ValueError(f"{name}: no architectures in it")
        return [_List(f"{name}:", reading.lines, reading.plan, reading=reading)]
    if (content := _python(text)) is not None:
        return _Document(name, trial, space, dataset).lists(content)
    raise error or ValueError(_no_architecture(lines, name, space))


def _no_architecture(lines: Sequence[tables.Line], name: str, space: SearchSpace) -> str:
    """Say that no way to read the lines finds an architecture, and why the first line that should be one is none."""
    number, line = lines[0]
    delimiter = next((mark for mark in ",\t;" if all(mark in text for _, text in lines[:2])), None)
    if delimiter is None or len(lines) == 1:
        source = tables.clean(line)
        try:
            space.parse(source)
        except ValueError as error:
            return f"{name}:{number}: {_reason(source, space, error)}"
    number, line = lines[min(1, len(lines) - 1)]
    hint = ""
    try:
        cells = tables.cells(line, delimiter or ",", '"')
    except ValueError as error:
        return f"{name}:{number}: {error}"
    for cell in cells:
        others = [other for other in spaces.names() if _is_own(cell, spaces.get(other))]
        if len(others) == 1 and others[0] != space.name:
            hint = f"; its rows belong to space {others[0]}"
    return f"{name}:{number}: no column holds architectures of space {space.name!r}{hint}"


def load(text: str, name: str) -> Any:
    """Read JSON. Objects with a key that stands twice are ``Repeated``; integers of hundreds of digits are infinite.

    Raises:
      json.JSONDecodeError: not JSON.
      ValueError: nested too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError(f"{name}: nested too deep for a list of architectures") from None
    except ValueError:  # an integer of thousands of digits
        return json.loads(text, object_pairs_hook=_object, parse_int=lambda digits: _integer(digits))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= 300 else math.inf


def _json_lines(lines: Sequence[tables.Line], name: str) -> list[tuple[int, Any]] | None:
    """The values of JSON lines; None if the first lines are none.

    Raises:
      ValueError: a later line is not JSON.
    """
    first = [_parsed(line) for _, line in lines[:SAMPLE]]
    good = sum(isinstance(value, (list, dict)) for value in first)
    if good == 0 or 2 * good < len(first):
        return None
    found = []
    for number, line in lines:
        where = f"{name}:{number}"
        try:
            found.append((number, load(line, where)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg}): repair or remove the line") from error
    return found


def _parsed(line: str) -> Any:
    try:
        return load(line, "")
    except ValueError:
        return None


def _python(text: str) -> Any:
    """The value of a file that is one list or dict as Python prints it; None if it is none."""
    text = re.sub(r"\A\s*\w+\s*=\s*", "", text).strip()
    if text[:1] not in ("[", "{", "(") or len(text) > _MAX_PYTHON:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            return _plain(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    """Tuples as lists, and keys as text, as in JSON."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


# --- from documents to lists ---------------------------------------------------------------------------------


class _Document:
    """A JSON document and the lists of entries in it.

    Args:
      name: of the file, for messages.
      trial: parses what is tried.
      space: the search space.
      dataset: which of several data sets; ``SPACE/DATASET`` names two levels.
    """

    def __init__(self, name: str, trial: Trial, space: SearchSpace, dataset: str | None):
        self._name, self._trial, self._space = name, trial, space
        self._wanted = [] if dataset is None else [dataset, *dataset.split("/")]
        self._dataset = dataset
        self._names: list[str] = []  # of the data sets in the document
        self._matched = False  # one of them is the wanted one

    def lists(self, content: Any) -> list[_List]:
        """The lists of a whole document.

        Raises:
          ValueError: there are none, or several and no choice.
        """
        if content in ([], {}, ""):
            raise ValueError(f"{self._name}: no architectures in it")
        if not isinstance(content, (list, dict)):
            content = [content]
        found = self._find(content, self._name, 0)
        if self._dataset is not None and self._names and not self._matched:
            names = listed(self._names)
            raise ValueError(f"{self._name}: no data set {quoted(self._dataset)}; it has {names}")
        if not found:
            raise ValueError(self._nothing(content))
        return found

    def lines(self, objects: list[tuple[int, Any]]) -> list[_List]:
        """The list of JSON lines.

        Raises:
          ValueError: the lines hold no architectures.
        """
        values = [value for _, value in objects]
        plan = entries.find(values, self._trial)
        if plan is None or entries.hold_several(values, plan, self._trial):
            if len(objects) == 1 and isinstance(values[0], (list, dict)):
                return self.lists(values[0])
            raise ValueError(f"{self._name}:{objects[0][0]}: {self._why(values[0])}")
        return [_List(f"{self._name}:", values, plan, [number for number, _ in objects])]

    def _nothing(self, content: Any) -> str:
        if isinstance(content, list):
            return f"{self._name}: entry 1: {self._why(content[0])}"
        known = ", ".join(itertools.islice(map(quoted, content), 3))
        return (
            f"{self._name}: found no architectures of space {self._space.name!r} in the object with the keys {known}: "
            "expected a list of architectures, of [architecture, value] rows or of records, an object by architecture, "
            'or an object with "fields" and "rows"'
        )

    def _why(self, entry: Any) -> str:
        """Why the first entry is no architecture."""
        source = entry
        if (
            isinstance(entry, list)
            and len(entry) > 1
            and all(entries.as_number(cell) is not None for cell in entry[1:])
        ):
            source = entry[0]
        elif isinstance(entry, dict):
            source = next((entry[key] for key in ("arch", "net") if key in entry), entry)
        try:
            self._space.parse(source)
        except ValueError as error:
            return _reason(source, self._space, error)
        return f"no architecture of space {self._space.name!r}: {quoted(entry)}"

    def _find(self, content: Any, where: str, level: int) -> list[_List]:
        """The lists in a part of the document; none where it holds no architectures."""
        if isinstance(content, list):
            return self._find_in_list(content, where)
        if not isinstance(content, dict) or level > _MAX_LEVELS:
            return []
        for fields, rows in _TABLES:
            if isinstance(content.get(fields), list) and rows in content:
                return self._table(content[fields], content[rows], where)
        pairs = content.pairs if isinstance(content, Repeated) else list(content.items())
        if any(self._trial(key) is not None for key, _ in pairs[:SAMPLE]):
            return [_List(f"{where}: entry ", pairs, Plan("pair"))]
        plan = entries.find([content], self._trial)
        if plan is not None and (plan.kind == "whole" or self._is_record(content, plan)):
            return [_List(where, [content], plan, [""])]
        return self._columns(content, where) or self._by_name(pairs, where) or self._levels(content, where, level)

    def _find_in_list(self, content: list[Any], where: str) -> list[_List]:
        plan = entries.find(content, self._trial)
        if (plan is None or plan.kind != "whole") and self._trial(content) is not None:
            return [_List(where, [content], Plan("whole"), [""])]
        if plan is None:
            return []
        if plan.kind == "item" and len(content) > 1 and tables.is_header(content[:SAMPLE], plan, self._trial):
            return self._table(content[0], content[1:], where)
        if entries.hold_several(content, plan, self._trial):
            return []
        return [_List(f"{where}: entry ", content, plan)]

    def _table(self, fields: Any, rows: Any, where: str) -> list[_List]:
        """The list of a table.

        Raises:
          ValueError: rows and fields do not fit, or no column holds architectures.
        """
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            return self._find_in_list(rows, where)
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise ValueError(f'{where}: "fields" must be a list of names and "rows" a list of lists')
        for number, row in enumerate(rows, start=1):
            if len(row) != len(fields):
                raise ValueError(f"{where}: row {number}: {len(row)} cells in a row, {len(fields)} names in the fields")
        if not rows:
            raise ValueError(f"{where}: no architectures in it")
        names = tables.names_of(fields, rows)
        plan = entries.find(rows, self._trial, names)
        if plan is None:
            others = {other for cell in rows[0] for other in _owners(cell)} - {self._space.name}
            hint = f"; its rows belong to space {min(others)}" if len(others) == 1 else ""
            raise ValueError(f"{where}: row 1: no column holds architectures of space {self._space.name!r}{hint}")
        return [_List(f"{where}: row ", rows, plan)]

    def _is_record(self, content: dict[str, Any], plan: Plan) -> bool:
        """Say if an object is one record with an architecture, and not several architectures by name."""
        arch = self._trial(content[plan.place])
        found = [self._trial(part) for part in itertools.islice(content.values(), SAMPLE)]
        return all(other is None or other == arch for other in found) and not all(other is not None for other in found)

    def _columns(self, content: dict[str, Any], where: str) -> list[_List]:
        """The list of an object of columns: lists of one length, or objects by row as pandas writes them."""
        if len(content) > _MAX_SETS:
            return []
        kinds = {name: part for name, part in content.items() if isinstance(part, (list, dict)) and part}
        found = [name for name, part in kinds.items() if self._trial(next(iter(_cells(part)))) is not None]
        if len(found) != 1:
            return []
        rows = kinds[found[0]]
        others = {
            name: part
            for name, part in kinds.items()
            if type(part) is type(rows)
            and len(part) == len(rows)
            and (isinstance(part, list) or (isinstance(rows, dict) and part.keys() == rows.keys()))
        }
        if len(others) < 2:
            return []
        columns = [list(_cells(part)) for part in others.values()]
        return self._table(list(others), [list(row) for row in zip(*columns, strict=True)], where)

    def _by_name(self, pairs: Sequence[tuple[str, Any]], where: str) -> list[_List]:
        """The list of an object of architectures by hash or name."""
        parts = [part for _, part in pairs]
        plan = entries.find(parts, self._trial)
        if plan is None or any(self._is_list_of_archs(part) for part in parts[:SAMPLE]):
            return []
        return [_List(f"{where}: entry ", parts, plan)]

    def _is_list_of_archs(self, part: Any) -> bool:
        if not isinstance(part, list) or self._trial(part) is not None:
            return False
        archs = [arch for cell in part[:SAMPLE] if (arch := self._trial(cell)) is not None]
        return any(arch != archs[0] for arch in archs[1:])

    def _levels(self, content: dict[str, Any], where: str, level: int) -> list[_List]:
        """The lists of the data set that is wanted, or of the only one; of NDS files, all lists.

        Raises:
          ValueError: there are several, and none is wanted.
        """
        if isinstance(content, Repeated):
            raise ValueError(f"{where}: a key stands twice, among {listed(content)}: rename one")
        found = {}
        parts = {key: part for key, part in content.items() if isinstance(part, (list, dict)) and part}
        asked = [key for key in parts if key in self._wanted]
        if not asked and len(parts) > _MAX_SETS:
            return []
        for key in asked or parts:
            if lists := self._find(parts[key], f"{where}: {key}", level + 1):
                found[key] = lists
        if not found:
            return []
        self._names += map(str, found)
        self._matched |= bool(asked)
        if len(found) > 1:
            own = [key for key in found if _plain_name(key) == _plain_name(self._space.name)]
            if len(own) == 1:
                return found[own[0]]
            if all(_is_nds(part) for part in found.values()):
                return [one for lists in found.values() for one in lists]
        names = listed(found)
        if len(found) > 1 and self._dataset is not None and not self._matched:
            raise ValueError(f"{where}: no data set {quoted(self._dataset)}; it has {names}")
        if len(found) > 1:
            raise ValueError(f"{where}: holds several data sets: {names}; choose one with --dataset")
        return next(iter(found.values()))


def _cells(part: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


def _owners(cell: Any) -> list[str]:
    return [name for name in spaces.names() if isinstance(cell, str) and _is_own(cell, spaces.get(name))]


def _is_nds(lists: list[_List]) -> bool:
    return all(found.plan.kind == "key" and found.plan.place == "net" for found in lists)


def _plain_name(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
