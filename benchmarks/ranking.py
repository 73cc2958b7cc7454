"""Ranking power of plain Eproxy on a benchmark, through the command line, against MACs and parameters alone.

  python benchmarks/ranking.py --space nasbench201 --images one_over_f dead_leaves white_noise
  python benchmarks/ranking.py --space transnas_micro

Scores ``--num`` random architectures with each image source and weight seed (``eproxy score``, resumable, results kept
under ``--workdir``), then writes one row for each combination of images and truth to
benchmarks/results/ranking_SPACE.md and .jsonl.
Needs the benchmark data (environment variable EPROXY_DATA, default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import DATA, ROOT, TRUTHS, header, markdown_table, write_page
from scipy import stats

from eproxy_jax import arch_files, proxy, results_file, spaces
from eproxy_jax.metrics import RankQuality, rank_quality

ALPHAS = (0.1, 0.3, 0.5)


def score(arguments: argparse.Namespace, source: str, weight_seed: int):
    """Scores of one image source and weight seed, by the command line; finished files are read, not computed again."""
    folder = Path(arguments.workdir) / f"{arguments.space}-{arguments.num}-{source}-{weight_seed}"
    config = ["--config", f"{ROOT}/configs/{arguments.space}.py:{arguments.variant}"]
    command = [sys.executable, "-m", "eproxy_jax.cli", "score", *config, "--images", source]
    command += ["--weight-seed", str(weight_seed), "--sample", str(arguments.num), "--seed", str(arguments.seed)]
    subprocess.run([*command, "--workdir", str(folder), "--no-plot"], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return results_file.result_of(rows), json.loads((folder / "scores.run.json").read_text())


def mean_spread(rows: list[RankQuality], field: str) -> str:
    values = [getattr(row, field) for row in rows]
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", choices=TRUTHS)
    parser.add_argument("--variant", default="paper")
    parser.add_argument("--num", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the random architectures")
    parser.add_argument("--weight-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", nargs="+", default=["one_over_f"])
    parser.add_argument("--workdir", default="runs/ranking")
    arguments = parser.parse_args()
    space = spaces.get(arguments.space)
    archs = space.sample(arguments.num, arguments.seed)

    rows = []
    for source in arguments.images:
        scored = [score(arguments, source, weight_seed) for weight_seed in arguments.weight_seeds]
        results, records = [result for result, _ in scored], [record for _, record in scored]
        between_seeds = [
            np.asarray(stats.spearmanr(a.score, b.score))[0] for i, a in enumerate(results) for b in results[i + 1 :]
        ]
        mean_rank = np.sum([stats.rankdata(result.score) for result in results], axis=0)
        for file in TRUTHS[arguments.space]:
            truth_by_arch = arch_files.read_truth(DATA / file, space)
            truth = np.asarray([truth_by_arch[arch] for arch in archs])
            plain = [rank_quality(result.score, truth) for result in results]
            blended = {
                alpha: [
                    rank_quality(proxy.scores(r.loss, r.effective_macs, int(r_max), alpha), truth).spearman
                    for r, r_max in zip(results, [space.max_macs()] * len(results), strict=True)
                ]
                for alpha in ALPHAS
            }
            macs, params = rank_quality(results[0].macs, truth), rank_quality(results[0].params, truth)
            effective = rank_quality(results[0].effective_macs, truth)
            rows.append(
                {
                    "truth": Path(file).stem,
                    "images": source,
                    "archs": arguments.num,
                    "distinct": records[0]["distinct"],
                    "diverged": sum(record["diverged"] for record in records),
                    "seeds": len(results),
                    "Spearman": mean_spread(plain, "spearman"),
                    "tau": mean_spread(plain, "kendall_tau"),
                    "top-10 %": mean_spread(plain, "top_precision"),
                    "regret": mean_spread(plain, "regret"),
                    **{f"alpha {alpha}": f"{np.mean(values):.3f}" for alpha, values in blended.items()},
                    "mean rank of seeds": f"{rank_quality(mean_rank, truth).spearman:.3f}",
                    "MACs": f"{macs.spearman:.3f}",
                    "parameters": f"{params.spearman:.3f}",
                    "MACs without dead edges": f"{effective.spearman:.3f}",
                    "between seeds": f"{np.mean(between_seeds):.3f}" if between_seeds else "-",
                    "s/network": f"{np.mean([r['seconds']['run'] for r in records]) / records[0]['distinct']:.2f}",
                    "compile s": f"{np.mean([r['seconds']['compile'] for r in records]):.0f}",
                }
            )
    title = f"Plain Eproxy on {arguments.space} ({arguments.variant})"
    name = f"ranking_{arguments.space}" + ("" if arguments.variant == "paper" else f"_{arguments.variant}")
    write_page(name, header(title) + markdown_table(rows), rows)


if __name__ == "__main__":
    main()
