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


def _add_branch(state: _Entropies, before: Array, x: Array, ends: Array, first: Array) -> _Entropies:
    """Add a block of one of several parallel branches: it grows from its own input."""

    def add(state: _Entropies) -> _Entropies:
        entropy = covariance_entropy(x)
        growth = jnp.where(first, jnp.inf, entropy - covariance_entropy(before))
        least = jnp.minimum(state.least_growth, growth)
        return state._replace(total=state.total + entropy, last=entropy, least_growth=least)

    return lax.cond(ends | first, add, lambda state: state, state)


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

        def run(images: Array) -> list[Any]:
            return network.apply({"params": params}, images, encoded)  # pyright: ignore[reportReturnType]

        rules, start = _forward_rules("entropy_norms" in self.columns, noise.dtype)
        out: dict[str, Any] = {}
        if "trainability" in self.columns:  # one run forward and back shows all
            pull = _pull_of(run)
            through, flow = _flow_rules(pull, key_signs, noise)
            both = {**_beside(rules, 0), **_beside(through, 1)}
            (state, flow), taps = marks.collect(pull, both, (start, flow))(noise)
            out["trainability"] = _mean(flow.total, flow.terms)
        else:
            state, taps = marks.collect(run, rules, start)(noise)
        if not {"feature", "branch"} & marks.shown(run)(noise):  # no marked blocks: the taps stand for them
            for tap in taps[::-1]:
                state = _add_block(state, features_of(tap))
        out |= {
            "expressivity": state.total,
            "progressivity": state.least_growth,
            "num_layers": state.layers + 1,  # the classifier, which this pass does not run
            "entropy_norms": _mean(state.of_norms, state.norms),
        }
        if "entropy_taps" in self.columns:
            out["entropy_taps"] = sum(covariance_entropy(features_of(tap)) for tap in taps)
        if "entropy_last" in self.columns:
            out["entropy_last"] = covariance_entropy(features_of(taps[0]))
        return {name: out[name] for name in self.columns}


def _mean(total: Array, number: Any) -> Array:
    """Return a mean; the worst value where there is nothing to take it of."""
    return jnp.where(number > 0, total / jnp.maximum(number, 1), -jnp.inf)


def _forward_rules(of_norms: bool, dtype: Any) -> tuple[dict[str, marks.Rule], _Entropies]:
    zero, infinite = jnp.zeros((), dtype), jnp.full((), jnp.inf, dtype)
    observed = {"feature": _add_block, "branch": _add_branch, "kernel": _add_layer}
    rules = {name: marks.observe(function) for name, function in observed.items()}
    if of_norms:
        rules["norm"] = marks.observe(_add_norm)
    return rules, _Entropies(zero, -infinite, infinite, zero, zero, zero)


def _beside(rules: dict[str, marks.Rule], place: int) -> dict[str, marks.Rule]:
    """Make rules of one state rules of a pair of states, of which they see one."""

    def of_pair(rule: marks.Rule) -> marks.Rule:
        def beside(pair: Any, *operands: Any, **static: Any) -> tuple[Any, Any]:
            state, goes_on = rule(pair[place], *operands, **static)
            return tuple(state if i == place else other for i, other in enumerate(pair)), goes_on

        return beside

    return {name: of_pair(rule) for name, rule in rules.items()}


# --- trainability --------------------------------------------------------------------------------------------


class _Flow(NamedTuple):
    """What goes back from block to block.

    Attributes:
      signs: random gradient of the block behind, flattened, in front of an array as long as the largest map.
      shape: index of that block's shape; -1 behind the last block.
      number: random gradients drawn.
      total: sum of the blocks' terms.
      terms: how many.
      key: typed key of all random gradients.
    """

    signs: Any
    shape: Any
    number: Any
    total: Any
    terms: Any
    key: Any


def _pull_of(run: Any) -> Any:
    """Return a function that runs the network forward and back, with no gradient at its outputs: images -> taps."""

    def features(images: Array) -> tuple[list[Array], list[Any]]:
        taps = run(images)
        return [features_of(tap) for tap in taps], taps

    def pull(images: Array) -> Any:
        maps, back, taps = jax.vjp(features, images, has_aux=True)
        grads = back(jax.tree.map(jnp.zeros_like, maps))
        # The gradient of the images is no result, but what leads to it must not be removed.
        return lax.optimization_barrier((taps, grads))[0]

    return pull


def _flow_rules(pull: Any, key: Array, images: Array) -> tuple[dict[str, marks.Rule], _Flow]:
    """Rules and first state that measure, block by block, how near the gradient's largest gain is to one.

    Each block gets a gradient of random signs at its output. What comes out at its input, against what went in, gives a
    matrix whose largest singular value s scores 2 - s - 1 / (s + 1e-6). A block that hands the gradient through
    unchanged, a pure skip, makes the mean -inf. The mean of the blocks' terms is ``trainability``.

    A block may read the output of the block before its predecessor as well. It is the derivative to the predecessor's
    output alone that counts, the other input held constant, as the paper's derivatives are. So what goes back along
    such an input is dropped before it reaches the feature that it would belong to.

    Args:
      pull: of :func:`_pull_of`.
      key: typed key; consumed.
      images: [B, H, W, 3].
    """

    def draw(state: _Flow, shape: tuple[int, ...]) -> Array:
        own = jax.random.fold_in(state.key, state.number)
        return initializers.draw(jax.random.rademacher, own, shape, images.dtype)

    def in_use(channels: Array, like: Array) -> Array:
        return (jnp.arange(like.shape[-1]) < channels).astype(like.dtype)

    shapes: list[tuple[int, ...]] = []

    def record(state: Any, grad: Array, *_: Array) -> Any:
        if grad.shape not in shapes:
            shapes.append(grad.shape)
        return state

    jax.eval_shape(marks.collect(pull, {"feature_gradient": marks.observe(record)}, 0), images)

    def through(state: _Flow, grad: Array, *used: Array) -> tuple[_Flow, tuple[Array, ...]]:
        terms = [lambda grad, signs, shape=shape: _term(grad, signs, shape) for shape in shapes]
        if isinstance(state.shape, np.integer):  # known while tracing: no choice is compiled
            term = terms[state.shape](grad, state.signs) if state.shape >= 0 else jnp.zeros((), grad.dtype)
        else:
            first = lambda grad, signs: jnp.zeros((), grad.dtype)  # noqa: E731
            term = lax.switch(state.shape + 1, [first, *terms], grad, state.signs)
        signs = draw(state, grad.shape)
        for channels in used:  # those that only pad the program have no gradient
            signs = signs * norms.per_channel(channels)
        flat = jnp.zeros_like(state.signs).at[: signs.size].set(signs.reshape(-1))
        place = np.int32(shapes.index(grad.shape))
        known = (state.shape >= 0) * np.int32(1)
        following = _Flow(flat, place, state.number + 1, state.total + term, state.terms + known, state.key)
        return following, (signs, *used)

    def along(state: _Flow, grad: Array, distance: Any = 1) -> tuple[_Flow, tuple[Array]]:
        return state, (jnp.where(jnp.asarray(distance) > 1, 0, grad),)

    # Where a program has a block's both ends at hand, nothing need be kept from block to block.
    def enter(state: _Flow, grad: Array) -> tuple[_Flow, tuple[Array]]:
        return state, (draw(state, grad.shape),)

    def leave(state: _Flow, grad: Array, out: tuple[int, ...]) -> _Flow:
        return add(state, _term(grad, draw(state, out), out))

    def enter_branch(state: _Flow, grad: Array, used: Array, ends: Array) -> tuple[_Flow, tuple[Array, ...]]:
        signs = draw(state, grad.shape) * norms.per_channel(in_use(used, grad))
        return state, (jnp.where(ends, signs, grad), used, ends)

    def leave_branch(state: _Flow, grad: Array, used: Array, begins: Array, out: tuple[int, ...]) -> _Flow:
        def measure(state: _Flow) -> _Flow:
            signs = draw(state, out) * norms.per_channel(in_use(used, grad))
            return add(state, _term(grad, signs, out))

        return lax.cond(begins, measure, lambda state: state, state)

    def add(state: _Flow, term: Array) -> _Flow:
        return state._replace(number=state.number + 1, total=state.total + term, terms=state.terms + 1)

    longest, none = max((int(np.prod(shape)) for shape in shapes), default=0), np.int32(0)
    start = _Flow(jnp.zeros((longest,), images.dtype), none - 1, none, jnp.zeros((), images.dtype), none, key)
    rules = {
        "feature_gradient": through,
        "entry_gradient": along,
        "block_output_gradient": enter,
        "block_input_gradient": marks.observe(leave),
        "branch_output_gradient": enter_branch,
        "branch_input_gradient": marks.observe(leave_branch),
    }
    return rules, start


def _term(grad: Array, signs: Array, shape: tuple[int, ...]) -> Array:
    """The term of the block between two maps.

    Args:
      grad: gradient that came out at its input, [B, H, W, C].
      signs: gradient that went in at its output, flattened, in front of a longer array.
      shape: of the latter, [B, H', W', C'].
    """
    out = signs.reshape(-1)[: int(np.prod(shape))].reshape(shape)
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
