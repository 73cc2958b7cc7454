"""This module holds the base class of search spaces, and the registry.

A space turns strings into architectures, architectures into small integer arrays, and both into Flax modules. It is a
frozen dataclass, hence hashable: equal spaces share compiled programs. CONTRIBUTING.md shows how to add one.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import flax.linen as nn
import numpy as np

from eproxy_jax import sources
from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.spaces.structure import Structure


class Group(abc.ABC):
    """Architectures that share one compiled program: hashable, and equal for all of them.

    A space whose every architecture fits one program is its own group: ``class MySpace(SearchSpace, Group)``. A space
    of many widths and depths has a few groups, by size. The group of an architecture depends on nothing else, so
    neither does its score.
    """

    @abc.abstractmethod
    def encode(self, archs: Sequence[Any]) -> np.ndarray:
        """Encode architectures as small integers, [A, ...], which the universal module takes."""

    @abc.abstractmethod
    def universal(self, dtype: Any = ...) -> nn.Module:
        """Return one module for all the group: ``module(images, encoded, init) -> feature taps``, last stage first."""

    def extract(self, arch: Any, universal_params: Any) -> dict[str, Any]:
        """Return the parameters of the space's ``to_flax(arch)`` from those of ``universal()``; leaves may be shared.

        Nothing in the package calls it. It serves parity with stand-alone networks: the tests of every space use it.

        Raises:
          NotImplementedError: the group does not say how.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no extract(): write it to compare the universal module with to_flax()"
        )

    @abc.abstractmethod
    def executed_macs(self, arch: Any) -> int:
        """Return the multiply-accumulates that the program executes for this arch, where ``macs`` of them are needed.

        Candidates run one after the other (``lax.map``): in batches (``vmap``) the program may execute more.

        This is so when candidates run one after the other (``lax.map``); in batches (``vmap``) they may be more.
        """


class Notation(NamedTuple):
    """One way to write an architecture.

    Attributes:
      name: what the notation is called.
      example: an architecture in it: text, or a value as JSON holds it.
      meaning: who writes it, and what its parts are.
    """

    name: str
    example: Any
    meaning: str


@dataclasses.dataclass(frozen=True)
class SearchSpace(abc.ABC):
    """Base of all search spaces: all that the proxy, the runner and the command line need to know of one.

    Subclasses are frozen dataclasses whose fields are the skeleton's sizes (widths, depths). The defaults of the
    fields are the benchmark's sizes. Every method with an architecture takes what ``parse`` returns.

    By default a space is too large to enumerate, and is its own only group; it then derives from :class:`Group`, too.

    Attributes:
      name: the registry name.
      paper: where the space comes from, for ``eproxy spaces``.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""

    # --- strings ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def parse(self, source: Any) -> Any:
        """Read an architecture from any of the field's own notations.

        Text and values have one meaning: ``"(1, 2)"``, ``(1, 2)`` and ``[1, 2]`` are read alike. What ``parse``
        returned before is returned unchanged. Keys of an object beside those of the notation are ignored.

        Raises:
          ValueError: ``source`` is not an architecture of this space; says what and how to fix it.
        """

    @abc.abstractmethod
    def format(self, arch: Any) -> str:
        """Write the architecture as the field's own string; ``parse(format(arch)) == arch``."""

    def notations(self) -> tuple[Notation, ...]:
        """Return the notations that ``parse`` reads, each with an example; by default only the string of ``format``."""
        return (Notation("string", self.format(self.sample(1, 0)[0]), "what format() writes"),)

    # --- the set of architectures ----------------------------------------------------------------------------

    @property
    def num_archs(self) -> int | None:
        """Number of architecture strings, or None when there are too many to enumerate."""
        return None

    @property
    def size(self) -> str:
        """How many architectures there are, in words."""
        return "uncounted architectures" if self.num_archs is None else f"{self.num_archs:,} architectures"

    def enumerate(self) -> Iterator[Any]:
        """Return every architecture, in a fixed order.

        Raises:
          ValueError: the space is too large to enumerate.
        """
        raise ValueError(f"{self.name} has {self.size}, too many to enumerate: sample some, or read a file")

    @abc.abstractmethod
    def sample(self, num: int, seed: int) -> list[Any]:
        """Draw distinct architectures uniformly, and return them in the order drawn.

        Raises:
          ValueError: ``num`` is less than 1, or more than there are.
        """

    def neighbours(self, arch: Any) -> list[Any]:
        """Return the architectures one mutation away. Searches over architectures need them, scoring does not.

        Raises:
          NotImplementedError: the space does not say which.
        """
        raise NotImplementedError(f"{type(self).__name__} has no neighbours(): write it to search by mutation")

    @abc.abstractmethod
    def canonical(self, arch: Any) -> Any:
        """Return the representative of all architectures that compute the same function, without dead work."""

    def is_connected(self, arch: Any) -> bool:
        """Return whether the network's output depends on the image: the graph says so, nothing runs.

        A disconnected network computes a constant, so its accuracy is chance. It is never trained and ranks last. The
        output is the last stage's map. Earlier feature taps may see the image all the same.

        By default True: in most spaces every architecture that ``parse`` accepts has a path from image to output. A
        space with an operation that cuts edges overrides this.
        """
        del arch
        return True

    def structure(self, arch: Any) -> Structure:
        """Return the graphs and sizes that the canonical architecture is made of: columns are counted in them.

        By default there are none, and such a space has no graph counts.
        """
        del arch
        return Structure()

    # --- programs --------------------------------------------------------------------------------------------

    def group(self, arch: Any) -> Group:
        """Return the group that the canonical architecture shares its compiled program with. Groups are few.

        By default it is the space itself, which then is a :class:`Group`.

        Raises:
          TypeError: the space is no group, and does not override this method.
        """
        del arch
        if not isinstance(self, Group):
            raise TypeError(
                f"{type(self).__name__} has no groups: derive it from Group as well (one program for all), "
                "or override group()"
            )
        return self

    def fine_group(self, arch: Any) -> Group:
        """Return the group where more programs may be compiled, so that a batch of candidates wastes less work.

        By default it is :meth:`group`, which may waste work all the same. Under ``vmap`` the candidates of a batch
        pay for each other's work wherever an operation is data (``nasbench101``, ``transnas_micro``): every operation
        runs for all of them, at full width, and one result is selected.
        """
        return self.group(arch)

    def executed_macs(self, arch: Any) -> int:
        """Return the multiply-accumulates that the program of the arch's group executes.

        They are ``macs`` for a space that is its own group.
        """
        group = self.group(arch)
        return self.macs(arch) if group is self else group.executed_macs(arch)

    # --- counts ----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def macs(self, arch: Any) -> int:
        """Return the multiply-accumulates of the backbone's convolutions for one 3x32x32 image, classifier excluded."""

    @abc.abstractmethod
    def max_macs(self) -> int:
        """Return the largest ``macs`` in the space."""

    @abc.abstractmethod
    def params(self, arch: Any) -> int:
        """Count the trainable parameters of the backbone, classifier excluded."""

    def full_sizes(self, arch: Any) -> tuple[int, int]:
        """Return (MACs, parameters) of the network that is trained in earnest, whatever sizes the proxy runs at.

        By default these are those of the canonical backbone at the benchmark's sizes. Override it where another network
        is trained in earnest, as for NDS on ImageNet.
        """
        full = self._full()
        arch = full.canonical(arch)
        return full.macs(arch), full.params(arch)

    def _full(self) -> SearchSpace:
        """Return the space at the benchmark's sizes."""
        return type(self)()

    def identity(self) -> dict[str, Any]:
        """Return what losses depend on of the space, as plain JSON data: equal data mean equal networks.

        That is its name and sizes; of a space that a user wrote, the fingerprint of its source as well.
        """
        values = {"space": self.name, "sizes": dataclasses.asdict(self)}
        if not sources.is_library(type(self).__module__):
            values["source"] = sources.source_fingerprint(type(self))
        return values

    # --- modules ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def tap_channels(self, arch: Any) -> tuple[int, ...]:
        """Return the channels of the feature taps, last stage first."""

    @abc.abstractmethod
    def to_flax(self, arch: Any, num_classes: int | None = None) -> nn.Module:
        """Build a stand-alone module of exactly this network, a ``StandAloneNet``.

        With ``num_classes`` it ends in a classifier and can be trained.
        """


_Class = TypeVar("_Class", bound=type[SearchSpace])
_REGISTRY: dict[str, type[SearchSpace]] = {}
_ORIGINS: dict[str, tuple[str | None, str]] = {}


def register(name: str) -> Callable[[_Class], _Class]:
    """Return a class decorator that adds a space to the registry, for use in the body of a module.

    A file that is loaded again replaces its own spaces, under whatever module name it is loaded: a space that is
    defined in a config can be imported from it as well.

    Raises:
      ValueError: another class has the name: one of another file, or another class of the same file.
    """
    file = sys._getframe(1).f_globals.get("__file__")  # none in a notebook

    def add(space: _Class) -> _Class:
        origin = (None if file is None else str(Path(file).resolve()), space.__qualname__)
        if name in _REGISTRY and _ORIGINS[name] != origin:
            raise ValueError(
                f"search space {quoted(name)} is registered twice: {_place(_ORIGINS[name])} and {_place(origin)}; "
                "rename one of them"
            )
        _REGISTRY[name], _ORIGINS[name] = space, origin
        return space

    return add


def _place(origin: tuple[str | None, str]) -> str:
    return f"{origin[1]} in {origin[0] or 'the interactive session'}"


def names() -> tuple[str, ...]:
    """Return the registered space names, sorted."""
    return tuple(sorted(_REGISTRY))


def get(name: str, **sizes: Any) -> SearchSpace:
    """Return the search space of that name.

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
        raise ValueError(
            f"unknown search space {quoted(name)}{did_you_mean(name, _REGISTRY)}; known: {', '.join(names())}"
        )
    known = {field.name for field in dataclasses.fields(_REGISTRY[name])}
    for size in sizes:
        if size not in known:
            raise ValueError(
                f"search space {quoted(name)} has no size {quoted(size)}{did_you_mean(size, known)}; "
                f"its sizes: {', '.join(sorted(known))}"
            )
    return _REGISTRY[name](**sizes)


def arch_identity(space: SearchSpace, arch: Any) -> np.ndarray:
    """Hash the canonical form, uint32 [2]: folded into the key, the hash gives equal functions equal randomness."""
    text = space.format(space.canonical(arch))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def size_measures(space: SearchSpace, archs: Iterable[Any]) -> np.ndarray:
    """Return MACs and parameters in full (``full_sizes``), [2, A]: blends by rank use them."""
    return np.asarray([space.full_sizes(arch) for arch in archs], float).T


def effective_macs(space: SearchSpace, arch: Any) -> int:
    """Return the MACs of the canonical backbone; 0 for a disconnected network, all of whose work is dead."""
    return space.macs(space.canonical(arch)) if space.is_connected(arch) else 0


def macs_fractions(space: SearchSpace, archs: Iterable[Any]) -> np.ndarray:
    """Return effective MACs over the largest of the space, [A] in [0, 1]: ``alpha`` blends them into scores.

    A network larger than the space's largest (one from a file, of another width) counts as the largest.
    """
    largest = max(space.max_macs(), 1)  # 0 in a family without convolutions and products
    return np.minimum(np.asarray([effective_macs(space, arch) for arch in archs]) / largest, 1.0)


MAX_CHANNELS, MAX_COUNT = 4096, 256  # ten times what any benchmark has, and more than a machine could run


def check_positive(space: SearchSpace) -> None:
    """Check that all sizes of a space are positive integers that a machine could run.

    Numbers of channels and widths are at most 4,096, others (cells, divisors) at most 256.

    Raises:
      ValueError: names the size and its value.
    """
    for field in dataclasses.fields(space):
        if field.type not in ("int", int):
            continue
        value, where = getattr(space, field.name), f"{type(space).__name__}.{field.name}"
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{where}: expected a positive integer, got {quoted(value)}")
        most = MAX_CHANNELS if field.name.endswith(("channels", "width")) else MAX_COUNT
        if value > most:
            raise ValueError(f"{where}: {quoted(value)} is more than any machine could run; at most {most:,}")
