"""This module reads configurations and turns them into frozen specs.

A configuration is an ``ml_collections.ConfigDict`` with the fields of :func:`default_config`. The files in ``configs/``
return one. The command line reads it, and hands only the specs of :func:`build` to the library.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import optax
from ml_collections import config_dict
from ml_collections.config_flags import config_path

from eproxy_jax import images, scoring, spaces
from eproxy_jax.dps.evolution import SearchSpec
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.errors import check_known, check_seed, did_you_mean, one_line, quoted
from eproxy_jax.files import existing
from eproxy_jax.image_files import loading
from eproxy_jax.targets import check_features
from eproxy_jax.types import ProxySettings


def default_config(space: str = "nasbench201") -> Any:
    """Return the configuration of plain Eproxy at the paper's size.

    Args:
      space: registry name.

    Returns:
      A locked ``ConfigDict`` with these fields:

      * ``space``: registry name.
      * ``sizes``: fields of the space.
      * ``settings``: see ``ProxySettings``.
      * ``images``: ``source`` (a generator's name or a path), ``num``, ``size`` in pixels (generators and image files),
        ``seed`` of the draw (files only).
      * ``weight_seed``: seed of weights, targets and barrier.
      * ``targets``: features of your own, functions by name, see ``ep.score``.
      * ``optimizer``: an optax transformation instead of SGD, or None.
      * ``dps``: fields of ``SearchSpec``, and ``genes``, fields of ``GeneTable``.

    Raises:
      ValueError: unknown space.
    """
    sizes = dataclasses.asdict(spaces.get(space))
    settings = ProxySettings().to_dict()
    for branch in settings["branches"]:
        branch["features"] = tuple(branch["features"])  # the command line can override tuples, but not lists
    config = ml_collections.ConfigDict(
        {
            "space": space,
            "sizes": sizes,
            "settings": settings,
            "images": {
                "source": images.DEFAULT_KIND,
                "num": images.BATCH_SIZE,
                "size": images.IMAGE_SIZE,
                "seed": 0,
            },
            "weight_seed": 0,
            "targets": {},
            "optimizer": config_dict.placeholder(object),
            "dps": {**_search_defaults(), "genes": _as_tuples(GeneTable().to_dict())},
        }
    )
    config.lock()
    return config


def _search_defaults() -> dict[str, Any]:
    values = dataclasses.asdict(SearchSpec())
    del values["num_steps"]  # a field of the settings
    return values


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples, which the command line can override."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


VARIANTS = ("paper", "small", "smoke")


def variant_config(
    space: str, variant: str, small: dict[str, Any], smoke: dict[str, Any], small_image_size: int | None = None
) -> Any:
    """Return one size of a space's configuration.

    ``paper`` is the paper's size, ``small`` allows a search on two cores, and ``smoke`` takes seconds.

    Args:
      space: registry name.
      variant: one of ``VARIANTS``.
      small: fields of the space at size ``small``.
      smoke: fields of the space at size ``smoke``.
      small_image_size: pixels at size ``small``; the paper's if absent.

    Raises:
      ValueError: unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {quoted(variant)}; known: {', '.join(VARIANTS)}")
    config = default_config(space)
    (branch,) = config.settings.branches
    if variant == "small":
        config.sizes.update(small)
        config.images.size = small_image_size or config.images.size
        branch["transform_channels"] = 256
        narrow_genes(config, kernels=(1, 3), channels=(16, 32, 64, 128, 256))
    if variant == "smoke":
        config.sizes.update(smoke)
        config.images.size = 8
        branch["transform_channels"] = branch["target_channels"] = 16
        narrow_genes(config, kernels=(1, 3), channels=(4, 8, 16))
    return config


def narrow_genes(config: Any, kernels: tuple[int, ...], channels: tuple[int, ...]) -> None:
    """Restrict the genes of a configuration for a small machine, and add the initialisers of plain settings.

    Args:
      config: changed in place.
      kernels: choices of both kernel sizes.
      channels: choices of ``transform_channels``; ``target_channels`` has all but the last.
    """
    genes = config.dps.genes
    genes.transform_kernel = genes.barrier_kernel = kernels
    genes.transform_channels, genes.target_channels = channels, channels[:-1]
    for name in ("network_init", "barrier_init"):
        genes[name] = ("default", *genes[name])


def load_config(source: str, overrides: Sequence[str] = ()) -> Any:
    """Read a configuration file and apply overrides.

    Args:
      source: ``PATH`` or ``PATH:VARIANT``; the file defines ``get_config(variant)``.
      overrides: ``--config.FIELD=VALUE`` texts.

    Returns:
      The locked configuration.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file fails, or an override names no field or has the wrong type.
    """
    path, variant = source, []
    if not Path(source).is_file() and ":" in source:
        path, _, name = source.rpartition(":")
        variant = [name]
    if not Path(path).exists():
        raise FileNotFoundError(f"no configuration file at {quoted(path)}")
    existing(path, "configuration file")
    try:
        config = _module(Path(path)).get_config(*variant)
    except (Exception, SystemExit) as error:  # any error of a user's file becomes one line
        place = _place_in(path, error)
        raise ValueError(f"configuration {source}: {type(error).__name__}{place}: {one_line(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"configuration {source}: get_config returns {quoted(config)}: expected the ConfigDict of "
            "eproxy_jax.cli.config.default_config, changed at will"
        )
    for text in overrides:
        field, _, value = text.removeprefix("--config.").partition("=")
        where = f"configuration {source}: --config.{quoted(field)[1:-1]}"
        try:
            current = config_path.get_value(field, config)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: no such field: {one_line(error, 300)}") from error
        parsed = _parsed(field, value, current)
        try:
            config_path.set_value(field, config, parsed)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: cannot be set: {one_line(error, 300)}") from error
    return config


def _place_in(path: str, error: BaseException) -> str:
    """Return `` (line N)``, where the user's file raised the error, or an empty string."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""


def _module(path: Path) -> Any:
    """Load a configuration file as a new module. It stays in ``sys.modules``, so that its classes have a source."""
    name = f"eproxy_config_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))  # whatever the file's suffix
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _parsed(field: str, text: str, current: Any) -> Any:
    """Parse the value of an override to the type of its field.

    Raises:
      ValueError: the value has another type.
    """
    if isinstance(current, str):
        return text
    try:
        value = {"true": True, "false": False}[text] if text in ("true", "false") else ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = text
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else value
    if isinstance(current, tuple) and isinstance(value, list):
        value = tuple(value)
    if current is not None and type(value) is not type(current):
        raise ValueError(
            f"--config.{quoted(field)[1:-1]}: expected {type(current).__name__} such as {quoted(current)}, "
            f"got {quoted(text)}"
        )
    return value


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """The frozen specs of a configuration.

    Attributes:
      space: the search space.
      settings: the proxy's settings.
      images: [B, H, W, 3], not yet standardised.
      weight_seed: seed of the key.
      targets: features of your own by name.
      optimizer: replaces SGD; None for SGD.
      genes: the gene table of a search.
      search: sizes and rates of a search.
      labels: [B], class of each image, if they were asked for and the images have any.
      num_classes: how many classes there are; None without labels.
    """

    space: spaces.SearchSpace
    settings: ProxySettings
    images: Any
    weight_seed: int
    targets: scoring.Targets
    optimizer: optax.GradientTransformation | None
    genes: GeneTable
    search: SearchSpec
    labels: Any = None
    num_classes: int | None = None


def space_of_config(config: ml_collections.ConfigDict) -> spaces.SearchSpace:
    """Return the search space of a configuration.

    Raises:
      ValueError: a missing, unknown or bad field.
    """
    values = config.to_dict()
    for name in ("space", "sizes"):
        if name not in values:
            raise ValueError(f"config: field '{name}' is missing; see eproxy_jax.cli.config.default_config")
    if not isinstance(values["space"], str):
        raise ValueError(f"config.space: expected a registry name, got {quoted(values['space'])}")
    if not isinstance(values["sizes"], dict):
        raise ValueError(f"config.sizes: expected fields by name, got {quoted(values['sizes'])}")
    return spaces.get(values["space"], **values["sizes"])


def build(config: ml_collections.ConfigDict, num_labelled: int | None = None) -> RunSpec:
    """Turn a configuration into frozen specs and images.

    Args:
      config: the configuration.
      num_labelled: read that many images, whatever ``config.images.num`` says, and their labels.

    Raises:
      FileNotFoundError: the images are a path that does not exist.
      ValueError: a missing, unknown or bad field.
    """
    values = config.to_dict()
    expected = default_config().to_dict()
    check_known(values, expected, "config")
    for name in expected:
        if name not in values:
            raise ValueError(f"config: field '{name}' is missing; see eproxy_jax.cli.config.default_config")
    for name, value in expected.items():
        if isinstance(value, dict) and not isinstance(values[name], dict):
            raise ValueError(f"config.{name}: expected fields by name, got {quoted(values[name])}")
    space = space_of_config(config)
    settings = ProxySettings.from_dict(values["settings"])
    seed = check_seed(values["weight_seed"], "config.weight_seed")
    genes, search = _search(dict(values["dps"]), settings.num_steps)
    targets, optimizer = values["targets"], values["optimizer"]
    if not all(callable(function) for function in targets.values()):
        raise ValueError(f"config.targets: expected functions by name, got {quoted(targets)}")
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ValueError(f"config.optimizer: expected an optax transformation, got {quoted(optimizer)}")
    check_features(settings, targets)
    batch = _images(values["images"], expected["images"], num_labelled)
    classes = batch.labels, batch.num_classes
    return RunSpec(space, settings, batch.images, seed, targets, optimizer, genes, search, *classes)


def _search(values: dict[str, Any], num_steps: int) -> tuple[GeneTable, SearchSpec]:
    genes = GeneTable.from_dict(values.pop("genes", {}))
    check_known(values, _search_defaults(), "config.dps")
    return genes, SearchSpec(**values, num_steps=num_steps)


def _images(values: dict[str, Any], expected: dict[str, Any], num_labelled: int | None) -> loading.LabelledImages:
    check_known(values, expected, "config.images")
    values = {**expected, **values}
    for name, least, most in (("num", 2, 100_000), ("size", 4, 4096)):
        if not isinstance(values[name], int) or not least <= values[name] <= most:
            raise ValueError(
                f"config.images.{name}: expected an integer from {least} to {most}, got {quoted(values[name])}"
            )
    seed = check_seed(values["seed"], "config.images.seed")
    source, size = str(values["source"]), values["size"]
    num = values["num"] if num_labelled is None else num_labelled
    if source in images.GENERATORS:
        return loading.LabelledImages(np.asarray(images.default_images(source, num, size)), None, None)
    try:
        if num_labelled is not None:
            return loading.load_labelled(source, num, seed, size)
        return loading.LabelledImages(loading.load_images(source, num, seed, size), None, None)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"images {quoted(source)}: neither a path nor one of {', '.join(images.GENERATORS)}"
            f"{did_you_mean(source, images.GENERATORS)}"
        ) from None
