"""This module reads measured values, the truth that a ranking is compared with, and looks architectures up in it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax import progress
from eproxy_jax.errors import did_you_mean, listed, quoted
from eproxy_jax.runs import archs as archs_lib
from eproxy_jax.runs import contents
from eproxy_jax.spaces import SearchSpace

# Words in the name of a value of which less is better.
_COSTS = re.compile(
    r"(?:^|[^a-z])(?:err|errors?|loss(?:es)?|nll|time|times|seconds|latency|latencies|energy|perplexity|ppl|regret|[rm]*mse|mae|"
    r"flops|macs|params|parameters|fid)(?:$|[^a-z])"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Truth(dict[Any, float]):
    """Measured values by architecture, higher is better. Where an architecture has several rows, the mean of them.

    Attributes:
      name: of the file, for messages.
      column: name of the value.
      negated: lower is better in the file, and the values here are negative.
      num_several: architectures with several different values.
      num_missing: rows without a finite value, which are left out.
    """

    def __init__(
        self, values: dict[Any, float], name: str, column: str, negated: bool, num_several: int, num_missing: int
    ):
        super().__init__(values)
        self.name, self.column, self.negated = name, column, negated
        self.num_several, self.num_missing = num_several, num_missing

    def notes(self) -> list[str]:
        """What a person should know of how the values were read, one sentence each."""
        found = []
        if self.num_several:
            archs = _count(self.num_several, "architecture has", "architectures have")
            found.append(f"{self.name}: {archs} several rows: the mean is taken")
        if self.num_missing:
            rows = _count(self.num_missing, "row has", "rows have")
            found.append(f"{self.name}: {rows} no finite {quoted(self.column)}: left out")
        if looks_like_cost(self.column) and not self.negated:
            found.append(
                f"warning: {self.name}: {quoted(self.column)} sounds like an error or a cost, but higher is taken as "
                "better: add --lower-is-better if lower is"
            )
        return found


@dataclasses.dataclass(frozen=True)
class Matched:
    """A list of architectures looked up in the truth.

    Attributes:
      values: [A] float64; NaN where the truth has none.
      num_canonical: architectures found by their function only: the truth writes them another way.
      num_unused: architectures of the truth that match none of the list.
    """

    values: np.ndarray
    num_canonical: int
    num_unused: int

    @property
    def num_known(self) -> int:
        """Architectures of the list that have a value."""
        return int(np.isfinite(self.values).sum())


def read_truth(
    path: str | Path,
    space: SearchSpace,
    column: str | None = None,
    *,
    dataset: str | None = None,
    lower_is_better: bool = False,
) -> Truth:
    """Read measured values by architecture.

    Args:
      path: a file with values in any form that ``archs.read_archs`` reads; ``-`` is standard input.
      space: the search space.
      column: name of the value; needed if a file has several.
      dataset: which data set, of a file that holds several.
      lower_is_better: the values are errors, losses or times: they are negated.

    Returns:
      Value of each architecture, higher is better: the mean where it has several rows.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no values, or several columns without a choice.
    """
    name = contents.name_of(path)
    records = archs_lib.read_archs(path, space, dataset)
    column = _chosen(column, records, name)
    values: dict[Any, list[float]] = {}
    missing = 0
    for record in records:
        value = record.values.get(column)
        if value is None:
            missing += 1
        else:
            values.setdefault(record.arch, []).append(-value if lower_is_better else value)
    means = {arch: _mean(runs) for arch, runs in values.items()}
    several = sum(any(run != runs[0] for run in runs) for runs in values.values())
    return Truth(means, name, column, lower_is_better, several, missing)


def match(archs: Sequence[Any], truth: dict[Any, float], space: SearchSpace) -> Matched:
    """Look architectures up: as they are written, else by their canonical form.

    Args:
      archs: A architectures.
      truth: values by architecture.
      space: the search space.

    Returns:
      The values in the order of ``archs``. Where only the canonical form is known, the mean over all that the truth
      has of it.
    """
    values = np.asarray([truth.get(arch, math.nan) for arch in archs], np.float64)
    used = {arch for arch in archs if arch in truth}
    absent = [place for place, arch in enumerate(archs) if arch not in truth]
    found = 0
    if absent and len(used) < len(truth):
        by_function = _by_function(truth, space)
        for place in absent:
            if same := by_function.get(space.canonical(archs[place])):
                values[place] = _mean([truth[arch] for arch in same])
                used.update(same)
                found += 1
    return Matched(values, found, len(truth) - len(used))


def looks_like_cost(name: str) -> bool:
    """Say if a name is one of an error, a loss or a cost, of which less is better.

    Example:
      >>> [looks_like_cost(name) for name in ("valid_error", "testLoss", "neg_loss", "val_acc", "terror")]
      [True, True, False, False, False]
    """
    words = _CAMEL.sub("_", name).lower()
    return (
        _COSTS.search(words) is not None and re.search(r"(?:^|[^a-z])(?:neg|negative|minus)(?:$|[^a-z])", words) is None
    )


def _chosen(column: str | None, records: Sequence[archs_lib.ArchRecord], name: str) -> str:
    columns = list(dict.fromkeys(column for record in records for column in record.values))
    shown = listed(columns)
    if column is None:
        if len(columns) != 1:
            found = f"columns: {shown}; choose one with --truth-column" if columns else "found no number"
            raise ValueError(f"{name}: expected one value an architecture, {found}")
        return columns[0]
    if column not in columns:
        known = f"it has {shown}" if columns else "it has none"
        raise ValueError(f"{name}: no value column {quoted(column)}{did_you_mean(column, columns)}; {known}")
    return column


def _by_function(truth: dict[Any, float], space: SearchSpace) -> dict[Any, list[Any]]:
    """The architectures of the truth by canonical form."""
    found: dict[Any, list[Any]] = {}
    for arch in progress.track(truth, "architectures of the truth compared"):
        found.setdefault(space.canonical(arch), []).append(arch)
    return found


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
