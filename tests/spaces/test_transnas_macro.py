"""The macro space: its codes, its maps, its counts, and the weights of the universal form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, SPACES, pattern, pattern_images

from eproxy_jax import proxy, spaces
from eproxy_jax.dps import genes, tiered
from eproxy_jax.nn import layers
from eproxy_jax.spaces.transnas import macro_code, macro_net
from eproxy_jax.spaces.transnas.skeleton import module_shapes

SPACE = SPACES["transnas_macro"]
CODES = list(SPACE.enumerate())
TRANSFORM = {"branches": [{"transform_kernel": 3, "transform_channels": 8, "target_channels": 4, "barrier_kernel": 1}]}


def test_codes_are_those_of_the_rule_but_one():
    every = {tuple(map(int, np.base_repr(n, 4).zfill(length))) for length in (4, 5, 6) for n in range(4**length)}
    every = {tuple(digit + 1 for digit in code) for code in every}
    halvings = {code: sum(digit > 2 for digit in code) for code in every}
    doublings = {code: sum(digit in (2, 4) for digit in code) for code in every}
    rule = {code for code in every if 1 <= halvings[code] <= 4 and 1 <= doublings[code] <= 3}
    assert rule - set(CODES) == {macro_code.UNPUBLISHED}
    assert set(CODES) <= rule
    assert len(rule) == 3256


def test_maps_of_32_pixel_images_never_vanish():
    """Two stem convolutions leave 8x8; a fourth halving meets one pixel and keeps it."""
    ends = {code: [shape.size for shape in module_shapes(macro_code.digits(code), 64)] for code in CODES}
    assert {sizes[-1] for sizes in ends.values()} == {8, 4, 2, 1}
    assert ends[3, 3, 3, 3, 1, 2] == [4, 2, 1, 1, 1, 1]
    assert ends[4, 4, 4, 3] == [4, 2, 1, 1]
    assert ends[3, 3, 3, 4] == [4, 2, 1, 1]  # the last 4 does not halve
    for code in CELLS["transnas_macro"]:
        module = SPACE.to_flax(code)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        taps = jax.eval_shape(lambda x, m=module: m.init_with_output(jax.random.key(0), x)[0], image)
        assert [tap.shape[1:3] for tap in taps] == [(size, size) for size in ends[code][:-4:-1]]


def test_canonical_form_is_what_is_built():
    canonical = {code: SPACE.canonical(code) for code in CODES}
    assert len(set(canonical.values())) == 2653
    for code, form in canonical.items():
        assert canonical[form] == form
        assert SPACE.macs(code) == SPACE.macs(form)
        assert SPACE.params(code) == SPACE.params(form)
        np.testing.assert_array_equal(SPACE.encode([code]), SPACE.encode([form]))
        # A last 4 stays where the code without it would not halve at all.
        assert form == code or (code[-1], form[-1]) == (4, 2)
    assert SPACE.canonical((1, 1, 1, 4)) == (1, 1, 1, 4)
    assert len({SPACE.encode([code]).tobytes() for code in CODES}) == 2653


@pytest.mark.parametrize("stem_channels", [2, 4, 64])
def test_max_macs_is_the_largest(stem_channels):
    space = spaces.get("transnas_macro", stem_channels=stem_channels)
    assert space.max_macs() == max(map(space.macs, CODES))


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="expected an even integer, got 3"):
        spaces.get("transnas_macro", stem_channels=3)


@pytest.mark.parametrize("code", CELLS["transnas_macro"])
def test_bank_is_as_long_as_the_largest_network(code):
    bank, vectors = (
        max(sum(getattr(shape, size) for shape, _ in SPACE._blocks(other)) for other in CODES)
        for size in ("num_weights", "num_scales")
    )
    image = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    params = jax.eval_shape(SPACE.universal().init, jax.random.key(0), image, SPACE.encode([code])[0])["params"]
    assert params["kernels"].size == bank
    assert params["scale"].shape == params["bias"].shape == (vectors,)
    blocks = SPACE.extract(code, jax.tree.map(lambda leaf: np.zeros(leaf.shape), params))
    assert sum(name.startswith("module") for name in blocks) == 2 * len(code)


@pytest.mark.slow
def test_transforms_count_the_channels_in_use():
    """Fans and gradients of a transform are those of the tap's own width."""
    network = proxy.ProxyNetwork(SPACE.universal(), ((1, 8),))
    images = jnp.asarray(pattern_images(4, 8), jnp.float32)
    init = jax.jit(network.init)
    grad = jax.jit(jax.grad(lambda p, e: sum(jnp.sum(h**3) for h in network.apply({"params": p}, images, e))))
    for code, width in (((1, 2, 3, 1), 8), ((2, 4, 1, 1), 16), ((2, 2, 2, 1, 1, 3), 32)):
        encoded = jnp.asarray(SPACE.encode([code])[0])
        params = init(jax.random.key(0), images, encoded)["params"]
        kernel = np.asarray(params["transform0"]["conv"]["kernel"])
        assert 0.8 / np.sqrt(width) < abs(kernel).max() <= 1 / np.sqrt(width)
        grads = grad(params, encoded)
        used = np.any(np.asarray(grads["transform0"]["conv"]["kernel"])[0, 0], axis=-1)
        np.testing.assert_array_equal(used, np.arange(32) < width)
        # The bank's gradient is that of the weights in use, and zero behind them.
        weights = sum(shape.num_weights for shape, _ in SPACE._blocks(code))
        bank = np.asarray(grads["backbone"]["kernels"]).reshape(-1)
        assert np.isfinite(bank).all()
        assert not bank[weights:].any()
        assert all(np.any(leaf) for leaf in jax.tree.leaves(SPACE.extract(code, grads["backbone"])))


@pytest.mark.slow
@pytest.mark.parametrize("level", range(4))
def test_head_of_any_width_equals_that_of_the_tap_cut_to_it(level):
    """Where the head's sizes are data as well: loss and gradients, whatever stands in the channels not in use."""
    widths = (4, 8, 16, 32)
    table = genes.GeneTable(
        branches=(1,),
        transform_kernel=(1, 3),
        barrier_kernel=(1,),
        transform_channels=(4, 8),
        target_channels=(4,),
        network_init=("default",),
        barrier_init=("default",),
    )
    spec = tiered.TierSpec.of(table)
    module = tiered.TieredHead(spec)
    features = jnp.asarray(pattern((2, 8, 8, 32), 1), jnp.float32)
    task = tiered.make_task(jax.random.key(1), spec, features[..., :3])
    task = tiered.setting_task(table, task, table.encode(proxy.ProxySettings.from_dict(TRANSFORM)))
    rest = task.setting.branches[0], task.barriers[0]
    narrow = features[..., : widths[level]]
    padded = layers.PaddedTap(features, jnp.asarray(level), widths)
    params = jax.jit(module.init)(jax.random.key(0), padded, *rest)["params"]
    bound = 1 / np.sqrt(9 * widths[level])
    assert 0.8 * bound < np.abs(params["kernel"]).max() <= bound
    cut = {**params, "kernel": params["kernel"][:, :, : widths[level]]}

    def loss(params, tap):
        return module.apply({"params": params}, tap, *rest)

    error, (grads, grad_tap) = jax.jit(jax.value_and_grad(loss, (0, 1), allow_int=True))(params, padded)
    expected, (expected_grads, grad_narrow) = jax.jit(jax.value_and_grad(loss, (0, 1)))(cut, narrow)
    np.testing.assert_allclose(error, expected, rtol=1e-5)
    np.testing.assert_allclose(grad_tap.features[..., : widths[level]], grad_narrow, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(grads["kernel"][:, :, : widths[level]], expected_grads["kernel"], rtol=1e-4, atol=1e-6)
    assert np.any(grad_narrow)
    assert not np.any(grads["kernel"][:, :, widths[level] :])
    assert not np.any(grad_tap.features[..., widths[level] :])


def test_plan_lays_arrays_side_by_side():
    """Kernels, vectors and activations of a code do not overlap, and no block reads what is not written."""
    tables = macro_net._tables(4, 2, (8, 8))
    for code in CODES[::37]:
        network = macro_net.placed(tables, jnp.asarray(SPACE.encode([code])[0]))
        shapes = [tables.trunk.blocks[i] for i in np.asarray(network.blocks.block) if i >= 0]
        assert shapes == [shape for shape, _ in SPACE._blocks(code)]
        assert (np.asarray(network.blocks.block) == -1).sum() == 2 * (6 - len(code))
        real = [np.asarray(field)[12 - len(shapes) :] for field in network.blocks]
        row = scale = 0
        base, source = 2 * 8 * 8 * 4, 0
        for shape, _, at_row, at_scale, at_source, at_base in zip(shapes, *real, strict=True):
            assert (at_row, at_scale, at_source, at_base) == (row, scale, source, base)
            row, scale = row + shape.num_weights // 4, scale + shape.num_scales
            source, base = base + 2 * 2 * shape.outputs, base + 3 * 2 * shape.outputs
        assert row <= tables.rows
        assert scale <= tables.scales
        assert base <= tables.trunk.tape
