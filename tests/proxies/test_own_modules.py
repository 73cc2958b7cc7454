"""Proxies see into users' own Flax modules, and say what a module lacks."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from helpers import pattern_images

import eproxy_jax as ep
from eproxy_jax import spaces
from eproxy_jax.nn import layers, marks
from eproxy_jax.proxies import requirements
from eproxy_jax.proxies.fisher_spectrum import FisherSpectrum
from eproxy_jax.proxies.gradients import WeightGradients
from eproxy_jax.proxies.jacobians import Jacobians
from eproxy_jax.proxies.perturbations import Perturbations
from eproxy_jax.proxies.spectra import FORWARD, Spectra
from eproxy_jax.proxies.synflow import Synflow

CLASSES, BATCH = 3, 4
IMAGES = jnp.asarray(pattern_images(BATCH, 8), jnp.float32)
LABELS = jnp.asarray([0, 1, 2, 0])


class OfFlax(nn.Module):
    """Layers of Flax's own; two stages, the last one first."""

    width: int
    marked: bool = True

    @nn.compact
    def __call__(self, x):
        taps = []
        for stride in (1, 2):
            x = nn.Conv(self.width * stride, (3, 3), strides=stride, padding=1, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            x = marks.feature(x) if self.marked else x
            taps.append(x)
        return taps[::-1]


class OfOurs(nn.Module):
    """The same network of this package's layers."""

    width: int

    @nn.compact
    def __call__(self, x):
        taps = []
        for stride in (1, 2):
            x = layers.Conv(self.width * stride, 3, stride, name=f"conv{stride}")(x)
            x = marks.feature(marks.relu(layers.BatchNorm(name=f"norm{stride}")(x)))
            taps.append(x)
        return taps[::-1]


class Smooth(nn.Module):
    """No batch norm, no ReLU, no marked block; a layer inside ``remat``, and one over tokens."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.remat(nn.Conv)(self.width, (3, 3))(x))
        return [nn.LayerNorm()(nn.Dense(self.width)(x))]


class OfNnx(nnx.Module):
    """Layers of Flax's other interface."""

    def __init__(self, width, rngs):
        self.conv = nnx.Conv(3, width, (3, 3), rngs=rngs)

    def __call__(self, x):
        return [nnx.relu(self.conv(x))]


def network_of(module, *archs):
    space = spaces.from_flax(module, archs or [4])
    group = space.group(space.archs[0])
    return group.universal(), jnp.asarray(group.encode([space.archs[0]])[0])


def every(network, encoded, params, key):
    """All columns from given parameters of the network with its linear layer."""
    gradients = ("grad_norm", "snip", "plain", "l2_norm", "fisher", "grasp", "zico")
    two = jnp.stack([IMAGES, IMAGES[::-1] * 0.7]), jnp.stack([LABELS, LABELS])
    out = {}
    out |= Jacobians(("naswot", "jacov", "epe_nas"), CLASSES).of_params(network, params, encoded, IMAGES, LABELS)
    out |= WeightGradients(gradients, CLASSES).of_params(network, params, encoded, *two)
    out |= Spectra((*FORWARD, "trainability")).of_params(network, params["backbone"], key, encoded, IMAGES)
    out |= Synflow(CLASSES).of_params(network, params, encoded, jnp.ones((1, 8, 8, 3)))
    out |= FisherSpectrum(CLASSES).of_params(network, params, encoded, IMAGES)
    return out


def params_of(network, encoded, width=4):
    """Equal weights for both networks."""
    keys = jax.random.split(jax.random.key(0), 3)
    draw = lambda key, *shape: jax.random.normal(key, shape) / 5  # noqa: E731
    kernels = {1: draw(keys[0], 3, 3, 3, width), 2: draw(keys[1], 3, 3, width, 2 * width)}
    norms = {n: {"scale": jnp.ones(n * width), "bias": jnp.zeros(n * width)} for n in (1, 2)}
    flax_names = {f"Conv_{n - 1}": {"kernel": k} for n, k in kernels.items()}
    flax_names |= {f"BatchNorm_{n - 1}": values for n, values in norms.items()}
    own_names = {f"conv{n}": {"kernel": k} for n, k in kernels.items()} | {f"norm{n}": v for n, v in norms.items()}
    is_ours = isinstance(network.family.network(network.arch).module, OfOurs)
    network_params = own_names if is_ours else flax_names
    return {"backbone": {"network": network_params}, "kernel": draw(keys[2], 1, 1, 2 * width, CLASSES)}


def test_layers_of_flax_show_what_ours_show():
    results = []
    for module in (OfFlax, OfOurs):
        network, encoded = network_of(module)
        params = params_of(network, encoded)
        results.append(jax.jit(lambda p, n=network, e=encoded: every(n, e, p, jax.random.key(5)))(params))
    for name, value in results[1].items():
        assert np.isfinite(value), name
        # zico divides by differences of gradients, down to those that are rounding.
        np.testing.assert_allclose(results[0][name], value, rtol=5e-2 if name == "zico" else 2e-3, err_msg=name)


def test_proxies_of_random_weights_are_finite():
    network, encoded = network_of(OfFlax)
    noise = jax.random.normal(jax.random.key(1), (2, BATCH, 8, 8, 3))
    proxy = Perturbations(("zen", "swap"), 2)
    values = jax.jit(lambda key: proxy(network, key, encoded, noise, IMAGES))(jax.random.key(0))
    assert all(np.isfinite(value) for value in values.values())
    assert values["swap"] > 1


def test_taps_stand_for_blocks_where_none_is_marked():
    key, names = jax.random.key(0), ("expressivity", "progressivity")
    values = []
    for function in (OfFlax, lambda width: OfFlax(width, marked=False)):
        network, encoded = network_of(function)
        params = params_of(network, encoded)["backbone"]
        values.append(Spectra(names).of_params(network, params, key, encoded, IMAGES))
    for name in names:
        np.testing.assert_allclose(*(value[name] for value in values), rtol=1e-5)


def test_what_a_network_lacks():
    everything = list(requirements.NEEDED)
    network, encoded = network_of(OfFlax)
    assert not requirements.lacking(everything, requirements.marks_of(network, encoded, IMAGES))
    network, encoded = network_of(Smooth)
    lacks = requirements.lacking(everything, requirements.marks_of(network, encoded, IMAGES))
    assert set(lacks) == {"naswot", "swap", "zen", "entropy_norms", "trainability"}
    lacks = requirements.lacking(["jacov", "zen"], requirements.marks_of(network, encoded, IMAGES))
    line = requirements.message(lacks, "mine")
    assert re.search("^proxy zen needs batch norms .*; 'mine' shows none: leave out zen$", line)
    with pytest.raises(ValueError, match="^proxy 'zen', space tiny: proxy zen needs batch norms .* leave out zen$"):
        ep.score(tiny.Tiny().sample(2, 0), tiny.Tiny(), proxy="jacov,zen")  # in memory as in a file
    network, encoded = network_of(lambda arch, rngs: OfNnx(arch, rngs))
    shown = requirements.marks_of(network, encoded, IMAGES)
    assert {"relu", "kernel"} <= shown
    assert set(requirements.lacking(everything, shown)) == {"zen", "entropy_norms", "trainability", "fisher", "vkdnw"}


def test_worst_values_where_nothing_is_seen():
    network, encoded = network_of(Smooth)
    variables = network.init(jax.random.key(0), IMAGES, encoded)
    names = ("entropy_norms", "trainability")
    values = Spectra(names).of_params(network, variables["params"], jax.random.key(0), encoded, IMAGES)
    assert all(value == -np.inf for value in values.values())


def test_training_programs_of_own_modules_have_no_marks():
    """So marks change no score: only collections see them."""
    network, encoded = network_of(lambda width: OfFlax(width, marked=False))
    params = network.init(jax.random.key(0), IMAGES, encoded)["params"]

    def loss(params):
        return sum(jnp.sum(tap) for tap in network.apply({"params": params}, IMAGES, encoded))

    assert "eproxy_mark" not in str(jax.make_jaxpr(jax.grad(loss))(params))
    assert marks.shown(jax.grad(loss))(params) >= {"relu", "norm", "norm_gradient", "kernel", "conv_gradient"}
