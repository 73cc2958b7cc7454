"""This module finds the largest network of an NDS design space within the space's bound on parameters.

All published networks of the cell spaces have fewer than six million parameters in their ImageNet form. Of draws from
the whole grid of widths and depths, 45 to 80 % have more. So that bound is part of the space.

Parameters and MACs are sums over the edges of both cells, plus what the number of outputs of each cell adds. The
largest network within a bound is thus a knapsack, solved by fronts: pairs (parameters, MACs) that no other pair beats
in both.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from eproxy_jax.spaces.nds_cells import program, published_counts
from eproxy_jax.spaces.nds_cells.notation import Cell, NdsArch, Rules

_FREE = "avg_pool_3x3"  # an operation that costs nothing, at either stride


def fits(arch: NdsArch, rules: Rules) -> bool:
    """Say if the network's ImageNet form has fewer parameters than the space allows."""
    return published_counts.counts(arch, rules).params < rules.max_params


def _cell(outputs: int, nodes: int, concat_all: bool) -> Cell:
    """Return a cell of pools with so many output nodes: its first nodes are a chain."""
    links = 0 if concat_all else nodes - outputs
    return tuple((_FREE, 1 + node if side and 0 < node <= links else 0) for node in range(nodes) for side in (0, 1))


def _front(pairs: np.ndarray) -> np.ndarray:
    """Return the pairs [n, 2] that no other beats: parameters ascending, MACs ascending."""
    pairs = pairs[np.lexsort((-pairs[:, 1], pairs[:, 0]))]
    best = np.maximum.accumulate(pairs[:, 1])
    return pairs[np.concatenate([[True], best[1:] > best[:-1]])]


def _sums(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return _front((first[:, None] + second[None, :]).reshape(-1, 2))


def _powers(choices: Iterable[np.ndarray], edges: int) -> list[np.ndarray]:
    """Return the fronts of 0, 1, ... edges that each choose one of the pairs."""
    step, fronts = _front(np.stack(list(choices))), [np.zeros((1, 2), np.int64)]
    for _ in range(edges):
        fronts.append(_sums(fronts[-1], step))
    return fronts


def _best(first: np.ndarray, second: np.ndarray, budget: int) -> int:
    """Return the most MACs of a sum of one pair of each with fewer parameters than the budget; -1 if there is none."""
    place = np.searchsorted(second[:, 0], budget - first[:, 0], side="left") - 1
    found = np.where(place >= 0, first[:, 1] + second[np.maximum(place, 0), 1], -1)
    return int(found.max())


@functools.lru_cache(maxsize=64)
def max_macs(rules: Rules, width_divisor: int) -> int:
    """Return the MACs of the backbone of the space's largest network."""
    nodes, edges, most = rules.nodes, 2 * rules.nodes, 0
    counts = (nodes,) if rules.concat_all else range(1, nodes + 1)
    cells = {number: _cell(number, nodes, rules.concat_all) for number in counts}
    full = cells[nodes]

    def cost(normal: Cell, reduce: Cell, width: int, depth: int) -> np.ndarray:
        arch = NdsArch(normal, reduce, width, depth)
        macs = program.macs(arch, rules, -(-width // width_divisor))
        return np.array([published_counts.counts(arch, rules).params, macs])

    def with_edge(op: str, place: int, source: int) -> Cell:
        return (*full[:place], (op, source), *full[place + 1 :])

    for width in rules.widths:
        for depth in rules.depths:
            free = cost(full, full, width, depth)
            if free[0] >= rules.max_params:
                continue
            normal = _powers((cost(with_edge(op, 0, 0), full, width, depth) - free for op in rules.ops), edges)[-1]
            strided = _powers((cost(full, with_edge(op, 0, 0), width, depth) - free for op in rules.ops), edges)
            # The last edge may read an earlier node, which then is no output unless all are.
            other = cost(full, with_edge(_FREE, edges - 1, 2), width, depth)
            inner = [cost(full, with_edge(op, edges - 1, 2), width, depth) - other for op in rules.ops]
            unstrided = _powers(inner, edges - 2)
            of_inner = [_sums(strided[edges - number], unstrided[number]) for number in range(edges - 1)]
            for of_normal in counts:
                for of_reduce in counts:
                    base = cost(cells[of_normal], cells[of_reduce], width, depth)
                    budget = int(rules.max_params - base[0])
                    hidden = nodes - of_reduce
                    inner_edges = range(hidden, edges - 1) if hidden or rules.concat_all else (0,)
                    for number in inner_edges:
                        most = max(most, int(base[1]) + _best(normal, of_inner[number], budget))
    return most
