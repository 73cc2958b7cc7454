"""This module finds the architecture in an entry of a list, and the numbers beside it.

An entry is whatever stands for one architecture: a text, a row of cells, a record. Nobody says where in it the
architecture is, so it is found by trying: :func:`find` makes a plan from the first entries, and the others follow it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from eproxy_jax.errors import quoted
from eproxy_jax.spaces import SearchSpace, literals

VALUE = "value"  # name of the first number where a file names none; the next ones are value2, value3, ...
SAMPLE = 8  # entries that a plan is made from
MISSING = object()  # what a plan finds in an entry that is none of its kind

_MAX_PLACES = 256  # columns or keys that are tried
_MAX_DEPTH = 4  # of numbers within records within records
_MAX_LIST = 16  # numbers of a list that are values; longer ones are curves or embeddings
MAX_TEXT = 100_000  # characters that are tried as an architecture
MAX_CELLS = 10_000  # of a row, and of a list that is tried as an architecture
# Names of what holds an architecture, the likeliest first. Any other name is tried as well.
_NAMES = ("arch", "architecture", "net", "network", "genotype", "cell", "arch_str", "arch_string", "model", "spec")
# What numbers a row or a run; it is no measured value.
_LABELS = {
    "",
    "arch",
    "hash",
    "id",
    "idx",
    "index",
    "job_id",
    "key",
    "no",
    "number",
    "row",
    "run",
    "seed",
    "trial",
    "uid",
}
_LABEL = re.compile(r"unnamed: *\d+|(?:.*[ _.-])?(?:hash|id|idx|index|seed)")
_CURVE = "test_ep_top1"  # NDS files: errors in %, one an epoch


class Repeated(dict[str, Any]):
    """A JSON object with a key that stands twice.

    Attributes:
      pairs: all keys and values, in order.
    """

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.pairs = pairs


class Plan(NamedTuple):
    """Where in an entry the architecture is.

    Attributes:
      kind: ``whole`` (the entry itself), ``item`` (of a row), ``key`` (of a record) or ``pair`` (key and value of an
        object by architecture).
      place: the position or the name.
      names: names of a row's cells; without them numbers are ``value``, ``value2``, ...
      left_out: positions or keys that hold no values: parts of the architecture, and numbers of rows.
      joined: the cells of a row are the fields of one record, by name.
    """

    kind: str
    place: Any = None
    names: tuple[str, ...] | None = None
    left_out: frozenset[Any] = frozenset()
    joined: bool = False

    def source(self, entry: Any) -> Any:
        """What to parse; ``MISSING`` if the entry is not of this kind."""
        if self.kind == "pair":
            return entry[0]
        if self.kind == "item":
            fits = isinstance(entry, list) and self.place < len(entry)
            return entry[self.place] if fits else MISSING
        if self.kind == "key":
            return entry.get(self.place, MISSING) if isinstance(entry, dict) else MISSING
        return _joined(entry, self.names) if self.joined else entry

    def values(self, entry: Any, where: str) -> dict[str, float]:
        """The finite numbers beside the architecture, by name.

        Raises:
          ValueError: a key stands twice, or an NDS row has no list of errors.
        """
        if self.kind == "pair":
            entry = entry[1]
            if not isinstance(entry, (list, dict)):
                entry = [entry]
        if isinstance(entry, list):
            if self.kind == "whole" and not self.joined:
                return {}
            if self.names is not None:
                named = zip(self.names, entry, strict=False)
                found = ((name, cell) for i, (name, cell) in enumerate(named) if i not in self.left_out)
                return {name: number for name, cell in found if (number := as_number(cell)) is not None}
            return numbers_of(entry, self.left_out)
        if not isinstance(entry, dict):
            return {}
        if isinstance(entry, Repeated):
            keys = [key for key, _ in entry.pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{where}: the key {quoted(twice)} stands twice in one record: remove one")
        if self.place == "net" and _CURVE in entry:
            return _last_accuracy(entry[_CURVE], where)
        return flat_numbers({key: part for key, part in entry.items() if key not in self.left_out})


class Trial:
    """Parses sources of one space, each distinct text once; sources that are none give None."""

    def __init__(self, space: SearchSpace):
        self._space = space
        self._known: dict[str, Any] = {}

    def __call__(self, source: Any) -> Any:
        """The architecture, or None."""
        if not isinstance(source, str):
            is_long = isinstance(source, (list, dict)) and len(source) > MAX_CELLS
            return None if is_long else self._parsed(source)
        if len(source) > MAX_TEXT:
            return None
        if source not in self._known:
            self._known[source] = self._parsed(source)
        return self._known[source]

    def own_keys(self, record: dict[str, Any]) -> set[str]:
        """The keys that the space itself writes of an architecture, also those that a record may lack."""
        arch = self(dict(record))
        if arch is None:
            return set()
        try:
            written = json.loads(self._space.format(arch))
        except ValueError:
            return set()
        return set(written) if isinstance(written, dict) else set()

    def _parsed(self, source: Any) -> Any:
        try:
            return self._space.parse(source)
        except ValueError:
            return None


def find(entries: Sequence[Any], trial: Trial, names: Sequence[str] | None = None) -> Plan | None:
    """Make a plan that finds the architectures of the first entries.

    Args:
      entries: the first entries of a list, at most ``SAMPLE`` of them are looked at.
      trial: parses what is tried.
      names: names of the cells, if the entries are rows of a table.

    Returns:
      The plan that parses most entries. Where several do, a place whose name says so comes first, then one that is no
      number. None if no place holds an architecture.
    """
    entries = entries[:SAMPLE]
    counts: dict[tuple[str, Any], int] = {}
    for entry in entries:
        for place, source in _places(entry, names):
            if trial(source) is not None:
                counts[place] = counts.get(place, 0) + 1
    if counts:
        most = max(counts.values())
        kind, place = min((p for p in counts if 2 * counts[p] >= most), key=lambda p: _rank(p, entries, names))
        plan = Plan(kind, place, None if names is None else tuple(names))
        return plan._replace(left_out=_left_out(plan, entries, trial))
    if names is not None:
        plan = Plan("whole", None, tuple(names), joined=True)
        if any(trial(plan.source(entry)) is not None for entry in entries):
            return plan._replace(left_out=_left_out(plan, entries, trial))
    return None


def hold_several(entries: Sequence[Any], plan: Plan, trial: Trial) -> bool:
    """Say if rows hold several different architectures each: then they are lists of them, and no rows."""
    if plan.kind != "item":
        return False
    for entry in entries[:SAMPLE]:
        cells = entry[:_MAX_PLACES] if isinstance(entry, list) else []
        found = [arch for cell in cells if as_number(cell) is None and (arch := trial(cell)) is not None]
        if any(arch != found[0] for arch in found[1:]):
            return True
    return False


def _places(entry: Any, names: Sequence[str] | None) -> Iterator[tuple[tuple[str, Any], Any]]:
    """((kind, place), source) of everything in an entry that may be its architecture."""
    if names is None:
        yield ("whole", None), entry
    if isinstance(entry, list):
        for i, cell in enumerate(entry[:_MAX_PLACES]):
            yield ("item", i), cell
    elif isinstance(entry, dict):
        for key in list(entry)[:_MAX_PLACES]:
            yield ("key", key), entry[key]


def _rank(place: tuple[str, Any], entries: Sequence[Any], names: Sequence[str] | None) -> tuple[Any, ...]:
    """The order in which places are preferred, smallest first."""
    kind, at = place
    if (kind, at) == ("key", _NAMES[0]):
        return (0,)
    if kind == "whole":
        return (1,)
    entry = next(e for e in entries if Plan(kind, at).source(e) is not MISSING)
    name = at if kind == "key" else names[at] if names is not None and at < len(names) else ""
    name = str(name).strip().lower()
    known = _NAMES.index(name) if name in _NAMES else len(_NAMES) + ("arch" not in name)
    position = at if kind == "item" else list(entry).index(at)
    return 2, as_number(Plan(kind, at).source(entry)) is not None, known, position


def _left_out(plan: Plan, entries: Sequence[Any], trial: Trial) -> frozenset[Any]:
    """Positions or keys that are no values: the architecture's own, and those that number rows or runs."""
    if plan.kind == "item":
        labels = _labels(plan.names) if plan.names is not None else _counters(entries, plan.place)
        return labels | {plan.place}
    if plan.kind == "key":
        return frozenset({plan.place})
    if plan.joined:
        assert plan.names is not None
        found = _labels(plan.names)
        for i in range(min(len(plan.names), _MAX_PLACES)):
            if any(_without_differs(_joined(entry, plan.names), plan.names[i], trial) for entry in entries):
                found |= {i}
        return found
    records = [entry for entry in entries if isinstance(entry, dict)]
    keys = {key for record in records for key in list(record)[:_MAX_PLACES]}
    needed = {key for key in keys if any(_without_differs(record, key, trial) for record in records)}
    return frozenset(needed).union(*(trial.own_keys(record) for record in records))


def _without_differs(record: Any, key: str, trial: Trial) -> bool:
    """Say if a key is part of the architecture that a record is: without it there is none, or another."""
    if not isinstance(record, dict) or key not in record:
        return False
    arch = trial(dict(record))
    return arch is not None and trial({k: part for k, part in record.items() if k != key}) != arch


def _labels(names: Sequence[str]) -> frozenset[int]:
    return frozenset(i for i, name in enumerate(names) if is_label(name))


def _counters(entries: Sequence[Any], end: int) -> frozenset[int]:
    """Positions before the architecture that count the rows, from 0 or 1 on."""
    rows = [entry for entry in entries if isinstance(entry, list) and len(entry) > end]
    found = set()
    for i in range(end if len(rows) > 1 else 0):
        numbers = [as_number(row[i]) for row in rows]
        if numbers[0] in (0, 1) and numbers == [numbers[0] + n for n in range(len(rows))]:
            found.add(i)
    return frozenset(found)


def _joined(entry: Any, names: Sequence[str] | None) -> Any:
    """A row as one record; texts that are literals become values."""
    if not isinstance(entry, list) or names is None:
        return MISSING
    record = {}
    for name, cell in zip(names, entry, strict=False):
        try:
            record[name] = literals.plain(cell)
        except ValueError:
            record[name] = cell
    return record


# --- numbers -------------------------------------------------------------------------------------------------


def is_label(name: Any) -> bool:
    """Say if a name is one of what numbers rows and runs, and measures nothing.

    Example:
      >>> [is_label(name) for name in ("seed", "Unnamed: 0", "arch_id", "valid_acc")]
      [True, True, True, False]
    """
    name = str(name).strip().lower()
    return name in _LABELS or _LABEL.fullmatch(name) is not None


def as_number(value: Any) -> float | None:
    """Return a finite number, also out of text and in %, or None: Booleans and NaN are no numbers.

    Example:
      >>> as_number("91.5 %"), as_number(7), as_number(True), as_number("nan"), as_number("conv")
      (91.5, 7.0, None, None, None)
    """
    if isinstance(value, str):
        if len(value) > 100 or "_" in value:
            return None
        value = value.strip().removesuffix("%")
        try:
            number = float(value)
        except ValueError:
            return None
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            return None
    else:
        return None
    return number if math.isfinite(number) else None


def numbers_of(row: Sequence[Any], left_out: frozenset[Any] = frozenset()) -> dict[str, float]:
    """Return the numbers of a row without names: ``value``, ``value2``, ... by position."""
    rest = [cell for i, cell in enumerate(row[:_MAX_PLACES]) if i not in left_out]
    found = ((VALUE if i == 0 else f"{VALUE}{i + 1}", as_number(cell)) for i, cell in enumerate(rest))
    return {name: number for name, number in found if number is not None}


def flat_numbers(record: dict[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, float]:
    """Return the numbers of a record by name.

    A record in it that has a ``score`` is that number; of others, and of short lists, the names are joined by dots.

    Example:
      >>> flat_numbers({"acc": 91.5, "synflow": {"score": 2, "time": 1}, "test": {"top1": 90}, "seed": 777})
      {'acc': 91.5, 'synflow': 2.0, 'test.top1': 90.0}
    """
    found: dict[str, float] = {}
    for key, part in record.items():
        if is_label(key):
            continue
        name = f"{prefix}{key}"
        number = as_number(part)
        if number is None and isinstance(part, dict):
            number = as_number(part.get("score"))
            if number is None and depth < _MAX_DEPTH:
                found |= flat_numbers(part, f"{name}.", depth + 1)
        elif number is None and isinstance(part, list) and len(part) <= _MAX_LIST:
            found |= {f"{name}.{i}": n for i, item in enumerate(part) if (n := as_number(item)) is not None}
        if number is not None:
            found[name] = number
    return found


def _last_accuracy(errors: Any, where: str) -> dict[str, float]:
    if not isinstance(errors, list) or not errors or not isinstance(errors[-1], (int, float)):
        raise ValueError(f'{where}: expected "{_CURVE}" to be a list of errors in %, one an epoch')
    number = as_number(errors[-1])
    return {} if number is None else {VALUE: 100 - number}
