"""This module says which architectures NAS-Bench-MR has, and reads and writes them.

An architecture is a tuple (input channels, modules, last channels). Input channels are those of the two stem
convolutions, last channels those of the fused output. A module is (branches, blocks of each branch, channels of each
branch). The benchmark has these rules. There are four stages of one to four modules each. Stage s has s branches, and
all modules of a stage are alike. A branch has one to four residual blocks. Every number of channels is a multiple of 8
from 8 to 128. So 27 numbers make an architecture: 2 + 4 (modules a stage) + 10 (blocks) + 10 (channels) + 1.

Source: Ding et al., "Learning Versatile Neural Architectures by Propagating Network Codes", ICLR 2022, and the
benchmark's rows, all of which keep these rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from eproxy_jax.errors import quoted
from eproxy_jax.spaces import literals
from eproxy_jax.spaces.base import Notation

Module = tuple[int, tuple[int, ...], tuple[int, ...]]
Arch = tuple[tuple[int, int], tuple[Module, ...], int]

NUM_STAGES = 4
CHANNEL_STEP, MAX_CHANNELS = 8, 128
MAX_BLOCKS = 4
MAX_REPEATS = 4  # modules of a stage
CHANNELS = tuple(range(CHANNEL_STEP, MAX_CHANNELS + 1, CHANNEL_STEP))
BLOCKS = tuple(range(1, MAX_BLOCKS + 1))
REPEATS = tuple(range(1, MAX_REPEATS + 1))
MAX_MODULES = NUM_STAGES * MAX_REPEATS

KEYS = ("input_channel", "inverted_residual_setting", "last_channel")
_EXAMPLE = "[1, [2], [16]], [2, [1, 4], [16, 32]], [3, [1, 1, 1], [8, 16, 24]], [4, [1, 1, 1, 1], [8, 8, 8, 8]]"
_HINT = f'like {{"input_channel": [16, 16], "inverted_residual_setting": [{_EXAMPLE}], "last_channel": 16}}'

# (choices of each of the 27 numbers), in the order of ``to_numbers``.
_PER_BRANCH = sum(range(1, NUM_STAGES + 1))
CHOICES = (CHANNELS,) * 2 + (REPEATS,) * NUM_STAGES + (BLOCKS,) * _PER_BRANCH + (CHANNELS,) * (_PER_BRANCH + 1)


def stages(arch: Arch) -> list[tuple[int, Module]]:
    """Return (number of modules, the module) of each stage."""
    modules = arch[1]
    found = []
    for branches in range(1, NUM_STAGES + 1):
        own = [module for module in modules if module[0] == branches]
        found.append((len(own), own[0]))
    return found


def to_numbers(arch: Arch) -> tuple[int, ...]:
    """Return the 27 numbers that make an architecture."""
    staged = stages(arch)
    blocks = [n for _, module in staged for n in module[1]]
    channels = [c for _, module in staged for c in module[2]]
    return (*arch[0], *(repeats for repeats, _ in staged), *blocks, *channels, arch[2])


def from_numbers(numbers: Sequence[int]) -> Arch:
    """Invert :func:`to_numbers`."""
    values = iter(map(int, numbers))

    def take(count: int) -> tuple[int, ...]:
        return tuple(next(values) for _ in range(count))

    entering, repeats = take(2), take(NUM_STAGES)
    blocks = [take(stage) for stage in range(1, NUM_STAGES + 1)]
    channels = [take(stage) for stage in range(1, NUM_STAGES + 1)]
    modules = [
        module
        for number, module in zip(repeats, zip(range(1, NUM_STAGES + 1), blocks, channels, strict=True), strict=True)
        for _ in range(number)
    ]
    return (entering[0], entering[1]), tuple(modules), next(values)


def to_json(arch: Arch) -> str:
    """Write an architecture in the benchmark's notation, compact."""
    return json.dumps(dict(zip(KEYS, arch, strict=True)), separators=(",", ":"))


def neighbours(arch: Arch) -> Iterator[Arch]:
    """Yield the architectures that differ in one of the 27 numbers."""
    numbers = to_numbers(arch)
    for place, choices in enumerate(CHOICES):
        for value in choices:
            if value != numbers[place]:
                yield from_numbers((*numbers[:place], value, *numbers[place + 1 :]))


def draw(rng: np.random.Generator) -> Arch:
    """Draw an architecture uniformly. The generator moves on."""
    return from_numbers([choices[rng.integers(len(choices))] for choices in CHOICES])


# --- reading -------------------------------------------------------------------------------------------------


_EXAMPLE_ARCH = {
    "input_channel": [16, 32],
    "inverted_residual_setting": [
        [1, [2], [24]], [2, [1, 3], [40, 8]], [3, [1, 2, 1], [8, 16, 32]], [4, [1, 1, 2, 1], [8, 64, 16, 24]]
    ],
    "last_channel": 48,
}  # fmt: skip

NOTATIONS = (
    Notation("object", {**_EXAMPLE_ARCH, "top1": 60.0},
             "the benchmark: modules are [branches, blocks a branch, channels a branch]; other keys are ignored"),
    Notation("three values", list(_EXAMPLE_ARCH.values()), "the values of the three keys, in this order"),
    Notation("27 numbers", [16, 32, 1, 1, 1, 1, 2, 1, 3, 1, 2, 1, 1, 1, 2, 1, 24, 40, 8, 8, 16, 32, 8, 64, 16, 24, 48],
             "input channels, modules of each stage, blocks of each branch, channels of each branch, last channels"),
)  # fmt: skip


def parse(source: Any) -> Arch:
    """Read an architecture from any of ``NOTATIONS``, as text or as a value.

    Raises:
      ValueError: not an architecture of the space; says where and how to fix it.
    """
    values = literals.plain(source, "not a NAS-Bench-MR architecture", _HINT.removeprefix("like "))
    numbers = literals.integers(values)
    if numbers is not None and len(numbers) == len(CHOICES):
        for place, (number, choices) in enumerate(zip(numbers, CHOICES, strict=True)):
            _number(number, f"number {place + 1} of {len(CHOICES)}", choices)
        return from_numbers(numbers)
    if isinstance(values, dict):
        literals.check_keys(values, KEYS, "not a NAS-Bench-MR architecture", f"an object {_HINT}")
        values = [values[key] for key in KEYS]
    if not isinstance(values, list) or len(values) != len(KEYS):
        raise ValueError(
            f"not a NAS-Bench-MR architecture: {quoted(source)}; expected a dict with {', '.join(KEYS)}, {_HINT}"
        )
    entering, modules, last = values
    first = _numbers(entering, "input_channel", 2, CHANNELS, "the channels of the two stem convolutions")
    return (first[0], first[1]), _modules(modules), _number(last, "last_channel", CHANNELS)


def _allowed(choices: Sequence[int]) -> str:
    if choices is CHANNELS:
        return f"a multiple of {CHANNEL_STEP} from {CHANNEL_STEP} to {MAX_CHANNELS}"
    return f"an integer from {choices[0]} to {choices[-1]}"


def _number(value: Any, where: str, choices: Sequence[int]) -> int:
    number = literals.integer(value)
    if number is None or number not in choices:
        raise ValueError(f"NAS-Bench-MR {where}: expected {_allowed(choices)}, got {quoted(value)}")
    return number


def _numbers(values: Any, where: str, count: int, choices: Sequence[int], meaning: str) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"NAS-Bench-MR {where}: expected a list of {count}, {meaning}; got {quoted(values)}")
    return tuple(_number(value, f"{where}[{place}]", choices) for place, value in enumerate(values))


def _modules(values: Any) -> tuple[Module, ...]:
    name = KEYS[1]
    if not isinstance(values, list) or not values:
        raise ValueError(
            f"NAS-Bench-MR {name}: expected a list of modules [branches, blocks, channels] like {_EXAMPLE}, "
            f"got {quoted(values)}"
        )
    if len(values) > 2 * MAX_MODULES:
        raise ValueError(f"NAS-Bench-MR {name}: {len(values)} modules; expected at most {MAX_MODULES}")
    modules: list[Module] = []
    for place, value in enumerate(values):
        where = f"{name}[{place}]"
        if not isinstance(value, list) or len(value) != 3:
            raise ValueError(
                f"NAS-Bench-MR {where}: expected [branches, blocks, channels] like [1, [2], [16]], got {quoted(value)}"
            )
        branches = _number(value[0], f"{where} branches", range(1, NUM_STAGES + 1))
        blocks = _numbers(value[1], f"{where} blocks", branches, BLOCKS, "one a branch")
        channels = _numbers(value[2], f"{where} channels", branches, CHANNELS, "one a branch")
        module = (branches, blocks, channels)
        before = modules[-1] if modules else (0, (), ())
        if branches not in (before[0], before[0] + 1):
            raise ValueError(
                f"NAS-Bench-MR {where}: {branches} branches after {before[0]}; modules start with 1 branch and add at "
                "most one at a time"
            )
        if branches == before[0] and module != before:
            raise ValueError(
                f"NAS-Bench-MR {where}: differs from the module before it, which has {branches} branches too; all "
                "modules of a stage are alike"
            )
        modules.append(module)
    if modules[-1][0] != NUM_STAGES:
        raise ValueError(
            f"NAS-Bench-MR {name}: ends with {modules[-1][0]} branches; expected stages of 1, 2, 3 and {NUM_STAGES}"
        )
    for branches in range(1, NUM_STAGES + 1):
        count = sum(module[0] == branches for module in modules)
        if count > MAX_REPEATS:
            raise ValueError(
                f"NAS-Bench-MR {name}: {count} modules of {branches} branches; expected 1 to {MAX_REPEATS} a stage"
            )
    return tuple(modules)
