"""This module says what a search may ask for: candidates, what is known of them, constraints, objectives.

The candidates are the functions that the rows of columns compute: two spellings of one function are one candidate, and
disconnected networks are none. Without columns the candidates are the whole space, which may be too large to list.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.errors import check_known, listed, quoted
from eproxy_jax.fits.columns import MACS, PARAMS, Columns
from eproxy_jax.spaces.base import SearchSpace

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

VALUE = "value"  # name of the measured value, if nobody gives it one
_SIZES = (MACS, PARAMS)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A constraint: a number of an architecture lies within limits; an unknown number (NaN) does not.

    Attributes:
      name: the number's name.
      low: the smallest value allowed.
      high: the largest value allowed.
    """

    name: str
    low: float
    high: float

    @classmethod
    def of(cls, name: str, limits: Any) -> Bound:
        """Return the bound of a largest value, or of a pair (smallest, largest) in which None is no limit.

        Raises:
          ValueError: the limits are none, or exclude every number.
        """
        pair = limits if isinstance(limits, (tuple, list)) else (None, limits)
        try:
            low, high = (default if x is None else float(x) for x, default in zip(pair, (-math.inf, math.inf)))  # noqa: B905
        except (OverflowError, TypeError, ValueError):
            low, high = math.nan, math.nan
        if len(pair) != 2 or not low <= high:
            raise ValueError(
                f"constraint {quoted(name)}: expected the largest value, or (smallest, largest), got {quoted(limits)}"
            )
        return cls(name, low, high)

    def excess(self, values: np.ndarray) -> np.ndarray:
        """Return how far values [A] are outside, as a share of the limit; infinite where one is unknown."""
        scale = [max(abs(limit), 1e-12) for limit in (self.low, self.high)]
        with np.errstate(invalid="ignore"):
            low, high = (
                np.maximum(x, 0) / s if math.isfinite(s) else np.zeros(len(values))
                for x, s in zip((self.low - values, values - self.high), scale, strict=True)
            )
        return np.where(np.isnan(values), np.inf, low + high)

    def __str__(self) -> str:
        limits = [f">= {self.low:g}"] * math.isfinite(self.low) + [f"<= {self.high:g}"] * math.isfinite(self.high)
        return f"{self.name} {' and '.join(limits) or 'known'}"


@dataclasses.dataclass(frozen=True)
class Objective:
    """One thing to be optimised.

    Attributes:
      name: its name.
      sign: 1 if higher is better, -1 if lower is.
      measured: True if its values are told, False if they are known of every architecture.
    """

    name: str
    sign: float
    measured: bool


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Problem:
    """What a search may ask for; :func:`make_problem` checks it.

    A *key* is the canonical string of a candidate.

    Attributes:
      space: the search space.
      columns: a row for each candidate, each of another function; None for the whole space.
      keys: the key of each row; empty for the whole space.
      objectives: measured and known ones.
      bounds: the constraints.
      measures: functions of an architecture by name, for objectives and constraints.
    """

    space: SearchSpace
    columns: Columns | None
    keys: tuple[str, ...]
    objectives: tuple[Objective, ...]
    bounds: tuple[Bound, ...]
    measures: Mapping[str, Callable[[Any], float]]

    def __repr__(self) -> str:
        size = "the whole space" if self.columns is None else f"{int(self.feasible.sum()):,} feasible candidates"
        return f"<Problem: {self.space.name}, {size}, {listed(one.name for one in self.objectives)}>"

    @property
    def measured(self) -> tuple[Objective, ...]:
        """The objectives whose values are told."""
        return tuple(one for one in self.objectives if one.measured)

    @functools.cached_property
    def place(self) -> dict[str, int]:
        """The row of each key."""
        return {key: row for row, key in enumerate(self.keys)}

    @functools.cached_property
    def _archs(self) -> list[Any]:
        return [self.space.parse(key) for key in self.keys]

    @functools.cached_property
    def _sizes(self) -> dict[str, np.ndarray]:
        sizes = np.asarray([self.space.full_sizes(arch) for arch in self._archs], np.float64).reshape(-1, 2)
        return dict(zip(_SIZES, sizes.T, strict=True))

    @functools.cached_property
    def _by_function(self) -> dict[str, np.ndarray]:
        return {
            name: np.asarray([float(measure(arch)) for arch in self._archs], np.float64)
            for name, measure in self.measures.items()
        }

    def spelling(self, key: str) -> str:
        """Return how the columns write a candidate; without columns, its key."""
        return key if self.columns is None else self.columns.archs[self.place[key]]

    def key(self, arch: Any) -> str:
        """Return the key of an architecture in any notation, whether or not it is a candidate.

        Raises:
          ValueError: it cannot be read.
        """
        return self.space.format(self.space.canonical(self.space.parse(arch)))

    def known(self, name: str) -> Float64[np.ndarray, " A"]:
        """Return a number that is known of each row, [A]; sizes are those of the network that is trained in earnest."""
        if name in self.measures:
            return self._by_function[name]
        if name in _SIZES:
            return self._sizes[name]
        assert self.columns is not None, name
        return self.columns.column(name)

    def known_of(self, key: str, name: str) -> float:
        """Return a number that is known of one candidate."""
        if self.columns is not None:
            return float(self.known(name)[self.place[key]])
        arch = self.space.parse(key)
        if name in self.measures:
            return float(self.measures[name](arch))
        return float(self.space.full_sizes(arch)[_SIZES.index(name)])

    @functools.cached_property
    def feasible(self) -> Bool[np.ndarray, " A"]:
        """Which rows keep all constraints, [A]."""
        excess = [bound.excess(self.known(bound.name)) for bound in self.bounds]
        return np.sum(excess, 0) == 0 if excess else np.ones(len(self.keys), bool)

    def is_candidate(self, key: str) -> bool:
        """Say if an architecture may be asked for."""
        if self.columns is not None:
            return key in self.place and bool(self.feasible[self.place[key]])
        if not self.space.is_connected(self.space.parse(key)):
            return False
        return all(bound.excess(np.asarray([self.known_of(key, bound.name)]))[0] == 0 for bound in self.bounds)

    def may_join(self, key: str) -> bool:
        """Say if an architecture is no candidate yet, is connected, and keeps what is known of it without columns."""
        if key in self.place or not self.space.is_connected(self.space.parse(key)):
            return False
        known = [bound for bound in self.bounds if bound.name in _SIZES or bound.name in self.measures]
        whole = dataclasses.replace(self, columns=None, keys=())
        return all(bound.excess(np.asarray([whole.known_of(key, bound.name)]))[0] == 0 for bound in known)

    def check_feasible(self, keys: Sequence[str] | None = None) -> None:
        """Check that some candidate keeps the constraints.

        Args:
          keys: some that do not, where the whole space is searched.

        Raises:
          ValueError: none does. The message names the constraint that excludes all, and the closest architecture.
        """
        if keys is None and self.feasible.any():
            return
        names = [bound.name for bound in self.bounds]
        if keys is None:
            keys, values = self.keys, [self.known(name) for name in names]
        else:
            values = [np.asarray([self.known_of(key, name) for key in keys]) for name in names]
        excess = [bound.excess(own) for bound, own in zip(self.bounds, values, strict=True)]
        alone = [i for i, own in enumerate(excess) if (own > 0).all()]
        which = alone or range(len(names))
        closest = int(np.argmin(np.sum([excess[i] for i in which], 0)))
        what = " and ".join(str(self.bounds[i]) for i in which)
        numbers = ", ".join(f"{names[i]} {values[i][closest]:g}" for i in which)
        raise ValueError(
            f"constraints: {what} exclude{'s' if len(which) == 1 else ' together'} all of {len(keys):,} candidates; "
            f"the closest is {quoted(self.spelling(keys[closest]))} with {numbers}"
        )

    def with_candidates(self, columns: Columns) -> Problem:
        """Return the problem with further candidates; known functions and disconnected ones are left out.

        Raises:
          ValueError: an architecture cannot be read, other names, or a problem without columns.
        """
        own = self.columns
        if own is None or columns.names != own.names:
            what = "no columns" if own is None else listed(own.names)
            raise ValueError(f"candidates: the search has {what}, the new rows have {listed(columns.names)}")
        rows = {key: row for key, row in _functions(self.space, columns).items() if key not in self.place}
        joined = Columns(
            (*own.archs, *(columns.archs[row] for row in rows.values())),
            own.names,
            np.concatenate([own.values, columns.values[list(rows.values())]]),
            own.blocks,
        )
        return dataclasses.replace(self, columns=joined, keys=(*self.keys, *rows))

    def identity(self) -> dict[str, Any]:
        """Return, as plain data, what a search depends on; functions of a user by their names only."""
        columns = None
        if self.columns is not None:
            digest = hashlib.blake2b(self.columns.values.tobytes(), digest_size=8)
            digest.update(repr((self.columns.archs, self.columns.names, self.columns.blocks)).encode())
            columns = digest.hexdigest()
        return {
            "space": self.space.identity(),
            "columns": columns,
            "objectives": [f"{'' if one.sign > 0 else '-'}{one.name}" for one in self.objectives],
            "constraints": [
                [bound.name, *(x if math.isfinite(x) else None for x in (bound.low, bound.high))]
                for bound in self.bounds
            ],
            "measures": sorted(self.measures),
        }


def make_problem(
    space: SearchSpace,
    columns: Columns | None,
    objectives: Sequence[str] = (VALUE,),
    constraints: Mapping[str, Any] | None = None,
    measures: Mapping[str, Callable[[Any], float]] | None = None,
) -> Problem:
    """Check and make a problem.

    Args:
      space: the search space.
      columns: rows of candidates, in any spelling; None searches the whole space.
      objectives: names of what is optimised; ``-`` in front of a name says that lower is better. A name of ``macs``,
        ``params``, a measure or a column is known; the others are measured.
      constraints: largest value, or (smallest, largest), by the name of a known number.
      measures: functions of a parsed architecture by name, such as a latency model.

    Raises:
      ValueError: an unreadable row, no candidates, constraints that exclude all or that nothing is known of, or no
        measured objective.
    """
    measures = dict(measures or {})
    known = [*_SIZES, *measures, *(() if columns is None else columns.names)]
    bounds = tuple(Bound.of(name, limits) for name, limits in (constraints or {}).items())
    check_known([bound.name for bound in bounds], dict.fromkeys(known), "constraints", "column")
    found = []
    for text in objectives:
        name = text.removeprefix("-")
        found.append(Objective(name, -1.0 if text.startswith("-") else 1.0, name not in known))
    if not any(one.measured for one in found) or len({one.name for one in found}) < len(found):
        raise ValueError(
            f"objectives: expected distinct names, one of them measured, got {quoted(list(objectives))}: what is known "
            f"of every architecture ({listed(dict.fromkeys(known), 4)}) needs no search"
        )
    keys: tuple[str, ...] = ()
    if columns is not None:
        rows = _functions(space, columns)
        if not rows:
            what = f"none of {len(columns)} rows is a connected network"
            raise ValueError(f"columns: {what}, so there is nothing to search")
        columns, keys = columns.rows(columns.archs[row] for row in rows.values()), tuple(rows)
    problem = Problem(space, columns, keys, tuple(found), bounds, measures)
    if columns is not None:
        problem.check_feasible()
    return problem


def _functions(space: SearchSpace, columns: Columns) -> dict[str, int]:
    """Return the first row of each connected function, by key."""
    rows: dict[str, int] = {}
    for row, text in enumerate(columns.archs):
        try:
            arch = space.canonical(space.parse(text))
        except ValueError as error:
            raise ValueError(f"columns: row {row + 1} is no architecture of {space.name}: {error}") from error
        if space.is_connected(arch):
            rows.setdefault(space.format(arch), row)
    return rows
