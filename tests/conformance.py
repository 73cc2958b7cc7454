"""What the property tests of all spaces read: every network, universal and stand-alone, trained once a process.

One float64 program a group and one a stand-alone cell are compiled; tests assert on their outputs. Weights, images,
targets and barriers are those of :mod:`parity`, so the same numbers are compared with PyTorch's.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import parity
from helpers import CELLS, SPACES

from eproxy_jax import proxy

NUM_STEPS = 10


class Universal(NamedTuple):
    """A cell in the universal form of its group.

    Attributes:
      taps: feature taps before the first step, last stage first.
      losses: [S], of ``proxy.train_losses``.
    """

    taps: list[Any]
    losses: np.ndarray


class Alone(NamedTuple):
    """A cell's stand-alone network with the same weights, trained by hand.

    Attributes:
      params: of the backbone.
      taps: feature taps before the first step, last stage first.
      gradient: of the first step, as ``params``.
      losses: [S].
    """

    params: Any
    taps: list[np.ndarray]
    gradient: Any
    losses: np.ndarray


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train_universal(network, num_steps, params, encoded, task, hyper):
    taps = network.backbone.apply({"params": params["backbone"]}, task.images, encoded)
    return taps, proxy.train_losses(network, num_steps, params, encoded, task, hyper)


@functools.cache
def universal(name: str, settings_name: str, number: int) -> Universal:
    """A case of ``parity.CASES``, trained as the package does it."""
    with jax.enable_x64(True):
        space, settings, cell = SPACES[name], parity.SETTINGS[settings_name], CELLS[name][number]
        network, params = parity.network_and_params(space, settings, cell)
        encoded = jnp.asarray(space.group(cell).encode([cell])[0])
        arrays = jax.tree.map(jnp.asarray, (params, encoded, parity.task_arrays(settings)))
        hyper = proxy.ProxyHyper.of(settings, jnp.float64)
        return Universal(*jax.device_get(_train_universal(network, settings.num_steps, *arrays, hyper)))


class _AloneNetwork(nn.Module):
    """A stand-alone backbone and the transform of one branch."""

    backbone: nn.Module
    head: tuple[int, int]

    @nn.compact
    def __call__(self, images):
        taps = self.backbone(images)
        return proxy.Transform(*self.head, jnp.float64, name="transform0")(taps[0]), taps


@functools.cache
def alone(name: str, number: int) -> Alone:
    """A cell of ``CELLS``, one branch, ten steps of gradient descent written out."""
    with jax.enable_x64(True):
        space, settings, cell = SPACES[name], parity.SETTINGS["one_branch"], CELLS[name][number]
        _, params = parity.network_and_params(space, settings, cell)
        params, task = jax.tree.map(
            jnp.asarray, (parity.standalone_params(space, cell, params), parity.task_arrays(settings))
        )
        (head,) = proxy.ProxySpec.of(settings).heads
        network = _AloneNetwork(space.to_flax(cell).clone(dtype=jnp.float64), head)
        optimizer = proxy.sgd(proxy.ProxyHyper.of(settings, jnp.float64))

        @jax.jit
        def step(params, state):
            def loss(params):
                hidden, taps = network.apply({"params": params}, task.images)
                (error,) = proxy.branch_losses((hidden,), task)
                return error, taps

            (error, taps), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state, (taps, gradient, error)

        trained, state, seen = params, optimizer.init(params), []
        for _ in range(NUM_STEPS):
            trained, state, values = step(trained, state)
            seen.append(values)
        taps, gradient, _ = jax.device_get(seen[0])
        losses = np.array([error for _, _, error in seen])
        return Alone(jax.device_get(params["backbone"]), taps, gradient["backbone"], losses)
