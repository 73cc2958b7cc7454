"""The depthwise layer against one convolution with a group a channel: values, gradients, work, use in a family."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import pattern
from jax import lax

from eproxy_jax import images, scoring, spaces
from eproxy_jax.nn import initializers, layers, traced_work, windowed
from eproxy_jax.types import ProxySettings


def reference(x, kernel, stride, dilation):
    pad = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )  # fmt: skip


CASES = [(3, 1, 1, 8), (3, 2, 1, 8), (3, 2, 1, 7), (5, 1, 2, 6), (7, 2, 1, 4), (1, 1, 1, 3)]


@pytest.mark.parametrize(("size", "stride", "dilation", "pixels"), CASES)
@pytest.mark.parametrize("use_bias", [False, True])
def test_layer_equals_a_grouped_convolution_with_gradients(x64, size, stride, dilation, pixels, use_bias):
    x = jnp.asarray(pattern((2, pixels, pixels, 5), 0))
    layer = layers.DepthwiseConv(size, stride, dilation, use_bias, jnp.float64)
    params = layer.init(jax.random.key(0), x)["params"]
    plain = nn.Conv(5, (size, size), feature_group_count=5, use_bias=use_bias)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, plain.init(jax.random.key(0), x)["params"])
    params = jax.tree.map(lambda leaf: jnp.asarray(pattern(leaf.shape, 1)), params)

    def theirs(params, x):
        return reference(x, params["kernel"], stride, dilation) + params.get("bias", jnp.zeros(5))[None, None, None]

    ours, pull = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
    expected, reference_pull = jax.vjp(theirs, params, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
    grad = jnp.asarray(pattern(ours.shape, 2))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), pull(grad), reference_pull(grad)
    )


def products_in_loops(jaxpr, in_loop=False) -> int:
    """The products of maps in loops, one by one in the trace: what the count claims, by another way."""
    total = 0
    for eqn in jaxpr.eqns:
        if in_loop and eqn.primitive.name == "mul" and eqn.outvars[0].aval.ndim == 4:
            total += eqn.outvars[0].aval.size
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    is_loop = eqn.primitive.name == "scan"
                    total += (eqn.params["length"] if is_loop else 1) * products_in_loops(inner, in_loop or is_loop)
    return total


@pytest.mark.parametrize(("size", "stride", "dilation", "pixels"), CASES)
def test_work_is_counted(size, stride, dilation, pixels):
    """k k C H' W' B: alone, in a loop, in a batch with one kernel or several, and with gradients."""
    x, kernel = jnp.ones((2, pixels, pixels, 5)), jnp.ones((size, size, 5))

    def forward(x, kernel):
        return windowed.depthwise_conv2d(x, kernel, stride, dilation)

    out = forward(x, kernel)
    macs = size * size * out.size
    assert products_in_loops(jax.make_jaxpr(forward)(x, kernel).jaxpr) == macs
    assert out.shape == (2, -(-pixels // stride), -(-pixels // stride), 5)
    assert traced_work.count(forward, x, kernel) == macs
    grouped = traced_work.count(lambda x, k: reference(x, k[:, :, None], stride, dilation), x, kernel)
    assert macs == grouped
    assert traced_work.count(lambda x, k: lax.map(lambda x: forward(x, k), jnp.stack([x, x])), x, kernel) == 2 * macs
    three = jnp.stack([x] * 3)
    assert traced_work.count(jax.vmap(forward, (0, None)), three, kernel) == 3 * macs
    assert traced_work.count(jax.vmap(forward), three, jnp.stack([kernel] * 3)) == 3 * macs
    trained = traced_work.count(lambda *a: jax.vjp(forward, *a)[1](out), x, kernel)
    assert trained == macs + size * size * x.size + macs  # forward, by the input (at stride 1), by the kernel


def test_fans_are_those_of_pytorch():
    """One channel in, so that fan_in is the area; fan_out counts all channels, as PyTorch does."""
    for init in range(len(initializers.INITS)):
        kernel = layers.DepthwiseConv(3).init(jax.random.key(0), jnp.ones((1, 4, 4, 400)), init)["params"]["kernel"]
        expected = initializers.unit_scale((3, 3, 1, 400), jnp.float32, init)
        assert kernel.shape == (3, 3, 1, 400)
        unit = float(jnp.std(kernel / expected))
        assert unit == pytest.approx(1 if initializers.is_normal(init) else 3**-0.5, rel=0.05)


class Separable(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, init=0):
        x = layers.Conv(self.width, 1)(x, init)
        return [layers.BatchNorm()(layers.DepthwiseConv(3, use_bias=True)(x, init))]


@pytest.mark.slow
def test_family_of_depthwise_networks():
    space = spaces.from_flax(Separable, [4, 8])
    assert space.macs(4) == 32 * 32 * (3 * 4 + 9 * 4)
    assert space.params(8) == 3 * 8 + 9 * 8 + 8 + 16
    settings = ProxySettings.from_dict(
        {"num_steps": 3, "alpha": 0.5, "branches": [{"transform_channels": 4, "target_channels": 4}]}
    )
    result = scoring.score([4, 8], space, settings, images.default_images(num=2, size=8))
    assert result.status == ("ok", "ok")
    assert (result.losses[:, -1] != result.losses[:, 0]).all()


def test_unstack_has_one_concatenation_for_a_gradient():
    x = jnp.asarray(pattern((3, 2), 0), jnp.float32)
    np.testing.assert_array_equal(layers.unstack(x), x)
    assert layers.unstack(x[:0]) == []
    text = str(jax.make_jaxpr(jax.grad(lambda x: sum(jnp.sum(part**2) for part in layers.unstack(x))))(x))
    assert text.count("concatenate[") == 1
