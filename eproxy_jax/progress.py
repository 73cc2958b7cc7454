"""This module shows the progress of long work on stderr: done, rate, ETA, diverged."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TextIO


class Progress:
    """A status line. A terminal shows it in place; any other stream gets a new line every few seconds.

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
        self._stream = sys.stderr if stream is None else stream
        self.total, self._before, self._unit = total, done, unit
        self._start = time.perf_counter()
        self._terminal = self._stream is not None and not self._stream.closed and self._stream.isatty()
        self._every = 0.2 if self._terminal else every
        self._shown, self._after = -self._every, after

    def update(self, done: int, diverged: int | None = None, more: str = "") -> None:
        """Show the state.

        Args:
          done: units finished since the beginning of the work, earlier sessions included.
          diverged: how many of them diverged; None where nothing can.
          more: text for the end of the line.
        """
        elapsed = time.perf_counter() - self._start
        if elapsed - self._shown < self._every and done < self.total:
            return
        if elapsed < self._after and self._shown < 0:
            return
        self._shown = elapsed
        rate = (done - self._before) / elapsed if elapsed > 0 else 0.0
        eta = format_seconds((self.total - done) / rate) if rate > 0 else "?"
        text = f"{done}/{self.total} {self._unit} ({100 * done / max(self.total, 1):.0f} %)"
        text += f", {rate:.2f} {self._unit}/s, ETA {eta}"
        text += ("" if diverged is None else f", {diverged} diverged") + more
        end = "\n" if not self._terminal or done >= self.total else ""
        _write(self._stream, ("\r\x1b[2K" if self._terminal else "") + text + end)


def announce(text: str) -> None:
    """Print a line on stderr, for the person who waits."""
    _write(sys.stderr, f"eproxy: {text}\n")


def _write(stream: TextIO | None, text: str) -> None:
    """Write what nobody needs: a reader that went away (``2>&1 | head``) does not end a run of hours."""
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        stream.write(text)
        stream.flush()


def format_seconds(seconds: float) -> str:
    """Format a duration: ``75`` -> ``1:15``, ``3700`` -> ``1:01:40``.

    Example:
      >>> format_seconds(75), format_seconds(3700)
      ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
