"""This module finds out what folders and files of eproxy hold, by their content, and reads them without a change.

A source is one result: scores, columns, a fit, scores ranked by a fit, settings that ``eproxy dps`` found, or a search.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from eproxy_jax import files, spaces
from eproxy_jax.errors import listed, one_line, quoted
from eproxy_jax.jsonlines import parse_lines
from eproxy_jax.runs import columns_file, outputs, results

Kind = Literal["scores", "columns", "ranked", "fit", "dps", "search"]
KINDS: dict[str, str] = {
    "scores": "Eproxy's scores",
    "columns": "columns of proxies",
    "ranked": "scores by a fit",
    "fit": "a fit",
    "dps": "Discrete Proxy Search",
    "search": "a search",
}
_MADE_BY = "eproxy score, fit, dps or search"
_PARTS = re.compile(r"\.(?:member\d+|\d+of\d+)\.jsonl$")  # of a fitted proxy, and of one process of several
_LARGEST_LINE = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """One result of eproxy.

    Attributes:
      path: its main file.
      kind: what it is.
      label: a short name: that of its folder, or of its file where a folder has several.
      record: what its run says of itself: space, seconds, command, versions.
      rows: one dict an architecture, checked; of a fit its predictions; none of a search.
      more: the other JSON object of a fit (``settings.json``); empty elsewhere.
    """

    path: Path
    kind: Kind
    label: str
    record: dict[str, Any]
    rows: list[dict[str, Any]]
    more: dict[str, Any]

    @property
    def space(self) -> tuple[Any, Any]:
        """Name and sizes of the search space, as the record says them."""
        for place in (self.record, self.record.get("space"), self.record.get("problem")):
            if isinstance(place, dict) and isinstance(place.get("space"), str):
                return place["space"], place.get("sizes")
        return None, None


def read(paths: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """Read all results in some folders and files.

    Args:
      paths: folders that eproxy wrote into, or its files.

    Returns:
      The sources, each once, in the order of ``paths`` and of names.

    Raises:
      FileNotFoundError: a path is absent, or the record of a result.
      ValueError: a path holds no result of eproxy, a result cannot be read, or the results are of several spaces.
    """
    if not paths:
        raise ValueError(f"report: name at least one folder or file of {_MADE_BY}")
    found: dict[Path, Source] = {}
    for path in map(files.expanded, paths):
        own = _of_folder(path) if path.is_dir() else [_of_file(files.existing(path, "run"), named=True)]
        for source in own:
            if source is not None:
                found.setdefault(source.path.resolve(), source)
    sources = _labelled(list(found.values()))
    _check_one_space(sources)
    return sources


def _of_folder(folder: Path) -> list[Source]:
    names = sorted(one for one in folder.iterdir() if one.suffix in (".json", ".jsonl") and one.is_file())
    found = [source for name in names if not _PARTS.search(name.name) and (source := _of_file(name, named=False))]
    if not found:
        raise ValueError(f"{folder}: no result of eproxy in this folder: name a --workdir of {_MADE_BY}")
    return found


def _of_file(path: Path, named: bool) -> Source | None:
    """Read the result of one file; None, in a folder, for a file that belongs to another one or to somebody else."""
    first = _first(path)
    beside = path.with_name("search.json" if "members" in first else "result.json")
    if "arch" in first:
        return _of_lines(path, first)
    if {"fit", "model"} <= first.keys():
        return _of_fit(path, first)
    if {"search", "history"} <= first.keys():
        kind: Kind = "search" if isinstance(first["history"], list) else "dps"
        return _checked(Source(path, kind, path.stem, first, [], {}))
    if not named:
        return None
    if "search" in first or "eproxy_search" in first:  # settings of eproxy dps; the asks and tells of eproxy search
        if beside.exists():
            return _of_file(beside, named)
        raise FileNotFoundError(f"{path}: {beside.name} is absent beside it: keep the files of a run together")
    if {"run", "out"} <= first.keys() and isinstance(first["out"], str):
        return _of_file(files.existing(path.with_name(Path(first["out"]).name), "result file"), named)
    if "fit" in first:
        return _of_file(files.existing(path.with_name("settings.json"), "fit"), named)
    raise ValueError(f"{path}: not a result of {_MADE_BY}, or one that a report does not show")


def _first(path: Path) -> dict[str, Any]:
    """Return the first line, or the whole, of a file as a JSON object; an empty one if it is none."""
    try:
        if path.suffix == ".json":
            row = json.loads(files.read_text(path))
        else:
            with path.open("rb") as file:
                row = json.loads(file.readline(_LARGEST_LINE))
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _of_lines(path: Path, first: dict[str, Any]) -> Source | None:
    if "fit" in first:
        return (
            _of_file(path.with_name("settings.json"), named=True) if path.with_name("settings.json").exists() else None
        )
    record = _record(path, first)
    if "macs_as_written" in first:
        rows = results.read_rows(path, first["run"], columns_file.check_row, columns_file.WHAT)
        return Source(path, "columns", path.stem, record, rows, {})
    if "losses" in first:
        return Source(path, "scores", path.stem, record, results.read_results(path, first["run"]), {})
    rows = parse_lines(path, files.read_bytes(path, "file of scores"))
    return Source(path, "ranked", path.stem, record, _predictions(path, rows), {})


def _record(path: Path, first: dict[str, Any]) -> dict[str, Any]:
    place = outputs.record_path(path)
    if not isinstance(first.get("run"), str):
        raise ValueError(f"{path}:1: not a line of eproxy: name a file of {_MADE_BY}")
    if not place.exists():
        raise FileNotFoundError(f"{path}: its record {place.name} is absent: keep both files together")
    record = _object(place)
    if record.get("run") != first["run"]:
        raise ValueError(f"{place}: not the record of {path.name}: keep the two files of a run together")
    return record


def _object(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(files.read_text(path, "record"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable JSON ({one_line(error, 120)}): run its command again") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path}: expected a JSON object, got {quoted(record)}: run its command again")
    return record


def _of_fit(path: Path, saved: dict[str, Any]) -> Source:
    """Read a fit: ``settings.json``, with ``fit.json`` and ``predictions.jsonl`` where they are beside it."""
    record, predictions = path.with_name("fit.json"), path.with_name("predictions.jsonl")
    described = _object(record) if record.exists() else {}
    if described.get("fit", saved["fit"]) != saved["fit"]:
        raise ValueError(f"{record}: not the record of {path.name}: keep the files of a fit together")
    rows = []
    if predictions.exists():
        rows = _predictions(predictions, parse_lines(predictions, files.read_bytes(predictions, "file of predictions")))
        if rows and rows[0].get("fit") != saved["fit"]:
            raise ValueError(
                f"{predictions}: predictions of another fit than {path.name}: keep those of a fit together"
            )
    made_with = saved.get("made_with")
    own = made_with if isinstance(made_with, dict) else {}
    return _checked(Source(path, "fit", path.stem, {**own, **described}, rows, saved))


def _predictions(path: Path, rows: Sequence[Any]) -> list[dict[str, Any]]:
    for line, row in enumerate(rows, start=1):
        where = f"{path}:{line}"
        if not isinstance(row, dict) or not {"arch", "score", "status"} <= row.keys():
            raise ValueError(f"{where}: not a line of scores: run its command again")
        good = {"arch": isinstance(row["arch"], str), "score": results.is_number(row["score"])}
        results.check_fields(row, good | {"status": isinstance(row["status"], str)}, where)
    return list(rows)


def _checked(source: Source) -> Source:
    """Check the fields of a record that the page reads.

    Raises:
      ValueError: one has another type.
    """
    record, where = source.record, str(source.path)
    good: dict[str, bool] = {}
    if source.kind == "search":
        good["history"] = all(_is_query(row) for row in record["history"])
    if source.kind == "dps":
        history = record["history"]
        good["history"] = isinstance(history, dict) and all(
            isinstance(rows, list)
            and all(isinstance(one, dict) and "fitness" in one and results.is_number(one["fitness"]) for one in rows)
            for rows in history.values()
        )
    if source.kind == "fit" and "labels" in record:
        labels = record["labels"]
        good["labels"] = isinstance(labels, dict) and all(map(results.is_number, labels.values()))
    for name in ("quality", "evaluation"):
        if name in record:
            rows = record[name]
            good[name] = isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values())
    results.check_fields(record, good, where)
    return source


def _is_query(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("arch"), str)
        and all(name in row and results.is_number(row[name]) for name in ("value", "best"))
    )


# --- several results -----------------------------------------------------------------------------------------


def _labelled(sources: Sequence[Source]) -> list[Source]:
    """Give each source a name of its own: its folder, with its file where that is not enough."""
    folders = [source.path.resolve().parent.name or str(source.path.parent) for source in sources]
    found, known = [], set()
    for source, folder in zip(sources, folders, strict=True):
        name = folder if folders.count(folder) == 1 else f"{folder}/{source.path.stem}"
        while name in known:
            name += "'"
        known.add(name)
        found.append(dataclasses.replace(source, label=name))
    return found


def _check_one_space(sources: Sequence[Source]) -> None:
    known = [(source, source.space) for source in sources if source.space[0] is not None]
    if not known:
        return
    first, space = known[0]
    for source, other in known[1:]:
        if other != space:
            text = f"{source.path}: of {_shown(other)}, while {first.path} is of {_shown(space)}"
            raise ValueError(f"{text}: a report compares results of one space and size: make one for each")


def _shown(space: tuple[Any, Any]) -> str:
    return f"{space[0]} {quoted(space[1])}"


def space_of(sources: Sequence[Source]) -> spaces.SearchSpace:
    """Return the search space that results are of.

    Raises:
      ValueError: none says it, or it is not registered.
    """
    for source in sources:
        name, sizes = source.space
        if name is None:
            continue
        if name not in spaces.names():
            raise ValueError(f"{source.path}: of the space {quoted(name)}, which is not registered: name its --config")
        return spaces.get(name, **{key: _tuples(value) for key, value in (sizes or {}).items()})
    raise ValueError(f"{listed(one.path for one in sources)}: no record says the space: name it by --space or --config")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
