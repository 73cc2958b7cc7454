"""This module holds the checks and the wording that error messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
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


def listed(names: Iterable[Any], most: int = 20) -> str:
    """Return the first names, each cut to 80 characters, for messages: those of a user's table may be megabytes.

    Example:
      >>> listed(["a", "b", "c"], most=2)
      'a, b, ...'
    """
    texts = [str(name) for name in names]
    shown = [text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "..." for text in texts[:most]]
    return ", ".join([*shown, "..."] if len(texts) > most else shown)


def one_line(error: BaseException | str, limit: int = 1000) -> str:
    r"""Return the message of an error in one line, cut to ``limit`` characters.

    Example:
      >>> one_line(ValueError("two\n  lines"))
      'two lines'
    """
    text = " ".join(str(error)[: 2 * limit].split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


SEEDS = 2**32  # JAX keys fold larger seeds, without a word: seed 2**32 would be seed 0


def check_seed(value: Any, where: str = "seed") -> int:
    """Return a seed as an ``int``.

    Args:
      value: an integer, also one of NumPy's.
      where: the seed's name, for the message.

    Raises:
      ValueError: not an integer from 0 to 2 ** 32 - 1.

    Example:
      >>> check_seed(2**32)
      Traceback (most recent call last):
      ValueError: seed: expected an integer from 0 to 4294967295, got 4294967296
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < SEEDS:
        raise ValueError(f"{where}: expected an integer from 0 to {SEEDS - 1}, got {quoted(value)}")
    return int(value)


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
    close = difflib.get_close_matches(word[:_QUOTED], list(known), n=1, cutoff=cutoff)  # time grows with the length
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
                f"{where}: unknown {what} {quoted(name)}{did_you_mean(str(name), known)}; known: {', '.join(known)}"
            )
