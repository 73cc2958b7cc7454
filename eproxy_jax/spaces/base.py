"""The protocol of a search space, and the registry.

A space turns strings into architectures, architectures into small integer arrays, and both into Flax modules. It is a
frozen dataclass, hence hashable: equal spaces share compiled programs. CONTRIBUTING.md shows how to add one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import flax.linen as nn
import numpy as np

from eproxy_jax.errors import did_you_mean

Arch = Hashable


class Group(Protocol):
    """Architectures that share one compiled program: hashable, and equal for all of them.

    A space whose every architecture fits one program is its own group (:class:`OneGroup`). A space of many widths and
    depths has a few, by size. The group of an architecture depends on nothing else, so neither does its score.
    """

    def encode(self, archs: Sequence[Any]) -> np.ndarray:
        """Small integers, [A, ...]: what the universal module takes."""
        ...

    def universal(self, dtype: Any = ...) -> nn.Module:
        """One module for all of the group: ``module(images, encoded, init) -> feature taps``, last stage first."""
        ...

    def extract(self, arch: Any, universal_params: Any) -> dict[str, Any]:
        """The parameters of the space's ``to_flax(arch)`` out of those of ``universal()``."""
        ...

    def executed_macs(self, arch: Any) -> int:
        """Multiply-accumulates that the program executes where ``macs`` of the canonical form are needed."""
        ...


@runtime_checkable
class SearchSpace(Protocol):
    """What the proxy, the runner and the command line need to know of a search space.

    Implementations are frozen dataclasses whose fields are the skeleton's sizes (widths, depths).

    Attributes:
      name: the registry name.
      num_archs: number of architecture strings, or None when too many to enumerate.
    """

    @property
    def name(self) -> str:
        """The registry name."""
        ...

    @property
    def num_archs(self) -> int | None:
        """Number of architecture strings, or None when too many to enumerate."""
        ...

    def parse(self, source: Any) -> Any:
        """Read an architecture from the field's own notation.

        Raises:
          ValueError: ``source`` is not an architecture of this space; says what and how to fix it.
        """
        ...

    def format(self, arch: Any) -> str:
        """The field's own string; ``parse(format(arch)) == arch``."""
        ...

    def enumerate(self) -> Iterator[Any]:
        """Every architecture, in a fixed order."""
        ...

    def sample(self, num: int, seed: int) -> list[Any]:
        """Distinct architectures drawn uniformly."""
        ...

    def neighbours(self, arch: Any) -> list[Any]:
        """The architectures one mutation away."""
        ...

    def canonical(self, arch: Any) -> Any:
        """The representative of all architectures that compute the same function, without dead work."""
        ...

    def group(self, arch: Any) -> Group:
        """What the canonical architecture shares its compiled program with: few programs, quickly compiled."""
        ...

    def fine_group(self, arch: Any) -> Group:
        """The same where more programs may be compiled, so that a batch of candidates wastes little work."""
        ...

    def macs(self, arch: Any) -> int:
        """Multiply-accumulates of the backbone's convolutions for one 3x32x32 image, classifier excluded."""
        ...

    def max_macs(self) -> int:
        """The largest ``macs`` in the space."""
        ...

    def params(self, arch: Any) -> int:
        """Trainable parameters of the backbone, classifier excluded."""
        ...

    def full_sizes(self, arch: Any) -> tuple[int, int]:
        """(MACs, parameters) of the network that is trained in earnest, whatever sizes the proxy runs at."""
        ...

    def tap_channels(self, arch: Any) -> tuple[int, ...]:
        """Channels of the feature taps, last stage first."""
        ...

    def to_flax(self, arch: Any, num_classes: int | None = None) -> nn.Module:
        """A stand-alone module of exactly this network, a ``StandAloneNet``."""
        ...


class Grouped:
    """Base of spaces whose default sizes are the benchmark's, and whose groups leave nothing to refine.

    That is: in batches, too, no candidate pays for another's work.
    """

    def group(self, arch: Any) -> Any:
        """What the canonical architecture shares its compiled program with."""
        raise NotImplementedError

    def fine_group(self, arch: Any) -> Any:
        """As :meth:`group`."""
        return self.group(arch)

    def full_sizes(self, arch: Any) -> tuple[int, int]:
        """(MACs, parameters) of the backbone at the benchmark's sizes, without dead work."""
        full = self._full()
        arch = full.canonical(arch)
        return full.macs(arch), full.params(arch)

    def _full(self) -> Any:
        """The space at the benchmark's sizes."""
        return type(self)()


class Uncounted(Grouped):
    """Base of grouped spaces that are too large to enumerate."""

    name: ClassVar[str]
    num_archs: ClassVar[int | None] = None

    @property
    def size(self) -> str:
        """How many architectures there are, in words."""
        raise NotImplementedError

    def enumerate(self) -> Iterator[Any]:
        """Not for such a space.

        Raises:
          ValueError: always.
        """
        raise ValueError(f"{self.name} has {self.size}, too many to enumerate: sample some, or read a file")


class OneGroup(Grouped):
    """Base of spaces that are their own and only group: one program runs exactly what each architecture needs."""

    def group(self, arch: Any) -> Any:
        """The space itself."""
        del arch
        return self

    def executed_macs(self, arch: Any) -> int:
        """MACs of the architecture."""
        return self.macs(arch)  # pyright: ignore[reportAttributeAccessIssue]


_Space = TypeVar("_Space", bound=Callable[..., SearchSpace])
_REGISTRY: dict[str, Callable[..., SearchSpace]] = {}


def register(name: str) -> Callable[[_Space], _Space]:
    """Class decorator that adds a space to the registry. A module that is loaded again replaces its own spaces.

    Raises:
      ValueError: the name is taken.
    """

    def add(space: _Space) -> _Space:
        known = _REGISTRY.get(name)
        reloaded = known is not space and _origin(known) == _origin(space)
        if known is not None and not reloaded:
            raise ValueError(f"search space {name!r} is registered twice: {known!r} and {space!r}")
        _REGISTRY[name] = space
        return space

    return add


def _origin(space: Any) -> tuple[Any, Any]:
    return getattr(space, "__module__", None), getattr(space, "__qualname__", None)


def names() -> tuple[str, ...]:
    """Registered space names, sorted."""
    return tuple(sorted(_REGISTRY))


def get(name: str, **sizes: Any) -> SearchSpace:
    """The search space of that name.

    Args:
      name: a registry name, see :func:`names`.
      **sizes: fields of the space, such as ``stem_channels``.

    Raises:
      ValueError: unknown name or field.

    Example:
      >>> get("nasbench201").num_archs
      15625
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown search space {name!r}{did_you_mean(name, _REGISTRY)}; known: {', '.join(names())}")
    known = {field.name for field in dataclasses.fields(_REGISTRY[name])}  # pyright: ignore[reportArgumentType]
    for size in sizes:
        if size not in known:
            raise ValueError(
                f"search space {name!r} has no size {size!r}{did_you_mean(size, known)}; "
                f"its sizes: {', '.join(sorted(known))}"
            )
    return _REGISTRY[name](**sizes)


def arch_identity(space: SearchSpace, arch: Any) -> np.ndarray:
    """Hash of the canonical form, uint32 [2]: folded into the key, it gives equal functions equal randomness."""
    text = space.format(space.canonical(arch))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def size_measures(space: SearchSpace, archs: Iterable[Any]) -> np.ndarray:
    """MACs and parameters in full (``full_sizes``): [2, A], what blends by rank work on."""
    return np.asarray([space.full_sizes(arch) for arch in archs], float).T


def macs_fractions(space: SearchSpace, archs: Iterable[Any]) -> np.ndarray:
    """MACs of the canonical backbones over the largest of the space: [A], what ``alpha`` blends in."""
    return np.asarray([space.macs(space.canonical(arch)) for arch in archs]) / space.max_macs()


def check_positive(space: Any) -> None:
    """Check that all sizes of a space are positive integers.

    Raises:
      ValueError: names the size and its value.
    """
    for field in dataclasses.fields(space):
        value = getattr(space, field.name)
        if field.type in ("int", int) and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{type(space).__name__}.{field.name}: expected a positive integer, got {value!r}")


def draw_distinct(total: int, num: int, seed: int, what: str) -> list[int]:
    """``num`` distinct integers below ``total``, uniformly, in the order drawn.

    Raises:
      ValueError: ``num`` is not in 1..total.
    """
    if not 1 <= num <= total:
        raise ValueError(f"cannot draw {num} distinct architectures from {what}: choose a number from 1 to {total}")
    return [int(i) for i in np.random.default_rng(seed).choice(total, size=num, replace=False)]


def draw_until(draw: Callable[[], Any], num: int, what: str) -> list[Any]:
    """``num`` distinct values of ``draw``, in the order drawn, out of a set too large to run dry.

    Raises:
      ValueError: ``num`` is less than 1.
    """
    if num < 1:
        raise ValueError(f"cannot draw {num} distinct architectures from {what}: choose a number from 1 on")
    found: dict[Any, None] = {}
    while len(found) < num:
        found[draw()] = None
    return list(found)
