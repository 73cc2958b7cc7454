"""Every space x (notations, enumeration, sampling, mutation, canonical form, counts, modules)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, SPACES, pattern_images, pattern_tree

from eproxy_jax import spaces
from eproxy_jax.spaces import cell_graph, cell_net

NAMES = spaces.names()
CELLS_OF = [(name, cell) for name in NAMES for cell in CELLS[name]]


def test_every_registered_space_is_tested():
    assert set(NAMES) == set(SPACES) == set(CELLS)


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
    every = list(space.enumerate())
    assert len(every) == len(set(every)) == space.num_archs
    for arch in every[:: max(1, len(every) // 200)]:
        assert space.parse(space.format(arch)) == arch
        assert space.parse(arch) == arch
    drawn = space.sample(300, 7)
    assert len(set(drawn)) == 300
    assert drawn == space.sample(300, 7) != space.sample(300, 8)
    # Uniform: each operation of each edge stands in its share of the sample.
    codes = space.encode(drawn)
    share = np.stack([(codes == op).mean(0) for op in range(space.num_ops)])
    assert abs(share - 1 / space.num_ops).max() < 0.09
    with pytest.raises(ValueError, match="cannot draw 0"):
        space.sample(0, 0)
    with pytest.raises(ValueError, match="choose a number from 1 to"):
        space.sample(space.num_archs + 1, 0)
    around = space.neighbours(drawn[0])
    assert len(set(around)) == 6 * (space.num_ops - 1)
    assert all(sum(a != b for a, b in zip(arch, drawn[0], strict=True)) == 1 for arch in around)


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
        ("nasbench201", "|nor_conv_5x5~0|+|none~0|none~1|+|none~0|none~1|none~2|", "unknown .* 'nor_conv_5x5' .did you"),
        ("nasbench201", "|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", "followed by '~0'"),
        ("nasbench201", "", "expected three node groups"),
        ("nasbench201", "(1, 2, 3)", "six codes"),
        ("nasbench201", "(9, 2, 0, 4, 3, 1)", "expected 0 to 4"),
        ("nasbench201", [[3], [3, 4], [1, 2, 7]], "codes from 0 to 4"),
        ("nasbench201", [[3], [3, 4]], "nested operation codes"),
        ("nasbench201", [[3], [3, 4], [1, 2, True]], "nested operation codes"),
        ("nasbench201", 17, "nested operation codes"),
        ("nasbench201", None, "nested operation codes"),
        ("transnas_micro", "64-41414-3_21_01", "one digit per edge"),
        ("transnas_micro", "64-41414-3_21_014", "codes from 0 to 3"),
        ("transnas_micro", "64-4111-basic", "one digit per edge"),
        ("transnas_micro", [[3], [2, 1], [0, 1, 4]], "codes from 0 to 3"),
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
        live = cell_graph.live_edges(form, affine=space.affine)
        assert all(live[edge] or op == 0 for edge, op in enumerate(form))


def cell_output(cell, kernels, affine, reshapes, x):
    """A cell on float64 input with a weight set for each edge, without the package's universal code."""
    module = cell_net.CellNet(cell, x.shape[-1] * (2 if reshapes else 1), 2 if reshapes else 1, affine, dtype=jnp.float64)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x)).get("params", {})
    params = {
        edge: jax.tree_util.tree_map_with_path(
            lambda path, leaf, edge=edge: kernels(edge, jax.tree_util.keystr(path), leaf.shape), tree
        )
        for edge, tree in shapes.items()
    }
    return module.apply({"params": params}, x)


@pytest.mark.parametrize("name", NAMES)
def test_equal_keys_mean_equal_functions(x64, name):
    """Cells with the same canonical form can be given the same output by naming weights; checked by trying names."""
    import itertools

    space = SPACES[name]
    x = jnp.asarray(pattern_images(2, 4)[..., :2])
    rng = np.random.default_rng(0)
    archs = [tuple(int(c) for c in rng.integers(0, space.num_ops, 6)) for _ in range(40)]
    checked = 0
    for arch in archs:
        form = space.canonical(arch)
        if form == arch:
            continue
        for reshapes in (False, True) if space.weighted_input_skip else (False,):
            values = {}

            def weights(edge, path, shape, values=values):
                # One table of weights by role, so that an edge renamed to another finds that edge's weights.
                role = (edge, path, shape)
                if role not in values:
                    seed = abs(hash((edge, path, tuple(shape)))) % 2**32
                    values[role] = jnp.asarray(np.random.default_rng(seed).normal(size=shape))
                return values[role]

            target = cell_output(form, weights, space.affine, reshapes, x)
            edges = [f"edge{e}" for e in range(6)]
            live = [e for e, ok in enumerate(cell_graph.live_edges(arch, affine=space.affine)) if ok]
            live_form = [e for e in range(6) if form[e]]
            found = False
            for names in itertools.permutations(live_form, min(len(live), len(live_form))):
                renamed = dict(zip((edges[e] for e in live), (edges[e] for e in names), strict=False))
                output = cell_output(
                    arch, lambda e, p, s, r=renamed: weights(r.get(e, e), p, s), space.affine, reshapes, x
                )
                if np.allclose(output, target, rtol=1e-8, atol=1e-8):
                    found = True
                    break
            assert found, (arch, form, reshapes)
            checked += 1
    assert checked >= 10


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
    jaxpr = jax.make_jaxpr(lambda p, x: module.apply({"params": p}, x))(shapes, image)
    assert space.macs(cell) == _count_macs(jaxpr.jaxpr)


def _count_macs(jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            total += int(np.prod(eqn.outvars[0].aval.shape)) * kernel[0] * kernel[1] * kernel[2]
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            total += int(np.prod(eqn.outvars[0].aval.shape)) * int(
                np.prod([eqn.invars[0].aval.shape[axis] for axis in contract])
            )
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += _count_macs(inner)
    return total


def test_published_parameters_of_nasbench201():
    """The published count of the all-3x3 network, 1.531546 M, includes a 10-class head and affine cell norms."""
    space = spaces.get("nasbench201")
    head = 2 * 64 + 64 * 10 + 10
    cell_norms = 6 * 5 * 2 * (16 + 32 + 64)
    assert space.params((3,) * 6) + head + cell_norms == 1_531_546


# --- modules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), CELLS_OF)
def test_universal_and_standalone_give_the_same_features(name, cell):
    space = SPACES[name]
    images = jnp.asarray(pattern_images(4, 16), jnp.float32)
    encoded = jnp.asarray(space.encode([cell])[0])
    universal = space.universal()
    params = universal.init(jax.random.key(3), images, encoded)["params"]
    ours = universal.apply({"params": params}, images, encoded)
    alone = space.to_flax(cell).apply({"params": space.extract(cell, params)}, images)
    assert len(ours) == len(alone) == 3
    for a, b in zip(ours, alone, strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale + 1e-12)


@pytest.mark.parametrize(("name", "cell"), CELLS_OF)
def test_gradients_are_finite_and_reach_every_live_weight(name, cell):
    space = SPACES[name]
    images = jnp.asarray(pattern_images(4, 16), jnp.float32)
    module = space.to_flax(cell)
    params = module.init(jax.random.key(0), images)["params"]
    grads = jax.grad(lambda p: sum(jnp.sum(tap**3) for tap in module.apply({"params": p}, images)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    live = cell_graph.live_edges(cell, affine=space.affine)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        text = jax.tree_util.keystr(path)
        edge = next((e for e in range(6) if f"edge{e}" in text), None)
        if edge is not None and "kernel" in text and not live[edge]:
            assert not np.any(leaf), text


@pytest.mark.parametrize("name", NAMES)
def test_standalone_network_goes_on_to_train(name):
    space = SPACES[name]
    images = jnp.asarray(pattern_images(4, 16), jnp.float32)
    module = space.to_flax(CELLS[name][0], num_classes=7)
    variables = module.init(jax.random.key(0), images)
    logits, updated = module.apply(variables, images, mutable=["batch_stats"])
    assert logits.shape == (4, 7)
    # Many passes bring the running averages to the batch's statistics, up to the unbiased variance.
    for _ in range(200):
        _, updated = module.apply({**variables, **updated}, images, mutable=["batch_stats"])
    evaluated = module.apply({**variables, **updated}, images, train=False)
    np.testing.assert_allclose(evaluated, logits, rtol=0.2, atol=0.2)
    taps = module.apply(variables, images, method="features")
    assert [tap.ndim for tap in taps] == [4, 4, 4]


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
