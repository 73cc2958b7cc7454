"""This module makes a search space of a user's own networks: any function from an architecture to a Flax module.

It asks for nothing but the function and the list of architectures. Each architecture is a group of its own, so each
is compiled once; where that takes too long, write a universal module (CONTRIBUTING.md).

  def build(arch):                  # arch: any JSON value, such as (width, depth) or {"width": 16, "depth": 2}
      return MyNet(*arch)           # MyNet()(images [B, H, W, 3]) -> feature maps [B, H', W', C'], last one first

  space = spaces.from_flax(build, archs=[(w, d) for w in (16, 32) for d in (2, 4)])
  result = eproxy_jax.score(space.archs, space)

Networks are traced and compiled when they are scored, not before: a run on a few of many thousand starts at once. Only
a setting with ``alpha`` traces all of them, to know the largest. configs/mixer.py is a whole example, for the command
line as well. What the modules need to know:

  * The proxy trains in training mode. A parameter ``train``, ``training``, ``is_training``, ``deterministic``,
    ``use_running_average``, ``inference`` or ``eval`` of ``__call__`` gets the value that means training, whatever its
    default. Batch norms normalise with batch statistics: running averages are refused. Collections other than
    ``params`` start fresh in each step.
  * Dropout is on where the module has it on in training. It has one mask for all steps, architectures and seeds, so
    that it adds no noise between candidates and a score does not depend on rounding.
  * NNX modules are taken through Flax's bridge, in training mode. A function with a parameter ``rngs`` gets the
    ``nnx.Rngs`` to draw weights from, other weights for each seed and architecture: ``from_flax(NnxNet, archs)`` for a
    class with ``__init__(self, arch, rngs)``. A function without it returns a module with the weights that it brings.
  * ``settings.network_init`` reaches the module only if its ``__call__`` has a parameter ``init`` (an index into
    ``initializers.INITS``, for ``layers.Conv``); otherwise its own initialisers hold.
  * Convolutions should be ``layers.Conv`` and ``layers.DepthwiseConv``: on CPUs the gradient of ``flax.linen.Conv``
    is slow inside loops.
  * The proxy resizes each map to 8x8. A map of 2x2 pixels or fewer has nothing to resize: take larger images, or fewer
    strides. A warning says so.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax import Array
from typing_extensions import override

from eproxy_jax import sampling, sources
from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.nn import marks, traced_flow, traced_work
from eproxy_jax.spaces import base, own_marks
from eproxy_jax.spaces.own_modules import OwnNetwork, explained
from eproxy_jax.types import TARGET_SIZE

_KEY = 0  # of what is only looked at for its shape, or is no parameter
_NEAREST_OF = 1000  # architectures that a misspelled one is compared with
_SMALL_MAP = 2  # pixels in height and width from which resizing to TARGET_SIZE makes up nearly all


class FlaxFamily(base.SearchSpace):
    """Base of spaces whose networks come from a function, one compiled program each.

    Subclasses are frozen dataclasses; they give ``build`` and ``archs``.
    """

    name: ClassVar[str] = "flax family"

    @abc.abstractmethod
    def build(self, arch: Any) -> Any:
        """Build the network of an architecture: ``module(images) -> feature maps [B, H, W, C]``, last one first.

        It gets the architecture as ``archs`` has it, and returns a module of ``flax.linen`` or ``flax.nnx``.
        """

    @property
    @abc.abstractmethod
    def archs(self) -> tuple[Any, ...]:
        """Every architecture: distinct values of JSON, tuples or lists, dicts, numbers, strings, true, false, null.

        The other methods take and give them in a hashable form: tuples for lists and ``FrozenDict`` for dicts.
        """

    def network(self, arch: Any) -> OwnNetwork:
        """Return the network of an architecture, built anew.

        Raises:
          NetworkError: the user's function fails, or returns no module.
        """
        return self._network(self.build, arch)

    def _network(self, build: Callable[..., Any], arch: Any) -> OwnNetwork:
        given = _known(self).given.get(arch, arch)
        return OwnNetwork(build, copy.deepcopy(given), _thawed(arch))

    @property
    @override
    def num_archs(self) -> int:
        return len(_known(self).archs)

    @override
    def parse(self, source: Any) -> Any:
        """Read an architecture from itself, from lists and dicts for its tuples and mappings, or from JSON text.

        A string that is an architecture itself ("12012100") is taken as it is, and read as JSON only if it is none.

        Raises:
          ValueError: not in ``archs``.
        """
        known = _known(self)
        if isinstance(source, str) and source in known.position:
            return source
        value = source
        with contextlib.suppress(ValueError, RecursionError):  # neither JSON nor a value of it: an unknown architecture
            value = json.loads(source) if isinstance(source, str) else source
            value = _frozen(value)
            position = known.position.get(value)
            if position is not None and _has_booleans_of(value, known.archs[position]):
                return known.archs[position]
        texts = [self.format(arch) for arch in known.archs[:_NEAREST_OF]]
        near = did_you_mean(source[:200] if isinstance(source, str) else quoted(source), texts)
        raise ValueError(
            f"not one of the {len(known.archs):,} architectures of {self.name!r}: {quoted(source)}{near}; the first is "
            f"{texts[0]}"
        )

    @override
    def format(self, arch: Any) -> str:
        """Write the architecture as JSON; keys of mappings are in alphabetical order."""
        return json.dumps(_thawed(arch), sort_keys=True)

    @override
    def enumerate(self) -> Iterator[Any]:
        """Return every architecture, in the order given."""
        return iter(_known(self).archs)

    @override
    def sample(self, num: int, seed: int) -> list[Any]:
        archs = _known(self).archs
        return [archs[i] for i in sampling.draw_distinct(self.num_archs, num, seed, self.name)]

    @override
    def neighbours(self, arch: Any) -> list[Any]:
        """Return architectures that differ in one entry of the tuple or mapping; if it is neither, all others."""
        entries = _entries(arch)
        if entries is None:
            return [other for other in _known(self).archs if other != arch]
        found = []
        for other in _known(self).archs:
            others = _entries(other) if type(other) is type(arch) else None
            if others is None or others.keys() != entries.keys():
                continue
            if sum(entries[key] != others[key] for key in entries) == 1:
                found.append(other)
        return found

    @override
    def canonical(self, arch: Any) -> Any:
        """Return the architecture itself: what a function builds is not looked into."""
        return arch

    @override
    def is_connected(self, arch: Any) -> bool:
        """Return whether the module's last map depends on the images, by its trace: what is not read does not count.

        A product with a weight that is always zero is not seen through: such a network counts as connected.
        """
        return _sizes(self, arch)[3]

    @override
    def group(self, arch: Any) -> FlaxGroup:
        """Return a group of this architecture alone."""
        return FlaxGroup(self, arch)

    @override
    def macs(self, arch: Any) -> int:
        """Count the multiply-accumulates of convolutions and matrix products for one 3x32x32 image, in the trace."""
        return _sizes(self, arch)[0]

    @override
    def max_macs(self) -> int:
        """Return the largest ``macs``; this traces every network of the family once."""
        return max(self.macs(arch) for arch in _known(self).archs)

    @override
    def params(self, arch: Any) -> int:
        """Count the parameters of the module."""
        return _sizes(self, arch)[1]

    @override
    def full_sizes(self, arch: Any) -> tuple[int, int]:
        """Return (MACs, parameters) of the module: it is not known to have other sizes."""
        return _sizes(self, arch)[:2]

    @override
    def identity(self) -> dict[str, Any]:
        """Return name, sizes, and the fingerprint of the class that builds the networks: other code, other networks.

        Sizes that are no plain numbers or texts have fingerprints, too.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = (bool, int, float, str, type(None))
        sizes = {
            name: value if isinstance(value, plain) else sources.source_fingerprint(value)
            for name, value in values.items()
        }
        return {"space": self.name, "sizes": sizes, "source": sources.source_fingerprint(type(self))}

    @override
    def tap_channels(self, arch: Any) -> tuple[int, ...]:
        return _sizes(self, arch)[2]

    @override
    def to_flax(self, arch: Any, num_classes: int | None = None) -> nn.Module:
        """Return the module itself; an NNX module comes through Flax's bridge, in training mode.

        Raises:
          NetworkError: the user's function fails, or returns no module.
          ValueError: ``num_classes`` is given: the family's modules have no classifier but what they bring.
        """
        if num_classes is not None:
            raise ValueError(f"{self.name!r}: num_classes is not known to the function that builds the networks")
        return self.network(arch).module


@dataclasses.dataclass(frozen=True)
class _Known:
    """The architectures of a family.

    Attributes:
      archs: all of them, hashable.
      position: place of each in ``archs``.
      given: each as the user wrote it.
    """

    archs: tuple[Any, ...]
    position: dict[Any, int]
    given: dict[Any, Any]


@functools.cache
def _known(family: FlaxFamily) -> _Known:
    """Return the architectures of a family, read once.

    Raises:
      ValueError: there are none; one is no JSON value or stands twice; or one is a string that is also the JSON text of
      another, so that reading it back is ambiguous.
    """
    given = (isinstance(family, FromFlax) and family.originals) or family.archs
    archs = _distinct(given, family.name)
    position = {arch: number for number, arch in enumerate(archs)}
    if texts := {arch for arch in archs if isinstance(arch, str)}:
        for arch in archs:
            if family.format(arch) in texts:
                raise ValueError(
                    f"{family.name!r} has the architecture {quoted(arch)} and the text of it, "
                    f"{quoted(family.format(arch))}: rename one of them"
                )
    return _Known(archs, position, dict(zip(archs, given, strict=True)))


def _distinct(given: Sequence[Any], name: str) -> tuple[Any, ...]:
    """Return architectures in hashable form, each once."""
    try:
        archs = tuple(_frozen(arch) for arch in given)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: expected architectures that are values of JSON: {error}") from error
    if not archs:
        raise ValueError(f"{name}: expected a list of distinct architectures, got none")
    met: set[Any] = set()
    for arch in archs:
        if arch in met:
            raise ValueError(f"{name}: expected distinct architectures: {quoted(arch)} stands twice, or an equal one")
        met.add(arch)
    return archs


@functools.cache
def _sizes(family: FlaxFamily, arch: Any) -> tuple[int, int, tuple[int, ...], bool]:
    """Return (MACs, parameters, channels of the taps, whether the last map depends on the images)."""
    network, images = family.network(arch), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(_KEY), x), images)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

    def taps(images: Any, variables: Any) -> Any:
        return network.taps(variables, images)

    channels = tuple(tap.shape[-1] for tap in jax.eval_shape(taps, images, variables))
    connected, *_ = traced_flow.depends_on_first(taps, images, variables)  # the trace is that of the line above
    return traced_work.count(taps, images, variables), params, channels, connected


def _frozen(value: Any) -> Any:
    """Make a value hashable: lists become tuples and dicts ``FrozenDict``, at every depth.

    Raises:
      ValueError: something that JSON has no value for.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"{quoted(dict(value))} has keys that are no strings")
        return FrozenDict({key: _frozen(part) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(part) for part in value)
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"{quoted(value)} is none")


def _has_booleans_of(value: Any, arch: Any) -> bool:
    """Return whether two equal values have true and false in the same places: Python has ``True == 1``."""
    if isinstance(arch, Mapping):
        return all(_has_booleans_of(value[key], part) for key, part in arch.items())
    if isinstance(arch, tuple):
        return all(_has_booleans_of(*parts) for parts in zip(value, arch, strict=True))
    return isinstance(value, bool) == isinstance(arch, bool)


def _thawed(value: Any) -> Any:
    """Return an architecture as values that ``json`` can write."""
    if isinstance(value, Mapping):
        return {key: _thawed(part) for key, part in value.items()}
    return [_thawed(part) for part in value] if isinstance(value, tuple) else value


def _entries(arch: Any) -> dict[Any, Any] | None:
    """Return the entries of a tuple or mapping by place or key; None for anything else."""
    if isinstance(arch, Mapping):
        return dict(arch)
    return dict(enumerate(arch)) if isinstance(arch, tuple) else None


def _warn_of_small_maps(family: FlaxFamily, images: Array, taps: Sequence[Array]) -> None:
    """Warn that a network's maps are too small to tell much. Python shows a warning of equal text once."""
    small = sorted({tap.shape[1:3] for tap in taps if max(tap.shape[1:3]) <= _SMALL_MAP})
    if small:
        sizes = ", ".join(f"{height}x{width}" for height, width in small)
        warnings.warn(
            f"{family.name!r}: {images.shape[1]}x{images.shape[2]} images leave feature maps of {sizes} pixels, which "
            f"the proxy resizes to {TARGET_SIZE}x{TARGET_SIZE}: there is next to nothing to regress. Take larger "
            "images (config.images.size) or return taps in front of the last strides",
            stacklevel=2,
        )


class FlaxNetwork(nn.Module):
    """A family's module in the form that the proxy calls.

    Attributes:
      family: the family.
      arch: the architecture.
      dtype: dtype of the parameters.
    """

    family: Any
    arch: Any
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, encoded: Array, init: Array | int = 0) -> list[Array]:
        """Return the feature taps, last one first.

        Args:
          images: [B, H, W, 3].
          encoded: integer [1]; the architecture is static.
          init: index into ``initializers.INITS``.

        Returns:
          What the module returns: arrays [B, H', W', C'].

        Raises:
          NetworkError: the user's module fails, or returns anything else.
        """
        del encoded
        network = self.family.network(self.arch)

        def make(key: Array) -> Any:
            return jax.tree.map(lambda leaf: leaf.astype(self.dtype), network.init(key, images, init)["params"])

        with self.explained():
            params = self.param("network", make)
        if marks.collecting():
            params = own_marks.mark_kernels(params)
        with marks.unmarked():  # it runs the module, too, for collections other than its parameters
            others = network.init(jax.random.key(_KEY), images, init)
        variables = {**others, "params": params}
        taps = network.taps(variables, images, init)
        if self.is_initializing():  # traced once a program; the training steps trace the network again
            _warn_of_small_maps(self.family, images, taps)
        return taps

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Turn errors of the user's code, in the gradient as well, into one line."""
        return explained(_thawed(self.arch), "the network")


def explain_errors(network: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Turn errors of a user's network into one line; the networks of other spaces have none of a user's code."""
    return network.explained() if isinstance(network, FlaxNetwork) else contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class FlaxGroup(base.Group):
    """One architecture of a family and its program."""

    family: Any
    arch: Any

    @override
    def encode(self, archs: Sequence[Any]) -> np.ndarray:
        """Return zeros, int32 [A, 1]: the architecture is static."""
        return np.zeros((len(archs), 1), np.int32)

    @override
    def universal(self, dtype: Any = jnp.float32) -> FlaxNetwork:
        """Return the architecture's module."""
        return FlaxNetwork(self.family, self.arch, dtype)

    @override
    def extract(self, arch: Any, universal_params: Any) -> dict[str, Any]:
        """Return the module's own parameters."""
        del arch
        return universal_params["network"]

    @override
    def executed_macs(self, arch: Any) -> int:
        return self.family.macs(arch)


@dataclasses.dataclass(frozen=True)
class FromFlax(FlaxFamily):
    """The family that :func:`from_flax` returns."""

    function: Callable[..., Any]
    choices: tuple[Any, ...]
    label: str = "from_flax"
    originals: tuple[Any, ...] = dataclasses.field(default=(), compare=False, repr=False)

    def __hash__(self):
        # Taken at every look into a cache: not over each of many thousand architectures. Equality compares them all.
        return hash((self.function, len(self.choices), self.label))

    @property
    @override
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - families of one class, many names
        """The family's name."""
        return self.label

    @property
    @override
    def archs(self) -> tuple[Any, ...]:
        return self.choices

    @override
    def build(self, arch: Any) -> Any:
        return self.function(arch)

    @override
    def network(self, arch: Any) -> OwnNetwork:
        return self._network(self.function, arch)

    @override
    def identity(self) -> dict[str, Any]:
        """Return name, and the fingerprints of the architectures and of the function that builds the networks."""
        archs = {"archs": sources.source_fingerprint(self.choices)}
        return {"space": self.name, "sizes": archs, "source": sources.source_fingerprint(self.function)}


def from_flax(function: Callable[..., Any], archs: Sequence[Any], name: str = "from_flax") -> FromFlax:
    """Return a search space made of a function that builds networks.

    Args:
      function: architecture -> Linen or NNX module; ``module(images [B, H, W, 3])`` gives feature maps [B, H', W', C'],
        last one first. It must build equal modules for equal architectures. If it has a parameter ``rngs``, it gets the
        ``nnx.Rngs`` for an NNX module's weights.
      archs: every architecture: distinct JSON values: numbers, strings, lists or tuples, dicts, true, false, null. The
        function gets them as they stand here.
      name: for messages and records.

    Returns:
      A search space for ``eproxy_jax.score`` and ``eproxy_jax.search_proxy``.

    Raises:
      ValueError: no architectures, one of them twice, or one that is no JSON value.

    Example:
      >>> from eproxy_jax.nn import layers
      >>> class Net(nn.Module):
      ...     width: int
      ...     @nn.compact
      ...     def __call__(self, images, init=0):
      ...         return [nn.relu(layers.Conv(self.width, 3, stride=4)(images, init))]
      >>> space = from_flax(Net, archs=[8, 16])
      >>> space.macs(8), space.params(16)
      (13824, 432)
    """
    originals = tuple(archs)
    return FromFlax(function, _distinct(originals, name), name, originals)
