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

# These are no tests: pytest imports every module for its doctests, and these two register spaces when it does.
collect_ignore = ["tiny_config.py", "large_config.py"]

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
    "test_public.py",
    "test_shapes.py",
    "test_faults.py",
    "test_errors.py",
    "test_report.py",
)


# Tests of one space whose name is not a parameter.
_SPACES_OF_FILES = {"test_nds_anynet.py": "nds_resnext_a", "test_nds_cells.py": "nds_darts"}
_SPACES_OF_FILES |= {f"test_{name}.py": name for name in spaces.names()}


def _group(nodeid: str) -> str | None:
    """What one worker runs: a file, or all that is about one search space, since its tests share programs."""
    file, _, parameters = nodeid.partition("[")
    file = file.partition("::")[0].rpartition("/")[2]
    if file in _FILES_OF_ONE_WORKER:
        return file
    named = [part for part in parameters.rstrip("]").split("-") if part in spaces.names()]
    return named[0] if named else _SPACES_OF_FILES.get(file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Deal groups to workers; tests without a group are dealt one by one.

    This does what ``--dist loadgroup`` is for, which pytest 9.2 and xdist 3.8 together ignore without a word.
    """
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid) or nodeid

    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests into an order that keeps both workers busy (``--no-loadscope-reorder``)."""

    def place(item: pytest.Item) -> int:
        if item.path.name in _FILES_OF_ONE_WORKER:
            return _FILES_OF_ONE_WORKER.index(item.path.name)
        # Doctests of the package train networks; single tests fill the gaps at the end.
        last = len(_FILES_OF_ONE_WORKER)
        return last + (0 if ROOT / "tests" not in item.path.parents else 1 if _group(item.nodeid) else 2)

    items.sort(key=place)


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
