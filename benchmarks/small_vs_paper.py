"""Does the small size rank like the paper's? The same settings and architectures at both sizes.

  python benchmarks/small_vs_paper.py --space nasbench201 --num-archs 60 --num-settings 3

Plain Eproxy and random settings out of the small gene table on random architectures, with the networks and images at
either size. For each setting: Spearman between the two sizes' losses, and of each size with the truth. Losses are kept
in banks under ``--workdir``, so that a killed run resumes. Needs the benchmark data (EPROXY_DATA).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
from common import header, markdown_table

from eproxy_jax import arch_files, config, images, loss_bank, metrics, runner

ROOT = Path(__file__).resolve().parents[1]
TRUTH = {"nasbench201": "nasbench201/cifar10valid.json", "transnas_micro": "transnas/micro_class_object.json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", choices=TRUTH)
    parser.add_argument("--num-archs", type=int, default=60)
    parser.add_argument("--num-settings", type=int, default=3, help="random ones, besides plain Eproxy")
    parser.add_argument("--workdir", default="runs/small-vs-paper")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    data = Path(os.environ.get("EPROXY_DATA", ROOT / ".." / "shared" / "data"))
    specs = {
        size: config.build(config.load_config(f"{ROOT}/configs/{arguments.space}.py:{size}"))
        for size in ("small", "paper")
    }
    small = specs["small"]
    archs = small.space.sample(arguments.num_archs, 0)
    settings = [small.genes.encode(small.settings), *loss_bank.random_settings(small.genes, arguments.num_settings)]
    losses, seconds = {}, {}
    for size, spec in specs.items():
        own = dataclasses.replace(spec, genes=small.genes)
        batch = images.standardize(own.images)
        bank_spec = loss_bank.BankSpec(own.space, own.genes, batch, own.weight_seed, own.settings.num_steps)
        execution = runner.Execution.of(chunk_size=16)
        bank = loss_bank.LossBank(Path(arguments.workdir) / f"{size}.jsonl", bank_spec.identity(execution))
        seconds[size] = loss_bank.fill(
            bank,
            bank_spec,
            settings,
            archs,
            execution,
            lambda done, total, _, size=size: print(f"{size}: {done}/{total}", file=sys.stderr),
        )
        position = {text: i for i, text in enumerate(bank.archs)}
        columns = [position[own.space.format(own.space.canonical(arch))] for arch in archs]
        row = {tuple(genes.tolist()): p for p, genes in enumerate(bank.genes)}
        keys = [row[tuple(loss_bank.without_alpha(own.genes, genes).tolist())] for genes in settings]
        losses[size] = bank.losses(own.settings.num_steps)[keys][:, columns, -1]
        bank.close()
    by_arch = arch_files.read_truth(data / TRUTH[arguments.space], small.space)
    truth = [by_arch[arch] for arch in archs]
    rows = []
    for number in range(len(settings)):
        one, other = (np.where(np.isfinite(losses[s][number]), -losses[s][number], -np.inf) for s in ("small", "paper"))
        ranks = np.argsort(np.argsort(other))
        rows.append(
            {
                "setting": "plain Eproxy" if number == 0 else f"random {number}",
                "small against paper": f"{metrics.rank_quality(one, ranks).spearman:.3f}",
                "small, with the truth": f"{metrics.rank_quality(one, truth).spearman:.3f}",
                "paper, with the truth": f"{metrics.rank_quality(other, truth).spearman:.3f}",
            }
        )
    command = "python benchmarks/small_vs_paper.py " + " ".join(sys.argv[1:])
    text = header(f"Small against paper size on {arguments.space}", command) + markdown_table(rows)
    text += f"\nSpearman on {len(archs)} random architectures; truth {TRUTH[arguments.space]}. Seconds: {seconds}.\n"
    out = ROOT / "benchmarks" / "results" / f"small_vs_paper_{arguments.space}"
    out.with_suffix(".md").write_text(text)
    out.with_suffix(".jsonl").write_text("".join(json.dumps({**row, "command": command}) + "\n" for row in rows))
    print(text)


if __name__ == "__main__":
    main()
