"""The proxies by name: what each needs, where it is from, and which pass over a network computes it.

A pass is a function of one candidate that computes several columns from the same initialisation and the same runs. All
columns of a pass are computed together, so that a value does not depend on what else was asked for. Higher is better in
every column. To add a proxy: one class in a module of this room and one entry here, or :func:`register` from outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from eproxy_jax.errors import check_known, did_you_mean, quoted
from eproxy_jax.proxies.aggregates import AGGREGATES
from eproxy_jax.proxies.fisher_spectrum import FisherSpectrum
from eproxy_jax.proxies.gradients import WeightGradients
from eproxy_jax.proxies.inputs import Inputs
from eproxy_jax.proxies.jacobians import Jacobians
from eproxy_jax.proxies.perturbations import Perturbations
from eproxy_jax.proxies.spectra import Spectra
from eproxy_jax.proxies.synflow import Synflow

NEEDS = ("images", "labels", "noise")  # what a pass can read; without any, it looks at the architecture alone

# (network, key, encoded, inputs) -> a scalar by column. Equal functions share compiled programs.
PassFn = Callable[..., dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Pass:
    """Columns that are computed together.

    Attributes:
      name: unique among passes.
      columns: names of the columns.
      needs: what it reads, out of ``NEEDS``.
      make: number of classes -> function of one candidate, (network, key, encoded, inputs) -> scalars by column. None
        for columns of the architecture alone, which no device computes.
      version: one more each time its values change, so that files of before are not continued with others.
    """

    name: str
    columns: tuple[str, ...]
    needs: tuple[str, ...]
    make: Callable[[int], PassFn] | None
    version: int = 1


@dataclasses.dataclass(frozen=True)
class Proxy:
    """One column. Higher is better.

    Attributes:
      name: its name.
      made_by: the pass that computes it.
      summary: what it measures, in a line.
      source: the paper.
    """

    name: str
    made_by: Pass
    summary: str
    source: str

    @property
    def needs(self) -> tuple[str, ...]:
        """What its own value depends on: images, labels, noise. Its pass may read more, for the columns beside it."""
        return _OWN_NEEDS.get(self.name, self.made_by.needs)


# --- passes --------------------------------------------------------------------------------------------------

BATCH = 64  # images of one run through a network, real ones or noise
_HALF = 32  # of noise of spectra, images of each of zico's batches: they rank networks as with 64
_FEW = 16  # images of zen and swap, as published
REPEATS = 4  # initialisations of zen and swap: they rank networks as the 32 published ones do


@dataclasses.dataclass(frozen=True)
class _OnInputs:
    """A family's function of one candidate, fed from :class:`Inputs`.

    Attributes:
      function: (network, key, encoded, *arrays) -> scalars by column.
      pick: inputs -> the arrays.
    """

    function: Callable[..., dict[str, Array]]
    pick: Callable[[Inputs], tuple[Array, ...]]

    def __call__(self, network: nn.Module, key: Array, encoded: Array, inputs: Inputs) -> dict[str, Array]:
        """Compute the columns of one candidate. Consumes the key."""
        return self.function(network, key, encoded, *self.pick(inputs))


def _labelled(inputs: Inputs) -> tuple[Array, Array]:
    return inputs.images[:BATCH], inputs.labels[:BATCH]


def batches(inputs: Inputs, most: int = BATCH) -> tuple[Array, Array]:
    """Two batches, [2, B, H, W, 3] and [2, B]: the images are split in halves."""
    size = min(most, len(inputs.images) // 2)
    images, labels = inputs.images[: 2 * size], inputs.labels[: 2 * size]
    return images.reshape(2, size, *images.shape[1:]), labels.reshape(2, size)


def _half_batches(inputs: Inputs) -> tuple[Array, Array]:
    return batches(inputs, _HALF)


def _noise(inputs: Inputs) -> tuple[Array]:
    return (inputs.noise[:BATCH],)


def _half_noise(inputs: Inputs) -> tuple[Array]:
    return (inputs.noise[:_HALF],)


def _perturbed(inputs: Inputs) -> tuple[Array, Array]:
    size = min(_FEW, len(inputs.noise) // 2)
    noise = inputs.noise[: 2 * size]
    return noise.reshape(2, size, *noise.shape[1:]), inputs.images[:_FEW]


def _ones(inputs: Inputs) -> tuple[Array]:
    return (jnp.ones_like(inputs.images[:1]),)


_JACOBIANS = ("naswot", "jacov", "epe_nas")
_GRADIENTS = ("grad_norm", "snip", "plain", "l2_norm", "fisher")
# Columns that read less than their pass does.
_OWN_NEEDS = {"naswot": ("images",), "jacov": ("images",), "l2_norm": ()}
_SPECTRA = ("expressivity", "progressivity", "trainability", "entropy_taps", "entropy_last", "num_layers")

PASSES = (
    Pass("sizes", ("params", "macs"), (), None),
    Pass("graph_counts", ("graph_counts",), (), None),
    Pass(
        "jacobians",
        _JACOBIANS,
        ("images", "labels"),
        lambda classes: _OnInputs(Jacobians(_JACOBIANS, classes), _labelled),
        version=2,  # where batch norms come last
    ),
    Pass(
        "spectra",
        _SPECTRA,
        ("noise",),
        lambda classes: _OnInputs(Spectra(_SPECTRA), _half_noise),
        version=2,  # 64 of noise before
    ),
    Pass("synflow", ("synflow",), (), lambda classes: _OnInputs(Synflow(classes), _ones)),
    Pass(
        "gradients",
        _GRADIENTS,
        ("images", "labels"),
        lambda classes: _OnInputs(WeightGradients(_GRADIENTS, classes), batches),
    ),
    Pass(
        "grasp",
        ("grasp",),
        ("images", "labels"),
        lambda classes: _OnInputs(WeightGradients(("grasp",), classes), batches),
    ),
    Pass(
        "zico",
        ("zico",),
        ("images", "labels"),
        lambda classes: _OnInputs(WeightGradients(("zico",), classes), _half_batches),
        version=2,  # 64 images before
    ),
    # 32 repeats before
    Pass("zen", ("zen",), ("noise",), lambda classes: _OnInputs(Perturbations(("zen",), REPEATS), _perturbed), 2),
    Pass("swap", ("swap",), ("images",), lambda classes: _OnInputs(Perturbations(("swap",), REPEATS), _perturbed), 2),
    # eigenvalues of the matrix, with their rounding, before
    Pass("vkdnw", ("vkdnw",), ("noise",), lambda classes: _OnInputs(FisherSpectrum(classes), _noise), 2),
    Pass(
        "norm_spectra",
        ("entropy_norms",),
        ("noise",),
        lambda classes: _OnInputs(Spectra(("entropy_norms",)), _half_noise),
        version=2,  # 64 of noise before
    ),
)

# --- proxies -------------------------------------------------------------------------------------------------

_ABDELFATTAH = "Abdelfattah, Mehrotra, Dudziak, Lane, ICLR 2021"
_AZ_NAS = "Lee, Ham, AZ-NAS, CVPR 2024"
_FACTS = {
    "params": ("trainable parameters of the network without its dead parts", ""),
    "macs": ("multiply-accumulates of the network without its dead parts, one 3x32x32 image", ""),
    "graph_counts": (
        "operations, path lengths and degrees of the graph: a vector",
        "Kadlecová et al., GRAF, ICML 2024",
    ),
    "naswot": ("ln|det| of the agreement of activation patterns of images", "Mellor et al., ICML 2021"),
    "jacov": ("correlations of the images' input Jacobians", f"Mellor et al., 2020; {_ABDELFATTAH}"),
    "epe_nas": ("correlations of input Jacobians within classes", "Lopes, Alirezazadeh, Alexandre, ICANN 2021"),
    "expressivity": ("entropies of the blocks' feature covariances, summed", _AZ_NAS),
    "progressivity": ("least growth of that entropy from block to block", _AZ_NAS),
    "trainability": ("how near the largest gradient gain of blocks is to one", _AZ_NAS),
    "entropy_taps": ("entropies of the feature taps' covariances, summed", "this project"),
    "entropy_last": ("entropy of the last feature tap's covariance", "this project"),
    "entropy_norms": ("mean entropy of the covariances behind batch norms", "this project"),
    "num_layers": ("number of convolutions and linear layers", "Tybl, Neumann, VKDNW, CVPR 2025"),
    "synflow": (
        "ln of the output's flow through the weights, without batch norms",
        f"Tanaka et al., 2020; {_ABDELFATTAH}",
    ),
    "grad_norm": ("norms of the layers' loss gradients, summed", _ABDELFATTAH),
    "snip": ("sum of |weight x gradient|", f"Lee, Ajanthan, Torr, ICLR 2019; {_ABDELFATTAH}"),
    "plain": ("sum of weight x gradient", _ABDELFATTAH),
    "l2_norm": ("norms of the layers' weights, summed", _ABDELFATTAH),
    "fisher": ("Fisher information of channels", f"Turner et al., BlockSwap, ICLR 2020; {_ABDELFATTAH}"),
    "grasp": ("-sum of weight x Hessian x gradient", f"Wang, Zhang, Grosse, ICLR 2020; {_ABDELFATTAH}"),
    "zico": ("mean over deviation of gradients between two batches", "Li et al., ZiCo, ICLR 2023"),
    "zen": ("how far a small change of the input moves the last map", "Lin et al., Zen-NAS, ICCV 2021"),
    "swap": ("number of distinct activation patterns of units", "Peng et al., SWAP-NAS, ICLR 2024"),
    "vkdnw": ("entropy of the Fisher matrix's spectrum", "Tybl, Neumann, VKDNW, CVPR 2025"),
}
_BUILT_IN = {column: Proxy(column, one, *_FACTS[column]) for one in PASSES for column in one.columns}
_own: dict[str, Proxy] = {}

SETS = MappingProxyType(
    {
        # What fits and searches use by default: together at most two plain Eproxy trainings.
        "cheap": ("params", "macs", "graph_counts", *_JACOBIANS, *_SPECTRA, "synflow"),
        "all": tuple(_BUILT_IN),
    }
)
_GROUPS = {**SETS, **AGGREGATES}  # names that stand for several


def names(*, built_in: bool = False) -> tuple[str, ...]:
    """Return the names of all proxies: built-in ones, then your own.

    Args:
      built_in: leave your own out.

    Example:
      >>> "naswot" in names()
      True
    """
    return tuple(_BUILT_IN) if built_in else (*_BUILT_IN, *_own)


def get(name: str) -> Proxy:
    """Look a proxy up.

    Raises:
      ValueError: there is none of that name.

    Example:
      >>> get("jacov").needs
      ('images',)
      >>> get("epe_nas").needs
      ('images', 'labels')
    """
    known = {**_BUILT_IN, **_own}
    if name not in known:
        every = [*_GROUPS, "eproxy", *known]
        raise ValueError(f"unknown proxy {quoted(name)}{did_you_mean(name, every)}; known: {', '.join(every)}")
    return known[name]


def resolve(wanted: Sequence[str] | str) -> tuple[Proxy, ...]:
    """Return the proxies of a list of names, each once; names of ``SETS`` and ``AGGREGATES`` stand for their members.

    Args:
      wanted: names, or one text with commas between them.

    Raises:
      ValueError: an unknown name, or none at all.

    Example:
      >>> [proxy.name for proxy in resolve("naswot,macs")]
      ['naswot', 'macs']
    """
    listed = [part.strip() for part in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
    found = dict.fromkeys(name for part in listed if part for name in (_GROUPS.get(part) or (part,)))
    if not found:
        raise ValueError(f"no proxy given; known: {', '.join([*_GROUPS, *names()])}")
    return tuple(get(name) for name in found)


# Names that mean something else where columns are asked for or written.
_TAKEN = ("arch", "eproxy", "macs_as_written", "made_with", "params_as_written", "run", "status")

# --- a user's own --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Own:
    """A user's function as a pass of one column.

    Attributes:
      name: of the column.
      function: (network, key, encoded, inputs) -> scalar.
      sign: 1, or -1 where lower is better.
    """

    name: str
    function: Callable[..., Any]
    sign: int

    def __call__(self, network: nn.Module, key: Array, encoded: Array, inputs: Inputs) -> dict[str, Array]:
        """Compute the column of one candidate. Consumes the key."""
        value = jnp.asarray(self.function(network, key, encoded, inputs))
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.number):
            raise ValueError(f"proxy {quoted(self.name)}: expected a number, got shape {value.shape}, {value.dtype}")
        return {self.name: self.sign * value.astype(inputs.images.dtype)}


def register(
    name: str,
    function: Callable[..., Any],
    *,
    higher_is_better: bool = True,
    needs: Sequence[str] = NEEDS,
    summary: str = "",
    source: str = "",
) -> None:
    """Add a proxy of your own, for ``ep.score(..., proxy=name)``; a name registered before is replaced.

    Args:
      name: its name: letters, digits, ``_``, ``-``, ``.``.
      function: (network, key, encoded, inputs) -> scalar, traceable by JAX. ``network.init/apply(images, encoded,
        init)`` gives feature taps, last stage first; ``inputs`` is an :class:`~eproxy_jax.proxies.inputs.Inputs`.
      higher_is_better: if false, the column holds the function's negative.
      needs: what it reads, out of ``NEEDS``.
      summary: what it measures, in a line.
      source: the paper.

    Raises:
      ValueError: the name is taken by a built-in proxy or cannot be written on a command line.

    Example:
      >>> def last_mean(network, key, encoded, inputs):
      ...     return jnp.mean(network.init_with_output(key, inputs.images[:4], encoded)[0][0])
      >>> register("last_mean", last_mean)
      >>> names()[-1]
      'last_mean'
    """
    if not name or not all(letter.isalnum() or letter in "_-." for letter in name):
        raise ValueError(f"proxy {quoted(name)}: expected a name of letters, digits, '_', '-' and '.'")
    if name in _BUILT_IN or name in _GROUPS or name in _TAKEN:
        raise ValueError(f"proxy {quoted(name)}: the name is taken by a built-in one; choose another")
    check_known(needs, NEEDS, f"proxy {quoted(name)}: needs", "input")
    own = _Own(name, function, 1 if higher_is_better else -1)
    _own[name] = Proxy(name, Pass(name, (name,), tuple(needs), lambda classes: own), summary, source)
