"""This module ends a search of settings with a fit to columns.

They are the losses of the members found, other proxies, sizes and counts in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax.dps import comparison, loss_bank
from eproxy_jax.dps.fitted import FittedProxy
from eproxy_jax.dps.search import Problem
from eproxy_jax.execution.execution import Execution
from eproxy_jax.runs import fitting, gathering
from eproxy_jax.runs.columns import score_columns
from eproxy_jax.types import ProxySettings

if TYPE_CHECKING:
    from jaxtyping import Int, Num

REFERENCE = 200  # architectures drawn at random, where none has a measured value besides the labelled ones
BANK = "evaluation.jsonl"
FOLDER = "fit"


def written_files(workdir: Path) -> list[Path]:
    """Return the files that :func:`fit_members` adds to those of a search."""
    return [workdir / "columns.jsonl", workdir / "columns.run.json", *fitting.written_files(workdir / FOLDER)]


def fit_members(
    problem: Problem,
    proxy: FittedProxy,
    evaluation: Mapping[Any, float],
    names: Sequence[str] | str,
    images: Num[np.ndarray, "B H W 3"],
    labels: Int[np.ndarray, " B"] | None = None,
    num_classes: int | None = None,
    *,
    plain: ProxySettings | None = None,
    workdir: Path,
    execution: Execution,
    command: str | None = None,
) -> fitting.FitResult:
    """Fit a ranking to the members of a search and to columns of other proxies.

    The columns are of the labelled and of the evaluation architectures. If there are none of these, 200 drawn from
    the space take their place: the fit ranks values among them. It resumes from ``columns.jsonl`` and
    ``evaluation.jsonl``, and writes the files of ``ep.runs.fit`` below ``fit``.

    Args:
      problem: the search problem.
      proxy: the members that the search found.
      evaluation: architectures with their values, disjoint from the labelled ones; may be empty.
      names: proxies to compute, as of ``eproxy score --proxy``.
      images: [B, H, W, 3] in [0, 1], those of the proxies; the first are those of the search.
      labels: [B], class of each image; random ones by default.
      num_classes: K.
      plain: settings of the column ``eproxy``, if that is among ``names``.
      workdir: folder of the search.
      execution: devices and execution form.
      command: the command that asked for it, for the records.

    Raises:
      ValueError: see ``ep.runs.score_columns`` and ``ep.runs.fit``.
      OSError: a file cannot be written.
    """
    space = problem.space
    archs = [*problem.labelled, *(evaluation or _reference(problem))]
    score_columns(
        archs,
        space,
        names,
        images,
        problem.key,
        labels=labels,
        num_classes=num_classes,
        settings=plain,
        workdir=workdir,
        execution=execution,
        command=command,
    )
    spec = comparison.bank_spec(problem)
    genomes = [problem.genes.encode(member.settings) for member in proxy.members]
    path = workdir / BANK
    with loss_bank.LossBank(path, spec.identity(execution)) as bank:
        loss_bank.fill(bank, spec, genomes, archs, execution, loss_bank.show_progress())
        rows = set(np.asarray(bank.rows(problem.genes, genomes)).tolist())
        others = [f"eproxy:{path.stem}#{row}" for row in range(len(bank.genes)) if row not in rows]
    gathered = gathering.gather([workdir / "columns.jsonl", path], space, leave_out=others)
    known = dict(zip(problem.labelled, problem.truth, strict=True))
    return fitting.fit(gathered, evaluation or None, known, workdir=workdir / FOLDER, command=command)


def _reference(problem: Problem) -> list[Any]:
    space = problem.space
    return list(space.sample(min(REFERENCE, space.num_archs or REFERENCE), 0))
