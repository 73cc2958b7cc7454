"""The code in CONTRIBUTING.md does what the page says."""

import dataclasses
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from helpers import ROOT, pattern
from jax import lax

from eproxy_jax.nn import choice, convolution
from eproxy_jax.spaces import base

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)


def test_a_space_has_all_that_is_abstract(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    monkeypatch.setattr(base, "_ORIGINS", dict(base._ORIGINS))
    scope = {"base": base, "dataclasses": dataclasses, "ClassVar": ClassVar, "jnp": jnp, "__name__": __name__}
    exec(next(block for block in BLOCKS if "class MySpace" in block), scope)
    space = base.get("myspace", width=4)
    assert space.num_archs == 81
    assert space.size == "81 architectures"
    assert space.group(0) is space
    identity = space.identity()
    assert len(identity.pop("source")) == 12  # a change of the code is another run
    assert identity == {"space": "myspace", "sizes": {"width": 4}}


def test_the_recipe_of_an_operation_has_the_gradients_of_its_function(x64):
    scope = {"choice": choice, "jax": jax}
    exec(next(block for block in BLOCKS if "def my_op" in block), scope)
    functions = (
        lambda x, kernel: convolution.conv2d(x, kernel),
        lambda x, kernel: jnp.tanh(x) * kernel[0, 0, 0][None, None, None],
    )
    ops = tuple(map(scope["my_op"], functions))
    x, weights = jnp.asarray(pattern((2, 4, 4, 3), 0)), {"kernel": jnp.asarray(pattern((3, 3, 3, 3), 1))}

    def loss(function):
        return jax.value_and_grad(lambda x, weights: jnp.sum(function(x, weights) ** 3), argnums=(0, 1))

    def switched(index):
        return loss(lambda x, weights: choice.switch_op(ops, index, x, weights))(x, weights)

    found = jax.jit(lambda: lax.map(switched, jnp.arange(2)))()
    for number, function in enumerate(functions):
        expected = loss(lambda x, weights, f=function: f(x, weights["kernel"]))(x, weights)
        jax.tree.map(lambda a, b, n=number: np.testing.assert_allclose(a[n], b, rtol=1e-9), found, expected)
