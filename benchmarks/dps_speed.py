"""This benchmark times a slice of a Discrete Proxy Search against the same trainings in a PyTorch loop.

  python benchmarks/dps_speed.py --space nasbench201 --evaluations 20 --torch-archs 4

Ours is the compiled search: ``--evaluations`` random settings x 20 labelled architectures, without compile time.
PyTorch trains the same settings on the first ``--torch-archs`` distinct functions of the same architectures. Its
seconds are multiplied up to all 20, as the reference trains duplicates too. It runs in both memory formats, and the
better one counts. The two take turns; the page shows the ratio of the means and the median of the turns' ratios. It
also shows FLOPs executed over FLOPs needed, for these settings and for many random ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import Any

import jax
import numpy as np
from common import ROOT, header, markdown_table, write_page
from score_throughput import PEERS, matmul_peak, torch_scorer

from eproxy_jax import proxy


def torch_seconds(space: Any, settings: Any, images: Any, archs: list[Any], peer: tuple[bool, bool]) -> float:
    """Return the mean seconds of one setting's training in the PyTorch loop, without the draw of the targets."""
    task = jax.jit(proxy.make_task, static_argnums=1)(jax.random.key(0), settings, images)
    score = torch_scorer(space, settings, jax.block_until_ready(task))
    start = time.perf_counter()
    for arch in archs:
        score(arch, *peer)
    return (time.perf_counter() - start) / len(archs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--variant", default="small")
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--torch-archs", type=int, default=4)
    parser.add_argument("--block", type=int, default=1, help="evaluations a turn")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 2)

    from eproxy_jax import images
    from eproxy_jax.cli import config
    from eproxy_jax.dps import comparison
    from eproxy_jax.dps.search import Problem, prepare
    from eproxy_jax.execution.execution import Execution

    spec = config.build(config.load_config(f"{ROOT}/configs/{arguments.space}.py:{arguments.variant}"))
    space, batch = spec.space, images.standardize(spec.images)
    search = dataclasses.replace(spec.search, num_evaluations=arguments.evaluations, log_every=arguments.block)
    genes = search.genes_with_effect(spec.genes)
    archs = space.sample(20, 0)
    problem = Problem(space, genes, search, batch, 0, 0, tuple(archs), tuple(map(float, range(20))))
    execution = Execution.of()
    compiled = prepare(problem, execution)
    distinct = list(dict.fromkeys(space.canonical(arch) for arch in archs))
    state, turns = compiled.initial, arguments.evaluations // arguments.block
    compiled.call(state, arguments.evaluations, 1)  # one evaluation to warm up
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}  # seconds of a setting x 20, by turn
    peak = matmul_peak()
    flops = []
    for turn in range(turns):
        start = time.perf_counter()
        state = compiled.call(state, arguments.evaluations, arguments.evaluations)
        jax.block_until_ready(state)
        seconds["ours"].append((time.perf_counter() - start) / arguments.block)
        genomes = np.asarray(state.genes)[turn * arguments.block : (turn + 1) * arguments.block]
        flops += [comparison.setting_flops(problem, genome) for genome in genomes]
        some = distinct[: arguments.torch_archs]
        for name, peer in PEERS.items():
            each = [torch_seconds(space, genes.decode(genome), batch, some, peer) for genome in genomes]
            seconds[name].append(float(np.mean(each)) * 20)
        print(turn + 1, {name: round(float(np.mean(v)), 2) for name, v in seconds.items()}, file=sys.stderr, flush=True)
    draw = jax.jit(genes.random_genes)
    many = [comparison.setting_flops(problem, np.asarray(draw(jax.random.key(i)))) for i in range(500)]
    paper_genes = search.genes_with_effect(config.GeneTable())
    paper_space = type(space)()
    wide = dataclasses.replace(problem, genes=paper_genes, space=paper_space, images=np.zeros((16, 32, 32, 3)))
    draw = jax.jit(paper_genes.random_genes)
    paper = [comparison.setting_flops(wide, np.asarray(draw(jax.random.key(i)))) for i in range(500)]

    def ratio(pairs: list[tuple[float, float]]) -> float:
        needed, executed = np.sum(pairs, axis=0)
        return float(executed / needed)

    best = min(np.mean(seconds[name]) for name in PEERS)
    needed = float(np.mean([pair[0] for pair in flops]))
    rows = [
        {
            "form": name,
            "s per setting x 20 architectures": f"{np.mean(values):.2f}",
            "200 settings, minutes": f"{np.mean(values) * 200 / 60:.1f}",
            "time against the better PyTorch": f"{np.mean(values) / best:.2f}",
            "time of ours against it": f"{np.mean(seconds['ours']) / np.mean(values):.2f}",
            "median of the turns": f"{np.median(np.divide(seconds['ours'], values)):.2f}",
            "share of matmul peak": f"{needed / np.mean(values) / peak:.0%}",
            "compile s, once": f"{compiled.compile_seconds:.0f}" if name == "ours" else "-",
        }
        for name, values in seconds.items()
    ]
    text = header(f"Speed of a search on {arguments.space} ({arguments.variant})")
    text += markdown_table(rows)
    text += (
        f"\nMatmul peak {peak / 1e9:.0f} GFLOP/s; a setting needs {needed / 1e9:.0f} GFLOP on average, "
        f"{needed / peak:.2f} s at that peak. A slice: {arguments.evaluations} random settings; PyTorch on "
        f"{arguments.torch_archs} of the {len(distinct)} distinct functions, multiplied up to 20 trainings a setting. "
        "The public reference computes gradients of the barrier and a backward pass after the last loss, and "
        "uses neither: the better PyTorch does without. FLOPs executed / needed: "
        f"{ratio(flops):.2f} on these settings, {ratio(many):.2f} on 500 random ones of this gene table, "
        f"{ratio(paper):.2f} on 500 of the paper's table at the paper's size.\n"
    )
    write_page(f"dps_speed_{arguments.space}", text, rows)


if __name__ == "__main__":
    main()
