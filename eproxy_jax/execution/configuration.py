"""This module sets what JAX must know before it starts: the CPU devices and the folder of compiled programs."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from eproxy_jax.execution import programs


def default_compile_cache() -> Path:
    """Return the user's cache folder for compiled programs.

    Raises:
      OSError: the user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        base = base or Path.home() / ".cache"
    except RuntimeError as error:  # neither HOME nor an entry among the system's users
        raise OSError("this user has no home folder") from error
    return Path(base) / "eproxy_jax" / "programs"


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure(devices: int | None = None, compile_cache: str | os.PathLike[str] | None = None) -> None:
    """Set up JAX as the command line does. Call it before JAX starts its backend; calling it is optional.

    By default JAX has one CPU device. With several, candidates run side by side. Without this call, scores are the same
    and use one core.

    Args:
      devices: number of CPU devices; one for each core by default. Accelerators are not affected.
      compile_cache: folder that keeps compiled programs for later processes; ``"off"`` for none. The user's cache
        folder by default. A folder that was set before, such as by ``JAX_COMPILATION_CACHE_DIR``, stays.

    Raises:
      ValueError: JAX runs already with another number of CPU devices, or ``devices`` is less than 1.
      OSError: the folder cannot be made.
    """
    count = available_cores() if devices is None else devices
    if count < 1:
        raise ValueError(f"configure: devices: expected an integer >= 1, got {devices}")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        running = jax.device_count("cpu")
        if running != count:
            raise ValueError(
                f"configure: JAX runs already, with {running} CPU device(s) instead of {count}: "
                "call ep.configure before anything else uses JAX"
            ) from error
    if compile_cache != "off":
        programs.keep_on_disk(default_compile_cache() if compile_cache is None else compile_cache)
