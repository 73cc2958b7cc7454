"""The command line: ``eproxy score``, ``eproxy plan``, ``eproxy dps``, ``eproxy bank``.

Reads flags and configuration at the edge, hands frozen specs to the library, and turns its errors into one line and
exit status 2. Nothing here is numeric.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from eproxy_jax.commands import bank, dps, plan, score
from eproxy_jax.commands.common import UsageError

EXIT_USAGE = 2
_COMMANDS = {"score": score, "plan": plan, "dps": dps, "bank": bank}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the ``eproxy`` console script.

    Args:
      argv: arguments without the program's name; those of the process when absent.

    Returns:
      Exit status: 0, or 2 for bad input.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if argv is None:  # as a program; a caller of main has a JAX of its own
        _configure_cpu_devices(arguments.devices)
    overrides = [text for text in rest if text.startswith("--config.")]
    unknown = [text for text in rest if not text.startswith("--config.")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if any("=" not in text for text in overrides):
        parser.error("configuration overrides are written --config.FIELD=VALUE, with '='")
    try:
        return _COMMANDS[arguments.command].run(arguments, overrides)
    except (UsageError, ValueError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"eproxy: error: {message}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\neproxy: interrupted; start it again with the same flags to resume", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from eproxy_jax import __version__

    parser = argparse.ArgumentParser(
        prog="eproxy", description="Rank candidate networks for neural architecture search without training them."
    )
    parser.add_argument("--version", action="version", version=f"eproxy_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in _COMMANDS.values():
        command.add_parser(commands)
    return parser


def _configure_cpu_devices(wanted: int | None) -> None:
    """On the CPU, one JAX device per core: devices run candidates side by side. Call before JAX starts its backend."""
    import jax

    jax.config.update("jax_num_cpu_devices", wanted or _available_cores())


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
