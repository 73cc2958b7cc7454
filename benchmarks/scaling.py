"""This benchmark measures architectures per second by list length, devices, stem width and image size.

It also predicts a roofline of every program.

  python benchmarks/scaling.py                        # about 40 minutes on 2 cores
  python benchmarks/scaling.py --lengths 100 1000 --archs 8

Every row runs in its own process, one at a time, without a compilation cache on disk. List lengths run at ``small``
widths, all other sweeps at the paper's. Each sweep varies one quantity and leaves the rest at 2 devices, stem 16 and
32x32 images. The time of a network is that of a warm run of distinct networks.

The roofline counts products and sums in the traced programs (``eproxy_jax/nn/traced_work.py``). Each operation takes
its FLOPs at the machine's peak or its bytes at its bandwidth, whichever is longer; a program takes the sum.
Element-wise work counts as fused into these. For this machine both rates are measured, the bandwidth on arrays that fit
in its caches. For accelerators both rates come from data sheets, the bandwidth from main memory, so these rows are
predicted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, best_seconds, config_source, header, markdown_table, write_page
from score_throughput import matmul_peak

from eproxy_jax import images, scoring, spaces
from eproxy_jax.cli import config
from eproxy_jax.execution import flops
from eproxy_jax.execution.grouping import by_group
from eproxy_jax.nn import traced_work
from eproxy_jax.types import ProxySettings

SPACE = "nasbench201"
# The quantity that each sweep varies, by name of the sweep.
VARIED = {
    "list length (small widths)": "strings",
    "devices": "devices",
    "stem width": "stem_channels",
    "image size": "image_size",
}
DEVICES, STEMS, SIZES = (1, 2, 4), (4, 8, 16, 32), (8, 16, 32, 64)
# Platform, dense FLOP/s at JAX's default precision for float32 products (tf32; bfloat16), and bytes/s. Both rates come
# from the makers' data sheets.
ACCELERATORS = {"H100 SXM": ("cuda", 494.7e12, 3.35e12), "TPU v5e": ("tpu", 197e12, 819e9)}


def sizes_of(variant: str) -> dict[str, int]:
    """Return the values of the varied quantities in one variant of the configuration."""
    spec = config.build(config.load_config(config_source(SPACE, variant)))
    return {**dataclasses.asdict(spec.space), "image_size": spec.images.shape[1]}


# --- measured, in child processes ----------------------------------------------------------------------------


def measure(row: dict[str, Any]) -> dict[str, Any]:
    """Measure seconds and memory of one row, in this process."""
    jax.config.update("jax_num_cpu_devices", row["devices"])
    if "machine" in row:
        return {"peak": matmul_peak(), "bandwidth": measure_bandwidth()}
    space = spaces.get(SPACE, stem_channels=row["stem_channels"], cells_per_stage=row["cells_per_stage"])
    batch = images.default_images(size=row["image_size"])
    found = dict(row)
    if "strings" in row:
        strings = space.sample(row["strings"], 0)
        start = time.perf_counter()
        result = scoring.score(strings, space, images=batch)
        whole = time.perf_counter() - start
        found["distinct"] = len({space.canonical(arch) for arch in strings})
        found["seconds"] = {**result.seconds, "whole": whole}
    else:
        job = scoring.make_job(space, None, batch)
        # The first distinct networks of a random order of all strings.
        sample = dict.fromkeys(space.canonical(arch) for arch in space.sample(8 * row["distinct"], 0))
        archs = list(sample)[: row["distinct"]]
        compiled: list[float] = []
        list(job.evaluation.run(archs[: row["devices"]], compiled.append))
        start = time.perf_counter()
        list(job.evaluation.run(archs))
        found["seconds"] = {"compile": sum(compiled), "run": time.perf_counter() - start}
        found["flops"] = sum(flops.needed_flops(space, job.settings, arch, *batch.shape[:2]) for arch in archs)
    found["memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {**found, "peak": matmul_peak()}


def measure_bandwidth() -> float:
    """Measure the bytes/s of reading and writing arrays as large as a layer's output, on all devices at once.

    An array has 1 MiB, like 16 images of 32x32 pixels and 16 channels. It fits in the caches. The best of five counts.
    """
    turns = 1000
    copies = [jax.device_put(jnp.ones(2**18), device) for device in jax.devices()]
    scale = jax.jit(lambda x: jax.lax.fori_loop(0, turns, lambda _, x: x * 1.0001, x))
    return 2 * turns * sum(x.nbytes for x in copies) / best_seconds(scale, copies)


def in_child(row: dict[str, Any]) -> dict[str, Any]:
    """Run :func:`measure` in its own process."""
    print(f"scaling: {row}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--measure", json.dumps(row)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def table_row(found: dict[str, Any]) -> dict[str, Any]:
    """Format a measured row for the page."""
    run = found["seconds"]["run"]
    shown = {name: found[name] for name in ("strings", "devices", "stem_channels", "image_size") if name in found}
    shown |= {"distinct": found["distinct"], "networks/s": f"{found['distinct'] / run:.2f}"}
    shown |= {"compile s": f"{found['seconds']['compile']:.1f}", "memory GiB": f"{found['memory_gib']:.2f}"}
    if "strings" in found:
        shown["strings/s, compile included"] = f"{found['strings'] / found['seconds']['whole']:.1f}"
    else:
        shown["GFLOP a network"] = f"{found['flops'] / found['distinct'] / 1e9:.1f}"
        shown["GFLOP/s"] = f"{found['flops'] / run / 1e9:.0f}"
        shown["share of matmul peak"] = f"{found['flops'] / run / found['peak']:.0%}"
    return shown


# --- the roofline --------------------------------------------------------------------------------------------


def group_work(job: scoring.Job, group: Any, width: int | None, platform: str) -> list[traced_work.Operation]:
    """Trace a group's program at the paper's settings, for ``width`` candidates in a batch or for a single one."""
    lead = () if width is None else (width,)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), lead))
    encoded = jax.ShapeDtypeStruct((*lead, *group.encode(job.space.sample(1, 0)).shape[1:]), jnp.int32)
    candidate = job.evaluation.candidate(group)
    batched = candidate if width is None else jax.vmap(candidate, (0, 0, None))
    return list(traced_work.operations(batched, keys, encoded, *job.evaluation.shared, platform=platform))


def work_of(operations: list[traced_work.Operation]) -> tuple[int, int]:
    """Return the total (FLOPs, bytes moved)."""
    return 2 * sum(op.macs * op.turns for op in operations), sum(op.bytes * op.turns for op in operations)


def seconds_by_peaks(operations: list[traced_work.Operation], flops_per_s: float, bytes_per_s: float) -> float:
    """Predict the seconds that a machine needs, from its peaks."""
    return sum(max(2 * op.macs / flops_per_s, op.bytes / bytes_per_s) * op.turns for op in operations)


def roofline(width: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return (one row for each program of the space, rows for the whole space)."""
    machine = in_child({"machine": True, "devices": os.cpu_count()})
    here = f"this machine ({machine['peak'] / 1e9:.0f} GFLOP/s, {machine['bandwidth'] / 1e9:.0f} GB/s, measured)"
    space = spaces.get(SPACE)
    job = scoring.make_job(space, ProxySettings(), images.default_images())
    distinct = list(dict.fromkeys(map(space.canonical, space.enumerate())))
    table, totals = [], dict.fromkeys([here, *ACCELERATORS], 0.0)
    for grouping in ("coarse", "fine"):
        for group, members in by_group(distinct, space, grouping).items():
            row = {
                "program": grouping if grouping == "coarse" else f"fine {getattr(group, 'counts', '')}",
                "networks": len(members),
            }
            seconds = {}
            for name, (platform, *peaks) in ACCELERATORS.items():
                found = group_work(job, group, width, platform)
                work, moved = work_of(found)
                seconds[name] = seconds_by_peaks(found, *peaks) / width
                row["GFLOP a network"] = f"{work / width / 1e9:.1f}"
                row[f"{name}: GB moved a network"] = f"{moved / width / 1e9:.2f}"
                row[f"{name}: FLOP/byte"] = f"{work / moved:.1f}"
                row[f"{name}: networks/s (predicted)"] = f"{1 / seconds[name]:.0f}"
            alone = group_work(job, group, None, "cpu")
            # The unbatched program of the fine group equals the work of the map form, which wastes no operation.
            seconds[here] = seconds_by_peaks(alone, machine["peak"], machine["bandwidth"])
            work, moved = work_of(alone)
            row["FLOP/byte, one at a time"] = f"{work / moved:.1f}"
            row["networks/s by the peaks, here"] = f"{1 / seconds[here]:.2f}"
            if grouping == "fine":
                for name in totals:
                    totals[name] += seconds[name] * len(members)
            table.append(row)
            print(f"scaling: {row}", file=sys.stderr, flush=True)
    whole = [
        {
            "by the peaks of": name if name == here else f"{name} (predicted)",
            "s for all distinct networks": f"{seconds:.0f}",
            "networks/s": f"{len(distinct) / seconds:.2f}",
        }
        for name, seconds in totals.items()
    ]
    return table, whole


# --- the pages -----------------------------------------------------------------------------------------------


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw networks per second of every sweep as a PNG beside the page; rows are those of the page."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(VARIED), figsize=(4 * len(VARIED), 3.2), squeeze=False)
    for axis, (name, column) in zip(axes[0], VARIED.items(), strict=True):
        points = [(row[column], float(row["networks/s"])) for row in rows if row["sweep"] == name]
        axis.plot(*zip(*points, strict=True), "o-")
        axis.set(xlabel=column.replace("_", " "), title=name, xscale="log", ylim=(0, 1.1 * max(y for _, y in points)))
        axis.set_xticks([place for place, _ in points], [str(place) for place, _ in points])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("distinct networks/s, compile apart")
    figure.tight_layout()
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"scaling_{SPACE}.png", dpi=110)


def write_sweeps(lengths: list[int], archs: int) -> None:
    """Run all sweeps and write their page and figure."""
    paper = {**sizes_of("paper"), "devices": os.cpu_count(), "distinct": archs}
    small = {**sizes_of("small"), "devices": os.cpu_count()}
    values = {"strings": lengths, "devices": DEVICES, "stem_channels": STEMS, "image_size": SIZES}
    sweeps = {
        name: [in_child({**(small if column == "strings" else paper), column: value}) for value in values[column]]
        for name, column in VARIED.items()
    }
    text, rows = header(f"Scaling of scoring {SPACE}"), []
    for name, found in sweeps.items():
        shown = [table_row(row) for row in found]
        text += f"## By {name}\n\n{markdown_table(shown)}\n"
        rows += [{"sweep": name, **row} for row in shown]
    peaks = [row["peak"] for found in sweeps.values() for row in found if row["devices"] == os.cpu_count()]
    text += f"Matmul peak of {os.cpu_count()} devices: median {np.median(peaks) / 1e9:.0f} GFLOP/s.\n"
    draw(rows)
    write_page(f"scaling_{SPACE}", text + f"\n![networks a second](scaling_{SPACE}.png)\n", rows)


def write_roofline(width: int) -> None:
    """Write the page with the predicted seconds of all programs."""
    programs_table, whole = roofline(width)
    text = header(f"Roofline of {SPACE}, paper size, batches of {width}")
    text += markdown_table(programs_table) + "\n" + markdown_table(whole)
    text += f"\nMeasured on a GPU: [full_space_{SPACE}_gpu.md](full_space_{SPACE}_gpu.md).\n"
    write_page(f"roofline_{SPACE}", text, programs_table + whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 300, 1000, 3000, 15625])
    parser.add_argument("--archs", type=int, default=16, help="distinct networks of the other sweeps")
    parser.add_argument("--width", type=int, default=32, help="candidates of a batch in the roofline")
    parser.add_argument("--roofline-only", action="store_true", help="no sweeps")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(json.loads(arguments.measure))))
        return
    if not arguments.roofline_only:
        write_sweeps(arguments.lengths, arguments.archs)
    write_roofline(arguments.width)


if __name__ == "__main__":
    main()
