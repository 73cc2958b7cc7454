"""This benchmark scores the whole of NAS-Bench-201: time, plan and ranking, against a plain PyTorch loop.

  python benchmarks/full_space.py --stratified 1000     # one distinct network of each of 1,000 strata of MACs
  python benchmarks/full_space.py                       # all 5,044 distinct networks

Ours trains each distinct function once. The PyTorch loop trains every string as written, one at a time, in both memory
formats. It is timed on one string of each of ``--torch-archs`` strata of MACs: half of them before ours and half after.
So a change of the machine's speed affects both. Its seconds for all strings are extrapolated, and marked so. With
``--stratified`` ours are extrapolated too, from the sample to all networks. After a kill the script resumes (results
stay under ``--workdir``). The Spearman columns need the benchmark data (EPROXY_DATA, default ../shared/data).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

# Ours and PyTorch share this process, so neither may take all of a GPU's memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
from common import DATA, POOLS, config_source, header, markdown_table, page_name, write_page
from score_throughput import torch_scorer

import eproxy_jax as ep
from eproxy_jax import scoring
from eproxy_jax.cli import config
from eproxy_jax.execution import planner
from eproxy_jax.execution.execution import Execution, Form, Grouping
from eproxy_jax.execution.grouping import distinct_networks
from eproxy_jax.ranks import rank_quality
from eproxy_jax.runs.truth import read_truth

SPACE = "nasbench201"


def stratified(archs: list, space, num: int | None, seed: int) -> list:
    """Draw one architecture from each of ``num`` strata of equal size, by MACs; without ``num`` take all."""
    if num is None or num >= len(archs):
        return archs
    by_macs = sorted(archs, key=lambda arch: (space.macs(arch), space.params(arch), arch))
    bounds = np.linspace(0, len(archs), num + 1).astype(int)
    draws = np.random.default_rng(seed).integers(bounds[:-1], bounds[1:])
    return [by_macs[i] for i in draws]


def torch_seconds(spec, strings) -> dict[str, float]:
    """Time strings in the PyTorch loop, by memory format, s."""
    job = scoring.make_job(spec.space, spec.settings, spec.images, spec.weight_seed)
    score = torch_scorer(spec.space, spec.settings, job.task)
    score(strings[0], False)
    score(strings[0], True)
    seconds = {"NCHW": 0.0, "channels_last": 0.0}
    for number, arch in enumerate(strings):
        for layout in seconds:
            start = time.perf_counter()
            score(arch, layout == "channels_last")
            seconds[layout] += time.perf_counter() - start
        print(f"PyTorch {number + 1}/{len(strings)}", file=sys.stderr, flush=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="paper")
    parser.add_argument("--stratified", type=int, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the draws from strata")
    parser.add_argument("--torch-archs", type=int, default=60)
    parser.add_argument("--workdir", default="runs/full_space")
    arguments = parser.parse_args()
    if arguments.torch_archs < 2:
        parser.error("--torch-archs: at least 2, one before ours and one after")

    ep.configure(compile_cache="off")
    spec = config.build(config.load_config(config_source(SPACE, arguments.variant)))
    space = spec.space
    strings = list(space.enumerate())
    distinct = list(distinct_networks(strings, space).distinct)
    networks = stratified(distinct, space, arguments.stratified, arguments.seed)
    sample = stratified(strings, space, arguments.torch_archs, arguments.seed)
    folder = Path(arguments.workdir) / f"{arguments.variant}-{len(networks)}-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    before = torch_seconds(spec, sample[::2])
    result = ep.runs.score(networks, space, spec.settings, spec.images, spec.weight_seed, workdir=folder)
    assert result is not None
    after = torch_seconds(spec, sample[1::2])
    seconds = result.seconds
    peers = {layout: (before[layout] + after[layout]) / len(sample) for layout in before}

    ours = seconds["compile"] + seconds["run"] * len(distinct) / len(networks)
    best = min(peers.values()) * len(strings)
    rows = [
        {
            "form": "ours",
            "trained": len(networks),
            "s/network": f"{seconds['run'] / len(networks):.3f}",
            "compile s": f"{seconds['compile']:.0f}",
            "s, all strings": f"{ours:.0f}" + ("" if len(networks) == len(distinct) else " (extrapolated)"),
            "speed against best PyTorch": f"{best / ours:.2f}x",
        }
    ]
    rows += [
        {
            "form": f"PyTorch, {layout}",
            "trained": len(sample),
            "s/network": f"{mean:.3f}",
            "compile s": "-",
            "s, all strings": f"{mean * len(strings):.0f} (extrapolated)",
            "speed against best PyTorch": f"{best / (mean * len(strings)):.2f}x",
        }
        for layout, mean in peers.items()
    ]
    text = header(f"All {len(strings)} strings of {SPACE} ({arguments.variant})") + markdown_table(rows)

    plans = []
    ways: list[tuple[Form, Grouping]] = [
        ("map", "coarse"),
        ("vmap", "coarse"),
        ("vmap", "fine"),
    ]
    # Plans take a minute of CPU time and are the same on a GPU, whose time is expensive.
    for form, grouping in ways if jax.default_backend() == "cpu" else []:
        execution = Execution.of(jax.devices(), form, grouping=grouping)
        plan = planner.plan(strings, space, spec.settings, spec.images.shape, execution).to_dict()
        del plan["groups"]
        plans.append({"grouping": grouping, **plan})
    if plans:
        text += "\nPlans of all strings (`eproxy plan --all --form FORM --grouping GROUPING`):\n\n"
        text += markdown_table(plans)

    if DATA.is_dir():
        score_of = dict(zip((space.parse(arch) for arch in result.archs), result.score, strict=True))
        strings_of: dict[Any, list[Any]] = {network: [] for network in score_of}
        for arch in strings:
            if (network := space.canonical(arch)) in score_of:
                strings_of[network].append(arch)
        table = []
        for file in POOLS[SPACE][0]:
            measured = read_truth(DATA / file, space)
            # First networks, each once, against the mean of its strings; then all strings.
            every = [(arch, network) for network, own in strings_of.items() for arch in own]
            means = [float(np.mean([measured[arch] for arch in own])) for own in strings_of.values()]
            for what, archs, scores, truth in (
                ("networks", list(strings_of), list(score_of.values()), means),
                ("strings", [a for a, _ in every], [score_of[n] for _, n in every], [measured[a] for a, _ in every]),
            ):
                plain = rank_quality(scores, truth)
                table.append(
                    {
                        "truth": Path(file).stem,
                        "of": f"{len(archs)} {what}",
                        "Spearman": f"{plain.spearman:.3f}",
                        "tau": f"{plain.kendall_tau:.3f}",
                        "top-10 %": f"{plain.top_precision:.3f}",
                        "MACs": f"{rank_quality([space.macs(arch) for arch in archs], truth).spearman:.3f}",
                        "parameters": f"{rank_quality([space.params(arch) for arch in archs], truth).spearman:.3f}",
                    }
                )
        text += f"\nThe trained networks, weight seed {spec.weight_seed}:\n\n" + markdown_table(table)
        rows += table
    write_page(page_name("full_space", SPACE, arguments.variant), text, rows + plans)


if __name__ == "__main__":
    main()
