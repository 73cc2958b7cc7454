"""This module writes append-only files of JSON lines that survive kill -9, and makes the fingerprints in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from eproxy_jax import files
from eproxy_jax.errors import quoted


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


def as_json(values: Any, indent: int | None = None) -> str:
    """Return plain data as the text of a JSON file, with null for what is not finite: JSON has no such number."""
    return json.dumps(_finite(values), indent=indent) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
      ValueError: the value has another shape, or holds something else than numbers.
    """
    allowed = bool if np.dtype(dtype) == bool else (int, float, str)
    try:
        flat = np.asarray(value, object).ravel()
        if not all(isinstance(v, allowed) and (allowed is bool or not isinstance(v, bool)) for v in flat):
            raise TypeError
        with np.errstate(over="ignore"):  # a number that is too large is infinite, as it would be in this dtype
            array = np.asarray([float(v) if isinstance(v, str) else v for v in flat], dtype)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"expected numbers of shape {list(shape)}, got {quoted(value)}") from error
    return array.reshape(shape)


ANOTHER_OUT = "choose another file (--out, --workdir), or move this one away"


class JsonLines:
    """A locked, append-only file of JSON lines. Opening it drops a half-written last line.

    Opening changes nothing in a file of somebody else: the first line says whose it is, and a file that is not of this
    kind is refused as it is. Links, mode and owner of the file stay, whatever is written.

    Subclasses say in ``_is_first`` which first lines are theirs, and in ``_check_rows`` what all rows should hold.

    Args:
      path: the file; its folder is made.
      what: the word for the file, for messages, such as ``"loss bank"``.
      read_only: open an existing file to read it; it is neither made, nor locked, nor changed.

    Attributes:
      path: the file, with ``~`` expanded.
      rows: the parsed lines of the file.
      torn: True if a half-written last line was dropped.

    Raises:
      FileNotFoundError: ``read_only``, and there is no such file.
      ValueError: the file is not of this kind, a line is not JSON, or another process is writing the file.
      OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path, what: str, read_only: bool = False):
        self.path = files.existing(path, what) if read_only else files.writable(path)
        self.what = what
        self.rows: list[Any] = []
        if read_only:
            content = files.read_bytes(self.path, what)
            self._file = None
            self.torn = self._read(content) < len(content)
            return
        files.folder(self.path.parent)
        # Without a buffer, so that a full disk is told where the write is, and not once more when the file is closed.
        self._file = self.path.open("a+b", buffering=0)
        try:
            # Before reading, because another writer may still append.
            files.lock(
                self._file.fileno(),
                f"{self.path}: another process is writing it: wait for it, or choose another file (--out, --workdir)",
            )
            content = self._content()
            whole = self._read(content)
        except BaseException:
            self._file.close()
            raise
        self.torn = whole < len(content)
        if whole > len(content):
            self._file.write(b"\n")
        elif self.torn:
            self._file.truncate(whole)

    # --- what subclasses say ---

    def _is_first(self, row: Any) -> bool:
        """Say if a first line is one of this kind of file."""
        raise NotImplementedError

    def _begins(self, text: str) -> bool:
        """Say if a text that ends within its first line is the beginning of a file of this kind."""
        del text
        return False

    def _check_rows(self) -> None:
        """Check the rows; subclasses know what a row should hold."""

    # --- reading ---

    def _content(self) -> bytes:
        """Read the file; a rewriting that was interrupted is finished first."""
        assert self._file is not None
        self._file.seek(0)
        content = self._file.readall()
        draft = self._draft()
        if draft.is_file() and (ready := draft.read_bytes()):
            # The draft is whole, since it got its name after it was written. It replaces nothing but a file like it.
            head = ready.split(b"\n", 1)[0] + b"\n"
            if not content.startswith(head):
                self._read(content)
            self._read(ready)
            self._overwrite(ready)
            content = ready
        return content

    def _read(self, content: bytes) -> int:
        """Read the rows of the file and check them. Returns the number of bytes of whole lines with their ends."""
        *lines, rest = content.split(b"\n")
        if rest and not _is_torn(rest):
            lines.append(rest)  # a whole line that lacks its end
        if content and not lines:
            try:
                begins = self._begins(rest.decode())
            except UnicodeDecodeError:
                begins = False
            if not begins:
                raise ValueError(f"{self.path}: not a {self.what}, and left as it is: {ANOTHER_OUT}")
            return 0
        if not lines:
            return 0
        first = _parse_line(self.path, 1, lines[0])
        if not self._is_first(first):
            raise ValueError(f"{self.path}:1: not a line of a {self.what}, and left as it is: {ANOTHER_OUT}")
        if len(lines) > 1 and _is_torn(lines[-1]):  # a crash of the machine may leave zeros, and then a line's end
            lines.pop()
        self.rows = [first, *(_parse_line(self.path, n, line) for n, line in enumerate(lines[1:], start=2))]
        self._check_rows()
        return sum(len(line) + 1 for line in lines)

    # --- writing ---

    def append(self, lines: Sequence[str]) -> None:
        """Write lines and flush them to the disk; all of them or none.

        Raises:
          OSError: the disk is full, or the file cannot be written. The lines before stay.
        """
        assert self._file is not None, "the file is open for reading only"
        handle = self._file.fileno()
        end = os.fstat(handle).st_size
        data = "".join(line + "\n" for line in lines).encode()
        try:
            self._write(data)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, end)
            if isinstance(error, OSError):
                raise OSError(
                    f"{self.path}: cannot write ({error.strerror or error}): the lines before stay: make room, and "
                    "start again with the same flags"
                ) from error
            raise
        self.rows.extend(json.loads(line) for line in lines)

    def rewrite(self, rows: Sequence[Any]) -> None:
        """Replace all lines in place, so that links, mode and owner stay. A kill at any moment loses nothing.

        A whole draft is on the disk before the first byte changes; opening the file finishes what was interrupted.
        """
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        draft = self._draft()
        files.write_atomically(draft, data)
        self._overwrite(data)
        self.rows = list(rows)

    def _overwrite(self, data: bytes) -> None:
        assert self._file is not None
        # The open file appends only: another view of it can write at its beginning.
        with self.path.open("r+b", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            file.truncate()
            os.fsync(file.fileno())
        self._draft().unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]
        os.fsync(self._file.fileno())

    def _draft(self) -> Path:
        target = self.path.resolve()
        short = len(os.fsencode(target.name)) < 200
        return target.with_name(f".{target.name if short else fingerprint({'name': target.name})}.rewriting")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class HeadedLines(JsonLines):
    """A file of JSON lines whose first line, the header, says what the others depend on.

    Args:
      path: the file; its folder is made.
      what: the word for the file, for messages.
      header: the header. Its first key marks the kind of the file, and the value of that key must be equal.
      differs: makes the message for a file of this kind with another header, which it gets.
      read_only: see :class:`JsonLines`.

    Attributes:
      rows: the lines behind the header.

    Raises:
      ValueError: as for :class:`JsonLines`, or the header is another one; the message is that of ``differs``.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        header: Mapping[str, Any],
        differs: Callable[[dict[str, Any]], str],
        read_only: bool = False,
    ):
        self._header, self._kind, self._differs = header, next(iter(header)), differs
        super().__init__(path, what, read_only)
        if self.rows:
            del self.rows[0]
            return
        if read_only:
            raise ValueError(f"{self.path}: empty, where a {what} is expected")
        try:
            self.append([json.dumps(header)])
        except BaseException:
            self.close()
            raise
        del self.rows[0]

    @override
    def _is_first(self, row: Any) -> bool:
        return isinstance(row, dict) and self._kind in row

    @override
    def _begins(self, text: str) -> bool:
        return len(text) > len(self._kind) + 4 and json.dumps(self._header).startswith(text)

    @override
    def rewrite(self, rows: Sequence[Any]) -> None:
        """Replace all lines behind the header."""
        super().rewrite([self._header, *rows])
        del self.rows[0]

    @override
    def _check_rows(self) -> None:
        if self.rows[0][self._kind] != self._header[self._kind]:
            raise ValueError(self._differs(self.rows[0]))


def parse_lines(path: Path, content: bytes) -> list[Any]:
    """Parse the whole lines of a file that another process may be writing.

    Raises:
      ValueError: a line is not JSON; the message holds its number.
    """
    lines = content.split(b"\n")[:-1]
    return [_parse_line(path, number, line) for number, line in enumerate(lines, start=1)]


def _parse_line(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}:{number}: not JSON: remove this line and those after it to resume, or {ANOTHER_OUT}"
        ) from error


def _is_torn(line: bytes) -> bool:
    """Say if a line is no JSON, as the beginning of an object is none."""
    try:
        json.loads(line)
    except ValueError:
        return True
    except RecursionError:
        pass
    return False
