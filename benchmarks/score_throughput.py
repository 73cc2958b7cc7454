"""This benchmark measures architectures per second of ours and of a plain PyTorch loop, on the same architectures.

  python benchmarks/score_throughput.py                      # paper size, 24 architectures
  python benchmarks/score_throughput.py --num 6 --variant smoke

Both run the same training (ten steps, no backward pass after the last forward pass) on canonical forms of distinct
functions. So neither gains from removing duplicates or dead edges. PyTorch is timed in both memory formats, and the
better one counts. Blocks of a few architectures alternate, so that a change of the machine's speed affects both. The
Spearman column needs the benchmark data (EPROXY_DATA, default ../shared/data); benchmarks/ranking.py has it for more
architectures.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from common import DATA, POOLS, ROOT, best_seconds, header, markdown_table, page_name, write_page

# Forms of the PyTorch loop: (channels_last, wasteful). The wasteful form works like the public reference: it computes
# gradients of the barrier, which its optimiser ignores, and a backward pass after the last loss.
PEERS = {
    "PyTorch, NCHW": (False, False),
    "PyTorch, channels_last": (True, False),
    "PyTorch, NCHW, as wasteful as the public reference": (False, True),
}


def torch_scorer(space, settings, task):
    """Return a function (arch, channels_last, wasteful) -> final loss with the peer's own initial weights, see PEERS.

    The peer runs on JAX's default platform: on a GPU if JAX does.
    """
    import torch  # pyright: ignore[reportMissingImports]
    from peer import torch_reference as reference

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    barriers = [reference.frozen_barrier(b["kernel"], b["bias"]).to(device) for b in task.barriers]
    targets = [reference.tensor(target).to(device) for target in task.targets]
    images = reference.tensor(task.images).to(device)
    heads = [(b.transform_kernel, b.transform_channels) for b in settings.branches]
    sizes = dataclasses.asdict(space)
    torch.manual_seed(0)

    def score(arch, channels_last: bool, wasteful: bool = False) -> float:
        for barrier in barriers:
            barrier.requires_grad_(wasteful).zero_grad()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = reference.ProxyNetwork(reference.BACKBONES[space.name](arch, **sizes), heads)
        network = network.to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        losses = reference.train_losses(
            network,
            images.to(memory_format=layout),
            [target.to(memory_format=layout) for target in targets],
            [barrier.to(memory_format=layout) for barrier in barriers],  # pyright: ignore[reportCallIssue]
            settings.lr,
            settings.momentum,
            settings.weight_decay,
            settings.num_steps,
            last_backward=wasteful,
        )
        return losses[-1]

    return score


def matmul_peak() -> float:
    """Measure the FLOP/s of 2048 x 2048 products, one on every device at once: the best of five."""
    copies = [jax.device_put(jax.random.normal(jax.random.key(0), (2048, 2048)), device) for device in jax.devices()]
    return len(copies) * 2 * 2048**3 / best_seconds(jax.jit(lambda a: a @ a), copies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--variant", default="paper")
    parser.add_argument("--num", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=8, help="architectures per turn")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    from eproxy_jax import ranks, scoring
    from eproxy_jax.cli import config
    from eproxy_jax.execution import programs
    from eproxy_jax.execution.flops import needed_flops
    from eproxy_jax.runs.truth import read_truth

    spec = config.build(config.load_config(f"{ROOT}/configs/{arguments.space}.py:{arguments.variant}"))
    space, settings = spec.space, spec.settings
    distinct = list(dict.fromkeys(space.canonical(arch) for arch in space.sample(8 * arguments.num, arguments.seed)))
    archs = distinct[: arguments.num]
    job = scoring.make_job(space, settings, spec.images, spec.weight_seed)
    compilations = programs.num_compilations()
    program = job.evaluation.program(archs[0])
    theirs = torch_scorer(space, settings, job.task)

    def ours(block) -> list[float]:
        losses = np.empty(len(block))
        for positions, chunk in job.evaluation.run(block):
            losses[positions] = chunk[:, -1]
        return losses.tolist()

    ours(archs[:2])
    theirs(archs[0], True)
    peak = matmul_peak()
    rows = {"ours": [], **{name: [] for name in PEERS}}
    losses = {name: [] for name in rows}
    for start in range(0, len(archs), arguments.block):
        block = archs[start : start + arguments.block]
        for name in rows:
            begin = time.perf_counter()
            losses[name] += ours(block) if name == "ours" else [theirs(arch, *PEERS[name]) for arch in block]
            rows[name].append((time.perf_counter() - begin) / len(block))
            print(
                f"{start + len(block)}/{len(archs)} {name}: {rows[name][-1]:.3f} s a network",
                file=sys.stderr,
                flush=True,
            )

    size = job.task.images.shape[1]
    flops = float(np.mean([needed_flops(space, settings, a, job.task.images.shape[0], size) for a in archs]))
    # Only for spaces whose benchmark has all architectures, because these are a sample of the space.
    known = DATA.is_dir() and space.name in POOLS
    truth = read_truth(DATA / POOLS[space.name][0][0], space) if known else None
    best_peer = min(np.mean(rows[name]) for name in PEERS)
    table = []
    for name, seconds in rows.items():
        mean = float(np.mean(seconds))
        quality = ranks.rank_quality(-np.asarray(losses[name]), [truth[a] for a in archs]) if truth else None
        table.append(
            {
                "form": name,
                "archs": len(archs),
                "archs/s": f"{1 / mean:.2f}",
                "s/arch, median of blocks": f"{np.median(seconds):.3f} [{min(seconds):.3f}-{max(seconds):.3f}]",
                "speed against best PyTorch": f"{best_peer / mean:.2f}x",
                "ours against it": f"{mean / np.mean(rows['ours']):.2f}x",
                "compile s": f"{program.compile_seconds:.1f}" if name == "ours" else "-",
                "share of matmul peak": f"{flops / mean / peak:.0%}",
                "Spearman": f"{quality.spearman:.3f}" if quality else "-",
            }
        )
    macs = [space.macs(arch) for arch in archs]
    alone = ranks.rank_quality(macs, [truth[a] for a in archs]).spearman if truth else float("nan")
    # Call again: a second call traces and compiles nothing.
    ours(archs[:2])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    notes = (
        f"\nMatmul peak {peak / 1e9:.0f} GFLOP/s; needed {flops / 1e9:.1f} GFLOP a network on average. MACs alone on "
        f"the same {len(archs)}: Spearman {alone:.3f}. Programs compiled: "
        f"{programs.num_compilations() - compilations}. "
        f"Working memory of our program {program.temp_bytes / 2**20:.0f} MiB a device; peak of this process, "
        f"PyTorch included, {memory:.2f} GiB.\n"
    )
    title = f"Throughput on {space.name} ({arguments.variant})"
    write_page(
        page_name("throughput", space.name, arguments.variant), header(title) + markdown_table(table) + notes, table
    )
    assert jnp.isfinite(jnp.asarray(losses["ours"])).all()


if __name__ == "__main__":
    main()
