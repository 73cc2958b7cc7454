"""Try every reader with many inputs, and kill every command many times; writes ``benchmarks/results/fuzz.md``.

  make fuzz                                                # 100,000 inputs, 100 kills of score, dps and bank each
  python tests/fuzz/run.py --inputs 2000 --kills 3         # a quick look; prints the page, writes nothing

A fault is anything but a result or a refusal (``inputs.REFUSALS``), a message of more than 5,000 characters, an input
that takes more than 5 s of CPU, or one that takes the process 300 MB further. Each kind of fault is printed with an
input.
"""

import argparse
import collections
import contextlib
import io
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# ruff: noqa: E402
import conftest  # noqa: F401  two CPU devices, programs on disk
import jax
from faults.commands import COMMANDS, Server, content
from fuzz import inputs
from hypothesis import HealthCheck, given, seed, settings

SECONDS, MEGABYTES = 5, 300


class HangError(Exception):
    """Raised where an input takes too long."""


def _ring(*_: object) -> None:
    raise HangError(f"more than {6 * SECONDS} s")


def peak() -> float:
    """The largest memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def place(error: BaseException) -> str:
    """Where in the package an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "eproxy_jax" in frame.filename] or frames
    return f"{os.path.relpath(own[-1].filename, ROOT)}:{own[-1].lineno}"


def try_target(name: str, target: inputs.Target, count: int, start: int) -> dict[str, int]:
    """Numbers of inputs by outcome: read, refused, traceback, hang, memory."""
    tally: collections.Counter[str] = collections.Counter()
    kinds: dict[str, tuple[int, str]] = {}

    def fault(outcome: str, kind: str, value: object) -> str:
        number, example = kinds.get(kind, (0, repr(value)[:300]))
        kinds[kind] = (number + 1, example)
        return outcome

    @seed(start)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def run(value):
        with tempfile.TemporaryDirectory() as folder:
            before, clock = peak(), time.process_time()
            signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)
            try:
                outcome = inputs.outcome(target, value, Path(folder))
            except HangError as error:
                outcome = fault("hang", f"hang at {place(error)}", value)
            except Exception as error:
                outcome = fault("traceback", f"{type(error).__name__} at {place(error)}: {str(error)[:100]}", value)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if time.process_time() - clock > SECONDS and outcome != "hang":
                outcome = fault("hang", f"{time.process_time() - clock:.0f} s", value)
            if peak() - before > MEGABYTES:
                outcome = fault("memory", f"{peak() - before:.0f} MB more", value)
        tally[outcome] += 1

    if count:
        run()
    for kind, (number, example) in kinds.items():
        print(f"  {name}: {number} x {kind}\n    {example}", flush=True)
    return tally


def kill(count: int, seed_: int) -> list[tuple[str, int, int, int]]:
    """(command, kills, runs that ended before they were killed, exact files afterwards) of each command."""
    rng, found = random.Random(seed_), []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "server").mkdir()
        server = Server(home / "server")
        for name in COMMANDS:
            whole = home / "whole" / name
            start = time.perf_counter()
            assert server.run(name, whole) == 0, server.log()
            length = time.perf_counter() - start
            expected, kills, ended, exact = content(whole), 0, 0, 0
            while kills < count:
                out = home / f"{name}{kills}.{ended}"
                if rng.random() < 0.5:  # from outside, at a random moment
                    pid = server.start(name, out)
                    time.sleep(rng.uniform(0.1, 1.1) * length)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    status = server.wait(pid)
                else:  # just before a file is flushed, replaced, cut or removed
                    status = server.run(name, out, kill=rng.randint(1, 20))
                if status == 0:
                    ended += 1
                else:
                    kills += 1
                    again = server.run(name, out)
                    same = again == 0 and content(out) == expected
                    exact += same
                    if not same:
                        print(f"  {name}: kill {kills}: status {again}\n{server.log()}", flush=True)
            found.append((name, kills, ended, exact))
            print(f"{name}: {kills} kills, {exact} exact", flush=True)
        server.close()
    return found


def main() -> None:
    """Run both and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all readers (default 100,000)")
    parser.add_argument("--kills", type=int, default=100, help="of each command (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name begins so")
    parser.add_argument("--out", type=Path, help="the page")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _ring)
    start = time.perf_counter()
    chosen = {name: one for name, one in inputs.targets().items() if name.startswith(arguments.only)}
    rows, totals = [], collections.Counter()
    for name, target in chosen.items():
        with contextlib.redirect_stderr(io.StringIO()):
            tally = try_target(name, target, -(-arguments.inputs // len(chosen)), arguments.seed)
        totals.update(tally)
        rows.append((name, tally))
        print(f"{name}: {dict(tally)}", flush=True)
    kills = kill(arguments.kills, arguments.seed) if arguments.kills else []
    names = ("read", "refused", "traceback", "hang", "memory")
    table = "\n".join(
        f"| {name} | {sum(tally.values()):,} | " + " | ".join(f"{tally[outcome]:,}" for outcome in names) + " |"
        for name, tally in [*rows, ("**all**", totals)]
    )
    killed = "\n".join(f"| {name} | {n} | {exact} | {ended} |" for name, n, ended, exact in kills)
    page = f"""# Damaged inputs and kills

`make fuzz` (`python tests/fuzz/run.py --inputs {arguments.inputs} --kills {arguments.kills} --seed {arguments.seed}`):
{sum(totals.values()):,} inputs, {totals["traceback"]} tracebacks, {totals["hang"]} hangs (> {SECONDS} s),
peak memory of the process {peak():,.0f} MB; {time.perf_counter() - start:,.0f} s on {os.cpu_count()} cores;
Python {platform.python_version()}, jax {jax.__version__}.
What is tried and what must hold: [docs/robustness.md](../../docs/robustness.md).

| reader | inputs | read | refused | tracebacks | hangs | memory |
|---|---|---|---|---|---|---|
{table}

Commands killed (SIGKILL) at a random moment, or just before a file is flushed, replaced, cut or removed, and started
again; exact: all files are those of an undisturbed run. Trainings are replaced by a fast function.

| command | kills | exact | runs that ended before their kill |
|---|---|---|---|
{killed}
"""
    print(page)
    if arguments.out is not None:
        arguments.out.write_text(page)
    bad = totals["traceback"] + totals["hang"] + totals["memory"] + sum(n - exact for _, n, _, exact in kills)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
