"""``eproxy score --settings`` with a fit of ``eproxy fit``: it computes the fit's columns, then ranks by the fit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import common

if TYPE_CHECKING:
    from eproxy_jax.runs.hosts import Process


def run(arguments: argparse.Namespace, overrides: Sequence[str], values: dict[str, Any]) -> int:
    """Compute the columns that the fit needs, print tables, and return the exit status.

    Args:
      arguments: the flags.
      overrides: of the configuration.
      values: the content of --settings.
    """
    from eproxy_jax import runs
    from eproxy_jax.proxies.inputs import NUM_IMAGES
    from eproxy_jax.runs import columns as columns_lib
    from eproxy_jax.runs import outputs, printed, ranking

    try:
        saved = runs.SavedFit.from_dict(values)
    except ValueError as error:
        raise common.UsageError(f"{arguments.settings}: {error}") from error
    for text in overrides:
        if text.startswith("--config.settings."):
            raise common.UsageError(f"{text.partition('=')[0]}: the settings are those of the fit: leave it out")
    spec = common.run_spec(arguments, overrides, NUM_IMAGES if saved.reads_images else None)
    archs = common.architectures(arguments, spec.space)

    def written(out: Path, process: Process) -> list[Path]:
        columns = columns_lib.written_files(ranking.columns_path(out), process)
        return [out, ranking.bank_path(out), outputs.record_path(out), *columns]

    out, figure, process = common.destination_of(arguments, "scores.jsonl", written, arguments.truth is not None)
    truth = None if arguments.truth is None else common.match_truth(arguments, archs, spec.space).values
    num_classes = common.num_classes_of(arguments, spec)
    ranked = runs.rank(
        saved,
        archs,
        spec.space,
        spec.images,
        spec.weight_seed,
        labels=spec.labels,
        num_classes=saved.made_with.get("num_classes") if num_classes is None else num_classes,
        columns=arguments.columns,
        out=out,
        execution=common.execution_of(arguments),
        process=process,
        wait=arguments.wait,
        command=common.command_line(),
    )
    if ranked is None:
        return 0
    print(printed.fitted_table(ranked, arguments.top, truth))
    if truth is not None:
        rows = printed.fitted_rows(ranked, truth)
        print()
        print(printed.quality_table(rows))
        if figure is not None:
            title = f"{spec.space.name}, {len(archs)} architectures"
            print(common.draw(figure, lambda: printed.quality_plot(figure, rows, title, out)))
    print()
    print(f"scores:  {out}")
    print(f"columns: {ranking.columns_path(out)}")
    return 0
