r"""This benchmark fits rankings to columns and a few labels, and measures the ranks of held-out networks.

  python benchmarks/fit_columns.py --num-draws 20 --num-labels 20 50

The columns are proxies that an independent implementation computed (``proxy_scores`` below EPROXY_DATA), graph counts
and sizes from the spaces; there is no Eproxy column. The tasks are three of NAS-Bench-201 (9,445 networks), one of
NAS-Bench-101 (500) and seven of TransNAS-micro (711). Labelled and held-out networks are disjoint as functions. Kernels
and priors were chosen on NAS-Bench-201 CIFAR-10 and NAS-Bench-101; all other tasks confirm.

It writes benchmarks/results/fit_columns.md and .jsonl.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from common import DATA, draw_labels, header, markdown_table, write_page

import eproxy_jax as ep
from eproxy_jax import ranks, spaces
from eproxy_jax.fits.aggregates import RankSum
from eproxy_jax.proxies import graph_counts
from eproxy_jax.proxies.aggregates import AGGREGATES

_NAMES = {"nwot": "naswot"}  # of the stored columns, where ours differ
_NO_PROXIES = ("net", "net_str", "arch", "idx", "flops", "params", "val_accuracy")  # sizes come from the space
_FAILED = -1e8  # what the files hold where a proxy failed


@dataclasses.dataclass(frozen=True)
class Case:
    """One task: columns of its networks, their values, and equal numbers for networks of equal function."""

    space: str
    task: str
    columns: ep.Columns
    truth: np.ndarray
    functions: np.ndarray


def make_case(space: spaces.SearchSpace, task: str, archs: Sequence[Any], rows: Sequence[Any], truth: Any) -> Case:
    """Join stored proxies with sizes and graph counts.

    Args:
      space: the search space.
      task: the task's name.
      archs: A architectures as the file writes them.
      rows: A dicts of stored proxies, each a number or a dict with its score.
      truth: values by architecture, as the space writes it; or [A].
    """
    parsed = [space.parse(arch) for arch in archs]
    names = [space.format(arch) for arch in parsed]
    proxies = [name for name in rows[0] if name not in _NO_PROXIES and all(name in row for row in rows)]
    sizes = spaces.size_measures(space, parsed)
    counts = graph_counts.graph_counts(space, parsed)
    columns = ep.Columns.of(
        names,
        {_NAMES.get(name) or name: [_number(row[name]) for row in rows] for name in proxies}
        | {"macs": sizes[0], "params": sizes[1], "graph_counts": counts},
    )
    numbers: dict[Any, int] = {}
    functions = [numbers.setdefault(space.canonical(arch), len(numbers)) for arch in parsed]
    values = [truth[name] for name in names] if isinstance(truth, dict) else truth
    return Case(space.name, task, columns, np.asarray(values, np.float64), np.asarray(functions))


def _number(stored: Any) -> float:
    value = float((stored["score"] if isinstance(stored, dict) else stored) or "nan")
    return -np.inf if value <= _FAILED else value


def read_truth(space: spaces.SearchSpace, file: str) -> dict[str, float]:
    return {space.format(space.parse(arch)): value for arch, value in json.loads((DATA / file).read_text())}


def read_rows(file: str) -> list[dict[str, str]]:
    with (DATA / "proxy_scores" / file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def nasbench201() -> Iterator[Case]:
    space = spaces.get("nasbench201")
    cifar10 = read_rows("nb201_zc_proxies.csv")
    others = {row["net"]: row for row in read_rows("nb201_ImageNet16-120_zc_proxies.csv")}
    strings = [row["net_str"] for row in cifar10]
    for task in ("cifar10valid", "cifar100", "tinyimagenet"):
        rows = [others[row["net"]] for row in cifar10] if task == "tinyimagenet" else cifar10
        yield make_case(space, task, strings, rows, read_truth(space, f"nasbench201/{task}.json"))


def nasbench101() -> Iterator[Case]:
    stored = json.loads((DATA / "proxy_scores" / "zc_nasbench101.json").read_text())["nasbench101"]["cifar10"]
    truth = [row["val_accuracy"] for row in stored.values()]
    yield make_case(spaces.get("nasbench101"), "cifar10", list(stored), list(stored.values()), truth)


def transnas_micro() -> Iterator[Case]:
    space = spaces.get("transnas_micro")
    for task, stored in json.loads((DATA / "proxy_scores" / "zc_transbench101_micro.json").read_text()).items():
        truth = read_truth(space, f"transnas/micro_{task}.json")
        yield make_case(space, task, list(stored), list(stored.values()), truth)


SOURCES: dict[str, Callable[[], Iterator[Case]]] = {
    "nasbench201": nasbench201,
    "nasbench101": nasbench101,
    "transnas_micro": transnas_micro,
}


def label_free(case: Case) -> np.ndarray:
    """Return the default prior alone, [A]: the sum of ranks over the columns that are there."""
    names = [name for name in AGGREGATES["rank_sum"] if name in case.columns.names]
    return RankSum.of(case.columns, names).values(case.columns)


def fitted_rows(case: Case) -> dict[str, Callable[[dict[str, float]], ep.Fitted]]:
    """Return functions of the labels by the name of their row in the table."""
    every, few = case.columns, case.columns.block("losses", "proxies", "sizes")
    return {
        "best column": lambda labels: ep.fit(few, labels, "best_column"),
        "fitted MACs": lambda labels: ep.fit(few.select(["macs"]), labels, "best_column"),
        "rank blend": lambda labels: ep.fit(few, labels, "blend"),
        "ridge": lambda labels: ep.fit(every, labels, "ridge", prior=None),
        "process": lambda labels: ep.fit(every, labels, prior=None),
        "process, a length per block": lambda labels: ep.fit(every, labels, prior=None, length_per_block=True),
        "process of proxies and sizes": lambda labels: ep.fit(few, labels, prior=None),
        "prior + process of proxies and sizes": lambda labels: ep.fit(few, labels),
        "prior + ridge": lambda labels: ep.fit(every, labels, "ridge"),
        "prior + process": lambda labels: ep.fit(every, labels),
    }


def measure(case: Case, counts: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Return a row for each draw, number of labels and method."""
    found, free = [], label_free(case)
    for seed in range(draws):
        for count in counts:
            labelled, held_out = draw_labels(case.functions, count, seed, max(counts))
            labels = {case.columns.archs[i]: float(case.truth[i]) for i in labelled}
            base = {"space": case.space, "task": case.task, "labels": count, "seed": seed}
            quality = ranks.rank_quality(free[held_out], case.truth[held_out])
            found.append({**base, "method": "rank sum, no labels", **dataclasses.asdict(quality)})
            for name, fit in fitted_rows(case).items():
                fitted = fit(labels)
                mean, deviation = fitted.predict(case.columns.rows(case.columns.archs[i] for i in held_out))
                quality = ranks.rank_quality(mean, case.truth[held_out])
                extra = {"left_out": fitted.quality.spearman, "weight": fitted.prior_weight}
                extra["deviation"] = float(deviation.mean())
                found.append({**base, "method": name, **dataclasses.asdict(quality), **extra})
    return found


def page(rows: list[dict[str, Any]], counts: Sequence[int]) -> str:
    text = header("Rankings fitted to stored columns")
    text += "Spearman on held-out networks: mean over draws of labels, and their standard deviation.\n"
    methods = list(dict.fromkeys(row["method"] for row in rows))
    tasks = list(dict.fromkeys((row["space"], row["task"]) for row in rows))
    for count in counts:
        table = []
        for method in methods:
            own = [row for row in rows if row["method"] == method and row["labels"] == count]
            cells = {}
            for space, task in tasks:
                values = [row["spearman"] for row in own if (row["space"], row["task"]) == (space, task)]
                cells[f"{space} {task}"] = f"{np.mean(values):.3f} ± {np.std(values):.3f}"
            table.append({"method": method, **cells})
        text += f"\n## {count} labels\n\n{markdown_table(table)}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--num-labels", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--num-draws", type=int, default=20)
    args = parser.parse_args()
    rows = []
    for space in args.space:
        for case in SOURCES[space]():
            rows += measure(case, args.num_labels, args.num_draws)
    write_page("fit_columns", page(rows, args.num_labels), rows)


if __name__ == "__main__":
    main()
