"""This benchmark scores the same architectures at the small and at the paper's size and compares the ranks.

  python benchmarks/small_vs_paper.py --space nasbench201 --num-archs 40 --num-settings 2
  python benchmarks/small_vs_paper.py --space nds_darts --num-archs 16

It runs plain Eproxy, as each variant of the space's configuration has it, and ``--num-settings`` random settings of the
small gene table, on random architectures of the benchmark. For each setting the page shows Spearman between the scores
of both sizes, and of each size with the truth. ``ep.runs.score`` does the work under ``--workdir``, so a killed run
resumes. The script needs the benchmark data (EPROXY_DATA).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import DATA, POOLS, config_source, draw_archs, header, markdown_table, write_page

import eproxy_jax as ep
from eproxy_jax import ranks
from eproxy_jax.cli import config
from eproxy_jax.dps.genes import random_settings
from eproxy_jax.runs.truth import read_truth

SIZES = ("small", "paper")


def scored(spec: config.RunSpec, names: list[str], settings: ep.ProxySettings | None, folder: Path) -> ep.ScoreResult:
    """Score at one size under one setting; without a setting, under plain Eproxy of that size's configuration."""
    chosen = spec.settings if settings is None else settings
    result = ep.runs.score(names, spec.space, chosen, spec.images, spec.weight_seed, workdir=folder)
    assert result is not None
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", choices=POOLS)
    parser.add_argument("--num-archs", type=int, default=40)
    parser.add_argument("--num-settings", type=int, default=0, help="random ones, besides plain Eproxy")
    parser.add_argument("--workdir", default="runs/small-vs-paper")
    arguments = parser.parse_args()
    ep.configure()
    specs = {size: config.build(config.load_config(config_source(arguments.space, size))) for size in SIZES}
    small = specs["small"]
    file = POOLS[arguments.space][0][0]
    archs = draw_archs(small.space, file, arguments.num_archs, 0)
    genes = random_settings(small.genes, arguments.num_settings)
    settings: dict[str, ep.ProxySettings | None] = {"plain Eproxy": None}
    settings |= {f"random {n}": small.genes.decode(g) for n, g in enumerate(genes, start=1)}
    by_arch = read_truth(DATA / file, small.space)
    truth = [by_arch[arch] for arch in archs]
    names = [small.space.format(arch) for arch in archs]
    table = []
    for number, (name, chosen) in enumerate(settings.items()):
        folder = Path(arguments.workdir) / arguments.space
        found = {size: scored(specs[size], names, chosen, folder / f"{size}-{number}") for size in SIZES}
        one, other = (found[size].score for size in SIZES)
        row = {"setting": name, "archs": len(archs), "diverged": int((~np.isfinite([one, other])).any(0).sum())}
        row["small against paper"] = f"{ranks.rank_quality(one, np.argsort(np.argsort(other))).spearman:.3f}"
        for size, score in zip(SIZES, (one, other), strict=True):
            row[f"{size}, with the truth"] = f"{ranks.rank_quality(score, truth).spearman:.3f}"
        for size in SIZES:
            seconds = found[size].seconds
            row[f"{size}, s/network"] = f"{seconds['run'] / len(archs):.2f}"
            row[f"{size}, compile s"] = f"{seconds['compile']:.0f}"
        table.append(row)
    text = header(f"Small against paper size on {arguments.space}") + markdown_table(table)
    text += f"\nSpearman on {len(archs)} random architectures, one weight seed; truth {file}.\n"
    write_page(f"small_vs_paper_{arguments.space}", text, table)


if __name__ == "__main__":
    main()
