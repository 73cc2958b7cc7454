"""This module reads NAS-Bench-101 cells: a matrix with names or codes of operations, or flat lists of both."""

from __future__ import annotations

import itertools
import json
from typing import Any

from eproxy_jax.errors import quoted
from eproxy_jax.spaces import literals
from eproxy_jax.spaces.base import Notation
from eproxy_jax.spaces.nasbench101.graph import (
    CONV1X1,
    CONV3X3,
    INPUT,
    MAX_VERTICES,
    OPS,
    OUTPUT,
    POOL,
    Cell,
    check_cell,
)

_WHAT = "NAS-Bench-101 cell"
_EXAMPLE = '[[[0,1,1],[0,0,1],[0,0,0]],["input","conv3x3-bn-relu","output"]]'
_MAX_WRITTEN = 32  # vertices of a cell as written, dead ones included; tools write seven at most

# Operations by code: the benchmark's own (a graph's file), and NASLib's.
_BENCHMARK_CODES = {-1: INPUT, 0: CONV3X3, 1: CONV1X1, 2: POOL, -2: OUTPUT}
_NASLIB_CODES = (INPUT, OUTPUT, POOL, CONV1X1, CONV3X3)
_NAMES = {
    **{name: name for name in (INPUT, OUTPUT, *OPS)},
    "in": INPUT, "out": OUTPUT,
    "conv1x1": CONV1X1, "conv_1x1": CONV1X1, "nor_conv_1x1": CONV1X1,
    "conv3x3": CONV3X3, "conv_3x3": CONV3X3, "nor_conv_3x3": CONV3X3,
    "maxpool": POOL, "max_pool_3x3": POOL, "maxpool_3x3": POOL,
}  # fmt: skip
# Keys of an object that holds a matrix and its operations. Other keys are ignored.
_KEYS = (
    ("module_adjacency", "module_operations"),
    ("matrix", "ops"),
    ("adjacency", "operations"),
    ("adjacency_matrix", "operations"),
    ("adjacency_matrix", "ops"),
    ("adj", "ops"),
    ("matrix", "operations"),
    ("original_matrix", "original_ops"),
    ("matrix", "labels"),
)

_MATRIX = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
_OPS = [INPUT, CONV3X3, CONV1X1, OUTPUT]
_SEVEN = {(0, 1): 1, (0, 2): 1, (1, 6): 1, (2, 6): 1}
_PAIRS = list(itertools.combinations(range(MAX_VERTICES), 2))

NOTATIONS = (
    Notation("matrix and names", [_MATRIX, _OPS], "matrix[i][j] = 1 is an edge from vertex i to vertex j"),
    Notation("matrix and codes", [_MATRIX, [-1, 0, 1, -2]],
             "the benchmark's file of graphs: -1 input, 0 conv 3x3, 1 conv 1x1, 2 max pool, -2 output"),
    Notation("object", {"module_adjacency": _MATRIX, "module_operations": _OPS},
             "the benchmark's statistics; matrix and ops, adjacency and operations are read as well"),
    Notation("ModelSpec", f"ModelSpec(matrix={_MATRIX}, ops={_OPS})", "the benchmark's class, as text or as an object"),
    Notation("NumPy", "[array([[0, 1, 1, 0],\n       [0, 0, 0, 1],\n       [0, 0, 0, 1],\n       [0, 0, 0, 0]], "
             f"dtype=int8), {_OPS}]", "what Python prints of an array"),
    Notation("NASLib tuple", str((*itertools.chain(*_MATRIX), 0, 4, 3, 1)),
             "the matrix row by row, then a code a vertex: 0 input, 1 output, 2 max pool, 3 conv 1x1, 4 conv 3x3"),
    Notation("edges and operations, HPOBench",
             {**{f"edge_{number}": _SEVEN.get(pair, 0) for number, pair in enumerate(_PAIRS)},
              **{f"op_node_{number}": op for number, op in enumerate([CONV3X3, CONV1X1, POOL, POOL, POOL])}},
             "the upper triangle of a matrix of seven vertices, row by row, and five operations"),
    Notation("inputs and operations, NNI",
             {"op1": CONV3X3, "op2": CONV1X1, "input1": [0], "input2": [0], "input3": [1, 2]},
             "the vertices that each vertex reads; the last one is the output"),
)  # fmt: skip


def parse(source: Any) -> Cell:
    """Read a cell from any of ``NOTATIONS``.

    Raises:
      ValueError: not a NAS-Bench-101 cell; says what and how to fix it.
    """
    if hasattr(source, "matrix") and hasattr(source, "ops") and not isinstance(source, dict):  # a ModelSpec
        source = [source.matrix, source.ops]
    value = literals.plain(source, f"not a {_WHAT}", _EXAMPLE)
    if isinstance(value, dict):
        matrix, ops = _of_object(value, source)
    elif isinstance(value, list) and len(value) == 2 and all(isinstance(part, list) for part in value):
        matrix, ops = value
    elif (codes := literals.integers(value)) is not None and len(codes) > 2:
        matrix, ops = _of_flat(codes, source)
    else:
        wanted = "a list of rows and a list of ops" if isinstance(value, list) and len(value) == 2 else "[matrix, ops]"
        raise ValueError(f"not a {_WHAT}: {quoted(source)}; expected {wanted} like {_EXAMPLE}")
    if len(matrix) > _MAX_WRITTEN:
        raise ValueError(f"{_WHAT}: {len(matrix)} vertices; at most {MAX_VERTICES} may be on paths to the output")
    return check_cell([_row(row) for row in matrix], _names(ops, len(matrix)), _WHAT)


def _of_object(value: dict[Any, Any], source: Any) -> tuple[list[Any], list[Any]]:
    for matrix, ops in _KEYS:
        if isinstance(value.get(matrix), list) and isinstance(value.get(ops), list):
            return value[matrix], value[ops]
    if "edge_0" in value and "op_node_0" in value:
        return _of_edges(value)
    if "op1" in value and "input1" in value:
        return _of_inputs(value)
    found = ", ".join(sorted(quoted(key) for key in value)[:6])
    raise ValueError(
        f"not a {_WHAT}: {quoted(source)} has the keys {found}; expected {' and '.join(map(repr, _KEYS[0]))}, or "
        f"{' and '.join(map(repr, _KEYS[1]))}"
    )


def _of_flat(codes: list[int], source: Any) -> tuple[list[Any], list[Any]]:
    """Read NASLib's flat tuple: n * n entries of the matrix, and n codes."""
    size = next((n for n in range(2, MAX_VERTICES + 1) if n * (n + 1) == len(codes)), None)
    if size is None:
        raise ValueError(
            f"not a {_WHAT}: {quoted(source)} has {len(codes)} numbers; NASLib's tuple of n vertices has n * n + n, "
            "the matrix row by row and a code a vertex"
        )
    ops = codes[size * size :]
    if not all(0 <= code < len(_NASLIB_CODES) for code in ops):
        raise ValueError(f"{_WHAT}: NASLib's codes are 0 to {len(_NASLIB_CODES) - 1}, got {ops}")
    return [codes[size * row : size * (row + 1)] for row in range(size)], [_NASLIB_CODES[code] for code in ops]


def _of_edges(value: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    keys = [f"edge_{number}" for number in range(len(_PAIRS))] + [f"op_node_{n}" for n in range(MAX_VERTICES - 2)]
    missing = next((key for key in keys if key not in value), None)
    if missing is not None:
        raise ValueError(
            f"{_WHAT}: the key {missing!r} is missing; expected edge_0 to edge_20 and op_node_0 to op_node_4"
        )
    matrix: list[list[Any]] = [[0] * MAX_VERTICES for _ in range(MAX_VERTICES)]
    for number, (i, j) in enumerate(_PAIRS):
        matrix[i][j] = value[f"edge_{number}"]
    return matrix, [INPUT, *(value[f"op_node_{number}"] for number in range(MAX_VERTICES - 2)), OUTPUT]


def _of_inputs(value: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    count = next(n for n in itertools.count(1) if f"op{n}" not in value)  # the output's number
    matrix: list[list[Any]] = [[0] * (count + 1) for _ in range(count + 1)]
    for vertex in range(1, count + 1):
        read = literals.integers(value.get(f"input{vertex}"))
        if read is None or not all(0 <= source < vertex for source in read):
            raise ValueError(
                f"{_WHAT}: input{vertex} is {quoted(value.get(f'input{vertex}'))}; expected a list of vertices before "
                f"{vertex}"
            )
        for source in read:
            matrix[source][vertex] = 1
    return matrix, [INPUT, *(value[f"op{vertex}"] for vertex in range(1, count)), OUTPUT]


def _row(row: Any) -> Any:
    """Return a row of the matrix with whole numbers and truth values as ints."""
    if not isinstance(row, list):
        return row
    return [int(entry) if isinstance(entry, bool) or literals.integer(entry) is not None else entry for entry in row]


def _names(ops: list[Any], size: int) -> list[Any]:
    """Return the operations by name, one per vertex."""
    codes = literals.integers(ops)
    if codes:
        if codes[0] == -1:
            return [_BENCHMARK_CODES.get(code, code) for code in codes]
        if codes[0] == 0 and codes[-1] == 1 and all(0 <= code < len(_NASLIB_CODES) for code in codes):
            return [_NASLIB_CODES[code] for code in codes]
        raise ValueError(
            f"{_WHAT}: operations are coded as {quoted(ops)}; expected the benchmark's codes, which start with -1 and "
            "end with -2, or NASLib's, which start with 0 and end with 1"
        )
    names = [_NAMES.get(op.lower(), op) if isinstance(op, str) else op for op in ops]
    if len(names) == size - 2 and INPUT not in names and OUTPUT not in names:
        return [INPUT, *names, OUTPUT]  # those of the interior vertices alone
    return names


def to_text(cell: Cell) -> str:
    """Write the pair as JSON text without spaces."""
    return json.dumps(cell, separators=(",", ":"))
