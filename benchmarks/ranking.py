"""This benchmark measures how well plain Eproxy ranks a benchmark, against MACs and parameters alone.

  python benchmarks/ranking.py --space nasbench201 --images one_over_f dead_leaves white_noise
  python benchmarks/ranking.py --space transnas_micro
  python benchmarks/ranking.py --space nds_darts --variant small

It scores ``--num`` random architectures of the benchmark's files (all, if they hold fewer) with each image source and
weight seed. ``ep.runs.score`` does the work under ``--workdir``, so that a killed run resumes. The script writes a row
for each combination of images and truth to benchmarks/results/ranking_SPACE.md and .jsonl. The last columns fit sizes
and blends, without a search, to 20 labelled architectures with the first weight seed, and measure them on the others.
It needs the benchmark data (environment variable EPROXY_DATA, default ../shared/data).
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, POOLS, config_source, draw_archs, draw_labels, header, markdown_table, page_name, write_page
from scipy import stats

import eproxy_jax as ep
from eproxy_jax import proxy, spaces
from eproxy_jax.cli import config
from eproxy_jax.dps import fitted, selection
from eproxy_jax.execution import grouping
from eproxy_jax.ranks import RankQuality, rank_quality
from eproxy_jax.runs.truth import read_truth

ALPHAS = (0.1, 0.3, 0.5)
NUM_LABELS, DRAWS = 20, 30


def score(arguments: argparse.Namespace, space: spaces.SearchSpace, pool: str, source: str, weight_seed: int):
    """Score with one image source and weight seed; reads finished files instead of computing again."""
    name = f"{arguments.space}-{arguments.variant}-{Path(pool).stem}-{arguments.num}-{source}-{weight_seed}"
    folder = Path(arguments.workdir) / name
    spec = config.build(
        config.load_config(config_source(arguments.space, arguments.variant), [f"--config.images.source={source}"])
    )
    archs = draw_archs(space, pool, arguments.num, arguments.seed)
    result = ep.runs.score(archs, space, spec.settings, spec.images, weight_seed, workdir=folder)
    assert result is not None
    record = json.loads((folder / "scores.run.json").read_text())
    day = dt.date.fromtimestamp((folder / "scores.jsonl").stat().st_mtime).isoformat()
    return result, {**record, "day": day}


def mean_spread(rows: list[RankQuality], field: str) -> str:
    values = [getattr(row, field) for row in rows]
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


def fitted_rows(space: spaces.SearchSpace, archs: list[Any], loss: np.ndarray, truth: np.ndarray) -> dict[str, str]:
    """Fit blends of plain Eproxy with sizes, and each size alone, to labels; returns Spearman on the held-out ones."""
    sizes = spaces.size_measures(space, archs)
    functions = grouping.distinct_networks(archs, space).index  # -1: the disconnected ones, a constant all of them
    connected = functions >= 0
    values: dict[str, list[float]] = {"plain, MACs, parameters": [], "MACs": [], "parameters": []}
    for seed in range(DRAWS):
        labelled, held_out = draw_labels(functions, NUM_LABELS, seed, NUM_LABELS)
        labelled = labelled[connected[labelled]]
        weights = fitted.fit_weights(loss[None, labelled], sizes[:, labelled], truth[labelled])[0][0]
        blend = fitted.FittedProxy((fitted.Member(config.ProxySettings(), *weights.tolist()),))
        scores = [blend.scores(loss[None, held_out], sizes[:, held_out], connected=connected[held_out])]
        signed = selection.signs(sizes[:, labelled], truth[labelled])[:, None] * sizes[:, held_out]
        scores += list(np.where(connected[held_out], signed, -np.inf))
        for own, column in zip(values.values(), scores, strict=True):
            own.append(rank_quality(column, truth[held_out]).spearman)
    return {
        f"{NUM_LABELS} labels: {name}": f"{np.mean(own):.3f} ± {np.std(own, ddof=1):.3f}"
        for name, own in values.items()
    }


def pool_rows(space: spaces.SearchSpace, pool: list[str], source: str, scored: list) -> list[dict[str, object]]:
    """Return one row per task of a pool of architectures."""
    results, records = [result for result, _ in scored], [record for _, record in scored]
    archs = [space.parse(arch) for arch in results[0].archs]
    between_seeds = [
        np.asarray(stats.spearmanr(a.score, b.score))[0] for i, a in enumerate(results) for b in results[i + 1 :]
    ]
    mean_rank = np.sum([stats.rankdata(result.score) for result in results], axis=0)
    rows = []
    for file in pool:
        truth_by_arch = read_truth(DATA / file, space)
        truth = np.asarray([truth_by_arch[arch] for arch in archs])
        plain = [rank_quality(result.score, truth) for result in results]
        blended = {
            alpha: [
                rank_quality(proxy.scores(r.loss, r.effective_macs / space.max_macs(), alpha), truth).spearman
                for r in results
            ]
            for alpha in ALPHAS
        }
        macs, params = rank_quality(results[0].macs, truth), rank_quality(results[0].params, truth)
        effective = rank_quality(results[0].effective_macs, truth)
        rows.append(
            {
                "truth": Path(file).stem,
                "images": source,
                "archs": len(archs),
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
                "programs": len(grouping.by_group([space.canonical(arch) for arch in archs], space)),
                "s/network": f"{np.mean([r['seconds']['run'] for r in records]) / records[0]['distinct']:.2f}",
                "compile s": f"{np.mean([r['seconds']['compile'] for r in records]):.0f}",
                **fitted_rows(space, archs, results[0].loss, truth),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", choices=POOLS)
    parser.add_argument("--variant", default="paper")
    parser.add_argument("--num", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the random architectures")
    parser.add_argument("--weight-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", nargs="+", default=["one_over_f"])
    parser.add_argument("--workdir", default="runs/ranking")
    arguments = parser.parse_args()
    ep.configure()
    space = config.build(config.load_config(config_source(arguments.space, arguments.variant))).space
    rows, records = [], []
    for pool in POOLS[arguments.space]:
        for source in arguments.images:
            scored = [score(arguments, space, pool[0], source, weight_seed) for weight_seed in arguments.weight_seeds]
            rows += pool_rows(space, pool, source, scored)
            records += [record for _, record in scored]
    title = f"Plain Eproxy on {arguments.space} ({arguments.variant})"
    name = page_name("ranking", arguments.space, arguments.variant)
    days = sorted(record["day"] for record in records)
    notes = (
        f"\nTrained from {days[0]} to {days[-1]}: finished runs are read, not made again. Columns of {NUM_LABELS} "
        f"labels: fitted to that many labelled architectures, {DRAWS} draws, first weight seed, measured on the others "
        "(disjoint as functions); MACs and parameters without dead edges, sign by the labels.\n"
    )
    write_page(name, header(title) + markdown_table(rows) + notes, rows)


if __name__ == "__main__":
    main()
