"""Networks whose output never depends on the image are found from the graph, in every space."""

import itertools

import conformance
import flax.linen as nn
import graphs
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, QUICK, SPACES, nds, slow_unless

from eproxy_jax import spaces
from eproxy_jax.nn import layers

NUMBERS_OF = [(name, number) for name in SPACES for number in range(len(CELLS[name]))]
NOTHING, NEWER, OLDER = "n-0 " * 8, "i-1 " + "n-0 " * 7, "s3-0 " + "n-0 " * 7


@pytest.mark.parametrize(("name", "disconnected"), [("nasbench201", 341), ("transnas_micro", 169)])
def test_all_cells(name, disconnected):
    """Every cell of the two spaces, against a search along paths."""
    space = spaces.get(name)
    cells = list(space.enumerate())
    found = [space.is_connected(cell) for cell in cells]
    assert found == [graphs.is_connected(cell) for cell in cells]
    assert found.count(False) == disconnected
    for cell, connected in zip(cells, found, strict=True):
        assert space.is_connected(space.canonical(cell)) == connected
        assert (spaces.effective_macs(space, cell) > 0) == connected


def test_all_disconnected_cells_of_nasbench201_are_one_function():
    space = spaces.get("nasbench201")
    assert {space.canonical(cell) for cell in space.enumerate() if not space.is_connected(cell)} == {(0,) * 6}


@pytest.mark.parametrize(("name", "number"), slow_unless(QUICK, NUMBERS_OF))
def test_the_graph_tells_what_the_network_computes(name, number):
    """The last map of a disconnected network is the same for all images, and no other network's is."""
    last, *_ = conformance.alone(name, number).taps
    assert np.any(np.ptp(last, axis=0)) == SPACES[name].is_connected(CELLS[name][number])


def traced(space, arch) -> bool:
    """What the trace of the stand-alone network says."""
    family = spaces.from_flax(space.to_flax, [arch])
    return family.is_connected(family.archs[0])


@pytest.mark.parametrize("name", ["nasbench201", "transnas_micro"])
@pytest.mark.parametrize("cell", [(0, 0, 0, 0, 0, 0), (3, 3, 2, 0, 0, 0), (0, 0, 3, 0, 1, 3), (3, 0, 0, 0, 2, 0)])
def test_the_trace_of_a_cell_agrees(name, cell):
    """A convolution of zeros has a bias in one space and none in the other: it is a constant either way."""
    assert traced(SPACES[name], cell) == SPACES[name].is_connected(cell) == graphs.is_connected(cell)


def test_darts_networks_go_around_cells_that_are_cut_off():
    """What a reduction cell loses, the cell behind it may still read from the cell before."""
    space = SPACES["nds_darts"]
    parts = {"nothing": NOTHING, "newer": NEWER, "older": OLDER}
    found = {}
    for (normal, first), (reduce, second), depth in itertools.product(parts.items(), parts.items(), (5, 7)):
        found[normal, reduce, depth] = space.is_connected(space.parse(nds(first, second, 32, depth)))
    for depth in (5, 7):
        assert not any(found["nothing", reduce, depth] for reduce in parts)
        assert not found["newer", "nothing", depth]
        assert all(found[normal, reduce, depth] for normal in ("newer", "older") for reduce in ("newer", "older"))
    # Two cells in a row are the distance that an older input bridges: 5 cells end in a normal one right behind it.
    assert found["older", "nothing", 5]
    assert not found["older", "nothing", 7]


@pytest.mark.parametrize("depth", [5, 7])
def test_the_trace_of_a_darts_network_agrees(depth):
    space = SPACES["nds_darts"]
    arch = space.parse(nds("i-0 " + "n-0 " * 7, NOTHING, 32, depth))
    assert traced(space, arch) == space.is_connected(arch) == (depth == 5)


def test_spaces_without_an_operation_that_cuts_are_connected():
    for name, space in SPACES.items():
        archs = space.sample(20, 1)
        if name not in ("nasbench201", "transnas_micro", "nds_darts"):
            assert all(space.is_connected(arch) for arch in archs), name


class Family(nn.Module):
    """A network whose branches are there or not."""

    reads: tuple

    @nn.compact
    def __call__(self, x):
        early = layers.Conv(4, 3)(x)
        late = jnp.zeros_like(early)
        if "image" in self.reads:
            late = late + layers.Conv(4, 3)(early)
        if "bias" in self.reads:
            late = nn.relu(late + self.param("bias", nn.initializers.ones, (1, 1, 1, 4)))
        return [late, early]


def test_a_users_family_is_traced():
    space = spaces.from_flax(Family, [(), ("bias",), ("image",), ("image", "bias")])
    assert [space.is_connected(arch) for arch in space.archs] == [False, False, True, True]
    assert [spaces.effective_macs(space, arch) > 0 for arch in space.archs] == [False, False, True, True]
    assert all(space.macs(arch) > 0 for arch in space.archs)  # as written


@pytest.mark.parametrize("name", SPACES)
def test_the_share_of_macs_is_at_most_one(name, monkeypatch):
    """Of a network larger than the largest, too: with a share above 1 / alpha, the largest loss would rank first."""
    space = SPACES[name]
    largest = space.max_macs()
    archs = [*space.sample(5, 0), *CELLS[name]]
    np.testing.assert_array_less(spaces.macs_fractions(space, archs), 1 + 1e-12)
    monkeypatch.setattr(type(space), "max_macs", lambda _: largest // 1000)
    fractions = spaces.macs_fractions(space, archs)
    assert fractions.max() == 1
    assert fractions.min() >= 0
