r"""This benchmark plays searches against tables of trained networks, and counts queries: each measures one network.

  python benchmarks/search.py --benchmark nasbench201 --num-seeds 10 --queries 10 20 50
  python benchmarks/search.py --benchmark transnas_micro --num-seeds 10 --queries 10 20 50
  python benchmarks/search.py --benchmark nasbench201 --latency edgegpu_latency --num-seeds 10
  python benchmarks/search.py --benchmark nasbench201 --columns runs/cheap/columns.jsonl --epochs 12
  python benchmarks/search.py --benchmark nasbench101 --no-proxies

The columns are sizes, graph counts, and proxies that an independent implementation computed (``proxy_scores`` below
EPROXY_DATA); ``--columns`` reads files of ``eproxy score --proxy`` instead of the stored proxies. The candidates are
the networks that have such columns: for NAS-Bench-201 those of 9,445 cells. ``--no-proxies`` takes all networks of the
table, with sizes and graph counts alone.

NAS-Bench-201: what is asked for is the validation accuracy, after 200 epochs or, with ``--epochs 12``, after 12. The
regret is in TEST accuracy after 200 epochs, of the best queried network by what was asked for: against the best of all
15,625, and against the best of the candidates. TransNAS: the rank of the best queried network by validation, among the
candidates and among all. NAS-Bench-101: the regret in validation accuracy among the 20,001 networks of the table.

``--latency`` searches for fronts of validation accuracy and a column of ``hw_*.csv``, which is known of all candidates.
The measure is the hypervolume reached, as a share of that of all candidates. Its reference is the largest latency and
the median accuracy: from the worst accuracy, any good network alone would reach nearly all of it.

It writes benchmarks/results/search_BENCHMARK.md, .jsonl and .png. Ten seeds take about five minutes a task on one core.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import stored
from common import DATA, POOLS, RESULTS, header, markdown_table, task_name, write_page
from proxies import read_columns

import eproxy_jax as ep
from eproxy_jax import search, spaces
from eproxy_jax.runs.gathering import of_space

_TEST = {"cifar10valid": "CIFAR10", "cifar100": "CIFAR100", "tinyimagenet": "ImageNet"}
_HARDWARE = {"cifar10valid": "cifar10", "cifar100": "cifar100", "tinyimagenet": "ImageNet16-120"}
_EARLY = {"cifar10valid": "cifar10", "cifar100": "cifar100", "tinyimagenet": "imagenet"}  # columns after 12 epochs
_OF_SPACE = ("macs", "params", "macs_as_written", "params_as_written")
_DRAW_NOTHING = ("rank sum", "MACs")
BEST = "the best of all candidates by what is queried"
SHARE = "share of the hypervolume"
STRATEGIES: dict[str, search.Strategy] = {
    "process": search.Process(),
    "rank sum": search.ByProxy(),
    "MACs": search.ByProxy(("macs",)),
    "evolution": search.Evolution(),
    "random": search.Random(),
}


@dataclasses.dataclass(frozen=True)
class Game:
    """One task to play.

    Attributes:
      task: its name.
      columns: columns of the candidates.
      values: what a query answers, by architecture.
      costs: what is reported of an architecture, lower is better, by the name of the measure.
    """

    task: str
    columns: ep.Columns
    values: dict[str, float]
    costs: dict[str, dict[str, float]]


def games(benchmark: str, proxies: bool, files: Sequence[str], epochs: int = 200) -> Iterator[Game]:
    """Yield the tasks of a benchmark."""
    space = spaces.get(benchmark)
    for task, values, own_proxies in TABLES[benchmark](space, epochs):
        if proxies and not files:
            columns = own_proxies()
        else:
            own = own_columns(space, files) if files else of_space(space, list(map(space.parse, values))).columns
            rows = spelled_in(space, own, list(values))
            columns = dataclasses.replace(own.rows(rows), archs=tuple(rows.values()))
        if benchmark == "nasbench201":
            regrets = _test_regrets(space, task)
            best = min(regrets[arch] for arch in columns.archs)
            among = {arch: value - best for arch, value in regrets.items()}
            costs = {"test regret, %": regrets, "test regret among the candidates, %": among}
        elif benchmark == "nasbench101":
            costs = {"regret, %": {arch: max(values.values()) - value for arch, value in values.items()}}
        else:
            pool = sorted((values[arch] for arch in columns.archs), reverse=True)
            costs = {"rank among the candidates": _ranks(values, pool), "rank among all": _ranks(values, None)}
        yield Game(task, columns, values, costs)


def _nasbench201(space: spaces.SearchSpace, epochs: int) -> Iterator[tuple[str, dict[str, float], Any]]:
    for file in POOLS["nasbench201"][0]:
        task = next(own for own in _TEST if own in file)
        values = stored.read_truth(space, file) if epochs == 200 else _after_12_epochs(space, task)
        yield task, values, lambda task=task: stored.nasbench201_columns(space, task)


def _after_12_epochs(space: spaces.SearchSpace, task: str) -> dict[str, float]:
    with (DATA / "nasbench201" / "mini_nb201_12epochs.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {space.format(space.parse(row["cellstr"])): float(row[f"{_EARLY[task]}-val"]) for row in rows}


def _nasbench101(space: spaces.SearchSpace, epochs: int) -> Iterator[tuple[str, dict[str, float], Any]]:
    """Yield the 20,001 networks of the table."""
    del epochs
    table = json.loads((DATA / "nasbench101" / "nb101_20k.json").read_text())
    place = next(i for i, name in enumerate(table["fields"]) if name.startswith("val_acc_108ep"))
    (rows,) = [rows for name, rows in table.items() if name != "fields"]
    values = {space.format(space.parse(row[1])): 100 * float(row[place]) for row in rows}
    yield "cifar10", values, None


def _transnas(space: spaces.SearchSpace, epochs: int) -> Iterator[tuple[str, dict[str, float], Any]]:
    del epochs
    size = space.name.removeprefix("transnas_")
    scores = json.loads((DATA / "proxy_scores" / f"zc_transbench101_{size}.json").read_text())
    for file in POOLS[space.name][0]:
        task, values = task_name(space.name, file), stored.read_truth(space, file)
        rows = scores[task]

        def columns(rows: Any = rows) -> ep.Columns:
            return stored.columns_of(space, list(rows), list(rows.values()))

        yield task, values, columns


TABLES: dict[str, Callable[[Any, int], Iterator[tuple[str, dict[str, float], Any]]]] = {
    "nasbench201": _nasbench201,
    "nasbench101": _nasbench101,
    "transnas_micro": _transnas,
    "transnas_macro": _transnas,
}


def own_columns(space: spaces.SearchSpace, files: Sequence[str], without: Sequence[str] = ()) -> ep.Columns:
    """Return the columns of files of ``eproxy score --proxy``, by canonical string, with sizes and graph counts.

    Args:
      space: the search space.
      files: the files; a column that is absent for an architecture is unknown there.
      without: columns to leave out.
    """
    found: dict[str, dict[str, float]] = {}
    for file in files:
        for arch, row in read_columns(Path(file)).items():
            found.setdefault(space.format(space.canonical(space.parse(arch))), {}).update(row)
    left_out = {*_OF_SPACE, *without}
    names = [name for name in dict.fromkeys(name for row in found.values() for name in row) if name not in left_out]
    columns = of_space(space, list(map(space.parse, found))).columns
    rows = [found[arch] for arch in columns.archs]
    return columns.join(ep.Columns.of(columns.archs, {name: [row.get(name, np.nan) for row in rows] for name in names}))


def spelled_in(space: spaces.SearchSpace, columns: ep.Columns, texts: Sequence[str]) -> dict[str, str]:
    """Return how a table spells the rows of columns, by canonical string; rows that it lacks are left out."""
    known, found = set(columns.archs), {}
    for text in texts:
        if (key := space.format(space.canonical(space.parse(text)))) in known:
            found.setdefault(key, text)
    return found


def _test_regrets(space: spaces.SearchSpace, task: str) -> dict[str, float]:
    name = _TEST[task]
    with (DATA / "nasbench201" / "test_accuracy_200ep.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    test = {space.format(space.parse(r["ArchitectureString"])): float(r[f"{name}TestAccuracy200Epochs"]) for r in rows}
    best = max(test.values())
    return {arch: best - value for arch, value in test.items()}


def _ranks(values: dict[str, float], among: Sequence[float] | None) -> dict[str, float]:
    ascending = np.sort(list(values.values()) if among is None else among)
    above = len(ascending) - np.searchsorted(ascending, list(values.values()), side="right")
    return dict(zip(values, (1.0 + above).tolist(), strict=True))


def play(state: search.State, game: Game, most: int) -> list[str]:
    """Return the best architecture so far after each query, by what queries answer."""
    found: list[str] = []
    for _ in range(most):
        archs, state = search.ask(state)
        state = search.tell(state, archs, [game.values[arch] for arch in archs])
        assert state.best is not None
        found.append(state.best.arch)
    return found


def measure(space: spaces.SearchSpace, game: Game, seeds: int, most: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the costs after each query, [seeds, most], by measure and strategy."""
    start = search.init(space, game.columns, "random")
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, strategy in STRATEGIES.items():
        runs = [
            play(dataclasses.replace(start, strategy=strategy, seed=seed), game, most)
            for seed in range(1 if name in _DRAW_NOTHING else seeds)
        ]
        for what, costs in game.costs.items():
            found.setdefault(what, {})[name] = np.asarray([[costs[arch] for arch in run] for run in runs])
        print(game.task, name, {what: own[name][:, -1].mean().round(3) for what, own in found.items()}, flush=True)
    problem = start.problem
    assert problem.columns is not None
    best = max((problem.columns.archs[row] for row in np.flatnonzero(problem.feasible)), key=game.values.__getitem__)
    for what, costs in game.costs.items():
        found[what][BEST] = np.full((1, most), costs[best])
    return found


def measure_fronts(
    space: spaces.SearchSpace, game: Game, latency: str, seeds: int, most: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return the share of the hypervolume after each query, [seeds, most], by measure and strategy."""
    file = DATA / "nasbench201" / f"hw_{_HARDWARE[game.task]}.csv"
    strings = {row["net"]: row["net_str"] for row in stored.read_rows("nb201_zc_proxies.csv")}
    with file.open(newline="") as lines:
        rows = {strings[row["net"]]: float(row[latency]) for row in csv.DictReader(lines) if row["net"] in strings}
    known = {space.format(space.parse(arch)): value for arch, value in rows.items()}
    archs = [arch for arch in game.columns.archs if arch in known]
    times = ep.Columns.of(archs, {latency: [known[arch] for arch in archs]}, "sizes")
    columns = game.columns.rows(archs).join(times)
    start = search.init(space, columns, "random", objectives=("value", f"-{latency}"))
    assert start.problem.columns is not None
    rows_of = start.problem.columns
    every = np.asarray([[game.values[arch], -known[arch]] for arch in rows_of.archs])
    reference = (float(np.median(every[:, 0])), float(every[:, 1].min()))
    whole = search.hypervolume(every, reference)
    found: dict[str, np.ndarray] = {}
    for name, strategy in STRATEGIES.items():
        runs = []
        for seed in range(1 if name in _DRAW_NOTHING else seeds):
            state, shares = dataclasses.replace(start, strategy=strategy, seed=seed), []
            for _ in range(most):
                (arch,), state = search.ask(state)
                state = search.tell(state, [arch], [game.values[arch]])
                shares.append(search.hypervolume(state.objective_values(), reference) / whole)
            runs.append(shares)
        found[name] = np.asarray(runs)
        print(game.task, name, found[name][:, -1].mean().round(4), flush=True)
    return {SHARE: found}


def draw(name: str, curves: dict[str, dict[str, np.ndarray]], what: str) -> None:
    """Draw the mean costs against queries, a panel a task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (task, own) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        for color, (strategy, costs) in enumerate(own.items()):
            queries, mean = np.arange(1, costs.shape[1] + 1), costs.mean(0)
            axes.plot(queries, mean, color=f"C{color}", label=strategy)
            low, high = np.quantile(costs, [0.1, 0.9], axis=0)
            axes.fill_between(queries, low, high, color=f"C{color}", alpha=0.12, linewidth=0)
        if what != SHARE:
            axes.set_yscale("symlog", linthresh=0.1 if "regret" in what else 1)
        axes.set_xlabel("queries")
        axes.set_ylabel(what)
        axes.set_title(task, fontsize=10)
    figure.axes[0].legend(fontsize=8)
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)


def page(args: argparse.Namespace, name: str, sizes: dict[str, tuple[int, int]], curves: Any) -> str:
    """Return the page of the tasks that are finished."""
    text = header(f"Searches with few queries, {args.benchmark}")
    text += f"Mean ± standard deviation over {args.num_seeds} seeds; rank sum and MACs draw nothing. "
    if args.epochs != 200:
        text += f"A query answers the validation accuracy after {args.epochs} epochs. "
    text += f"Candidates and columns: {', '.join(f'{task} {a:,} and {c}' for task, (a, c) in sizes.items())}.\n"
    for what, tasks in curves.items():
        digits = 3 if what == SHARE else 2
        for count in args.queries:
            table = []
            for strategy in next(iter(tasks.values())):
                ends = [own[strategy][:, count - 1] for own in tasks.values()]
                cells = {
                    task: f"{e.mean():.{digits}f} ± {e.std():.{digits}f}" for task, e in zip(tasks, ends, strict=True)
                }
                mean = np.mean([end.mean() for end in ends])
                table.append({"strategy": strategy, **cells, "mean": f"{mean:.{digits}f}"})
            text += f"\n## {what}, after {count} queries\n\n{markdown_table(table)}"
    first = next(iter(curves))
    return text + f"\n![{first} against queries; bands from the 10th to the 90th percentile of seeds]({name}.png)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=list(TABLES), required=True)
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--queries", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--columns", nargs="+", default=[], metavar="FILE", help="files of eproxy score --proxy")
    parser.add_argument("--no-proxies", action="store_true", help="all networks, with sizes and graph counts alone")
    parser.add_argument("--epochs", type=int, choices=[12, 200], default=200, help="of what a query answers")
    parser.add_argument("--latency", metavar="COLUMN", help="of hw_*.csv: search for fronts (nasbench201)")
    args = parser.parse_args()
    if args.benchmark == "nasbench101" and not (args.no_proxies or args.columns):
        parser.error("nasbench101: the stored proxies are of other networks: give --no-proxies or --columns FILE")
    if args.benchmark != "nasbench201" and (args.latency or args.epochs != 200):
        parser.error("--latency and --epochs: only for nasbench201")
    space = spaces.get(args.benchmark)
    name = f"search_{args.benchmark}" + "_no_proxies" * args.no_proxies + "_columns" * bool(args.columns)
    name += f"_{args.epochs}epochs" * (args.epochs != 200) + (f"_{args.latency}" if args.latency else "")
    rows: list[dict[str, Any]] = []
    curves: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    sizes = {}
    for game in games(args.benchmark, not args.no_proxies, args.columns, args.epochs):
        sizes[game.task] = len(game.columns), len(game.columns.names)
        seeds, most = args.num_seeds, max(args.queries)
        if args.latency:
            measured = measure_fronts(space, game, args.latency, seeds, most)
        else:
            measured = measure(space, game, seeds, most)
        for what, own in measured.items():
            curves.setdefault(what, {})[game.task] = own
            for strategy, costs in own.items():
                for seed, run in enumerate(costs):
                    at = {f"after {count}": round(float(run[count - 1]), 4) for count in args.queries}
                    rows.append({"task": game.task, "measure": what, "strategy": strategy, "seed": seed, **at})
        first = next(iter(curves))
        draw(name, curves[first], first)
        write_page(name, page(args, name, sizes, curves), rows)  # as tasks finish


if __name__ == "__main__":
    main()
