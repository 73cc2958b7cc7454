"""This module has the architectures of the NDS AnyNet spaces: the design spaces' rules, and the official notation.

Source: Radosavovic et al., "On Network Design Spaces for Visual Recognition", ICCV 2019; which values occur is read off
the published results.

A network is a stem and three or four stages. Every list of the official notation has the stem's entry first. The lists
are ``ds`` (depths), ``ws`` (widths), ``ss`` (strides), and in ResNeXt spaces ``bot_muls`` (hidden over outer width) and
``num_gs`` (groups of the 3x3 convolution). Networks for ImageNet and for CIFAR differ in the stem, and in the residual
and plain spaces in the number of stages.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from eproxy_jax.errors import quoted
from eproxy_jax.spaces import literals
from eproxy_jax.spaces.base import Notation

FIELDS = ("ds", "ws", "ss", "bot_muls", "num_gs")
BOTTLENECK, BASIC_BLOCK, PLAIN = "res_bottleneck_block", "res_basic_block", "double_plain_block"
_BLOCK_TYPE = "block_type"


class AnyNetArch(NamedTuple):
    """An architecture; each field has the stem's entry first.

    Attributes:
      ds: depths, blocks a stage; 1 for the stem.
      ws: widths.
      ss: strides.
      bot_muls: hidden width of a bottleneck over its outer width; empty where blocks have none.
      num_gs: groups of its 3x3 convolution; empty where blocks have none.
    """

    ds: tuple[int, ...]
    ws: tuple[int, ...]
    ss: tuple[int, ...]
    bot_muls: tuple[float, ...] = ()
    num_gs: tuple[int, ...] = ()

    @property
    def num_stages(self) -> int:
        """Stages behind the stem."""
        return len(self.ds) - 1

    def hidden(self, stage: int) -> int:
        """Return the width of the 3x3 convolutions in the bottlenecks of a stage (1, 2, ...)."""
        return round(self.ws[stage] * self.bot_muls[stage])


@dataclasses.dataclass(frozen=True)
class Rules:
    """The rules of one design space.

    Attributes:
      stem_widths: choices of ``ws[0]``.
      strides: ``ss``, fixed.
      depths: choices of each stage's depth.
      widths: choices of each stage's width.
      bot_muls: choices of each stage's bottleneck multiplier; empty for none.
      num_gs: choices of each stage's number of groups; empty for none.
    """

    stem_widths: tuple[int, ...]
    strides: tuple[int, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bot_muls: tuple[float, ...] = ()
    num_gs: tuple[int, ...] = ()

    def choices(self, field: str) -> tuple[Any, ...]:
        """Return the values that the entries of a field after the stem's may have."""
        return {"ds": self.depths, "ws": self.widths, "bot_muls": self.bot_muls, "num_gs": self.num_gs}[field]

    @property
    def free_fields(self) -> tuple[str, ...]:
        """Fields that vary from stage to stage."""
        return ("ds", "ws", "bot_muls", "num_gs") if self.bot_muls else ("ds", "ws")

    @property
    def radices(self) -> tuple[int, ...]:
        """Number of choices of each value: the stem's width, then those of the free fields, stage by stage."""
        stage = [len(self.choices(field)) for field in self.free_fields]
        return (len(self.stem_widths), *stage * (len(self.strides) - 1))

    @property
    def size(self) -> int:
        """Number of architectures."""
        return math.prod(self.radices)

    def arch(self, number: int) -> AnyNetArch:
        """Return the architecture of a number below ``size``."""
        digits = []
        for radix in reversed(self.radices):
            number, digit = divmod(number, radix)
            digits.append(digit)
        stem, *rest = reversed(digits)
        values: dict[str, list[Any]] = {"ds": [1], "ws": [self.stem_widths[stem]], "bot_muls": [1.0], "num_gs": [1]}
        for place, digit in enumerate(rest):
            field = self.free_fields[place % len(self.free_fields)]
            values[field].append(self.choices(field)[digit])
        return AnyNetArch(ss=self.strides, **{field: tuple(values[field]) for field in self.free_fields})  # pyright: ignore[reportCallIssue]

    def problem(self, arch: AnyNetArch) -> str:
        """Say what is wrong with an architecture that has these strides; the empty text if nothing is."""
        stem = {"ds": (1,), "ws": self.stem_widths, "bot_muls": (1.0,), "num_gs": (1,)}
        for field in ("ds", "ws", "bot_muls", "num_gs"):
            values = getattr(arch, field)
            if field not in self.free_fields:
                if values:
                    return f"{field} is {quoted(list(values))}; blocks of this space have no such field, write []"
                continue
            if len(values) != len(self.strides):
                return f"{field} has {len(values)} entries; expected {len(self.strides)}, the stem's and one a stage"
            for place, value in enumerate(values):
                allowed = self.choices(field) if place else stem[field]
                if value not in allowed:
                    part = f"stage {place}" if place else "the stem"
                    return f"{field}[{place}] is {quoted(value)}; allowed for {part}: {_listed(allowed)}"
        return ""

    def neighbours(self, arch: AnyNetArch) -> list[AnyNetArch]:
        """Return the architectures with another value in one place behind the stem."""
        found = []
        for field in self.free_fields:
            values = getattr(arch, field)
            for place in range(1, len(values)):
                for choice in self.choices(field):
                    if choice != values[place]:
                        changed = (*values[:place], choice, *values[place + 1 :])
                        found.append(arch._replace(**{field: changed}))
        return found


def _listed(values: Sequence[Any]) -> str:
    if len(values) > 12:
        return f"{values[0]}, {values[1]}, ..., {values[-1]}"
    return ", ".join(map(str, values))


_RESNEXT_DEPTHS = (1, 2, 4, 8, 16)
_BASIC_DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
_BASIC_WIDTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def _resnext(stem_width: int, stem_stride: int, widths: tuple[int, ...], num_gs: tuple[int, ...]) -> Rules:
    return Rules((stem_width,), (stem_stride, 1, 2, 2), _RESNEXT_DEPTHS, widths, (0.25, 0.5, 1.0), num_gs)


def _both(widths: tuple[int, ...], num_gs: tuple[int, ...]) -> tuple[Rules, ...]:
    return _resnext(64, 8, widths, num_gs), _resnext(16, 1, widths, num_gs)


# The design space on ImageNet first, that on CIFAR second. Of the residual and plain CIFAR networks, few are published:
# what is read is the range that the paper gives, not the grid within it.
RESNEXT_A = _both((16, 32, 64, 128, 256), (1, 2, 4))
RESNEXT_B = _both((64, 128, 256, 512, 1024), (1, 2, 4, 8, 16))
BASIC = (
    Rules((16, 32, 64), (4, 1, 2, 2, 2), _BASIC_DEPTHS, _BASIC_WIDTHS),
    Rules((16,), (1, 1, 2, 2), tuple(range(1, 25)), tuple(range(16, 257, 8))),
)


def example(rules: Rules, block: str) -> str:
    """Return one valid string, for messages."""
    return to_string(rules.arch(0), block)


def to_string(arch: AnyNetArch, block: str) -> str:
    """Write the official ``net`` as compact JSON, keys sorted."""
    net = {_BLOCK_TYPE: block} | {field: list(getattr(arch, field)) for field in FIELDS}
    return json.dumps(net, sort_keys=True, separators=(",", ":"))


def notations(arch: AnyNetArch, block: str) -> tuple[Notation, ...]:
    """Return the notations of a space, with one architecture as the example."""
    net = json.loads(to_string(arch, block))
    meaning = "a row of an NDS file, the stem's entry first: depths, widths, strides, bottlenecks, groups"
    found = [
        Notation("net", net, f"{meaning}; other keys are ignored"),
        Notation("string", to_string(arch, block), "the same as JSON text"),
        Notation("five lists", [net[field] for field in FIELDS], "ds, ws, ss, bot_muls, num_gs"),
    ]
    if not arch.bot_muls:
        short = {key: net[key] for key in (_BLOCK_TYPE, "ds", "ws", "ss")}
        found.append(
            Notation("net without bottlenecks", short, "blocks of this space have neither bot_muls nor num_gs")
        )
    return tuple(found)


def parse(source: Any, block: str, rules: Sequence[Rules], space: str) -> AnyNetArch:
    """Read an architecture from the official ``net``, as JSON or as a dict, or from the five fields of ``AnyNetArch``.

    Args:
      source: what to read.
      block: the block type of the space.
      rules: its design spaces; strides tell which one.
      space: its name, for messages.

    Raises:
      ValueError: not an architecture of the space; says what and how to fix it.
    """
    where = f"not an architecture of {space}"
    net = literals.plain(source, where, example(rules[0], block))
    if isinstance(net, dict):
        fields = _fields_of(net, block, where, named=isinstance(source, AnyNetArch), short=not rules[0].bot_muls)
    elif isinstance(net, list) and len(net) == len(FIELDS) and all(isinstance(values, list) for values in net):
        fields = dict(zip(FIELDS, net, strict=True))
    else:
        raise ValueError(
            f"{where}: {quoted(source)}; expected the official 'net' as a dict or as JSON, like "
            f"{example(rules[0], block)}"
        )
    arch = AnyNetArch(**{field: _numbers(field, values, where) for field, values in fields.items()})
    for one in rules:
        if one.strides == arch.ss:
            wrong = one.problem(arch)
            if wrong:
                raise ValueError(f"{where}: {wrong}")
            return arch
    known = " or ".join(str(list(one.strides)) for one in rules)
    raise ValueError(f"{where}: ss is {quoted(list(arch.ss))}; expected {known}, the stem's stride and one a stage")


def _fields_of(net: dict[Any, Any], block: str, where: str, named: bool, short: bool) -> dict[str, Any]:
    """Return the five fields; ``named`` for an ``AnyNetArch``, ``short`` where blocks have no bottlenecks."""
    needed = ("ds", "ws", "ss") if short else FIELDS
    needed = needed if named else (_BLOCK_TYPE, *needed)
    literals.check_keys(net, needed, where, f"the keys {', '.join(needed)}")
    if not named and net[_BLOCK_TYPE] != block:
        raise ValueError(
            f"{where}: {_BLOCK_TYPE} is {quoted(net[_BLOCK_TYPE])}; expected {quoted(block)}; "
            "other blocks are other spaces"
        )
    return {field: net.get(field, []) for field in FIELDS}


def _numbers(field: str, values: Any, where: str) -> tuple[Any, ...]:
    kind = "numbers" if field == "bot_muls" else "integers"
    found: Any = literals.integers(values)
    if field == "bot_muls" and isinstance(values, list):
        good = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        found = [float(value) for value in values] if good and all(abs(v) < 1e9 for v in values) else None
    if found is None:
        raise ValueError(f"{where}: {field} is {quoted(values)}; expected a list of {kind}, the stem's entry first")
    return tuple(found)
