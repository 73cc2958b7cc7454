"""This module writes the file of columns: one JSON line an architecture, with a field for each column.

While a run goes on, a line holds the columns of one pass for one architecture, so an architecture may have several. At
its end the run merges them, in the order of its list. A column depends on its architecture and on the run's
fingerprint; one of a user's function, or of Eproxy, on a fingerprint of its own too, which stands in ``made_with``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from eproxy_jax.errors import quoted
from eproxy_jax.jsonlines import ANOTHER_OUT, JsonLines, as_float32, json_number
from eproxy_jax.proxies import registry
from eproxy_jax.runs.results import check_belongs, check_fields, is_count, is_number

WHAT = "columns file of eproxy"
MADE_WITH = "made_with"
_COUNTS = ("macs_as_written", "params_as_written")
_FIELDS = ("arch", "status", *_COUNTS, "run")
_EXACT = 2**53  # whole numbers below are exact in float64


def encode(value: Any, exact: bool) -> Any:
    """Return a value of a column for JSON: whole numbers as integers, null for what is not finite, lists for vectors.

    Args:
      value: [] or [F].
      exact: keep float64; otherwise the shortest decimal of the float32 number, which is what devices compute.

    Example:
      >>> encode(np.float64(3.0), True), encode(np.asarray([np.float32(0.1), -np.inf]), False)
      (3, [0.1, None])
    """
    if np.ndim(value):
        return [encode(part, exact) for part in value]
    number = float(value)
    if math.isfinite(number) and number.is_integer() and abs(number) < _EXACT and (number or str(number) == "0.0"):
        return int(number)
    if exact:
        return number if math.isfinite(number) else None
    return json_number(number)


def decode(values: Sequence[Any], exact: bool) -> np.ndarray:
    """Invert :func:`encode` for the values of some architectures, to the bit: float64 [A] or [A, F], null is -inf."""
    width = next((len(value) for value in values if isinstance(value, list)), None)
    if width is not None:
        values = [[None] * width if value is None else value for value in values]
    array = np.asarray(values, np.float64)  # None becomes NaN
    array = array if exact else as_float32(array)
    return np.where(np.isnan(array), -np.inf, array)


def columns_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a parsed line."""
    return {name: value for name, value in row.items() if name not in _FIELDS and name != MADE_WITH}


def check_row(row: Any, where: str) -> None:
    """Check the types of a parsed line.

    Args:
      row: the line.
      where: ``FILE:LINE``, for the message.

    Raises:
      ValueError: a field is absent or has another type.
    """
    if not isinstance(row, dict) or any(field not in row for field in _FIELDS):
        raise ValueError(f"{where}: not a line of a {WHAT}: {ANOTHER_OUT}")
    made = row.get(MADE_WITH, {})
    good = {name: isinstance(row[name], str) for name in ("arch", "status", "run")}
    good |= {name: is_count(row[name]) for name in _COUNTS}
    good[MADE_WITH] = isinstance(made, dict) and all(isinstance(value, str) for value in made.values())
    for name, value in columns_of(row).items():
        good[name] = all(map(is_number, value)) if isinstance(value, list) else is_number(value)
    check_fields(row, good, where)


class ColumnsFile(JsonLines):
    """The file of columns of one run.

    Args:
      path: the file; its folder is made.
      run: the run's fingerprint.
      known: what is known of each architecture without running it: fields ``status``, ``macs_as_written``,
        ``params_as_written`` by string, in the order of the run.
      made_with: fingerprints of the columns that have one of their own.
      why: what to say of a line of another run, from that run's fingerprint.
      why_column: what to say of a column that was made with something else, from its name.

    Attributes:
      columns: the columns of each architecture, by name, as JSON holds them.

    Raises:
      ValueError: the file holds a line that is not part of this run; the message holds the line and a remedy.
      OSError: the file cannot be opened for writing.
    """

    def __init__(
        self,
        path: Path,
        run: str,
        known: Mapping[str, Mapping[str, Any]],
        made_with: Mapping[str, str],
        why: Callable[[str], str] | None = None,
        why_column: Callable[[str], str] | None = None,
    ):
        self._run, self._known, self._made_with, self._why, self._why_column = run, known, made_with, why, why_column
        self.columns: dict[str, dict[str, Any]] = {arch: {} for arch in known}
        self._made: dict[str, dict[str, str]] = {}  # as the lines say, also of columns that this run does not ask for
        super().__init__(path, WHAT)

    def row(self, arch: str, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Return the line of some columns of an architecture."""
        own = {**self._made.get(arch, {}), **self._made_with}
        made = {name: own[name] for name in columns if name in own}
        known = self._known[arch]
        return {
            "arch": arch,
            "status": known["status"],
            **columns,
            **{name: known[name] for name in _COUNTS},
            **({MADE_WITH: made} if made else {}),
            "run": self._run,
        }

    def has(self, arch: str, columns: Iterable[str]) -> bool:
        """Say if an architecture has all of some columns."""
        held = self.columns[arch]
        return all(name in held for name in columns)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write lines of :meth:`row`, and flush them to the disk."""
        self.append([json.dumps(row) for row in rows])
        for row in rows:
            self._take(row)

    def finish(self) -> None:
        """Rewrite the file as one line an architecture in the order of the run, or leave it if it is that."""
        rows = [self.row(arch, dict(sorted(held.items(), key=_place))) for arch, held in self.columns.items() if held]
        if rows != self.rows or any(list(a) != list(b) for a, b in zip(rows, self.rows, strict=True)):
            self.rewrite(rows)

    def _take(self, row: dict[str, Any]) -> None:
        self.columns[row["arch"]] |= columns_of(row)
        if MADE_WITH in row:
            self._made.setdefault(row["arch"], {}).update(row[MADE_WITH])

    @override
    def _is_first(self, row: Any) -> bool:
        return isinstance(row, dict) and all(field in row for field in _FIELDS)

    @override
    def _begins(self, text: str) -> bool:
        starts = (f'{{"arch": {json.dumps(arch)}, "status": ' for arch in self._known)
        return len(text) > len('{"arch": ') and any(s.startswith(text) or text.startswith(s) for s in starts)

    @override
    def _check_rows(self) -> None:
        for held in self.columns.values():  # a rewriting that was interrupted is read twice
            held.clear()
        self._made.clear()
        for line, row in enumerate(self.rows, start=1):
            where = f"{self.path}:{line}"
            check_row(row, where)
            check_belongs(row, where, self._run, self._known, self._why)
            check_made_with(row, where, self._made_with, self._why_column)
            self._take(row)


def check_made_with(
    row: Mapping[str, Any], where: str, made_with: Mapping[str, str], why: Callable[[str], str] | None = None
) -> None:
    """Check that the columns of a line that a run asks for were made with what it would make them with.

    Args:
      row: the line.
      where: ``FILE:LINE``, for the message.
      made_with: fingerprints of the run's columns.
      why: says what differs, from the name of a column.

    Raises:
      ValueError: one was not.
    """
    for name, own in made_with.items():
        if name in row and (other := row.get(MADE_WITH, {}).get(name)) != own:
            what = "" if why is None else why(name)
            raise ValueError(
                f"{where}: column {quoted(name)} was made with something else ({quoted(other)}; "
                f"this one is {quoted(own)}){what}: {ANOTHER_OUT}"
            )


def _place(item: tuple[str, Any]) -> tuple[int, str]:
    """Order of columns: as the registry has them, then by name."""
    names = registry.names(built_in=True)
    name = item[0]
    return (names.index(name), "") if name in names else (len(names), name)
