r"""This benchmark fits Discrete Proxy Search from a loss bank and measures the ranks of held-out networks.

  python benchmarks/dps.py --space nasbench201 --num-archs 600 80 --num-settings 48
  python benchmarks/dps.py --space transnas_micro --num-archs 220 --num-settings 40
  python benchmarks/dps.py --space nasbench101 --num-archs 200 100 --num-settings 32 --pools 0
  python benchmarks/dps.py --space nds_darts nds_enas --name nds --num-archs 100 --num-settings 0 \
    --num-mutations 4 --ensemble 5

It first fills the bank under ``--workdir``, as ``eproxy bank`` does, and can resume. The bank holds A random
architectures at the ``small`` size. Its settings are plain Eproxy, settings found on other tasks (``--settings``),
mutations of plain Eproxy (``--num-mutations``) and P random ones.

Then it takes every task and every draw of labels. It fits each method on the labelled networks and measures it on all
the others. Architectures of a labelled function are left out, so that the two sets are disjoint as functions. Searches
that ``eproxy dps`` ran (``--searches runs/dps-*``) get their own rows.

Several spaces make one page with the mean over all tasks. The script writes benchmarks/results/dps_NAME.md, .jsonl and
.png, and the proxies of the first draw to eproxy_jax/found. It needs the benchmark data (EPROXY_DATA, default
../shared/data).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import (
    DATA,
    POOLS,
    RESULTS,
    ROOT,
    config_source,
    draw_archs,
    draw_labels,
    header,
    markdown_table,
    task_name,
    write_page,
)

import eproxy_jax as ep
from eproxy_jax import images, ranks, spaces
from eproxy_jax.cli import config
from eproxy_jax.cli.common import read_proxy
from eproxy_jax.dps import fitted, loss_bank, selection
from eproxy_jax.execution.execution import Execution
from eproxy_jax.runs.truth import read_truth

# Validation accuracy after 12 epochs, if the data has it, as early stopping would use it.
EARLY_STOPPING = {
    "cifar10valid": ("nasbench201/mini_nb201_12epochs.csv", "cifar10-val"),
    "cifar100": ("nasbench201/mini_nb201_12epochs.csv", "cifar100-val"),
    "tinyimagenet": ("nasbench201/mini_nb201_12epochs.csv", "imagenet-val"),
}
LABEL_COUNTS = (5, 10, 20, 50, 100)
MACS_ALONE = tuple((macs, params) for macs, params in selection.SHARES if params == 0)
ALPHAS = tuple(n / 10 for n in range(-5, 6))
FOUND = ROOT / "eproxy_jax" / "found"
SHOWN = ("Spearman", "tau", "top-10 %", "regret")


class Matrix:
    """The losses of a bank as arrays over the sampled architectures; NaN for disconnected networks."""

    def __init__(self, spec: config.RunSpec, archs: list[Any], path: Path, steps: int):
        space = spec.space
        bank_spec = loss_bank.BankSpec(
            space, spec.genes, images.standardize(spec.images), spec.weight_seed, spec.settings.num_steps
        )
        with loss_bank.LossBank(path, bank_spec.identity(Execution.of())) as bank:
            self.functions = np.asarray(bank.columns(space, archs))
            self.connected = np.asarray([space.is_connected(arch) for arch in archs])
            used = np.unique(self.functions[self.connected])
            done = np.flatnonzero(bank.computed()[:, used].all(1))
            self.genes = [bank.genes[p] for p in done]
            final = bank.losses(steps)[done][..., -1]
        self.losses = np.where(self.connected, final[:, self.functions], np.nan)
        self.diverged = int((~np.isfinite(final[:, used])).sum())
        self.macs = np.asarray([space.macs(arch) for arch in archs])
        self.params = np.asarray([space.params(arch) for arch in archs])
        self.sizes = spaces.size_measures(space, archs)
        self.alpha = selection.score_matrix(self.losses, spaces.macs_fractions(space, archs), ALPHAS)


def fittest(fitness: np.ndarray, count: int) -> list[int]:
    """Return the ``count`` fittest settings, best first, without those that diverged on a label."""
    return [p for p, _ in selection.best_members(fitness[:, None], count)]


def fit_all(m: Matrix, truth: np.ndarray, labelled: np.ndarray, held_out: np.ndarray, ensemble: int) -> dict[str, Any]:
    """Fit every method on the labelled architectures; returns the scores of the held-out ones.

    A disconnected network ranks last in every method but by sizes as written, and its label is left out.
    """
    labelled, connected = labelled[m.connected[labelled]], m.connected[held_out]
    target = truth[labelled]
    losses, sizes = m.losses[:, labelled], m.sizes[:, labelled]
    signed = selection.signs(sizes, target)[:, None] * m.sizes[:, held_out]
    fitted_macs, fitted_params = np.where(connected, signed, -np.inf)
    by_alpha = selection.fitness(m.alpha[..., labelled], losses, target)
    weights, fitness = fitted.fit_weights(losses, sizes, target)
    order = fittest(fitness, ensemble)
    unseen = m.losses[:, held_out], m.sizes[:, held_out]
    seen = m.losses[:, held_out[connected]], m.sizes[:, held_out[connected]]
    hindsight, bound = fitted.fit_weights(*seen, truth[held_out[connected]])
    # Mean shares are no bound if sizes alone rank best. The best setting with its best shares is the bound.
    blends = selection.rank_blends(unseen[0][fittest(bound, 1)], unseen[1])[0]
    blends = np.where(connected, blends, -np.inf)
    share = selection.best_blend(ranks.spearman_rows(blends, truth[held_out]))
    macs_weights, macs_fitness = fitted.fit_weights(losses, sizes, target, MACS_ALONE)
    (best, k), *_ = alpha_members = selection.best_members(by_alpha, ensemble)

    def together(chosen: list[int], weights: np.ndarray) -> np.ndarray:
        members = tuple(fitted.Member(config.ProxySettings(), *weights[p].tolist()) for p in chosen)
        return fitted.FittedProxy(members).scores(unseen[0][chosen], unseen[1], connected=connected)

    alpha = ALPHAS.index(0.0)
    return {
        "MACs": m.macs[held_out],
        "parameters": m.params[held_out],
        "MACs, fitted": fitted_macs,
        "parameters, fitted": fitted_params,
        "plain Eproxy": m.alpha[0, alpha][held_out],
        "plain Eproxy, fitted alpha": m.alpha[0, int(np.argmax(by_alpha[0]))][held_out],
        "best setting, alpha (paper's form)": m.alpha[best, k][held_out],
        f"{ensemble} settings, alpha": selection.mean_rank(m.alpha[..., held_out], alpha_members),
        "plain Eproxy, fitted rank blend": together([0], weights),
        "best setting, rank blend": together(order[:1], weights),
        f"{ensemble} settings, rank blend of MACs alone": together(fittest(macs_fitness, ensemble), macs_weights),
        f"{ensemble} settings, rank blend": together(order, weights),
        f"{ensemble} settings, rank blend, fitted to the held-out ones": together(fittest(bound, ensemble), hindsight),
        "best setting and shares for the held-out ones: the bound of one setting": blends[share],
    }


def found_proxy(m: Matrix, spec: Any, truth: np.ndarray, labelled: np.ndarray, ensemble: int) -> fitted.FittedProxy:
    """Return the proxy of the method ``K settings, rank blend``."""
    weights, fitness = fitted.fit_weights(m.losses[:, labelled], m.sizes[:, labelled], truth[labelled])
    table = spec.search.genes_with_effect(spec.genes)
    chosen = fittest(fitness, ensemble)
    return fitted.FittedProxy(tuple(fitted.Member(table.decode(m.genes[p]), *weights[p].tolist()) for p in chosen))


def summary(rows: list[ranks.RankQuality]) -> dict[str, str]:
    columns = [("spearman", 3), ("kendall_tau", 3), ("top_precision", 2), ("regret", 2)]
    out = {}
    for (field, digits), name in zip(columns, SHOWN, strict=True):
        values = [getattr(row, field) for row in rows]
        out[name] = f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.{digits}f}"
    return out


def searches_of(folders: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Read the records of finished ``eproxy dps`` runs, by name of the truth file."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        record = json.loads((Path(folder) / "search.json").read_text())
        words = record["command"].split()
        found.setdefault(Path(words[words.index("--truth") + 1]).stem, []).append(record)
    return found


def fill_bank(arguments: argparse.Namespace, spec: config.RunSpec, file: str, path: Path) -> list[Any]:
    """Train the missing entries of the bank; returns the architectures."""
    batch = images.standardize(spec.images)
    bank_spec = loss_bank.BankSpec(spec.space, spec.genes, batch, spec.weight_seed, spec.settings.num_steps)
    known = [spec.settings]
    for found in arguments.settings:
        known += [member.settings for member in read_proxy(Path(found)).members]
    genomes = [spec.genes.encode(settings) for settings in known]
    counts = (arguments.num_mutations, arguments.num_settings)
    settings = loss_bank.settings_to_try(spec.genes, genomes, spec.search.mutation_rate, *counts)
    ways = Execution.of(chunk_size=loss_bank.CHUNK * len(jax.local_devices()))
    drawn: dict[Any, None] = {}
    with loss_bank.LossBank(path, bank_spec.identity(ways)) as bank:
        for seed, count in enumerate(arguments.num_archs):
            archs = draw_archs(spec.space, file, count, seed)
            loss_bank.fill(bank, bank_spec, settings, archs, ways, loss_bank.show_progress())
            drawn |= dict.fromkeys(archs)
    return list(drawn)


def task_rows(
    arguments: argparse.Namespace,
    spec: config.RunSpec,
    m: Matrix,
    archs: list[Any],
    file: str,
    searches: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return one row per method on one task, and the points of its label-efficiency curve."""
    truth_by_arch = read_truth(DATA / file, spec.space)
    truth, task = np.asarray([truth_by_arch[arch] for arch in archs]), Path(file).stem
    early = None
    if task in EARLY_STOPPING:
        name, column = EARLY_STOPPING[task]
        by_arch = read_truth(DATA / name, spec.space, column)
        early = np.asarray([by_arch[arch] for arch in archs])
    quality: dict[str, list[ranks.RankQuality]] = {}
    for seed in range(arguments.draws):
        labelled, held_out = draw_labels(m.functions, arguments.num_labels, seed, arguments.num_labels)
        scores = fit_all(m, truth, labelled, held_out, arguments.ensemble)
        if early is not None:
            scores["12 epochs of training"] = early[held_out]
        if seed == 0:
            proxy = found_proxy(m, spec, truth, labelled, arguments.ensemble)
            kept = FOUND / spec.space.name / f"{task_name(spec.space.name, file)}.json"
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(proxy.to_dict(), separators=(",", ":")) + "\n")
        for method, score in scores.items():
            quality.setdefault(method, []).append(ranks.rank_quality(score, truth[held_out]))

    def row(method: str, found: list[ranks.RankQuality]) -> dict[str, Any]:
        return {"task": task, "method": method, "draws": len(found), "held out": found[0].count, **summary(found)}

    rows = [row(method, found) for method, found in quality.items()]
    for method in ("evolution", "random"):
        for name in (method, f"{method} x"):
            found = [
                ranks.RankQuality(**values)
                for record in searches
                for key, values in record["evaluation"].items()
                if (key == name if name == method else key.startswith(name))
            ]
            if found:
                label = f"eproxy dps, {searches[0]['evaluations']} {method}"
                rows.append(row(label + (", settings together" if name != method else ""), found))
    most = max(n for n in LABEL_COUNTS if n <= len(archs) // 3)
    curve = []
    for count in (n for n in LABEL_COUNTS if n <= most):
        by_method: dict[str, list[float]] = {}
        for seed in range(arguments.draws):
            labelled, held_out = draw_labels(m.functions, count, seed, most)
            for method, score in fit_all(m, truth, labelled, held_out, arguments.ensemble).items():
                by_method.setdefault(method, []).append(ranks.rank_quality(score, truth[held_out]).spearman)
        curve += [
            {
                "task": task,
                "labels": count,
                "method": method,
                "mean": float(np.mean(v)),
                "spread": float(np.std(v, ddof=1)),
            }
            for method, v in by_method.items()
        ]
    return rows, curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", nargs="+", default=["nasbench201"], choices=POOLS)
    parser.add_argument("--name", help="of the page; the space's")
    parser.add_argument("--variant", default="small")
    parser.add_argument("--num-archs", type=int, nargs="+", default=[600], help="sizes of samples of seed 0, 1, ...")
    parser.add_argument("--num-settings", type=int, default=48)
    parser.add_argument("--num-mutations", type=int, default=0, help="of plain Eproxy's settings")
    parser.add_argument("--settings", nargs="*", default=[], help="files of settings found on other tasks")
    parser.add_argument("--num-labels", type=int, default=20)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--ensemble", type=int, default=8)
    parser.add_argument("--workdir", default="runs/bank")
    parser.add_argument("--pools", type=int, nargs="+", help="which of the space's lists of architectures; all")
    parser.add_argument("--searches", nargs="*", default=[], help="folders of finished eproxy dps runs")
    arguments = parser.parse_args()
    ep.configure()
    rows, curve, matrices = [], [], []
    searches = searches_of(arguments.searches)
    for space in arguments.space:
        spec = config.build(config.load_config(config_source(space, arguments.variant)))
        path = Path(arguments.workdir) / f"{space}-{arguments.variant}.jsonl"
        pools = POOLS[space]
        for pool in pools if arguments.pools is None else [pools[i] for i in arguments.pools]:
            archs = fill_bank(arguments, spec, pool[0], path)
            m = Matrix(spec, archs, path, spec.settings.num_steps)
            for file in pool:
                more, points = task_rows(arguments, spec, m, archs, file, searches.get(Path(file).stem, []))
                rows += more
                curve += points
            matrices.append(m)
    write(arguments, matrices, rows, curve)


def summary_table(rows: list[dict[str, Any]]) -> str:
    """Make a table: Spearman of every method on every task, and the mean over tasks."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["task"]: row["Spearman"].split()[0] for row in rows if row["method"] == method}
        if len(own) == len(tasks):
            table.append({"method": method, **own, "mean": f"{np.mean([float(v) for v in own.values()]):.3f}"})
    return markdown_table(table)


def write(
    arguments: argparse.Namespace, matrices: list[Matrix], rows: list[dict[str, Any]], curve: list[dict[str, Any]]
) -> None:
    """Write the page, its JSON lines, and the label-efficiency figure."""
    name = f"dps_{arguments.name or arguments.space[0]}"
    text = header(f"Discrete Proxy Search on {', '.join(arguments.space)} ({arguments.variant})")
    text += "Bank: " + "; ".join(
        f"{len(m.losses)} settings (plain Eproxy first) x {len(np.unique(m.functions))} "
        f"distinct functions of {len(m.functions)} random architectures, {m.diverged} trainings diverged"
        for m in matrices
    )
    text += (
        f"; weight seed 0. {arguments.num_labels} labels a draw, mean and standard deviation over the draws; labelled "
        "and held-out architectures are disjoint as functions. Choosing out of the bank is a random search of "
        f"{len(matrices[0].losses)} settings. MACs and parameters: of the backbone that is scored, as written; fitted, "
        "and in rank blends: of the network that the benchmark trains, without dead edges, sign or share by the "
        "labels. The last two fits know the held-out architectures' values: what is lost to them is lost by having few "
        "labels, what they lack to 1 no such choice of settings and shares out of this bank can give.\n\n"
    )
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    if len(tasks) > 1:
        text += f"## Spearman, all tasks\n\n{summary_table(rows)}\n"
    for task in tasks:
        text += f"## {task}\n\n"
        text += (
            markdown_table([{k: v for k, v in row.items() if k != "task"} for row in rows if row["task"] == task])
            + "\n"
        )
    methods = [f"{arguments.ensemble} settings, rank blend", "best setting, alpha (paper's form)", "MACs, fitted"]
    text += "## Spearman against the number of labels\n\n"
    table = []
    for task in dict.fromkeys(row["task"] for row in curve):
        for method in methods:
            own = {row["labels"]: row for row in curve if row["task"] == task and row["method"] == method}
            cells = {str(n): f"{row['mean']:.3f} ± {row['spread']:.3f}" for n, row in own.items()}
            table.append({"task": task, "method": method, **cells})
    text += markdown_table(table) + f"\n![Spearman against labels]({name}.png)\n"
    plot(RESULTS / f"{name}.png", curve, methods)
    write_page(name, text, [*rows, *curve])


def plot(path: Path, curve: list[dict[str, Any]], methods: list[str]) -> None:
    """Draw Spearman against the number of labels, one panel per task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(row["task"] for row in curve))
    figure = Figure(figsize=(3.2 * min(len(tasks), 4), 3.0 * -(-len(tasks) // 4)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.ravel(figure.subplots(-(-len(tasks) // 4), min(len(tasks), 4), sharey=True, squeeze=False))
    for axes, task in zip(panels, tasks, strict=False):
        for method in methods:
            own = [row for row in curve if row["task"] == task and row["method"] == method]
            labels, mean = [row["labels"] for row in own], np.asarray([row["mean"] for row in own])
            spread = np.asarray([row["spread"] for row in own])
            (line,) = axes.plot(labels, mean, marker="o", markersize=3, label=method)
            axes.fill_between(labels, mean - spread, mean + spread, color=line.get_color(), alpha=0.15)
        axes.set_xscale("log")
        counts = sorted({row["labels"] for row in curve if row["task"] == task})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("labels")
    for axes in panels[len(tasks) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("Spearman, held out")
    panels[0].legend(fontsize=6)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
