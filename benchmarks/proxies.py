"""This benchmark ranks networks of a benchmark by every proxy, and sums of ranks, without any label.

  python benchmarks/proxies.py --space nasbench201 --num-archs 1000 --proxy all
  python benchmarks/proxies.py --space nds_darts --variant small --num-archs 120 --proxy all

It computes the columns (resumable: WORKDIR/columns.jsonl, where the proxy file of ``eproxy score`` lies as well), and
compares each with the measured values of every task (EPROXY_DATA, default ../shared/data) by Spearman's correlation.
Architectures are drawn at random from the benchmark's list (NAS-Bench-201: the 9,445 strings without unreachable
duplicates), and each task has two figures: over the architectures as listed, and with each function once. ``rank_sum``
was chosen on NAS-Bench-201 with CIFAR-10
alone; everywhere else it is shown as it is. Columns of other implementations stand beside ours where EPROXY_DATA has
them (proxy_scores). The figure shows the rank correlations between the columns.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import DATA, POOLS, RESULTS, ROOT, config_source, header, markdown_table, page_name, task_name, write_page
from scipy import stats

PEER_NAMES = {"nwot": "naswot", "flops": "macs"}  # their name -> ours
PEER_FILES = {
    "nasbench101": "zc_nasbench101.json",
    "transnas_micro": "zc_transbench101_micro.json",
    "transnas_macro": "zc_transbench101_macro.json",
}


def peer_scores(space: Any) -> Iterator[tuple[str, dict[Any, dict[str, float]]]]:
    """Yield (images, columns by canonical architecture) of an independent implementation."""
    folder = DATA / "proxy_scores"
    if space.name == "nasbench201":
        for task, name in (("cifar10", ""), ("imagenet16-120", "ImageNet16-120_")):
            with (folder / f"nb201_{name}zc_proxies.csv").open() as file:
                rows = list(csv.DictReader(file))
            yield task, {space.canonical(space.parse(row["net"])): _numbers(row) for row in rows}
    if space.name in PEER_FILES:
        tasks = json.loads((folder / PEER_FILES[space.name]).read_text())
        for task, rows in tasks.get(space.name, tasks).items():
            known = {}
            for arch, row in rows.items():
                scores = {k: v["score"] if isinstance(v, dict) else v for k, v in row.items()}
                known[space.canonical(space.parse(arch))] = _numbers(scores)
            yield task, known


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    found = {}
    for name, value in row.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        found[PEER_NAMES.get(name, name)] = number if np.isfinite(number) else -np.inf
    return found


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's correlation; values that are not finite share the last rank."""
    x = stats.rankdata(np.where(np.isfinite(x), x, -np.inf))
    return float(np.corrcoef(x, stats.rankdata(y))[0, 1]) if np.ptp(x) else 0.0


def draw(path: Path, names: list[str], columns: np.ndarray, title: str) -> None:
    """Draw the rank correlations between columns [C, A] as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = np.asarray([[spearman(a, b) for b in columns] for a in columns])
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = axes.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            dark = abs(value) > 0.6
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=6, color="white" if dark else "black")
    figure.colorbar(shown, label="Spearman correlation")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})


def read_columns(path: Path) -> dict[str, dict[str, float]]:
    """Return the columns of a file of ``eproxy score --proxy`` by architecture's string; null is -inf."""
    found: dict[str, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        values = {k: v for k, v in row.items() if v is None or isinstance(v, (int, float))}
        found.setdefault(row["arch"], {}).update({k: -np.inf if v is None else v for k, v in values.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201", choices=sorted(POOLS))
    parser.add_argument("--variant", default="paper")
    parser.add_argument("--num-archs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--proxy", default="all", help="comma-separated names, as of eproxy score")
    parser.add_argument("--images", help="FILE.npz of images and labels; made by code by default")
    parser.add_argument("--workdir", type=Path, help="default runs/proxies_SPACE")
    parser.add_argument("--read", type=Path, nargs="*", help="files of columns that exist; then nothing is computed")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    import eproxy_jax as ep
    from eproxy_jax.cli import config
    from eproxy_jax.proxies.aggregates import AGGREGATES
    from eproxy_jax.runs.truth import match, read_truth

    loaded = config.load_config(config_source(arguments.space, arguments.variant))
    space, size = config.space_of_config(loaded), loaded.images.size
    workdir = arguments.workdir or ROOT / "runs" / page_name("proxies", arguments.space, arguments.variant)
    record: dict[str, Any] = {}
    archs = drawn(space, arguments.num_archs, arguments.seed)
    if arguments.read:
        known: dict[str, dict[str, float]] = {}
        for path in arguments.read:
            for arch, values in read_columns(path).items():
                known.setdefault(arch, {}).update(values)
    else:
        labels, images = None, ep.default_images(num=128, size=size)
        if arguments.images:
            loaded_images = ep.load_labelled(arguments.images, 128, 0, size)
            images, labels = loaded_images.images, loaded_images.labels
        ep.runs.score_columns(archs, space, arguments.proxy, images, labels=labels, workdir=workdir)
        known = read_columns(workdir / "columns.jsonl")
        record = json.loads((workdir / "columns.run.json").read_text())
    of_function = {space.canonical(space.parse(text)): values for text, values in known.items()}
    archs = [arch for arch in archs if space.canonical(arch) in of_function]
    values_of = [of_function[space.canonical(arch)] for arch in archs]
    once = np.zeros(len(archs), bool)
    once[np.unique([list(of_function).index(space.canonical(arch)) for arch in archs], return_index=True)[1]] = True
    names = [n for n in dict.fromkeys(n for row in known.values() for n in row) if not n.endswith("_as_written")]
    columns = {n: np.asarray([values.get(n, np.nan) for values in values_of]) for n in names}
    columns |= {"MACs as written": np.asarray([space.macs(arch) for arch in archs], float)}
    columns |= {"parameters as written": np.asarray([space.params(arch) for arch in archs], float)}
    complete = [n for n in columns if not np.isnan(columns[n]).any()]
    sums = {n: cs for n, cs in AGGREGATES.items() if set(cs) <= set(columns)}

    truths = {}
    for pool in POOLS[arguments.space]:
        for file in pool:
            truth = match(archs, read_truth(DATA / file, space), space).values
            if np.isfinite(truth).sum() >= 3:
                task = task_name(arguments.space, file)
                truths[task if task not in truths else f"{task} {Path(file).stem}"] = truth
    rows = []
    passes = {name: one.made_by.name for one in ep.proxies.resolve("all") for name in (one.name,)}
    seconds = record.get("seconds", {})
    for name in [*sums, *columns]:
        row: dict[str, Any] = {"ranking": name}
        need = sums.get(name, (name,))
        have = ~np.any([np.isnan(columns[n]) for n in need], 0)
        for task, truth in truths.items():
            texts = []
            for use in (have & np.isfinite(truth), have & np.isfinite(truth) & once):
                pool = {n: columns[n][use] for n in need}
                score = ep.proxies.rank_sum(pool) if name in sums else pool[name]
                texts.append(f"{spearman(score, truth[use]):.3f}" if use.sum() >= 10 else "-")
            row[task] = " / ".join(dict.fromkeys(texts))
        values = [float(row[task].split(" / ")[0]) for task in truths if row[task] != "-"]
        if len(truths) > 1:
            row["mean"] = f"{np.mean(values):.3f}" if values else "-"
        row["architectures"] = int(have.sum())
        spent = seconds.get(passes.get(name, ""), {})
        row["s a network, whole pass"] = f"{spent['run'] / len(archs):.3f}" if spent else "-"
        rows.append(row)
    text = header(f"Proxies without labels, {arguments.space}, {len(archs)} networks")
    text += (
        "Spearman's correlation with each task's measured values. Networks are distinct functions, drawn at random. "
    )
    text += "`rank_sum` was chosen on NAS-Bench-201 with CIFAR-10 alone.\n"
    text += "\n" + markdown_table(rows)
    peers = []
    if (DATA / "proxy_scores").is_dir():
        for task, theirs in peer_scores(space):
            use = [i for i, arch in enumerate(archs) if space.canonical(arch) in theirs]
            if len(use) < 20:
                continue
            for name in columns:
                pairs = [(columns[name][i], theirs[space.canonical(archs[i])].get(name)) for i in use]
                pairs = [(a, b) for a, b in pairs if b is not None and not np.isnan(a)]
                if len(pairs) >= 20:
                    ours, other = map(np.asarray, zip(*pairs, strict=True))
                    peers.append(
                        {
                            "images": task,
                            "proxy": name,
                            "networks": len(pairs),
                            "Spearman": f"{spearman(ours, other):.3f}",
                        }
                    )
    if peers:
        text += "\n## Against an independent implementation's values of the same networks\n\n" + markdown_table(peers)
    name = page_name("proxies", arguments.space, arguments.variant)
    shown = [n for n in complete if not n.endswith("as written") and np.ptp(stats.rankdata(columns[n])) > 0]
    RESULTS.mkdir(exist_ok=True)
    draw(
        RESULTS / f"{name}.png",
        shown,
        np.stack([columns[n] for n in shown]),
        f"{arguments.space}: {len(archs)} networks",
    )
    text += f"\n![rank correlations between the columns]({name}.png)\n"
    write_page(name, text, [*rows, *peers])


def drawn(space: Any, num: int, seed: int) -> list[Any]:
    """Draw connected architectures of a benchmark's list in random order, until they are ``num`` distinct functions.

    So they are a uniform sample of the list as the field ranks it, with equal functions in it.
    """
    from eproxy_jax.runs.archs import read_archs

    if space.name == "nasbench201":  # the field's list without unreachable duplicates
        with (DATA / "proxy_scores" / "nb201_zc_proxies.csv").open() as file:
            lists = [[space.parse(row["net_str"]) for row in csv.DictReader(file)]]
    else:
        lists = [[record.arch for record in read_archs(DATA / pool[0], space)] for pool in POOLS[space.name]]
    found: dict[Any, None] = {}
    functions = set()
    for archs in lists:
        for i in np.random.default_rng(seed).permutation(len(archs)):
            if len(functions) == num * len(lists):
                break
            if space.is_connected(archs[i]):
                functions.add(space.canonical(archs[i]))
                found.setdefault(archs[i])
    return list(found)


if __name__ == "__main__":
    main()
