"""What a trace says of which outputs read an argument."""

import jax
import jax.numpy as jnp
import pytest

from eproxy_jax.nn.traced_flow import depends_on_first

X = jax.ShapeDtypeStruct((3,), "float32")


@jax.custom_vjp
def with_rule(x, y):
    return x * 2, y


with_rule.defvjp(lambda x, y: (with_rule(x, y), None), lambda _, grads: grads)


@jax.custom_jvp
def with_tangents(x, y):
    return x * 2, y


with_tangents.defjvp(lambda xs, tangents: (with_tangents(*xs), tangents))


def swap_later(x, y):
    """What is carried as y depends on x from the second turn on only, and what is carried as z from the third."""

    def turn(carry, _):
        first, second, _, rest = carry
        return (first, first, second, rest), rest

    return jax.lax.scan(turn, (x, y, y, y), None, 4)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: (x + y, y, jnp.zeros_like(x), jnp.where(x > 0, y, 0)), [True, False, False, True]),
        (lambda x, y: jax.jit(lambda a, b: (b, a))(x, y), [False, True]),
        (with_rule, [True, False]),
        (with_tangents, [True, False]),
        (jax.checkpoint(lambda x, y: (jnp.sin(x), jnp.sin(y))), [True, False]),
        (swap_later, [True, True, True, False, False]),
        (lambda x, y: jax.lax.cond(y[0] > 0, lambda: (x, y), lambda: (y, y)), [True, False]),
        (lambda x, y: jax.lax.cond(x[0] > 0, lambda: y, lambda: 2 * y), [True]),
        (lambda x, y: jax.lax.switch(jnp.int32(y[0]), [lambda: y, lambda: 2 * y]), [False]),
        (lambda x, y: jax.lax.while_loop(lambda c: c[0][0] < 9, lambda c: (c[0] + x, 2 * c[1]), (x, y)), [True, True]),
        (lambda x, y: jax.lax.map(lambda one: one * 2, y), [False]),
        (lambda x, y: x * 0 + y, [True]),  # structure, not values
        (lambda x, y: jnp.sum(y) + 0 * x.shape[0], [False]),
    ],
)
def test_outputs_that_depend_on_the_first_argument(function, expected):
    assert depends_on_first(function, X, X) == expected


def test_all_leaves_of_the_first_argument_count():
    assert depends_on_first(lambda tree, y: (tree["b"], y), {"a": X, "b": X}, X) == [True, False]
