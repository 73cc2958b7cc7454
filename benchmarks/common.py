"""This module holds what all benchmarks use: the data and its tasks, and pages that record their own command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eproxy_jax import spaces
from eproxy_jax.runs import archs
from eproxy_jax.sampling import draw_distinct

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EPROXY_DATA", ROOT / ".." / "shared" / "data"))
RESULTS = ROOT / "benchmarks" / "results"

_TRANSNAS_TASKS = (
    "class_scene",
    "class_object",
    "autoencoder",
    "jigsaw",
    "normal",
    "room_layout",
    "segmentsemantic",
)
_MR_TASKS = ("seg", "seg-4x", "3ddet", "cls-50-1000", "cls-10-1000", "cls-10c", "cls-50-100", "video", "video-p")
_NDS = {
    "nds_darts": "DARTS",
    "nds_enas": "ENAS",
    "nds_pnas": "PNAS",
    "nds_nasnet": "NASNet",
    "nds_amoeba": "Amoeba",
    "nds_resnext_a": "ResNeXt-A",
    "nds_resnext_b": "ResNeXt-B",
}
# Files of measured values below DATA, one per task. The files of one list hold the same architectures.
POOLS = {
    "nasbench101": [["nasbench101/nasbench1_2500.json"], ["nasbench101/nasbench1_imgnet.json"]],
    "nasbench201": [[f"nasbench201/{name}.json" for name in ("cifar10valid", "cifar100", "tinyimagenet")]],
    "transnas_micro": [[f"transnas/micro_{task}.json" for task in _TRANSNAS_TASKS]],
    "transnas_macro": [[f"transnas/macro_{task}.json" for task in _TRANSNAS_TASKS]],
    "nasbench_mr": [[f"nasbench_mr/{task}.json" for task in _MR_TASKS]],
    **{space: [[f"nds/{name}_in.json"]] for space, name in _NDS.items()},
}


def config_source(space: str, variant: str) -> str:
    """Return ``PATH:VARIANT`` of a space's configuration."""
    if space in _NDS:
        return f"{ROOT}/configs/nds.py:{_NDS[space]},{variant}"
    return f"{ROOT}/configs/{space}.py:{variant}"


def draw_archs(space: spaces.SearchSpace, file: str, num: int, seed: int) -> list[Any]:
    """Draw random architectures of a benchmark; all of them if it holds fewer.

    Args:
      space: the search space.
      file: file of measured values, below DATA.
      num: number of architectures.
      seed: seed of the draw.
    """
    measured = list(dict.fromkeys(record.arch for record in archs.read_archs(DATA / file, space)))
    if len(measured) == space.num_archs:
        return space.sample(num, seed)
    if num < len(measured):
        measured = [measured[i] for i in draw_distinct(len(measured), num, seed, file)]
    return measured


def task_name(space: str, file: str) -> str:
    """Return the name of a file's task, as ``ep.found`` knows it."""
    if space.startswith("nds_"):
        return "imagenet"
    stem = Path(file).stem.removeprefix("micro_").removeprefix("macro_")
    return {"cifar10valid": "cifar10", "tinyimagenet": "imagenet16-120", "nasbench1_2500": "cifar10"}.get(stem, stem)


def draw_labels(functions: np.ndarray, count: int, seed: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions of ``count`` labelled architectures and of held-out ones, disjoint as functions.

    Draws of one seed are nested. All held-out sets leave out the functions of ``most`` labels, so they are equal.

    Args:
      functions: [A], equal numbers for equal functions.
      count: number of labels.
      seed: seed of the draw.
      most: the largest ``count`` of the comparison.
    """
    order = np.random.default_rng(seed).permutation(len(functions))
    kept_out = set(functions[order[:most]].tolist())
    held_out = np.asarray([i for i in order[most:] if functions[i] not in kept_out])
    return order[:count], np.sort(held_out)


def best_seconds(function: Callable[[jax.Array], jax.Array], copies: Sequence[jax.Array]) -> float:
    """Time a jitted function on arrays of several devices at once: the best of five calls after compilation, s."""
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready([function(copy) for copy in copies])
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def command() -> str:
    """Return the command that runs this benchmark, as in its docstring."""
    return f"python benchmarks/{Path(sys.argv[0]).name} " + " ".join(sys.argv[1:])


def write_page(name: str, text: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a page to benchmarks/results, its rows beside it as JSON lines with the command, and print it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
    (RESULTS / f"{name}.jsonl").write_text("".join(json.dumps({**row, "command": command()}) + "\n" for row in rows))
    print(text)


def commit() -> str:
    """Return the checked-out commit, with a mark if the tree differs from it."""
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # not a checkout: an unpacked archive
        return "unknown"
    return text.strip()


def header(title: str) -> str:
    """Return the Markdown head of a results page."""
    machine = f"{jax.default_backend()} ({os.cpu_count()} cores, {platform.machine()}), float32"
    if jax.default_backend() != "cpu":
        machine = (
            f"{jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores, float32 with products as the backend rounds"
        )
    return f"# {title}\n\n    {command()}\n\njax {jax.__version__}, {machine}, commit {commit()}\n\n"


def page_name(benchmark: str, space: str, variant: str = "paper") -> str:
    """Return the name of a page; it holds the size unless it is the paper's, and the backend unless it is the CPU."""
    backend = jax.default_backend()
    parts = [benchmark, space] + [part for part in (variant, backend) if part not in ("paper", "cpu")]
    return "_".join(parts)


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Write rows of equal keys as a Markdown table."""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"
