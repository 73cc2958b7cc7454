"""Runs commands in child processes that start in a moment, with fast trainings and with faults.

The server imports the package once and forks for each command it reads on standard input, before JAX has started.
Requests and answers are lines of JSON: ``{"argv": [...], "log": FILE, "fault": {...}}`` gives ``{"pid": N}`` at once,
and ``{"pid": N, "status": S}`` when the child has ended.

Faults: ``{"kill": K}`` ends the child by SIGKILL at its K-th durable operation; ``{"limit": B}`` lets no file grow
beyond B bytes, as a full disk does; ``{"pause": FILE}`` waits in the first training until FILE exists.
"""

import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eproxy_jax import targets
from eproxy_jax.cli import config, main
from eproxy_jax.dps import comparison, evolution, labels, loss_bank, search
from eproxy_jax.execution import evaluation, programs
from eproxy_jax.report import writing
from eproxy_jax.runs import columns, fitting, printed, resumable

IMPORTED = (
    columns,
    config,
    comparison,
    loss_bank,
    printed,
    resumable,
    fitting,
    writing,
)  # what commands import when they run
SECONDS = 0.004  # of one training in the place of real ones


# --- trainings that take no time -----------------------------------------------------------------------------


def run_groups(candidate_of, inputs, execution, key, shared, compiled=None):
    """Stand in for ``programs.run_groups``: losses, or columns, by a hash of architecture, key and shared arrays."""
    del execution, compiled
    pause()
    arrays = [jax.random.key_data(key), *jax.tree.leaves(shared)]
    salt = sum(np.frombuffer(np.asarray(array).tobytes(), np.uint8).sum(dtype=np.int64) for array in arrays)
    for one in inputs:
        candidate = candidate_of(one.group)
        column = getattr(getattr(candidate, "fn", None), "name", None)  # of a proxy of tiny_config.py
        steps = 1 if column else candidate.num_steps if hasattr(candidate, "num_steps") else candidate.fn.spec.num_steps
        for start in range(0, len(one.positions), 2):
            rows = one.identity[start : start + 2]
            draws = [np.random.default_rng([int(salt), *map(int, row)]).uniform(0.1, 0.9, steps) for row in rows]
            time.sleep(SECONDS)
            values = np.stack(draws).astype(np.float32)
            yield one.positions[start : start + 2], {column: values[:, 0]} if column else values


def prepare(problem, execution):
    """Stand in for ``search.prepare``: each evaluation is drawn from its number alone."""
    made = labels.make_labels(problem.space, problem.labelled, problem.truth, execution)
    table, spec = problem.genes, problem.search
    initial = evolution.initial_state(table, spec, len(made.truth))

    def call(state, random_until, stop):
        pause()
        host = jax.tree.map(np.array, jax.device_get(state))
        first = int(host.count)
        last = min(first + spec.log_every, stop)
        for number in range(first, last):
            rng = np.random.default_rng([number, int(random_until)])
            genes = rng.integers(0, table.sizes).astype(np.int32)
            genes[5] = 1  # each branch needs a feature
            host.genes[number], host.fitness[number] = table.canonical(genes), rng.uniform()
            host.losses[number] = rng.uniform(0.1, 0.9, host.losses[number].shape)
        time.sleep(SECONDS)
        return host.replace(count=np.asarray(last, np.int32))

    return search.Search(spec, table, call, initial, 0.0)


def install() -> None:
    """Replace all trainings of this process, and the one target that is a network itself."""
    targets.BUILT_IN["net"] = targets.BUILT_IN["wave_l"]
    evaluation.run_groups = programs.run_groups = run_groups
    search.prepare = prepare


# --- faults --------------------------------------------------------------------------------------------------

_pause: list[str] = []
_DURABLE = ("fsync", "replace", "rename", "unlink", "remove", "truncate", "ftruncate", "link")


def pause() -> None:
    """Wait for the file of ``{"pause": FILE}``."""
    while _pause and not Path(_pause[0]).exists():
        time.sleep(0.005)


def inject(fault: dict[str, Any]) -> None:
    """Set this process up to fail."""
    _pause.extend([fault["pause"]] if "pause" in fault else [])
    if "limit" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["limit"], resource.RLIM_INFINITY))
    if "kill" in fault:
        count = [0]

        def counted(function):
            def call(*arguments, **options):
                count[0] += 1
                if count[0] == fault["kill"]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return call

        for name in _DURABLE:
            setattr(os, name, counted(getattr(os, name)))


def child(request: dict[str, Any]) -> int:
    """Run one command; returns its exit status."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    install()
    inject(request["fault"])
    return main.main(request["argv"])


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    running = set()
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.005)
        if ready:
            if not (more := os.read(0, 2**16)):
                return
            buffer += more
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            if (pid := os.fork()) == 0:
                status = 99
                try:
                    status = child(json.loads(line))
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            running.add(pid)
            answers.write(json.dumps({"pid": pid}) + "\n")
        for pid in list(running):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                running.remove(pid)
                answers.write(json.dumps({"pid": pid, "status": os.waitstatus_to_exitcode(status)}) + "\n")


if __name__ == "__main__":
    serve()
