"""This module ranks architectures by a saved fit: it computes the columns that the fit needs, and no others."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array

from eproxy_jax import files, spaces
from eproxy_jax.columns import ColumnJob, ColumnsResult, wanted_columns
from eproxy_jax.dps import loss_bank
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.errors import listed, quoted
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import parse_all
from eproxy_jax.fits.columns import MACS, PARAMS, Columns
from eproxy_jax.images import BATCH_SIZE, batch_identity, default_images, standardize
from eproxy_jax.jsonlines import as_json, fingerprint
from eproxy_jax.progress import announce
from eproxy_jax.runs import columns as columns_lib
from eproxy_jax.runs import hosts, outputs
from eproxy_jax.runs.gathering import EPROXY_IMAGES, GENOME, OF_BANK, gather, other_than, proxies_in_order
from eproxy_jax.runs.saved_fits import MARK, SavedFit, as_lines, check_lines, load
from eproxy_jax.runs.session import versions
from eproxy_jax.types import STATUS_OK, ProxySettings

if TYPE_CHECKING:
    from jaxtyping import Float64, Int, Int64, Key, Num


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
    files.write_atomically(path, "".join(as_lines(texts, ranked.score[few], ranked.deviation[few], run)))
    files.write_atomically(outputs.record_path(path), as_json(record, indent=1))
    return ranked


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
