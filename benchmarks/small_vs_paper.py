"""Does the small size rank like the paper's? The same settings and architectures at both sizes.

  python benchmarks/small_vs_paper.py --space nasbench201 --num-archs 60 --num-settings 3

Plain Eproxy and random settings out of the small gene table on random architectures, with the networks and images at
either size. For each setting: Spearman between the two sizes' losses, and of each size with the truth. Losses are kept
in banks under ``--workdir``, so that a killed run resumes. Needs the benchmark data (EPROXY_DATA).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import jax
import numpy as np
from common import DATA, ROOT, header, markdown_table, write_page

from eproxy_jax import arch_files, config, images, loss_bank, metrics, programs

TRUTH = {"nasbench201": "nasbench201/cifar10valid.json", "transnas_micro": "transnas/micro_class_object.json"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", choices=TRUTH)
    parser.add_argument("--num-archs", type=int, default=60)
    parser.add_argument("--num-settings", type=int, default=3, help="random ones, besides plain Eproxy")
    parser.add_argument("--workdir", default="runs/small-vs-paper")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
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
        execution = programs.Execution.of(chunk_size=16)
        path = Path(arguments.workdir) / f"{size}.jsonl"
        with loss_bank.LossBank(path, bank_spec.identity(execution)) as bank:

            def show(done: int, total: int, diverged: int, size: str = size) -> None:
                print(f"{size}: {done}/{total}, {diverged} diverged", file=sys.stderr)

            seconds[size] = loss_bank.fill(bank, bank_spec, settings, archs, execution, show)
            rows, columns = bank.rows(own.genes, settings), bank.columns(own.space, archs)
            losses[size] = bank.losses(own.settings.num_steps)[rows][:, columns, -1]
    by_arch = arch_files.read_truth(DATA / TRUTH[arguments.space], small.space)
    truth = [by_arch[arch] for arch in archs]
    table = []
    for number in range(len(settings)):
        one, other = (np.where(np.isfinite(losses[s][number]), -losses[s][number], -np.inf) for s in ("small", "paper"))
        ranks = np.argsort(np.argsort(other))
        table.append(
            {
                "setting": "plain Eproxy" if number == 0 else f"random {number}",
                "small against paper": f"{metrics.rank_quality(one, ranks).spearman:.3f}",
                "small, with the truth": f"{metrics.rank_quality(one, truth).spearman:.3f}",
                "paper, with the truth": f"{metrics.rank_quality(other, truth).spearman:.3f}",
            }
        )
    text = header(f"Small against paper size on {arguments.space}") + markdown_table(table)
    text += f"\nSpearman on {len(archs)} random architectures; truth {TRUTH[arguments.space]}. Seconds: {seconds}.\n"
    write_page(f"small_vs_paper_{arguments.space}", text, table)


if __name__ == "__main__":
    main()
