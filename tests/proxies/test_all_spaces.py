"""What holds for proxies in all spaces: both execution forms agree, values are finite, dead networks are worst."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, SPACES, pattern, pattern_images

import eproxy_jax as ep
from eproxy_jax.proxies import registry
from eproxy_jax.proxies.classifier import Classifier
from eproxy_jax.proxies.inputs import Inputs
from eproxy_jax.proxies.jacobians import Jacobians
from eproxy_jax.spaces.cells import net

CLASSES, BATCH, SIZE = 5, 6, 16
# Spaces of several kinds of programs, those that compile in a minute.
KINDS = ("nasbench101", "nasbench201", "nats_size", "nds_resnext_a", "nds_darts")
LABELS = np.asarray([0, 1, 2, 0, 1, 4])
DEAD = {
    "nasbench201": "|none~0|+|none~0|nor_conv_3x3~1|+|none~0|skip_connect~1|nor_conv_1x1~2|",
    "transnas_micro": "64-41414-0_00_000",
}


CHEAP = registry.resolve("cheap")
PASSES = tuple(dict.fromkeys(one.made_by for one in CHEAP if one.made_by.make is not None))


def cheap(network, key, encoded, inputs):
    """All passes of the set ``cheap`` that run networks, in one program: it compiles once."""
    found = {}
    for one in PASSES:
        assert one.make is not None
        found |= one.make(CLASSES)(network, key, encoded, inputs)
    return found


@pytest.mark.usefixtures("x64")
@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_both_execution_forms_agree(name):
    space = SPACES[name]
    archs = [arch for arch in CELLS[name] if space.is_connected(arch)][:2]
    images = np.asarray(pattern_images(BATCH, SIZE)) + np.asarray(pattern((BATCH, SIZE, SIZE, 3), 77))
    noise = np.asarray(jax.random.normal(jax.random.key(1), (BATCH, SIZE, SIZE, 3)))
    inputs = Inputs(*map(jnp.asarray, (images, LABELS, noise)))
    found = [
        ep.evaluate(cheap, archs, space, shared=(inputs,), execution=execution, dtype=np.float64)
        for execution in (ep.Execution.of(form="map"), ep.Execution.of(form="vmap", vmap_width=2))
    ]
    assert set(found[0]) == {one.name for one in CHEAP} - {"params", "macs", "graph_counts"}
    for column, values in found[0].items():
        assert not np.isnan(values[values != -np.inf]).any(), column
        np.testing.assert_allclose(found[1][column], values, rtol=1e-6, err_msg=column)


@pytest.mark.parametrize("name", DEAD)
def test_a_disconnected_network_is_worst_in_every_column_that_runs_it(name):
    """Nothing is run for it, so this is fast for all proxies."""
    space = SPACES[name]
    assert not space.is_connected(space.parse(DEAD[name]))
    result = ep.score([DEAD[name]], space, proxy="all", images=np.asarray(pattern_images(BATCH, SIZE)))
    ran = {column: values for column, values in result.scalars().items() if column not in ("params", "macs")}
    assert {"naswot", "trainability", "zico", "vkdnw", "eproxy"} < set(ran)
    assert all(np.all(values == -np.inf) for values in ran.values())


@pytest.mark.parametrize("cell", ["64-41414-1_02_333", "64-41414-3_33_313"])
def test_jacobians_do_not_hang_on_rounding_where_batch_norms_come_last(cell):
    """All cells of TransNAS micro end so: the two precisions would disagree if rounding made the columns."""
    space = ep.spaces.get("transnas_micro", stem_channels=4, macro="414")
    arch = space.canonical(space.parse(cell))
    group = space.group(arch)
    encoded = group.encode([arch])[0]
    images = np.asarray(pattern_images(BATCH, SIZE)) + np.asarray(pattern((BATCH, SIZE, SIZE, 3), 77))
    proxy = Jacobians(("jacov", "epe_nas"), CLASSES)
    params = Classifier(group.universal(np.float32), CLASSES).init(
        jax.random.key(0), images.astype(np.float32), encoded
    )["params"]
    found = []
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            cast = jax.tree.map(lambda leaf, dtype=dtype: np.asarray(leaf, dtype), params)
            of_params = jax.jit(proxy.of_params, static_argnums=0)
            found.append(of_params(group.universal(dtype), cast, encoded, images.astype(dtype), LABELS))
    for column in ("jacov", "epe_nas"):
        np.testing.assert_allclose(found[0][column], found[1][column], rtol=1e-3, err_msg=column)


@pytest.mark.parametrize("name", SPACES)
def test_classifiers_of_proxies_and_of_trained_networks_have_the_same_head(name):
    """Without a batch norm and ReLU before the average, a sum of batch norms is constant: its Jacobian is rounding."""
    space, arch = SPACES[name], CELLS[name][0]
    universal = space.group(space.canonical(arch)).universal()
    normed = isinstance(space.to_flax(arch), net.NormedNet)
    assert getattr(universal, "norm_before_pooling", False) == normed
