"""Macro codes of TransNAS-Bench-101: which there are, what their digits mean, how they are read.

Digits, one a module: 1 keeps the shape, 2 doubles the channels, 3 halves the size, 4 does both.

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

from eproxy_jax.errors import did_you_mean
from eproxy_jax.spaces.transnas.skeleton import as_read

Code = tuple[int, ...]

MIN_MODULES, MAX_MODULES = 4, 6
MAX_HALVINGS, MAX_DOUBLINGS = 4, 3
BLOCK = "basic"
UNPUBLISHED = (1, 1, 3, 4, 4, 4)
_EXAMPLE = "64-2311-basic"


def halvings(code: Sequence[int]) -> int:
    """How many digits halve the size."""
    return sum(digit in (3, 4) for digit in code)


def doublings(code: Sequence[int]) -> int:
    """How many digits double the channels."""
    return sum(digit in (2, 4) for digit in code)


def problem(code: Sequence[int]) -> str:
    """What is wrong with a code, or nothing."""
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
    """Every code of the space, short ones first, then in lexicographic order."""
    lengths = range(MIN_MODULES, MAX_MODULES + 1)
    codes = itertools.chain(*(itertools.product((1, 2, 3, 4), repeat=length) for length in lengths))
    return tuple(code for code in codes if not problem(code))


def digits(code: Sequence[int]) -> str:
    """The code as text."""
    return "".join(map(str, code))


def built(code: Sequence[int]) -> Code:
    """The digits that are built: a last 4 is read as 2."""
    return tuple(map(int, as_read(digits(code))))


def steps(code: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(digit, doublings before, halvings before) of each block as built; a module's second block has digit 1."""
    doubled = halved = 0
    for digit in built(code):
        yield digit, doubled, halved
        doubled, halved = doubled + doublings([digit]), halved + halvings([digit])
        yield 1, doubled, halved


def parse_string(text: str) -> Code:
    """The digits of ``64-MACROCODE-basic``, not checked yet.

    Raises:
      ValueError: something else than digits between the prefix and the block's name.
    """
    parts = text.strip().split("-")
    if len(parts) != 3:
        raise ValueError(
            f"not a TransNAS-Bench-101-macro string: {text!r}; expected '64-', the macro code and '-{BLOCK}', "
            f"like {_EXAMPLE!r}"
        )
    stem, code, block = parts
    if stem != "64":
        raise ValueError(
            f"TransNAS-Bench-101-macro string {text!r} starts with {stem!r}: expected '64', like {_EXAMPLE!r}"
        )
    if re.fullmatch(r"\d_\d\d_\d\d\d", block):
        raise ValueError(
            f"{text!r} ends in a cell, {block!r}: it is a string of the micro space; use the space 'transnas_micro', "
            f"or end it in '-{BLOCK}' like {_EXAMPLE!r}"
        )
    if block != BLOCK:
        raise ValueError(
            f"unknown block {block!r}{did_you_mean(block, [BLOCK])} in {text!r}: the macro space has {BLOCK!r} only, "
            f"like {_EXAMPLE!r}"
        )
    if not re.fullmatch("[0-9]*", code):
        raise ValueError(
            f"macro code {code!r} in {text!r}: expected {MIN_MODULES} to {MAX_MODULES} digits 1 to 4, like {_EXAMPLE!r}"
        )
    return tuple(map(int, code))


def check_code(code: Any, source: Any) -> Code:
    """Digits as a tuple of ints.

    Raises:
      ValueError: not a code of the space.
    """
    integers = isinstance(code, Sequence) and all(isinstance(d, int) and not isinstance(d, bool) for d in code)
    if not integers:
        raise ValueError(
            f"not a TransNAS-Bench-101-macro code: {source!r}; expected a string like {_EXAMPLE!r} "
            "or its digits like (2, 3, 1, 1)"
        )
    wrong = problem(code)
    if wrong:
        raise ValueError(f"not a TransNAS-Bench-101-macro code: {source!r}: {wrong}")
    return tuple(code)
