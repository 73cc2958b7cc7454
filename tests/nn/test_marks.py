"""Marks leave programs as they are, and collections see what passes through them, whatever runs it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SPACES
from jax import lax
from jax.custom_batching import sequential_vmap

from eproxy_jax.nn import marks
from eproxy_jax.proxies.classifier import features_of

COUNT = {"m": marks.observe(lambda count, x: count + 1)}
TOTAL = {"m": marks.observe(lambda total, x: total + jnp.sum(x))}


def in_branch(x, n):
    return lax.switch(
        n, [lambda x: x, lambda x: marks.mark("m", 2 * x), lambda x: marks.mark("m", marks.mark("m", x))], x
    )


def in_while(x, n):
    return lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, marks.mark("m", s[1] + 1)), (0, x))[1]


def in_scan(x, n):
    del n
    return lax.scan(lambda c, y: (marks.mark("m", c + y), c), x, jnp.ones(3))[0]


def in_call(x, n):
    del n
    return jax.jit(jax.checkpoint(lambda x: marks.mark("m", x * x)))(x)


def in_sequence(x, n):
    return sequential_vmap(in_while)(x, n)


NETWORKS = {"branch": in_branch, "while": in_while, "scan": in_scan, "call": in_call, "sequence": in_sequence}
COUNTS = {"branch": [0, 1, 2], "while": [0, 1, 2], "scan": [3] * 3, "call": [1] * 3, "sequence": [0, 1, 2]}


@pytest.mark.parametrize("name", NETWORKS)
def test_marks_are_seen_as_often_as_they_are_passed(name):
    network = NETWORKS[name]
    x, numbers = jnp.arange(2.0), jnp.arange(3)
    collected = marks.collect(network, COUNT, jnp.zeros((), jnp.int32))
    for n, expected in enumerate(COUNTS[name]):
        count, result = jax.jit(collected)(x, n)
        assert count == expected
        np.testing.assert_array_equal(result, network(x, n))
    counts, _ = jax.vmap(collected, (None, 0))(x, numbers)
    assert counts.tolist() == COUNTS[name]


def test_lenses_find_what_rules_see_and_put_back_what_they_return():
    lens = marks.Lens(
        lambda tape, at: (tape[at],),
        lambda results, tape, at: (tape.at[at].set(results[0]), at),
        lambda tape, at: at > 0,
    )

    def network(tape):
        return lax.fori_loop(0, 3, lambda at, tape: marks.mark("m", tape, at, lens=lens)[0], tape)

    rule = {"m": lambda total, x: (total + x, (-x,))}
    total, tape = marks.collect(network, rule, jnp.zeros(()))(jnp.asarray([1.0, 2.0, 4.0]))
    assert total == 6
    assert tape.tolist() == [1, -2, -4]
    # Programs compute nothing of it.
    assert "scatter" not in str(jax.make_jaxpr(network)(tape))
    # A rule that only looks changes nothing where there is nothing to put back.
    looks = marks.Lens(lens.get, None, lens.when)
    total, tape = marks.collect(lambda t: marks.mark("m", t, 1, lens=looks)[0], rule, jnp.zeros(()))(tape)
    assert total == -2
    assert tape.tolist() == [1, -2, -4]


def test_both_passes_are_seen():
    @jax.custom_vjp
    def double(x):
        return marks.mark("m", 2 * x)

    double.defvjp(lambda x: (double(x), None), lambda _, grad: (2 * marks.mark("m", grad),))
    total, grad = marks.collect(jax.grad(lambda x: jnp.sum(double(x) ** 2)), TOTAL, jnp.zeros(()))(jnp.ones(3))
    np.testing.assert_array_equal(grad, 8 * np.ones(3))
    assert total == 3 * 2 + 3 * 4  # outputs of 2, gradients of 4


def test_what_a_rule_returns_goes_on():
    rule = {"m": lambda state, x: (state, (-x,))}
    assert marks.collect(lambda x: marks.mark("m", x) + 1, rule, ())(jnp.ones(()))[1] == 0


def test_unmarked_code_and_other_names_are_passed_over():
    def network(x):
        with marks.unmarked():
            x = marks.mark("m", x)
        return marks.mark("other", x)

    assert marks.collect(network, COUNT, 0)(jnp.ones(()))[0] == 0


def test_products_with_the_hessian():
    """JAX refuses forward-mode derivatives of a custom gradient."""

    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (cube(x), x), lambda x, grad: (3 * x**2 * grad,))
    slope = jax.grad(lambda x: jnp.sum(cube(x)))
    x, v = jnp.asarray([1.0, 2.0]), jnp.asarray([1.0, -1.0])
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jax.grad(lambda x: jnp.sum(cube(cube(x)))), (x,), (v,))
    np.testing.assert_allclose(jax.jvp(marks.differentiable_forward(slope), (x,), (v,))[1], 6 * x * v)


@pytest.mark.parametrize("name", ["nasbench201", "nds_darts", "nds_resnext_a", "nats_size", "transnas_macro"])
def test_networks_compile_to_the_same_program_with_marks_as_without(name):
    """So marks change no score."""
    space = SPACES[name]
    arch = space.canonical(space.sample(1, 0)[0])
    group = space.group(arch)
    network, encoded = group.universal(), jnp.asarray(group.encode([arch])[0])
    images = jnp.ones((2, 8, 8, 3))
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, encoded), images)

    def traced():
        def loss(variables):
            return sum(jnp.sum(features_of(tap)) for tap in network.apply(variables, images, encoded))

        return jax.jit(jax.grad(loss)).trace(variables)

    marked = traced()
    with marks.unmarked():
        bare = traced()
    assert "eproxy_mark" in str(marked.jaxpr)
    assert "eproxy_mark" not in str(bare.jaxpr)
    assert marked.lower().as_text() == bare.lower().as_text()
