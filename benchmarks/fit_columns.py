r"""This benchmark fits rankings to columns and a few labels, and measures the ranks of held-out networks.

  python benchmarks/proxies.py --space nasbench201 --variant small --images IMAGES.npz --proxy cheap --workdir DIR
  eproxy bank --config configs/nasbench201.py:small --archs archs.txt --num-settings 28 --workdir DIR
  python benchmarks/fit_columns.py --space nasbench201 --columns DIR/columns.jsonl DIR/bank.jsonl
  python benchmarks/fit_columns.py --summary

FILES are columns of ``eproxy score --proxy`` and a loss bank, each of as many networks as there are; a network that a
bank lacks is left out. Graph counts and sizes come from the space, measured values from EPROXY_DATA. Each draw of
labels gives every method the same networks. Held-out networks are the same for all numbers of labels, and disjoint from
the labelled ones as functions. All choices (kernel, hyperparameters, scale of blocks, columns of the prior, portfolio)
were made on NAS-Bench-201 with CIFAR-10 and on NAS-Bench-101 alone; all other tasks confirm.

It writes benchmarks/results/fit_columns_SPACE.md and .jsonl after every task. ``--summary`` makes fit_columns.md of the
pages that are there.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # matrices are of 20 labels: two threads wait for each other

import numpy as np
from common import DATA, POOLS, RESULTS, config_source, draw_labels, header, markdown_table, write_page
from proxies import read_columns, truths_of

import eproxy_jax as ep
from eproxy_jax import ranks, spaces
from eproxy_jax.cli import config
from eproxy_jax.fits import scores
from eproxy_jax.fits.aggregates import RankSum
from eproxy_jax.fits.columns import GRAPH, LOSSES, PROXIES, SIZES
from eproxy_jax.proxies import graph_counts
from eproxy_jax.proxies.aggregates import AGGREGATES
from eproxy_jax.runs.gathering import gather

COUNTS = (5, 10, 20, 50, 100)
MAIN = 20  # labels of the goals and of the table of blocks
KNOWN = 0.9  # share of networks that must have a value of a column, or it is left out
EARLY = {"cifar10": "cifar10-val", "cifar100": "cifar100-val", "imagenet16-120": "imagenet-val"}
DEFAULT = "prior + process"
METRICS = ("spearman", "kendall_tau", "top_precision", "ndcg", "regret")


@dataclasses.dataclass(frozen=True)
class Case:
    """A space: columns of its networks, equal numbers for equal functions, and measured values [A] of each task."""

    space: spaces.SearchSpace
    columns: ep.Columns
    functions: np.ndarray
    truths: dict[str, np.ndarray]
    portfolio: tuple[str, ...]
    plain: str | None


def read_case(space: spaces.SearchSpace, paths: Sequence[Path]) -> Case:
    """Join the columns of files with sizes and graph counts, for the networks that have them."""
    banks = [path for path in paths if path.open().readline().startswith('{"bank"')]
    known: dict[str, dict[str, float]] = {}
    for path in paths:
        if path not in banks:
            for arch, values in read_columns(path).items():
                known.setdefault(arch, {}).update(values)
    parsed = {arch: space.parse(arch) for arch in known}
    texts = {arch: space.format(space.canonical(one)) for arch, one in parsed.items()}
    trained = [gather([path], space, with_graph_counts=False) for path in banks]
    archs = [a for a in known if all(texts[a] in bank.columns.archs for bank in trained)]
    names = dict.fromkeys(name for arch in archs for name in known[arch] if not name.endswith("_as_written"))
    columns = {name: np.asarray([known[arch].get(name, np.nan) for arch in archs]) for name in names}
    columns = {name: column for name, column in columns.items() if np.isfinite(column).mean() >= KNOWN}
    columns |= dict(zip(("macs", "params"), spaces.size_measures(space, [parsed[a] for a in archs]), strict=True))
    if graph_counts.names(space):
        columns["graph_counts"] = graph_counts.graph_counts(space, [parsed[a] for a in archs])
    joined = ep.Columns.of(archs, columns)
    portfolio, plain = [], "eproxy" if "eproxy" in columns else None
    for bank in trained:
        losses = bank.columns.block(LOSSES)
        place = {text: i for i, text in enumerate(losses.archs)}
        values = losses.values[[place[texts[arch]] for arch in archs]]  # equal functions have a row each
        enough = [i for i in range(len(losses.names)) if (~np.isnan(values[:, i])).mean() >= KNOWN]
        names = [losses.names[i] for i in enough]
        joined = joined.join(ep.Columns.of(archs, dict(zip(names, values[:, enough].T, strict=True)), LOSSES))
        plain = names[0]  # a bank begins with the configuration's settings
        portfolio += portfolio_of(names, bank)
    numbers: dict[str, int] = {}
    functions = np.asarray([numbers.setdefault(texts[arch], len(numbers)) for arch in archs])
    truths = truths_of(space, [parsed[arch] for arch in archs])
    return Case(space, joined, functions, truths, tuple(portfolio), plain)


def portfolio_of(names: Sequence[str], bank: Any) -> list[str]:
    """Return the columns of a bank whose settings are in the package's portfolio."""
    from eproxy_jax.dps.genes import GeneTable

    table, wanted = GeneTable.from_dict(bank.made_with["genes"]), list(ep.portfolio().values())
    settings = {name: table.decode(np.asarray(bank.needs[name]["genome"])) for name in names}
    return [name for name, one in settings.items() if dataclasses.replace(one, alpha=0.0) in wanted]


# --- methods -------------------------------------------------------------------------------------------------


def label_free(case: Case, task: str) -> dict[str, np.ndarray]:
    """Return rankings [A] that use no label of this draw."""
    columns = case.columns
    summed = [name for name in AGGREGATES["rank_sum"] if name in columns.names]
    found = {"MACs": columns.column("macs"), "parameters": columns.column("params")}
    if case.plain:
        found["plain Eproxy"] = columns.column(case.plain)
    if len(summed) > 1:
        found["rank sum, no labels"] = RankSum.of(columns, summed).values(columns)
    if case.space.name == "nasbench201":
        with (DATA / "nasbench201/mini_nb201_12epochs.csv").open(newline="") as lines:
            early = {row["cellstr"]: float(row[EARLY[task]]) for row in csv.DictReader(lines)}
        found["12 epochs of training"] = np.asarray([early[arch] for arch in columns.archs])
    return found


Fit = Callable[[Mapping[str, float]], np.ndarray]  # from labels to scores [A]


def fits(columns: ep.Columns, **options: Any) -> Fit:
    return lambda labels: ep.fit(columns, labels, **options).predict(columns)[0]


def single(columns: ep.Columns, fit: Callable[..., Any]) -> Fit:
    """Return a method of ``scores``; ``ep.fit`` would fit it anew for every left-out label."""
    return lambda labels: fit(columns, columns.rows(labels), np.asarray(list(labels.values()))).score(columns)


def methods(case: Case) -> dict[str, Fit]:
    """Return the methods that are measured with every number of labels."""
    columns, sizes = case.columns, case.columns.block(SIZES)
    singles = columns.block(LOSSES, PROXIES, SIZES)
    found = {
        "fitted sizes": fits(sizes, prior=None),
        "best single column": single(singles, scores.fit_best_column),
        "rank blend": single(columns, scores.fit_blend),
        "ridge": fits(columns, method="ridge", prior=None),
        "process": fits(columns, prior=None),
        DEFAULT: fits(columns),
    }
    if columns.block(LOSSES).names:
        found = {"paper's form": single(columns, scores.fit_alpha), **found}
    if case.portfolio:
        losses = [name for name in columns.block(LOSSES).names if name not in case.portfolio]
        found[f"{DEFAULT}, portfolio"] = fits(columns.select([n for n in columns.names if n not in losses]))
    if columns.block(LOSSES).names:
        found[f"{DEFAULT}, no Eproxy"] = fits(columns.block(*set(columns.blocks) - {LOSSES}))
    return found


def ablations(case: Case) -> dict[str, Fit]:
    """Return the default with blocks of columns left out, and of one block alone."""
    columns, blocks = case.columns, [b for b in (SIZES, GRAPH, PROXIES, LOSSES) if b in case.columns.blocks]
    found = {f"without {block}": fits(columns.block(*set(blocks) - {block})) for block in blocks if block != LOSSES}
    return {**found, **{f"{block} alone": fits(columns.block(block)) for block in blocks}}


def measure(case: Case, task: str, counts: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Return one row for each number of labels and method: means and standard deviations over draws."""
    truth, most = case.truths[task], max(counts)
    kept = np.flatnonzero(np.isfinite(truth))
    functions = case.functions[kept]
    fewest = len(set(functions.tolist()))
    counts = [count for count in counts if count <= fewest // 2]
    most = max(counts)
    found: dict[tuple[int, str], list[Any]] = {}
    free = label_free(case, task)
    for seed, count in itertools.product(range(draws), counts):
        labelled, held_out = (kept[one] for one in draw_labels(functions, count, seed, most))
        labels = {case.columns.archs[i]: float(truth[i]) for i in labelled}
        chosen = methods(case) | (ablations(case) if count == MAIN else {})
        for name, fit in {**dict.fromkeys(free), **chosen}.items():
            start = time.perf_counter()
            score = free[name] if fit is None else fit(labels)
            seconds = time.perf_counter() - start
            score = np.where(np.isnan(score), -np.inf, score)
            found.setdefault((count, name), []).append((ranks.rank_quality(score[held_out], truth[held_out]), seconds))
    rows = []
    for (count, name), qualities in found.items():
        row: dict[str, Any] = {"space": case.space.name, "task": task, "labels": count, "method": name}
        for metric in METRICS:
            values = [getattr(one, metric) for one, _ in qualities]
            row[metric] = round(float(np.mean(values)), 4)
            if metric == "spearman":
                row["deviation"] = round(float(np.std(values)), 4)
        row |= {"draws": draws, "networks": len(kept), "held_out": qualities[0][0].count}
        row["settings"] = len(case.columns.block(LOSSES).names)  # of Eproxy, in all columns
        rows.append(row | {"fit_seconds": round(float(np.median([seconds for _, seconds in qualities])), 3)})
    return rows


# --- what suggest buys ---------------------------------------------------------------------------------------


def suggested(case: Case, task: str, draws: int) -> list[dict[str, Any]]:
    """Return one row for each way to choose 20 labels: all other networks of other functions are held out."""
    truth = case.truths[task]
    kept = np.flatnonzero(np.isfinite(truth))
    columns = case.columns.rows(case.columns.archs[i] for i in kept)
    place = {arch: i for i, arch in enumerate(columns.archs)}
    truth, functions = truth[kept], case.functions[kept]
    once = columns.rows(columns.archs[i] for i in np.unique(functions, return_index=True)[1])
    ways: dict[str, Callable[[int], Iterable[str]]] = {
        "random": lambda seed: [once.archs[i] for i in np.random.default_rng(seed).permutation(len(once))[:MAIN]],
        "diverse": lambda seed: ep.suggest(once, MAIN, seed=seed),
        "diverse of the better half": lambda seed: ep.suggest(once, MAIN, keep=0.5, seed=seed),
        "top": lambda seed: ep.suggest(once, MAIN, by="top"),
    }
    rows = []
    for way, choose in ways.items():
        found = []
        for seed in range(1 if way == "top" else draws):
            labelled = [place[arch] for arch in choose(seed)]
            held_out = np.flatnonzero(~np.isin(functions, functions[labelled]))
            fitted = ep.fit(columns, {columns.archs[i]: float(truth[i]) for i in labelled})
            found.append(ranks.rank_quality(fitted.predict(columns)[0][held_out], truth[held_out]))
        row = {"space": case.space.name, "task": task, "labels": MAIN, "labels_chosen": way, "method": DEFAULT}
        row |= {metric: round(float(np.mean([getattr(one, metric) for one in found])), 4) for metric in METRICS}
        rows.append(row | {"deviation": round(float(np.std([one.spearman for one in found])), 4), "draws": len(found)})
    return rows


# --- pages ---------------------------------------------------------------------------------------------------


def table(rows: Sequence[Mapping[str, Any]], key: str, metric: str = "spearman") -> str:
    """Return a table of tasks with their mean, a line for each value of a key."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = []
    for name in dict.fromkeys(row[key] for row in rows):
        own = {row["task"]: row for row in rows if row[key] == name}
        cells = {
            task: f"{own[task][metric]:.3f}" + (f" ± {own[task]['deviation']:.3f}" if metric == "spearman" else "")
            for task in tasks
            if task in own
        }
        mean = {"mean": f"{np.mean([own[task][metric] for task in own]):.3f}"} if len(tasks) > 1 else {}
        lines.append({key.replace("_", " "): name, **{task: cells.get(task, "") for task in tasks}, **mean})
    return markdown_table(lines)


def page(case: Case, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page of a space."""
    blocks = {block: case.columns.blocks.count(block) for block in dict.fromkeys(case.columns.blocks)}
    text = header(f"Rankings fitted to columns and a few labels, {case.space.name}")
    text += (
        f"{len(case.columns)} networks of {len(set(case.functions.tolist()))} functions; "
        + ", ".join(f"{count} columns of {block}" for block, count in blocks.items())
        + f". {rows[0]['draws']} draws of labels; labelled and held-out networks are disjoint as functions.\n"
    )
    plain = [row for row in rows if "labels_chosen" not in row]
    of_blocks = set(ablations(case))
    everywhere = {row["method"] for row in plain} - of_blocks
    counts = list(dict.fromkeys(row["labels"] for row in plain))
    for count in counts:
        own = [row for row in plain if row["labels"] == count and row["method"] in everywhere]
        text += f"\n## {count} labels\n\nSpearman: mean over draws ± standard deviation\n\n{table(own, 'method')}"
        if count == MAIN:
            for metric, name in (
                ("kendall_tau", "Kendall's tau"),
                ("top_precision", "Top-10 % precision"),
                ("ndcg", "nDCG"),
                ("regret", "Regret of the network ranked first, in the unit of the task"),
            ):
                text += f"\n{name}\n\n{table(own, 'method', metric)}"
    shown = [DEFAULT, *dict.fromkeys(row["method"] for row in plain if row["method"] not in everywhere)]
    shown += [f"{DEFAULT}, no Eproxy"]
    own = [row for row in plain if row["labels"] == MAIN and row["method"] in shown]
    text += f"\n## What each block of columns is worth, {MAIN} labels\n\n{table(own, 'method')}"
    if chosen := [row for row in rows if "labels_chosen" in row]:
        text += f"\n## Which {MAIN} networks to measure: `eproxy suggest` against random draws\n\n"
        text += (
            f"{table(chosen, 'labels_chosen')}\nTop-10 % precision\n\n{table(chosen, 'labels_chosen', 'top_precision')}"
        )
    return text


GOALS = {
    ("nasbench201", "cifar10"): 0.93,
    ("nasbench201", "cifar100"): 0.93,
    ("nasbench201", "imagenet16-120"): 0.91,
    ("nasbench101", "cifar10"): 0.85,
    ("transnas_micro", None): 0.75,
    ("transnas_macro", None): 0.84,
    ("nds", None): 0.84,
    ("nasbench_mr", None): 0.64,
}
BEFORE = (0.871, 0.854, 0.813, 0.811, 0.662, 0.754, 0.784, 0.421)  # the rank blend of dps_*.md, 20 labels


def summary() -> str:
    """Return the page of all pages that are there: the goals, and each task beside fitted sizes."""
    rows = [
        json.loads(line)
        for path in sorted(RESULTS.glob("fit_columns_*.jsonl"))
        if path.stem.removeprefix("fit_columns_") in POOLS  # pages of another --name stand for themselves
        for line in path.read_text().splitlines()
    ]
    rows = [row for row in rows if "labels_chosen" not in row]
    value = {(row["space"], row["task"], row["labels"], row["method"]): row["spearman"] for row in rows}
    cases = list(dict.fromkeys((row["space"], row["task"]) for row in rows))
    methods_shown = ("fitted sizes", "best single column", "rank blend", "process", f"{DEFAULT}, portfolio", DEFAULT)
    shown = {name: (MAIN, name) for name in methods_shown}
    shown_more = {f"{count} labels": (count, DEFAULT) for count in COUNTS if count > MAIN}
    text = header("Rankings fitted to columns and a few labels: all spaces")
    text += f"Spearman with {MAIN} labels, mean over draws; of several tasks the mean. A page a space has the rest.\n"
    text += f"The last columns have `{DEFAULT}` with more labels: they tell what the number of labels bounds.\n\n"
    lines = []
    for ((space, task), goal), before in zip(GOALS.items(), BEFORE, strict=True):
        own = [case for case in cases if case[0].startswith(space) and task in (None, case[1])]
        if own:
            line = {"": f"{space} {task or f'mean of {len(own)}'}", "goal": goal, "before": before}
            for name, which in {**shown, **shown_more}.items():
                found = [value[*case, *which] for case in own if (*case, *which) in value]
                line[name] = f"{np.mean(found):.3f}" if len(found) == len(own) else ""
            lines.append(line)
    text += markdown_table(lines) + "\n## Every task\n\n"
    lines = [
        {
            "space": space,
            "task": task,
            **{name: f"{value[space, task, *key]:.3f}" for name, key in shown.items() if (space, task, *key) in value},
        }
        for space, task in cases
    ]
    keys = list(dict.fromkeys(key for line in lines for key in line))
    return text + markdown_table([{key: line.get(key, "") for key in keys} for line in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=sorted(POOLS))
    parser.add_argument("--variant", default="small", help="of the configuration that the columns were made with")
    parser.add_argument("--columns", nargs="+", type=Path, help="columns.jsonl, and bank.jsonl if there is one")
    parser.add_argument("--task", nargs="+", help="some tasks; default: all")
    parser.add_argument("--name", help="of the page; default: the space")
    parser.add_argument("--num-labels", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--num-draws", type=int, default=20)
    parser.add_argument("--summary", action="store_true", help="make the page of all spaces")
    args = parser.parse_args()
    if args.summary:
        write_page("fit_columns", summary(), [])
        return
    if not args.space or not args.columns:
        parser.error("give --space and --columns, or --summary")
    space = config.space_of_config(config.load_config(config_source(args.space, args.variant)))
    case, rows = read_case(space, args.columns), []
    for task in args.task or case.truths:
        rows += measure(case, task, args.num_labels, args.num_draws)
        if len(case.columns) >= 10 * MAIN:
            rows += suggested(case, task, args.num_draws)
        write_page(f"fit_columns_{args.name or args.space}", page(case, rows), rows)


if __name__ == "__main__":
    main()
