"""This benchmark chooses the columns of ``rank_sum``, and says how far the choice can be trusted.

  python benchmarks/proxies.py --space nasbench201 --num-archs 1050 --images IMAGES.npz --proxy cheap
  python benchmarks/rank_sum.py runs/proxies_nasbench201/columns.jsonl

Of all sums of two to six columns that need no class labels, it takes the one that ranks NAS-Bench-201 best, with
accuracies on CIFAR-10 and each function once. No other task is looked at. Ten times, it also chooses on one half of the
networks and ranks the other half.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
from common import DATA, header, markdown_table, write_page
from proxies import read_columns
from scipy import stats

from eproxy_jax import proxies, spaces
from eproxy_jax.ranks import spearman_rows
from eproxy_jax.runs.truth import read_truth

CANDIDATES = (
    "expressivity",
    "trainability",
    "progressivity",
    "entropy_taps",
    "entropy_last",
    "num_layers",
    "macs",
    "jacov",
    "naswot",
    "synflow",
)
PILOT = ("expressivity", "trainability", "macs", "jacov", "naswot")  # what the choice is compared with
MOST = 6


def ranks_of(columns: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return ln(rank / m) of each column among some architectures."""
    return {name: np.log(stats.rankdata(values[rows]) / len(rows)) for name, values in columns.items()}


def quality(names: tuple[str, ...], ranks: dict[str, np.ndarray], target: np.ndarray) -> float:
    """Return Spearman's correlation of a sum with a target."""
    return float(spearman_rows(sum(ranks[name] for name in names), target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("columns", type=Path, help="columns.jsonl of benchmarks/proxies.py")
    parser.add_argument("--seed", type=int, default=0, help="of the halves")
    arguments = parser.parse_args()
    space = spaces.get("nasbench201")
    known = {space.canonical(space.parse(arch)): values for arch, values in read_columns(arguments.columns).items()}
    truth = read_truth(DATA / "nasbench201/cifar10valid.json", space)
    archs = list(known)
    accuracy = np.asarray([truth[arch] for arch in archs])
    columns = {name: np.asarray([known[arch][name] for arch in archs]) for name in CANDIDATES}
    sums = [names for size in range(2, MOST + 1) for names in itertools.combinations(CANDIDATES, size)]

    whole = np.arange(len(archs))
    ranks, target = ranks_of(columns, whole), accuracy
    ordered = sorted(sums, key=lambda names: -quality(names, ranks, target))
    rows = [
        {"sum": " + ".join(names), "Spearman, CIFAR-10": f"{quality(names, ranks, target):.4f}"}
        for names in dict.fromkeys([*ordered[:8], PILOT])
    ]
    rng = np.random.default_rng(arguments.seed)
    picked, gains = Counter(), []
    for _ in range(10):
        order = rng.permutation(len(archs))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        on_first, target = ranks_of(columns, first), accuracy[first]
        best = max(sums, key=lambda names: quality(names, on_first, target))
        picked[best] += 1
        on_second, target = ranks_of(columns, second), accuracy[second]
        gains.append(quality(best, on_second, target) - quality(PILOT, on_second, target))
    text = header(f"The columns of rank_sum: {len(sums)} sums on {len(archs)} functions of NAS-Bench-201")
    text += markdown_table(rows)
    times = "; ".join(f"{' + '.join(names)} ({count} times)" for names, count in picked.most_common())
    text += f"\nChosen on one half of the networks, ten times: {times}."
    text += (
        f"\nOn the other half, the choice is {np.mean(gains):+.4f} +- {np.std(gains):.4f} above {' + '.join(PILOT)}.\n"
    )
    frozen = proxies.AGGREGATES["rank_sum"]
    text += f"\nThe package's `rank_sum`: {' + '.join(frozen)}; the best here: {' + '.join(ordered[0])}.\n"
    write_page("rank_sum_nasbench201", text, rows)


if __name__ == "__main__":
    main()
