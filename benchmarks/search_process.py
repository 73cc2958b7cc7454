"""This benchmark chooses how a process searches: what is its mean, how many deviations it adds, how it begins.

  python benchmarks/search_process.py --columns runs/nasbench201_all/columns.jsonl

Games are those of benchmarks/search.py on NAS-Bench-201 with CIFAR-10 (``--columns``, 20 seeds) and on NAS-Bench-101
(sizes and graph counts, 10 seeds): nothing else is chosen by. The other data sets of NAS-Bench-201 stand with
the ways that are best there: they show how much of their regret another choice would have saved. ``rank_sum`` in the
mean is a process around the sum of ranks; by default the sum draws the first candidates alone. Figures are regrets in
percent, mean over seeds, and how often the best network was found.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import search as search_benchmark
from common import header, markdown_table, write_page

from eproxy_jax import search, spaces

QUERIES = (10, 20, 50)
WAYS: tuple[dict[str, Any], ...] = (
    {"prior": "rank_sum", "beta": 1.0}, {"prior": "rank_sum", "beta": 2.0}, {"beta": 1.0}, {}, {"beta": 3.0},
    {"num_initial": 5}, {"num_initial": 12}, {"initial_top": 50}, {"initial_top": 10_000},
)  # fmt: skip
CONFIRMED: tuple[dict[str, Any], ...] = ({"prior": "rank_sum", "beta": 1.0}, {}, {"beta": 3.0}, {"num_initial": 5})


def regrets(space: spaces.SearchSpace, game: Any, strategy: search.Strategy, cost: str, seeds: int) -> np.ndarray:
    """Return the costs after each number of queries, [seeds, Q]."""
    found = []
    for seed in range(seeds):
        best = search_benchmark.play(search.init(space, game.columns, strategy, seed=seed), game, max(QUERIES))
        found.append([game.costs[cost][best[count - 1]] for count in QUERIES])
    return np.asarray(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", nargs="+", required=True, metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    cases = (("nasbench201", arguments.columns, "test regret, %", 20), ("nasbench101", [], "regret, %", 10))
    for name, files, cost, seeds in cases:
        space = spaces.get(name)
        for number, game in enumerate(search_benchmark.games(name, bool(files), files)):
            for way in WAYS if number == 0 else CONFIRMED:
                if not files and "prior" in way:
                    continue  # without proxies there is no sum
                found = regrets(space, game, search.Process(**way), cost, seeds)
                least = min(game.costs[cost].values())
                rows.append(
                    {
                        "benchmark": f"{name} {game.task}",
                        "process": ", ".join(f"{key} {value}" for key, value in way.items()) or "default",
                        **{f"{count} queries": f"{found[:, i].mean():.2f}" for i, count in enumerate(QUERIES)},
                        "best found in 20": f"{(found[:, 1] < least + 0.011).mean():.2f}",
                    }
                )
                print(rows[-1], flush=True)
    text = header("How a process searches: choices on NAS-Bench-201 CIFAR-10 and NAS-Bench-101")
    text += f"{(__doc__ or '').split('columns.jsonl')[1].strip()}\n\n" + markdown_table(rows)
    write_page("search_process", text, rows)


if __name__ == "__main__":
    main()
