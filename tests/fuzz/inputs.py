"""Hypothesis strategies for every reader and parser: any text, any value of JSON, damaged good inputs.

A target is a reader and the inputs it is tried with. What must hold: it returns, or raises one of ``REFUSALS`` with a
message of bounded length, in seconds, and in bounded memory. ``test_readers.py`` tries a few hundred inputs a target,
``run.py`` (``make fuzz``) 100,000 in all.
"""

import argparse
import contextlib
import dataclasses
import gzip
import io
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from helpers import CELLS, ROOT, SPACES
from hypothesis import strategies as st

import eproxy_jax as ep
from eproxy_jax import jsonlines, report, spaces
from eproxy_jax.cli import common, config, main
from eproxy_jax.dps import loss_bank, search
from eproxy_jax.exports import export
from eproxy_jax.fits.suggest import suggest
from eproxy_jax.runs import columns_file, gathering, hosts, results, saved_fits, searching
from eproxy_jax.runs.archs import read_archs
from eproxy_jax.runs.truth import read_truth

REFUSALS = (ValueError, OSError, common.UsageError)
MESSAGE = 5000  # characters; the command line prints a thousand of them
TINY_CONFIG = f"{ROOT}/tests/tiny_config.py"


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
      inputs: strategy of its inputs.
      read: (input, an empty folder) -> anything.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any, Path], Any]


# --- pieces --------------------------------------------------------------------------------------------------

DEEP = "[" * 3000
NASTY = (
    "", "9" * 400, "9" * 5000, "-1", "1e999", "1e-999", "NaN", "Infinity", "null", "true", "0", "0.5", "[", "]", "[]", "{",
    "}", "{}", '"', "'", "(", ")", ",", ";", "\t", "|", "~", "+", ":", "-", "_", "#", " ", "\n", "\r", "\x00", "\ufeff",
    "\u2028", "\x85", "\x1c", "\ud800", "é", "\u0661", "1_000", "0x10", DEEP, "{" * 3000, "(" * 300, "x" * 10_000, "\\u0000",
    '{"arch":', "array([", "range(0, 99999999999)", "Genotype(", "\x1f\x8b", "PK\x03\x04", "__class__",
)  # fmt: skip
piece = st.one_of(st.sampled_from(NASTY), st.text(max_size=6))
edit = st.tuples(st.sampled_from("iidrx"), st.integers(0, 2**20), st.integers(0, 12), piece)


def edited(text: Any, edits: Any) -> Any:
    """Text or bytes after insertions, deletions, replacements and repetitions."""
    for kind, where, length, extra in edits:
        new = extra if isinstance(text, str) else extra.encode("utf-8", "surrogatepass")
        at = where % (len(text) + 1)
        if kind == "i":
            text = text[:at] + new + text[at:]
        elif kind == "d":
            text = text[:at] + text[at + length :]
        elif kind == "r":
            text = text[:at] + new + text[at + length :]
        else:
            text = text[:at] + 3 * text[at : at + length] + text[at:]
    return text


def damaged(*good: Any) -> st.SearchStrategy[Any]:
    """Good texts (or bytes), most of them damaged."""
    return st.builds(edited, st.sampled_from(good), st.lists(edit, max_size=4))


numbers = st.one_of(
    st.integers(-3, 9), st.floats(width=32), st.sampled_from([10**400, -(10**400), 2**31, 2**63, 2**64, 1e300, 5e-324])
)
leaves = st.one_of(st.none(), st.booleans(), numbers, piece)


def values(more: st.SearchStrategy[Any] = leaves, keys: st.SearchStrategy[str] = piece) -> st.SearchStrategy[Any]:
    """Any value of JSON, with some leaves and keys preferred."""
    return st.recursive(
        st.one_of(leaves, more),
        lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(keys, inner, max_size=4)),
        max_leaves=10,
    )


@dataclasses.dataclass(frozen=True)
class Nested:
    """Stands for a list in a list in a list, which Hypothesis could not print."""

    depth: int

    def value(self) -> Any:
        """The list."""
        value: Any = []
        for _ in range(self.depth):
            value = [value]
        return value


def changed(value: Any, where: int, new: Any) -> Any:
    """A value of JSON with one of its parts replaced, or left out where ``new`` is the text ``drop``."""
    parts: list[tuple[Any, Any]] = []

    def walk(part: Any) -> Any:
        if isinstance(part, (dict, list)):
            copy = dict(part) if isinstance(part, dict) else list(part)
            for key in list(copy) if isinstance(copy, dict) else range(len(copy)):
                copy[key] = walk(copy[key])
                parts.append((copy, key))
            return copy
        return part

    whole = walk(value)
    if not parts:
        return new
    owner, key = parts[where % len(parts)]
    if new == "drop":
        del owner[key]
    else:
        owner[key] = new
    return whole


def damaged_values(*good: Any, more: st.SearchStrategy[Any] = leaves) -> st.SearchStrategy[Any]:
    """Good values of JSON with one or two of their parts replaced."""
    one = st.builds(changed, st.sampled_from(good), st.integers(0, 2**16), st.one_of(st.just("drop"), values(more)))
    return st.one_of(
        st.sampled_from(good), one, st.builds(changed, one, st.integers(0, 2**16), values(more)),
        st.sampled_from([Nested(500), Nested(100_000)]),
    )  # fmt: skip


def as_text(value: Any) -> str:
    """JSON, or something like it for what JSON cannot hold."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return DEEP


# --- architectures -------------------------------------------------------------------------------------------

FAMILY = spaces.from_flax(lambda arch: ep.nn.layers.Conv(3, 3), ["12", 7, [1, [2.5, None]], {"a": 1, "b": [2]}], "own")
ALL_SPACES = {**SPACES, "tiny": tiny.Tiny(), "own family": FAMILY}


def notations(space: Any) -> list[Any]:
    """Good architectures of a space, texts and values."""
    archs = CELLS[space.name] if space.name in CELLS else list(space.sample(3, 0))
    examples = [one.example for one in space.notations()]
    texts = [space.format(arch) for arch in archs]
    plain = [json.loads(json.dumps(arch)) for arch in archs if isinstance(arch, (tuple, list))]
    return [*examples, *texts, *plain]


def architectures(space: Any) -> st.SearchStrategy[Any]:
    """What ``space.parse`` may be given."""
    good = notations(space)
    texts = [
        *(one for one in good if isinstance(one, str)),
        *(as_text(one) for one in good),
        *(str(one) for one in good),
    ]
    plain = [one for one in good if not isinstance(one, str)] or [[1]]
    strange = st.sampled_from(
        [b"x", 3 + 2j, {1, 2}, object(), np.zeros(3), np.ones((2, 2), int), float("nan"), (), ...]
    )
    return st.one_of(damaged(*texts), damaged_values(*plain), st.text(max_size=40), values(), strange)


def container(rows: list[tuple[Any, float]], form: str) -> bytes:
    """A file of architectures with values."""
    if form == "txt":
        text = "".join(f"{arch if isinstance(arch, str) else as_text(arch)}\n" for arch, _ in rows)
    elif form == "json":
        text = as_text([[arch, value] for arch, value in rows])
    elif form == "object":
        text = as_text({arch if isinstance(arch, str) else as_text(arch): value for arch, value in rows})
    elif form == "records":
        text = as_text([{"arch": arch, "acc": value, "seed": 1} for arch, value in rows])
    elif form == "table":
        text = as_text({"fields": ["arch", "acc"], "rows": [[arch, value] for arch, value in rows]})
    elif form == "nds":
        text = as_text([{"net": arch, "test_ep_top1": [90, value]} for arch, value in rows])
    elif form == "suite":
        text = as_text({"cifar10": {str(arch): {"val_accuracy": value, "nwot": {"score": 1}} for arch, value in rows}})
    elif form == "jsonl":
        text = "".join(as_text({"arch": arch, "score": value}) + "\n" for arch, value in rows)
    else:
        mark = {"csv": ",", "tsv": "\t", "semicolon": ";"}[form]
        text = f"id{mark}arch{mark}acc\n" + "".join(f'{i}{mark}"{arch}"{mark}{v}\n' for i, (arch, v) in enumerate(rows))
    return text.encode("utf-8", "surrogatepass")


FORMS = ("txt", "json", "object", "records", "table", "nds", "suite", "jsonl", "csv", "tsv", "semicolon")
SUFFIXES = ("", ".txt", ".json", ".jsonl", ".csv", ".tsv", ".JSON", ".gz", ".csv.gz", ".pickle", ".png")


def packed(content: bytes, how: str) -> bytes:
    """The content as it is, with gzip (whole or cut short), or in other encodings."""
    if how == "gzip":
        return gzip.compress(content, 1)
    if how == "half":
        return gzip.compress(content, 1)[: len(content) // 2 + 5]
    if how == "bomb":
        return gzip.compress(b"[" + b" " * 2**20) * 64
    if how == "utf-16":
        return content.decode("utf-8", "replace").encode("utf-16")
    return content


def arch_files(space: Any) -> st.SearchStrategy[tuple[bytes, str]]:
    """(content, suffix) of files of architectures."""
    good = [one for one in notations(space) if not (isinstance(one, str) and "\n" in one)]
    row = st.tuples(st.one_of(st.sampled_from(good), values()), numbers)
    whole = st.builds(container, st.lists(row, max_size=4), st.sampled_from(FORMS))
    sound = [container([(good[i % len(good)], i / 3) for i in range(4)], form) for form in FORMS]
    content = st.one_of(
        whole, damaged(*sound), damaged(*sound), st.binary(max_size=60), values().map(as_text).map(_bytes)
    )
    how = st.sampled_from(["plain"] * 12 + ["gzip", "half", "bomb", "utf-16"])
    return st.tuples(st.builds(packed, content, how), st.sampled_from(SUFFIXES))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def written(read: Callable[[Path], Any], stem: str = "file") -> Callable[[Any, Path], Any]:
    """A reader of bytes, or (bytes, suffix), out of a reader of files."""

    def reader(given: Any, folder: Path) -> Any:
        content, suffix = given if isinstance(given, tuple) else (given, "")
        path = folder / (stem + suffix)
        path.write_bytes(content)
        return read(path)

    return reader


def truth_of(space: Any) -> Callable[[Path], Any]:
    """A reader of measured values, once with the column to choose and once without."""

    def read(path: Path) -> Any:
        try:
            read_truth(path, space, "acc", lower_is_better=True)
        except REFUSALS:
            return read_truth(path, space)

    return read


# --- images --------------------------------------------------------------------------------------------------


def saved(array: Any, *, archive: bool = False) -> bytes:
    """A NumPy file."""
    file = io.BytesIO()
    np.savez_compressed(file, x=array, y=np.arange(len(array))) if archive else np.save(file, array)
    return file.getvalue()


def zipped(members: dict[str, bytes], level: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of any members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", level) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 255, (17, 4, 4, 3), np.uint8)
NUMPY = [
    saved(PIXELS), saved(PIXELS.astype(np.float32)), saved(PIXELS[..., 0]), saved(PIXELS.transpose(0, 3, 1, 2)),
    saved(PIXELS, archive=True), saved(np.full((17, 4, 4, 3), np.nan)), zipped({"x.npy": saved(PIXELS)}),
    zipped({"x.npy": saved(PIXELS)[:100]}), zipped({f"{i}.npy": saved(PIXELS[:1]) for i in range(40)}),
    zipped({"x": b"", "../y.npy": saved(PIXELS)}), zipped({"x.npy": b"\x93NUMPY" + b"\x00" * 2**22}),
    saved(np.zeros((17, 4, 4, 3), "V4")), saved(np.zeros((17, 4, 4, 3), [("a", "u1")])),
]  # fmt: skip


def cifar(count: int) -> dict[bytes, Any]:
    """One batch of CIFAR's Python version."""
    data = np.random.default_rng(1).integers(0, 255, (count, 3072), np.uint8)
    return {b"data": data, b"labels": list(range(count)), b"batch_label": b"x"}


def pickles() -> list[bytes]:
    """Batches of CIFAR's Python version in every protocol. The tests write pickles; nothing ever loads one."""
    import pickle

    return [pickle.dumps(cifar(2), protocol=protocol) for protocol in range(6)]


CODES = (
    b"\x80\x02", b"c__builtin__\neval\n", b"cposix\nsystem\n", b"c_codecs\nencode\n", b"r\xff\xff\xff\x7f", b"p999999999\n",
    b"R", b"b", b"(", b"t", b".", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"2" * 50, b"0", b"\x93",
    b"]" * 3000, b"I9" * 500 + b"\n", b"L" + b"9" * 5000 + b"L\n", b"\x8b\xff\xff\xff\x7f", b"cnumpy\ndtype\n", b"i4",
    b"O8", b"u1", b"|V99999999",
)  # fmt: skip


def damaged_pickles() -> st.SearchStrategy[bytes]:
    """Batches with codes of pickle in wrong places; the 6 kilobytes of pixels are mostly left alone."""

    def spoiled(content: bytes, edits: list[tuple[int, bool, int, bytes]]) -> bytes:
        for where, at_end, length, new in edits:
            at = len(content) - where % 200 if at_end else where % 300
            content = content[: max(at, 0)] + new + content[max(at, 0) + length :]
        return content

    one = st.tuples(
        st.integers(0, 2**16), st.booleans(), st.integers(0, 4), st.sampled_from(CODES) | st.binary(max_size=4)
    )
    return st.builds(spoiled, st.sampled_from(pickles()), st.lists(one, max_size=3))


BINARY = bytes(range(256)) * 250


def read_folder(name: str) -> Callable[[Any, Path], Any]:
    """A reader of folders with one batch."""

    def read(content: bytes, folder: Path) -> Any:
        (folder / name).write_bytes(content)
        return ep.load_images(folder, 2)

    return read


# --- settings, configurations, flags -------------------------------------------------------------------------

BRANCH = ep.ProxySettings().to_dict()["branches"][0]
SETTINGS = [
    {},
    ep.ProxySettings().to_dict(),
    {"lr": 1.0, "branches": [BRANCH] * 3},
    {"branches": [{"features": ["dot"]}]},
]
FITTED = [
    *SETTINGS, {"members": [{"settings": SETTINGS[1], "macs_weight": 0.3, "params_weight": -0.2}, {"settings": {}}]},
    ep.found("nasbench201", "cifar10").to_dict(),
]  # fmt: skip
FIELDS = sorted({*SETTINGS[1], *BRANCH, "members", "macs_weight", "params_weight", "settings"})
TABLES = [ep.GeneTable().to_dict(), {"lr": [1.0], "branches": [1]}]

OVERRIDES = (
    "space=tiny", "sizes.width=2", "settings.lr=0.5", "settings.branches[0].features=('net',)", "settings.num_steps=2",
    "images.source=one_over_f", "images.num=4", "images.seed=1", "weight_seed=3", "dps.genes.level=(1.0, 2.0)",
    "dps.population_size=2", "dps.blend=rank", "targets={}", "optimizer=None", "settings.branches[0]={}",
)  # fmt: skip


def read_overrides(texts: list[str], folder: Path) -> Any:
    """Specs of a configuration with overrides; the images stay small."""
    del folder
    loaded = config.load_config(TINY_CONFIG, [f"--config.{text}" for text in texts])
    if loaded.images.num * loaded.images.size**2 < 2**18:
        config.build(loaded)


FLAGS = (
    "--space", "--config", "--images", "--weight-seed", "--archs", "--sample", "--all", "--limit", "--seed", "--form",
    "--chunk-size", "--vmap-width", "--grouping", "--precision", "--devices", "--compile-cache", "--settings", "--out",
    "--workdir", "--truth", "--truth-column", "--top", "--no-plot", "--json", "--num-settings", "--num-mutations",
    "--settings-seed", "--labels", "--num-labels", "--num-eval", "--num-evaluations", "--max-seconds", "--no-macs",
    "--random-search", "--bank", "--ensemble", "--nonsense", "--lower-is-better", "--coordinator", "--num-processes",
    "--process-id", "--wait", "--columns", "--proxy", "--then", "--then-share", "--pool", "--ask", "--tell", "--strategy",
    "--max", "--min", "--max-macs", "--minimize", "--method", "--prior", "--by", "--keep", "--arch", "--format",
)  # fmt: skip
ARGUMENTS = (
    "tiny", "nasbench201", TINY_CONFIG, f"{TINY_CONFIG}:smoke", f"{ROOT}/configs/nasbench201.py:smoke", "one_over_f", "1",
    "2", "3", "0", "-1", "0.5", "nan", "1e999", "99999999999999999999", "auto", "map", "vmap", "fine", "off", "archs.txt",
    "truth.json", "settings.json", "bank.jsonl", "none.json", "folder", ".", "/dev/full", "/dev/null", "/dev/zero", "~",
    "~nobody/x", "a" * 300, "x" * 10_000, "\ud800", "-", "localhost:1", "value", "acc",
    "drawn", "macs,label_sum,,", "eproxy:settings.json", "eproxy:folder", "eproxy:", "drown",
    "told.csv", "columns.csv", "fit.json", "1-2-3", "torch", "process", "random", "top", "rank_sum", "none", "macs=5",
    "columns:one=2", "=", "macs",
)  # fmt: skip
flag = st.one_of(
    st.tuples(st.sampled_from(FLAGS), st.sampled_from(ARGUMENTS)),
    st.tuples(st.sampled_from(FLAGS)),
    st.tuples(st.sampled_from(OVERRIDES).map(lambda text: f"--config.{text}")),
    st.tuples(piece),
)
COMMANDS = (
    "score", "plan", "dps", "bank", "spaces", "proxies", "convert", "fit", "suggest", "search", "export",
)  # fmt: skip
SOURCES = ([], ["--space", "nasbench201"], ["--config", TINY_CONFIG, "--proxy", "macs,drawn,eproxy"], ["--config", TINY_CONFIG], ["--config", TINY_CONFIG, "--archs", "archs.txt"],
           ["--config", TINY_CONFIG, "--truth", "truth.json", "--num-labels", "3"],
           ["--config", TINY_CONFIG, "--columns", "columns.csv", "--truth", "truth.json"],
           ["--config", TINY_CONFIG, "--columns", "columns.csv"], ["--config", TINY_CONFIG, "--arch", "1-2-3"])  # fmt: skip
command_lines = st.tuples(st.sampled_from(COMMANDS), st.sampled_from(SOURCES), st.lists(flag, max_size=4)).map(
    lambda parts: [parts[0], *parts[1], *(word for words in parts[2] for word in words)]
)


class TrainingError(ValueError):
    """Raised in place of the first training."""


def stop(*_: Any, **__: Any) -> Any:
    """Stand in for what trains."""
    raise TrainingError("everything before the training went well")


def read_command_line(words: list[str], folder: Path) -> Any:
    """Run a command up to its first training: everything in it is read, checked and opened."""
    from unittest import mock

    space, here = tiny.Tiny(), Path.cwd()
    archs = [space.format(arch) for arch in space.sample(9, 0)]
    (folder / "archs.txt").write_text("\n".join(archs) + "\n")
    (folder / "truth.json").write_text(json.dumps([[arch, i] for i, arch in enumerate(archs)]))
    (folder / "columns.csv").write_text("arch,one\n" + "".join(f"{arch},{i}\n" for i, arch in enumerate(archs)))
    (folder / "told.csv").write_text(f"arch,value\n{archs[0]},1\n{archs[1]},nan\n")
    (folder / "fit.json").write_text(json.dumps(FIT))
    (folder / "settings.json").write_text("{}")
    (folder / "bank.jsonl").write_text('{"bank": "x"}\n')
    (folder / "folder").mkdir()
    os.chdir(folder)
    try:
        with (
            mock.patch("eproxy_jax.execution.evaluation.run_groups", stop),
            mock.patch("eproxy_jax.dps.search.prepare", stop),
            mock.patch("eproxy_jax.dps.loss_bank.fill", stop),
            mock.patch("sys.stdin", io.StringIO("")),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            status = main.main(words)
    except SystemExit as done:
        status = done.code
    finally:
        os.chdir(here)
    if status not in (0, 2):
        raise AssertionError(f"status {status}")
    return status


# --- lines of files ------------------------------------------------------------------------------------------

RUN, ARCHS = "0123456789ab", ("0-0-0", "1-2-3", "4-4-4")
RESULT = ep.ScoreResult(
    ARCHS, -np.ones(3), np.ones(3), np.ones((3, 2)), np.ones(3, int), np.ones(3, int), np.ones(3, int), ("ok",) * 3, {}
)
IDENTITY = {"space": "tiny", "sizes": {"width": 1}, "weight_seed": 0, "num_steps": 2}
_NARROW = ep.GeneTable(
    branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(4,), target_channels=(4,)
)
EVALUATIONS = ep.SearchSpec(num_evaluations=6, population_size=2, tournament_size=1, num_steps=2)


def read_results(path: Path) -> Any:
    """Rows of a result file, and what they become."""
    file = results.ResultsFile(path, RUN, ARCHS)
    try:
        return results.result_of(file.rows)
    finally:
        file.close()


def read_columns(path: Path) -> Any:
    """The columns of a file, and what they become."""
    known = {arch: {"status": "ok", "macs_as_written": 1, "params_as_written": 1} for arch in ARCHS}
    file = columns_file.ColumnsFile(path, RUN, known, {"own": "a"})
    try:
        held = [columns.get("counts") for columns in file.columns.values()]
        file.finish()
        same = all(isinstance(value, list) and len(value) == 2 for value in held)
        return columns_file.decode(held, False) if same else held
    finally:
        file.close()


def read_bank(path: Path) -> Any:
    """The losses of a bank."""
    with loss_bank.LossBank(path, IDENTITY) as bank:
        return bank.losses(2)


def read_history(path: Path) -> Any:
    """The history of a search."""
    from eproxy_jax.dps import evolution

    file = search.HistoryFile(path.parent, "random", RUN)
    try:
        return file.restore(evolution.initial_state(_NARROW, EVALUATIONS, 3))
    finally:
        file.close()


def _fit() -> dict[str, Any]:
    """A fit to two columns of one's own."""
    archs = [tiny.Tiny().format(arch) for arch in tiny.Tiny().sample(9, 0)]
    columns = ep.Columns.of(archs, {"columns": range(9), "two": [3, 1, 4, 1, 5, 9, 2, 6, 5]})
    fitted = ep.fit(columns, dict(zip(archs, (0.1, 0.4, 0.2, 0.8, 0.5), strict=False)))
    needs = {name: {"file": "columns.csv"} for name in columns.names}
    return saved_fits.SavedFit(fitted, needs, {"space": "tiny"}, RUN).to_dict()


FIT = _fit()
_POOL = ep.Columns.of([f"{i}-1-{j}" for i in range(4) for j in range(3)], {"macs": range(12), "one": range(12, 0, -1)})


def _begun() -> Any:
    return ep.search.init(tiny.Tiny(), _POOL)


def read_search(path: Path) -> Any:
    """A search as far as its file goes, and what it asks for next."""
    file = searching.SearchFile(path, _begun())
    try:
        return file.state.results, file.ask(1), searching.record_of(file.state, file.mark, 3, None)
    finally:
        file.close()


def _search_lines() -> list[str]:
    """Lines of a search: asks, tells, dear columns, further candidates."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.jsonl"
        file = searching.SearchFile(path, _begun())
        try:
            archs = file.ask(3)
            file.tell(archs[:2], [0.5, None])
            file.supply(ep.Columns.of(archs, {"eproxy": [0.5, np.nan, -np.inf]}))
            file.explore(lambda texts: ep.Columns.of(texts, {"macs": [1] * len(texts), "one": [2] * len(texts)}), 2)
        finally:
            file.close()
        return path.read_text().splitlines()


def read_told(path: Path) -> Any:
    """Values that a person wrote beside architectures."""
    return searching.read_results(path, tiny.Tiny())


def read_gathered(path: Path) -> Any:
    """Columns of any file, and suggestions out of them."""
    columns = gathering.gather([path], tiny.Tiny()).columns
    return suggest(columns, 1)


def read_report(given: tuple[bytes, str], folder: Path) -> Any:
    """A page of one result: a file of lines with its record beside it, or a file of JSON."""
    content, name = given
    (folder / name).write_bytes(content)
    if name.endswith("l"):
        record = {"run": RUN, "out": name, "space": "tiny", "finished": True, "seconds": {"own": 1.0}}
        (folder / name).with_suffix(".run.json").write_text(json.dumps(record))
    return report.write([folder / name], folder / "page.md", space=tiny.Tiny(), draws=0, with_figures=False)


def reports() -> st.SearchStrategy[tuple[bytes, str]]:
    """(content, name) of files that a report may be made of."""
    state = ep.search.tell(*_told())
    dps = {"search": RUN, "history": {"evolution": [{"fitness": 0.5, "genes": [1, 2]}]}, "members": [{"settings": {}}]}
    whole = [
        (searching.record_of(state, RUN, 3, None), "result.json"),
        (dps, "search.json"),
        (FIT, "settings.json"),
    ]
    lines = [st.tuples(line_files(kind), st.just(f"{kind}.jsonl")) for kind in ("results", "columns")]
    values_of = [
        st.tuples(damaged_values(json.loads(json.dumps(value))).map(as_text).map(_bytes), st.just(name))
        for value, name in whole
    ]
    return st.one_of(*lines, *values_of)


def _told() -> tuple[Any, Any, Any]:
    archs, state = ep.search.ask(_begun(), 3)
    return state, archs, [0.5, None, 0.25]


def good_lines() -> dict[str, list[str]]:
    """Lines of a result file, a bank, a history."""
    genes = _NARROW.encode(ep.ProxySettings(
        network_init="xavier_normal", barrier_init="xavier_normal",
        branches=(ep.BranchSettings(transform_channels=4, target_channels=4, barrier_kernel=1),),
    )).tolist()  # fmt: skip
    return {
        "results": results.lines_of(RESULT, RUN),
        "columns": [
            json.dumps({"arch": arch, "status": "ok", "macs": 3, "jacov": -0.5, "counts": [1, None], "own": None,
                        "macs_as_written": 3, "params_as_written": 3, "made_with": {"own": "a"}, "run": RUN})
            for arch in ARCHS
        ],
        "bank": [
            json.dumps({"bank": jsonlines.fingerprint(IDENTITY), **IDENTITY}), json.dumps({"archs": list(ARCHS)}),
            json.dumps({"setting": genes, "start": 0, "losses": [[0.1, 0.2]] * 3}),
        ],
        "history": [
            json.dumps({"search": RUN}), json.dumps({"genes": genes, "fitness": 0.5, "losses": [[0.1, "nan", "inf"]]}),
            json.dumps({"genes": genes, "fitness": "-inf", "losses": [[0.1, 0.2, 0.3]]}),
        ],
        "search": _search_lines(),
    }  # fmt: skip


LINES = good_lines()


def line_files(name: str) -> st.SearchStrategy[bytes]:
    """Files of JSON lines, damaged as text or in the values of a line."""
    lines = LINES[name]
    whole = "".join(line + "\n" for line in lines)

    def joined(number: int, value: Any) -> bytes:
        parts = [*lines]
        parts[number] = as_text(value)
        return _bytes("".join(part + "\n" for part in parts))

    in_place = [
        st.builds(joined, st.just(number), damaged_values(json.loads(line))) for number, line in enumerate(lines)
    ]
    return st.one_of(*in_place, damaged(whole.encode()), st.binary(max_size=30))


def read_share(path: Path) -> Any:
    """Lines of another process."""
    return hosts.read_lines(path, RUN)


# --- all of them ---------------------------------------------------------------------------------------------


def targets() -> dict[str, Target]:
    """Every reader by name."""
    found = {
        f"parse: {name}": Target(architectures(space), lambda source, _, space=space: space.parse(source))
        for name, space in ALL_SPACES.items()
    }
    for name in ("nasbench201", "nasbench101", "nds_darts", "tiny", "own family"):
        space = ALL_SPACES[name]
        found[f"archs: {name}"] = Target(arch_files(space), written(lambda path, s=space: read_archs(path, s)))
    for name in ("nasbench201", "tiny"):
        found[f"truth: {name}"] = Target(arch_files(ALL_SPACES[name]), written(truth_of(ALL_SPACES[name])))
    suffix = st.sampled_from([".npy", ".npz", ".bin", ""])
    keys = st.sampled_from(FIELDS) | piece
    found |= {
        "images: NumPy": Target(st.tuples(damaged(*NUMPY), suffix), written(lambda path: ep.load_images(path, 2))),
        "images: CIFAR, binary": Target(damaged(BINARY[: 3073 * 4], b""), read_folder("data_batch_1.bin")),
        "images: CIFAR, pickle": Target(damaged_pickles(), read_folder("data_batch_1")),
        "settings": Target(damaged_values(*SETTINGS) | values(keys=keys), lambda v, _: ep.ProxySettings.from_dict(v)),
        "fitted proxy": Target(damaged_values(*FITTED) | values(keys=keys), lambda v, _: ep.FittedProxy.from_dict(v)),
        "genes": Target(damaged_values(*TABLES) | values(keys=keys), lambda v, _: ep.GeneTable.from_dict(v)),
        "settings file": Target(
            damaged(*(as_text(one).encode() for one in FITTED)), written(lambda path: common.read_proxy(path), "s.json")
        ),
        "overrides": Target(st.lists(damaged(*OVERRIDES), max_size=3), read_overrides),
        "command line": Target(command_lines, read_command_line),
        "results": Target(line_files("results"), written(read_results)),
        "columns": Target(line_files("columns"), written(read_columns)),
        "bank": Target(line_files("bank"), written(read_bank)),
        "search": Target(line_files("search"), written(read_search)),
        "told": Target(
            st.one_of(damaged(b"arch,value\n1-2-3,0.5\n4-4-4,nan\n0-0-0,\n"), arch_files(ALL_SPACES["tiny"])),
            written(read_told),
        ),
        "fit": Target(damaged_values(FIT) | values(keys=keys), lambda v, _: saved_fits.SavedFit.from_dict(v)),
        "fit file": Target(damaged(as_text(FIT).encode()), written(saved_fits.load)),
        "gathered": Target(
            st.one_of(damaged(b"arch,one,two\n1-2-3,0.5,1\n4-4-4,nan,2\n0-0-0,,3\n"), line_files("columns")),
            written(read_gathered),
        ),
        "report": Target(reports(), read_report),
        "export": Target(
            architectures(ALL_SPACES["nasbench201"]), lambda one, _: export(ALL_SPACES["nasbench201"], one, "strings")
        ),
        "history": Target(line_files("history"), written(read_history, "history.random.jsonl")),
        "arrays": Target(
            st.one_of(values(), st.sampled_from([[1.0, 2.0], ["nan", "inf"], [[1, 2]], [None, True]])),
            lambda value, _: jsonlines.decode_array(value, (2,), np.float32),
        ),
    }
    return found


def outcome(target: Target, given: Any, folder: Path) -> str:
    """What became of one input: ``read`` or ``refused``; anything else raises."""
    given = given.value() if isinstance(given, Nested) else given
    try:
        with warnings.catch_warnings():  # to go on with a warning is an answer, too
            warnings.simplefilter("ignore")
            target.read(given, folder)
    except REFUSALS as error:
        if len(str(error)) > MESSAGE:
            raise AssertionError(f"a message of {len(str(error))} characters: {str(error)[:200]}") from error
        return "refused"
    except argparse.ArgumentError as error:
        raise AssertionError(str(error)) from error
    return "read"
