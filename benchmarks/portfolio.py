r"""This benchmark chooses the Eproxy settings that add most to the cheap columns: the package's portfolio.

  python benchmarks/portfolio.py --columns DIR/columns.jsonl DIR/bank.jsonl --write

DIR holds columns and a bank of NAS-Bench-201, see fit_columns.py. One after the other, it takes the setting whose
column adds most to the mean Spearman of the default fit with 20 labels, on CIFAR-10 alone, over draws of labels. After
the first, only the better half of the settings is looked at. Other tasks stand beside it and decide nothing; pages
of fit_columns.py show the portfolio on other spaces.

It writes benchmarks/results/portfolio_nasbench201.md and .jsonl, and eproxy_jax/found/portfolio.json with ``--write``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import fit_columns  # first: it sets the number of threads
import numpy as np
from common import ROOT, config_source, draw_labels, header, markdown_table, write_page

import eproxy_jax as ep
from eproxy_jax import ranks
from eproxy_jax.cli import config
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.fits.columns import LOSSES
from eproxy_jax.runs.gathering import gather

LABELS, TASK = 20, "cifar10"


def quality(case: fit_columns.Case, columns: ep.Columns, task: str, draws: int) -> float:
    """Return the mean Spearman of the default fit on held-out networks."""
    truth, found = case.truths[task], []
    for seed in range(draws):
        labelled, held_out = draw_labels(case.functions, LABELS, seed, LABELS)
        fitted = ep.fit(columns, {columns.archs[i]: float(truth[i]) for i in labelled})
        score = fitted.predict(columns)[0]
        found.append(float(ranks.spearman_rows(score[held_out], truth[held_out])))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", nargs="+", type=Path, required=True)
    parser.add_argument("--variant", default="small", help="of the configuration that the bank was made with")
    parser.add_argument("--bank", type=Path, help="which of them holds the settings; default: the last")
    parser.add_argument("--first", type=int, default=25, help="of the bank's settings, those that other banks have too")
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--num-draws", type=int, default=24)
    parser.add_argument("--write", action="store_true", help="write the package's portfolio")
    args = parser.parse_args()
    space = config.space_of_config(config.load_config(config_source("nasbench201", args.variant)))
    case = fit_columns.read_case(space, args.columns)
    losses = list(case.columns.block(LOSSES).names)
    cheap = [name for name in case.columns.names if name not in losses]
    bank = gather([args.bank or args.columns[-1]], space, with_graph_counts=False)
    candidates = [name for name in losses if name in bank.needs][: args.first]
    chosen: list[str] = []
    rows: list[dict[str, Any]] = []

    def add_row(what: str, names: list[str]) -> None:
        tasks = {
            task: quality(case, case.columns.select([*cheap, *names]), task, args.num_draws) for task in case.truths
        }
        rows.append({"columns": what, "settings": len(names), **{task: f"{x:.4f}" for task, x in tasks.items()}})

    add_row("cheap", [])
    for _ in range(args.size):
        rest = [name for name in candidates if name not in chosen]
        gains = {
            name: quality(case, case.columns.select([*cheap, *chosen, name]), TASK, args.num_draws) for name in rest
        }
        rest.sort(key=lambda name: -gains[name])
        chosen.append(rest[0])
        if len(chosen) == 1:
            candidates = rest[: (len(rest) + 1) // 2]
        add_row(f"+ {chosen[-1].partition(':')[2]}", chosen)
        print(rows[-1], flush=True)
    add_row("plain Eproxy instead", [losses[0]])
    add_row("all of the bank", losses)

    table = GeneTable.from_dict(bank.made_with["genes"])
    settings = [table.decode(np.asarray(bank.needs[name]["genome"])) for name in chosen]
    members = [{"settings": dataclasses.replace(one, alpha=0.0).to_dict()} for one in settings]
    if args.write:
        (ROOT / "eproxy_jax/found/portfolio.json").write_text(json.dumps({"members": members}) + "\n")
    text = header(f"A portfolio of Eproxy settings beside the cheap columns, {LABELS} labels")
    text += f"Spearman of the default fit on held-out networks, mean of {args.num_draws} draws, {len(case.columns)} "
    text += "networks of NAS-Bench-201. Each line adds the setting that adds most on CIFAR-10.\n\n"
    write_page("portfolio_nasbench201", text + markdown_table(rows), rows)


if __name__ == "__main__":
    main()
