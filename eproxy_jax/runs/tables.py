"""This module splits lines of text into cells, whatever stands between them, and finds out if there is a header.

Ways to read a line are tried on the first lines, and the one that finds most architectures reads them all:

1. the line is an architecture; quotes around it and commas at its end do not count
2. the line is a value of JSON or of Python: a list, a tuple or an object
3. cells with commas, tabs, semicolons, bars or spaces between them, quoted or not
4. an architecture, and numbers behind it
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from eproxy_jax.runs import entries
from eproxy_jax.runs.entries import Plan, Trial
from eproxy_jax.spaces import literals

Line = tuple[int, str]  # number of the line in the file, text
MAX_LINE = 2**20  # characters
MAX_LINES = 10**7
_MAX_JOINED = 64  # lines that one row or one architecture may take
_MAX_FAILED = 1000  # lines that open what nothing closes, before no more are joined
_MAX_BEHIND = 8  # numbers behind an architecture that are cut off without a delimiter
_DELIMITERS = (",", "\t", ";", "|", " ")
_QUOTES = ('"', "'")
_SEPARATORS = " \t,;"
_RULE = re.compile(r"[\s|:+-]*-[\s|:+-]*")  # the line below a header in Markdown and in printed tables
_WORD = re.compile(r"[^\W\d][\w .:/#()%@-]{0,80}")
_ASSIGNED = re.compile(r"[^\W\d][\w. ]{0,80}[=:]\s*(?=\S)")
_OPENING, _CLOSING = "([{", ")]}"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the lines of a file are read.

    Attributes:
      split: text of a line -> entry; ValueError if it cannot be split.
      plan: where in an entry the architecture is.
      lines: the lines, without a header.
      width: cells of a row, where there is a header that says so.
    """

    split: Callable[[str], Any]
    plan: Plan
    lines: Sequence[Line]
    width: int | None = None

    def entry(self, text: str) -> Any:
        """The entry of a line.

        Raises:
          ValueError: the line cannot be split, or has another number of cells than the header.
        """
        entry = self.split(text)
        if self.width is not None and len(entry) != self.width:
            while len(entry) > self.width and entry[-1] == "":
                entry.pop()
            if len(entry) != self.width:
                raise ValueError(f"{len(entry)} cells in a row, {self.width} in the header")
        return entry


def lines_of(text: str, name: str) -> list[Line]:
    """Return the lines that are neither blank nor comments, with their numbers.

    Raises:
      ValueError: a line is too long, or there are too many.
    """
    if (count := text.count("\n")) > MAX_LINES:
        raise ValueError(f"{name}: {count:,} lines; a file has {MAX_LINES:,} at most: split it")
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \r\f\v\ufeff")
        if line and not line.startswith("#") and not line.isspace():
            if len(line) > MAX_LINE:
                raise ValueError(
                    f"{name}:{number}: a line of {len(line):,} characters; a line has {MAX_LINE:,} at most"
                )
            found.append((number, line))
    return found


def choose(lines: list[Line], trial: Trial) -> Reading | None:
    """Find the way to read the lines that finds most architectures; None if no way finds any."""
    joined = _join_quoted(lines) if any(text.count('"') % 2 for _, text in lines) else None
    for candidates in [joined, lines] if joined else [lines]:
        if (found := _choose(candidates, trial)) is not None:
            return found
    if not any(_opened(text) > 0 for _, text in lines[: entries.SAMPLE]):
        return None
    joined = _join(lines, _opened, lambda count: count <= 0)
    return _choose(joined, trial) if len(joined) < len(lines) else None


def _choose(lines: list[Line], trial: Trial) -> Reading | None:
    sample = [text for _, text in lines[: entries.SAMPLE + 1]]
    best: tuple[int, Reading] | None = None
    for split in _ways(sample):
        found = _reading(split, lines, trial)
        if found is None:
            continue
        count = _count(found, sample, trial)
        if best is None or count > best[0]:
            best = count, found
        if count >= len(sample) - 1:
            break
    return None if best is None else best[1]


def _count(reading: Reading, sample: Sequence[str], trial: Trial) -> int:
    """How many of the first lines are read."""
    count = 0
    for text in sample:
        entry = _tried(reading.split, text)
        source = entries.MISSING if entry is None else reading.plan.source(entry)
        count += source is not entries.MISSING and trial(source) is not None
    return count


def _ways(sample: Sequence[str]) -> Iterator[Callable[[str], Any]]:
    """Ways to split a line, the likeliest first."""
    yield clean
    if any(text[0] in _OPENING for text in sample):
        yield value
    if any(_ASSIGNED.match(text) for text in sample):
        yield _assigned
    for quote in _QUOTES if any("'" in text for text in sample) else _QUOTES[:1]:
        for delimiter in _DELIMITERS:
            if any(delimiter in text or (delimiter == " " and "\t" in text) for text in sample):
                yield functools.partial(cells, delimiter=delimiter, quote=quote)
    for behind in range(1, _MAX_BEHIND + 1):
        yield functools.partial(_behind, count=behind)


def _reading(split: Callable[[str], Any], lines: list[Line], trial: Trial) -> Reading | None:
    """The reading of one way to split lines, with or without a header."""
    if isinstance(split, functools.partial) and split.func is cells:
        if split.keywords["delimiter"] == "|":
            lines = [line for line in lines if not _RULE.fullmatch(line[1])]
        if lines and re.fullmatch("sep=.", lines[0][1]):  # written by spreadsheets
            lines = lines[1:]
    rows = [_tried(split, text) for _, text in lines[: entries.SAMPLE + 1]]
    if not rows or rows[0] is None:
        return None
    read = [row for row in rows if row is not None]
    plan = entries.find(read, trial)
    if plan is None:
        return _joined_reading(split, lines, read, trial)
    if len(rows) > 1 and is_header(read, plan, trial):
        if isinstance(read[0], list):
            names = names_of(read[0], read[1:])
            plan = entries.find(read[1:], trial, names) or plan
            return Reading(split, plan, lines[1:], len(names))
        lines, read = lines[1:], read[1:]
    if entries.hold_several(read, plan, trial):
        return None
    return Reading(split, entries.find(read, trial) or plan, lines)


def _joined_reading(split: Any, lines: list[Line], rows: list[Any], trial: Trial) -> Reading | None:
    """The reading of a table whose columns together are the architecture, such as ``matrix`` and ``ops``."""
    if len(rows) < 2 or not all(isinstance(row, list) and len(row) > 1 for row in rows):
        return None
    if not all(isinstance(cell, str) and (not cell or _WORD.fullmatch(cell)) for cell in rows[0]):
        return None
    names = names_of(rows[0], rows[1:])
    plan = entries.find(rows[1:], trial, names)
    return None if plan is None else Reading(split, plan, lines[1:], len(names))


def is_header(rows: list[Any], plan: Plan, trial: Trial) -> bool:
    """Say if the first row is a header: it is no architecture, and has words where the others have numbers."""
    source = plan.source(rows[0])
    if source is not entries.MISSING and trial(source) is not None:
        return False
    if not isinstance(rows[0], list):
        return isinstance(rows[0], str) and _WORD.fullmatch(rows[0]) is not None
    later = [row for row in rows[1:] if isinstance(row, list)]
    numeric = {
        i for row in later for i, cell in enumerate(row) if i != plan.place and entries.as_number(cell) is not None
    }
    words = [isinstance(cell, str) and entries.as_number(cell) is None for cell in rows[0]]
    if not all(words):
        return False
    if any(i < len(rows[0]) and str(rows[0][i]).strip().lower() in ("nan", "none", "null") for i in numeric):
        return False
    return bool(numeric) or (isinstance(source, str) and _WORD.fullmatch(source) is not None)


def names_of(header: Sequence[Any], rows: Sequence[Any]) -> tuple[str, ...]:
    """Return names of columns, each once. A header without a name for the rows' numbers gets one."""
    names = [str(name).strip() for name in header]
    widths = {len(row) for row in rows if isinstance(row, list)}
    if widths == {len(names) + 1}:
        names.insert(0, "")
    while names and names[-1] == "" and all(width < len(names) for width in widths):
        names.pop()
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        found.append(f"{name}.{seen[name]}" if seen[name] and name else name)
    return tuple(found)


# --- ways to split a line ------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Return a line without quotes around it and separators at its end."""
    text = text.strip().rstrip(_SEPARATORS)
    if len(text) > 1 and text[0] in _QUOTES and text[-1] == text[0]:
        text = text[1:-1].strip()
    return text


def value(text: str) -> Any:
    """Read a line as a value of JSON or Python; several ones with commas between them are a list.

    Raises:
      ValueError: it is none.
    """
    # A list and numbers behind it, the fast way.
    if text[0] == "[" and text[-1] not in "]})" and "{" not in text and len(text) <= entries.MAX_TEXT:
        try:
            return json.loads(f"[{text}]")
        except (ValueError, RecursionError):
            pass
    return literals.read(text)


def cells(text: str, delimiter: str, quote: str) -> list[str]:
    """Split a line at a delimiter that is outside quotes."""
    if text.count(delimiter) > entries.MAX_CELLS:
        raise ValueError(f"a row of more than {entries.MAX_CELLS:,} cells")
    if delimiter == " ":
        text = " ".join(text.split()) if quote not in text else text.replace("\t", " ").strip()
    if quote not in text:
        row = text.split(delimiter)
    else:
        try:
            (row,) = csv.reader([text], delimiter=delimiter, quotechar=quote, skipinitialspace=True)
        except csv.Error as error:
            raise ValueError(f"not a row of cells ({error})") from error
    if delimiter == "|" and row[0].strip() == "" and row[-1].strip() == "":
        row = row[1:-1]  # Markdown
    row = [cell.strip() for cell in row]
    if "'" in text:
        row = [cell[1:-1] if len(cell) > 1 and cell[0] == cell[-1] == "'" else cell for cell in row]
    return [_with_point(cell) for cell in row] if delimiter == ";" else row


def _with_point(cell: str) -> str:
    """A decimal comma as a point: where semicolons separate cells, commas do not."""
    whole, comma, fraction = cell.partition(",")
    return f"{whole}.{fraction}" if comma and fraction.isdigit() and whole.lstrip("+-").isdigit() else cell


def _behind(text: str, count: int) -> list[str]:
    """Cut off numbers behind an architecture.

    Raises:
      ValueError: there are fewer.
    """
    head, values = text.rstrip(_SEPARATORS), []
    for _ in range(count):
        cut = max(head.rfind(separator) for separator in _SEPARATORS)
        value = head[cut + 1 :]
        if cut <= 0 or (
            entries.as_number(value) is None and value.lower() not in ("nan", "none", "null", "inf", "-inf")
        ):
            raise ValueError(f"fewer than {count} numbers behind the architecture")
        values.append(value)
        head = head[:cut].rstrip(_SEPARATORS)
    return [clean(head), *reversed(values)]


def _assigned(text: str) -> str:
    """Cut off ``NAME =`` in front of an architecture, as in a file of Python."""
    match = _ASSIGNED.match(text)
    return clean(text[match.end() :] if match else text)


def _tried(split: Callable[[str], Any], text: str) -> Any:
    try:
        return split(text)
    except ValueError:
        return None


# --- rows of several lines -----------------------------------------------------------------------------------


def _join_quoted(lines: Sequence[Line]) -> list[Line]:
    """Join lines within double quotes, such as a matrix that NumPy printed into a cell."""
    return _join(lines, lambda text: text.count('"') % 2, lambda count: count % 2 == 0)


def _opened(text: str) -> int:
    """How many brackets a line opens more than it closes."""
    return sum(map(text.count, _OPENING)) - sum(map(text.count, _CLOSING))


def _join(lines: Sequence[Line], opened: Callable[[str], int], closed: Callable[[int], bool]) -> list[Line]:
    """Join lines until what a line opens is closed; a line that opens what nothing closes stays as it is."""
    found: list[Line] = []
    place = failed = 0
    while place < len(lines):
        number, text = lines[place]
        count, end = opened(text), place + 1
        while failed < _MAX_FAILED and not closed(count) and end < min(len(lines), place + _MAX_JOINED):
            count += opened(lines[end][1])
            end += 1
        if not closed(count):
            failed += 1
            end = place + 1
        found.append((number, "\n".join(line for _, line in lines[place:end])))
        place = end
    return found
