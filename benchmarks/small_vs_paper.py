"""Does the small size rank like the paper's? The same architectures at both sizes.

  python benchmarks/small_vs_paper.py --space nasbench201 --num-archs 40 --num-settings 2
  python benchmarks/small_vs_paper.py --space nds_darts --num-archs 16

Plain Eproxy as either variant of the space's configuration has it, and ``--num-settings`` random settings out of the
small gene table, on random architectures of the benchmark. For each setting: Spearman between both sizes' scores, and
of each size with the truth. ``eproxy score`` does the work under ``--workdir``, so that a killed run resumes. Needs the
benchmark data (EPROXY_DATA).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, POOLS, config_source, draw_archs, header, markdown_table, write_page

from eproxy_jax import metrics
from eproxy_jax.cli import config
from eproxy_jax.dps import loss_bank
from eproxy_jax.runs import archs as archs_lib

SIZES = ("small", "paper")


def scored(source: str, flags: list[str], settings: dict[str, Any] | None, folder: Path) -> tuple[dict, dict]:
    """(Scores by architecture, with -inf where a training diverged; the run's seconds) of one size and setting."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "eproxy_jax", "score", "--config", source, *flags, "--no-plot"]
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings))
        command += ["--settings", str(folder / "settings.json")]
    subprocess.run([*command, "--workdir", str(folder)], check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    seconds = json.loads((folder / "scores.run.json").read_text())["seconds"]
    return {row["arch"]: -np.inf if row["score"] is None else row["score"] for row in rows}, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", choices=POOLS)
    parser.add_argument("--num-archs", type=int, default=40)
    parser.add_argument("--num-settings", type=int, default=0, help="random ones, besides plain Eproxy")
    parser.add_argument("--workdir", default="runs/small-vs-paper")
    arguments = parser.parse_args()
    sources = {size: config_source(arguments.space, size) for size in SIZES}
    small = config.build(config.load_config(sources["small"]))
    file = POOLS[arguments.space][0][0]
    flags, archs = draw_archs(small.space, file, arguments.num_archs, 0)
    genes = loss_bank.random_settings(small.genes, arguments.num_settings)
    settings = {"plain Eproxy": None}
    settings |= {f"random {n}": small.genes.decode(g).to_dict() for n, g in enumerate(genes, start=1)}
    by_arch = archs_lib.read_truth(DATA / file, small.space)
    truth = [by_arch[arch] for arch in archs]
    names = [small.space.format(arch) for arch in archs]
    table = []
    for number, (name, chosen) in enumerate(settings.items()):
        folder = Path(arguments.workdir) / arguments.space
        found = {size: scored(sources[size], flags, chosen, folder / f"{size}-{number}") for size in SIZES}
        one, other = (np.asarray([found[size][0][arch] for arch in names]) for size in SIZES)
        row = {"setting": name, "archs": len(archs), "diverged": int((~np.isfinite([one, other])).any(0).sum())}
        row["small against paper"] = f"{metrics.rank_quality(one, np.argsort(np.argsort(other))).spearman:.3f}"
        for size, score in zip(SIZES, (one, other), strict=True):
            row[f"{size}, with the truth"] = f"{metrics.rank_quality(score, truth).spearman:.3f}"
        for size in SIZES:
            seconds = found[size][1]
            row[f"{size}, s/network"] = f"{seconds['run'] / len(archs):.2f}"
            row[f"{size}, compile s"] = f"{seconds['compile']:.0f}"
        table.append(row)
    text = header(f"Small against paper size on {arguments.space}") + markdown_table(table)
    text += f"\nSpearman on {len(archs)} random architectures, one weight seed; truth {file}.\n"
    write_page(f"small_vs_paper_{arguments.space}", text, table)


if __name__ == "__main__":
    main()
