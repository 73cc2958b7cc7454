"""This benchmark says what it does to plain Eproxy that disconnected networks are not trained but ranked last.

  python benchmarks/disconnected.py SCORES.jsonl [--archs SHUFFLED.txt]

SCORES.jsonl holds scores of NAS-Bench-201 strings as ``eproxy score`` wrote them before it knew of disconnected
networks: with a loss for every string. It may still grow; its whole lines count. Of a run that is not complete, give
the shuffled list that it works through: then the strings up to the first without a score count, a uniform sample, where
a file's lines favour functions with many strings. The script trains nothing. It compares
the scores with the benchmark data (EPROXY_DATA, default ../shared/data) twice: as they are, and with ``-inf`` for the
networks whose output never depends on the image. MACs and parameters stand beside them: as written, and without dead
edges, which is 0 MACs for a disconnected network.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, POOLS, header, markdown_table, write_page

from eproxy_jax import spaces
from eproxy_jax.ranks import rank_quality
from eproxy_jax.runs.archs import read_archs
from eproxy_jax.runs.truth import read_truth

SPACE = "nasbench201"
NAMES = {"cifar10valid": "CIFAR-10", "cifar100": "CIFAR-100", "tinyimagenet": "ImageNet16-120"}


def read_scores(path: Path, space: spaces.SearchSpace) -> dict[Any, float]:
    """Return the scores of a file by architecture; ``-inf`` for those that diverged."""
    scores = {}
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            continue  # half-written
        row = json.loads(line)
        if row["status"] == "disconnected":
            raise SystemExit(f"{path}: {row['arch']} was not trained: give scores of a version that trained it")
        scores[space.parse(row["arch"])] = -np.inf if row["score"] is None else row["score"]
    return scores


def quality_rows(space: spaces.SearchSpace, archs: list[Any], columns: dict[str, Any], truth: Any, of: str, task: str):
    """Return one row for each column of scores: Spearman, tau, top-10 %, regret."""
    rows = []
    for name, column in columns.items():
        quality = rank_quality(column, truth)
        rows.append(
            {
                "truth": task,
                "of": f"{len(archs)} {of}",
                "disconnected": sum(not space.is_connected(arch) for arch in archs),
                "ranking": name,
                "Spearman": f"{quality.spearman:.3f}",
                "tau": f"{quality.kendall_tau:.3f}",
                "top-10 %": f"{quality.top_precision:.3f}",
                "regret": f"{quality.regret:.2f}",
            }
        )
    return rows


def columns_of(space: spaces.SearchSpace, archs: list[Any], scores: list[float]) -> dict[str, Any]:
    """Return the rankings to compare, by name."""
    connected = np.asarray([space.is_connected(arch) for arch in archs])
    return {
        "plain Eproxy, disconnected ones as trained": scores,
        "plain Eproxy, disconnected ones last": np.where(connected, scores, -np.inf),
        "MACs as written": [space.macs(arch) for arch in archs],
        "parameters as written": [space.params(arch) for arch in archs],
        "MACs without dead edges": [spaces.effective_macs(space, arch) for arch in archs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", type=Path, metavar="SCORES.jsonl")
    parser.add_argument("--archs", type=Path, metavar="FILE", help="the shuffled list that the run works through")
    arguments = parser.parse_args()

    space = spaces.get(SPACE)
    score_of = read_scores(arguments.scores, space)
    if arguments.archs is not None:
        order = [record.arch for record in read_archs(arguments.archs, space)]
        first = itertools.takewhile(score_of.__contains__, order)
        score_of = {arch: score_of[arch] for arch in first}
    strings = list(score_of)
    strings_of: dict[Any, list[Any]] = {}
    for arch in strings:
        strings_of.setdefault(space.canonical(arch), []).append(arch)
    dead = [score_of[arch] for arch in strings if not space.is_connected(arch)]
    rows = []
    for file in POOLS[SPACE][0]:
        measured, task = read_truth(DATA / file, space), NAMES[Path(file).stem]
        columns = columns_of(space, strings, [score_of[arch] for arch in strings])
        rows += quality_rows(space, strings, columns, [measured[arch] for arch in strings], "strings", task)
        # Each function once, against the mean of its strings.
        columns = columns_of(space, list(strings_of), [score_of[own[0]] for own in strings_of.values()])
        means = [float(np.mean([measured[arch] for arch in own])) for own in strings_of.values()]
        rows += quality_rows(space, list(strings_of), columns, means, "networks", task)
    text = header("Disconnected networks of NAS-Bench-201") + markdown_table(rows)
    text += (
        f"\n{len(strings)} of the {space.num_archs} strings have scores, {len(dead)} of them of disconnected networks: "
        "their output never depends on the image, and all of them compute the same constant."
    )
    if dead:
        better = np.mean(np.asarray(list(score_of.values())) < dead[0])
        text += f" As trained, its score is better than that of {100 * better:.0f} % of the strings."
    if arguments.archs is not None:
        text += " They are the first ones of a shuffled list, hence a uniform sample."
    elif len(strings) < (space.num_archs or 0):
        text += (
            " The run is not complete: a network's strings get their lines together, so functions with many strings "
            "are over-represented."
        )
    write_page("disconnected_nasbench201", text + "\n", rows)


if __name__ == "__main__":
    main()
