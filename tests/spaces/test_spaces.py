"""Every space x (notations, enumeration, sampling, mutation, canonical form, counts, modules)."""

import itertools
import json

import conformance
import graphs
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CELLS, QUICK, SPACES, pattern_images, slow_unless, true_taps

from eproxy_jax import spaces
from eproxy_jax.nn import layers, resizing, traced_work
from eproxy_jax.spaces.cells import graph
from eproxy_jax.spaces.cells.space import CellSpace

NAMES = spaces.names()
CELL_NAMES = [name for name in NAMES if isinstance(SPACES[name], CellSpace)]
CELLS_OF = [(name, cell) for name in NAMES for cell in CELLS[name]]
NUMBERS_OF = [(name, number) for name in NAMES for number in range(len(CELLS[name]))]


def test_every_registered_space_is_tested():
    for name in NAMES:
        assert SPACES[name].name == name
        assert CELLS[name]
    assert set(NAMES) == set(SPACES) == set(CELLS), "tests/helpers.py has entries of spaces that are not registered"


def test_registry_refuses_duplicates_and_unknown_names():
    with pytest.raises(ValueError, match="registered twice"):
        spaces.register("nasbench201")(spaces.NasBench201)
    with pytest.raises(ValueError, match="did you mean 'nasbench201'"):
        spaces.get("nasbench21")
    with pytest.raises(ValueError, match="no size 'stem_channel' .did you mean 'stem_channels'"):
        spaces.get("nasbench201", stem_channel=3)
    with pytest.raises(ValueError, match="stem_channels: expected a positive integer, got 0"):
        spaces.get("nasbench201", stem_channels=0)


@pytest.mark.parametrize("name", NAMES)
def test_space_fulfils_the_protocol(name):
    space = SPACES[name]
    assert isinstance(space, spaces.SearchSpace)
    assert hash(space) == hash(SPACES[name])
    if space.num_archs is None:
        with pytest.raises(ValueError, match="too many to enumerate: sample"):
            space.enumerate()
        every = space.sample(200, 0)
    else:
        every = list(space.enumerate())
        assert len(every) == len(set(every)) == space.num_archs
    for arch in every[:: max(1, len(every) // 200)]:
        assert space.parse(space.format(arch)) == arch
        assert space.parse(arch) == arch
    for arch in CELLS[name]:
        network = space.to_flax(arch)
        images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
        taps = jax.eval_shape(lambda x, n=network: n.init_with_output(jax.random.key(0), x)[0], images)
        assert space.tap_channels(arch) == tuple(tap.shape[-1] for tap in taps)
    full = SPACES[name].full_sizes(CELLS[name][0])
    assert full[0] > space.macs(space.canonical(CELLS[name][0]))  # the sizes of the tests are tiny
    drawn = space.sample(300, 7)
    assert len(set(drawn)) == 300
    assert drawn == space.sample(300, 7) != space.sample(300, 8)
    with pytest.raises(ValueError, match="cannot draw 0"):
        space.sample(0, 0)
    if space.num_archs is not None:
        with pytest.raises(ValueError, match="choose a number from 1 to"):
            space.sample(space.num_archs + 1, 0)


# Graphs, and spaces too large to enumerate, have tests of their own.
@pytest.mark.parametrize("name", [n for n in NAMES if n != "nasbench101" and SPACES[n].num_archs is not None])
def test_samples_are_uniform_and_neighbours_mutual(name):
    space = SPACES[name]
    every, drawn = list(space.enumerate()), space.sample(300, 7)
    # Each operation of each edge (digit of each module) stands in its share of the sample.
    encode = space.group(drawn[0]).encode
    codes, expected = encode(drawn), encode(every)
    for op in range(expected.max() + 1):
        assert abs((codes == op).mean(0) - (expected == op).mean(0)).max() < 0.09
    around = space.neighbours(drawn[0])
    assert len(set(around)) == len(around) > 0
    assert drawn[0] not in around
    assert set(around) <= set(every)
    assert all(drawn[0] in space.neighbours(arch) for arch in around)


@pytest.mark.parametrize("name", CELL_NAMES)
def test_neighbours_of_a_cell_differ_in_one_edge(name):
    space = SPACES[name]
    cell = space.sample(1, 3)[0]
    around = space.neighbours(cell)
    assert len(set(around)) == 6 * (space.num_ops - 1)
    assert all(sum(a != b for a, b in zip(arch, cell, strict=True)) == 1 for arch in around)


def test_nasbench201_notations():
    space = spaces.get("nasbench201")
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
    cell = (3, 3, 4, 1, 2, 0)
    assert space.parse(text) == space.parse([[3], [3, 4], [1, 2, 0]]) == cell
    # NASLib: edges (1,2) (1,3) (1,4) (2,3) (2,4) (3,4); 0 skip, 1 none, 2 conv3x3, 3 conv1x1, 4 pool
    assert space.parse("(2, 2, 0, 4, 3, 1)") == cell
    assert space.format(cell) == text


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("nasbench201", "|nor_conv_3x3~0|+|nor_conv_3x3~0|", "expected three node groups"),
        ("nasbench201", "|nor_conv_3x3~0|+|nor_conv_3x3~0|+|none~0|none~1|none~2|", "node 2 needs 2 edge"),
        (
            "nasbench201",
            "|nor_conv_5x5~0|+|none~0|none~1|+|none~0|none~1|none~2|",
            "unknown .* 'nor_conv_5x5' .did you",
        ),
        ("nasbench201", "|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "followed by '~0'"),
        ("nasbench201", "", "expected three node groups"),
        ("nasbench201", "(1, 2, 3)", "six codes"),
        ("nasbench201", "(9, 2, 0, 4, 3, 1)", "expected 0 to 4"),
        ("nasbench201", [[3], [3, 4], [1, 2, 7]], "codes from 0 to 4"),
        ("nasbench201", [[3], [3, 4]], "nested operation codes"),
        ("nasbench201", [[3], [3, 4], [1, 2, True]], "unknown .* operation True; known: none"),
        ("nasbench201", 17, "the number of a cell depends on the version of the benchmark's file"),
        ("nasbench201", None, "nested operation codes"),
        ("transnas_micro", "64-41414-3_21_01", "one digit per edge"),
        ("transnas_micro", "64-41414-3_21_014", "codes from 0 to 3"),
        ("transnas_micro", "64-4111-basic", "one digit per edge"),
        ("transnas_micro", [[3], [2, 1], [0, 1, 4]], "codes from 0 to 3"),
        ("transnas_macro", "64-2311", "'64-', the macro code and '-basic', like '64-2311-basic'"),
        ("transnas_macro", "", "expected '64-', the macro code"),
        ("transnas_macro", "23-11", "expected '64-', the macro code"),
        ("transnas_macro", "32-2311-basic", "starts with '32': expected '64'"),
        ("transnas_macro", "64-2311-basics", "unknown block 'basics' .did you mean 'basic'.*'basic' only"),
        ("transnas_macro", "64-2311-bottleneck", "unknown block 'bottleneck'"),
        ("transnas_macro", "64-41414-3_21_013", "micro space; use the space 'transnas_micro'"),
        ("transnas_macro", "64-23x1-basic", "macro code '23x1' .* expected 4 to 6 digits 1 to 4"),
        ("transnas_macro", "64-2310-basic", "digit 4 is 0; expected 1 .neither."),
        ("transnas_macro", "64-2351-basic", "digit 3 is 5; expected 1 .neither."),
        ("transnas_macro", "64-231-basic", "has 3 digit.s.; expected 4 to 6"),
        ("transnas_macro", "64--basic", "has 0 digit.s.; expected 4 to 6"),
        ("transnas_macro", "64-2311111-basic", "has 7 digit.s.; expected 4 to 6"),
        ("transnas_macro", "64-2111-basic", "0 of its digits halve the size .3 or 4.; expected 1 to 4"),
        ("transnas_macro", "64-233333-basic", "5 of its digits halve the size"),
        ("transnas_macro", "64-3111-basic", "0 of its digits double the channels .2 or 4.; expected 1 to 3"),
        ("transnas_macro", "64-222231-basic", "4 of its digits double the channels"),
        ("transnas_macro", "64-113444-basic", "leaves out this one code"),
        ("transnas_macro", (2, 3, 1, True), "expected a string like '64-2311-basic' or its digits"),
        ("transnas_macro", [[2], [3, 1]], "or its digits like"),
        ("transnas_macro", 23.5, "or its digits like"),
        ("transnas_macro", None, "or its digits like"),
    ],
)
def test_bad_notation_says_what_and_how_to_fix(name, source, message):
    with pytest.raises(ValueError, match=message):
        spaces.get(name).parse(source)


# --- canonical form ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "distinct"), [("nasbench201", 5044), ("transnas_micro", 1484)])
def test_number_of_distinct_functions(name, distinct):
    """4,930 on NAS-Bench-201 if weights shared by two paths are not told from weights of their own, and 5,260 without
    the linearity of the average pool; counted here is what has equal outputs for suitable weights."""
    space = spaces.get(name)
    canonical = {arch: space.canonical(arch) for arch in space.enumerate()}
    assert len(set(canonical.values())) == distinct
    for arch, form in canonical.items():
        assert canonical[form] == form
        assert space.macs(form) <= space.macs(arch)
        live = graphs.live_edges(form, affine=space.affine)
        assert all(live[edge] or op == 0 for edge, op in enumerate(form))


def cell_output(cell, weights, affine, reshapes, x):
    """Output of a cell in plain NumPy; ``weights[edge]`` holds a 3x3 kernel and, if affine, scale and bias."""

    def norm(y, w):
        y = (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)
        return y * w["scale"] + w["bias"] if affine else y

    def conv(y, kernel, stride):
        pad = kernel.shape[0] // 2
        y = np.pad(y, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(y, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("bhwcij,ijco->bhwo", windows, kernel)

    def pool(y):
        padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
        return np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2)), axis=(-2, -1))

    nodes = [x]
    for target in (1, 2, 3):
        total = 0.0
        for edge, (source, edge_target) in enumerate(graph.EDGES):
            if edge_target != target:
                continue
            op, y, w = cell[edge], nodes[source], weights[edge]
            stride = 2 if reshapes and source == 0 else 1
            centre = w["kernel"][1:2, 1:2]
            if op == graph.NONE:
                continue
            if op == graph.SKIP:
                total = total + (norm(conv(np.maximum(y, 0), centre, 2), w) if stride == 2 else y)
            elif op == graph.POOL:
                total = total + pool(y)
            else:
                kernel = w["kernel"] if op == graph.CONV3X3 else centre
                total = total + norm(conv(np.maximum(y, 0), kernel, stride), w)
        size = x.shape[1] // (2 if reshapes else 1)
        nodes.append(np.zeros((x.shape[0], size, size, x.shape[3])) + total)
    return nodes[3]


@pytest.mark.parametrize("name", CELL_NAMES)
def test_equal_canonical_forms_compute_equal_functions(name):
    """The canonical form, given the right one of the architecture's weights on each edge, has the same output."""
    space = SPACES[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 2))
    weights = [
        {"kernel": rng.normal(size=(3, 3, 2, 2)), "scale": rng.normal(size=2), "bias": rng.normal(size=2)}
        for _ in range(6)
    ]
    archs = [arch for arch in space.sample(150, 1) if space.canonical(arch) != arch][:60]
    assert len(archs) >= 40
    for arch in archs:
        form = space.canonical(arch)
        used = [edge for edge in range(6) if form[edge] != graph.NONE]
        for reshapes in (False, True) if space.weighted_input_skip else (False,):
            target = cell_output(arch, weights, space.affine, reshapes, x)
            assert any(
                np.allclose(
                    cell_output(
                        form,
                        [weights[dict(zip(used, order, strict=True)).get(edge, edge)] for edge in range(6)],
                        space.affine,
                        reshapes,
                        x,
                    ),
                    target,
                    rtol=1e-9,
                    atol=1e-9,
                )
                for order in itertools.permutations(range(6), len(used))
            ), (arch, form, reshapes)


def test_sharing_is_told_from_equal_structure():
    """f(x) + f(x) of one convolution is not f(x) + g(x) of two."""
    space = spaces.get("nasbench201")
    shared = (3, 0, 1, 0, 1, 1)  # node 1 = f(x), node 2 = node 1, output = node 1 + node 2
    two = (3, 3, 0, 0, 1, 1)
    assert space.canonical(shared) != space.canonical(two)
    assert space.canonical((0, 3, 0, 3, 0, 1)) == space.canonical(two)


# --- counts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), CELLS_OF)
def test_params_and_macs_are_those_of_the_module(name, cell):
    space = SPACES[name]
    module = space.to_flax(cell)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    assert space.params(cell) == sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert space.macs(cell) == traced_work.count(lambda p, x: module.apply({"params": p}, x), shapes, image)


def test_published_parameters_of_nasbench201():
    """The published count of the all-3x3 network, 1.531546 M, includes a 10-class head and affine cell norms."""
    space = spaces.get("nasbench201")
    head = 2 * 64 + 64 * 10 + 10
    cell_norms = 6 * 5 * 2 * (16 + 32 + 64)
    assert space.params((3,) * 6) + head + cell_norms == 1_531_546


# --- modules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), slow_unless(QUICK, NUMBERS_OF))
def test_universal_and_standalone_give_the_same_features(x64, name, number):
    ours, alone = conformance.universal(name, "one_branch", number).taps, conformance.alone(name, number).taps
    assert len(ours) == len(alone) == 3
    for a, b, tap in zip(true_taps(ours), alone, ours, strict=True):
        if isinstance(tap, layers.PaddedTap):
            assert not np.any(tap.features[..., b.shape[-1] :])
            b = resizing.resize_nearest(jnp.asarray(b), 8)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * float(jnp.abs(b).max()) + 1e-12)


@pytest.mark.parametrize(("name", "number"), slow_unless(QUICK, NUMBERS_OF))
def test_gradients_are_finite_and_reach_every_live_weight(name, number):
    """And no dead one. A convolution of zeros has no gradient either, though the bias behind it may be live."""
    space, cell = SPACES[name], CELLS[name][number]
    live = graphs.live_edges(cell, affine=space.affine) if name in CELL_NAMES else ()
    for path, leaf in jax.tree_util.tree_leaves_with_path(conformance.alone(name, number).gradient):
        text = jax.tree_util.keystr(path)
        assert np.isfinite(np.float32(leaf)).all(), text
        edge = next((e for e in range(6) if f"edge{e}" in text), None) if live else None  # NDS names its edges so too
        reached = not live or (any(live) if edge is None else live[edge])
        if edge is not None and "bias" not in text and graphs.reads_zeros(cell, edge, affine=space.affine):
            reached = False
        assert np.any(leaf) == reached, text


# One of each kind of network.
@pytest.mark.parametrize(
    "name",
    slow_unless(QUICK, ["nasbench101", "nasbench201", "nasbench_mr", "nds_nasnet", "nds_resnext_a", "nds_vanilla",
                  "transnas_macro", "transnas_micro"]),
)  # fmt: skip
def test_standalone_network_goes_on_to_train(name):
    space = SPACES[name]
    images = jnp.asarray(pattern_images(8, 16), jnp.float32)
    module = space.to_flax(CELLS[name][0], num_classes=7)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    labels = jnp.arange(8) % 7

    # Adam: by plain gradient descent losses jump about, and rounding decides where they are after 100 steps.
    optimizer = optax.adam(0.003)

    @jax.jit
    def step(variables, state):
        def loss(params):
            logits, updated = module.apply({**variables, "params": params}, images, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updated

        (value, updated), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(grads, state)
        return {"params": optax.apply_updates(variables["params"], updates), **updated}, state, value

    state, losses = optimizer.init(variables["params"]), []
    for _ in range(100):
        variables, state, value = step(variables, state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]
    logits = jax.jit(lambda v: module.apply(v, images, train=False))(variables)  # with running averages
    assert logits.shape == (8, 7)
    assert np.isfinite(logits).all()
    taps = jax.eval_shape(lambda v: module.apply(v, images, method="features"), variables)
    assert [tap.ndim for tap in taps] == [4, 4, 4]


def test_batch_norm_running_averages_are_pytorchs(x64):
    """running = 0.9 running + 0.1 batch, with the unbiased variance; used when not training."""
    x = jnp.asarray(pattern_images(4, 8))
    norm = layers.BatchNorm(track=True, dtype=jnp.float64)
    variables = norm.init(jax.random.key(0), x)
    _, updated = norm.apply(variables, x, mutable=["batch_stats"])
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-10)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-10)
    y = norm.apply({**variables, **updated}, x, train=False)
    expected = (x - stats["mean"].reshape(1, 1, 1, 3)) / np.sqrt(stats["var"].reshape(1, 1, 1, 3) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="no running averages"):
        layers.BatchNorm().apply({"params": variables["params"]}, x, train=False)


def test_every_row_of_the_data_parses(data):
    space = spaces.get("nasbench201")
    for name in ("cifar10valid", "cifar100", "tinyimagenet"):
        rows = json.loads((data / "nasbench201" / f"{name}.json").read_text())
        archs = [space.parse(arch) for arch, _ in rows]
        assert len(set(archs)) == 15625
        assert all(space.parse(space.format(arch)) == arch for arch in archs)
    space = spaces.get("transnas_micro")
    for path in sorted((data / "transnas").glob("micro_*.json")):
        rows = json.loads(path.read_text())
        assert len({space.parse(arch) for arch, _ in rows}) == len(rows) == 4096
        assert all(space.format(space.parse(arch)) == arch for arch, _ in rows)
    space = spaces.get("transnas_macro")
    paths = sorted((data / "transnas").glob("macro_*.json"))
    assert len(paths) == 7
    for path in paths:
        rows = json.loads(path.read_text())
        assert {space.parse(arch) for arch, _ in rows} == set(space.enumerate())
        assert len(rows) == space.num_archs == 3255
        assert all(space.format(space.parse(arch)) == arch for arch, _ in rows)
