"""This module measures the memory of devices and of this process, and says how many candidates fit in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eproxy_jax.execution.execution import MAX_VMAP_WIDTH, Device

# Share of the free memory that working memory may take.
_SHARE = 0.8


def _available_bytes() -> int | None:
    """Return the memory that Linux could give to a process, bytes; None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def free_bytes(devices: Sequence[Device]) -> int | None:
    """Return the least free memory of the devices, bytes; None if unknown. CPU devices share the machine's memory."""
    free = []
    for device in devices:
        stats = device.memory_stats() if device.platform != "cpu" else None
        if stats and "bytes_limit" in stats:
            free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        elif device.platform == "cpu" and (available := _available_bytes()) is not None:
            free.append(available // len(devices))
    return min(free) if free else None


def fits(temp_bytes: int, devices: Sequence[Device]) -> bool:
    """Say if each device has ``temp_bytes`` free for working memory; True if unknown."""
    free = free_bytes(devices)
    return free is None or temp_bytes <= _SHARE * free


def fitting_width(temp_bytes: int, vmap_width: int, devices: Sequence[Device]) -> int:
    """Return the largest batch, a power of two, that fits in the devices' free memory.

    Args:
      temp_bytes: working memory of a batch of ``vmap_width`` candidates on one device, bytes.
      vmap_width: candidates of that batch. The result if the free memory or the working memory is unknown.
      devices: devices; each one runs a batch.
    """
    free = free_bytes(devices)
    if free is None or temp_bytes == 0:
        return vmap_width
    most = _SHARE * free * vmap_width / temp_bytes
    return int(2 ** np.floor(np.log2(np.clip(most, 1, MAX_VMAP_WIDTH))))


def is_out_of_memory(error: Exception) -> bool:
    """Say if an error of Python or of XLA reports that memory ran out."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def mappings_left() -> float:
    """Return the unused share of this process's memory mappings; 1 if the system sets no limit."""
    try:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        with Path("/proc/self/maps").open("rb") as maps:
            return 1 - sum(1 for _ in maps) / limit
    except (OSError, ValueError):
        return 1.0
