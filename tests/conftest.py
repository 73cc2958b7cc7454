"""Two CPU devices, no implicit rank promotion, data and small fixtures shared by the tests, and who runs which."""

import logging
import os
import sys
from pathlib import Path

import jax
import pytest

from eproxy_jax import spaces
from eproxy_jax.execution import memory, programs

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile much and run little: half the time goes if XLA optimises less. Results stay within the tolerances.
jax.config.update("jax_disable_most_optimizations", True)

ROOT = Path(__file__).resolve().parents[1]

# Programs that several tests, workers or child processes need are compiled once, and read from disk by later runs.
_CACHE = str(ROOT / ".cache" / "programs")
programs.keep_on_disk(_CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# PyTorch's threads wait for each other by spinning: ten times the time of one thread on tiny networks and busy cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))

# Files whose tests share compiled programs or fixtures that are dear to build: one worker runs all of such a file.
# The longest come first, and all before the groups of the spaces, so that both workers end at about the same time.
_FILES_OF_ONE_WORKER = (
    "test_cli.py",
    "test_search.py",
    "test_scoring.py",
    "test_hosts.py",
    "test_groups.py",
    "test_cli_dps.py",
    "test_loss_bank.py",
    "test_tiered.py",
    "test_flax_family.py",
    "test_programs.py",
    "test_readme.py",
)


def _group(item: pytest.Item) -> str | None:
    """What is run by one worker: a file, or all that is about one search space, since its tests share programs."""
    if item.path.name in _FILES_OF_ONE_WORKER:
        return item.path.name
    callspec = getattr(item, "callspec", None)
    name = callspec.params.get("name") if callspec else None
    if name in spaces.names():
        return name
    stem = item.path.stem.removeprefix("test_")
    return next((space for space in (stem, _SPACES_OF_FILES.get(stem)) if space in spaces.names()), None)


# Tests of one space whose name is not a parameter.
_SPACES_OF_FILES = {"nds_anynet": "nds_resnext_a", "nds_cells": "nds_darts"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal groups to workers (``--dist loadgroup --no-loadscope-reorder``) in an order that keeps both busy."""

    def place(item: pytest.Item) -> int:
        if item.path.name in _FILES_OF_ONE_WORKER:
            return _FILES_OF_ONE_WORKER.index(item.path.name)
        # Doctests of the package train networks; single tests fill the gaps at the end.
        return len(_FILES_OF_ONE_WORKER) + (0 if ROOT / "tests" not in item.path.parents else 1 if _group(item) else 2)

    items.sort(key=place)
    for item in items:
        if (group := _group(item)) is not None:
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of benchmark data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("EPROXY_DATA", ROOT / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark data at {folder}: set EPROXY_DATA")
    return folder


@pytest.fixture
def x64():
    """64-bit types for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def forget_programs():
    """Drop compiled programs in time: XLA's CPU backend crashes when a process runs out of memory mappings."""
    if (left := memory.mappings_left()) < 0.6:
        logging.getLogger(__name__).warning("%.0f %% of the memory mappings left: programs are dropped", 100 * left)
        programs.forget()
        jax.clear_caches()
