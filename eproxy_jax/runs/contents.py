"""This module turns a file of architectures or values, or standard input, into text, whatever it is packed in.

It takes UTF-8 and UTF-16 with a byte order mark, any ends of lines, and gzip, which it knows by its first bytes.
"""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from pathlib import Path

from eproxy_jax import files

STDIN = "-"  # the name of standard input on the command line
_NAME_OF_STDIN = "standard input"
_CHUNK = 2**20
_LEAST_LIMIT = 2**24
_MAX_RATIO = 200  # of text to its gzip; lists of architectures have 10 to 60
_GZIP = b"\x1f\x8b"
# UTF-32 first: its little-endian mark starts with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# First bytes of what people take for a text file, and what it is.
_OTHERS = (
    (b"PK\x03\x04", "a zip archive (.xlsx, .npz, .pt, .zip)"),
    (b"\x80", "a pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (_GZIP, "compressed with gzip twice"),
)


def name_of(path: str | Path) -> str:
    """Return what messages call a file; ``-`` is standard input."""
    return _NAME_OF_STDIN if str(path) == STDIN else str(path)


def read_text(path: str | Path, what: str = "file of architectures") -> str:
    r"""Return the text of a file, or of standard input for ``-``; lines end in ``\n``.

    Args:
      path: the file, gzip or not.
      what: the word for its content, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no regular file, too large, damaged, or not text; the message says which.
    """
    name = name_of(path)
    raw = _standard_input(what) if str(path) == STDIN else files.read_bytes(path, what)
    if raw.startswith(_GZIP):
        raw = _unpacked(raw, name)
    text = _decoded(raw, name)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _standard_input(what: str) -> bytes:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise ValueError(f"{_NAME_OF_STDIN}: closed: name a {what}, or pipe one in")
    content = stream.read(files.MAX_BYTES + 1)
    if len(content) > files.MAX_BYTES:
        raise ValueError(
            f"{_NAME_OF_STDIN}: larger than {files.MAX_BYTES:,} bytes, which no {what} should be: split it"
        )
    return content


def _unpacked(raw: bytes, name: str) -> bytes:
    """Unpack gzip. A bomb, a small file of endless zeros, is refused at the size that no text of its size has."""
    limit = min(files.MAX_BYTES, max(_LEAST_LIMIT, _MAX_RATIO * len(raw)))
    content = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as packed:
            while chunk := packed.read(_CHUNK):
                content += chunk
                if len(content) > limit:
                    raise ValueError(f"{name}: more than {limit:,} bytes when unpacked: unpack it, and split it")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: damaged gzip ({error}): fetch or pack it again") from error
    return bytes(content)


def _decoded(raw: bytes, name: str) -> str:
    encoding = next((encoding for mark, encoding in _MARKS if raw.startswith(mark)), "utf-8")
    if encoding == "utf-8":
        for start, kind in _OTHERS:
            if raw.startswith(start):
                raise ValueError(f"{name}: not a text file but {kind}: write the architectures as text, JSON or CSV")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name}:{line}: not a text file in UTF-8 (byte {error.start}: {error.reason}): save it as UTF-8"
        ) from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise ValueError(f"{name}:{line}: not a text file: it holds zero bytes; UTF-16 needs a byte order mark")
    return text
