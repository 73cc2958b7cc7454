"""This module turns a list of architectures into columns: one number of each proxy for each architecture.

Data flows one way: strings -> canonical architectures -> passes -> device programs -> columns. A value depends on
(architecture, proxy, inputs, key) only: not on what else is computed, on order, chunks or device count.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from eproxy_jax import proxy as eproxy
from eproxy_jax import scoring, spaces
from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.execution.evaluation import Evaluation, identity_of
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import Networks, distinct_networks, parse_all
from eproxy_jax.images import BATCH_SIZE, batch_identity, default_images, standardize
from eproxy_jax.jsonlines import fingerprint
from eproxy_jax.proxies import graph_counts, registry, requirements
from eproxy_jax.proxies.inputs import DEFAULT_CLASSES, Inputs, make_inputs
from eproxy_jax.sources import source_fingerprint
from eproxy_jax.types import STATUS_DISCONNECTED, STATUS_OK, ProxySettings, ScoreResult

if TYPE_CHECKING:
    from jaxtyping import Float64, Int, Int64, Key, Num

EPROXY = "eproxy"  # the column of plain Eproxy; ``eproxy:NAME`` is that of other settings
EPROXY_SUMMARY = "minus the loss after ten steps with a frozen barrier layer; eproxy:FILE with other settings"
EPROXY_SOURCE = "Li et al., Eproxy, NeurIPS 2022"
PORTFOLIO = "portfolio"  # the name of a set: a column ``eproxy:portfolio#NUMBER`` for each of its settings
RANDOM_LABELS = "random: the images have none"  # what a record says of them


def portfolio() -> dict[str, ProxySettings]:
    """Return the settings whose losses add most to the cheap columns, by name, the most useful first.

    They were chosen one by one, by the gain of a fit with 20 labels on NAS-Bench-201 with CIFAR-10 alone, at the size
    ``small`` of its configuration. ``ep.score(..., proxy="cheap,portfolio")`` computes their columns.

    Source: benchmarks/portfolio.py.

    Example:
      >>> list(portfolio())[:2]
      ['portfolio#0', 'portfolio#1']
    """
    text = importlib.resources.files("eproxy_jax").joinpath("found", "portfolio.json").read_text()
    members = json.loads(text)["members"]
    return {f"{PORTFOLIO}#{i}": ProxySettings.from_dict(member["settings"]) for i, member in enumerate(members)}


@dataclasses.dataclass(frozen=True)
class Column:
    """A column to compute.

    Attributes:
      name: its name.
      made_by: the pass that computes it.
      settings: of Eproxy, where that is the proxy.
    """

    name: str
    made_by: registry.Pass
    settings: ProxySettings | None = None


def wanted_columns(names: Sequence[str] | str, settings: Mapping[str, ProxySettings] | None = None) -> list[Column]:
    """Return the columns of a list of proxies, in that order, each once.

    Args:
      names: names of proxies, sets and aggregates, or one text with commas between them. ``eproxy`` is Eproxy with
        plain settings or those of ``settings[""]``; ``eproxy:NAME`` has those of ``settings[NAME]``. ``portfolio`` is
        a column of Eproxy for each setting of :func:`portfolio`.
      settings: settings by name. ``all`` has Eproxy with each of them.

    Raises:
      ValueError: an unknown name, or none at all.
    """
    settings = {"": ProxySettings(), **(settings or {})}
    own = {EPROXY if name == "" else f"{EPROXY}:{name}": value for name, value in settings.items()}
    listed = [part.strip() for part in names.split(",")] if isinstance(names, str) else list(names)
    found: dict[str, Column] = {}
    for part in filter(None, listed):
        if part in own:
            found[part] = _eproxy_column(part, own[part])
        elif part == PORTFOLIO:
            found |= {(one := f"{EPROXY}:{name}"): _eproxy_column(one, value) for name, value in portfolio().items()}
        elif part.startswith(f"{EPROXY}:"):
            raise ValueError(f"proxy {quoted(part)}: no settings of that name{did_you_mean(part, own)}")
        else:
            found |= {one.name: Column(one.name, one.made_by) for one in registry.resolve([part])}
            if part == "all":
                found |= {name: _eproxy_column(name, value) for name, value in own.items()}
    if not found:
        registry.resolve([])  # says what there is
    return list(found.values())


def _eproxy_column(name: str, settings: ProxySettings) -> Column:
    return Column(name, registry.Pass(name, (name,), ("images",), None), settings)


@dataclasses.dataclass(frozen=True)
class ColumnJob:
    """The arguments of a run except its architectures.

    Attributes:
      space: the search space.
      key: key of weights, noise, random labels, targets and barriers.
      inputs: images, labels and noise.
      num_classes: K.
      images: [B, H, W, 3] of Eproxy, not yet standardised; None for the embedded batch.
      execution: devices and execution form.
      has_labels: False if the labels of ``inputs`` are random.
    """

    space: spaces.SearchSpace
    key: Array | int
    inputs: Inputs
    num_classes: int
    images: Any
    execution: Execution
    has_labels: bool = False

    @classmethod
    def of(
        cls,
        space: spaces.SearchSpace | str,
        images: Any = None,
        labels: Any = None,
        num_classes: int | None = None,
        key: Array | int = 0,
        execution: Execution | None = None,
    ) -> ColumnJob:
        """Check the arguments of :func:`score` and prepare what candidates share.

        Raises:
          ValueError: bad images or labels, an unknown space.
        """
        space = spaces.get(space) if isinstance(space, str) else space
        if num_classes is None:
            num_classes = DEFAULT_CLASSES if labels is None else max(int(np.max(labels)) + 1, 2)
        inputs = make_inputs(eproxy.typed_key(key), images, labels, num_classes)
        few = None if images is None else np.asarray(images)[:BATCH_SIZE]
        execution = Execution.of() if execution is None else execution
        return cls(space, key, inputs, num_classes, few, execution, labels is not None)

    def check(self, columns: Sequence[Column], archs: Sequence[Any]) -> None:
        """Check that the space can serve columns, before anything runs: trace network and passes of one architecture.

        Args:
          columns: the columns.
          archs: canonical, connected architectures.

        Raises:
          ValueError: one cannot be computed; the message holds the proxy's name.
        """
        if not archs:
            return
        built_in = [column.name for column in columns if column.made_by in registry.PASSES]
        if any(name in requirements.NEEDED for name in built_in):
            group = self.space.group(archs[0])
            encoded = jnp.asarray(group.encode([archs[0]])[0])
            network = group.universal(self.inputs.images.dtype)
            lacks = requirements.lacking(built_in, requirements.marks_of(network, encoded, self.inputs.images[:2]))
            if lacks:
                proxies, what = ", ".join(map(quoted, lacks)), requirements.message(lacks, self.space.name)
                raise ValueError(f"proxy {proxies}, space {self.space.name}: {what}")
        for column in {column.made_by.name: column for column in columns}.values():
            own = column.made_by not in registry.PASSES
            if column.settings is not None or (evaluation := self.evaluation(column)) is None:
                continue
            try:
                evaluation.structure(archs[0])
            except Exception as error:  # a user's function may raise anything
                if not own and not isinstance(error, ValueError):
                    raise
                what = f"{type(error).__name__}: " if own and not isinstance(error, ValueError) else ""
                raise ValueError(f"proxy {quoted(column.name)}, space {self.space.name}: {what}{error}") from error

    def identity(self) -> dict[str, Any]:
        """Return, as plain data, all that columns depend on besides architectures, and :meth:`identity_of`."""
        labels = fingerprint({"labels": np.asarray(self.inputs.labels).tolist()}) if self.has_labels else RANDOM_LABELS
        found = identity_of(self.space, self.key, self.execution)
        if self.execution.auto_width:  # each pass has the width that its memory allows
            found["form"] = found["form"].replace(str(self.execution.vmap_width), "auto", 1)
        images = batch_identity(self.inputs.images)
        return {**found, "images": images, "labels": labels, "num_classes": self.num_classes}

    def identity_of(self, column: Column, archs: Sequence[Any]) -> dict[str, Any]:
        """Return what one column depends on besides: Eproxy's settings and images, a source, a version.

        Args:
          column: the column.
          archs: all architectures of the run, canonical; the width of batches may depend on them.
        """
        found: dict[str, Any] = {}
        if column.settings is not None:
            images = standardize(default_images() if self.images is None else self.images)
            found = {"settings": column.settings.to_dict(), "images": batch_identity(images)}
        elif column.made_by.make is not None and column.made_by not in registry.PASSES:
            found = {"source": source_fingerprint(column.made_by.make(self.num_classes))}
        elif column.made_by.version > 1:
            found = {"version": column.made_by.version}
        if self.execution.auto_width and (evaluation := self.evaluation(column)) is not None:
            found["form"] = evaluation.widened(archs).execution.label
        return found

    def evaluation(self, column: Column) -> Evaluation | None:
        """Return the evaluation of a column's pass; None if no device computes it."""
        if column.settings is not None:
            return scoring.make_job(self.space, column.settings, self.images, self.key, self.execution).evaluation
        if column.made_by.make is None:
            return None
        fn = column.made_by.make(self.num_classes)
        shared, dtype = (self.inputs,), self.inputs.images.dtype
        return Evaluation.of(fn, self.space, eproxy.typed_key(self.key), shared, self.execution, dtype)

    def run(
        self,
        column: Column,
        archs: Sequence[Any],
        compiled: Callable[[float], None] | None = None,
        among: Sequence[Any] | None = None,
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Compute all columns of a column's pass for canonical, distinct, connected architectures, chunk by chunk.

        Args:
          column: any column of the pass.
          archs: the architectures.
          compiled: called after each compilation, with the seconds spent waiting for it.
          among: all architectures of the run, if ``archs`` are some of them: batches have the width for all.

        Yields:
          (positions [n] in ``archs``, float64 [n] or [n, F] by column). Values that are not finite are -inf, the worst.
        """
        evaluation = self.evaluation(column)
        if evaluation is None:
            yield np.arange(len(archs)), _of_architecture(column.made_by, self.space, archs)
            return
        for positions, values in evaluation.widened(archs if among is None else among).run(archs, compiled):
            if column.settings is not None:
                values = {column.name: -np.asarray(values, np.float64)[:, -1]}
            yield positions, {name: _worst_last(value) for name, value in values.items()}


def _worst_last(values: Any) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def _of_architecture(made_by: registry.Pass, space: spaces.SearchSpace, archs: Sequence[Any]) -> dict[str, np.ndarray]:
    """Compute columns that need no device."""
    if made_by.name == "graph_counts":
        return {"graph_counts": graph_counts.graph_counts(space, archs)}
    return {
        "params": np.asarray([space.params(arch) for arch in archs], np.float64),
        "macs": np.asarray([space.macs(arch) for arch in archs], np.float64),
    }


@dataclasses.dataclass(frozen=True)
class ColumnsResult:
    """The columns of a list of architectures, in the order given.

    Attributes:
      archs: the architectures' strings, length A.
      columns: float64 [A] by name, higher is better; [A, F] for a vector such as ``graph_counts``. ``-inf`` is the
        worst: a value that is not defined, such as that of a disconnected network.
      macs: [A] int64, multiply-accumulates of the backbone as written for one 3x32x32 image, dead edges included.
      params: [A] int64, trainable parameters of the backbone as written.
      status: length A: ``"ok"``, or ``"disconnected"`` for a network whose output never depends on the image.
      seconds: {"compile": ..., "run": ...} by pass, s.
    """

    archs: tuple[str, ...]
    columns: dict[str, Float64[np.ndarray, "A ..."]]
    macs: Int[np.ndarray, " A"]
    params: Int[np.ndarray, " A"]
    status: tuple[str, ...]
    seconds: dict[str, dict[str, float]]

    def ranking(self, column: str) -> Int64[np.ndarray, " A"]:
        """Return the indices from best to worst by a column, [A]; disconnected networks last, equal values as given.

        Raises:
          ValueError: no such column, or one of vectors.
        """
        if (values := self.scalars().get(column)) is None:
            raise ValueError(f"no column {quoted(column)} of numbers{did_you_mean(column, self.scalars())}")
        return np.lexsort((-values, np.asarray(self.status) == STATUS_DISCONNECTED))

    def scalars(self) -> dict[str, Float64[np.ndarray, " A"]]:
        """Return the columns that hold a number for each architecture; ``graph_counts`` holds a vector."""
        return {name: column for name, column in self.columns.items() if column.ndim == 1}

    def select(self, positions: Sequence[int]) -> ColumnsResult:
        """Return the result of the architectures at some positions, in that order."""
        where = np.asarray(positions, np.int64)
        return ColumnsResult(
            archs=tuple(self.archs[i] for i in where),
            columns={name: column[where] for name, column in self.columns.items()},
            macs=self.macs[where],
            params=self.params[where],
            status=tuple(self.status[i] for i in where),
            seconds=self.seconds,
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict for each architecture, as ``pandas.DataFrame`` takes them: ``arch``, columns, ``status``."""
        values = {name: column.tolist() for name, column in self.columns.items()}
        return [
            {"arch": arch, **{name: column[i] for name, column in values.items()}, "status": self.status[i]}
            for i, arch in enumerate(self.archs)
        ]


def spread(networks: Networks, rows: np.ndarray) -> np.ndarray:
    """Return the values [D, ...] of distinct networks in the order of a list, [A, ...]; -inf where disconnected."""
    found = np.full((len(networks.archs), *rows.shape[1:]), -np.inf)
    found[networks.connected] = rows[networks.index[networks.connected]]
    return found


def result_of(
    job: ColumnJob,
    networks: Networks,
    columns: dict[str, np.ndarray],
    seconds: dict[str, dict[str, float]],
) -> ColumnsResult:
    """Put columns of architectures, [A] or [A, F] each, together with what is known without them."""
    space = job.space
    return ColumnsResult(
        archs=tuple(space.format(arch) for arch in networks.archs),
        columns=columns,
        macs=np.asarray([space.macs(arch) for arch in networks.archs], np.int64),
        params=np.asarray([space.params(arch) for arch in networks.archs], np.int64),
        status=tuple(STATUS_OK if ok else STATUS_DISCONNECTED for ok in networks.connected.tolist()),
        seconds=seconds,
    )


def compute(
    job: ColumnJob,
    columns: Sequence[Column],
    networks: Networks,
    progress: Callable[[int, int], None] | None = None,
) -> ColumnsResult:
    """Compute columns of a list of architectures.

    Args:
      job: what candidates share.
      columns: the columns.
      networks: the networks of the list.
      progress: called with (networks done, networks in total), counted once for each pass.
    """
    job.check(columns, networks.distinct)
    passes = {column.made_by.name: column for column in columns}
    total, done = len(passes) * len(networks.distinct), 0
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, dict[str, float]] = {}
    for name, column in passes.items():
        compiled: list[float] = []
        start = time.perf_counter()
        for positions, values in job.run(column, networks.distinct, compiled.append):
            for one, rows in values.items():
                whole = found.setdefault(one, np.full((len(networks.distinct), *rows.shape[1:]), -np.inf))
                whole[positions] = rows
            done += len(positions)
            if progress is not None:
                progress(done, total)
        spent = time.perf_counter() - start
        seconds[name] = {"compile": sum(compiled), "run": spent - sum(compiled)}
    values = {
        column.name: spread(networks, found.get(column.name, np.zeros((len(networks.distinct),)))) for column in columns
    }
    return result_of(job, networks, values, seconds)


@overload
def score(
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = ...,
    settings: ProxySettings | None = ...,
    images: Num[Array | np.ndarray, "B H W 3"] | None = ...,
    key: Key[Array, ""] | int = ...,
    *,
    proxy: None = ...,
    labels: None = ...,
    num_classes: None = ...,
    targets: scoring.Targets | None = ...,
    optimizer: optax.GradientTransformation | None = ...,
    execution: Execution | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> ScoreResult: ...


@overload
def score(
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = ...,
    settings: ProxySettings | None = ...,
    images: Num[Array | np.ndarray, "B H W 3"] | None = ...,
    key: Key[Array, ""] | int = ...,
    *,
    proxy: Sequence[str] | str,
    labels: Int[Array | np.ndarray, " B"] | Sequence[int] | None = ...,
    num_classes: int | None = ...,
    targets: None = ...,
    optimizer: None = ...,
    execution: Execution | None = ...,
    progress: Callable[[int, int], None] | None = ...,
) -> ColumnsResult: ...


def score(
    archs: Sequence[Any],
    space: spaces.SearchSpace | str = "nasbench201",
    settings: ProxySettings | None = None,
    images: Num[Array | np.ndarray, "B H W 3"] | None = None,
    key: Key[Array, ""] | int = 0,
    *,
    proxy: Sequence[str] | str | None = None,
    labels: Int[Array | np.ndarray, " B"] | Sequence[int] | None = None,
    num_classes: int | None = None,
    targets: scoring.Targets | None = None,
    optimizer: optax.GradientTransformation | None = None,
    execution: Execution | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ScoreResult | ColumnsResult:
    """Compute the Eproxy scores of a list of architectures, or columns of other proxies.

    A value depends on (architecture, proxy, settings, images, labels, key) only: not on order, duplicates, chunking,
    device count, or what else is computed. Architectures that compute the same function are run once and get equal
    values. Disconnected networks, whose output never depends on the image, are not run and rank last. ``ep.runs.score``
    and ``ep.runs.score_columns`` do the same into a file, and resume after a kill.

    Args:
      archs: architectures in any notation that ``space.parse`` reads.
      space: a search space or its registry name.
      settings: of Eproxy; plain ones by default.
      images: [B, H, W, 3], H = W divisible by 4, which the function standardises. Defaults to images made by code: 16
        for Eproxy, 128 for the other proxies. Of more than 16, Eproxy as a column trains on the first 16.
      key: typed key, or an integer seed for one.
      proxy: names out of ``ep.proxies.names()``, ``eproxy``, or a set (``cheap``, ``all``), as a list or as one text
        with commas. By default, Eproxy alone.
      labels: [B], class of each image, 0 to K - 1, for the proxies that need it; random ones by default.
      num_classes: K; by default one more than the largest label, or 10.
      targets: features of your own by name, for the settings' ``features``: functions (key, images, channels) ->
        [B, 8, 8, channels]. Not with ``proxy``.
      optimizer: an optax transformation that replaces the settings' SGD. Not with ``proxy``.
      execution: devices and execution form, see :class:`Execution`; all devices by default.
      progress: called with (networks done, networks in total) after each chunk; with ``proxy``, each pass counts.

    Returns:
      A ``ScoreResult`` in the order of ``archs``; with ``proxy``, a ``ColumnsResult``.

    Raises:
      ValueError: an unreadable architecture (with its position), an empty list, bad images or labels, an unknown
        feature or proxy, an argument that goes with the other form only.

    Example:
      >>> space = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
      >>> score([[[3], [0, 3], [1, 0, 3]]], space, proxy="macs").columns["macs"]
      array([501760.])
    """
    if proxy is None:
        if labels is not None or num_classes is not None:
            raise ValueError("labels, num_classes: Eproxy reads none; they are for proxy=...")
        return scoring.score(
            archs,
            space,
            settings,
            images,
            key,
            targets=targets,
            optimizer=optimizer,
            execution=execution,
            progress=progress,
        )
    if targets is not None or optimizer is not None:
        raise ValueError("targets, optimizer: not with proxy=...; leave proxy out")
    columns = wanted_columns(proxy, None if settings is None else {"": settings})
    job = ColumnJob.of(space, images, labels, num_classes, key, execution)
    networks = distinct_networks(parse_all(archs, job.space), job.space)
    job.check(list({column.made_by.name: column for column in columns}.values()), networks.distinct)
    return compute(job, columns, networks, progress)
