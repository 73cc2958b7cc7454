"""This module reads and writes whole files: regular ones only, with limits, and all of a file or nothing.

Devices, pipes and folders are refused before they are opened, because reading one may never end and writing one may
do harm. What is read is opened read-only.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from eproxy_jax.errors import quoted

MAX_BYTES = 2**30  # no list, table, record or settings of this field comes near; archives have limits of their own


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return the path with ``~`` expanded.

    Raises:
      ValueError: the path has a ``~`` and there is no such home folder, or it holds a null byte.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise ValueError(f"{quoted(text)}: a path cannot hold a null byte")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{quoted(text)}: no such home folder: write the whole path (./~ for a file of that name)"
        ) from None


def existing(path: str | os.PathLike[str], what: str = "file") -> Path:
    """Return the path of a regular file, with ``~`` expanded.

    Args:
      path: a path as the user wrote it.
      what: the word for the file's content, for messages, such as ``"file of architectures"``.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is a folder, a device, a pipe or a socket.
    """
    path = expanded(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"no {what} at {quoted(str(path))}") from None
    _check_regular(path, mode)
    return path


def writable(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file to write, with ``~`` expanded: absent yet, or a regular file.

    Raises:
      ValueError: it is a folder, a device, a pipe or a socket.
    """
    path = expanded(path)
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
    handle, draft = _draft(target)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            draft.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())
            draft.replace(target)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"{target}: cannot write ({error.strerror or error}); the file is as it was") from error
        raise


def _draft(target: Path) -> tuple[int, Path]:
    """Make a locked draft of a file, and remove those that killed processes have left: nobody holds their locks."""
    start, end = f".{target.name[:40]}.", ".draft"
    for name in os.listdir(target.parent):  # noqa: PTH208
        if name.startswith(start) and name.endswith(end):
            with contextlib.suppress(OSError, ValueError):
                handle = os.open(target.parent / name, os.O_RDONLY)
                try:
                    if lock(handle, "in use"):
                        (target.parent / name).unlink()
                finally:
                    os.close(handle)
    while True:
        handle, name = tempfile.mkstemp(prefix=start, suffix=end, dir=target.parent)
        with contextlib.suppress(ValueError):
            lock(handle, "in use")
        if Path(name).exists():  # another process may have taken it for one that was left, just before the lock
            return handle, Path(name)
        os.close(handle)


def folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of a folder, with ``~`` expanded; the function makes the folder if it is absent.

    Raises:
      ValueError: there is something else of that name.
      OSError: the folder cannot be made.
    """
    path = expanded(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{path}: not a folder, where one is expected") from None
    return path


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Say if two paths lead to one file, by links or by name; the file need not exist."""
    one, other = expanded(one), expanded(other)
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return one.resolve() == other.resolve()


def lock(handle: int, message: str) -> bool:
    """Lock an open file or folder until it is closed; returns False where the system has no locks.

    Raises:
      ValueError: another process holds the lock; with ``message``.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl: there the user must avoid two writers of one file
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(message) from error
    except OSError:  # this file system has no locks
        return False
    return True


@contextlib.contextmanager
def locked_folder(path: Path, message: str) -> Iterator[None]:
    """Hold the lock of a folder; it leaves no file behind.

    Raises:
      ValueError: another process holds the lock; with ``message``.
    """
    if os.name == "nt":  # Windows opens no folders
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        lock(handle, message)
        yield
    finally:
        os.close(handle)


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path}: a folder, where a file is expected")
    if not stat.S_ISREG(mode) or _in_device_folder(path):
        raise ValueError(f"{path}: not a regular file: name a file on a disk")


def _in_device_folder(path: Path) -> bool:
    """Say if a path leads through /dev or /proc: /dev/stdout may well be a regular file at the moment."""
    for _ in range(40):  # as many links as Linux follows
        place = Path(os.path.normpath(path.absolute()))
        if place.is_relative_to("/proc") or (place.is_relative_to("/dev") and not place.is_relative_to("/dev/shm")):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
