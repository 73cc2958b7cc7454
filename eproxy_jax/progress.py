"""This module shows the progress of long work on stderr: done, rate, ETA, diverged."""

from __future__ import annotations

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
    """

    def __init__(self, total: int, done: int = 0, unit: str = "archs", stream: TextIO | None = None, every: float = 10):
        self._stream = sys.stderr if stream is None else stream
        self._total, self._before, self._unit = total, done, unit
        self._start = time.perf_counter()
        self._terminal = self._stream.isatty()
        self._every = 0.2 if self._terminal else every
        self._shown = -self._every

    def update(self, done: int, diverged: int = 0, more: str = "") -> None:
        """Show the state.

        Args:
          done: units finished since the beginning of the work, earlier sessions included.
          diverged: how many of them diverged.
          more: text for the end of the line.
        """
        elapsed = time.perf_counter() - self._start
        if elapsed - self._shown < self._every and done < self._total:
            return
        self._shown = elapsed
        rate = (done - self._before) / elapsed if elapsed > 0 else 0.0
        eta = format_seconds((self._total - done) / rate) if rate > 0 else "?"
        text = (
            f"{done}/{self._total} {self._unit} ({100 * done / self._total:.0f} %), {rate:.2f} {self._unit}/s, "
            f"ETA {eta}, {diverged} diverged{more}"
        )
        end = "\n" if not self._terminal or done >= self._total else ""
        self._stream.write(("\r\x1b[2K" if self._terminal else "") + text + end)
        self._stream.flush()


def announce(text: str) -> None:
    """Print a line on stderr, for the person who waits."""
    print(f"eproxy: {text}", file=sys.stderr)


def format_seconds(seconds: float) -> str:
    """Format a duration: ``75`` -> ``1:15``, ``3700`` -> ``1:01:40``.

    Example:
      >>> format_seconds(75), format_seconds(3700)
      ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
