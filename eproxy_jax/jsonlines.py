"""This module writes append-only files of JSON lines that survive kill -9, and makes the fingerprints in them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(description: dict[str, Any]) -> str:
    """Return a hash of plain data, such as all that a score depends on: 12 hexadecimal digits."""
    text = json.dumps(description, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def json_number(value: float) -> float | None:
    """Round to float32 and return its shortest decimal; None (null) if it is not finite: JSON has no such number.

    :func:`read_numbers` inverts it.
    """
    rounded = as_float32(value)[()]
    return float(str(np.float32(rounded))) if math.isfinite(rounded) else None


def as_float32(values: Any) -> np.ndarray:
    """Return numbers rounded to float32, as float64: what a file of :func:`json_number` holds of them."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite, hence null
        return np.asarray(values, np.float64).astype(np.float32).astype(np.float64)


def read_numbers(values: Any) -> np.ndarray:
    """Return numbers of :func:`json_number`, in nested lists, as the float64 array that was written; null is NaN.

    The decimal of a float32 number, read as float64, differs from that number by its rounding: 0.1 is not the float32
    number next to 0.1. So it is rounded once more.

    Example:
      >>> float(read_numbers(json_number(np.float32(0.1)))) == float(np.float32(0.1))
      True
    """
    return as_float32(np.asarray(values, np.float64))  # None becomes NaN


def encode_array(array: np.ndarray) -> Any:
    """Return nested lists of shortest decimals, which read back to the same bits; NaN and infinities become text."""
    if array.ndim:
        return [encode_array(part) for part in array]
    if not np.issubdtype(array.dtype, np.floating):
        return array.item()
    return float(str(array[()])) if np.isfinite(array) else str(array[()])


def decode_array(value: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Invert :func:`encode_array`.

    Raises:
      ValueError: the value has another shape.
    """
    flat = np.asarray(value, object).ravel()
    numbers = [float(v) if isinstance(v, str) else v for v in flat]
    return np.asarray(numbers, dtype).reshape(shape)


class JsonLines:
    """A locked, append-only file of JSON lines. Opening it drops a half-written last line.

    Args:
      path: the file; its folder is made.

    Attributes:
      rows: the parsed lines of the file.
      torn: True if a half-written last line was dropped.

    Raises:
      ValueError: a line is not JSON, or another process is writing the file.
      OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            _lock(self._file, path)  # before reading, because another writer may still append
            self._file.seek(0)
            content = self._file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self.rows = [_parse_line(path, n, line) for n, line in enumerate(whole.splitlines(), start=1)]
            self._check_rows()
        except ValueError:
            self._file.close()
            raise
        self.torn = len(whole) < len(content)
        self._file.truncate(len(whole))

    def _check_rows(self) -> None:
        """Check the rows; subclasses know what a row should hold."""

    def append(self, lines: Sequence[str]) -> None:
        """Write lines and flush them to the disk."""
        self._file.write("".join(line + "\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.extend(json.loads(line) for line in lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


ANOTHER_OUT = "choose another file (--out, --workdir), or move this one away"


def _parse_line(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{path}:{number}: not JSON: remove this line and those after it to resume, or {ANOTHER_OUT}"
        ) from error


def _lock(file: Any, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl: there the user must avoid two writers of one file
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(
            f"{path}: another process is writing it: wait for it, or choose another file (--out, --workdir)"
        ) from error
