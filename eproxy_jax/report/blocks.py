"""This module says what a page is made of: sections of text, tables, figures and drawings, whatever prints them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: what is shown.
      value: what the table is sorted by; None is sorted last.
      is_code: shown in letters of one width, such as an architecture.
    """

    text: str
    value: float | str | None = None
    is_code: bool = False


@dataclasses.dataclass(frozen=True)
class Header:
    """The head of a column of a table.

    Attributes:
      name: what is shown.
      is_number: numbers are aligned to the right, and sorted from the largest first.
      about: a sentence on what it is; empty if the name says it.
    """

    name: str
    is_number: bool = False
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column heads its rows.

    Attributes:
      caption: what it shows.
      headers: C of them.
      rows: of C cells each.
      limit: rows to show at first; all if absent.
      is_folded: shown when it is asked for.
    """

    caption: str
    headers: tuple[Header, ...]
    rows: tuple[tuple[Cell, ...], ...]
    limit: int | None = None
    is_folded: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
      name: a short name of letters, for files and links.
      caption: what it shows, as a sentence; what a reader who does not see it needs.
      spec: Vega-Lite.
      wide: as wide as it needs, with a bar to scroll, and not as wide as the page.
    """

    name: str
    caption: str
    spec: dict[str, Any]
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Scatter(Figure):
    """A scatter plot of any two columns of the page's table; ``spec`` shows the first choice.

    Attributes:
      across: columns to choose from, the first one is shown.
      up: columns to choose from, the first one is shown.
    """

    across: tuple[str, ...] = ()
    up: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A drawn architecture.

    Attributes:
      title: its place in the list.
      arch: its string.
      facts: its numbers, in a few words.
      svg: the drawings of its graphs by name; empty where the space has none.
    """

    title: str
    arch: str
    facts: str
    svg: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Drawn architectures, and what the colours mean.

    Attributes:
      caption: which architectures.
      legend: (operation, drawing of its line).
      drawings: best first.
    """

    caption: str
    legend: tuple[tuple[str, str], ...]
    drawings: tuple[Drawing, ...]


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph, or a list of sentences where there are several."""

    sentences: tuple[str, ...]
    is_list: bool = False


@dataclasses.dataclass(frozen=True)
class AllArchs:
    """The table of all architectures, whose rows the page makes out of its data. Markdown leaves it out.

    Attributes:
      caption: what it shows.
      columns: columns of the page's data, in order.
      by: the column it is sorted by at first.
    """

    caption: str
    columns: tuple[str, ...]
    by: str


Block = Table | Figure | Drawings | Text | AllArchs


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
      name: a short name of letters, for links.
      title: its heading.
      blocks: what stands in it.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclasses.dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
      title: its heading.
      summary: what it says, in a few sentences.
      sections: in order.
      data: values of the page's architectures by column, ``arch`` first; figures and the large table read them.
      version: of this package.
    """

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
    data: dict[str, list[Any]]
    version: str


NONE = Cell("-")
QUALITY = (
    Header("Spearman", True, "rank correlation with the measured values, 1 is perfect"),
    Header("Kendall", True, "Kendall's tau-b: of two networks, how often the order is right"),
    Header("top-10 %", True, "of the best tenth by this column, the share that is in the best tenth as measured"),
    Header("nDCG", True, "how much of the gain of the best order this one has; the top counts most"),
    Header("regret", True, "how much worse the network ranked first is than the best one, in the unit of the values"),
    Header("s/network", True, "seconds of one network, compilation left out, on the devices of the run"),
    Header("networks", True, "architectures compared"),
)


def number(value: float | None, form: str = ".3f") -> Cell:
    """Return the cell of a number; a dash where there is none.

    Example:
      >>> number(0.51234).text, number(float("nan")).text
      ('0.512', '-')
    """
    if value is None or not math.isfinite(value):
        return NONE
    return Cell(format(value, form), float(value))


def short(value: float) -> str:
    """Return a number in at most four digits, with commas where it is large.

    Example:
      >>> short(1234567.0), short(0.012345), short(12.3456)
      ('1,234,567', '0.01235', '12.35')
    """
    return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"


def plain(values: Sequence[float] | np.ndarray, digits: int = 5) -> list[float | int | None]:
    """Return numbers for JSON: so many digits, null for what is not finite, whole numbers without a point."""
    found: list[float | int | None] = []
    for value in values:
        if not math.isfinite(value):
            found.append(None)
        else:
            rounded = float(f"{value:.{digits}g}")
            found.append(int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded)
    return found
