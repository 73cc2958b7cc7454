"""DARTS genotypes at CIFAR sizes: what is drawn, what is read, the largest network."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from eproxy_jax import spaces
from eproxy_jax.spaces.nds_cells import notation

SPACE = spaces.get("darts")
NARROW = spaces.get("darts", width=8, depth=5)


def inputs(cell):
    """Inputs of each node."""
    return [{source for _, source in cell[place : place + 2]} for place in range(0, len(cell), 2)]


def test_genotypes_are_drawn_from_the_darts_space():
    drawn = SPACE.sample(300, 4)
    for arch in drawn:
        assert (arch.width, arch.depth) == (36, 20)
        for cell in (arch.normal, arch.reduce):
            assert all(len(node) == 2 for node in inputs(cell))
            assert all(op != "none" for op, _ in cell)
    ops = [op for arch in drawn for op, _ in (*arch.normal, *arch.reduce)]
    assert len(set(ops)) == 7
    assert max(abs(ops.count(op) / len(ops) - 1 / 7) for op in set(ops)) < 0.03
    assert SPACE.size == "1.1e+18 architectures"
    around = SPACE.neighbours(drawn[0])
    assert len(set(around)) == len(around) >= 16 * 6
    assert all(drawn[0] in SPACE.neighbours(other) for other in around[::9])
    assert all(len(node) == 2 for other in around for cell in (other.normal, other.reduce) for node in inputs(cell))


def test_width_and_depth_are_the_spaces():
    arch = SPACE.sample(1, 0)[0]
    text = SPACE.format(arch)
    assert '"width"' not in text
    other = dataclasses.replace(SPACE, width=32, depth=8)
    assert other.parse(text) == arch._replace(width=32, depth=8)
    assert other.identity() != SPACE.identity()
    net = notation.to_text(arch._replace(width=48), SPACE.rules)
    with pytest.raises(ValueError, match="has the width 48, the space 36: give the space this width"):
        SPACE.parse(net)
    assert dataclasses.replace(SPACE, width=48).parse(net).width == 48
    with pytest.raises(ValueError, match="Darts.depth: expected 5 to 200 cells, got 4"):
        spaces.get("darts", depth=4)
    assert SPACE.full_sizes(arch) == (SPACE.macs(SPACE.canonical(arch)), SPACE.params(SPACE.canonical(arch)))


def test_the_largest_network():
    largest = NARROW.max_macs()
    assert all(NARROW.macs(arch) <= largest for arch in NARROW.sample(300, 2))
    # All cells of one operation and one kind of input, as far as each node has it.
    ops, found = NARROW.rules.ops, []
    for normal, first, later in itertools.product(ops, repeat=3):
        for source in (0, 2):
            reduce = ((first, 0), (first, 1), *((later, source),) * 6)
            found.append(NARROW.macs(notation.NdsArch(((normal, 0),) * 8, reduce, 8, 5)))
    assert max(found) == largest


def test_parameters_are_near_those_of_nasbench301(data):
    """NASLib counts an auxiliary part of the stem and the classifier as well: 0.5 to 1 % more or less."""
    rows = json.loads((data / "proxy_scores" / "zc_nasbench301_v43d9.json").read_text())["nasbench301"]["cifar10"]
    space = spaces.get("darts", width=32, depth=8)
    ratio = np.array([space.params(space.parse(pairs)) / (1e6 * row["params"]) for pairs, row in rows.items()])
    assert ratio.min() > 0.99
    assert ratio.max() < 1.02
