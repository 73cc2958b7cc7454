"""This module gathers columns out of files: what eproxy wrote, and tables of a user's own.

A file is one of four kinds, and its content says which:

* columns of ``eproxy score --proxy``, with their record beside them;
* scores of ``eproxy score``, with their record: the column ``eproxy``, minus the loss;
* a loss bank of ``eproxy bank``: a column for each setting;
* any other file of architectures and numbers: a column for each number, named by file and number.

All are joined by the canonical form of architectures. Sizes and graph counts come from the space. What each column is
made of comes along, so that a fit can say later what it needs.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eproxy_jax import files, progress, spaces
from eproxy_jax.columns import EPROXY
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.dps.loss_bank import LossBank
from eproxy_jax.errors import did_you_mean, listed, one_line, quoted
from eproxy_jax.fits.columns import GRAPH, LOSSES, MACS, PARAMS, PROXIES, SIZES, Columns
from eproxy_jax.proxies import graph_counts, registry
from eproxy_jax.runs import archs as archs_lib
from eproxy_jax.runs import columns_file, contents, outputs, results
from eproxy_jax.spaces import SearchSpace

GRAPH_COUNTS = "graph_counts"
_OF_SPACE = (MACS, PARAMS, GRAPH_COUNTS)  # computed from the space, whatever files hold of them
_SPACE = ("space", "sizes", "source")
_COMMON = (*_SPACE, "weight_seed")
_OF_PROXIES = ("images", "labels", "num_classes")
EPROXY_IMAGES = "eproxy_images"
OF_BANK = ("genes", "num_steps")  # a bank has draws of its own, which all settings of its gene table share
GENOME = "genome"


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """Columns out of files.

    Attributes:
      space: the search space.
      columns: of the connected architectures that all files have; canonical strings.
      disconnected: canonical strings of the disconnected ones.
      needs: what each column is, by its name: ``{"proxy": NAME}``, ``{"settings": {...}}`` of Eproxy,
        ``{"genome": [...]}`` of a loss bank, or ``{"file": NAME}`` for a user's own. The counts of a graph are one,
        ``graph_counts``.
      made_with: what columns depend on besides: space, sizes, weight seed, images, labels, number of classes; the gene
        table of a bank.
    """

    space: SearchSpace
    columns: Columns
    disconnected: tuple[str, ...]
    needs: dict[str, dict[str, Any]]
    made_with: dict[str, Any]


class _Part(NamedTuple):
    """What one file holds: float64 [C] by canonical string, names, blocks, needs, what they depend on."""

    path: Path
    names: tuple[str, ...]
    rows: dict[str, np.ndarray]
    block: str | None
    needs: dict[str, dict[str, Any]]
    made_with: dict[str, Any]


def gather(
    paths: Sequence[str | Path],
    space: SearchSpace | None = None,
    *,
    with_graph_counts: bool = True,
    dataset: str | None = None,
    leave_out: Sequence[str] = (),
    values: Mapping[Path, str] | None = None,
) -> Gathered:
    """Read columns out of files.

    Args:
      paths: the files.
      space: the search space; by default the one that a file of eproxy says it is of.
      with_graph_counts: False leaves graph counts out.
      dataset: which data set, of tables that hold several.
      leave_out: names of columns to leave out, as patterns of a shell: ``*.time``.
      values: the column of a table that holds the measured values, by file: it is no column of a fit to them.

    Raises:
      FileNotFoundError: a file or its record is absent.
      ValueError: a file of another space, other images, labels or seed; no architecture in all of them; a column
        without a value; two different columns of one name; no space.
    """
    if not paths:
        raise ValueError("columns: name at least one file")
    kinds = [(files.existing(path, "file of columns"), _first_row(path)) for path in paths]
    space = _space_of(kinds) if space is None else space
    own = _plain(space.identity())
    parts = []
    for path, first in kinds:
        part = _read(path, first, space, dataset, dict(values or {}))
        check_same(path, {name: part.made_with[name] for name in _SPACE if name in part.made_with}, own)
        parts.append(part)
    made_with = {name: own[name] for name in _SPACE if name in own}
    for part in parts:
        known = {name: value for name, value in made_with.items() if name in part.made_with}
        check_same(part.path, {name: part.made_with[name] for name in known}, known)
        made_with |= part.made_with
    return _joined(space, _without(_named_once(_stacked(parts)), leave_out), made_with, with_graph_counts)


def space_of_files(paths: Sequence[str | Path]) -> SearchSpace:
    """Return the search space of files of columns, as the first file of eproxy says it.

    Raises:
      FileNotFoundError: a file or its record is absent.
      ValueError: no file says it, or the space is not registered.
    """
    return _space_of([(files.existing(path, "file of columns"), _first_row(path)) for path in paths])


def of_space(space: SearchSpace, archs: Sequence[Any], with_graph_counts: bool = True) -> Gathered:
    """Return the columns that the space alone gives to a list of architectures: sizes and graph counts."""
    shown = progress.track(archs, "architectures in canonical form")
    texts = {space.format(space.canonical(arch)): np.zeros(0) for arch in shown}
    part = _Part(Path(), (), texts, None, {}, {})
    own = _plain(space.identity())
    return _joined(space, [part], {name: own[name] for name in _SPACE if name in own}, with_graph_counts)


# --- one file ------------------------------------------------------------------------------------------------


def _first_row(path: str | Path) -> dict[str, Any]:
    """Return the first line of a file if it is an object of JSON, else an empty one."""
    text = contents.read_text(path, "file of columns").lstrip()
    try:
        row = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _is_columns(row: Mapping[str, Any]) -> bool:
    return {"arch", "status", "macs_as_written", "params_as_written", "run"} <= row.keys()


def _is_scores(row: Mapping[str, Any]) -> bool:
    return {"arch", "score", "losses", "effective_macs", "run"} <= row.keys()


def _space_of(kinds: Sequence[tuple[Path, dict[str, Any]]]) -> SearchSpace:
    """Return the space of the first file that says what it is of.

    Raises:
      ValueError: none does, or it is a space that is not registered.
    """
    for path, row in kinds:
        header = row if "bank" in row else _record(path, row) if _is_columns(row) or _is_scores(row) else {}
        if isinstance(name := header.get("space"), str) and isinstance(sizes := header.get("sizes"), dict):
            if name not in spaces.names():
                raise ValueError(f"{path}: of the space {quoted(name)}, which is not registered: name its --config")
            return spaces.get(name, **{key: _tuples(value) for key, value in sizes.items()})
    raise ValueError("columns: tables alone do not say which search space they are of: name it by --space or --config")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _plain(values: Any) -> Any:
    return json.loads(json.dumps(values))


def _record(path: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record beside a file of eproxy.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is that of another run.
    """
    place = outputs.record_path(path)
    if not place.exists():
        raise FileNotFoundError(f"{path}: its record {place.name} is absent: keep both files together")
    record = outputs.read_record(place)
    if record is None or record["run"] != row["run"]:
        raise ValueError(f"{place}: not the record of {path.name}: keep the two files of a run together")
    return record


def _read(
    path: Path, first: dict[str, Any], space: SearchSpace, dataset: str | None, left_out: dict[Path, str]
) -> _Part:
    if "bank" in first:
        return _of_bank(path, first, space)
    if _is_columns(first):
        return _of_columns(path, _record(path, first), space)
    if _is_scores(first):
        return _of_scores(path, _record(path, first), space)
    column = next((name for other, name in left_out.items() if files.same_file(path, other)), None)
    return _of_table(path, space, dataset, column)


def _canonical(space: SearchSpace, source: Any, where: str) -> str:
    try:
        return space.format(space.canonical(space.parse(source)))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _of_columns(path: Path, record: Mapping[str, Any], space: SearchSpace) -> _Part:
    """Read a file of columns; one that is absent for an architecture is unknown there."""
    _check_record(path, record, space)
    listed_rows = results.read_rows(path, record["run"], columns_file.check_row, columns_file.WHAT)
    by_arch: dict[str, dict[str, Any]] = {}
    for line, row in enumerate(progress.track(listed_rows, "lines read"), start=1):
        by_arch.setdefault(_canonical(space, row["arch"], f"{path}:{line}"), {}).update(columns_file.columns_of(row))
    described = record.get("columns", {})
    held = {name for columns in by_arch.values() for name in columns} - set(_OF_SPACE)
    names = tuple(name for name in described if name in held)
    needs, made_with = {}, {name: record[name] for name in _COMMON if name in record}
    for name in names:
        own = described[name]
        if "settings" in own:
            needs[name] = {"settings": own["settings"]}
            made_with[EPROXY_IMAGES] = own["images"]
        else:
            needs[name] = {"proxy": name} | ({"source": own["source"]} if "source" in own else {})
            made_with |= {one: record[one] for one in _OF_PROXIES}
    values = np.full((len(by_arch), len(names)), np.nan)
    for place, name in enumerate(names):
        some = [(i, columns[name]) for i, columns in enumerate(by_arch.values()) if name in columns]
        if any(isinstance(value, list) for _, value in some):
            raise ValueError(f"{path}: {quoted(name)}: a vector, where a fit takes numbers")
        values[[i for i, _ in some], place] = columns_file.decode([value for _, value in some], exact=False)
    return _Part(path, names, dict(zip(by_arch, values, strict=True)), None, needs, made_with)


def _of_scores(path: Path, record: Mapping[str, Any], space: SearchSpace) -> _Part:
    """Read a file of scores: minus the loss, as the column of Eproxy under the run's settings."""
    _check_record(path, record, space)
    settings = record.get("settings")
    if not isinstance(settings, dict) or "members" in settings or "members" in record:
        raise ValueError(
            f"{path}: scores of a fitted proxy are percentiles of their list: name the files of its members instead, "
            f"{outputs.member_path(path, 0).name} and so on"
        )
    found: dict[str, np.ndarray] = {}
    rows = results.read_rows(path, record["run"])
    result = results.result_of(rows)
    losses = progress.track(list(zip(result.archs, result.loss, strict=True)), "lines read")
    for arch, loss in losses:
        found.setdefault(_canonical(space, arch, str(path)), np.asarray([-loss if np.isfinite(loss) else -np.inf]))
    made_with = {name: record[name] for name in _COMMON if name in record} | {EPROXY_IMAGES: record["images"]}
    if "targets" in record or "optimizer" in record:  # nothing but its own configuration computes it again
        return _Part(path, (path.stem,), found, LOSSES, {path.stem: {"file": path.name}}, made_with)
    return _Part(path, (EPROXY,), found, None, {EPROXY: {"settings": {**settings, "alpha": 0.0}}}, made_with)


def _of_bank(path: Path, header: Mapping[str, Any], space: SearchSpace) -> _Part:
    """Read a loss bank: minus the final loss under each setting; unknown where it was not trained."""
    _check_record(path, header, space)
    identity = {name: value for name, value in header.items() if name != "bank"}
    try:
        num_steps = int(identity["num_steps"])
        GeneTable.from_dict(identity["genes"])
        images, seed = identity["images"], identity["weight_seed"]
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{path}:1: not the first line of a loss bank ({one_line(error, 300)})") from error
    with LossBank(path, identity, read_only=True) as bank:
        losses, computed, genes = bank.losses(num_steps)[..., -1], bank.computed(), bank.genes
        archs = progress.track(bank.archs, "architectures read")
        texts = [_canonical(space, arch, str(path)) for arch in archs]
    values = np.where(np.isfinite(losses), -losses, np.where(computed, -np.inf, np.nan))
    names = tuple(f"{EPROXY}:{path.stem}#{number}" for number in range(len(genes)))
    needs = {name: {GENOME: one.tolist()} for name, one in zip(names, genes, strict=True)}
    made_with = {name: header[name] for name in _SPACE if name in header}
    made_with |= {"weight_seed": seed, EPROXY_IMAGES: images, **{name: identity[name] for name in OF_BANK}}
    return _Part(path, names, dict(zip(texts, values.T, strict=True)), None, needs, made_with)


def _of_table(path: Path, space: SearchSpace, dataset: str | None, left_out: str | None) -> _Part:
    """Read a user's table: the mean where an architecture has several rows, unknown where it has no number."""
    sums: dict[str, dict[str, list[float]]] = {}
    for record in archs_lib.iterate(path, space, dataset):
        own = sums.setdefault(space.format(space.canonical(record.arch)), {})
        for name, value in record.values.items():
            if name != left_out:
                own.setdefault(name, []).append(value)
    numbers = tuple(dict.fromkeys(name for own in sums.values() for name in own))
    if not numbers:
        rest = "" if left_out is None else f" besides {quoted(left_out)}, the values to rank by"
        raise ValueError(f"{path}: no column of numbers{rest}: give one number or more beside each architecture")
    stem = path.name.partition(".")[0]
    names = tuple(stem if numbers == ("value",) else f"{stem}:{name}" for name in numbers)
    rows = {
        arch: np.asarray([np.mean(own[name]) if name in own else np.nan for name in numbers])
        for arch, own in sums.items()
    }
    return _Part(path, names, rows, PROXIES, {name: {"file": path.name} for name in names}, {})


def _check_record(path: Path, record: Mapping[str, Any], space: SearchSpace) -> None:
    """Check that a file of eproxy is of a space, before its architectures are read."""
    own = _plain(space.identity())
    check_same(path, {name: record[name] for name in _SPACE if name in record}, own)


def check_same(path: str | Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that columns depend on what others, or the run, depend on.

    Raises:
      ValueError: they do not; the message says what differs.
    """
    if what := other_than(found, expected):
        raise ValueError(f"{path}: columns of {what}: compute all columns with the same ones")


def other_than(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Say how what columns depend on differs from what is expected; an empty text if it does not."""
    names = [name for name in found if found[name] != expected.get(name)]
    if "images" in names and EPROXY_IMAGES in names:
        names.remove(EPROXY_IMAGES)  # the first of them
    if not names:
        return ""
    words = " and ".join(name.replace("_", " ") for name in names)
    return f"other {words}: {', '.join(outputs.differences({n: found[n] for n in names}, dict(expected)))}"


# --- several files -------------------------------------------------------------------------------------------


def _stacked(parts: Sequence[_Part]) -> list[_Part]:
    """Put files of the same columns below each other, such as the runs of two halves of a list."""
    found: dict[Any, _Part] = {}
    for part in parts:
        own = part.names if all("file" in need for need in part.needs.values()) else json.dumps(part.needs)
        key = (own, part.path if isinstance(own, tuple) else None)
        if key in found:
            part = found[key]._replace(rows={**part.rows, **found[key].rows})
        found[key] = part
    return list(found.values())


def _named_once(parts: Sequence[_Part]) -> list[_Part]:
    """Give every column one name: equal ones stay once, others of Eproxy get the name of their file."""
    known: dict[str, tuple[dict[str, Any], Path]] = {}
    found = []
    for part in parts:
        kept, names = [], []
        for place, name in enumerate(part.names):
            need = part.needs[name]
            if name in known and "settings" in need and known[name][0] != need:
                name = f"{EPROXY}:{part.path.stem}"
            if name in known:
                other, path = known[name]
                if other != need or "file" in need:
                    raise ValueError(
                        f"{part.path}: the column {quoted(name)} is in {path} too, and is another one there: rename "
                        "one of the files"
                    )
                continue
            known[name] = need, part.path
            kept.append(place)
            names.append(name)
        needs = {name: part.needs[part.names[place]] for name, place in zip(names, kept, strict=True)}
        rows = {arch: row[kept] for arch, row in part.rows.items()}
        found.append(part._replace(names=tuple(names), rows=rows, needs=needs))
    return found


def _without(parts: Sequence[_Part], patterns: Sequence[str]) -> list[_Part]:
    """Leave out columns whose names match a pattern.

    Raises:
      ValueError: a pattern matches none.
    """
    every = [name for part in parts for name in part.names]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in every):
            raise ValueError(
                f"columns: {quoted(pattern)} is to be left out, but no column has that name"
                f"{did_you_mean(pattern, every)}; the files have {listed(every)}"
            )
    found = []
    for part in parts:
        kept = [i for i, n in enumerate(part.names) if not any(fnmatch.fnmatchcase(n, one) for one in patterns)]
        names = tuple(part.names[i] for i in kept)
        rows = {arch: row[kept] for arch, row in part.rows.items()}
        found.append(part._replace(names=names, rows=rows, needs={name: part.needs[name] for name in names}))
    return found


def _joined(space: SearchSpace, parts: Sequence[_Part], made_with: dict[str, Any], with_graph_counts: bool) -> Gathered:
    """Join the columns of files, and add what the space says."""
    texts = [text for text in parts[0].rows if all(text in part.rows for part in parts[1:])]
    if not texts:
        paths = listed((part.path for part in parts), 4)
        raise ValueError(f"columns: no architecture is in all of {paths}: compute columns of the same list")
    parsed = {text: space.parse(text) for text in texts}
    connected = [text for text in texts if space.is_connected(parsed[text])]
    if not connected:
        raise ValueError(f"columns: all {len(texts)} architectures are disconnected: there is nothing to rank")
    needs: dict[str, dict[str, Any]] = {name: {"proxy": name} for name in (MACS, PARAMS)}
    archs = [parsed[text] for text in connected]
    own: dict[str, Any] = {MACS: [space.macs(arch) for arch in archs], PARAMS: [space.params(arch) for arch in archs]}
    joined = [Columns.of(connected, own, SIZES)]
    for part in parts:
        if part.names:
            columns = np.stack([part.rows[text] for text in connected], 0)
            _check_known(part, columns)
            values = dict(zip(part.names, columns.T, strict=True))
            joined.append(Columns.of(connected, values, part.block))
        needs |= part.needs
    if with_graph_counts and graph_counts.names(space):
        joined.append(Columns.of(connected, {GRAPH_COUNTS: graph_counts.graph_counts(space, archs)}, GRAPH))
        needs[GRAPH_COUNTS] = {"proxy": GRAPH_COUNTS}
    alive = set(connected)
    disconnected = tuple(text for text in texts if text not in alive)
    return Gathered(space, joined[0].join(*joined[1:]), disconnected, needs, made_with)


def _check_known(part: _Part, columns: np.ndarray) -> None:
    """Check that every column has a known value.

    Raises:
      ValueError: one has none.
    """
    unknown = np.isnan(columns).all(0)
    if unknown.any():
        name = part.names[int(np.argmax(unknown))]
        raise ValueError(
            f"{part.path}: the column {quoted(name)} has no value for any of the {len(columns)} architectures that all "
            "files have: leave it out, or compute it"
        )


def need_of(name: str, needs: Mapping[str, dict[str, Any]]) -> str:
    """Return the column to compute for a column of a fit: one of the graph counts is a part of ``graph_counts``."""
    whole = name.rpartition(":")[0]
    return whole if name not in needs and whole in needs else name


def proxies_in_order(names: Sequence[str], needs: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the columns to compute for those of a fit, the cheap ones first: sizes, proxies, Eproxy; no bank's."""
    wanted = dict.fromkeys(need_of(name, needs) for name in names)
    known = registry.names()
    place = {name: known.index(name) if name in known else len(known) for name in wanted}
    computed = [name for name in wanted if not {"file", GENOME} & needs[name].keys()]
    return sorted(computed, key=lambda name: place[name])
