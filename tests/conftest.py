"""Two CPU devices, no implicit rank promotion, data and small fixtures shared by the tests."""

import os
import sys
from pathlib import Path

import jax
import pytest

from eproxy_jax.execution import memory, programs

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile much and run little: half the time goes if XLA optimises less. Results stay within the tolerances.
jax.config.update("jax_disable_most_optimizations", True)

ROOT = Path(__file__).resolve().parents[1]

# Programs that several tests, workers or child processes need are compiled once, and read from disk by later runs.
_CACHE = str(ROOT / ".cache" / "programs")
programs.keep_on_disk(_CACHE)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# PyTorch's threads wait for each other by spinning: ten times the time of one thread on tiny networks and busy cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tests"))


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
    if memory.mappings_left() < 0.75:
        programs.forget()
        jax.clear_caches()
