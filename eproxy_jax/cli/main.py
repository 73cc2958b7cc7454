"""This module is the entry point of ``eproxy score``, ``plan``, ``dps``, ``bank`` and ``spaces``.

It reads flags and configuration, hands frozen specs to the library, and turns errors into one line and exit status 2.
It computes nothing.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from eproxy_jax.cli import bank, dps, plan, score, spaces
from eproxy_jax.cli.common import UsageError

EXIT_USAGE = 2
_COMMANDS = {"score": score, "plan": plan, "dps": dps, "bank": bank, "spaces": spaces}


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
        # Run as a program; a caller of this function has configured JAX already. Some commands run nothing on devices.
        if argv is None and hasattr(arguments, "devices"):
            _configure_jax(arguments)
        return _COMMANDS[arguments.command].run(arguments, overrides)
    except (UsageError, ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"eproxy: error: {message}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\neproxy: interrupted; start it again with the same flags to resume", file=sys.stderr)
        return 130


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
        join_processes(arguments.distributed, arguments.coordinator, arguments.num_processes, arguments.process_id)


def join_processes(distributed: bool, coordinator: str | None, count: int | None, index: int | None) -> None:
    """Start JAX's distributed runtime if the flags ask for it.

    Args:
      distributed: ``--distributed``.
      coordinator: ``--coordinator``.
      count: ``--num-processes``.
      index: ``--process-id``.

    Raises:
      UsageError: the flags do not fit together, or the other processes cannot be reached.
    """
    if (coordinator is None) != (count is None) or (count is None) != (index is None):
        raise UsageError("--coordinator, --num-processes and --process-id go together")
    if count is not None and index is not None and index >= count:
        raise UsageError(f"--process-id {index}: expected 0 to {count - 1}, as --num-processes is {count}")
    if distributed or coordinator is not None:
        from eproxy_jax.runs import hosts

        try:
            hosts.start(coordinator, count, index)
        except (RuntimeError, ValueError) as error:
            raise UsageError(f"cannot join the other processes: {error}") from error
