"""This module fits rankings to columns out of files and a few labels.

The command ``eproxy fit`` and :func:`fit` write the same files. :mod:`eproxy_jax.runs.ranking` reads the first.

* ``settings.json``: the fit, and what its columns are made of; it ranks any other architecture
* ``predictions.jsonl``: one line for each architecture of the columns
* ``fit.json``: labels, their leave-one-out quality, quality on held-out architectures
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eproxy_jax import files, ranks, spaces
from eproxy_jax.dps.labels import connected_labels
from eproxy_jax.errors import check_known, quoted
from eproxy_jax.execution.grouping import parse_all
from eproxy_jax.fits import fitted as fits
from eproxy_jax.fits.aggregates import RankSum
from eproxy_jax.fits.columns import MACS, PARAMS, SIZES
from eproxy_jax.jsonlines import as_json, fingerprint
from eproxy_jax.progress import announce
from eproxy_jax.proxies.aggregates import AGGREGATES
from eproxy_jax.runs import outputs
from eproxy_jax.runs.gathering import Gathered, gather, need_of
from eproxy_jax.runs.saved_fits import MARK, SavedFit, as_lines, check_lines
from eproxy_jax.runs.session import versions
from eproxy_jax.sampling import draw_distinct

if TYPE_CHECKING:
    from jaxtyping import Float64

_HELD_OUT = 3  # architectures, of which a rank correlation says anything


@dataclasses.dataclass(frozen=True, eq=False)
class FitResult:
    """What :func:`fit` found.

    Attributes:
      saved: the fit.
      labels: value of each labelled architecture, by canonical string.
      quality: on held-out architectures: rank quality of the fit and of simpler rankings; none without measured values.
      archs: canonical strings of all architectures of the columns, A of them.
      score: [A], higher is better; ``-inf`` for disconnected networks.
      deviation: [A], standard deviation of the score.
    """

    saved: SavedFit
    labels: dict[str, float]
    quality: dict[str, ranks.RankQuality]
    archs: tuple[str, ...]
    score: Float64[np.ndarray, " A"]
    deviation: Float64[np.ndarray, " A"]


# --- labels --------------------------------------------------------------------------------------------------


def split(
    gathered: Gathered,
    truth: Mapping[Any, float] | None,
    labels: Mapping[Any, float] | None = None,
    num_labels: int = 20,
    seed: int = 0,
    say: Callable[[str], object] = warnings.warn,
) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Split measured values into labels and held-out ones, disjoint as functions.

    Labels that are drawn are of different functions, each with the value of one architecture.

    Args:
      gathered: the columns.
      truth: values by architecture; None if labels are all that is known.
      labels: labels by architecture; drawn from ``truth`` by default.
      num_labels: how many to draw.
      seed: of the draw.
      say: gets one line if labels are left out.

    Returns:
      (value by canonical string, a (canonical string, value) pair for each held-out architecture as written).

    Raises:
      ValueError: a label without columns, too few values to draw from, fewer than 3 labels.
    """
    space, known = gathered.space, {*gathered.columns.archs, *gathered.disconnected}
    pairs = [(space.format(space.canonical(arch)), arch, value) for arch, value in (truth or {}).items()]
    pairs = [pair for pair in pairs if pair[0] in known]
    if labels is not None:
        chosen = connected_labels(space, labels, say)
        if absent := [arch for arch in chosen if space.format(space.canonical(arch)) not in known]:
            raise ValueError(
                f"labels: {len(absent)} of {len(chosen)} have no columns, such as "
                f"{quoted(space.format(absent[0]))}: compute their columns, or leave them out"
            )
        several: dict[str, list[float]] = {}
        for arch, value in chosen.items():
            several.setdefault(space.format(space.canonical(arch)), []).append(value)
        found = {text: float(np.mean(values)) for text, values in several.items()}
    else:
        if truth is None:
            raise ValueError("a fit needs labels: give measured values, or the labels themselves")
        functions = list({text: pair for pair in reversed(pairs) if (text := pair[0])}.values())[::-1]
        if num_labels > len(functions):
            raise ValueError(
                f"labels: {num_labels} asked for, but {len(functions)} architectures have both columns and a value"
                f"{'' if functions else ': are they of the same list?'}"
            )
        drawn = [functions[i] for i in draw_distinct(len(functions), num_labels, seed, "the measured ones")]
        kept = connected_labels(space, {arch: value for _, arch, value in drawn}, say)
        found = {text: value for text, arch, value in drawn if arch in kept}
    return found, [(text, value) for text, _, value in pairs if text not in found]


# --- fit -----------------------------------------------------------------------------------------------------


def fit(
    columns: Sequence[str | os.PathLike[str]] | Gathered,
    truth: Mapping[Any, float] | None = None,
    labels: Mapping[Any, float] | None = None,
    *,
    num_labels: int = 20,
    seed: int = 0,
    method: str = "process",
    prior: str | Sequence[str] | None = fits.AUTO,
    space: spaces.SearchSpace | str | None = None,
    with_graph_counts: bool = True,
    workdir: str | os.PathLike[str] | None = None,
    command: str | None = None,
    say: Callable[[str], object] = announce,
) -> FitResult:
    """Fit a ranking to columns out of files and to a few labels; nothing is trained.

    Args:
      columns: files of ``eproxy score``, ``eproxy score --proxy`` and ``eproxy bank``, tables of numbers of your own.
      truth: measured values by architecture, higher is better. What is no label is held out.
      labels: labels by architecture; drawn at random from ``truth`` by default.
      num_labels: how many to draw.
      seed: of the draw.
      method: see ``ep.fit``.
      prior: see ``ep.fit``.
      space: the search space; by default the one that the files say.
      with_graph_counts: False leaves graph counts out.
      workdir: folder of the files; none are written by default.
      command: the command that asked for it, for the record.
      say: prints a line for the person who waits; on stderr by default.

    Returns:
      A ``FitResult``.

    Raises:
      ValueError: see ``ep.fit``, :func:`gathering.gather` and :func:`split`; a file of somebody else in ``workdir``.
      FileNotFoundError: a file is absent.
      OSError: a file cannot be written.
    """
    check_known([method], fits.METHODS, "fit", "method")
    if isinstance(prior, str) and prior != fits.AUTO:
        check_known([prior], AGGREGATES, "fit", "prior")
    space = spaces.get(space) if isinstance(space, str) else space
    gathered = columns if isinstance(columns, Gathered) else gather(
        [Path(one) for one in columns], space, with_graph_counts=with_graph_counts
    )  # fmt: skip
    truth, labels = _parsed(truth, gathered.space), _parsed(labels, gathered.space)
    known, held_out = split(gathered, truth, labels, num_labels, seed, say)
    fitted = fits.fit(gathered.columns, known, method, prior)  # pyright: ignore[reportArgumentType]
    saved = SavedFit(fitted, _needed(fitted, gathered), gathered.made_with, _mark(gathered, known, method, prior))
    quality = compare(gathered, fitted, held_out) if len(held_out) >= _HELD_OUT else {}
    mean, deviation = fitted.predict(gathered.columns)
    none = np.full(len(gathered.disconnected), -np.inf)
    result = FitResult(
        saved,
        known,
        quality,
        (*gathered.columns.archs, *gathered.disconnected),
        np.concatenate([mean, none]),
        np.concatenate([deviation, np.zeros(len(none))]),
    )
    if workdir is not None:
        _write(result, files.folder(workdir), len(held_out), command)
    return result


def _parsed(values: Mapping[Any, float] | None, space: spaces.SearchSpace) -> dict[Any, float] | None:
    if values is None:
        return None
    return dict(zip(parse_all(list(values), space), map(float, values.values()), strict=True))


def _needed(fitted: fits.Fitted, gathered: Gathered) -> dict[str, dict[str, Any]]:
    names = {need_of(name, gathered.needs) for name in fitted.names}
    return {name: need for name, need in gathered.needs.items() if name in names}


def _mark(gathered: Gathered, labels: Mapping[str, float], method: str, prior: Any) -> str:
    columns = gathered.columns
    return fingerprint(
        {
            "archs": [*columns.archs, *gathered.disconnected],
            "names": columns.names,
            "values": hashlib.sha256(columns.values.tobytes()).hexdigest(),
            "needs": gathered.needs,
            "made_with": gathered.made_with,
            "labels": labels,
            "method": method,
            "prior": prior,
            "version": versions()["eproxy_jax"],
        }
    )


def compare(
    gathered: Gathered, fitted: fits.Fitted, held_out: Sequence[tuple[str, float]]
) -> dict[str, ranks.RankQuality]:
    """Measure how well a fit and simpler rankings agree with held-out values; disconnected networks rank last.

    Args:
      gathered: the columns.
      fitted: the fit.
      held_out: (canonical string, value) pairs, at least 3.

    Returns:
      Rank quality of the fit, of the default sum of ranks if two of its columns are there, of the column that ranks
      the labels best, of a fit to sizes alone, of MACs and of parameters.
    """
    columns, labels = gathered.columns, dict(zip(fitted.archs, fitted.labels, strict=True))
    rows = {f"fitted ({fitted.method})": fitted.predict(columns)[0]}
    summed = [name for name in AGGREGATES["rank_sum"] if name in columns.names]
    if len(summed) > 1:
        whole = len(summed) == len(AGGREGATES["rank_sum"])
        rows["rank_sum" if whole else f"rank sum of {', '.join(summed)}"] = RankSum.of(columns, summed).values(columns)
    best = fits.fit(columns, labels, "best_column")
    rows[f"best by labels: {best.names[0]}"] = best.predict(columns)[0]
    sizes = columns.block(SIZES)
    if (sizes.values != sizes.values[:1]).any():
        rows["fitted sizes"] = fits.fit(sizes, labels, prior=None).predict(sizes)[0]
    rows |= {name: columns.column(name) for name in (MACS, PARAMS)}
    place = {arch: i for i, arch in enumerate(columns.archs)}
    where = np.asarray([place.get(text, -1) for text, _ in held_out])
    values = np.asarray([value for _, value in held_out])
    return {name: ranks.rank_quality(np.where(where < 0, -np.inf, row[where]), values) for name, row in rows.items()}


# --- files of a fit ------------------------------------------------------------------------------------------


def written_files(workdir: Path) -> list[Path]:
    """Return all files that :func:`fit` writes, its figure left out."""
    return [workdir / name for name in ("settings.json", "predictions.jsonl", "fit.json")]


def _write(result: FitResult, workdir: Path, num_held_out: int, command: str | None) -> None:
    """Write the files of a fit, each as a whole; ``settings.json`` is the last.

    Raises:
      ValueError: a file of somebody else, or of another fit, stands there, or another fit is writing there.
    """
    saved = result.saved
    settings, predictions, record = written_files(workdir)
    message = f"{workdir}: another fit is writing this folder: wait for it, or choose another --workdir"
    with files.locked_folder(workdir, message):
        for path in (settings, record):
            outputs.check_marked(path, MARK, saved.mark)
        check_lines(predictions, MARK, saved.mark)
        lines = as_lines(result.archs, result.score, result.deviation, {MARK: saved.mark})
        files.write_atomically(predictions, "".join(lines))
        left_out = dataclasses.asdict(saved.fitted.quality)
        described = {
            MARK: saved.mark,
            **saved.made_with,
            "method": saved.fitted.method,
            "prior_weight": saved.fitted.prior_weight,
            "archs": len(result.archs),
            "columns": len(saved.fitted.names),
            "labels": result.labels,
            "leave_one_out": left_out,
            "held_out": num_held_out,
            "quality": {name: dataclasses.asdict(row) for name, row in result.quality.items()},
            "command": command,
            "versions": versions(),
        }
        files.write_atomically(record, as_json(described, indent=1))
        files.write_atomically(settings, as_json(saved.to_dict()))
