"""A user's own Flax modules as a search space."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import CELLS, ROOT, SPACES, TINY, pattern_images

from eproxy_jax import images, proxy, scoring, spaces
from eproxy_jax.cli import config
from eproxy_jax.execution.execution import Execution
from eproxy_jax.nn import layers, traced_work
from eproxy_jax.types import ProxySettings

ONE = Execution.of(jax.devices()[:1])
BATCH = images.default_images(num=2, size=8)
TWO_STEPS = {"num_steps": 2, "branches": [{"transform_channels": 4, "target_channels": 4}]}


class Plain(nn.Module):
    """One convolution with a batch norm of Flax's own, which keeps state."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        return [nn.relu(nn.BatchNorm(use_running_average=False)(x))]


class TakesInit(nn.Module):
    """A convolution whose initialiser is the setting's."""

    width: int

    @nn.compact
    def __call__(self, x, init=0):
        return [layers.Conv(self.width, 3)(x, init)]


@pytest.mark.parametrize("name", SPACES)
def test_sizes_in_the_trace_are_those_of_built_in_spaces(name):
    """Counts of a stand-alone module agree with the formulas of its space: two ways to the same number."""
    space = SPACES[name]
    for arch in CELLS[name][:2]:
        family = spaces.from_flax(space.to_flax, [arch])
        assert family.macs(family.archs[0]) == space.macs(arch)
        assert family.params(family.archs[0]) == space.params(arch)
        assert family.is_connected(family.archs[0]) == space.is_connected(arch)


def test_traced_counts():
    x = jnp.ones((2, 6, 6, 4))
    grouped = jnp.ones((3, 3, 2, 8))  # two groups

    def convolution(x):
        return jax.lax.conv_general_dilated(
            x, grouped, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
        )

    assert traced_work.count(convolution, x) == 2 * 36 * 8 * 9 * 2
    square = jnp.ones((5, 5))
    assert traced_work.count(lambda m: jax.lax.scan(lambda c, _: (c @ c, None), m, None, 3)[0], square) == 3 * 125
    assert traced_work.count(lambda m: jax.lax.cond(m[0, 0] > 0, lambda m: m @ m, lambda m: m, m), square) == 125
    assert traced_work.count(jax.jit(lambda m: m @ m), square) == 125
    batched = jnp.ones((7, 5, 5))
    assert traced_work.count(lambda a: jnp.einsum("bij,bjk->bik", a, a), batched) == 7 * 125


def test_operations_are_those_of_the_platform():
    """A dearer form that another platform takes does not count."""
    square = jax.ShapeDtypeStruct((5, 5), "float32")

    def program(m):
        return jax.lax.platform_dependent(m, cuda=lambda m: m @ m, default=lambda m: m @ m @ m)

    macs = {
        name: [op.macs for op in traced_work.operations(program, square, platform=name)] for name in ("cuda", "tpu")
    }
    assert macs == {"cuda": [125], "tpu": [125, 125]}
    assert traced_work.count(program, square) == 250


def test_scores_of_a_family():
    space = spaces.from_flax(Plain, [3, 5])
    settings = ProxySettings.from_dict(TWO_STEPS)
    both = scoring.score(space.archs, space, settings, BATCH, execution=ONE)
    assert both.status == ("ok", "ok")
    assert tuple(both.params) == (27 * 3 + 6, 27 * 5 + 10)
    # The same network trained by hand from the same key: the state of its batch norm changes nothing.
    job, group = scoring.make_job(space, settings, BATCH), space.group(5)
    network = proxy.ProxyNetwork(group.universal(), proxy.ProxySpec.of(settings).heads)
    key = proxy.candidate_key(job.evaluation.key, jnp.asarray(spaces.arch_identity(space, 5)))
    params = jax.jit(network.init)(key, job.task.images, jnp.asarray(group.encode([5])[0]))["params"]
    params = {**params, "backbone": group.extract(5, params["backbone"])}
    stats = space.to_flax(5).init(jax.random.key(0), job.task.images)["batch_stats"]
    optimizer, losses = proxy.sgd(job.hyper), []
    state = optimizer.init(params)

    def loss(params, stats):
        variables = {"params": params["backbone"], "batch_stats": stats}
        taps, updated = Plain(5).apply(variables, job.task.images, mutable=["batch_stats"])
        hidden = proxy.Transform(1, 4).apply({"params": params["transform0"]}, taps[0])
        return proxy.branch_losses((hidden,), job.task)[0], updated["batch_stats"]

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for _ in range(2):
        (value, stats), gradient = step(params, stats)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(value)
    np.testing.assert_allclose(both.losses[1], losses, rtol=1e-4)
    again = scoring.score([5], space, settings, BATCH, execution=Execution.of(jax.devices()[:1], "vmap", vmap_width=2))
    np.testing.assert_allclose(again.losses[0], both.losses[1], rtol=1e-4)
    assert job.evaluation.candidate(space.group(3)) == job.evaluation.candidate(space.group(3))


def test_initialisers_reach_modules_that_ask_for_them():
    def first_loss(network, init):
        settings = ProxySettings.from_dict({**TWO_STEPS, "network_init": init})
        variables = spaces.from_flax(network, [4]).group(4).universal().init
        job = scoring.make_job(spaces.from_flax(network, [4]), settings, BATCH)
        params = variables(jax.random.key(0), job.task.images, jnp.zeros(1, int), job.hyper.network_init)["params"]
        return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(params)))

    assert first_loss(TakesInit, "default") != first_loss(TakesInit, "kaiming_normal")
    assert first_loss(Plain, "default") == first_loss(Plain, "kaiming_normal")


def test_double_precision(x64):
    space = spaces.from_flax(Plain, [3])
    result = scoring.score([3], space, TINY, pattern_images(), execution=ONE)
    assert np.isfinite(result.losses).all()


def test_bad_families_and_architectures():
    with pytest.raises(ValueError, match="got none"):
        spaces.from_flax(Plain, [])
    with pytest.raises(ValueError, match="distinct"):
        spaces.from_flax(Plain, [[1, 2], (1, 2)])
    space = spaces.from_flax(Plain, [(1, 2), (1, 3), (2, 3)], "mine")
    assert space.parse("[1, 3]") == space.parse([1, 3]) == (1, 3)
    assert space.neighbours((1, 2)) == [(1, 3)]
    with pytest.raises(ValueError, match=r"not one of the 3 architectures of 'mine': \[1, 4\].*the first is \[1, 2\]"):
        space.parse([1, 4])
    with pytest.raises(ValueError, match="choose a number from 1 to 3"):
        space.sample(4, 0)
    with pytest.raises(ValueError, match="num_classes"):
        space.to_flax((1, 2), 10)

    class Tokens(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x.reshape(len(x), -1, 3))

    with pytest.raises(ValueError, match=r"Tokens of 4 returns \(., \d+, 4\): expected a list of feature maps"):
        scoring.score([4], spaces.from_flax(Tokens, [4]), ProxySettings.from_dict(TWO_STEPS), BATCH)


def test_the_example_can_be_loaded_twice():
    loaded = [config.build(config.load_config(f"{ROOT}/configs/mixer.py:smoke")).space for _ in range(2)]
    assert loaded[0].num_archs == 36
    assert [space.macs(space.archs[0]) for space in loaded] == [loaded[0].macs(loaded[0].archs[0])] * 2
