"""This module reads and writes whole files: regular ones only, with limits, and all of a file or nothing.

Devices, pipes and folders are refused before they are opened, because reading one may never end and writing one may
do harm. What is read is opened read-only.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

MAX_BYTES = 2**30  # no list, table, record or settings of this field comes near; archives have limits of their own


def existing(path: str | os.PathLike[str], what: str = "file") -> Path:
    """Return the path of a regular file, with ``~`` expanded.

    Args:
      path: a path as the user wrote it.
      what: the word for the file's content, for messages, such as ``"file of architectures"``.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is a folder, a device, a pipe or a socket.
    """
    path = Path(path).expanduser()
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"no {what} at {str(path)!r}") from None
    _check_regular(path, mode)
    return path


def writable(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write, with ``~`` expanded: absent yet, or a regular file.

    Raises:
      ValueError: it is a folder, a device, a pipe or a socket.
    """
    path = Path(path).expanduser()
    with contextlib.suppress(FileNotFoundError):
        _check_regular(path, path.stat().st_mode)
    return path


def read_bytes(path: str | os.PathLike[str], what: str = "file", limit: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no regular file, or larger than ``limit`` bytes.
    """
    path = existing(path, what)
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path}: larger than {limit:,} bytes, which no {what} should be: split it")
    return content


def read_text(path: str | os.PathLike[str], what: str = "file", limit: int = MAX_BYTES) -> str:
    """Return the text of a regular UTF-8 file, without a byte order mark.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no regular file, larger than ``limit`` bytes, or not UTF-8.
    """
    content = read_bytes(path, what, limit)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replace a file's content, or leave the file as it was.

    A symbolic link stays one: its target is replaced. The mode of an existing file stays.

    Raises:
      ValueError: the path is a folder, a device, a pipe or a socket.
      OSError: the folder cannot be written, or the disk is full.
    """
    target = writable(path).resolve()
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".draft", dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path}: a folder, where a file is expected")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path}: not a regular file: name a file on a disk")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
