"""This benchmark measures seconds per network of some proxies, ours and a plain PyTorch loop's, on the same networks.

  python benchmarks/proxy_speed.py                      # NAS-Bench-201, paper size, 24 networks

Networks are canonical forms of distinct functions, so neither side gains from removing duplicates or dead edges. Both
see 64 images or noise of 32x32. PyTorch runs in both memory formats, and the better one counts. Blocks of networks
alternate, so that a change of the machine's speed affects both. Compilation is not in the seconds. ``agreement`` is the
Spearman correlation between the two sides' values: their weights are not the same.

``convolutions alone`` is what the 3x3 and 1x1 convolutions of the passes forward and back would take, at the rate of
the page's end, if all else were free; ``at most`` is the better PyTorch's time over it.

A list holds more than that: ``the whole space`` compares what all strings cost. A PyTorch loop runs each string as it
is written (as many strings, drawn at random, are timed); we run each function once, without dead edges. ``GFLOP/s`` are
multiply-accumulates of the forward pass, times two, over seconds of ``naswot``, which is little more than that pass.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from common import header, markdown_table, page_name, write_page
from scipy import stats

from eproxy_jax.nn import convolution

PASSES = {"naswot": 1, "jacov": 2, "synflow": 3 / 64, "AZ-NAS three": 2}  # of 64 images through all convolutions
CASES = {
    "naswot": ("naswot",),
    "jacov": ("jacov",),
    "synflow": ("synflow",),
    "AZ-NAS three": ("expressivity", "progressivity", "trainability"),
}


def shortest(run: Callable[[], Any], repeats: int) -> float:
    """The least seconds of several runs; the one before them compiles."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def matmul_rate(size: int = 2048, repeats: int = 5) -> float:
    """GFLOP/s of the product of two square matrices: what the machine can do at most."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: x @ x)
    return 2 * size**3 / shortest(lambda: product(x), repeats) / 1e9


def convolution_rate(channels: tuple[int, ...] = (16, 32, 64), repeats: int = 5) -> float:
    """GFLOP/s of 3x3 convolutions in loops, a loop a device at once, of NAS-Bench-201's stages in equal shares."""
    work, seconds = 0.0, 0.0
    for width in channels:
        size = 512 // width
        x = jax.random.normal(jax.random.key(0), (64, size, size, width))
        kernels = jax.random.normal(jax.random.key(1), (20, 3, 3, width, width)) / (9 * width) ** 0.5
        run = jax.jit(lambda x, kernels: jax.lax.scan(lambda x, one: (convolution.conv2d(x, one), None), x, kernels)[0])
        placed = [jax.device_put((x, kernels), device) for device in jax.devices()]
        seconds += shortest(lambda run=run, placed=placed: [run(*arrays) for arrays in placed], repeats)
        work += len(placed) * 2 * len(kernels) * x.size * 9 * width / 1e9
    return work / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--num", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--block", type=int, default=24, help="networks per turn")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    import torch  # pyright: ignore[reportMissingImports]
    from peer import torch_proxies
    from peer import torch_reference as reference

    from eproxy_jax import columns, spaces
    from eproxy_jax.execution.evaluation import Evaluation
    from eproxy_jax.proxies import registry
    from eproxy_jax.proxies.jacobians import Jacobians
    from eproxy_jax.proxies.spectra import Spectra
    from eproxy_jax.proxies.synflow import Synflow

    space = spaces.get(arguments.space)
    strings = [arch for arch in space.enumerate() if space.is_connected(arch)]
    rng = np.random.default_rng(arguments.seed)
    functions = list(dict.fromkeys(map(space.canonical, strings)))
    archs = [functions[i] for i in rng.permutation(len(functions))[: arguments.num]]
    written = [strings[i] for i in rng.permutation(len(strings))[: arguments.num]]
    job = columns.ColumnJob.of(space)
    inputs, size = job.inputs, registry.BATCH
    images, labels, noise = inputs.images[:size], inputs.labels[:size], inputs.noise[:size]
    ones = np.ones_like(images[:1])
    proxies = {
        "naswot": (Jacobians(CASES["naswot"], job.num_classes), (images, labels)),
        "jacov": (Jacobians(CASES["jacov"], job.num_classes), (images, labels)),
        "synflow": (Synflow(job.num_classes), (ones,)),
        "AZ-NAS three": (Spectra(CASES["AZ-NAS three"]), (noise,)),
    }
    key = jax.random.key(0)
    ours = {name: Evaluation.of(fn, space, key, shared, job.execution) for name, (fn, shared) in proxies.items()}
    peers = {
        "naswot": torch_proxies.naswot,
        "jacov": torch_proxies.jacov,
        "synflow": torch_proxies.synflow,
        "AZ-NAS three": torch_proxies.az_nas,
    }
    tensors = {name: reference.tensor(noise if name == "AZ-NAS three" else images) for name in CASES}
    normed = getattr(space.group(archs[0]).universal(), "norm_before_pooling", False)
    torch.manual_seed(0)

    def theirs(name: str, arch, channels_last: bool) -> np.ndarray:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x = tensors[name].to(memory_format=layout)
        net = torch_proxies.Net(reference.BACKBONES[space.name](arch, **dataclasses.asdict(space)), x, normed)
        return np.atleast_1d(peers[name](net.to(memory_format=layout), x))  # pyright: ignore[reportCallIssue]

    def own(name: str, block: list) -> np.ndarray:
        values = np.empty((len(block), len(CASES[name])))
        for positions, chunk in ours[name].run(block):
            values[positions] = np.stack([chunk[column] for column in CASES[name]], -1)
        return values

    compiled = {}
    for name in CASES:
        begin = time.perf_counter()
        own(name, archs[:2])
        compiled[name] = time.perf_counter() - begin
        theirs(name, archs[0], True)
    forms = ("ours", "PyTorch, NCHW", "PyTorch, channels_last")
    as_written = {name: [] for name in CASES}
    peak = matmul_rate()
    seconds = {name: {form: [] for form in forms} for name in CASES}
    values = {name: {form: [] for form in forms} for name in CASES}
    for start in range(0, len(archs), arguments.block):
        block = archs[start : start + arguments.block]
        for name in CASES:
            for form in forms:
                begin = time.perf_counter()
                got = own(name, block) if form == "ours" else [theirs(name, arch, form != forms[1]) for arch in block]
                seconds[name][form].append((time.perf_counter() - begin) / len(block))
                values[name][form] += list(got)
            begin = time.perf_counter()
            for arch in written[start : start + arguments.block]:
                theirs(name, arch, bool(np.mean(seconds[name][forms[2]]) < np.mean(seconds[name][forms[1]])))
            as_written[name].append((time.perf_counter() - begin) / len(block))
        print(f"{start + len(block)}/{len(archs)}", file=sys.stderr, flush=True)
    work = 2 * size * float(np.mean([space.macs(arch) for arch in archs])) / 1e9
    conv = convolution_rate()
    table = []
    for name in CASES:
        mean = {form: float(np.mean(seconds[name][form])) for form in forms}
        alone = PASSES[name] * work / conv
        pair = [np.asarray(values[name][form], float) for form in forms[:2]]
        rho = [float(stats.spearmanr(a, b)[0]) for a, b in zip(pair[0].T, pair[1].T, strict=True)]  # pyright: ignore
        table.append(
            {
                "proxy": name,
                **{f"{form}, s a network": f"{mean[form]:.3f}" for form in forms},
                "times the better PyTorch": f"{min(mean[f] for f in forms[1:]) / mean['ours']:.2f}",
                "convolutions alone, s": f"{alone:.3f}",
                "at most": f"{min(mean[f] for f in forms[1:]) / alone:.2f}",
                "as written, PyTorch, s a string": f"{np.mean(as_written[name]):.3f}",
                "the whole space": f"{np.mean(as_written[name]) * len(strings) / mean['ours'] / len(functions):.2f}",
                "compilation, s": f"{compiled[name]:.1f}",
                "agreement": " / ".join(f"{r:.3f}" for r in rho),
            }
        )
    text = header(f"Seconds per network of proxies, {space.name}, {len(archs)} networks")
    text += markdown_table(table) + f"\n{(__doc__ or '').split('size, 24 networks')[1].strip()}\n"
    rates = {form: work / np.mean(seconds["naswot"][form]) for form in forms}
    text += f"\nThe {len(strings):,} strings whose network sees the image are {len(functions):,} functions. GFLOP/s: "
    text += ", ".join(f"{form} {rate:.0f}" for form, rate in rates.items())
    text += f"; our 3x3 convolutions in a loop {conv:.0f}, a product of two matrices of 2048 x 2048 {peak:.0f}.\n"
    write_page(page_name("proxy_speed", space.name), text, table)


if __name__ == "__main__":
    main()
