"""This benchmark ranks networks of a benchmark by every proxy, and sums of ranks, without any label.

  python benchmarks/proxies.py --space nasbench201 --num-archs 1000 --proxy all
  python benchmarks/proxies.py --space nds_darts --variant small --num-archs 120 --proxy all
  python benchmarks/proxies.py --space nasbench101 --variant small --num-archs 150 --stored --proxy cheap
  python benchmarks/proxies.py --summary        # proxies.md: the sums of ranks on all spaces whose page is there

It computes the columns into WORKDIR/columns.jsonl, as ``eproxy score --proxy`` does, and compares each with the
measured values of every task (EPROXY_DATA, default ../shared/data) by Spearman's correlation. Architectures are drawn
at random from the benchmark's list (NAS-Bench-201: the 9,445 strings without unreachable duplicates), and each task has
two figures: over the architectures as listed, and with each function once. ``rank_sum`` was chosen on NAS-Bench-201
with CIFAR-10 alone; everywhere else it is shown as it is. Columns of another implementation stand beside ours where
EPROXY_DATA has them (proxy_scores); ``--stored`` draws networks of that list alone, for a page of its own
(proxies_SPACE_stored). The figure shows the rank correlations between the columns.
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
from shrink_images import shrunk

from eproxy_jax.proxies import AGGREGATES
from eproxy_jax.ranks import spearman_rows

FEWEST = 20  # architectures that a correlation is printed of
PEER_NAMES = {"nwot": "naswot", "flops": "macs"}  # their name -> ours
PEER_FILES = {
    "nasbench101": "zc_nasbench101.json",
    "transnas_micro": "zc_transbench101_micro.json",
    "transnas_macro": "zc_transbench101_macro.json",
}


def as_built(space: Any, arch: Any) -> Any:
    """Return what a benchmark builds of an architecture: NAS-Bench-101 prunes it, the others run dead parts as well."""
    return space.canonical(arch) if space.name == "nasbench101" else arch


def peer_scores(space: Any) -> Iterator[tuple[str, dict[Any, dict[str, float]]]]:
    """Yield (images, columns by architecture as built) of an independent implementation."""
    folder = DATA / "proxy_scores"
    if space.name == "nasbench201":
        for task, name in (("cifar10", ""), ("imagenet16-120", "ImageNet16-120_")):
            with (folder / f"nb201_{name}zc_proxies.csv").open() as file:
                rows = list(csv.DictReader(file))
            yield task, {as_built(space, space.parse(row["net"])): _numbers(row) for row in rows}
    if space.name in PEER_FILES:
        tasks = json.loads((folder / PEER_FILES[space.name]).read_text())
        for task, rows in tasks.get(space.name, tasks).items():
            known = {}
            for arch, row in rows.items():
                scores = {k: v["score"] if isinstance(v, dict) else v for k, v in row.items()}
                known[as_built(space, space.parse(arch))] = _numbers(scores)
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


def draw(path: Path, names: list[str], columns: np.ndarray, title: str) -> None:
    """Draw the rank correlations between columns [C, A] as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = np.stack([spearman_rows(columns, column) for column in columns])
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


def drawn(space: Any, num: int, seed: int, stored: bool = False) -> list[Any]:
    """Draw connected architectures of each list of a benchmark in random order, until they are ``num`` functions.

    So they are a uniform sample of the list as the field ranks it, with equal functions in it. ``stored`` draws from
    the networks whose columns an independent implementation has.
    """
    from eproxy_jax.runs.archs import read_archs

    if stored:
        lists = [list(dict.fromkeys(arch for _, known in peer_scores(space) for arch in known))]
    elif space.name == "nasbench201":  # the field's list without unreachable duplicates
        with (DATA / "proxy_scores" / "nb201_zc_proxies.csv").open() as file:
            lists = [[space.parse(row["net_str"]) for row in csv.DictReader(file)]]
    else:
        lists = [[record.arch for record in read_archs(DATA / pool[0], space)] for pool in POOLS[space.name]]
    found: dict[Any, None] = {}
    for archs in lists:
        functions = set()
        for i in np.random.default_rng(seed).permutation(len(archs)):
            if len(functions) == num:
                break
            if space.is_connected(archs[i]):
                functions.add(space.canonical(archs[i]))
                found.setdefault(archs[i])
    return list(found)


def stored_truths(space: Any, archs: list[Any]) -> dict[str, np.ndarray]:
    """Return the validation accuracies [A] that stand beside another implementation's columns, by images."""
    truths = {}
    for images, known in peer_scores(space):
        rows = [known.get(as_built(space, arch), {}) for arch in archs]
        truth = np.asarray([row.get("val_accuracy", np.nan) for row in rows])
        if np.isfinite(truth).sum() >= FEWEST:
            truths[images] = truth
    return truths


def truths_of(space: Any, archs: list[Any]) -> dict[str, np.ndarray]:
    """Return the measured values [A] of each task, NaN where there is none."""
    from eproxy_jax.runs.truth import match, read_truth

    truths = {}
    for pool in POOLS[space.name]:
        for file in pool:
            truth = match(archs, read_truth(DATA / file, space), space).values
            if np.isfinite(truth).sum() >= FEWEST:
                task = task_name(space.name, file)
                truths[task if task not in truths else f"{task} {Path(file).stem}"] = truth
    return truths


def quality_rows(
    columns: dict[str, np.ndarray], truths: dict[str, np.ndarray], once: np.ndarray, seconds: dict[str, float]
) -> list[dict[str, Any]]:
    """Return one row for each sum of ranks and each column.

    Args:
      columns: [A] by name, NaN where a column was not computed.
      truths: [A] by task.
      once: [A], True once for each function.
      seconds: a network, by column.
    """
    from eproxy_jax.proxies import rank_sum

    sums = {name: members for name, members in AGGREGATES.items() if set(members) <= set(columns)}
    rows = []
    for name in [*sums, *columns]:
        row: dict[str, Any] = {"ranking": name}
        members = sums.get(name, (name,))
        have = ~np.any([np.isnan(columns[member]) for member in members], 0)
        found = []
        for task, truth in truths.items():
            both = []
            for use in (have & np.isfinite(truth), have & np.isfinite(truth) & once):
                pool = {member: columns[member][use] for member in members}
                score = rank_sum(pool) if name in sums else pool[name]
                both.append(float(spearman_rows(score, truth[use])) if use.sum() >= FEWEST else np.nan)
            row[task] = f"{both[0]:.3f} / {both[1]:.3f}"
            found.append(both[0])
        if len(truths) > 1:
            row["mean"] = f"{np.mean(found):.3f}"
        row["architectures"] = int(have.sum())
        row["s a network, whole pass"] = f"{seconds[name]:.3f}" if name in seconds else "-"
        rows.append(row)
    return rows


def peer_rows(space: Any, archs: list[Any], columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the rank correlation of each column with an independent implementation's.

    Theirs are of networks as written, ours of networks without dead parts. So the correlation over networks that have
    none stands beside that over all.
    """
    rows = []
    counts = [[(space.macs(one), space.params(one)) for one in (arch, space.canonical(arch))] for arch in archs]
    whole = np.asarray([written == without for written, without in counts])
    written = {"MACs as written": "macs", "parameters as written": "params"}
    built = [as_built(space, arch) for arch in archs]
    for images, theirs in peer_scores(space) if (DATA / "proxy_scores").is_dir() else ():
        for name, values in columns.items():
            others = np.asarray([theirs.get(one, {}).get(written.get(name, name), np.nan) for one in built])
            use = ~np.isnan(others) & ~np.isnan(values)
            if use.sum() < FEWEST:
                continue
            row: dict[str, Any] = {"images": images, "proxy": name}
            for few, of in (("", use), (" without dead parts", use & whole)):
                row[f"architectures{few}"] = int(of.sum())
                varies = of.sum() >= FEWEST and np.ptp(np.clip(others[of], -1e30, 1e30)) > 0
                row[f"Spearman{few}"] = f"{float(spearman_rows(values[of], others[of])):.3f}" if varies else "-"
            rows.append(row)
    return rows


_IN_SUMMARY = ("rank_sum", "az_nas", "vkdnw_agg", "eproxy", "macs", "params")
_NO_TASK = ("ranking", "architectures", "s a network, whole pass", "command")


def summary_rows() -> list[dict[str, Any]]:
    """Return a row for each page of a space that is there: what the sums of ranks reach without labels, and sizes."""
    found = []
    for page in (f"proxies_{space}{end}" for space in POOLS for end in ("", "_more", "_small")):
        if not (path := RESULTS / f"{page}.jsonl").exists():
            continue
        rows = {row["ranking"]: row for row in map(json.loads, path.read_text().splitlines()) if "ranking" in row}
        tasks = [name for name in rows["macs"] if name not in _NO_TASK]
        mean = {name: float(row[tasks[-1]].split(" / ")[0]) for name, row in rows.items()}  # "mean" is last, of several
        mean = {name: value for name, value in mean.items() if not np.isnan(value)}
        single = max((name for name in mean if name not in AGGREGATES), key=mean.__getitem__)
        found.append(
            {
                "page": f"[{page.removeprefix('proxies_').removesuffix('_small').removesuffix('_more')}]({page}.md)",
                "size": "small" if page.endswith("_small") else "paper",
                "tasks": len(tasks) - ("mean" in tasks),
                "networks": rows["macs"]["architectures"],
                **{name: f"{mean[name]:.3f}" if name in mean else "-" for name in _IN_SUMMARY},
                "best column, known afterwards": f"{single} {mean[single]:.3f}",
            }
        )
    return found


def summarize() -> None:
    """Write the page of all spaces."""
    text = header("Proxies without labels: all spaces")
    text += "Spearman over the networks as listed, mean over tasks. `rank_sum` was chosen on NAS-Bench-201 with\n"
    text += "CIFAR-10 alone; `macs` and `params` are those of the network without its dead parts.\n\n"
    rows = summary_rows()
    write_page("proxies", text + markdown_table(rows), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", action="store_true", help="write proxies.md out of the pages that are there")
    parser.add_argument("--space", default="nasbench201", choices=sorted(POOLS))
    parser.add_argument("--variant", default="paper")
    parser.add_argument("--num-archs", type=int, default=1000, help="distinct functions of each list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--proxy", default="all", help="comma-separated names, as of eproxy score")
    parser.add_argument("--images", help="images and labels, FILE.npz below EPROXY_DATA; made by code by default")
    parser.add_argument("--shrink", type=int, default=1, help="average so many pixels of the images in each direction")
    parser.add_argument("--stored", action="store_true", help="networks whose columns another implementation has")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of the configuration")
    parser.add_argument("--page", help="name of the page, where a space has several; default proxies_SPACE_VARIANT")
    parser.add_argument("--workdir", type=Path, help="default runs/proxies_SPACE")
    arguments = parser.parse_args()
    if arguments.summary:
        summarize()
        return
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    import eproxy_jax as ep
    from eproxy_jax.cli import config
    from eproxy_jax.proxies.inputs import NUM_IMAGES

    source = config_source(arguments.space, arguments.variant)
    loaded = config.load_config(source, [f"--config.{field}" for field in arguments.set])
    space, size = config.space_of_config(loaded), loaded.images.size
    page = arguments.page or page_name("proxies", arguments.space + "_stored" * arguments.stored, arguments.variant)
    workdir = arguments.workdir or ROOT / "runs" / page
    archs = drawn(space, arguments.num_archs, arguments.seed, arguments.stored)
    labels: Any = None
    images: Any = ep.default_images(num=NUM_IMAGES, size=size)
    if arguments.images:
        read = ep.load_labelled(DATA / arguments.images, NUM_IMAGES, 0, size)
        images, labels = read.images, read.labels
    if arguments.shrink > 1:
        images = shrunk(images, arguments.shrink)
    ep.runs.score_columns(archs, space, arguments.proxy, images, labels=labels, workdir=workdir)
    record = json.loads((workdir / "columns.run.json").read_text())
    known = read_columns(workdir / "columns.jsonl")
    values = [known[space.format(arch)] for arch in archs]
    names = [name for name in values[0] if not name.endswith("_as_written")]
    columns = {name: np.asarray([row.get(name, np.nan) for row in values]) for name in names}
    columns["MACs as written"] = np.asarray([row["macs_as_written"] for row in values], float)
    columns["parameters as written"] = np.asarray([row["params_as_written"] for row in values], float)
    functions = [space.canonical(arch) for arch in archs]
    first = {function: place for place, function in reversed(list(enumerate(functions)))}
    once = np.isin(np.arange(len(archs)), list(first.values()))
    seconds = {
        name: record["seconds"][how["pass"]]["run"] / record["distinct"]
        for name, how in record["columns"].items()
        if how["pass"] in record["seconds"]
    }

    truths = stored_truths(space, archs) if arguments.stored else truths_of(space, archs)
    rows = quality_rows(columns, truths, once, seconds)
    peers = peer_rows(space, archs, columns)
    text = header(f"Proxies without labels, {arguments.space}")
    text += f"Spearman's correlation with each task's measured values: over {len(archs)} architectures drawn from the "
    text += "list of another implementation's columns" if arguments.stored else "benchmark's list"
    text += f" / with each of their {once.sum()} functions once. `rank_sum` was chosen on NAS-Bench-201 "
    text += "with CIFAR-10 alone. Seconds are those of the computation, whose compilation is left out.\n\n"
    text += markdown_table(rows)
    if peers:
        text += "\n## Against an independent implementation's values of the same networks\n\n" + markdown_table(peers)
    shown = {
        name: column for name, column in columns.items() if "as written" not in name and not np.isnan(column).any()
    }
    draw(
        RESULTS / f"{page}.png",
        list(shown),
        np.stack(list(shown.values())),
        f"{arguments.space}: {len(archs)} networks",
    )
    text += f"\n![rank correlations between the columns]({page}.png)\n"
    write_page(page, text, [*rows, *peers])


if __name__ == "__main__":
    main()
