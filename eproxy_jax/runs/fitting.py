"""This module fits rankings to columns out of files and a few labels, and ranks other architectures by what it saved.

The commands ``eproxy fit`` and ``eproxy score --settings``, and :func:`fit` and :func:`rank`, write the same files:

* ``settings.json``: the fit, and what its columns are made of; it ranks any other architecture
* ``predictions.jsonl``: one line for each architecture of the columns
* ``fit.json``: labels, their leave-one-out quality, quality on held-out architectures
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

from eproxy_jax import files, ranks, spaces
from eproxy_jax.columns import ColumnJob, ColumnsResult, wanted_columns
from eproxy_jax.dps import loss_bank
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.dps.labels import connected_labels
from eproxy_jax.errors import check_known, listed, quoted
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import parse_all
from eproxy_jax.fits import fitted as fits
from eproxy_jax.fits.aggregates import RankSum
from eproxy_jax.fits.columns import MACS, PARAMS, SIZES, Columns
from eproxy_jax.images import BATCH_SIZE, batch_identity, default_images, standardize
from eproxy_jax.jsonlines import fingerprint
from eproxy_jax.progress import announce
from eproxy_jax.proxies.aggregates import AGGREGATES
from eproxy_jax.runs import columns as columns_lib
from eproxy_jax.runs import hosts, outputs
from eproxy_jax.runs.gathering import (
    EPROXY_IMAGES,
    GENOME,
    OF_BANK,
    Gathered,
    gather,
    need_of,
    other_than,
    proxies_in_order,
)
from eproxy_jax.runs.session import versions
from eproxy_jax.sampling import draw_distinct
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_OK, ProxySettings

if TYPE_CHECKING:
    from jaxtyping import Float64, Int, Int64, Key, Num

MARK = "fit"  # the field of a file of a fit; its value is the fit's fingerprint
_FIELDS = (MARK, "made_with", "columns", "model")
_HELD_OUT = 3  # architectures, of which a rank correlation says anything


@dataclasses.dataclass(frozen=True, eq=False)
class SavedFit:
    """A fit, and what its columns are made of.

    Attributes:
      fitted: the fit.
      needs: what each of its columns is, see :class:`Gathered`.
      made_with: what the columns depend on besides.
      mark: fingerprint of columns, labels and method.
    """

    fitted: fits.Fitted
    needs: dict[str, dict[str, Any]]
    made_with: dict[str, Any]
    mark: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists and numbers, for JSON."""
        return {
            MARK: self.mark,
            "made_with": self.made_with,
            "columns": self.needs,
            "model": self.fitted.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SavedFit:
        """Invert :meth:`to_dict`.

        Raises:
          ValueError: a field is absent, or has no such value.
        """
        if not isinstance(values, Mapping) or any(name not in values for name in _FIELDS):
            raise ValueError(f"a saved fit has the fields {', '.join(_FIELDS)}; got {quoted(values)}")
        fitted = fits.Fitted.from_dict(values["model"])
        needs, made_with = values["columns"], values["made_with"]
        for name in fitted.names:
            need = needs.get(need_of(name, needs)) if isinstance(needs, dict) else None
            if not isinstance(need, dict) or not {"proxy", "settings", GENOME, "file"} & need.keys():
                raise ValueError(f"a saved fit: columns: nothing says what {quoted(name)} is: fit it again")
        if not isinstance(made_with, dict) or "space" not in made_with or not isinstance(values[MARK], str):
            raise ValueError("a saved fit: made_with, fit: expected an object with a space, and a text: fit it again")
        return cls(fitted, needs, made_with, values[MARK])

    @property
    def reads_images(self) -> bool:
        """Whether a column of another proxy than Eproxy may read images, which are 128 then."""
        return "images" in self.made_with


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
        lines = _lines(result.archs, result.score, result.deviation, {MARK: saved.mark})
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
        files.write_atomically(record, _json(described, indent=1))
        files.write_atomically(settings, _json(saved.to_dict()))


def _json(values: Any, indent: int | None = None) -> str:
    return json.dumps(_finite(values), indent=indent) + "\n"


def _finite(value: Any) -> Any:
    """Return plain data with null for what is not finite: JSON has no such number."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _lines(archs: Sequence[str], score: np.ndarray, deviation: np.ndarray, more: Mapping[str, Any]) -> list[str]:
    """Return one JSON line an architecture: arch, score, std, status; null for disconnected networks."""
    lines = []
    for arch, value, spread in zip(archs, score.tolist(), deviation.tolist(), strict=True):
        ok = bool(np.isfinite(value))
        row = {"arch": arch, "score": value if ok else None, "std": spread if ok else None}
        lines.append(json.dumps({**row, "status": STATUS_OK if ok else STATUS_DISCONNECTED, **more}) + "\n")
    return lines


def check_lines(path: Path, mark: str, value: str) -> None:
    """Check that a file of JSON lines is absent, or that its first line holds a mark of who wrote it.

    Raises:
      ValueError: it does not; the file is left as it is.
    """
    if not files.writable(path).exists():
        return
    try:
        row = json.loads(files.read_bytes(path, "file of lines").partition(b"\n")[0])
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or mark not in row:
        raise ValueError(f"{path}: not written by this command, and left as it is: {outputs.ELSEWHERE}")
    if row[mark] != value:
        what = f"of another {mark} ({quoted(row[mark])}; this one is {quoted(value)})"
        raise ValueError(f"{path}: {what}: {outputs.ELSEWHERE}")


# --- other architectures -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Ranked:
    """Architectures ranked by a fit, in the order given.

    Attributes:
      archs: their strings, length A.
      score: [A], what the fit expects, higher is better; ``-inf`` for disconnected networks.
      deviation: [A], standard deviation of it.
      columns: the columns that were computed for them.
    """

    archs: tuple[str, ...]
    score: Float64[np.ndarray, " A"]
    deviation: Float64[np.ndarray, " A"]
    columns: ColumnsResult

    def ranking(self) -> Int64[np.ndarray, " A"]:
        """Return the indices from best to worst, [A]; equal scores as given."""
        return np.argsort(-self.score, kind="stable")


def rank(
    saved: SavedFit | str | os.PathLike[str],
    archs: Sequence[Any],
    space: spaces.SearchSpace | str,
    images: Num[Array | np.ndarray, "B H W 3"] | None = None,
    key: Key[Array, ""] | int = 0,
    *,
    labels: Int[Array | np.ndarray, " B"] | Sequence[int] | None = None,
    num_classes: int | None = None,
    columns: Sequence[str | os.PathLike[str]] = (),
    workdir: str | os.PathLike[str] = ".",
    out: str | os.PathLike[str] | None = None,
    execution: Execution | None = None,
    process: hosts.Process | None = None,
    wait: float = hosts.WAIT_SECONDS,
    command: str | None = None,
    say: Callable[[str], None] = announce,
) -> Ranked | None:
    """Rank architectures by a saved fit: compute the columns that it needs and no others, into a file that resumes.

    The columns are in ``columns.jsonl``, see ``ep.runs.score_columns``; the cheap ones are computed first. Settings of
    a loss bank are trained last, in ``bank.jsonl``: a bank has draws of its own.

    Args:
      saved: the fit, or its file ``settings.json``.
      archs: architectures in any notation that ``space.parse`` reads.
      space: the search space of the fit's columns.
      images: [B, H, W, 3], those of the fit's columns.
      key: typed key or integer seed, that of the fit's columns.
      labels: [B], class of each image, those of the fit's columns.
      num_classes: K, that of the fit's columns.
      columns: files of columns of your own, if the fit has any.
      workdir: folder of the files; made if absent.
      out: the result file; ``WORKDIR/scores.jsonl`` by default.
      execution: devices and execution form; all devices by default.
      process: this process among those of the run.
      wait: largest time without a sign of life of another process, s.
      command: the command that started the run, for its record.
      say: prints a line for the person who waits; on stderr by default.

    Returns:
      A ``Ranked`` in the order of ``archs``, or None in processes other than the first.

    Raises:
      ValueError: the columns of the fit were made with something else, or need a file that is not given; see
        ``ep.runs.score_columns``.
      OSError: a file cannot be read or written.
    """
    saved = saved if isinstance(saved, SavedFit) else load(saved)
    space = spaces.get(space) if isinstance(space, str) else space
    process = hosts.Process.current() if process is None else process
    job = ColumnJob.of(space, images, labels, num_classes, key, execution)
    names, settings = _to_compute(saved, job)
    own = _own_columns(saved, columns, space)
    banked = [name for name in saved.fitted.names if GENOME in saved.needs.get(name, {})]
    if banked and process.count > 1:
        raise ValueError("the fit has columns of a loss bank, which one process trains: start one")
    path = files.folder(workdir) / "scores.jsonl" if out is None else files.writable(out)
    run_id = fingerprint({MARK: saved.mark, **job.identity()})
    before = outputs.read_record(outputs.record_path(path)) if process.index == 0 else None
    if process.index == 0:
        check_lines(path, "run", run_id)
        outputs.check_record(before, path, run_id, True)
    result = columns_lib.score_columns(
        archs,
        space,
        names,
        images,
        key,
        labels=labels,
        num_classes=num_classes,
        settings=settings,
        out=columns_path(path),
        execution=execution,
        process=process,
        wait=wait,
        command=command,
        say=say,
    )
    if result is None:
        return None
    if banked:
        result = dataclasses.replace(result, columns=result.columns | _of_bank(saved, banked, result, job, path))
    ranked = _ranked(saved, result, own, space)
    place = {arch: i for i, arch in enumerate(ranked.archs)}  # each string once
    few = list(place.values())
    texts, run = [ranked.archs[i] for i in few], {"run": run_id}
    record = {
        **run,
        "out": path.name,
        "finished": True,
        MARK: saved.mark,
        "columns": columns_path(path).name,
        **saved.made_with,
        "archs": len(texts),
        "command": command,
        "versions": versions(),
    }
    files.write_atomically(path, "".join(_lines(texts, ranked.score[few], ranked.deviation[few], run)))
    files.write_atomically(outputs.record_path(path), _json(record, indent=1))
    return ranked


def load(path: str | os.PathLike[str]) -> SavedFit:
    """Read a saved fit.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a saved fit.
    """
    try:
        return SavedFit.from_dict(json.loads(files.read_text(path, "saved fit")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def columns_path(out: Path) -> Path:
    """Return the file of columns beside a result file of :func:`rank`."""
    return out.with_name("columns.jsonl") if out.name == "scores.jsonl" else outputs.derived(out, ".columns.jsonl")


def _to_compute(saved: SavedFit, job: ColumnJob) -> tuple[list[str], dict[str, ProxySettings]]:
    """Return the columns to compute, the cheap ones first, and the settings of those of Eproxy.

    Raises:
      ValueError: the run would make them with something else than those of the fit.
    """
    identity = json.loads(json.dumps(job.identity()))
    if EPROXY_IMAGES in saved.made_with:
        identity[EPROXY_IMAGES] = batch_identity(_eproxy_batch(saved, job))
    wanted = {name: value for name, value in saved.made_with.items() if name not in OF_BANK}
    if what := other_than({name: identity.get(name) for name in wanted}, wanted):
        raise ValueError(f"the columns of this fit were made with {what}: use those of the fit")
    names = [*dict.fromkeys([MACS, PARAMS, *proxies_in_order(saved.fitted.names, saved.needs)])]
    settings: dict[str, ProxySettings] = {}
    for name in names:
        need = saved.needs.get(name, {})
        if "settings" in need:
            settings[name.partition(":")[2]] = ProxySettings.from_dict(need["settings"])
        elif "source" in need:
            (column,) = wanted_columns([name])
            if job.identity_of(column, []).get("source") != need["source"]:
                raise ValueError(f"proxy {quoted(name)}: its source is not that of the fit's column: fit it again")
    return names, settings


def _eproxy_batch(saved: SavedFit, job: ColumnJob) -> Any:
    """Return the standardised images of the fit's Eproxy columns; those of a bank may be fewer than 16."""
    images = default_images() if job.images is None else job.images
    made = saved.made_with[EPROXY_IMAGES]
    shape = made.get("shape") if isinstance(made, dict) else None
    own = any("settings" in need for need in saved.needs.values())
    few = shape[0] if isinstance(shape, list) and shape and not own else BATCH_SIZE
    return standardize(images[: few if few in range(1, BATCH_SIZE) else BATCH_SIZE])


def bank_path(out: Path) -> Path:
    """Return the loss bank beside a result file of :func:`rank`."""
    return out.with_name("bank.jsonl") if out.name == "scores.jsonl" else outputs.derived(out, ".bank.jsonl")


def _of_bank(
    saved: SavedFit, names: Sequence[str], result: ColumnsResult, job: ColumnJob, out: Path
) -> dict[str, np.ndarray]:
    """Train the settings of a bank that a fit needs, in a bank; returns their columns, [A] each."""
    space, table = job.space, GeneTable.from_dict(saved.made_with["genes"])
    spec = loss_bank.BankSpec(space, table, _eproxy_batch(saved, job), job.key, int(saved.made_with["num_steps"]))
    genomes = [np.asarray(saved.needs[name][GENOME], np.int32) for name in names]
    archs = parse_all(result.archs, space)
    with loss_bank.LossBank(bank_path(out), spec.identity(job.execution)) as bank:
        loss_bank.fill(bank, spec, genomes, archs, job.execution, loss_bank.show_progress())
        losses = bank.losses(spec.num_steps)[bank.rows(table, genomes)][:, bank.columns(space, archs), -1]
    return {name: np.where(np.isfinite(row), -row, -np.inf) for name, row in zip(names, losses, strict=True)}


def _own_columns(saved: SavedFit, paths: Sequence[str | os.PathLike[str]], space: spaces.SearchSpace) -> Columns | None:
    """Return the columns of a user's files that a fit needs.

    Raises:
      ValueError: one is in no file.
    """
    wanted = [name for name in saved.fitted.names if "file" in saved.needs.get(name, {})]
    if not wanted:
        return None
    own = gather([Path(one) for one in paths], space, with_graph_counts=False).columns if paths else None
    if absent := [name for name in wanted if own is None or name not in own.names]:
        names = dict.fromkeys(saved.needs[name]["file"] for name in absent)
        raise ValueError(
            f"the fit needs {listed(map(quoted, absent))}, of {listed(names)}: name the files by --columns, with the "
            "architectures to rank in them"
        )
    assert own is not None
    return own.select(wanted)


def _ranked(saved: SavedFit, result: ColumnsResult, own: Columns | None, space: spaces.SearchSpace) -> Ranked:
    connected = np.asarray(result.status) == STATUS_OK
    texts = [space.format(space.canonical(space.parse(arch))) for arch in result.archs]
    first = {text: i for i, text in reversed(list(enumerate(texts))) if connected[i]}
    score, deviation = np.full(len(texts), -np.inf), np.zeros(len(texts))
    if first:
        few = list(first.values())
        held = Columns.of(list(first), {name: column[few] for name, column in result.columns.items()})
        if own is not None:
            held = held.join(own, partial=True)
        mean, spread = saved.fitted.predict(held)
        place = {text: i for i, text in enumerate(first)}
        where = [place[text] for text, ok in zip(texts, connected, strict=True) if ok]
        score[connected], deviation[connected] = mean[where], spread[where]
    return Ranked(result.archs, score, deviation, result)
