"""This module reads rows of ``.npy`` files and of the arrays in ``.npz`` archives, within limits.

An ``.npy`` file is mapped, so that only the rows that are asked for are read. A member of an archive is unpacked block
by block, and only those rows are kept. Headers are checked before anything is allocated, and objects are refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from eproxy_jax import files
from eproxy_jax.errors import quoted

_BLOCK = 2**20  # bytes read at once; no archive's directory is larger
_MAX_HEADER = 10_000  # characters, as in NumPy
_MAX_MEMBERS = 1000
_MAX_WHOLE = 2**30  # bytes of an array that can only be read as a whole: labels, or columns first
_MAX_ROW = 2**26  # bytes of one image
_CHECKED_RATIO = 200  # a larger array that unpacks to so many times its size is no photograph
_CHECKED_SIZE = 2**26
# What damaged archives and headers raise, in the zip layer and in NumPy.
_DAMAGE = (
    ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error,
)  # fmt: skip


class Header(NamedTuple):
    """What the header of an array says.

    Attributes:
      shape: its shape.
      columns_first: whether the first axis varies fastest (Fortran's order).
      dtype: its dtype: numbers.
      offset: bytes before its content.
    """

    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype
    offset: int

    @property
    def size(self) -> int:
        """Bytes of its content."""
        return math.prod(self.shape) * self.dtype.itemsize


class _NotNumbersError(ValueError):
    """The array holds something else than numbers."""


# --- .npy ----------------------------------------------------------------------------------------------------


def open_npy(path: Path) -> np.ndarray:
    """Map an ``.npy`` file; nothing but its header is read.

    Raises:
      ValueError: not a readable file of numbers, or shorter than its header says.
    """
    path = files.existing(path, "file of images")
    try:
        with path.open("rb") as file:
            header = _header(file.read(_MAX_HEADER + 64))
        length = path.stat().st_size
        if header.offset + header.size > length:
            raise ValueError(f"{length:,} bytes, where its header asks for {header.offset + header.size:,}")
        if not header.size:
            return np.zeros(header.shape, header.dtype)
        order = "F" if header.columns_first else "C"
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)
    except _NotNumbersError as error:
        raise ValueError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise ValueError(f"{path}: not a readable NumPy file ({_first_line(error)})") from error


def _header(head: bytes) -> Header:
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not for arrays of numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers by Python 2, odd escapes: they are read, or refused below
        shape, columns_first, dtype = read(file, max_header_size=_MAX_HEADER)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise _NotNumbersError(f"an array of dtype {str(dtype)[:40]}, where numbers are expected")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("a shape that is no shape")
    return Header(shape, columns_first, dtype, file.tell())


# --- .npz ----------------------------------------------------------------------------------------------------


class _Bounded:
    """A file that is never asked for much at once: an archive's directory may claim any size."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _BLOCK:
            raise ValueError("a directory of more members than an archive of images has")
        return self._file.read(_BLOCK if size < 0 else size)


class Archive:
    """The numeric arrays of an ``.npz`` archive.

    Attributes:
      path: the file.
      headers: header of each numeric array by name.
      others: names of what else is in it.
    """

    def __init__(self, path: Path):
        self.path = files.existing(path, "archive of images")
        self.headers: dict[str, Header] = {}
        self.others: list[str] = []
        with self._open() as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise ValueError(f"{len(members)} members, where at most {_MAX_MEMBERS} are expected")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    self.others.append(name)
                    continue
                self._check(member)
                with archive.open(member) as file:
                    try:
                        header = _header(file.read(_MAX_HEADER + 64))
                    except _NotNumbersError:
                        self.others.append(name)
                        continue
                if header.offset + header.size != member.file_size:
                    raise ValueError(
                        f"{quoted(name)} has {member.file_size:,} bytes, its header asks for another number"
                    )
                self.headers[name] = header

    @contextlib.contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with self.path.open("rb") as file, zipfile.ZipFile(_Bounded(file)) as archive:  # pyright: ignore[reportArgumentType]
                yield archive
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: not a readable .npz file ({_first_line(error)})") from error

    @staticmethod
    def _check(member: zipfile.ZipInfo) -> None:
        name = member.filename[:60]
        if member.flag_bits & 1:
            raise ValueError(f"{quoted(name)} is encrypted: unpack it and save it with numpy.savez")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{quoted(name)} is packed by method {member.compress_type}: save it with numpy.savez")
        if member.file_size > max(_CHECKED_SIZE, _CHECKED_RATIO * member.compress_size):
            raise ValueError(f"{quoted(name)} claims to unpack to {member.file_size:,} bytes: no images pack so well")

    def whole(self, name: str) -> np.ndarray:
        """Return a whole array.

        Raises:
          ValueError: damaged, or larger than 1 GiB.
        """
        header = self.headers[name]
        if header.size > _MAX_WHOLE:
            raise ValueError(f"{self.path}: {quoted(name)} has {header.size:,} bytes: save its images first axis first")
        with self._open() as archive, archive.open(f"{name}.npy") as file:
            content = b"".join(_blocks(file, header.offset + header.size))[header.offset :]
        return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.columns_first else "C")

    def rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return rows of an array.

        Args:
          name: the array's name.
          rows: [n], ascending positions on its first axis.

        Raises:
          ValueError: damaged: all of the array is unpacked, to check it.
        """
        header = self.headers[name]
        if header.columns_first and len(header.shape) > 1:
            return self.whole(name)[rows]
        length = math.prod(header.shape[1:]) * header.dtype.itemsize
        if length > _MAX_ROW:
            raise ValueError(f"{self.path}: {quoted(name)} has images of {length:,} bytes each: make them smaller")
        found = np.zeros((len(rows), length), np.uint8)
        with self._open() as archive, archive.open(f"{name}.npy") as file:
            # Row i is at [i, i + 1) * length behind the header. A block ends wherever it does.
            ends, start, first = rows * length + length, -header.offset, 0
            for block in _blocks(file, header.offset + header.size):
                end = start + len(block)
                for place in range(first, len(rows)):
                    row_start, row_end = int(ends[place]) - length, int(ends[place])
                    if row_start >= end:
                        break
                    low, high = max(row_start, start), min(row_end, end)
                    part = np.frombuffer(block, np.uint8)[low - start : high - start]
                    found[place, low - row_start : high - row_start] = part
                    first = place + (row_end <= end)
                start = end
        return found.reshape(-1).view(header.dtype).reshape(len(rows), *header.shape[1:])


def _blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Read exactly ``size`` bytes; at the end the zip layer compares checksums."""
    left = size
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise EOFError("it ends early")
        left -= len(block)
        yield block
    if file.read(1):
        raise ValueError("more bytes than its header asks for")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
