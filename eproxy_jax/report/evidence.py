"""This module joins results: one table of architectures, their columns, and their measured values.

Architectures are joined as they are written. What a fit predicts is of functions, and is joined by canonical form.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.errors import quoted
from eproxy_jax.proxies.aggregates import AGGREGATES, aggregates_of
from eproxy_jax.report.reading import Source
from eproxy_jax.runs import columns_file, truth
from eproxy_jax.spaces import SearchSpace
from eproxy_jax.types import STATUS_OK

if TYPE_CHECKING:
    from jaxtyping import Float64

MACS, PARAMS = "macs as written", "params as written"
_UNKNOWN = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """A ranking of architectures.

    Attributes:
      name: its name, which no other column has.
      values: [A], higher is better; ``-inf`` is the worst, NaN where it was not computed.
      kind: "proxy", "sum" of ranks, "fit" or "size".
      seconds: of one network on the run's devices, s; NaN if no record says so.
      labelled: canonical strings that a fit has learned from, which are no test of it.
    """

    name: str
    values: Float64[np.ndarray, " A"]
    kind: str
    seconds: float = _UNKNOWN
    labelled: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """All that results say of some architectures.

    Attributes:
      space: the search space.
      sources: the results.
      archs: A strings, each once.
      status: length A.
      columns: by name; sizes as written are the last two.
      losses: [A, S] of Eproxy's training by name of column, where a file holds them.
      tasks: [A] measured values by name of task; NaN where unknown.
    """

    space: SearchSpace
    sources: tuple[Source, ...]
    archs: tuple[str, ...]
    status: tuple[str, ...]
    columns: Mapping[str, Column]
    losses: Mapping[str, Float64[np.ndarray, "A S"]]
    tasks: Mapping[str, Float64[np.ndarray, " A"]]

    @functools.cached_property
    def parsed(self) -> list[Any]:
        """The architectures, in the order of ``archs``."""
        return [self.space.parse(arch) for arch in self.archs]

    @functools.cached_property
    def canonical(self) -> tuple[str, ...]:
        """Their canonical strings."""
        return tuple(self.space.format(self.space.canonical(arch)) for arch in self.parsed)

    def tested(self, column: Column, task: str) -> np.ndarray:
        """Return which architectures tell how good a column is, [A]: known by both, and no label of a fit."""
        known = np.isfinite(self.tasks[task]) & ~np.isnan(column.values)
        if column.labelled:
            known &= np.asarray([arch not in column.labelled for arch in self.canonical], bool)
        return known

    def best(self, by: str | None = None) -> Column | None:
        """Return the column that orders lists: ``by``, else a fit, a sum of ranks, Eproxy, or the first."""
        if by is not None:
            return self.columns[by]
        columns = list(self.columns.values())
        for good in (
            [one for one in columns if one.kind == "fit"],
            [self.columns[name] for name in AGGREGATES if name in self.columns],
            [one for one in columns if one.name.startswith("eproxy")],
        ):
            if good:
                return good[0]
        return columns[0] if columns else None


class _Rows:
    """Values by architecture, in the order of their first appearance."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}
        self.status: list[str] = []
        self.sizes: list[tuple[float, float]] = []

    def add(self, arch: str, status: str, sizes: tuple[float, float] | None) -> int:
        place = self.place.setdefault(arch, len(self.place))
        if place == len(self.status):
            self.status.append(status)
            self.sizes.append((_UNKNOWN, _UNKNOWN))
        if sizes is not None:
            self.sizes[place] = sizes
        return place


def gather(space: SearchSpace, sources: Sequence[Source], truths: Mapping[str, Mapping[Any, float]]) -> Evidence:
    """Join results and measured values.

    Args:
      space: the search space.
      sources: of :func:`reading.read`.
      truths: value by architecture, higher is better, by name of task.

    Raises:
      ValueError: an architecture of a result is none of the space; a task has fewer than 3 values of the architectures.
    """
    rows = _Rows()
    raw: dict[str, tuple[dict[int, float], str, float, frozenset[str]]] = {}
    losses: dict[str, dict[int, list[float]]] = {}
    runs: dict[tuple[str, str], str] = {}
    for source in sources:
        if source.kind == "scores":
            _take_scores(source, rows, raw, losses, runs)
        elif source.kind == "columns":
            _take_columns(source, rows, raw, runs)
        elif source.kind == "ranked":
            name = _free(_of_kind("fit", source, sources), raw)
            places = [rows.add(row["arch"], row["status"], None) for row in source.rows]
            raw[name] = _values(places, source.rows), "fit", _UNKNOWN, frozenset()
    predictions = [source for source in sources if source.kind == "fit" and source.rows]
    _take_predictions(space, predictions, rows, raw)
    archs = tuple(rows.place)
    columns = {
        name: Column(name, _vector(held, len(archs)), kind, seconds, labelled)
        for name, (held, kind, seconds, labelled) in raw.items()
    }
    evidence = Evidence(space, tuple(sources), archs, tuple(rows.status), columns, {}, {})
    _check_archs(evidence)
    sizes = _sizes(evidence, rows)
    return dataclasses.replace(
        evidence,
        columns=columns | _sums(columns) | sizes,
        losses={name: _matrix(held, len(archs)) for name, held in losses.items()},
        tasks=_tasks(evidence, truths),
    )


# --- one result ----------------------------------------------------------------------------------------------


def _take_scores(source: Source, rows: _Rows, raw: dict, losses: dict, runs: dict) -> None:
    run = source.record["run"]
    own = "eproxy, fitted" if "members" in (source.record.get("settings") or {}) else "eproxy"
    name = runs.get((run, own)) or _free(own if own not in raw else f"{own}, {source.label}", raw)
    runs[run, own] = name
    places = [rows.add(row["arch"], row["status"], (row["macs"], row["params"])) for row in source.rows]
    held = raw.setdefault(name, ({}, "proxy", _per_network(source.record, source.record.get("seconds")), frozenset()))[
        0
    ]
    held.update(_values(places, source.rows))
    steps = losses.setdefault(name, {})
    for place, row in zip(places, source.rows, strict=True):
        steps[place] = [_UNKNOWN if value is None else value for value in row["losses"]]


def _take_columns(source: Source, rows: _Rows, raw: dict, runs: dict) -> None:
    record = source.record
    described, seconds = (
        part if isinstance(part, dict) else {} for part in (record.get("columns"), record.get("seconds"))
    )
    held = [columns_file.columns_of(row) for row in source.rows]
    vectors = {own for row in held for own, value in row.items() if isinstance(value, list)}
    for row, values in zip(source.rows, held, strict=True):
        place = rows.add(row["arch"], row["status"], (row["macs_as_written"], row["params_as_written"]))
        for own, value in values.items():
            if own in vectors:
                continue  # counts of a graph rank nothing by themselves; null stands for all of them
            key = (record["run"], own)
            if key not in runs:
                runs[key] = _free(own if own not in raw else f"{own}, {source.label}", raw)
                one = described.get(own)
                took = seconds.get(one.get("pass")) if isinstance(one, dict) else None
                raw[runs[key]] = {}, "proxy", _per_network(record, took), frozenset()
            raw[runs[key]][0][place] = -math.inf if value is None else float(value)


def _take_predictions(space: SearchSpace, fits: Sequence[Source], rows: _Rows, raw: dict) -> None:
    """Join what fits predict of functions; functions that no other file has are architectures of their own."""
    if not fits:
        return
    of_function: dict[str, list[int]] = {}
    for arch, place in rows.place.items():
        of_function.setdefault(_canonical(space, arch, "a result"), []).append(place)
    for source in fits:
        held: dict[int, float] = {}
        for row in source.rows:
            places = of_function.get(row["arch"])
            if places is None:
                arch = space.parse(row["arch"])
                places = [rows.add(row["arch"], row["status"], (space.macs(arch), space.params(arch)))]
                of_function[row["arch"]] = places
            held.update(dict.fromkeys(places, -math.inf if row["score"] is None else row["score"]))
        labels = frozenset(source.record.get("labels", {}))
        raw[_free(_of_kind("fit", source, fits), raw)] = held, "fit", _UNKNOWN, labels


def _canonical(space: SearchSpace, arch: str, where: str) -> str:
    try:
        return space.format(space.canonical(space.parse(arch)))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _of_kind(name: str, source: Source, sources: Sequence[Source]) -> str:
    """Return the name of a column, with that of its run where several runs have such a column."""
    several = sum(other.kind in ("fit", "ranked") for other in sources) > 1
    return f"{name} {source.label}" if several else name


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "'"
    return name


def _values(places: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    scores = (-math.inf if row["score"] is None else float(row["score"]) for row in rows)
    return dict(zip(places, scores, strict=True))


def _per_network(record: Mapping[str, Any], seconds: Any) -> float:
    """Return the seconds of one network: those of running, compilation left out, over the distinct networks."""
    count = record.get("distinct") or record.get("archs")
    run = seconds.get("run") if isinstance(seconds, dict) else None
    if not isinstance(run, (int, float)) or not isinstance(count, int) or count < 1:
        return _UNKNOWN
    return run / count


# --- together ------------------------------------------------------------------------------------------------


def _vector(held: Mapping[int, float], count: int) -> np.ndarray:
    values = np.full(count, np.nan)
    values[list(held)] = list(held.values())
    return values


def _matrix(held: Mapping[int, list[float]], count: int) -> np.ndarray:
    values = np.full((count, max(map(len, held.values()), default=0)), np.nan)
    for place, row in held.items():
        values[place, : len(row)] = row
    return values


def _check_archs(evidence: Evidence) -> None:
    """Check that the architectures of all results are of the space."""
    try:
        _ = evidence.parsed
    except ValueError as error:
        raise ValueError(f"{evidence.sources[0].path}: {error}") from error


def _sizes(evidence: Evidence, rows: _Rows) -> dict[str, Column]:
    if not evidence.archs:
        return {}
    sizes = np.asarray(rows.sizes, np.float64)
    for place in np.flatnonzero(np.isnan(sizes[:, 0])):
        arch = evidence.parsed[place]
        sizes[place] = evidence.space.macs(arch), evidence.space.params(arch)
    return {name: Column(name, sizes[:, i], "size", 0.0) for i, name in enumerate((MACS, PARAMS))}


def _sums(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Return the sums of ranks whose columns are all there, of architectures that have all of them."""
    found = {}
    for name, members in AGGREGATES.items():
        if not all(one in columns for one in members):
            continue
        own = np.stack([columns[one].values for one in members])
        known = ~np.isnan(own).any(0)
        values = np.full(own.shape[1], np.nan)
        values[known] = aggregates_of(dict(zip(members, own[:, known], strict=True)))[name]
        found[name] = Column(name, values, "sum", _together([columns[one] for one in members]))
    return found


def _together(columns: Sequence[Column]) -> float:
    """Return the seconds of several columns; those of one pass have the same seconds, which count once."""
    return math.fsum({column.seconds for column in columns})


def _tasks(evidence: Evidence, truths: Mapping[str, Mapping[Any, float]]) -> dict[str, np.ndarray]:
    found = {}
    for name, values in truths.items():
        if not evidence.archs:
            continue
        matched = truth.match(evidence.parsed, dict(values), evidence.space)
        if matched.num_known < 3:
            raise ValueError(
                f"{quoted(name)}: {matched.num_known} of the {len(evidence.archs):,} architectures have a value; "
                "need at least 3: are the runs and the measured values of the same networks?"
            )
        found[name] = matched.values
    return found


def connected(evidence: Evidence) -> np.ndarray:
    """Return which architectures were trained and did not fail, [A]."""
    return np.asarray([status == STATUS_OK for status in evidence.status], bool)
