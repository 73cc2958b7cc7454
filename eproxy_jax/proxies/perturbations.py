"""Proxies of networks with standard normal weights: how far a small change of the input goes, how many patterns occur.

Sources: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Deep Image Recognition", ICCV 2021 (zen); Peng,
Song, Fayek, Ciesielski, Chang, "SWAP-NAS: Sample-Wise Activation Patterns for Ultra-fast NAS", ICLR 2024 (swap).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import initializers, marks
from eproxy_jax.proxies.classifier import features_of, pixel_share
from eproxy_jax.proxies.gathering import CAPACITY, live, running_slot, with_slot

_STEP = 0.01  # length of the change of the input
_MAX_IMAGES = 16  # swap keeps one flag for each of the 2^B patterns


@dataclasses.dataclass(frozen=True)
class Perturbations:
    """zen and swap as a function of one candidate, for ``ep.evaluate``. Equal objects share programs.

    Attributes:
      columns: names out of ``zen``, ``swap``.
      repeats: initialisations whose results are averaged.
    """

    columns: tuple[str, ...]
    repeats: int

    def __call__(self, network: nn.Module, key: Array, encoded: Array, noise: Array, images: Array) -> dict[str, Array]:
        """Compute the columns.

        Args:
          network: a universal module.
          key: of the candidate; consumed.
          encoded: the architecture.
          noise: [2, B, H, W, 3], inputs of ``zen`` and their changes.
          images: [B', H, W, 3], B' <= 16, inputs of ``swap``.

        Returns:
          A scalar for each column.
        """

        def once(key: Array) -> dict[str, Array]:
            variables = network.init(key, images, encoded, initializers.UNIT_NORMAL)

            def run(inputs: Array) -> list[Any]:
                return network.apply(variables, inputs, encoded)  # pyright: ignore[reportReturnType]

            out: dict[str, Array] = {}
            if "zen" in self.columns:
                out["zen"] = zen(run, noise[0], noise[0] + _STEP * noise[1])
            if "swap" in self.columns:
                out["swap"] = swap(run, images)
            return out

        every = lax.map(once, jax.random.split(key, self.repeats))
        return {name: jnp.mean(every[name]) for name in self.columns}


# --- zen -----------------------------------------------------------------------------------------------------


class _Variances(NamedTuple):
    """Mean variance of the inputs of each batch norm: [CAPACITY], how many, and the sum of logarithms."""

    means: Array
    number: Array
    logarithm: Array


_KEPT, _NEW = 0.9, 0.1  # running averages of PyTorch, which start at one


def _variance(x: Array) -> Array:
    """Unbiased variance of a batch norm's input, mean over the channels in use."""
    count = x.size // x.shape[-1]
    used = live(x)
    return jnp.sum(jnp.var(x, (0, 1, 2)) * used) / jnp.maximum(jnp.sum(used), 1) * (count / max(count - 1, 1))


def zen(run: Any, inputs: Array, changed: Array) -> Array:
    """Logarithms of how far the last map moves, and of how much batch norms shrank it on the way.

    Args:
      run: inputs -> taps.
      inputs: [B, H, W, 3].
      changed: the same, moved a little.
    """

    def first(state: _Variances, x: Array, normalized: Array, rstd: Array) -> _Variances:
        del normalized, rstd
        means = with_slot(state.means, state.number, _variance(x))
        return state._replace(means=means, number=state.number + 1)

    def second(state: _Variances, x: Array, normalized: Array, rstd: Array) -> _Variances:
        del normalized, rstd
        running = _KEPT * (_KEPT + _NEW * running_slot(state.means, state.number)) + _NEW * _variance(x)
        return state._replace(number=state.number + 1, logarithm=state.logarithm + jnp.log(running) / 2)

    zero = jnp.zeros((), inputs.dtype)
    start = _Variances(jnp.zeros((CAPACITY,), inputs.dtype), jnp.zeros((), jnp.int32), zero)
    state, taps = marks.collect(run, {"norm": marks.observe(first)}, start)(inputs)
    state = state._replace(number=jnp.zeros((), jnp.int32))
    state, moved = marks.collect(run, {"norm": marks.observe(second)}, state)(changed)
    distance = jnp.abs(features_of(taps[0]) - features_of(moved[0]))
    return jnp.log(jnp.mean(jnp.sum(distance, (1, 2, 3))) * pixel_share(taps[0])) + state.logarithm


# --- swap ----------------------------------------------------------------------------------------------------


def swap(run: Any, images: Array) -> Array:
    """Number of distinct patterns, over the images, that the units behind ReLUs show.

    Args:
      run: images -> taps.
      images: [B, H, W, 3], B <= 16.
    """
    if len(images) > _MAX_IMAGES:
        raise ValueError(f"swap takes at most {_MAX_IMAGES} images, got {len(images)}")
    bits = 2 ** jnp.arange(len(images), dtype=jnp.int32)

    def add(seen: Array, x: Array) -> Array:
        active = (x > 0).reshape(len(images), -1)
        patterns = jnp.sum(jnp.where(active, bits[:, None], 0), 0)
        used = jnp.broadcast_to(live(x) > 0, x.shape[1:]).reshape(-1)
        return seen.at[jnp.where(used, patterns, len(seen))].set(True, mode="drop")

    seen = jnp.zeros((2 ** len(images),), bool)
    seen, _ = marks.collect(run, {"relu": marks.observe(add)}, seen)(images)
    return jnp.sum(seen).astype(images.dtype)
