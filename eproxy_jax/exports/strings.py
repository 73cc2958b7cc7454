"""This module writes an architecture in the notations of its space; the space's own reader checks each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from eproxy_jax.spaces.base import SearchSpace

_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # of a four-node cell, grouped by target
_NASLIB_201 = (1, 0, 3, 2, 4)  # operation code of this package -> NASLib's: none, skip, conv1x1, conv3x3, pool
_CODES_101 = {"input": -1, "output": -2, "conv3x3-bn-relu": 0, "conv1x1-bn-relu": 1, "maxpool3x3": 2}


def _nodes(values: Any) -> list[Any]:
    """Return six values of edges, node by node."""
    return [list(values[:1]), list(values[1:3]), list(values[3:])]


def _names(space: Any, arch: Any) -> list[str]:
    return [space.ops[code] for code in arch]


def _naslib_cell(space: Any, arch: Any) -> str:
    if len(space.ops) < 5:
        return str(tuple(arch))
    by_source = sorted(range(6), key=lambda edge: _EDGES[edge])
    return str(tuple(_NASLIB_201[arch[edge]] for edge in by_source))


def _genotype(space: Any, arch: Any) -> dict[str, Any]:
    found = json.loads(space.format(arch))
    return found.get("genotype", found)


def _genotype_text(space: Any, arch: Any) -> str:
    parts = _genotype(space, arch)
    pairs = {name: [tuple(edge) for edge in parts[name]] for name in ("normal", "reduce")}
    concat = {name: list(parts[f"{name}_concat"]) for name in pairs}
    return "Genotype(" + ", ".join(f"{n}={pairs[n]}, {n}_concat={concat[n]}" for n in pairs) + ")"


def _matrix(arch: Any) -> list[list[int]]:
    return [list(row) for row in arch[0]]


# By the name of the notation, as ``space.notations()`` has it: (space, architecture) -> a value of JSON.
_WRITERS: dict[str, Callable[[Any, Any], Any]] = {
    "string": lambda space, arch: space.format(arch),
    # cells of four nodes
    "string without prefix": lambda space, arch: space.format(arch).rpartition("-")[2],
    "NASLib codes": lambda space, arch: (
        _naslib_cell(space, arch) if hasattr(space, "ops") else str((*arch, *(0,) * (6 - len(arch))))
    ),
    "nested codes": lambda space, arch: _nodes(list(arch)),
    "nested names": lambda space, arch: _nodes(_names(space, arch)),
    "node tuples": lambda space, arch: [[[op, n] for n, op in enumerate(node)] for node in _nodes(_names(space, arch))],
    "six names": _names,
    "operations by edge": lambda space, arch: {
        f"{target}<-{source}": op for (source, target), op in zip(_EDGES, _names(space, arch), strict=True)
    },
    "operations by edge, NNI": lambda space, arch: {
        f"{source}_{target}": op.removeprefix("nor_")
        for (source, target), op in zip(_EDGES, _names(space, arch), strict=True)
    },
    # NAS-Bench-101; NAS-Bench-MR's object is that of its string
    "object": lambda space, arch: (
        {"module_adjacency": _matrix(arch), "module_operations": list(arch[1])}
        if len(arch) == 2
        else json.loads(space.format(arch))
    ),
    "matrix and names": lambda space, arch: [_matrix(arch), list(arch[1])],
    "matrix and codes": lambda space, arch: [_matrix(arch), [_CODES_101[name] for name in arch[1]]],
    "ModelSpec": lambda space, arch: f"ModelSpec(matrix={_matrix(arch)}, ops={list(arch[1])})",
    # NDS, DARTS
    "net": lambda space, arch: json.loads(space.format(arch)),
    "genotype object": _genotype,
    "Genotype": _genotype_text,
    "pairs by node": lambda space, arch: {
        name: [[list(edge) for edge in cell[n : n + 2]] for n in range(0, len(cell), 2)]
        for name, cell in (("normal", arch.normal), ("reduce", arch.reduce))
    },
    "five lists": lambda space, arch: [list(part) for part in arch],
    # widths and digits
    "five numbers": lambda space, arch: list(arch),
    "digits": lambda space, arch: list(arch),
    "number": lambda space, arch: int("".join(map(str, arch))),
    "three values": lambda space, arch: json.loads(json.dumps(arch)),
}


def notations(space: SearchSpace, arch: Any) -> dict[str, Any]:
    """Return the architecture in the space's notations, by name: values of JSON that ``space.parse`` reads back.

    What cannot say all of the architecture, such as a genotype without width and depth, is left out.
    """
    found: dict[str, Any] = {}
    for notation in space.notations():
        writer = _WRITERS.get(notation.name)
        if writer is None:
            continue
        try:
            value = writer(space, arch)
            same = space.parse(value) == arch
        except (ValueError, TypeError, KeyError, AttributeError):  # a user's space may use these names otherwise
            continue
        if same:
            found[notation.name] = value
    return found
