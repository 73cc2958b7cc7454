"""Parity with PyTorch from the same weights, in float64: live where torch is installed, golden numbers everywhere."""

import functools
import importlib.util
import json
import math

import conformance
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from helpers import CELLS, QUICK, SPACES, pattern, slow_unless, true_taps

from eproxy_jax import proxy
from eproxy_jax.nn import choice, convolution, layers, norms, pooling, resizing

NUMBERS_OF = [(name, number) for name in SPACES for number in range(len(CELLS[name]))]


@functools.cache
def golden():
    return {tuple(row["case"]): row for row in json.loads(parity.GOLDEN.read_text())["cases"]}


def test_golden_file_has_every_case_as_it_is_now():
    rows = golden()
    assert set(rows) == set(parity.CASES)
    for (name, settings, number), row in rows.items():
        assert row["cell"] == parity.described((name, settings, number))["cell"]
        assert row["settings"] == parity.SETTINGS[settings].to_dict()
        assert row["sizes"] == SPACES[name].identity()["sizes"]


@pytest.mark.parametrize(("name", "settings", "number"), slow_unless(QUICK, parity.CASES))
def test_ten_steps_equal_pytorch(x64, name, settings, number):
    """Against the golden numbers everywhere, and against PyTorch itself where it is installed."""
    case = name, settings, number
    losses = conformance.universal(*case).losses
    expected = golden()[case]["losses"]
    assert len(expected) == 10
    assert all(map(math.isfinite, expected))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    # The score is a function of the last loss: plain, and with MACs blended in.
    space = SPACES[case[0]]
    macs = space.macs(CELLS[case[0]][case[2]])
    for alpha in (0.0, 0.3, -0.5):
        score = proxy.scores(losses[-1:], np.array([macs]) / space.max_macs(), alpha)
        assert score[0] == pytest.approx(-(expected[-1] * (1 - alpha * macs / space.max_macs())), rel=1e-6)
    if importlib.util.find_spec("torch") is not None:
        np.testing.assert_allclose(losses, parity.torch_losses(*case), rtol=1e-6)


# One machine runs all cell spaces of NDS, another all its AnyNets; cells of four nodes: tests/test_scoring.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["nasbench101", "nasbench_mr", "nds_darts", "nds_resnext_a", "transnas_macro"])
def test_ten_steps_of_a_batch_equal_pytorch(x64, name):
    numbers, losses = parity.our_batch_losses(name)
    expected = golden()
    for number, own in zip(numbers, losses, strict=True):
        np.testing.assert_allclose(own, expected[name, "one_branch", number]["losses"], rtol=1e-6)


@pytest.mark.parametrize(("name", "number"), slow_unless(QUICK, NUMBERS_OF))
def test_features_equal_live_pytorch(x64, name, number):
    pytest.importorskip("torch", reason="torch is not installed")
    space, cell, ours = SPACES[name], CELLS[name][number], conformance.universal(name, "one_branch", number).taps
    params = parity.network_and_params(space, parity.SETTINGS["one_branch"], cell)[1]["backbone"]
    for a, b, tap in zip(true_taps(ours), parity.torch_taps(name, cell, params), ours, strict=True):
        expected = resizing.resize_nearest(jnp.asarray(b), 8) if isinstance(tap, layers.PaddedTap) else b
        np.testing.assert_allclose(a, expected, rtol=1e-8, atol=1e-9)


def test_ops_equal_live_pytorch(x64):
    """Convolutions, pools, batch norm, resize and factorised reduction, values and input gradients."""
    pytest.importorskip("torch", reason="torch is not installed")
    import torch.nn.functional as F  # noqa: N812
    from peer import torch_reference as reference

    def check(ours, theirs, shape, x=None):
        x = pattern(shape, 0) if x is None else x
        t = reference.tensor(x).requires_grad_(True)
        expected = theirs(t)
        y, pull = jax.vjp(ours, jnp.asarray(x))
        np.testing.assert_allclose(y, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-8, atol=1e-9)
        grad = pattern(y.shape, 5)
        expected.backward(reference.tensor(grad))
        np.testing.assert_allclose(
            pull(jnp.asarray(grad))[0], t.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-7, atol=1e-8
        )

    for size in (8, 7):
        for kernel_size, stride in ((1, 1), (1, 2), (3, 1), (3, 2), (7, 1)):
            k = pattern((kernel_size, kernel_size, 4, 6), 1)
            check(
                lambda x, k=k, s=stride: convolution.conv2d(x, jnp.asarray(k), s),
                lambda t, k=k, s=stride: F.conv2d(t, reference.kernel_tensor(k), stride=s, padding=k.shape[0] // 2),
                (2, size, size, 4),
            )
        shape = (2, size, size, 4)
        check(pooling.avg_pool_3x3, lambda t: F.avg_pool2d(t, 3, 1, 1, count_include_pad=False), shape)
        check(pooling.avg_pool_2x2, lambda t: F.avg_pool2d(t, 2), shape)
        check(pooling.max_pool_2x2, lambda t: F.max_pool2d(t, 2), shape)
        check(pooling.max_pool_3x3, lambda t: F.max_pool2d(t, 3, 1, 1), shape)
        ties = np.round(pattern(shape, 0, 1.5))  # among equal pixels the first one takes the gradient
        check(pooling.max_pool_2x2, lambda t: F.max_pool2d(t, 2), shape, ties)
        check(pooling.max_pool_3x3, lambda t: F.max_pool2d(t, 3, 1, 1), shape, ties)
        check(norms.normalize, lambda t: F.batch_norm(t, None, None, training=True), shape)
        check(resizing.upsample_2x, lambda t: F.interpolate(t, scale_factor=2, mode="nearest"), shape)
        grad = jnp.asarray(pattern((2, 2 * size, 2 * size, 4), 5))
        pulled = jax.vjp(resizing.upsample_2x, jnp.zeros(shape))[1](grad)[0]
        np.testing.assert_allclose(resizing.upsample_2x_gradient(grad), pulled, rtol=1e-12, atol=1e-14)
        for target in ((8, 8), (3, 16), (1, 2)):
            check(
                lambda x, t=target: resizing.resize_bilinear(x, *t),
                lambda x, t=target: F.interpolate(x, size=t, mode="bilinear", align_corners=False),
                shape,
            )
        check(lambda x: resizing.resize_nearest(x, 8), lambda t: F.interpolate(t, size=(8, 8), mode="nearest"), shape)
        for stride in (1, 2):
            kernel = pattern((1, 1, 4, 6), 3)
            module = reference.FactorizedReduce(4, 6, stride, True).double()
            reference.load_params(module, {"kernel": kernel, "norm": {"scale": np.ones(6), "bias": np.zeros(6)}})
            check(
                lambda x, k=kernel, s=stride: norms.normalize(choice.factorized_reduce(x, jnp.asarray(k), s)),
                module,
                shape,
            )


@pytest.mark.parametrize(("name", "number"), slow_unless(QUICK, NUMBERS_OF))
def test_standalone_training_equals_universal_training(name, number):
    """Ten steps of ``to_flax(arch)`` with the transforms, by hand, give PyTorch's losses as the universal form does."""
    expected = golden()[name, "one_branch", number]["losses"]
    np.testing.assert_allclose(conformance.alone(name, number).losses, expected, rtol=1e-6)
