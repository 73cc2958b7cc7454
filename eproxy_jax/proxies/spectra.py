"""Proxies of spectra: how many directions feature maps use, and how gradients pass from block to block.

Networks have Kaiming-normal weights (fan_in, ReLU gain), biases 0, and batch norms in training mode. They see Gaussian
noise.

Sources: Lee, Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024 (expressivity,
progressivity, trainability). Entropies of taps and of batch norms are this project's. Taps of spaces whose widths are
data are the 8x8 maps that Eproxy reads (``layers.PaddedTap``): their entropies are those of these maps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.nn import initializers, marks, norms
from eproxy_jax.proxies.classifier import features_of
from eproxy_jax.proxies.gathering import covariance_entropy

FORWARD = ("expressivity", "progressivity", "entropy_taps", "entropy_last", "entropy_norms", "num_layers")


class _Entropies(NamedTuple):
    """Entropies so far: sum over blocks, of the last block, least growth; sum and number of batch norms; layers."""

    total: Any
    last: Any
    least_growth: Any
    of_norms: Any
    norms: Any
    layers: Any


def _add_block(state: _Entropies, x: Array) -> _Entropies:
    entropy = covariance_entropy(x)
    # Before the stem there is no block to grow from: a difference to -inf never is the least.
    return state._replace(
        total=state.total + entropy,
        last=entropy,
        least_growth=jnp.minimum(state.least_growth, entropy - state.last),
    )


def _add_norm(state: _Entropies, x: Array, normalized: Array, rstd: Array) -> _Entropies:
    del x, rstd
    return state._replace(of_norms=state.of_norms + covariance_entropy(normalized), norms=state.norms + 1)


def _add_layer(state: _Entropies, kernel: Array) -> _Entropies:
    del kernel
    return state._replace(layers=state.layers + 1)


@dataclasses.dataclass(frozen=True)
class Spectra:
    """The spectral proxies as a function of one candidate, for ``ep.evaluate``. Equal objects share programs.

    Attributes:
      columns: names out of ``FORWARD`` and ``trainability``. ``entropy_norms`` is dear: a spectrum a norm.
    """

    columns: tuple[str, ...]

    def __call__(self, network: nn.Module, key: Array, encoded: Array, noise: Array) -> dict[str, Array]:
        """Compute the columns.

        Args:
          network: a universal module.
          key: of the candidate; consumed.
          encoded: the architecture.
          noise: [B, H, W, 3].

        Returns:
          A scalar for each column; NaN where it is not defined.
        """
        key_weights, key_signs = jax.random.split(key)
        params = network.init(key_weights, noise, encoded, initializers.KAIMING_FAN_IN)["params"]
        return self.of_params(network, params, key_signs, encoded, noise)

    def of_params(
        self, network: nn.Module, params: Any, key_signs: Array, encoded: Array, noise: Array
    ) -> dict[str, Array]:
        """Compute the columns for given parameters; consumes the key of the random gradients."""
        out: dict[str, Array] = {}

        def run(images: Array) -> list[Any]:
            return network.apply({"params": params}, images, encoded)  # pyright: ignore[reportReturnType]

        if set(self.columns) & set(FORWARD):
            out = self._forward(run, noise)
        if "trainability" in self.columns:
            out["trainability"] = trainability(run, key_signs, noise)
        return {name: out[name] for name in self.columns}

    def _forward(self, run: Any, noise: Array) -> dict[str, Array]:
        zero = jnp.zeros((), noise.dtype)
        infinite = jnp.full((), jnp.inf, noise.dtype)
        rules = {"feature": marks.observe(_add_block), "kernel": marks.observe(_add_layer)}
        if "entropy_norms" in self.columns:
            rules["norm"] = marks.observe(_add_norm)
        start = _Entropies(zero, -infinite, infinite, zero, zero, zero)
        state, taps = marks.collect(run, rules, start)(noise)
        out = {
            "expressivity": state.total,
            "progressivity": state.least_growth,
            "num_layers": state.layers + 1,  # the classifier, which this pass does not run
        }
        if "entropy_norms" in self.columns:
            out["entropy_norms"] = state.of_norms / state.norms
        if "entropy_taps" in self.columns:
            out["entropy_taps"] = sum(covariance_entropy(features_of(tap)) for tap in taps)
        if "entropy_last" in self.columns:
            out["entropy_last"] = covariance_entropy(features_of(taps[0]))
        return out


# --- trainability --------------------------------------------------------------------------------------------


class _Flow(NamedTuple):
    """What goes back from block to block.

    Attributes:
      signs: random gradient of the block behind, flattened, in front of an array as long as the largest map.
      shape: index of that block's shape; -1 behind the last block.
      number: blocks passed.
      total: sum of their terms.
      key: typed key of all random gradients.
    """

    signs: Any
    shape: Any
    number: Any
    total: Any
    key: Any


def trainability(run: Any, key: Array, images: Array) -> Array:
    """Mean over blocks of how near the gradient's largest gain is to one.

    Each block gets a gradient of random signs at its output. What comes out at its input, against what went in, gives a
    matrix whose largest singular value s scores 2 - s - 1 / (s + 1e-6). A block that hands the gradient through
    unchanged, a pure skip, makes the mean -inf.

    A block may read the output of the block before its predecessor as well. It is the derivative to the predecessor's
    output alone that counts, the other input held constant, as the paper's derivatives are. So what goes back along
    such an input is dropped before it reaches the feature that it would belong to.

    Args:
      run: images -> taps, with marked features.
      key: typed key; consumed.
      images: [B, H, W, 3].

    Returns:
      A scalar.
    """

    def pull(images: Array) -> Any:
        taps, back = jax.vjp(lambda images: [features_of(tap) for tap in run(images)], images)
        return back(jax.tree.map(jnp.zeros_like, taps))

    shapes: list[tuple[int, ...]] = []

    def record(state: Any, grad: Array, *_: Array) -> Any:
        if grad.shape not in shapes:
            shapes.append(grad.shape)
        return state

    jax.eval_shape(marks.collect(pull, {"feature_gradient": marks.observe(record)}, 0), images)

    def through(state: _Flow, grad: Array, used: Any = None) -> tuple[_Flow, tuple[Array]]:
        terms = [lambda grad, signs, shape=shape: _term(grad, signs, shape) for shape in shapes]
        if isinstance(state.shape, np.integer):  # known while tracing: no choice is compiled
            term = terms[state.shape](grad, state.signs) if state.shape >= 0 else jnp.zeros((), grad.dtype)
        else:
            first = lambda grad, signs: jnp.zeros((), grad.dtype)  # noqa: E731
            term = lax.switch(state.shape + 1, [first, *terms], grad, state.signs)
        own = jax.random.fold_in(state.key, state.number)
        signs = initializers.draw(jax.random.rademacher, own, grad.shape, grad.dtype)
        if used is not None:  # channels that only pad the program have no gradient
            signs = signs * norms.per_channel(used)
        flat = jnp.zeros_like(state.signs).at[: signs.size].set(signs.reshape(-1))
        place = np.int32(shapes.index(grad.shape))
        return _Flow(flat, place, state.number + 1, state.total + term, state.key), (signs,)

    def along(state: _Flow, grad: Array, distance: Any = 1) -> tuple[_Flow, tuple[Array]]:
        return state, (jnp.where(jnp.asarray(distance) > 1, 0, grad),)

    longest = max(int(np.prod(shape)) for shape in shapes)
    start = _Flow(jnp.zeros((longest,), images.dtype), np.int32(-1), np.int32(0), jnp.zeros((), images.dtype), key)
    state, _ = marks.collect(pull, {"feature_gradient": through, "entry_gradient": along}, start)(images)
    return state.total / (state.number - 1)


def _term(grad: Array, signs: Array, shape: tuple[int, ...]) -> Array:
    """The term of the block between two maps.

    Args:
      grad: gradient that came out at its input, [B, H, W, C].
      signs: gradient that went in at its output, flattened, in front of a longer array.
      shape: of the latter, [B, H', W', C'].
    """
    out = signs[: int(np.prod(shape))].reshape(shape)
    if grad.shape[1] < shape[1]:  # maps of these sizes never follow each other
        return jnp.full((), jnp.nan, grad.dtype)
    stride = -(-grad.shape[1] // shape[1])
    unchanged = jnp.all(grad == out) if grad.shape == shape else jnp.zeros((), bool)
    rows = _space_to_depth(grad, stride).reshape(-1, grad.shape[-1] * stride**2)
    gain = rows.T @ out.reshape(-1, shape[-1]) / rows.shape[0]
    gram = gain.T @ gain if gain.shape[1] <= gain.shape[0] else gain @ gain.T
    largest = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], 0))
    return jnp.where(unchanged, -jnp.inf, 2 - largest - 1 / (largest + 1e-6))


def _space_to_depth(x: Array, stride: int) -> Array:
    """[B, H, W, C] -> [B, H / stride, W / stride, C * stride^2], rounded up."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % stride), (0, -x.shape[2] % stride), (0, 0)))
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // stride, stride, width // stride, stride, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // stride, width // stride, -1)
