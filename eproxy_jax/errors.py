"""Wording shared by error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``' (did you mean X?)'`` for the nearest known word, or nothing.

    Example:
      >>> did_you_mean("momentun", ["lr", "momentum"])
      " (did you mean 'momentum'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
