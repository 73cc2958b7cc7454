"""NAS-Bench-101 beyond what every space is tested for: graphs, the data's parameters, masked widths, bad input."""

import itertools
import json
from collections import Counter

import graphs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, SPACES, dag_cell, pattern_images, slow_unless

from eproxy_jax import spaces
from eproxy_jax.nn import pooling
from eproxy_jax.runs import archs
from eproxy_jax.spaces.nasbench101 import graph, vertex_ops

FULL = spaces.get("nasbench101")
TINY = SPACES["nasbench101"]
FILES = {"nasbench1_20": 20, "nasbench1_2500": 2500, "nasbench1_imgnet": 500, "nb101_20k": 20001}


def relabel(cell, order):
    matrix, names = cell
    return tuple(tuple(matrix[i][j] for j in order) for i in order), tuple(names[v] for v in order)


def upper(matrix):
    return all(not matrix[i][j] for i in range(len(matrix)) for j in range(i + 1))


# --- data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_unless([name for name, rows in FILES.items() if rows < 10_000], FILES))
def test_every_row_of_the_data_is_read_as_it_is(data, name):
    records = archs.read_archs(data / "nasbench101" / f"{name}.json", FULL)
    assert len(records) == FILES[name]
    several = "final_training_time_s/trainable_parameters/val_acc_108ep(1 run)/val_acc_12/val_acc_36/val_acc_4"
    columns = {"nb101_20k": several.split("/")}
    for record in records:
        assert FULL.parse(FULL.format(record.arch)) == FULL.parse(list(record.arch)) == record.arch
        assert sorted(record.values) == columns.get(name, ["value"])
        assert FULL.macs(record.arch) <= FULL.max_macs()
    # The rows are distinct up to isomorphism, so the canonical forms must be as well.
    assert len({FULL.canonical(record.arch) for record in records}) == len(records)


def test_parameters_of_the_data(data):
    """Published counts include the 10-class classifier. Where three vertices share the output, 128 and 512 channels
    leave a remainder, and the count depends on the order of the vertices: 363 of 20,001 rows have the count of another
    order than the matrix beside it, one of an isomorphic cell."""
    table = json.loads((data / "nasbench101" / "nb101_20k.json").read_text())
    column = table["fields"].index("trainable_parameters")
    others = []
    for row in table["rows"]:
        arch, expected = FULL.parse(row[1]), row[column] - (512 * 10 + 10)
        if FULL.params(arch) != expected:
            others.append((arch, expected))
    assert len(others) == 363
    for arch, expected in others:
        assert graphs.output_fan_in(arch[0]) == 3
        orders = [(0, *order, len(arch[1]) - 1) for order in itertools.permutations(range(1, len(arch[1]) - 1))]
        isomorphic = [cell for cell in (relabel(arch, order) for order in orders) if upper(cell[0])]
        assert expected in {FULL.params(cell) for cell in isomorphic}


def test_table_of_rows_with_faults(tmp_path):
    path = tmp_path / "table.json"
    cell = [[[0, 1], [0, 0]], ["input", "output"]]
    path.write_text(json.dumps({"fields": ["arch", "acc"], "rows": [[cell, 0.5], [cell]]}))
    with pytest.raises(ValueError, match="row 2: 1 cells in a row, 2 names"):
        archs.read_archs(path, FULL)
    path.write_text(json.dumps({"fields": ["arch", "acc"], "rows": [["x", 0.5]]}))
    with pytest.raises(ValueError, match="row 1: no column holds architectures of space 'nasbench101'"):
        archs.read_archs(path, FULL)
    path.write_text(json.dumps({"fields": ["acc", "arch"], "rows": [[0.5, cell], [0.5, [[[0]], ["input"]]]]}))
    with pytest.raises(ValueError, match="row 2: NAS-Bench-101 cell: the matrix must be square"):
        archs.read_archs(path, FULL)
    path.write_text(json.dumps({"fields": ["acc"], "rows": {}}))
    with pytest.raises(ValueError, match='"rows" a list of lists'):
        archs.read_archs(path, FULL)


# --- bad input -----------------------------------------------------------------------------------------------

I, O = "input", "output"  # noqa: E741
C = "conv3x3-bn-relu"


def full(size):
    return [[int(i < j) for j in range(size)] for i in range(size)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "[[[0, 1], [0, 0]], ['input', 'output'",
            "is no literal: expected a value at character .*, found the end; expected text like",
        ),
        ("", r"''; expected \[matrix, ops\]"),
        ("17", "expected .matrix, ops. like"),
        (17, "expected .matrix, ops. like"),
        (None, "expected .matrix, ops. like"),
        ([[[0, 1], [0, 0]]], "expected .matrix, ops. like"),
        ([17, [I, O]], "expected a list of rows and a list of ops"),
        ([[[0, 1], [0, 0]], "io"], "expected a list of rows and a list of ops"),
        ([[0, 1], [I, O]], "must be square"),
        ([[], []], "must be square"),
        ([[[0]], [I]], "at least 2x2"),
        ([[[0, 1, 0], [0, 0, 1]], [I, C, O]], "must be square, .* got 2 rows of lengths .3, 3."),
        ([[[0, 1], [0]], [I, O]], "lengths .2, 1."),
        ([[[0, 2], [0, 0]], [I, O]], "matrix.0..1. must be 0 or 1, got 2"),
        ([[[0, "1"], [0, 0]], [I, O]], "matrix.0..1. must be 0 or 1, got '1'"),
        ([full(3), [I, O]], "2 ops for a matrix of 3 vertices"),
        ([full(3), [O, C, I]], "first op must be 'input' and the last 'output', got 'output' and 'input'"),
        (
            [full(3), [I, "conv3x3-bn", O]],
            "unknown op 'conv3x3-bn' .did you mean 'conv3x3-bn-relu'.. at vertex 1; known",
        ),
        ([full(3), [I, I, O]], "unknown op 'input' at vertex 1"),
        ([full(3), [I, 3, O]], "unknown op 3 at vertex 1"),
        ([[[0, 1, 0], [1, 0, 1], [0, 0, 0]], [I, C, O]], "matrix.1..0. = 1 .edge 1 -> 0.; the graph has a cycle"),
        ([[[0, 1, 0], [0, 1, 1], [0, 0, 0]], [I, C, O]], "edge 1 -> 1.; the graph has a cycle"),
        (
            [[[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]], [I, C, C, O]],
            "edge 2 -> 1.; number the vertices so that edges go upwards",
        ),
        ([[[0, 1, 0], [0, 0, 0], [0, 0, 0]], [I, C, O]], "no path leads .* connect vertex 0 to vertex 2"),
        ([full(7), [I, C, C, C, C, C, O]], "21 edges .* at most 9"),
        ([[[int(j == i + 1) for j in range(8)] for i in range(8)], [I, *[C] * 6, O]], "8 vertices .* at most 7"),
    ],
)
def test_bad_cells_say_what_and_how_to_fix(source, message):
    with pytest.raises(ValueError, match=message):
        FULL.parse(source)


def test_limits_count_what_pruning_leaves():
    cell = [[[0, 1, 1, 1, 1, 1, 1, 1], [0] * 8, [0] * 8, [0] * 8, [0] * 8, [0] * 8, [0] * 8, [0] * 8], [I, *[C] * 6, O]]
    assert FULL.canonical(FULL.parse(cell)) == dag_cell("01", "")
    assert FULL.macs(FULL.parse(cell)) == FULL.macs(dag_cell("01", ""))


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="stem_channels: expected at least 4, got 3"):
        spaces.get("nasbench101", stem_channels=3)


# --- graphs --------------------------------------------------------------------------------------------------


def test_canonical_form_is_the_same_for_isomorphic_cells_only():
    """Against the definition: all orders of the vertices, not only topological ones."""
    rng = np.random.default_rng(0)
    cells = [cell for cell in graph.all_cells() if len(cell[1]) <= 5][::37] + FULL.sample(20, 0)
    seen = {}
    for cell in cells:
        orders = [(0, *order, len(cell[1]) - 1) for order in itertools.permutations(range(1, len(cell[1]) - 1))]
        forms = {relabel(cell, order) for order in orders}
        assert FULL.canonical(cell) == cell == min(form for form in forms if upper(form[0]))
        assert all(FULL.canonical(form) == cell for form in forms if upper(form[0]))
        assert seen.setdefault(min(forms), cell) == cell
    for cell in cells[-20:]:  # dead vertices change nothing
        matrix, names = cell
        for place in range(1, len(names)):
            grown = np.insert(np.insert(np.array(matrix), place, 0, 0), place, 0, 1)
            grown[place, place + 1 :] = rng.integers(0, 2, len(names) - place)
            dead = FULL.parse([grown.tolist(), [*names[:place], "maxpool3x3", *names[place:]]])
            assert FULL.canonical(dead) == cell
            assert FULL.macs(dead) == FULL.macs(cell)
            assert FULL.params(dead) == FULL.params(cell)
            assert (FULL.encode([dead]) == FULL.encode([cell])).all()


def test_enumeration_has_the_published_size():
    """423,624 distinct cells (Ying et al., section 2.1); the drawn ones stand for all."""
    sizes = Counter(len(cell[1]) for cell in graph.all_cells())
    assert sum(sizes.values()) == FULL.num_archs == 423_624
    drawn = FULL.sample(2000, 3)
    assert all(FULL.canonical(cell) == cell == FULL.parse(cell) for cell in drawn)
    share = Counter(len(cell[1]) for cell in drawn)
    assert abs(share[7] / 2000 - sizes[7] / 423_624) < 0.03
    first = list(itertools.islice(graph.all_cells(), 5000))
    assert graph.nth_cells([0, 7, 4999]) == [first[0], first[7], first[4999]]


def test_neighbours_differ_in_one_op_or_edge():
    for cell in [*CELLS["nasbench101"], *FULL.sample(20, 1)]:
        around = FULL.neighbours(cell)
        assert len(set(around)) == len(around)
        expected = 0
        for other in around:
            assert FULL.parse(other) == other
            changes = sum(a != b for a, b in zip(cell[1], other[1], strict=True))
            assert changes + np.abs(np.array(cell[0]) - np.array(other[0])).sum() == 1
            assert cell in FULL.neighbours(other)
        for i, j in itertools.combinations(range(len(cell[1])), 2):
            matrix = np.array(cell[0])
            matrix[i, j] ^= 1
            try:
                FULL.parse([matrix, list(cell[1])])
                expected += 1
            except ValueError:
                pass
        assert len(around) == expected + 2 * (len(cell[1]) - 2)


def test_channels_of_vertices():
    three = dag_cell("01 02 13 24 14 15 35 45 05", "3m13")[0]
    assert graph.vertex_channels(three, 64, 128) == [64, 43, 42, 43, 42, 128]
    assert graph.vertex_channels(three, 5, 5) == [5, 2, 1, 2, 1, 5]
    assert graph.vertex_channels(dag_cell("01", "")[0], 3, 8) == [3, 8]


@pytest.mark.parametrize("stem_channels", [4, 5, 6, 7, 128])
def test_max_macs_is_the_largest(stem_channels):
    """Over every graph, all vertices 3x3 convolutions: no op costs more, and ops do not change widths."""
    space = spaces.get("nasbench101", stem_channels=stem_channels)
    cells = ((g.matrix, (I, *[C] * (len(g.matrix) - 2), O)) for g in graph.all_graphs())
    assert max(space.macs(cell) for cell in cells) == space.max_macs()


# --- modules -------------------------------------------------------------------------------------------------


def padding_of(space, cell, universal):
    """The universal tree with ones where ``extract`` takes something."""
    leaves, treedef = jax.tree.flatten(universal)
    ends = np.cumsum([leaf.size for leaf in leaves])
    numbered = [np.arange(end - leaf.size, end).reshape(leaf.shape) + 1 for leaf, end in zip(leaves, ends, strict=True)]
    taken = np.zeros(ends[-1] + 1, bool)
    for leaf in jax.tree.leaves(space.extract(cell, treedef.unflatten(numbered))):
        taken[leaf] = True
    return treedef.unflatten([~taken[number] for number in numbered])


@pytest.mark.slow
def test_universal_gradients_are_the_networks_and_zero_on_padding(x64):
    images = jnp.asarray(pattern_images(4, 8))
    universal = TINY.universal(jnp.float64)
    encoded = jnp.asarray(TINY.encode(CELLS["nasbench101"]))
    params = jax.jit(universal.init)(jax.random.key(0), images, encoded[0])["params"]
    # Biases and scales that are not ones and zeros, also in the padding.
    params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params)

    def loss(taps):
        return sum(jnp.sum(jnp.sin(3 * tap)) for tap in taps)

    grad = jax.jit(jax.grad(lambda p, e: loss(universal.apply({"params": p}, images, e))))
    for cell, arrays in zip(CELLS["nasbench101"], encoded, strict=True):
        ours = grad(params, arrays)
        module = TINY.to_flax(cell).clone(dtype=jnp.float64)
        own = TINY.extract(cell, params)
        theirs = jax.jit(jax.grad(lambda p, m=module: loss(m.apply({"params": p}, images))))(own)
        for a, b in zip(jax.tree.leaves(TINY.extract(cell, ours)), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)
        padding = padding_of(TINY, cell, params)
        assert sum(int(p.sum()) for p in jax.tree.leaves(padding)) == sum(
            leaf.size for leaf in jax.tree.leaves(params)
        ) - TINY.params(cell)
        for leaf, pad in zip(jax.tree.leaves(ours), jax.tree.leaves(padding), strict=True):
            assert not np.any(np.asarray(leaf)[pad])


def test_tiers_cost_little_more_than_needed():
    """MACs done in the universal form over MACs needed, as the docstring of dag_net says; padding to the module's
    channels would do 3.8 times as many."""
    done, full, needed = [], [], []
    for cell in FULL.sample(300, 0):
        matrix, names = cell
        tier = max(graphs.output_fan_in(matrix), 1) - 1
        totals = []
        for widest in (False, True):
            total = 27 * 128 * 1024
            for stack, module in itertools.product(range(3), range(3)):
                channels = 128 * 2**stack
                entering = channels // 2 if stack and not module else channels
                width = channels if widest else vertex_ops.tier_widths(channels)[tier]
                size = (32 // 2**stack) ** 2
                for v in range(1, len(names)):
                    out = channels if v == len(names) - 1 else width
                    area = {"conv1x1-bn-relu": 1, "conv3x3-bn-relu": 9}.get(names[v], 0)
                    total += size * (area * out * out + matrix[0][v] * entering * out)
            totals.append(total)
        done.append(totals[0])
        full.append(totals[1])
        needed.append(FULL.macs(cell))
    done, full, needed = (np.asarray(x, float) for x in (done, full, needed))
    assert (done >= needed).all()
    assert (done / needed).max() < 1.03
    assert (done / needed).mean() < 1.003
    assert (full / needed).mean() > 3


def test_max_pool_gradient_goes_to_the_first_of_equal_pixels():
    x = jnp.zeros((1, 4, 4, 1))
    grad = jax.grad(lambda x: pooling.max_pool_2x2(x).sum())(x)[0, :, :, 0]
    np.testing.assert_array_equal(grad, np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))
    grad = jax.grad(lambda x: pooling.max_pool_3x3(x).sum())(x)[0, :, :, 0]
    assert grad.sum() == 16
    assert grad[0, 0] == 4  # of the four windows that have it as their first pixel
