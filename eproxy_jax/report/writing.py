"""This module writes a report: it reads results, joins them with measured values, and replaces the page as a whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eproxy_jax import files, spaces
from eproxy_jax._version import __version__
from eproxy_jax.errors import check_known, quoted
from eproxy_jax.execution.grouping import parse_all
from eproxy_jax.report import evidence, html, markdown, reading, sections
from eproxy_jax.report.blocks import Page
from eproxy_jax.runs import outputs

ENDINGS = (".html", ".htm", ".md", ".markdown")
_BEGINNING = 4096  # bytes of a file in which the mark of a report stands


class Written(NamedTuple):
    """What :func:`write` wrote.

    Attributes:
      path: the page.
      figures: pictures beside it; none of an HTML page, which holds its figures.
      size: of the page, bytes.
    """

    path: Path
    figures: tuple[Path, ...]
    size: int


def write(
    runs: Sequence[str | os.PathLike[str]] | Sequence[reading.Source],
    out: str | os.PathLike[str] = "report.html",
    truths: Mapping[str, Mapping[Any, float]] | None = None,
    *,
    space: spaces.SearchSpace | str | None = None,
    by: str | None = None,
    draws: int = 4,
    with_figures: bool = True,
    show: Callable[[int, int], object] | None = None,
) -> Written:
    """Make a page out of results of ``eproxy score``, ``fit``, ``dps`` and ``search``; nothing of them is changed.

    Args:
      runs: folders or files, whose content says what they hold, or the sources that :func:`reading.read` made of them.
      out: the page: ``.html``, one file with all that it needs, or ``.md``, with pictures beside it. A report that
        stands there is replaced, and nothing else is.
      truths: measured values by architecture, higher is better, by name of task.
      space: the search space; by default the one that the results say.
      by: the column that orders lists; by default a fit, else a sum of ranks, else Eproxy.
      draws: draws of labels for each point of the label-efficiency curve; 0 leaves it out.
      with_figures: False leaves figures out.
      show: gets the fits of that curve that are done, and those in all.

    Returns:
      What was written.

    Raises:
      FileNotFoundError: a folder or file is absent.
      ValueError: what is read is no result of eproxy, or of several spaces; a task has fewer than 3 values of the
        architectures; ``out`` is somebody else's file, or of another ending; a package of the extra ``report`` is
        absent.
      OSError: a file cannot be written.
    """
    path = check_out(out)
    sources = [one for one in runs if isinstance(one, reading.Source)]
    if len(sources) < len(runs):
        sources = reading.read([one for one in runs if not isinstance(one, reading.Source)])
    for source in sources:
        if files.same_file(source.path, path):
            raise ValueError(f"{path}: would be written, but it is one of the results: choose another --out")
    found = spaces.get(space) if isinstance(space, str) else space
    found = reading.space_of(sources) if found is None else found
    joined = evidence.gather(found, sources, {name: _parsed(own, found) for name, own in (truths or {}).items()})
    if by is not None:
        check_known([by], joined.columns, "report: by", "column")
    page = sections.page(joined, __version__, by=by, draws=draws, with_figures=with_figures, show=show)
    return _write(page, path)


def _parsed(values: Mapping[Any, float], space: spaces.SearchSpace) -> dict[Any, float]:
    return dict(zip(parse_all(list(values), space), map(float, values.values()), strict=True))


def check_out(out: str | os.PathLike[str]) -> Path:
    """Return the path of a page to write.

    Raises:
      ValueError: its ending says no kind of page, or somebody else's file stands there.
    """
    path = files.writable(out)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: a report is written as {', '.join(ENDINGS)}: choose such an ending of --out")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: no such folder {quoted(str(path.parent))}: make it, or choose another --out")
    if path.exists():
        with path.open("rb") as file:
            first = file.read(_BEGINNING)
        if html.GENERATOR.encode() not in first:
            raise ValueError(f"{path}: not a report of eproxy, and left as it is: {outputs.ELSEWHERE}")
    return path


def _write(page: Page, path: Path) -> Written:
    if path.suffix.lower() in ENDINGS[:2]:
        content = html.render(page).encode()
        files.write_atomically(path, content)
        return Written(path, (), len(content))
    text, specs = markdown.render(page, path.stem)
    pictures = [path.with_name(name) for name in specs]
    for picture in pictures:
        outputs.check_figure(picture, path)
    for picture, spec in zip(pictures, specs.values(), strict=True):
        content = markdown.picture(spec)
        outputs.write_figure(picture, path, lambda file, texts, png=content: file.write(_with_texts(png, texts)))
    files.write_atomically(path, text)
    return Written(path, tuple(pictures), len(text.encode()))


def _with_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """Return a PNG with texts in front of its pixels, which say whose figure it is, and packed as small as zlib can."""
    header, place = png[: 8 + 25], 8 + 25  # the signature and the chunk IHDR
    pixels = b""
    while place < len(png):
        size, kind = struct.unpack_from(">I4s", png, place)
        if kind == b"IDAT":
            pixels += png[place + 8 : place + 8 + size]
        place += 12 + size
    named = [keyword.encode("latin-1") + b"\0" + text.encode("latin-1") for keyword, text in texts.items()]
    chunks = [(b"tEXt", one) for one in named] + [(b"IDAT", zlib.compress(zlib.decompress(pixels), 9)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(one)) + kind + one + struct.pack(">I", zlib.crc32(kind + one)) for kind, one in chunks
    ]
    return header + b"".join(packed)
