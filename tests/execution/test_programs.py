"""Memory that runs out, programs compiled ahead, dropped and kept on disk: the same losses."""

import dataclasses
import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eproxy_jax.execution import memory, programs
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import GroupInput

NUM_STEPS = 3
SHARED = (jnp.ones(5),)


def train(group, key, encoded, values):
    """In place of a training: losses that depend on candidate, group and what is shared."""
    return jax.random.normal(key, (NUM_STEPS,)) * encoded.sum() + group * values.sum()


# Cached: programs are shared by equal functions, and partial objects equal only themselves.
candidate_of = functools.cache(lambda group: functools.partial(train, group))


def group_input(group, positions):
    positions = np.asarray(positions)
    identity = np.stack([positions, positions + 1], 1).astype(np.uint32)
    return GroupInput(group, positions, identity, positions[:, None].astype(np.int32) + np.arange(4, dtype="i"))


class Group(int):
    """In place of a group of architectures."""

    def universal(self):
        """It has no network."""


INPUTS = [group_input(Group(1), range(0, 20, 2)), group_input(Group(2), range(1, 20, 2))]


def run(execution, compiled=None):
    """Losses [20, S]; each candidate is trained once."""
    key, shared = execution.replicate((jax.random.key(0), SHARED))
    found = np.full((20, NUM_STEPS), np.nan)
    for positions, losses in programs.run_groups(candidate_of, INPUTS, execution, key, shared, compiled):
        assert np.isnan(found[positions]).all()
        found[positions] = losses
    return found


def execution(form="vmap", vmap_width=4, **options):
    return Execution.of(jax.devices(), form, vmap_width=vmap_width, **options)


@pytest.fixture
def expected():
    return run(execution())


def program_of(execution):
    arguments = (INPUTS[0].encoded.shape[1:], execution, jax.random.key(0), SHARED)
    return programs.compile_program(programs.ProgramSpec.of(candidate_of(1), *arguments))


def out_of_memory(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 GiB\nand a long story")


def test_halving_ends_with_one_candidate_a_device():
    sizes, smaller = [], execution(chunk_size=24)
    while smaller is not None:
        sizes.append((smaller.chunk_size, smaller.vmap_width))
        assert smaller.chunk_size % (len(jax.devices()) * smaller.vmap_width) == 0
        smaller = smaller.halved()
    assert sizes == [(24, 4), (8, 4), (4, 2), (2, 1)]
    assert execution("map", chunk_size=12).halved().chunk_size == 6
    assert execution("map", chunk_size=2).halved() is None


@pytest.mark.parametrize("when", ["compiling", "running"])
def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch, expected, when):
    if when == "compiling":
        lower = programs.ProgramSpec.lower
        monkeypatch.setattr(
            programs.ProgramSpec, "lower", lambda spec: lower(spec) if spec.vmap_width < 4 else out_of_memory()
        )
        programs.forget()
    else:  # what was done before is not done again: see run
        fetch, calls = programs._fetch, []
        monkeypatch.setattr(
            programs, "_fetch", lambda *a: out_of_memory() if calls.append(0) or len(calls) == 2 else fetch(*a)
        )
    with pytest.warns(RuntimeWarning, match=r"out of memory \(RESOURCE_EXHAUSTED: Out of memory allocating 8 GiB\);"
                      " going on with 4 candidates at a time, 2 in a batch"):  # fmt: skip
        found = run(execution())
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_too_little_free_memory_halves_before_anything_runs(monkeypatch, expected):
    needed = iter([2**30, 1, 1, 1])  # of the first program, and of those after it
    compile_program = programs.compile_program
    programs.forget()
    monkeypatch.setattr(
        programs, "compile_program", lambda spec: dataclasses.replace(compile_program(spec), temp_bytes=next(needed))
    )
    monkeypatch.setattr(memory, "free_bytes", lambda devices: 2**30)
    with pytest.warns(RuntimeWarning, match=r"out of memory \(1024 MiB of working memory a device\); going on with 4 "):
        np.testing.assert_allclose(run(execution()), expected, rtol=1e-6)


def test_what_does_not_fit_at_all_and_other_errors_are_raised(monkeypatch):
    monkeypatch.setattr(programs, "_fetch", out_of_memory)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        run(execution(vmap_width=1, chunk_size=2))

    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no luck")

    monkeypatch.setattr(programs, "_fetch", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no luck"):
        run(execution())


def test_the_widest_batch_that_fits(monkeypatch):
    devices = jax.devices()
    for free, width in ((5001, 4), (9999, 4), (50_001, 32), (1e9, 512), (10, 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda devices, free=free: free)
        assert memory.fitting_width(4000, 4, devices) == width  # 1000 a candidate
    monkeypatch.setattr(memory, "free_bytes", lambda devices: None)
    assert memory.fitting_width(4000, 4, devices) == 4


def test_compiling_ahead_changes_nothing(expected):
    ahead = dataclasses.replace(execution(), compile_ahead=True)
    for compilations in (2, 0):
        if compilations:
            programs.forget()
        before, waited = programs.num_compilations(), []
        np.testing.assert_array_equal(run(ahead, waited.append), expected)
        assert programs.num_compilations() - before == len(waited) == compilations


def test_programs_are_dropped_before_memory_mappings_run_out(monkeypatch):
    """XLA's CPU backend maps each kernel by itself, and ends the process when Linux allows no more."""
    first = program_of(execution("map"))
    assert program_of(execution("map")) is first
    monkeypatch.setattr(memory, "mappings_left", lambda: 0.1)
    program_of(execution("map", chunk_size=2))
    monkeypatch.undo()
    assert program_of(execution("map")) is not first
    assert 0 < memory.mappings_left() < 1


@pytest.mark.slow
def test_compiled_programs_are_kept_on_disk_for_later_processes(tmp_path):
    script = """
import json, sys
import jax
import eproxy_jax as ep
from eproxy_jax import scoring
ep.configure(devices=1, compile_cache=sys.argv[1])
read = []
jax.monitoring.register_event_listener(lambda event, **_: read.append(event.endswith("/cache_hits")))
space = ep.spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
job = scoring.make_job(space, None, ep.default_images(num=2, size=8), 0)
program = job.evaluation.program((3, 0, 0, 0, 0, 0))
losses = [chunk.tolist() for _, chunk in job.evaluation.run([(3, 0, 0, 0, 0, 0)])]
print(json.dumps([losses, program.temp_bytes, sum(read)]))
"""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", script, str(tmp_path / "kept")]
    runs = [json.loads(subprocess.check_output(command, env=environment)) for _ in range(2)]
    assert list((tmp_path / "kept").glob("jit_on_device-*"))
    assert runs[0][:2] == runs[1][:2]
    assert [hits > 0 for _, _, hits in runs] == [False, True]
