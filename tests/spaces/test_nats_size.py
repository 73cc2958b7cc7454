"""NATS-Bench's size space: counts, groups of capacities, the weights that they start from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, SPACES, TINY, pattern_images, real_input

from eproxy_jax import scoring, spaces
from eproxy_jax.execution.execution import Execution
from eproxy_jax.spaces.nats_size.net import padded_kernel

SPACE, TINY_SPACE = spaces.get("nats_size"), SPACES["nats_size"]


def test_strings_of_the_benchmark():
    lines = real_input("20_nats_sizes.txt").read_text().split()
    assert [SPACE.format(SPACE.parse(line)) for line in lines] == lines
    assert len(set(SPACE.enumerate())) == SPACE.num_archs == 32_768
    for source, message in (("8:16:24:32:36", "width 5 is 36"), ("8:16:24:32:72", "width 5 is 72"), ("8:16", "five widths"),
                            ("8:16:24:32:x", "five widths"), ("0:8:8:8:8", "width 1 is 0")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{message}.* multiple.? of 8 from 8 to 64"):
            SPACE.parse(source)


def test_counts_by_hand():
    """Five 3x3 convolutions a cell at one width; two, and one of 1x1, in a block; batch norms with scale and bias."""
    wide = (64,) * 5
    cell, block = 5 * (9 * 64 * 64 + 2 * 64), 2 * (9 * 64 * 64 + 2 * 64) + 64 * 64
    assert SPACE.params(wide) == 27 * 64 + 2 * 64 + 3 * cell + 2 * block
    macs = 27 * 64 * 32**2 + 5 * 9 * 64**2 * (32**2 + 16**2 + 8**2) + (2 * 9 + 1) * 64**2 * (16**2 + 8**2)
    assert SPACE.macs(wide) == SPACE.max_macs() == macs
    assert max(map(SPACE.macs, SPACE.sample(2000, 0))) <= SPACE.max_macs()
    # Another width in the third piece: a convolution and a batch norm on its skip.
    other = (8, 8, 16, 8, 8)
    convs = (
        27 * 8
        + 45 * 64
        + 19 * 64
        + (2 * 9 * 8 * 16 + 3 * 9 * 16 * 16 + 8 * 16)
        + (9 * 16 * 8 + 9 * 64 + 8 * 16)
        + 45 * 64
    )
    norms = 8 + 5 * 8 + 2 * 8 + 6 * 16 + 2 * 8 + 5 * 8
    assert SPACE.params(other) == convs + 2 * norms


def test_fine_groups_have_room_for_their_networks():
    archs = SPACE.sample(400, 1)
    groups = {SPACE.fine_group(arch) for arch in archs}
    assert len(groups) == 32
    coarse = SPACE.group(archs[0])
    for arch in archs:
        group = SPACE.fine_group(arch)
        assert group.encode([arch]).tolist() == [list(arch)]
        assert SPACE.macs(arch) <= group.executed_macs(arch) <= coarse.executed_macs(arch)
    with pytest.raises(ValueError, match="wider than"):
        SPACE.fine_group((8,) * 5).encode([(64,) * 5])


def test_kernels_of_all_capacities_are_one_draw():
    for kind in range(5):
        draw = functools.partial(padded_kernel, jax.random.key(kind), dtype=jnp.float32, init=kind, most=16)
        full, half = draw((3, 3, 16, 16), inputs=2, features=6), draw((3, 3, 8, 8), inputs=2, features=6)
        np.testing.assert_array_equal(full[:, :, :8, :8], half)
        assert not np.any(full[:, :, 2:])
        assert not np.any(full[..., 6:])
        assert np.all(full[:, :, :2, :6])


@pytest.mark.slow
def test_groups_of_all_capacities_start_from_the_same_weights():
    arch, images = (8, 32, 16, 24, 8), jnp.asarray(pattern_images(2, 8), jnp.float32)
    own = []
    for group in (TINY_SPACE.group(arch), TINY_SPACE.fine_group(arch)):
        init = jax.jit(group.universal().init)
        params = jax.device_get(init(jax.random.key(3), images, jnp.asarray(group.encode([arch])[0]))["params"])
        own.append(group.extract(arch, params))
        assert not any(np.any(leaf[..., 32 // 4 :]) for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    jax.tree.map(np.testing.assert_array_equal, *own)


@pytest.mark.slow
def test_groups_of_all_capacities_train_alike(x64):
    archs = [(8, 16, 24, 24, 24), *CELLS["nats_size"]]
    losses = [
        scoring.score(
            archs, TINY_SPACE, TINY, pattern_images(4, 16),
            execution=Execution.of(jax.devices()[:1], form, vmap_width=2, grouping=kind),
        ).losses
        for form, kind in (("map", "coarse"), ("map", "fine"), ("vmap", "fine"))
    ]  # fmt: skip
    assert np.isfinite(losses[0]).all()
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-6)
