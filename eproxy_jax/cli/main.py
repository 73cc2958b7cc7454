"""This module is the entry point of ``eproxy score``, ``eproxy plan``, ``eproxy dps`` and ``eproxy bank``.

It reads flags and configuration, hands frozen specs to the library, and turns errors into one line and exit status 2.
It computes nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence

from eproxy_jax.cli import bank, common, dps, plan, score
from eproxy_jax.cli.common import UsageError

EXIT_USAGE = 2
EXIT_SIGTERM = 128 + signal.SIGTERM
_COMMANDS = {"score": score, "plan": plan, "dps": dps, "bank": bank}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``eproxy`` console script.

    Args:
      argv: arguments without the program's name; those of the process if absent.

    Returns:
      Exit status: 0, or 2 for bad input.
    """
    own = parser()
    arguments, rest = own.parse_known_args(argv)
    overrides = [text for text in rest if text.startswith("--config.")]
    unknown = [text for text in rest if not text.startswith("--config.")]
    if unknown:
        own.error(f"unrecognized arguments: {' '.join(unknown)}")
    if any("=" not in text for text in overrides):
        own.error("configuration overrides are written --config.FIELD=VALUE, with '='")
    try:
        common.check_paths(arguments)
        if argv is None:  # run as a program; a caller of this function has configured JAX already
            _obey_sigterm()
            _configure_jax(arguments)
        return _COMMANDS[arguments.command].run(arguments, overrides)
    except (UsageError, ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"eproxy: error: {message}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\neproxy: interrupted; start it again with the same flags to resume", file=sys.stderr)
        return 130


_GRACE_SECONDS = 3.0


def _obey_sigterm() -> None:
    """End on SIGTERM: at once where Python runs, within seconds where XLA compiles or trains.

    Files stay whole in either case: lines are appended as a whole, and a half-written last one is dropped later.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def stop(*_: object) -> None:
        print("eproxy: stopped (SIGTERM); start it again with the same flags to resume", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_SIGTERM)

    def watch() -> None:
        while os.read(reader, 1)[0] != signal.SIGTERM:
            pass
        if (meeting := sys.modules.get("eproxy_jax.runs.meeting")) is not None:
            meeting.stop_all()
        time.sleep(_GRACE_SECONDS)
        os._exit(EXIT_SIGTERM)  # the main thread is inside of XLA, which hears no signals

    signal.signal(signal.SIGTERM, stop)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; this loads neither JAX, Flax nor SciPy."""
    from eproxy_jax import __version__

    top = argparse.ArgumentParser(
        prog="eproxy", description="Rank candidate networks for neural architecture search without training them."
    )
    top.add_argument("--version", action="version", version=f"eproxy_jax {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    for command in _COMMANDS.values():
        command.add_parser(commands)
    return top


def _configure_jax(arguments: argparse.Namespace) -> None:
    """Configure JAX before its backend starts: one CPU device per core, so that candidates run in parallel."""
    from eproxy_jax.execution.configuration import configure

    warnings.showwarning = lambda message, *_, **__: print(f"eproxy: warning: {message}", file=sys.stderr)
    try:
        configure(arguments.devices, arguments.compile_cache)
    except OSError as error:
        warnings.warn(f"compiled programs are not kept: {error} (--compile-cache)", RuntimeWarning, stacklevel=1)
    if arguments.command == "score":
        several = arguments.coordinator, arguments.num_processes, arguments.process_id
        join_processes(arguments.distributed, *several, wait=arguments.wait)


def join_processes(
    distributed: bool, coordinator: str | None, count: int | None, index: int | None, wait: float = 600.0
) -> None:
    """Check the flags of several processes, and start JAX's distributed runtime if they ask for it.

    Args:
      distributed: ``--distributed``.
      coordinator: ``--coordinator``.
      count: ``--num-processes``.
      index: ``--process-id``.
      wait: ``--wait``, s.

    Raises:
      UsageError: the flags do not fit together, or the other processes cannot be reached.
    """
    if (coordinator is None) != (count is None) or (count is None) != (index is None):
        raise UsageError("--coordinator, --num-processes and --process-id go together")
    if count is not None and index is not None and index >= count:
        raise UsageError(f"--process-id {index}: expected 0 to {count - 1}, as --num-processes is {count}")
    if distributed and coordinator is not None:
        raise UsageError("--distributed finds the processes, --coordinator tells them: give one of the two")
    if not distributed and coordinator is None:
        return
    from eproxy_jax.runs import hosts

    if coordinator is not None:
        hosts.address_of(coordinator)
        return
    try:
        hosts.start(wait)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"cannot join the other processes: {error}") from error
