"""The commands that write files, how to start them under faults, and when two folders are the same.

A new command of ``eproxy`` that writes anything belongs into ``COMMANDS``: a test asks for it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tiny
from helpers import ROOT

from eproxy_jax.columns import ColumnJob
from eproxy_jax.fits.columns import Columns
from eproxy_jax.fits.fitted import fit
from eproxy_jax.images import batch_identity, default_images, standardize
from eproxy_jax.runs.results import lines_of
from eproxy_jax.runs.saved_fits import SavedFit
from eproxy_jax.types import ScoreResult

CONFIG = ["--config", f"{ROOT}/tests/tiny_config.py"]
# By name: the flags, and the file of results whose last lines are cut.
COMMANDS = {
    "score": (["score", *CONFIG, "--sample", "12", "--seed", "1", "--chunk-size", "2", "--no-plot"], "scores.jsonl"),
    "score, fitted": (
        ["score", *CONFIG, "--sample", "8", "--seed", "1", "--settings", "{inputs}/fitted.json", "--no-plot"],
        "scores.member1.jsonl",
    ),
    "score, columns": (
        ["score", *CONFIG, "--proxy", "macs,drawn,eproxy,eproxy:{inputs}/fitted.json", "--sample", "10", "--seed", "1",
         "--chunk-size", "2", "--no-plot"],
        "columns.jsonl",
    ),
    "dps": (
        ["dps", *CONFIG, "--truth", "{inputs}/truth.json", "--num-labels", "6", "--num-evaluations", "12", "--num-eval",
         "10", "--ensemble", "2", "--random-search", "--no-plot"],
        "history.evolution.jsonl",
    ),
    "bank": (["bank", *CONFIG, "--sample", "12", "--num-settings", "3"], "bank.jsonl"),
    "fit": (
        ["fit", *CONFIG, "--columns", "{inputs}/mine.csv", "--truth", "{inputs}/truth.json", "--num-labels", "8",
         "--no-plot"],
        "predictions.jsonl",
    ),
    "search": (
        ["search", *CONFIG, "--columns", "{inputs}/mine.csv", "--truth", "{inputs}/truth.json", "--num-evaluations", "12",
         "--no-plot"],
        "search.jsonl",
    ),
    "search, cascade": (
        ["search", *CONFIG, "--archs", "{inputs}/truth.json", "--proxy", "drawn", "--then", "eproxy", "--then-share", "0.6",
         "--truth", "{inputs}/truth.json", "--num-evaluations", "11", "--chunk-size", "2", "--no-plot"],
        "search.jsonl",
    ),
    "score, fit": (
        ["score", *CONFIG, "--sample", "10", "--seed", "1", "--chunk-size", "2", "--settings", "{inputs}/fit.json",
         "--no-plot"],
        "columns.jsonl",
    ),
    "report": (
        ["report", *CONFIG, "{inputs}/scored", "--truth", "{inputs}/truth.json", "--draws", "1", "--no-plot"],
        "report.html",
    ),
}  # fmt: skip
AT_ONCE = ("fit", "report", "search")  # no moment at which a second writer meets them
KILLED_ELSEWHERE = ()
WRITE_NOTHING = ("plan", "spaces", "proxies", "convert", "suggest", "export")  # on standard output, or again and whole


def make_inputs(folder: Path) -> None:
    """Write the files that the commands read."""
    space = tiny.Tiny()
    pairs = [[space.format(arch), float(space.macs(arch)) + i] for i, arch in enumerate(space.sample(30, 0))]
    (folder / "truth.json").write_text(json.dumps(pairs))
    branch = {"transform_channels": 8, "target_channels": 4, "barrier_kernel": 1}
    members = [
        {"settings": {"num_steps": 3, "lr": lr, "branches": [branch]}, "macs_weight": 0.3, "params_weight": 0.1}
        for lr in (1.0, 0.5)
    ]
    (folder / "fitted.json").write_text(json.dumps({"members": members}))
    own = [f"{space.format(arch)},{space.macs(arch) % 7},{i}" for i, arch in enumerate(space.sample(30, 0))]
    (folder / "mine.csv").write_text("\n".join(["arch,one,two", *own]))
    (folder / "fit.json").write_text(json.dumps(_fit().to_dict()))
    _write_scores(folder / "scored")


def _write_scores(folder: Path) -> None:
    """A finished run of ``eproxy score`` whose values are made up."""
    space = tiny.Tiny()
    archs = space.sample(20, 0)
    losses = np.random.default_rng(0).uniform(0.1, 0.9, (20, 3)).astype(np.float32).astype(np.float64)
    sizes = [np.asarray([size(arch) for arch in archs]) for size in (space.macs, space.params, space.macs)]
    texts = tuple(map(space.format, archs))
    result = ScoreResult(texts, -losses[:, -1], losses[:, -1], losses, *sizes, ("ok",) * 20, {})
    folder.mkdir()
    (folder / "scores.jsonl").write_text("".join(f"{line}\n" for line in lines_of(result, "made up")))
    record = {
        "run": "made up",
        "out": "scores.jsonl",
        "finished": True,
        **space.identity(),
        "archs": 20,
        "distinct": 20,
    }
    (folder / "scores.run.json").write_text(json.dumps(record))


def _fit() -> Any:
    """A fit to columns of two proxies and of Eproxy whose values are made up; it says what a run must read."""
    space, images = tiny.Tiny(), default_images("one_over_f", 128, 8)
    archs = [space.format(arch) for arch in space.sample(30, 0)]
    rng = np.random.default_rng(0)
    columns = Columns.of(archs, {name: rng.uniform(size=30) for name in ("drawn", "macs", "eproxy:a")})
    fitted = fit(columns, dict(zip(archs, rng.uniform(size=10).tolist(), strict=False)))
    identity = ColumnJob.of(space, images).identity()
    made_with = {name: identity[name] for name in ("space", "sizes", "source", "images", "weight_seed", "num_classes")}
    made_with["eproxy_images"] = batch_identity(standardize(images[:16]))
    branch = {"transform_channels": 8, "target_channels": 4, "barrier_kernel": 1}
    needs = {"drawn": {"proxy": "drawn"}, "macs": {"proxy": "macs"}, "eproxy:a": {"settings": {"branches": [branch]}}}
    return SavedFit(fitted, needs, json.loads(json.dumps(made_with)), "0123456789ab")


class Server:
    """The process of ``server.py``, which starts commands in a moment.

    Args:
      folder: an empty folder for its files.
    """

    def __init__(self, folder: Path):
        self._folder, self._count = folder, 0
        make_inputs(folder)
        paths = [str(ROOT), str(ROOT / "tests"), *sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("server.py"))],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._ended: dict[int, int] = {}

    def start(self, name: str, workdir: Path, **fault: Any) -> int:
        """Start a command; returns the number of its process."""
        self._count += 1
        flags = [flag.format(inputs=self._folder) for flag in COMMANDS[name][0]]
        request = {
            "argv": [*flags, "--workdir", str(workdir)], "log": str(self._folder / f"log{self._count}"), "fault": fault,
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        while "status" in (answer := self._answer()):
            self._ended[answer["pid"]] = answer["status"]
        return answer["pid"]

    def wait(self, pid: int) -> int:
        """Wait for a process; returns its exit status, -9 for a kill."""
        while pid not in self._ended:
            answer = self._answer()
            self._ended[answer["pid"]] = answer["status"]
        return self._ended[pid]

    def run(self, name: str, workdir: Path, **fault: Any) -> int:
        """Run a command to its end; returns the exit status."""
        return self.wait(self.start(name, workdir, **fault))

    def log(self) -> str:
        """What the command started last has printed."""
        return (self._folder / f"log{self._count}").read_text()

    def _answer(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)

    def close(self) -> None:
        """End the server."""
        self._process.communicate()


def content(folder: Path) -> dict[str, Any]:
    """What a finished command has left: lines to the byte, records without times and versions of themselves."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.name] = _timeless(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name not in ("seconds", "command")}
    return [_timeless(part) for part in value] if isinstance(value, list) else value
