"""This module reads macro codes of TransNAS-Bench-101, and says which there are and what their digits mean.

A code has one digit per module: 1 keeps the shape, 2 doubles the channels, 3 halves the size, 4 does both.

Codes have 4 to 6 digits, 1 to 4 of which halve and 1 to 3 double: 3,256 codes, the paper's number. The published
results leave out one of them (``UNPUBLISHED``), in all seven tasks and for no reason in its digits, and so does this
space.

A last digit of 4 is read as 2 (docs/spaces.md). A 32-pixel image enters the first module at 8x8, so that three halvings
reach 1x1 and a fourth one, which codes such as 333312 have, stays there: maps never vanish.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.spaces import literals
from eproxy_jax.spaces.transnas.skeleton import as_read

Code = tuple[int, ...]

MIN_MODULES, MAX_MODULES = 4, 6
MAX_HALVINGS, MAX_DOUBLINGS = 4, 3
BLOCK = "basic"
UNPUBLISHED = (1, 1, 3, 4, 4, 4)
_EXAMPLE = "64-2311-basic"


def halvings(code: Sequence[int]) -> int:
    """Count the digits that halve the size."""
    return sum(digit in (3, 4) for digit in code)


def doublings(code: Sequence[int]) -> int:
    """Count the digits that double the channels."""
    return sum(digit in (2, 4) for digit in code)


def problem(code: Sequence[int]) -> str:
    """Return what is wrong with a code, or nothing."""
    for position, digit in enumerate(code, start=1):
        if digit not in (1, 2, 3, 4):
            return f"digit {position} is {digit}; expected 1 (neither), 2 (channels double), 3 (stride 2) or 4 (both)"
    if not MIN_MODULES <= len(code) <= MAX_MODULES:
        return f"it has {len(code)} digit(s); expected {MIN_MODULES} to {MAX_MODULES}, one a module"
    if not 1 <= halvings(code) <= MAX_HALVINGS:
        return f"{halvings(code)} of its digits halve the size (3 or 4); expected 1 to {MAX_HALVINGS}"
    if not 1 <= doublings(code) <= MAX_DOUBLINGS:
        return f"{doublings(code)} of its digits double the channels (2 or 4); expected 1 to {MAX_DOUBLINGS}"
    if tuple(code) == UNPUBLISHED:
        return "the published benchmark leaves out this one code, and so does the space; choose any other"
    return ""


@functools.cache
def all_codes() -> tuple[Code, ...]:
    """Return every code of the space, short ones first, then in lexicographic order."""
    lengths = range(MIN_MODULES, MAX_MODULES + 1)
    codes = itertools.chain(*(itertools.product((1, 2, 3, 4), repeat=length) for length in lengths))
    return tuple(code for code in codes if not problem(code))


def digits(code: Sequence[int]) -> str:
    """Return the code as text."""
    return "".join(map(str, code))


def built(code: Sequence[int]) -> Code:
    """Return the digits that are built: a last 4 is read as 2."""
    return tuple(map(int, as_read(digits(code))))


def steps(code: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (digit, doublings before, halvings before) of each block as built; a module's second block has digit 1."""
    doubled = halved = 0
    for digit in built(code):
        yield digit, doubled, halved
        doubled, halved = doubled + doublings([digit]), halved + halvings([digit])
        yield 1, doubled, halved


def parse_string(text: str) -> list[int]:
    """Return the digits of ``64-MACROCODE-basic``, not checked yet.

    Raises:
      ValueError: something other than digits between the prefix and the block's name.
    """
    parts = text.split("-")
    if len(parts) != 3:
        raise ValueError(
            f"not a TransNAS-Bench-101-macro string: {quoted(text)}; expected '64-', the macro code and '-{BLOCK}', "
            f"like {_EXAMPLE!r}"
        )
    stem, code, block = parts
    if stem != "64":
        raise ValueError(
            f"TransNAS-Bench-101-macro string {quoted(text)} starts with {quoted(stem)}: expected '64', "
            f"like {_EXAMPLE!r}"
        )
    if re.fullmatch(r"\d_\d\d_\d\d\d", block):
        raise ValueError(
            f"{quoted(text)} ends in a cell, {quoted(block)}: it is a string of the micro space; use the space "
            f"'transnas_micro', or end it in '-{BLOCK}' like {_EXAMPLE!r}"
        )
    if block != BLOCK:
        hint = did_you_mean(block, [BLOCK]) if len(block) < 40 else ""
        raise ValueError(
            f"unknown block {quoted(block)}{hint} in {quoted(text)}: the macro space has {BLOCK!r} only, "
            f"like {_EXAMPLE!r}"
        )
    if not re.fullmatch("[0-9]{0,18}", code):
        raise ValueError(
            f"macro code {quoted(code)} in {quoted(text)}: expected {MIN_MODULES} to {MAX_MODULES} digits 1 to 4, "
            f"like {_EXAMPLE!r}"
        )
    return list(map(int, code))


def parse(source: Any) -> Code:
    """Read a code from the string, its digits as one number, or its digits one by one; zeros behind them are padding.

    Raises:
      ValueError: not a code of the space.
    """
    value = literals.plain(source, "not a TransNAS-Bench-101-macro code", repr(_EXAMPLE))
    number = literals.integer(value)
    if number is not None and number >= 0:
        digits_found: list[int] | None = list(map(int, str(number))) if number < 10**18 else None
    elif isinstance(value, str):
        digits_found = parse_string(value)
    else:
        digits_found = literals.integers(value)
        while digits_found and len(digits_found) > MIN_MODULES and digits_found[-1] == 0:  # NASLib's padding
            digits_found.pop()
    if digits_found is None:
        raise ValueError(
            f"not a TransNAS-Bench-101-macro code: {quoted(source)}; expected a string like {_EXAMPLE!r} "
            "or its digits like (2, 3, 1, 1)"
        )
    wrong = problem(digits_found)
    if wrong:
        raise ValueError(f"not a TransNAS-Bench-101-macro code: {quoted(source)}: {wrong}")
    return tuple(digits_found)
