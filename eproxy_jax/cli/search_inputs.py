"""What ``eproxy search`` computes columns with, out of its flags."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import columns as columns_flags
from eproxy_jax.cli import common
from eproxy_jax.cli.common import UsageError

if TYPE_CHECKING:
    from eproxy_jax.fits.columns import Columns
    from eproxy_jax.runs import SavedFit
    from eproxy_jax.runs.search_columns import Inputs
    from eproxy_jax.runs.searching import Growing
    from eproxy_jax.spaces import SearchSpace


@dataclasses.dataclass(frozen=True)
class Sources:
    """What a search computes.

    Attributes:
      inputs: what columns are computed with; None if nothing is.
      cheap: names of the columns of all candidates.
      dear: names of the columns of what can still win.
    """

    inputs: Inputs | None = None
    cheap: tuple[str, ...] = ()
    dear: tuple[str, ...] = ()

    def candidates(
        self, space: SearchSpace, saved: SavedFit | None, with_graph_counts: bool
    ) -> Callable[[Sequence[Any]], Columns]:
        """Return a function of architectures -> the columns that all candidates have."""
        from eproxy_jax.progress import announce
        from eproxy_jax.runs import gathering

        if self.inputs is not None and (self.cheap or saved is not None):
            return self.inputs.candidates(self.cheap, saved, with_graph_counts)
        said: list[str] = []

        def of_space(archs: Sequence[Any]) -> Columns:
            if not said:
                said.append("without --columns and --proxy, only sizes and graph counts tell candidates apart")
                announce(said[0])
            return gathering.of_space(space, [space.parse(arch) for arch in archs], with_graph_counts).columns

        return of_space

    def growing(self, growing: Growing, columns: Columns, share: float) -> Growing:
        """Return how a search grows, with its dear columns.

        Raises:
          ValueError: all candidates have one of them already.
        """
        from eproxy_jax.runs import search_columns

        if not self.dear or (inputs := self.inputs) is None:
            return growing
        search_columns.check_dear(self.dear, columns.names)
        names = list(self.dear)

        def dear_of(archs: Sequence[Any]) -> Columns:
            return inputs.compute(archs, names, search_columns.DEAR_FILE).select(names)

        return dataclasses.replace(growing, dear_of=dear_of, share=share)


def sources(
    arguments: argparse.Namespace,
    overrides: Sequence[str],
    space: SearchSpace,
    workdir: Path,
    saved: SavedFit | None,
) -> Sources:
    """Return what the flags ask to compute.

    Raises:
      UsageError: the configuration has what columns do not read.
      ValueError: an unknown proxy.
    """
    fits = saved is not None and not arguments.columns
    if not (arguments.proxy or arguments.then or fits):
        return Sources()
    from eproxy_jax import columns
    from eproxy_jax.proxies.inputs import NUM_IMAGES
    from eproxy_jax.runs import search_columns

    search_columns.one_process()
    # A fit of Eproxy's columns alone reads 16 images, all other columns 128.
    reads = bool(arguments.proxy or arguments.then) or (saved is not None and saved.reads_images)
    spec = common.run_spec(arguments, overrides, NUM_IMAGES if reads else None)
    if spec.targets or spec.optimizer is not None:
        raise UsageError(
            f"{arguments.config}: config.targets and config.optimizer are for eproxy score: leave them out"
        )
    chosen: list[tuple[str, ...]] = []
    settings: dict[str, Any] = {"": spec.settings}
    for text in (arguments.proxy, arguments.then):
        names, own, _ = ([], {}, []) if text is None else columns_flags.proxies_of(text, spec)
        settings |= own
        chosen.append(tuple(one.name for one in columns.wanted_columns(names, settings)) if text is not None else ())
    num_classes = common.num_classes_of(arguments, spec)
    inputs = search_columns.Inputs(
        space,
        workdir,
        spec.images,
        spec.weight_seed,
        spec.labels,
        num_classes,
        settings,
        common.execution_of(arguments),
        common.command_line(),
    )
    return Sources(inputs, chosen[0], chosen[1])


def saved_fit(arguments: argparse.Namespace) -> SavedFit | None:
    """Read the fit of --settings.

    Raises:
      UsageError: it is no fit of columns.
    """
    if arguments.settings is None:
        return None
    from eproxy_jax import runs

    values = common.read_json(Path(arguments.settings))
    if not common.is_saved_fit(values):
        raise UsageError(
            f"{arguments.settings}: not a fit of eproxy fit; for columns of Eproxy write --proxy eproxy:FILE, or --then"
        )
    try:
        return runs.SavedFit.from_dict(values)
    except ValueError as error:
        raise UsageError(f"{arguments.settings}: {error}") from error


def written(workdir: Path) -> list[Path]:
    """Return the files of columns that a search may write."""
    from eproxy_jax.runs.outputs import record_path

    names = ("columns.jsonl", "fitted.jsonl", "fitted.columns.jsonl", "fitted.bank.jsonl", "dear.jsonl")
    return [path for name in names for path in (workdir / name, record_path(workdir / name))]
