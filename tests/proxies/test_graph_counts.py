"""Counts in graphs: by hand, against all paths one by one, and equal for equal functions."""

import dataclasses
import itertools
import math
import random

import flax.linen as nn
import numpy as np
import pytest
import tiny
from helpers import CELLS, SPACES, dag_cell, nds
from hypothesis import given, settings
from hypothesis import strategies as st

from eproxy_jax import spaces
from eproxy_jax.proxies.graph_counts import COUNTS, graph_counts, names
from eproxy_jax.spaces.cells.graph import Cell, function_key
from eproxy_jax.spaces.structure import Graph, Structure


def counts(space, arch):
    return dict(zip(names(space), graph_counts(space, [arch])[0].tolist(), strict=True))


def of_subset(found, graph, label):
    """The six counts of a subset, in the order of ``COUNTS``."""
    return [found[f"{graph}:{count}:{label}"] for count in COUNTS]


# --- by hand -------------------------------------------------------------------------------------------------


def test_a_nasbench201_cell():
    """0 -conv3x3-> 1 -conv1x1-> 3, 1 -pool-> 2 -conv3x3-> 3 and 0 -skip-> 3."""
    space, cell = SPACES["nasbench201"], Cell((3, 0, 4, 1, 2, 3))
    assert space.canonical(cell) == cell
    found = counts(space, cell)
    assert len(found) == 4 + 6 * 15
    operations = {"skip_connect": 1, "nor_conv_1x1": 1, "nor_conv_3x3": 2, "avg_pool_3x3": 1}
    assert {op: found[f"cell:{op}"] for op in operations} == operations
    every = "skip_connect+nor_conv_1x1+nor_conv_3x3+avg_pool_3x3"
    assert of_subset(found, "cell", every) == [1, 3, 2, 3, 5 / 3, 5 / 3]
    assert of_subset(found, "cell", "nor_conv_3x3") == [6, -1, 1, 1, 2 / 3, 2 / 3]
    assert of_subset(found, "cell", "nor_conv_1x1+nor_conv_3x3") == [2, 2, 1, 2, 1, 1]
    assert of_subset(found, "cell", "nor_conv_3x3+avg_pool_3x3") == [3, 3, 1, 1, 1, 1]


def test_a_nasbench101_cell():
    """Input to 3x3 to pool to 1x1 to output, input to pool, 3x3 to output, and input to output."""
    space = SPACES["nasbench101"]
    found = counts(space, dag_cell("01 12 23 34 02 14 04", "3m1"))
    assert len(found) == 3 + 6 * 7
    assert [found[f"cell:{op}"] for op in ("conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3")] == [1, 1, 1]
    # Four vertices are entered, four are left; seven edges, three from the input, three into the output.
    every = "conv1x1-bn-relu+conv3x3-bn-relu+maxpool3x3"
    assert of_subset(found, "cell", every) == [0, 3, 2, 2, 4 / 4, 4 / 4]
    assert of_subset(found, "cell", "conv3x3-bn-relu") == [0, 1, 1, 1, 2 / 4, 1 / 4]
    assert of_subset(found, "cell", "maxpool3x3") == [0, 0, 1, 0, 1 / 4, 2 / 4]
    assert of_subset(found, "cell", "conv1x1-bn-relu+maxpool3x3") == [0, 2, 1, 1, 2 / 4, 3 / 4]


def test_without_an_edge_past_it_a_vertex_must_be_passed():
    found = counts(SPACES["nasbench101"], dag_cell("01 12 23", "3m"))
    assert of_subset(found, "cell", "conv3x3-bn-relu") == [9, -1, 1, 0, 1 / 3, 1 / 3]
    assert of_subset(found, "cell", "conv3x3-bn-relu+maxpool3x3") == [2, 2, 1, 1, 2 / 3, 2 / 3]


def test_a_darts_network():
    """All four nodes are the output, so an edge from an input is a path; node 3 reads node 2, node 4 reads node 3."""
    space = SPACES["nds_darts"]
    found = counts(space, nds("s3-0 n-1 s3-2 n-0 m3-3 i-0 n-0 s5-1", "i-0 i-1 i-0 i-1 i-0 i-1 i-0 i-1", 48, 14))
    assert len(found) == 2 * (7 + 6 * 127) + 2 * 2
    # Edges enter the nodes 2, 3, 4, 5 and leave 0, 1, 2, 3.
    assert of_subset(found, "normal", "sep_conv_3x3") == [1, 2, 1, 2, 2 / 4, 2 / 4]
    assert of_subset(found, "normal", "max_pool_3x3+sep_conv_3x3") == [1, 3, 1, 3, 3 / 4, 3 / 4]
    assert of_subset(found, "normal", "max_pool_3x3") == [8, -1, 0, 1, 1 / 4, 1 / 4]
    assert of_subset(found, "reduce", "skip_connect") == [1, 1, 8, 8, 8 / 4, 8 / 2]
    assert (found["normal:sep_conv_3x3"], found["reduce:skip_connect"], found["reduce:sep_conv_3x3"]) == (2, 8, 0)
    assert (found["width"], found["depth"], found["log_width"]) == (48, 14, math.log2(49))


def test_many_operations_have_families_instead_of_all_subsets():
    found = counts(SPACES["nds_nasnet"], CELLS["nds_nasnet"][0])
    labels = {name.split(":")[2] for name in found if name.startswith("normal:shortest:")}
    assert len(labels) == 13 + 13 + 4 + 1
    # c1-0 c3-1, l3-0 l7-1, m5-0 m7-2, s7-1 d3-3, i-4 a3-0: nodes 2 to 6, of which 5 and 6 are read by none.
    assert of_subset(found, "normal", "pools") == [1, 1, 2, 1, 3 / 5, 3 / 5]
    assert of_subset(found, "normal", "weighted") == [1, 2, 5, 2, 6 / 5, 6 / 5]
    assert of_subset(found, "normal", "not_sep_conv_7x7") == [1, 3, 6, 3, 9 / 5, 9 / 5]


def test_a_macro_code():
    """The last 4 is read as 2; past the end there are zeros."""
    found = counts(SPACES["transnas_macro"], (2, 3, 4, 1, 4))
    assert [found[kind] for kind in ("modules", "plain", "widen", "stride", "both")] == [5, 1, 2, 1, 1]
    assert [found[f"widenings_after{place}"] for place in range(1, 7)] == [1, 1, 2, 2, 3, 0]
    assert [found[f"strides_after{place}"] for place in range(1, 7)] == [0, 1, 2, 2, 2, 0]


def test_sizes():
    found = counts(SPACES["nats_size"], (8, 16, 24, 32, 64))
    assert list(found.values()) == [8, 16, 24, 32, 64, *(math.log2(width + 1) for width in (8, 16, 24, 32, 64))]
    arch = CELLS["nds_resnext_a"][1]
    found = counts(SPACES["nds_resnext_a"], arch)
    assert [found[f"groups{stage}"] for stage in (1, 2, 3)] == [4, 2, 1]
    assert [found[f"depth{stage}"] for stage in (1, 2, 3)] == [2, 1, 1]
    found = counts(SPACES["nds_resnet"], CELLS["nds_resnet"][1])  # three stages, where others have four
    assert [found[f"width{stage}"] for stage in (1, 2, 3, 4)] == [24, 72, 16, 0]
    assert found["log_width4"] == 0
    found = counts(SPACES["nasbench_mr"], CELLS["nasbench_mr"][0])
    assert (found["modules1"], found["blocks3_3"], found["channels3_3"], found["channels_end"]) == (2, 2, 128, 40)


# --- all spaces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_columns_are_finite_named_and_of_one_architecture_each(name):
    space = SPACES[name]
    archs = [*CELLS[name], *space.sample(12, 3)]
    archs = [*archs, archs[0]]
    found = graph_counts(space, archs)
    assert found.shape == (len(archs), len(names(space)))
    assert found.dtype == np.float64
    assert len(names(space)) == len(set(names(space))) > 0
    assert np.all(np.isfinite(found))
    for row, arch in zip(found, archs, strict=True):
        np.testing.assert_array_equal(row, graph_counts(space, [arch])[0])
        np.testing.assert_array_equal(row, graph_counts(space, [space.canonical(arch)])[0])
    assert graph_counts(space, []).shape == (0, len(names(space)))
    assert len(np.unique(found, axis=0)) > 1


def relabelled(space, arch, rng):
    """The same function, written otherwise."""
    if space.name == "nasbench101":  # vertices in another order, and a dead one
        matrix, ops = space.canonical(arch)
        last = len(ops) - 1
        order = [0, *rng.sample(range(1, last), last - 1), last]
        swapped = tuple(tuple(matrix[i][j] for j in order) for i in order)
        if any(swapped[i][j] for i in range(last + 1) for j in range(i)):
            swapped, order = matrix, list(range(last + 1))
        dead = [[*row[:-1], 0, row[-1]] for row in swapped]
        dead.insert(last, [0] * (last + 2))
        dead[0][last] = 1
        kept = [ops[v] for v in order]
        return space.parse([dead, [*kept[:-1], "maxpool3x3", kept[-1]]])
    if space.name in ("nasbench201", "transnas_micro"):  # a skip of zeros is no edge
        dead = [edge for edge, source in ((2, 0), (4, 0)) if arch[source] == 0]
        weightless = (0, 1) if space.affine else (0, 1, 2, 3, 4)  # a convolution of zeros may have a bias
        return Cell(tuple(1 if edge in dead and op in weightless else op for edge, op in enumerate(arch)))
    if hasattr(arch, "reduce"):  # the edges of a node the other way round
        swap = {name: tuple(e for pair in zip(c[::2], c[1::2], strict=True) for e in pair[::-1])
                for name, c in (("normal", arch.normal), ("reduce", arch.reduce))}  # fmt: skip
        return arch._replace(**swap)
    return arch


@pytest.mark.parametrize("name", SPACES)
def test_equal_functions_have_equal_counts(name):
    space, rng = SPACES[name], random.Random(0)
    archs = space.sample(60, 5)
    others = [relabelled(space, arch, rng) for arch in archs]
    np.testing.assert_array_equal(graph_counts(space, archs), graph_counts(space, others))


def test_all_cells_of_one_function_have_one_row():
    space = SPACES["nasbench201"]
    archs = list(space.enumerate())[::7]
    rows = {}
    for arch, row in zip(archs, graph_counts(space, archs).tolist(), strict=True):
        key = function_key(arch, affine=False, weighted_input_skip=False)
        assert rows.setdefault(key, row) == row
    assert len(set(map(tuple, rows.values()))) > 0.5 * len(rows)


# --- disconnected networks, and spaces without a graph -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("nasbench201", Cell((0, 0, 0, 0, 0, 0))),
        ("nasbench201", Cell((3, 3, 2, 0, 0, 0))),
        ("transnas_micro", Cell((0, 0, 3, 0, 1, 3))),
        ("nds_darts", nds("n-0 " * 8, "s3-0 " * 8)),
    ],
)
def test_a_disconnected_network_has_no_path(name, arch):
    space = SPACES[name]
    assert not space.is_connected(arch)
    found = counts(space, arch)
    most = {"nds_darts": 8}.get(name, 6)
    assert all(np.isfinite(list(found.values())))
    assert {value for column, value in found.items() if ":shortest:" in column} == {most}
    assert {value for column, value in found.items() if ":longest:" in column} == {-1}
    if name == "nasbench201":
        assert not any(value for column, value in found.items() if "est:" not in column)


class Family(nn.Module):
    width: int

    @nn.compact
    def __call__(self, images):
        return [nn.Conv(self.width, (3, 3))(images)]


def test_a_space_that_says_nothing_has_no_columns():
    family = spaces.from_flax(Family, [4, 8])
    assert names(family) == names(tiny.Tiny()) == ()
    assert graph_counts(family, family.archs).shape == (2, 0)


# --- against all paths, one by one ---------------------------------------------------------------------------

OPS = ("a", "b", "c")


@dataclasses.dataclass(frozen=True)
class Graphs(tiny.Tiny):
    """A space whose architectures are graphs."""

    def notations(self):
        return (spaces.base.Notation("graph", Graph(((0, 1),), (1,), edge_ops=(0,)), "any graph"),)

    def parse(self, source):
        return source

    def canonical(self, arch):
        return arch

    def structure(self, arch):
        return Structure(OPS, graphs={"graph": arch}, max_edges=99)


@st.composite
def some_graphs(draw):
    """Any graph of up to six vertices with up to nine edges, some of them twice; of either kind."""
    size = draw(st.integers(2, 6))
    pairs = list(itertools.combinations(range(size), 2))
    edges = sorted(draw(st.lists(st.sampled_from(pairs), max_size=9)), key=lambda edge: edge[::-1])
    ends = {"inputs": (0, 1) if draw(st.booleans()) and size > 2 else (0,),
            "outputs": tuple(sorted(draw(st.sets(st.integers(size // 2, size - 1), min_size=1))))}  # fmt: skip
    ops = st.integers(0, len(OPS) - 1)
    if draw(st.booleans()):
        return Graph(tuple(edges), edge_ops=tuple(draw(ops) for _ in edges), **ends)
    free = {*ends["inputs"], *ends["outputs"]}
    return Graph(tuple(edges), vertex_ops=tuple(-1 if v in free else draw(ops) for v in range(size)), **ends)


def path_lengths(graph, subset):
    """The number of operations on each path, found by going along all of them."""
    found = []

    def go(vertex, length):
        if vertex in graph.outputs:
            found.append(length)
        for place, (source, target) in enumerate(graph.edges):
            if source != vertex:
                continue
            op = graph.edge_ops[place] if graph.edge_ops else graph.vertex_ops[target]
            if op == -1 or op in subset:
                go(target, length + (op != -1))

    for vertex in graph.inputs:
        go(vertex, 0)
    return found


@given(st.lists(some_graphs(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_graphs_against_all_their_paths(graphs):
    space = Graphs()
    columns = {name: place for place, name in enumerate(names(space))}
    for graph, row in zip(graphs, graph_counts(space, graphs), strict=True):
        ops = graph.edge_ops or graph.vertex_ops
        for code, op in enumerate(OPS):
            assert row[columns[f"graph:{op}"]] == ops.count(code)
        firsts = graph.edge_ops or [graph.vertex_ops[source] for source, _ in graph.edges]
        lasts = graph.edge_ops or [graph.vertex_ops[target] for _, target in graph.edges]
        for size in (1, 2, 3):
            for subset in itertools.combinations(range(len(OPS)), size):
                lengths = path_lengths(graph, subset)
                own = list(zip(graph.edges, firsts, lasts, strict=True))
                expected = [
                    min(lengths, default=99),
                    max(lengths, default=-1),
                    sum(last in subset and source in graph.inputs for (source, _), _, last in own),
                    sum(first in subset and target in graph.outputs for (_, target), first, _ in own),
                    sum(first in subset for _, first, _ in own) / max(len({target for _, target in graph.edges}), 1),
                    sum(last in subset for _, _, last in own) / max(len({source for source, _ in graph.edges}), 1),
                ]
                label = "+".join(OPS[code] for code in subset)
                assert [row[columns[f"graph:{count}:{label}"]] for count in COUNTS] == expected


def test_graphs_that_break_the_rules_are_refused():
    with pytest.raises(ValueError, match="each edge leads to a larger one"):
        graph_counts(Graphs(), [Graph(((1, 0),), (1,), edge_ops=(0,))])
    with pytest.raises(ValueError, match="sort the edges by target"):
        graph_counts(Graphs(), [Graph(((0, 2), (0, 1)), (2,), edge_ops=(0, 0))])

    class Uneven(tiny.Tiny):
        def structure(self, arch):
            return Structure(sizes={f"width{stage}": 8 for stage in range(arch[0])})

    with pytest.raises(ValueError, match="same names in the same order"):
        graph_counts(Uneven(), [(1, 0, 0), (2, 0, 0)])
