"""This module shows the progress of long work on stderr: done, rate, ETA, diverged, best so far.

A terminal has one live bar, drawn by rich, which flax brings along. Any other stream gets plain lines. Processes of one
run may share a terminal, so each of them writes plain lines with its number.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

_T = TypeVar("_T")


class Progress:
    """The state of some work. A terminal shows it in one live bar; any other stream gets a new line now and then.

    A new bar ends the one before. Leave it as a context manager, or call :func:`close`, where work may end early.

    Args:
      total: units of work.
      done: units finished before this session; the rate leaves them out.
      unit: name of what is counted.
      stream: defaults to stderr.
      every: seconds between lines if the stream is not a terminal.
      after: seconds before the first line; work that ends before shows none.

    Attributes:
      total: units of work; may be changed on the way.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        unit: str = "archs",
        stream: TextIO | None = None,
        every: float = 10,
        after: float = 0,
    ):
        self._own_stream = stream
        self.total, self._before, self._unit = total, done, unit
        self._start = time.perf_counter()
        self._terminal = _is_terminal(self._stream)
        self._every = 0.2 if self._terminal else every
        self._shown, self._after = -self._every, after
        self._bar: _Bar | None = None
        if self._terminal and not after and done < total:
            self._show(done, 0.0, None, None, "")  # the bar stands while the first program compiles

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _stream(self) -> TextIO | None:
        # Looked up each time: rich puts a stand-in for sys.stderr there while a bar is shown.
        return sys.stderr if self._own_stream is None else self._own_stream

    def update(self, done: int, diverged: int | None = None, more: str = "", best: float | None = None) -> None:
        """Show the state.

        Args:
          done: units finished since the beginning of the work, earlier sessions included.
          diverged: how many of them diverged; None where nothing can.
          more: text for the end of the line.
          best: the best score, fitness or value so far; None or not finite where there is none.
        """
        elapsed = time.perf_counter() - self._start
        if elapsed - self._shown < self._every and done < self.total:
            return
        if elapsed < self._after and self._shown < 0:
            return
        self._shown = elapsed
        self._show(done, elapsed, diverged, best, more)
        if done >= self.total:
            self.close()

    def close(self) -> None:
        """End the bar, and leave its last state above what is printed next."""
        if self._bar is not None and self._bar is _one.bar:
            close()
        self._bar = None

    def _show(self, done: int, elapsed: float, diverged: int | None, best: float | None, more: str) -> None:
        rate = (done - self._before) / elapsed if elapsed > 0 else 0.0
        eta = format_seconds((self.total - done) / rate) if rate > 0 else "?"
        share, count = done / max(self.total, 1), f"{done}/{self.total} {self._unit}"
        rest = f"/s, ETA {eta}" + ("" if diverged is None else f", {diverged} diverged")
        rest += (f", best {best:.4g}" if best is not None and math.isfinite(best) else "") + more
        if not self._terminal:
            _write(self._stream, f"{_one.process}{count} ({100 * share:.0f} %), {rate:.2f} {self._unit}{rest}\n")
            return
        if self._bar is None or self._bar is not _one.bar:
            close()
            self._bar = _one.bar = None if self._stream is None else _Bar(self._stream)
        if self._bar is not None:
            self._bar.show(count, share, f"{100 * share:.0f} %, {rate:.2f}{rest}")


def track(items: Iterable[_T], unit: str, after: float = 2, total: int | None = None) -> Iterator[_T]:
    """Yield items, and show how many are done if that takes longer than ``after`` seconds.

    Args:
      items: what the work goes through.
      unit: name of what is counted.
      after: seconds before anything is shown.
      total: number of items; their length by default.

    Example:
      >>> sum(track([1, 2, 3], unit="numbers"))
      6
    """
    total = len(items) if total is None and isinstance(items, Sized) else total or 0
    with Progress(total, unit=unit, after=after) as shown:
        for number, item in enumerate(items, start=1):
            yield item
            if number % 100 == 0 or number == total:
                shown.update(number)


def announce(text: str) -> None:
    """Print a line on stderr, for the person who waits; above the bar if there is one."""
    if _one.bar is not None:
        _one.bar.say(f"eproxy: {text}")
    else:
        _write(sys.stderr, f"eproxy: {text}\n")


def close() -> None:
    """End the bar if there is one: what is printed next begins on a line of its own."""
    bar, _one.bar = _one.bar, None
    if bar is not None:
        bar.close()


def set_process(index: int, count: int) -> None:
    """Say which process of a run this is: processes that share a terminal write lines with their number.

    Args:
      index: number of this process.
      count: number of processes; one alone may show a bar.
    """
    close()
    _one.process = f"process {index} of {count}: " if count > 1 else ""


def format_seconds(seconds: float) -> str:
    """Format a duration: ``75`` -> ``1:15``, ``3700`` -> ``1:01:40``.

    Example:
      >>> format_seconds(75), format_seconds(3700)
      ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


# --- the terminal --------------------------------------------------------------------------------------------


class _One:
    """The one bar of this process, and what begins its lines if it is one of several."""

    bar: _Bar | None = None
    process: str = ""


_one = _One()


class _Unbreakable:
    """A stream whose reader may go away (``2>&1 | head``, a closed window): that does not end a run of hours."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        _write(self._stream, text)
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True


def _write(stream: TextIO | None, text: str) -> None:
    """Write what nobody needs."""
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        stream.write(text)
        stream.flush()


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream shows a bar: a terminal that can move its cursor, of a process alone."""
    if stream is None or _one.process or os.environ.get("TERM") in ("dumb", "unknown"):
        return False
    with contextlib.suppress(OSError, ValueError):
        return not stream.closed and stream.isatty()
    return False


@functools.lru_cache(maxsize=1)
def _console(stream: TextIO) -> Any:
    """Return rich's console on a stream. All bars there share it: a log handler may hold an earlier bar's stand-in."""
    from rich.console import Console

    class Steady(Console):
        """A console that never hides the cursor: a killed run would leave the terminal without one."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    file: Any = _Unbreakable(stream)
    return Steady(file=file, force_terminal=True, force_jupyter=False, highlight=False)


class _Bar:
    """A bar on a terminal. rich takes a tenth of a second to import: only terminals pay for it."""

    def __init__(self, stream: TextIO):
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._console = _console(stream)
        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            TextColumn("{task.fields[right]}", markup=False, table_column=Column(no_wrap=True)),
            console=self._console,
            auto_refresh=False,  # no thread: the state changes in update() alone
            redirect_stdout=False,
            redirect_stderr=stream is sys.stderr,  # warnings and logging come above the bar
            expand=True,
        )

    def show(self, left: str, share: float, right: str) -> None:
        state: dict[str, Any] = {"description": left, "completed": min(share, 1.0), "right": right}
        if self._rich.tasks:
            self._rich.update(self._rich.tasks[0].id, refresh=True, **state)
        else:
            self._rich.add_task(total=1.0, **state)
            self._rich.start()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._rich.stop()


atexit.register(close)
