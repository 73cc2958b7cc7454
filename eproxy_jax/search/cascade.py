"""This module says whose dear columns are worth their price: cheap columns on all, dear ones on what can still win.

A search begins with columns that are cheap for all candidates. Before each ask, :func:`wanting` names those whose dear
columns would matter; :func:`state.supply` adds them. A candidate can win as long as its upper confidence bound, from
the cheap columns and the measurements, exceeds what the best measured one is expected to have.
"""

from __future__ import annotations

import numpy as np

from eproxy_jax.errors import quoted
from eproxy_jax.search.acquisition import bounds_of
from eproxy_jax.search.state import State
from eproxy_jax.search.strategies import Process, generator_of

_FEW = 4  # this part of the number at a time, where nothing exceeds the best


def wanting(state: State, num: int = 8, most: int | None = None) -> tuple[str, ...]:
    """Return the candidates whose dear columns the next ask should know.

    These are the measured ones, and what can still win, the largest bound first, if the candidate that would be asked
    for is among it. The first measurements are drawn without dear columns.

    Where nothing exceeds the best, a quarter of ``num`` of the largest bounds are wanted: a measurement costs more.

    Args:
      state: the search, by the process.
      num: how many at a time, at most, besides the measured ones.
      most: how many candidates may have dear columns; by default all.

    Returns:
      Architectures to compute dear columns of, for :func:`supply`; none if the next ask knows enough.

    Raises:
      ValueError: the strategy has no bounds, or ``num`` is less than 1.
    """
    strategy, problem = state.strategy, state.problem
    if not isinstance(strategy, Process):
        raise ValueError(f"a cascade goes by the process, which says what can still win; got {quoted(strategy.name)}")
    if num < 1:
        raise ValueError(f"wanting: expected a number of architectures >= 1, got {num}")
    bounds = bounds_of(state, strategy.prior, strategy.beta) if len(state.asked) >= strategy.num_initial else None
    if bounds is None:
        return ()
    known = set() if state.dear is None else set(state.dear.archs)
    measured = [one.key for one in state.results if not one.failed and one.key not in known]
    left = problem.feasible.copy()
    left[[problem.place[key] for key in state.asked]] = False
    order: list[str] = []
    if left.any():
        scalar = np.where(left, bounds.scalar(generator_of(state)), -np.inf)
        if problem.keys[int(np.argmax(scalar))] not in known:
            rows = [row for row in np.argsort(-scalar, kind="stable") if left[row] and problem.keys[row] not in known]
            best = bounds.reached.max() if bounds.upper.shape[1] == 1 else -np.inf
            winning = int((scalar[rows] > best).sum())
            order = [problem.keys[row] for row in rows[: min(max(winning, -(-num // _FEW)), num)]]
    wanted = [*measured, *order]
    if most is not None:
        wanted = wanted[: max(most - len(known), 0)]
    return tuple(map(problem.spelling, wanted))
