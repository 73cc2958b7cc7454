"""This benchmark compares Spearman on random samples of NAS-Bench-201 with Spearman on all strings.

  python benchmarks/full_space.py && python benchmarks/sample_noise.py --scores runs/full_space/*/scores.jsonl

It reads a score file with every distinct network of NAS-Bench-201, and trains nothing. Strings of one function share
its score. It needs the benchmark data (EPROXY_DATA).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, POOLS, header, markdown_table, write_page

from eproxy_jax import proxy, spaces
from eproxy_jax.ranks import spearman_rows
from eproxy_jax.runs import results
from eproxy_jax.runs.truth import read_truth

SPACE = "nasbench201"
ALPHAS = (0.3, 0.5)


def margins(score: np.ndarray, sizes: np.ndarray, truth: np.ndarray, draws: list[np.ndarray]) -> np.ndarray:
    """Return Spearman of scores and of sizes, both [A], with the truth [A] in each of D draws of positions: [D, 2]."""
    both = np.stack([score, sizes])
    return np.asarray([spearman_rows(both[:, draw], truth[draw]) for draw in draws])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True, help="written by eproxy score, of all networks")
    parser.add_argument("--num", type=int, default=300, help="strings in a sample")
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    space = spaces.get(SPACE)
    result = results.result_of([json.loads(line) for line in arguments.scores.read_text().splitlines()])
    row_of = {space.canonical(space.parse(arch)): row for row, arch in enumerate(result.archs)}
    strings = list(space.enumerate())
    found = [row_of.get(space.canonical(arch)) for arch in strings]
    if missing := found.count(None):
        sys.exit(f"{arguments.scores}: {missing} of {len(strings)} strings have no score; score the space with --all")
    rows = np.asarray(found)
    macs = np.asarray([space.macs(arch) for arch in strings])
    kinds = {"plain Eproxy": result.score[rows]}
    for alpha in ALPHAS:
        blended = proxy.scores(result.loss, result.effective_macs / space.max_macs(), alpha)
        kinds[f"alpha = {alpha}"] = blended[rows]
    table: list[dict[str, Any]] = []
    for file in POOLS[SPACE][0]:
        measured = read_truth(DATA / file, space)
        truth = np.asarray([measured[arch] for arch in strings])
        rng = np.random.default_rng(0)
        draws = [rng.choice(len(strings), arguments.num, replace=False) for _ in range(arguments.samples)]
        for kind, score in kinds.items():
            ((whole, size),) = margins(score, macs, truth, [np.arange(len(strings))])
            sampled, sizes = margins(score, macs, truth, draws).T
            margin = sampled - sizes
            row = {"truth": Path(file).stem, "score": kind}
            row[f"all {len(strings)} strings"] = f"{whole:.3f}"
            row["MACs, all"] = f"{size:.3f}"
            row[f"samples of {arguments.num}"] = f"{sampled.mean():.3f} ± {sampled.std():.3f}"
            row["MACs, samples"] = f"{sizes.mean():.3f} ± {sizes.std():.3f}"
            row["margin"] = f"{margin.mean():+.3f} ± {margin.std():.3f}"
            row["samples with margin > 0"] = f"{np.mean(margin > 0):.0%}"
            row["margin >= .06"] = f"{np.mean(margin >= 0.06):.0%}"
            table.append(row)
    text = header(f"Samples of {arguments.num} strings of {SPACE}, {arguments.samples} times") + markdown_table(table)
    run = json.loads(arguments.scores.with_suffix(".run.json").read_text())
    text += f"\nSpearman. Scores: {run['platform']}, {run['form']}, weight seed {run['weight_seed']}.\n"
    write_page(f"sample_noise_{SPACE}", text, table)


if __name__ == "__main__":
    main()
