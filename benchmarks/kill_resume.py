"""This benchmark kills (SIGKILL) a scoring run at random moments, resumes it, and compares its file.

  python benchmarks/kill_resume.py                    # 20 kills over 200 architectures, about 8 minutes on 2 cores

An undisturbed run comes first; it also shows when the first results appear. Then the same command is killed many times,
in turn before its first result and after some more results. So kills meet start, compilation, training and writing.
After every kill only the last line may be half written. After the last kill the run ends undisturbed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import config_source, header, markdown_table, write_page

SPACE = "nasbench201"


def command(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Return the command of the scoring run."""
    source = config_source(SPACE, arguments.variant)
    what = ["--sample", str(arguments.num), "--seed", str(arguments.seed), "--chunk-size", "4"]
    return [sys.executable, "-m", "eproxy_jax", "score", "--config", source, *what, "--workdir", str(folder),
            "--no-plot"]  # fmt: skip


def whole_lines(path: Path) -> int:
    """Count the whole lines of a file; each of them must be JSON."""
    content = path.read_bytes() if path.is_file() else b""
    return len([json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()])


def undisturbed(arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Run without a kill; returns the seconds to the first results and to the end."""
    start, first = time.perf_counter(), None
    process = subprocess.Popen(command(arguments, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if first is None and whole_lines(folder / "scores.jsonl"):
            first = time.perf_counter() - start
        time.sleep(0.05)
    if process.returncode or first is None:
        raise RuntimeError(f"the undisturbed run ended with status {process.returncode}")
    return first, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="small")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the architectures and of the moments")
    parser.add_argument("--workdir", default="runs/kill_resume")
    arguments = parser.parse_args()
    whole, torn = (Path(arguments.workdir) / name for name in ("undisturbed", "killed"))
    for folder in (whole, torn):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("scores*"):
            old.unlink()
    undisturbed(arguments, whole)  # compile, so that the second run has the program on disk, as the killed ones do
    for old in whole.glob("scores*"):
        old.unlink()
    first, end = undisturbed(arguments, whole)

    rng = np.random.default_rng(arguments.seed)
    lines = [0]
    while len(lines) <= arguments.kills:
        process = subprocess.Popen(command(arguments, torn), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if len(lines) % 2:
            moment = "while it starts"
            time.sleep(rng.uniform(0.1, first))
        else:
            moment = "while it trains"
            wanted = lines[-1] + rng.integers(1, 3 * arguments.num // arguments.kills)
            while process.poll() is None and whole_lines(torn / "scores.jsonl") < wanted:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 8 * (end - first) / arguments.num))  # up to a chunk of both devices
        if process.poll() is not None:
            raise RuntimeError(f"the run ended before kill {len(lines)}: give it more --num")
        process.kill()
        process.wait()
        lines.append(whole_lines(torn / "scores.jsonl"))
        print(f"kill {len(lines) - 1}/{arguments.kills} {moment}: {lines[-1]} lines", file=sys.stderr, flush=True)
    subprocess.run(command(arguments, torn), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    expected, found = ((folder / "scores.jsonl").read_bytes() for folder in (whole, torn))
    archs = [json.loads(line)["arch"] for line in found.splitlines()]
    row: dict[str, Any] = {
        "architectures": arguments.num,
        "kills": len(lines) - 1,
        "whole lines after each": " ".join(map(str, lines[1:])),
        "each architecture once": len(set(archs)) == len(archs) == arguments.num,
        "equal to the undisturbed file, byte for byte": expected == found,
    }
    write_page(f"kill_resume_{SPACE}", header("Killed at random and resumed") + markdown_table([row]), [row])
    if expected != found:
        raise SystemExit("the files differ")


if __name__ == "__main__":
    main()
