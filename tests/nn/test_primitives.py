"""Primitive operations against jax.lax and PyTorch, forward and gradients, alone and under vmap."""

import functools

import conv_forms
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import pattern
from jax import lax
from jax.test_util import check_grads

from eproxy_jax.execution import execution
from eproxy_jax.nn import choice, convolution, norms, pooling, resizing
from eproxy_jax.spaces.cells import net


def reference_conv(x, kernel, stride):
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), ((pad, pad), (pad, pad)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def close(a, b, tolerance=1e-12):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=tolerance, atol=tolerance), a, b)


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_pull(ours, theirs, *arguments):
    """Values of two functions and what their pullbacks make of one cotangent, as two equal structures."""

    def of(function):
        y, pull = jax.vjp(function, *arguments)
        return y, pull(jnp.asarray(pattern(y.shape, 2), y.dtype))

    return of(ours), of(theirs)


SHAPES = [(k, s, size) for k in (1, 3, 5, 7) for s in (1, 2) for size in (8, 7, 4, 3, 1)]


@pytest.mark.parametrize(("kernel_size", "stride", "size"), SHAPES)
def test_conv2d_equals_lax_with_gradients(x64, kernel_size, stride, size):
    x = jnp.asarray(pattern((2, size, size, 3), 0))
    kernel = jnp.asarray(pattern((kernel_size, kernel_size, 3, 5), 1))
    ours, theirs = value_and_pull(
        lambda x, k: convolution.conv2d(x, k, stride), lambda x, k: reference_conv(x, k, stride), x, kernel
    )
    close(ours, theirs)


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_narrowing_convolutions_are_products_on_cpus_and_convolutions_elsewhere(x64, kernel_size):
    """Many channels to few, as behind the transform."""
    channels = convolution._NARROWING_MIN_CHANNELS
    x = jnp.asarray(pattern((2, 8, 6, channels), 0))
    kernel = jnp.asarray(pattern((kernel_size, kernel_size, channels, 8), 1)) / channels
    close(*value_and_pull(convolution.conv2d, lambda x, k: reference_conv(x, k, 1), x, kernel))
    for platform, convolutions in (("cpu", 0), ("tpu", 1), ("cuda", 1)):
        text = jax.export.export(jax.jit(convolution.conv2d), platforms=[platform])(x, kernel).mlir_module()
        assert text.count("stablehlo.convolution") == convolutions
        assert text.count("stablehlo.dot_general") == 1 - convolutions


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2), (7, 1)])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("form", conv_forms.FORMS)
def test_conv2d_under_vmap_equals_loop(x64, kernel_size, stride, axes, form):
    """The forms of all platforms, run on this one."""
    x = jnp.asarray(pattern((3, 2, 8, 8, 3), 0))
    kernel = jnp.asarray(pattern((3, kernel_size, kernel_size, 3, 5), 1))
    x, kernel = (value if axis == 0 else value[0] for value, axis in zip((x, kernel), axes, strict=True))

    def loss(x, kernel):
        y = convolution.conv2d(x, kernel, stride)
        return jnp.sum(y * jnp.asarray(pattern(y.shape, 2)) + y**3)

    function = jax.value_and_grad(loss, argnums=(0, 1))
    with conv_forms.only(form):
        batched = jax.jit(jax.vmap(function, axes))(x, kernel)
    one = jax.jit(function)
    looped = [
        one(*(value[i] if axis == 0 else value for value, axis in zip((x, kernel), axes, strict=True)))
        for i in range(3)
    ]
    close(batched, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped))


@pytest.mark.parametrize(("platform", "convolutions", "products"), [("cpu", 0, 3), ("tpu", 0, 3), ("cuda", 3, 0)])
def test_conv2d_under_vmap_is_products_or_on_cuda_grouped_convolutions(platform, convolutions, products):
    """Forward, input gradient and weight gradient."""
    x, kernel = jnp.ones((3, 2, 8, 8, 4)), jnp.ones((3, 3, 3, 4, 4))

    def loss(x, kernel):
        return jnp.sum(convolution.conv2d(x, kernel) ** 2)

    program = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))
    text = jax.export.export(program, platforms=[platform])(x, kernel).mlir_module()
    assert text.count("stablehlo.convolution") == convolutions
    assert text.count("stablehlo.dot_general") == products


def test_forms_of_a_batch_round_operands_alike():
    """Products and grouped convolutions at ``bfloat16``: forward and both gradients."""
    x, kernel = jnp.asarray(pattern((3, 2, 8, 8, 4), 0), "float32"), jnp.asarray(pattern((3, 3, 3, 4, 5), 1), "float32")
    grad = jnp.asarray(pattern((3, 2, 8, 8, 5), 2), "float32")

    def pulled(x, kernel):
        y, pull = jax.vjp(jax.vmap(convolution.conv2d), x, kernel)
        return y, *pull(grad)

    def train(form):
        with conv_forms.only(form), execution.matmul_precision("bfloat16"):
            return jax.jit(pulled)(x, kernel)

    close(train("grouped"), train("products"), 1e-5)


def test_frozen_conv2d_has_the_input_gradient_and_no_other(x64):
    x, kernel = jnp.asarray(pattern((2, 8, 8, 6), 0)), jnp.asarray(pattern((3, 3, 6, 5), 1))
    ours, theirs = value_and_pull(convolution.frozen_conv2d, lambda x, k: reference_conv(x, k, 1), x, kernel)
    (y, (grad_x, grad_kernel)), (reference, (reference_grad_x, _)) = ours, theirs
    close((y, grad_x), (reference, reference_grad_x))
    assert not np.any(grad_kernel)
    # Two convolutions, forward and input gradient, and no matrix product that could be a weight gradient.
    jaxpr = str(
        jax.make_jaxpr(jax.grad(lambda x, k: jnp.sum(convolution.frozen_conv2d(x, k) ** 2), argnums=(0, 1)))(x, kernel)
    )
    assert jaxpr.count("conv_general_dilated[") == 2
    assert "dot_general" not in jaxpr


def test_normalize(x64):
    x = jnp.asarray(pattern((3, 4, 4, 5), 0)) + 2
    y = norms.normalize(x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.var((0, 1, 2)), x.var((0, 1, 2)) / (x.var((0, 1, 2)) + 1e-5), rtol=1e-10)
    check_grads(jax.jit(norms.normalize), (x,), order=1, modes=["rev"])


def test_avg_pool_3x3_does_not_count_padding(x64):
    x = jnp.asarray(pattern((2, 5, 4, 3), 0))
    np.testing.assert_allclose(pooling.avg_pool_3x3(jnp.ones_like(x)), 1, rtol=1e-12)
    padded = np.pad(np.asarray(x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    np.testing.assert_allclose(pooling.avg_pool_3x3(x), np.nanmean(windows, axis=(-2, -1)), rtol=1e-10)
    check_grads(jax.jit(pooling.avg_pool_3x3), (x,), order=1, modes=["rev"])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 12, 16, 32])
def test_resize_nearest_reads_floor(size):
    x = jnp.arange(size * size, dtype=jnp.float32).reshape(1, size, size, 1)
    rows = np.arange(8) * size // 8
    resize = jax.jit(resizing.resize_nearest, static_argnums=1)
    np.testing.assert_array_equal(resize(x, 8)[0, :, :, 0], np.asarray(x)[0, rows][:, rows, 0])


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("reshapes", [False, True])
def test_switch_op_equals_each_operation_alone(x64, affine, reshapes):
    """Value and gradients of the data-dependent choice, in a loop, under vmap, and by autodiff of the plain layers."""
    stride, channels = (2, 6) if reshapes else (1, 4)
    num_ops = 4 if reshapes else 5
    table = net.edge_ops(num_ops, affine=affine, stride=stride, reshapes=reshapes)
    x = jnp.asarray(pattern((2, 8, 8, 4), 0))
    weights = {"kernel": jnp.asarray(pattern((3, 3, 4, channels), 1))}
    if affine:
        weights |= {"scale": jnp.asarray(pattern((channels,), 2) + 1), "bias": jnp.asarray(pattern((channels,), 3))}

    def norm(y, w):
        y = norms.normalize(y)
        return y * norms.per_channel(w["scale"]) + norms.per_channel(w["bias"]) if affine else y

    def plain(op, x, w):
        centre = w["kernel"][1:2, 1:2]
        if op == 0:
            return jnp.zeros((2, 8 // stride, 8 // stride, channels))
        if op == 1:
            return norm(choice.factorized_reduce(x, centre, stride), w) if reshapes else x
        if op == 4:
            return pooling.avg_pool_3x3(x)
        kernel = centre if op == 2 else w["kernel"]
        return norm(reference_conv(jax.nn.relu(x), kernel, stride), w)

    def loss(function):
        def of(x, w):
            y = function(x, w)
            return jnp.sum(y * jnp.asarray(pattern(y.shape, 4)) + y**3)

        return jax.value_and_grad(of, argnums=(0, 1))

    @jax.jit
    def every_plain(x, w):
        each = [loss(functools.partial(plain, op))(x, w) for op in range(num_ops)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def switched(op):
        return loss(lambda x, w: choice.switch_op(table, op, x, w))(x, weights)

    codes, expected = jnp.arange(num_ops), every_plain(x, weights)
    close(jax.jit(lambda codes: lax.map(switched, codes))(codes), expected, 1e-9)
    close(jax.jit(jax.vmap(switched))(codes), expected, 1e-9)
