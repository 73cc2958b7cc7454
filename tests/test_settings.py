"""Settings, initialisers, targets: what is accepted, what is refused and how, and the numbers behind the names."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import THREE_BRANCHES, deviation

from eproxy_jax import proxy, targets
from eproxy_jax.nn import initializers
from eproxy_jax.types import FEATURES, BranchSettings, ProxySettings


def test_defaults_are_plain_eproxy():
    settings = ProxySettings()
    assert (settings.lr, settings.momentum, settings.weight_decay, settings.num_steps) == (1.2, 0.9, 4e-5, 10)
    assert settings.alpha == 0
    assert settings.branches == (BranchSettings(("net",), 1.0, 1, 512, 3, 64),)


def test_dict_round_trip():
    assert ProxySettings.from_dict(THREE_BRANCHES.to_dict()) == THREE_BRANCHES
    assert ProxySettings.from_dict({}) == ProxySettings()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"momentun": 0.9}, "settings: unknown field 'momentun' .did you mean 'momentum'"),
        ({"lr": 0}, "settings.lr: expected a positive number, got 0"),
        ({"lr": "1"}, "settings.lr: expected a positive number, got '1'"),
        ({"lr": float("nan")}, "settings.lr"),
        ({"momentum": 1.0}, "settings.momentum"),
        ({"num_steps": 2.5}, "settings.num_steps"),
        ({"alpha": 1.0}, "settings.alpha"),
        ({"network_init": "kaiming"}, "settings.network_init: unknown initialiser 'kaiming'"),
        ({"branches": []}, "settings.branches: expected a tuple of 1 to 3"),
        ({"branches": [{}] * 4}, "settings.branches"),
        ({"branches": 3}, "settings.branches: expected a list"),
        ({"branches": [{"features": []}]}, r"branches\[0\].features: expected a non-empty"),
        ({"branches": [{"features": [3]}]}, r"branches\[0\].features: expected names such as 'net', got 3"),
        ({"branches": [{"features": ["net", "net"]}]}, "each feature once"),
        ({"branches": [{"levels": 1}]}, r"branches\[0\]: unknown field 'levels' .did you mean 'level'"),
        ({"branches": [{"barrier_kernel": 2}]}, "an odd integer"),
        ({"branches": [{}, {"target_channels": 0}]}, r"branches\[1\].target_channels: expected an integer from 1"),
    ],
)
def test_bad_settings_say_field_value_and_fix(values, message):
    with pytest.raises(ValueError, match=message):
        ProxySettings.from_dict(values)


@pytest.mark.parametrize("name", initializers.INITS)
def test_initialisers_have_pytorchs_spread(name):
    shape, index = (3, 3, 40, 60), initializers.init_index(name)
    fan_in, fan_out = 9 * 40, 9 * 60
    kernel = np.asarray(initializers.conv_kernel(jax.random.key(0), shape, jnp.float32, index))
    spread = deviation(name, fan_in, fan_out)
    assert abs(kernel.mean()) < 0.05 * spread
    assert kernel.std() == pytest.approx(spread, rel=0.02)
    largest = np.abs(kernel).max() / spread
    assert (largest > 3) if name.endswith("normal") else (largest <= 3**0.5 + 1e-5)
    bias = np.asarray(initializers.conv_bias(jax.random.key(0), (1000,), jnp.float32, fan_in, index))
    if name == "default":
        assert np.abs(bias).max() == pytest.approx(fan_in**-0.5, rel=0.02)
    else:
        np.testing.assert_allclose(bias, 0.01 if name.startswith("xavier") else 0.0, rtol=1e-6)


def test_centre_kernels_are_scaled_by_their_own_fan():
    area = jnp.asarray([9.0, 1.0])[:, None, None, None, None]
    kernels = initializers.conv_kernel(jax.random.key(0), (2, 3, 3, 16, 16), jnp.float32, 0, area)
    assert float(jnp.abs(kernels[1]).max() / jnp.abs(kernels[0]).max()) == pytest.approx(3, rel=0.01)


def test_every_feature_alone_and_summed():
    images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    key = jax.random.key(2)
    alone = {f: targets.branch_target(key, BranchSettings((f,), target_channels=5), images) for f in FEATURES}
    for name, value in alone.items():
        assert value.shape == (3, 8, 8, 5)
        assert np.isfinite(value).all(), name
    np.testing.assert_array_equal(np.unique(alone["dot"]), [-1, 1])
    summed = targets.branch_target(key, BranchSettings(FEATURES, 2.0, target_channels=5), images)
    np.testing.assert_allclose(summed, 2 * sum(alone.values()), rtol=1e-5, atol=1e-5)


def test_wave_frequencies_are_ordered():
    images = jnp.zeros((16, 8, 8, 3))
    roughness = []
    for feature in ("wave_l", "wave_m", "wave_h"):
        wave = targets.wave(jax.random.key(0), images, 64, feature)
        assert float(jnp.abs(wave).max()) <= 1
        roughness.append(float(jnp.mean(jnp.diff(wave, axis=1) ** 2) + jnp.mean(jnp.diff(wave, axis=2) ** 2)))
    assert roughness[0] < roughness[1] < roughness[2]


def test_net_target_depends_on_the_images():
    images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    a = targets.net(jax.random.key(0), images, 6)
    b = targets.net(jax.random.key(0), images[::-1], 6)
    np.testing.assert_allclose(a, b[::-1], rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(a - b).mean()) > 0.1


def test_weight_decay_spares_vectors_and_sgd_is_pytorchs():
    params = {"matrix": jnp.ones((2, 2)), "vector": jnp.ones(2)}
    hyper = proxy.ProxyHyper(jnp.asarray(0.5), jnp.asarray(0.9), jnp.asarray(0.1), jnp.asarray(0))
    optimizer = proxy.sgd(hyper)
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    velocity, matrix = 0.0, 1.0
    for _ in range(3):
        updates, state = optimizer.update(zero, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        velocity = 0.9 * velocity + 0.1 * matrix
        matrix -= 0.5 * velocity
    np.testing.assert_allclose(params["matrix"], matrix, rtol=1e-6)
    np.testing.assert_array_equal(params["vector"], 1)


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_tasks_of_every_choice_of_channels_and_kernels(branches):
    """The gene table's kernels and a few of its channels build tasks of the right shapes."""
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    for kernel, channels in itertools.product((1, 3, 7), (16, 32)):
        branch = BranchSettings(("dot",), 0.5, kernel, channels, kernel, channels)
        for init in initializers.INITS[1:]:
            settings = ProxySettings(branches=(branch,) * branches, barrier_init=init)
            task = jax.eval_shape(lambda key, s=settings: proxy.make_task(key, s, images), jax.random.key(0))
            assert len(task.targets) == len(task.barriers) == branches
            assert task.barriers[0]["kernel"].shape == (kernel, kernel, channels, channels)
    if branches > 1:  # draws of their own
        task = jax.jit(lambda key: proxy.make_task(key, settings, images))(jax.random.key(0))
        assert not np.array_equal(task.targets[0], task.targets[1])
