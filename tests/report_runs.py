"""Folders as ``eproxy score``, ``fit``, ``dps`` and ``search`` leave them, made without a training."""

import json

import numpy as np

from eproxy_jax import runs, spaces
from eproxy_jax.cli import main
from eproxy_jax.runs import results
from eproxy_jax.types import BranchSettings, ProxySettings, ScoreResult

SPACE = spaces.get("nasbench201", stem_channels=4, cells_per_stage=1)
COLUMNS = ("trainability", "entropy_taps", "jacov", "synflow")  # with macs, those of rank_sum
VERSIONS = {"eproxy_jax": "0.1.0", "jax": "0.10.2"}


def drawn(num=40, seed=0):
    """Architectures, their sizes, and a quality that everything below follows from."""
    archs = SPACE.sample(num, seed)
    macs = np.asarray([SPACE.macs(arch) for arch in archs])
    quality = np.log(macs) + 0.4 * np.random.default_rng(seed).normal(size=num)
    return archs, macs, quality


def record(**more):
    """What all run records hold."""
    identity = json.loads(json.dumps(SPACE.identity()))
    return {**identity, "finished": True, "weight_seed": 0, "platform": "cpu", "devices": ["cpu:0"], "images": {}, **more,
            "versions": VERSIONS}  # fmt: skip


def truth_file(path, num=40, seed=0):
    """Measured values of the first architectures."""
    archs, _, quality = drawn(num, seed)
    path.write_text(
        json.dumps([[SPACE.format(arch), 50 + 3 * float(q)] for arch, q in zip(archs, quality, strict=True)])
    )
    return path


def scores(folder, num=40, command="eproxy score --sample 40"):
    """A finished ``eproxy score``; the second network diverged."""
    folder.mkdir()
    archs, macs, quality = drawn(num)
    losses = 1 / (1 + np.outer(quality - quality.min() + 1, np.arange(1, 11) / 10))
    losses[1] = np.nan
    ok = np.isfinite(losses[:, -1])
    result = ScoreResult(
        tuple(map(SPACE.format, archs)), np.where(ok, -losses[:, -1], -np.inf), losses[:, -1], losses, macs,
        np.asarray([SPACE.params(arch) for arch in archs]), macs, tuple(np.where(ok, "ok", "diverged")), {},
    )  # fmt: skip
    (folder / "scores.jsonl").write_text("".join(line + "\n" for line in results.lines_of(result, "5c0e5")))
    seconds = {"compile": 3.0, "run": 8.0}
    known = record(
        run="5c0e5", out="scores.jsonl", settings={}, archs=num, distinct=num, seconds=seconds, command=command
    )
    (folder / "scores.run.json").write_text(json.dumps(known))
    return folder


def columns(folder, num=40):
    """A finished ``eproxy score --proxy``; one column is of half the networks, and one value is the worst."""
    folder.mkdir()
    archs, macs, quality = drawn(num)
    rng, lines = np.random.default_rng(1), []
    for i, arch in enumerate(archs):
        row = {"arch": SPACE.format(arch), "status": "ok", "params": SPACE.params(arch), "macs": int(macs[i])}
        row |= {name: float(np.float32(quality[i] + rng.normal())) for name in COLUMNS}
        row |= {"half": i} if i % 2 else {}
        row["graph_counts"] = None if i == 3 else [i, 1]
        row["jacov"] = None if i == 3 else row["jacov"]
        lines.append(
            json.dumps(row | {"macs_as_written": int(macs[i]), "params_as_written": SPACE.params(arch), "run": "c01"})
        )
    (folder / "columns.jsonl").write_text("\n".join(lines) + "\n")
    named = {name: {"pass": "one"} for name in (*COLUMNS, "half", "macs", "params")}
    known = record(
        run="c01", out="columns.jsonl", archs=num, distinct=num, columns=named, labels="random", num_classes=10,
        seconds={"one": {"compile": 1.0, "run": 4.0}}, command="eproxy score --proxy cheap",
    )  # fmt: skip
    (folder / "columns.run.json").write_text(json.dumps(known))
    return folder


def fit(folder, from_columns, truth):
    """A real ``eproxy fit``."""
    archs, _, quality = drawn()
    values = {SPACE.format(arch): float(q) for arch, q in zip(archs, quality, strict=True)}
    runs.fit(
        [from_columns / "columns.jsonl"], values, num_labels=12, workdir=folder, command=f"eproxy fit {truth.name}"
    )
    return folder


def search(folder, from_columns, truth):
    """A real ``eproxy search`` against a table."""
    flags = [
        "--columns",
        from_columns / "columns.jsonl",
        "--truth",
        truth,
        "--num-evaluations",
        "8",
        "--workdir",
        folder,
    ]
    assert main.main(["search", *map(str, flags), "--no-plot"]) == 0
    return folder


def dps(folder):
    """What ``eproxy dps`` leaves, as far as a report reads it."""
    folder.mkdir()
    branch = BranchSettings(features=("net", "dot"), transform_channels=8)
    settings = ProxySettings(branches=(branch, branch), lr=0.5).to_dict()
    members = [{"settings": settings, "macs_weight": 0.25, "params_weight": -0.1}, {"settings": settings}]
    history = {
        kind: [{"genes": [0], "fitness": value} for value in (None, 0.2, 0.1, 0.5)] for kind in ("evolution", "random")
    }
    quality = {"spearman": 0.7, "kendall_tau": 0.5, "top_precision": 0.4, "regret": 1.5, "count": 60, "ndcg": None}
    known = {
        "settings": {"members": members}, "best": 3, "fitness": 0.5, "evaluations": 4, "diverged": 1, "history": history,
        "problem": record(), "search": "d95", "evaluation": {"macs": quality}, "command": "eproxy dps",
        "seconds": {"compile": 2.0, "evolution": 5.0}, "versions": VERSIONS,
    }  # fmt: skip
    (folder / "search.json").write_text(json.dumps(known))
    (folder / "settings.json").write_text(json.dumps({"members": members, "search": "d95"}))
    return folder


def make_all(folder):
    """All five, and a file of measured values; returns the folders and the file."""
    truth = truth_file(folder / "accuracy.json")
    cheap = columns(folder / "columns")
    made = [scores(folder / "scores"), cheap, fit(folder / "fit", cheap, truth), dps(folder / "dps")]
    return [*made, search(folder / "search", cheap, truth)], truth
