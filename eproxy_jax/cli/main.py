"""This module is the entry point of ``eproxy`` and its commands.

It reads flags and configuration, hands frozen specs to the library, and turns errors into one line and exit status 2.
It computes nothing. With ``EPROXY_TRACEBACK=1`` in the environment the traceback of any error stands before its line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence

from eproxy_jax import progress
from eproxy_jax.cli import (
    bank,
    common,
    convert,
    dps,
    export,
    fit,
    plan,
    proxies,
    report,
    score,
    search,
    spaces,
    suggest,
)
from eproxy_jax.cli.common import Parser, UsageError
from eproxy_jax.errors import one_line, quoted

EXIT_USAGE = 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # as the shell says it of SIGINT
EXIT_PIPE = 141  # as the shell says it of SIGPIPE
EXIT_SIGTERM = 128 + signal.SIGTERM
_COMMANDS = {
    "score": score, "fit": fit, "suggest": suggest, "search": search, "plan": plan, "dps": dps, "bank": bank,
    "convert": convert, "spaces": spaces, "proxies": proxies, "export": export,
    "report": report,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``eproxy`` console script.

    Args:
      argv: arguments without the program's name; those of the process if absent.

    Returns:
      Exit status: 0; 2 for bad input; 70 for an error of this package; 130 if interrupted; 141 if nobody reads what
      the command prints.
    """
    if argv is not None:  # a caller of this function has configured JAX and its streams already
        return _run(argv)
    _open_standard_streams()
    # XLA's alarms, such as of slow constant folding, are nothing that a user can act on. What fails is raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        status = _run(None)
    except SystemExit as stop:  # argparse printed help, a version, or an error
        status = stop.code if isinstance(stop.code, int) else EXIT_USAGE
    try:
        sys.stdout.flush()
    except OSError as error:
        status = _unprinted(error)
    return status


def _run(argv: Sequence[str] | None) -> int:
    own = parser()
    arguments, rest = own.parse_known_args(argv)
    overrides = [text for text in rest if text.startswith("--config.")]
    unknown = [text for text in rest if not text.startswith("--config.")]
    if unknown:
        own.error(f"unrecognized arguments: {quoted(' '.join(unknown))[1:-1]}")
    if any("=" not in text for text in overrides):
        own.error("configuration overrides are written --config.FIELD=VALUE, with '='")
    try:
        common.check_paths(arguments)
        # Run as a program; a caller of this function has configured JAX already. Some commands run nothing on devices.
        if argv is None and hasattr(arguments, "devices"):
            _obey_sigterm()
            _configure_jax(arguments)
        return _COMMANDS[arguments.command].run(arguments, overrides)
    except BrokenPipeError as error:
        return _unprinted(error)
    except (UsageError, ValueError, OSError) as error:
        return _say(f"error: {one_line(error)}", EXIT_USAGE)
    except MemoryError as error:
        return _say(f"error: out of memory: {one_line(error)}: fewer architectures, or smaller sizes", EXIT_USAGE)
    except KeyboardInterrupt:
        return _say("interrupted; start it again with the same flags to resume", EXIT_INTERRUPTED)
    except Exception as error:  # the traceback of a bug helps who mends it, and nobody else
        text = f"internal error: {type(error).__name__}: {one_line(error)}"
        return _say(f"{text}: this is a bug of eproxy_jax, please report it; EPROXY_TRACEBACK=1 shows where", EXIT_BUG)


def _say(text: str, status: int) -> int:
    """Print the last line of a command that failed; to be called while its error is handled."""
    progress.close()
    with contextlib.suppress(OSError):
        if os.environ.get("EPROXY_TRACEBACK"):
            traceback.print_exc()
        print(f"eproxy: {text}", file=sys.stderr)
    return status


def _unprinted(error: OSError) -> int:
    """Return the status of a command whose standard output cannot be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the interpreter's last flush would say it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # whoever read it has enough, as of ``eproxy score | head``
        return EXIT_PIPE
    return _say(f"error: standard output: {one_line(error)}", EXIT_USAGE)


def _open_standard_streams() -> None:
    """Open standard streams that the caller has closed, and let them print any name.

    Otherwise the next file that is opened takes the place of standard error, and libraries print into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest free number, which is this one
            setattr(sys, name, None)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _obey_sigterm() -> None:
    """End on SIGTERM at once, also where XLA compiles or trains and Python hears no signals.

    Files stay whole: lines are appended as a whole, a half-written last one is dropped by the next session, and all
    other files are replaced as a whole.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while os.read(reader, 1)[0] != signal.SIGTERM:
            pass
        if (meeting := sys.modules.get("eproxy_jax.runs.meeting")) is not None:
            meeting.stop_all()
        progress.close()
        with contextlib.suppress(OSError):
            text = "eproxy: stopped (SIGTERM); start it again with the same flags to resume"
            print(text, file=sys.stderr, flush=True)
        os._exit(EXIT_SIGTERM)

    # The handler does nothing, for an exception could arise anywhere; the byte in the pipe wakes the thread.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; this loads neither JAX, Flax nor SciPy."""
    from eproxy_jax import __version__

    top = Parser(
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
    from eproxy_jax.progress import announce

    warnings.showwarning = lambda message, *_, **__: announce(f"warning: {one_line(str(message))}")
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
        progress.set_process(index or 0, count or 1)
        return
    try:
        hosts.start(wait)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"cannot join the other processes: {one_line(error)}") from error
