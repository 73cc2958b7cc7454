"""This module is a search as ask and tell: pure functions of a frozen state, so a stopped search resumes exactly.

What is asked next depends on the problem, the strategy, the seed, and on what was asked and told: on nothing else. So
asking for three is asking for one three times, and a state that was read from its rows asks what the old one would.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax import spaces
from eproxy_jax.errors import check_seed, listed, one_line, quoted
from eproxy_jax.fits.columns import Columns
from eproxy_jax.search import pareto
from eproxy_jax.search.problem import VALUE, Problem, make_problem
from eproxy_jax.search.strategies import Strategy, make_strategy

if TYPE_CHECKING:
    from jaxtyping import Float64

ASK, TELL, SUPPLY, GROW = "ask", "tell", "supply", "grow"  # keys of rows


@dataclasses.dataclass(frozen=True)
class Told:
    """One measurement.

    Attributes:
      key: the candidate.
      values: M measured objectives; NaN in all of them if the training failed.
    """

    key: str
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """What is known of a candidate that was asked for.

    Attributes:
      arch: its string.
      key: its canonical string.
      values: M measured objectives, means over its measurements; None if it waits for one.
      failed: True if it was measured, and every measurement failed.
    """

    arch: str
    key: str
    values: tuple[float, ...] | None
    failed: bool


@dataclasses.dataclass(frozen=True)
class State:
    """A search.

    Attributes:
      problem: what may be asked for.
      strategy: how the next candidates are chosen.
      seed: of all draws.
      asked: keys in the order asked; none stands there twice.
      told: measurements in the order told.
      dear: columns that are known of some candidates only, by key; None before the first :func:`supply`.
      grown: how many times candidates were added.
    """

    problem: Problem
    strategy: Strategy
    seed: int
    asked: tuple[str, ...] = ()
    told: tuple[Told, ...] = ()
    dear: Columns | None = None
    grown: int = 0

    @functools.cached_property
    def results(self) -> tuple[Result, ...]:
        """What is known of each candidate, in the order asked."""
        values: dict[str, list[tuple[float, ...]]] = {}
        for one in self.told:
            values.setdefault(one.key, []).append(one.values)
        found = []
        for key in self.asked:
            good = [own for own in values.get(key, []) if not math.isnan(own[0])]
            means = tuple(float(np.mean(own)) for own in zip(*good, strict=True)) if good else None
            found.append(Result(self.problem.spelling(key), key, means, key in values and not good))
        return tuple(found)

    @property
    def measured(self) -> tuple[Result, ...]:
        """The results with values, in the order asked."""
        return tuple(result for result in self.results if result.values is not None)

    @property
    def pending(self) -> tuple[str, ...]:
        """Architectures that were asked for and wait for their values."""
        return tuple(result.arch for result in self.results if result.values is None and not result.failed)

    @property
    def best(self) -> Result | None:
        """The best by the first measured objective, the first asked among equals; None if nothing is measured."""
        sign = self.problem.measured[0].sign
        return max(self.measured, key=lambda one: sign * one.values[0] if one.values else 0.0, default=None)

    def objective_values(self) -> Float64[np.ndarray, "N M"]:
        """Return all objectives of :attr:`measured`, [N, M]: higher is better in each."""
        rows = []
        for one in self.measured:
            values = iter(one.values or ())
            rows.append(
                [
                    obj.sign * (next(values) if obj.measured else self.problem.known_of(one.key, obj.name))
                    for obj in self.problem.objectives
                ]
            )
        return np.asarray(rows, np.float64).reshape(-1, len(self.problem.objectives))

    @property
    def front(self) -> tuple[Result, ...]:
        """The measured architectures that no other one dominates, best in the first objective first."""
        values = self.objective_values()
        where = np.flatnonzero(pareto.front(values))
        measured = self.measured
        return tuple(measured[i] for i in where[np.argsort(-values[where, 0], kind="stable")])

    def identity(self) -> dict[str, Any]:
        """Return, as plain data, what the search depends on besides what was asked and told."""
        strategy = {"name": self.strategy.name, **dataclasses.asdict(self.strategy)}
        return {**self.problem.identity(), "strategy": strategy, "seed": self.seed}


def init(
    space: spaces.SearchSpace | str,
    columns: Columns | None = None,
    strategy: Strategy | str = "process",
    *,
    objectives: Sequence[str] = (VALUE,),
    constraints: Mapping[str, Any] | None = None,
    measures: Mapping[str, Callable[[Any], float]] | None = None,
    seed: int = 0,
) -> State:
    """Begin a search.

    Args:
      space: a search space or its registry name.
      columns: numbers of the candidates: only they are asked for. None searches the whole space by ``evolution`` or
        ``random``.
      strategy: ``"process"``, ``"evolution"``, ``"random"``, ``"by_proxy"``, or a strategy with options of its own.
      objectives: names of what is optimised; ``-`` in front of a name says that lower is better. ``macs``, ``params``,
        measures and columns are known of every candidate; other names are measured. Of several the front is searched.
      constraints: largest value, or (smallest, largest), by the name of a known number. ``macs`` and ``params`` are
        those of the network that is trained in earnest.
      measures: functions of a parsed architecture by name, for objectives and constraints.
      seed: of all draws.

    Raises:
      ValueError: unreadable rows, an unknown strategy or name, a strategy that needs columns, constraints that exclude
        everything (which one, and the closest architecture).

    Example:
      >>> from eproxy_jax import search, spaces
      >>> space = spaces.get("nasbench201")
      >>> archs = [space.format(arch) for arch in space.sample(30, 0)]
      >>> columns = Columns.of(archs, {"macs": [space.macs(space.parse(arch)) for arch in archs]})
      >>> state = search.init(space, columns, constraints={"params": 800_000})
      >>> asked, state = search.ask(state, 2)
      >>> state = search.tell(state, asked, [91.2, float("nan")])  # the second training failed
      >>> state.best.values
      (91.2,)
    """
    space = spaces.get(space) if isinstance(space, str) else space
    chosen = make_strategy(strategy)
    if columns is None and chosen.needs_columns:
        raise ValueError(f"strategy {chosen.name!r} ranks by columns: give columns, or choose 'evolution' or 'random'")
    problem = make_problem(space, columns, objectives, constraints, measures)
    return State(problem, chosen, check_seed(seed))


def ask(state: State, n: int = 1) -> tuple[tuple[str, ...], State]:
    """Return the next architectures to measure, each of a function that was never asked for.

    Args:
      state: the search.
      n: how many.

    Returns:
      (n strings, or fewer if no more candidates are left; the state that has asked for them).

    Raises:
      ValueError: n is less than 1, no candidate is left, or no feasible one is found in the whole space.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"ask: expected a number of architectures >= 1, got {quoted(n)}")
    keys: list[str] = []
    asked = state
    for _ in range(n):
        if (key := state.strategy.propose(asked)) is None:
            break
        keys.append(key)
        asked = dataclasses.replace(asked, asked=(*asked.asked, key))
    if not keys:
        raise ValueError(f"ask: all {len(state.asked):,} candidates have been asked for: nothing is left to search")
    return tuple(map(state.problem.spelling, keys)), asked


def tell(state: State, archs: Sequence[Any], values: Any) -> State:
    """Add measurements of architectures that were asked for.

    Args:
      state: the search.
      archs: A architectures in any notation; one that is told again is averaged.
      values: [A], or [A, M] with M measured objectives. NaN or None says that a training failed.

    Raises:
      ValueError: an architecture was never asked for, values of another number, or one that is infinite.
    """
    width = len(state.problem.measured)
    rows = np.asarray(values, object)
    rows = rows.reshape(-1, 1) if rows.ndim == 1 and width == 1 else rows
    if rows.shape != (len(archs), width):
        names = listed(one.name for one in state.problem.measured)
        raise ValueError(
            f"tell: expected {width} value(s) ({names}) for each of {len(archs)} architectures, got {rows.shape}"
        )
    asked, told, strangers = set(state.asked), [], []
    for arch, row in zip(archs, rows.tolist(), strict=True):
        key = state.problem.key(arch)
        if key not in asked:
            strangers.append(arch)
            continue
        told.append(Told(key, _numbers(arch, row)))
    if strangers:
        raise ValueError(
            f"tell: {len(strangers)} of {len(archs)} architectures were never asked for: "
            f"{listed(map(quoted, strangers), 3)}; tell values of those that were"
        )
    return dataclasses.replace(state, told=(*state.told, *told))


def _numbers(arch: Any, row: Sequence[Any]) -> tuple[float, ...]:
    try:
        numbers = tuple(math.nan if value is None else float(value) for value in row)
    except (OverflowError, TypeError, ValueError):
        numbers = (math.inf,)
    if any(map(math.isinf, numbers)):
        raise ValueError(f"tell: {quoted(arch)}: expected finite numbers, or NaN if it failed, got {quoted(row)}")
    return tuple(math.nan for _ in numbers) if any(map(math.isnan, numbers)) else numbers


# --- columns that come later ---------------------------------------------------------------------------------


def supply(state: State, columns: Columns) -> State:
    """Add dear columns of some candidates; the process sees them beside those that all candidates have.

    Args:
      state: the search.
      columns: rows of candidates in any notation. Later rows have the names of the first; what is known stays.

    Raises:
      ValueError: no candidate, a name of the search's own columns, or other names than before.
    """
    problem, before = state.problem, state.dear
    if problem.columns is None:
        raise ValueError("supply: a search of the whole space has no columns: begin it with columns of candidates")
    if both := [name for name in columns.names if name in problem.columns.names]:
        raise ValueError(f"supply: all candidates have the column {quoted(both[0])}: supply others")
    if before is not None and before.names != columns.names:
        raise ValueError(f"supply: expected the columns {listed(before.names)}, got {listed(columns.names)}")
    known = set() if before is None else set(before.archs)
    rows: dict[str, int] = {}
    for row, arch in enumerate(columns.archs):
        key = problem.key(arch)
        if key not in problem.place:
            raise ValueError(f"supply: {quoted(arch)} is no candidate of this search")
        if key not in known:
            rows.setdefault(key, row)
    values = columns.values[list(rows.values())]
    if before is not None:
        values = np.concatenate([before.values, values])
    keys = (*(() if before is None else before.archs), *rows)
    return dataclasses.replace(state, dear=Columns(keys, columns.names, values, columns.blocks))


def grow(state: State, columns: Columns) -> State:
    """Add candidates; those of a function that is a candidate already, and disconnected ones, are left out.

    Args:
      state: the search; it has columns.
      columns: rows of new candidates, with the names of the search's columns.

    Raises:
      ValueError: an architecture cannot be read, or the names are others.
    """
    return dataclasses.replace(state, problem=state.problem.with_candidates(columns), grown=state.grown + 1)


# --- rows, for files of JSON lines ---------------------------------------------------------------------------


def ask_row(archs: Sequence[str]) -> dict[str, Any]:
    """Return the row of one :func:`ask`, for JSON."""
    return {ASK: list(archs)}


def tell_row(archs: Sequence[Any], told: Sequence[Told]) -> dict[str, Any]:
    """Return the row of one :func:`tell`, for JSON: numbers to the last bit, null for a failed training.

    Args:
      archs: A strings.
      told: their A measurements.
    """
    values = [[None if math.isnan(value) else value for value in one.values] for one in told]
    return {TELL: list(archs), "values": values}


def columns_row(what: str, columns: Columns) -> dict[str, Any]:
    """Return the row of one :func:`supply` or :func:`grow`, for JSON: null for unknown, "-inf" for the worst."""
    values = [["-inf" if x == -math.inf else None if math.isnan(x) else x for x in row] for row in columns.values]
    return {what: list(columns.archs), "names": list(columns.names), "blocks": list(columns.blocks), "values": values}


def to_rows(state: State) -> list[dict[str, Any]]:
    """Return what was asked, told and supplied, for JSON; :func:`replay` inverts it.

    Candidates that were added (:func:`grow`) are those of the state that ``replay`` begins with.
    """
    spelling = state.problem.spelling
    return [
        ask_row([spelling(key) for key in state.asked]),
        tell_row([spelling(one.key) for one in state.told], state.told),
        *([] if state.dear is None else [columns_row(SUPPLY, state.dear)]),
    ]


def replay(state: State, rows: Iterable[Any]) -> State:
    """Return the state after the asks and tells of some rows; nothing is chosen anew.

    Args:
      state: the beginning of the same search, see :func:`init`.
      rows: of :func:`ask_row`, :func:`tell_row` and :func:`columns_row`.

    Raises:
      ValueError: a row is neither, or holds what this search cannot have asked for. The message has its number.
    """
    for number, row in enumerate(rows, start=1):
        try:
            if isinstance(row, dict) and isinstance(archs := row.get(ASK), list):
                state = _asked(state, archs)
            elif isinstance(row, dict) and isinstance(archs := row.get(TELL), list):
                values = row.get("values")
                state = tell(state, archs, values if archs else np.zeros((0, len(state.problem.measured))))
            elif isinstance(row, dict) and SUPPLY in row:
                state = supply(state, _columns(row, SUPPLY))
            elif isinstance(row, dict) and GROW in row:
                state = grow(state, _columns(row, GROW))
            else:
                raise ValueError(f"expected {ASK!r}, {TELL!r}, {SUPPLY!r} or {GROW!r}, got {quoted(row)}")
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"row {number}: {one_line(error, 300)}") from error
    return state


def _columns(row: Mapping[str, Any], what: str) -> Columns:
    """Return the columns of a row of :func:`columns_row`."""
    fields: Any = row[what], row.get("names"), row.get("blocks")
    if not all(isinstance(field, list) and all(isinstance(one, str) for one in field) for field in fields):
        raise ValueError(f"{quoted(what)}: expected lists of strings and their values, got {quoted(row)}")
    archs, names, blocks = fields
    values = np.asarray(row.get("values"), np.float64)  # null is NaN
    return Columns(archs, names, values.reshape(len(archs), len(names)), blocks)


def _asked(state: State, archs: Sequence[Any]) -> State:
    keys = [state.problem.key(arch) for arch in archs]
    for arch, key in zip(archs, keys, strict=True):
        if not state.problem.is_candidate(key):
            raise ValueError(f"{quoted(arch)} is no candidate of this search")
    if len({*state.asked, *keys}) < len(state.asked) + len(keys):
        raise ValueError("an architecture is asked for twice")
    return dataclasses.replace(state, asked=(*state.asked, *keys))


def evolve(
    space: spaces.SearchSpace,
    score: Callable[[Sequence[str]], Any],
    num_evaluations: int,
    strategy: Strategy | str = "evolution",
    *,
    batch: int = 32,
    constraints: Mapping[str, Any] | None = None,
    measures: Mapping[str, Callable[[Any], float]] | None = None,
    seed: int = 0,
) -> tuple[tuple[str, ...], Float64[np.ndarray, " A"]]:
    """Search the whole space by scores that a function predicts, for a pool of good candidates.

    Args:
      space: a space with ``neighbours``.
      score: function of a list of strings -> a score each, higher is better, such as a fitted ranking's.
      num_evaluations: A, architectures to score.
      strategy: ``"evolution"``, ``"random"``, or one with options of its own.
      batch: architectures of one call.
      constraints: see :func:`init`.
      measures: see :func:`init`.
      seed: of all draws.

    Returns:
      (A strings, their scores [A]), best first; a score that is NaN is last.
    """
    state = init(space, None, strategy, constraints=constraints, measures=measures, seed=seed)
    while (left := num_evaluations - len(state.asked)) > 0:
        archs, state = ask(state, min(batch, left))
        scores = np.asarray(score(archs), np.float64)
        state = tell(state, archs, np.where(np.isneginf(scores), np.nan, scores))
    scores = np.asarray([-np.inf if one.values is None else one.values[0] for one in state.results])
    order = np.argsort(-scores, kind="stable")
    return tuple(state.results[i].arch for i in order), scores[order]
