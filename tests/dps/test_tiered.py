"""Settings as data: the tiered program trains exactly as the plain one from the same weights, in all its tiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import CELLS, SPACES, pattern_images

from eproxy_jax import proxy
from eproxy_jax.dps import tiered
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.execution import execution as execution_lib
from eproxy_jax.execution import flops, grouping, programs
from eproxy_jax.nn import convolution
from eproxy_jax.proxy import ProxyTask
from eproxy_jax.types import ProxySettings

TABLE = GeneTable(
    transform_kernel=(1, 3),
    barrier_kernel=(1, 3),
    transform_channels=(2, 6, 8),
    target_channels=(2, 6, 8),
    network_init=("default", "xavier_normal", "kaiming_uniform"),
    barrier_init=("default", "xavier_normal", "kaiming_uniform"),
)
SPEC = tiered.TierSpec.of(TABLE)
# A branch of it has a third of the variants, each of which is compiled for each branch.
NARROW = GeneTable(
    branches=(1, 2),
    transform_kernel=(1, 3),
    barrier_kernel=(1, 3),
    transform_channels=(2, 8),
    target_channels=(4,),
    network_init=TABLE.network_init,
    barrier_init=TABLE.barrier_init,
)
STEPS = 3


def test_tiers_round_up_least():
    assert tiered.choose_tiers((16, 32, 64, 128, 256, 512)) == (64, 256, 512)
    assert tiered.choose_tiers((4, 8)) == (4, 8)
    assert tiered.choose_tiers((8,)) == (8,)


def plain_twin(network, settings, setting, params, task):
    """Parameters and task of the plain network with the tiered one's weights."""
    own, barriers, branch_targets = {"backbone": params["backbone"]}, [], []
    for number, branch in enumerate(settings.branches):
        weights, used = params[f"transform{number}"], branch.transform_channels
        own[f"transform{number}"] = {
            "conv": {
                "kernel": convolution.kernel_centre(weights["kernel"], branch.transform_kernel)[..., :used],
                "bias": weights["bias"][:used],
            },
            "norm": {"scale": weights["scale"][:used], "bias": weights["offset"][:used]},
        }
        data = tiered.barrier_data(task, setting, number)
        kernel = (
            convolution.kernel_centre(data["unit"], branch.barrier_kernel)[..., :used, : branch.target_channels]
            * data["scale"]
        )
        bias = jnp.broadcast_to(data["bias"], data["target"].shape[-1:])[: branch.target_channels]
        barriers.append({"kernel": kernel, "bias": bias})
        branch_targets.append(data["target"][..., : branch.target_channels])
    return own, ProxyTask(task.images, tuple(branch_targets), tuple(barriers))


# Those of the whole table have between them two and three branches, and every initialiser of the weights.
@pytest.mark.parametrize(
    ("space", "arch", "table", "seeds"),
    [
        (tiny.Tiny(), (3, 2, 1), NARROW, (0, 3)),
        pytest.param(SPACES["nasbench201"], CELLS["nasbench201"][0], TABLE, (0, 1, 3, 6), marks=pytest.mark.slow),
    ],
    ids=["few", "all"],
)
def test_trains_as_the_plain_network_does(x64, space, arch, table, seeds):
    images = jnp.asarray(pattern_images())
    candidate = tiered.Candidate.of(space, table, STEPS, jnp.float64)
    network, cell = candidate.network, jnp.asarray(arch)
    task = jax.jit(tiered.make_task, static_argnums=1)(jax.random.key(0), network.spec, images)
    losses_of, init = jax.jit(candidate), jax.jit(network.init)
    train = jax.jit(proxy.train_losses, static_argnums=(0, 1))
    seen = set()
    for seed in seeds:
        genes = table.random_genes(jax.random.key(seed))
        settings, setting = table.decode(genes), tiered.setting_data(table, genes, jnp.float64)
        key = jax.random.key(100 + seed)
        own_task = tiered.setting_task(table, task, genes)
        losses = losses_of(key, cell, own_task)
        params = init(key, images, cell, setting, own_task.barriers)["params"]
        own, plain_task = plain_twin(network, settings, setting, params, task)
        plain = proxy.ProxyNetwork(space.universal(jnp.float64), proxy.ProxySpec.of(settings).heads, jnp.float64)
        expected = train(plain, STEPS, own, cell, plain_task, proxy.ProxyHyper.of(settings, jnp.float64))
        np.testing.assert_allclose(losses, expected, rtol=1e-9, err_msg=str(settings))
        seen |= {(len(settings.branches), settings.network_init, settings.barrier_init)}
    assert len(seen) == len(seeds)


@pytest.mark.slow
def test_padding_stays_out_of_the_initialisers():
    """A transform's draws have the variance of its own fans, and nothing beyond its own kernel and channels."""
    genes = TABLE.random_genes(jax.random.key(0))
    task = jax.jit(tiered.make_task, static_argnums=1)(jax.random.key(0), SPEC, jnp.ones((2, 8, 8, 3)))
    task = tiered.setting_task(TABLE, task, genes)
    branch = task.setting.branches[0]
    branch = branch.replace(transform_channels=jnp.asarray(6), transform_area=jnp.asarray(1.0))
    tap = jnp.ones((2, 8, 8, 500))
    init = jax.jit(tiered.TieredHead(SPEC).init)
    variables = init(jax.random.key(0), tap, branch, task.barriers[0], 2)  # xavier_normal
    kernel = variables["params"]["kernel"]
    own = kernel[1, 1, :, :6]
    np.testing.assert_allclose(jnp.std(own), np.sqrt(2 / (500 + 6)), rtol=0.05)
    assert float(jnp.abs(kernel).sum()) == pytest.approx(float(jnp.abs(own).sum()))


@pytest.mark.slow
def test_map_and_vmap_over_candidates_agree(x64):
    space, images = SPACES["nasbench201"], jnp.asarray(pattern_images())
    candidate = tiered.Candidate.of(space, NARROW, STEPS, jnp.float64)
    task = jax.jit(tiered.make_task, static_argnums=1)(jax.random.key(0), candidate.network.spec, images)
    genes = NARROW.random_genes(jax.random.key(7))
    archs = [space.canonical(arch) for arch in CELLS["nasbench201"][:3]]
    losses = {}
    for form in ("map", "vmap"):
        execution = execution_lib.Execution.of(jax.devices()[:1], form, vmap_width=3)
        key, shared = execution.replicate((jax.random.key(1), (tiered.setting_task(NARROW, task, genes),)))
        trained = programs.run_groups(
            lambda _: candidate, grouping.group_inputs(archs, space, "coarse"), execution, key, shared
        )
        losses[form] = np.concatenate([chunk for _, chunk in trained])
    np.testing.assert_allclose(losses["vmap"], losses["map"], rtol=1e-9)


def test_more_branches_than_taps_are_refused():
    class OneTap(type(SPACES["nasbench201"].universal())):
        def __call__(self, images, cell, init=0):
            return [images]

    genes = TABLE.random_genes(jax.random.key(0))
    network = tiered.TieredNetwork(OneTap(), SPEC)
    setting = tiered.setting_data(TABLE, genes)
    with pytest.raises(ValueError, match="narrow the gene 'branches'"):
        network.init(jax.random.key(0), jnp.ones((2, 8, 8, 3)), jnp.zeros(6, int), setting, ())


def test_flops_needed_and_executed():
    table = GeneTable()
    settings = ProxySettings.from_dict(
        {
            "lr": 1.0,
            "network_init": "xavier_normal",
            "barrier_init": "xavier_normal",
            "branches": [{"transform_channels": 16, "target_channels": 64, "barrier_kernel": 3}],
        }
    )
    genes = table.encode(settings)
    needed, executed = (
        flops.head_macs(one, (64, 32, 16), 16) for one in (table.decode(genes), tiered.rounded(table, genes))
    )
    assert needed == (16 * 64 * 64 * 16, 16 * 64 * 9 * 16 * 64)
    assert executed == (16 * 64 * 64 * 64, 16 * 64 * 9 * 64 * 64)
