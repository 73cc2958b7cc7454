"""This module holds the checks and the wording that error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_QUOTED = 80  # characters


def quoted(value: Any) -> str:
    """Return ``repr(value)``, cut to 80 characters, for messages: what a user wrote may be a megabyte.

    Example:
      >>> quoted("x" * 100)[-6:]
      'xxx...'
    """
    if isinstance(value, (str, bytes)):
        value = value[: _QUOTED + 1]  # the repr of a huge string is not built
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits; lists that are nested too deep
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split()) if "\n" in text else text  # arrays are printed in several lines
    return text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "..."


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``' (did you mean X?)'`` with the nearest known word, or an empty string.

    Args:
      word: a word that is not known.
      known: the known words.
      cutoff: how alike they must be, from 0 to 1.

    Example:
      >>> did_you_mean("momentun", ["lr", "momentum"])
      " (did you mean 'momentum'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {close[0]!r}?)" if close else ""


def check_known(names: Iterable[str], known: Iterable[str], where: str, what: str = "field") -> None:
    """Check that names are among the known ones.

    Args:
      names: the names given.
      known: the names allowed.
      where: the owner of the names, for the message.
      what: the word for one name, for the message.

    Raises:
      ValueError: a name is unknown; the message holds the nearest known name and all of them.

    Example:
      >>> check_known(["lrr"], ["lr", "momentum"], "settings")
      Traceback (most recent call last):
      ValueError: settings: unknown field 'lrr' (did you mean 'lr'?); known: lr, momentum
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(
                f"{where}: unknown {what} {name!r}{did_you_mean(str(name), known)}; known: {', '.join(known)}"
            )
