"""``eproxy score --proxy`` computes columns of any proxies into a resumable file, and compares them with the truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eproxy_jax.cli import common

if TYPE_CHECKING:
    from eproxy_jax.cli.config import RunSpec

_FILE = "eproxy:"  # in front of a file of settings
_WITH_EPROXY = {"eproxy", "all"}  # names that ask for Eproxy with the configuration's settings


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --proxy and --num-classes."""
    group = parser.add_argument_group("columns of any proxies, instead of Eproxy's score")
    group.add_argument(
        "--proxy",
        metavar="NAME[,NAME...]",
        help="names out of 'eproxy proxies', cheap, all, rank_sum; eproxy, or eproxy:FILE with the settings of a file",
    )
    group.add_argument(
        "--num-classes",
        type=common.positive,
        metavar="K",
        help="classes of the classifier (default: those of the labels of --images, else 10)",
    )


def _parts(text: str) -> list[str]:
    return [part for one in text.split(",") if (part := one.strip())]


def check_flags(arguments: argparse.Namespace, overrides: Sequence[str], fitted: bool = False) -> None:
    """Check that flags that go with --proxy only, or without it only, stand where they do something.

    Args:
      arguments: the flags.
      overrides: of the configuration.
      fitted: True if --settings is a fit of columns.

    Raises:
      UsageError: one does not; the message says what to write.
    """
    if arguments.proxy is None:
        if arguments.num_classes is not None and not fitted:
            raise common.UsageError("--num-classes needs --proxy: Eproxy's score reads no classes")
        return
    if arguments.settings is not None:
        raise common.UsageError("--settings goes without --proxy: write --proxy eproxy:FILE for a column of them")
    fields = [text.removeprefix("--config.").partition("=")[0] for text in overrides]
    if "images.num" in fields:
        raise common.UsageError("--config.images.num: --proxy reads 128 images whatever it says: leave it out")
    if "settings.alpha" in fields:
        raise common.UsageError(
            "--config.settings.alpha: blends MACs into Eproxy's score, but columns stand alone: add macs to --proxy"
        )
    if not _WITH_EPROXY & set(_parts(arguments.proxy)):
        for field in fields:
            if field.partition(".")[0] == "settings":
                raise common.UsageError(f"--config.{field}: no column of --proxy reads it: add eproxy to --proxy")


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Compute the columns, print tables, and return the exit status."""
    from eproxy_jax import columns, runs
    from eproxy_jax.proxies.inputs import NUM_IMAGES
    from eproxy_jax.runs import columns as columns_lib
    from eproxy_jax.runs import outputs, printed

    spec = common.run_spec(arguments, overrides, NUM_IMAGES)
    if spec.targets or spec.optimizer is not None:
        raise common.UsageError(
            f"{arguments.config}: config.targets and config.optimizer are for Eproxy's score: leave them or --proxy out"
        )
    names, settings, read = proxies_of(arguments.proxy, spec)
    columns.wanted_columns(names, settings)  # tells unknown names before files are read
    archs = common.architectures(arguments, spec.space)
    out, figure, process = common.destination_of(
        arguments, "columns.jsonl", columns_lib.written_files, arguments.truth is not None, read
    )
    truth = None if arguments.truth is None else common.match_truth(arguments, archs, spec.space).values
    result = runs.score_columns(
        archs,
        spec.space,
        names,
        spec.images,
        spec.weight_seed,
        labels=spec.labels,
        num_classes=common.num_classes_of(arguments, spec),
        settings=settings,
        out=out,
        execution=common.execution_of(arguments),
        process=process,
        wait=arguments.wait,
        command=common.command_line(),
    )
    if result is None:
        return 0
    record = common.read_json(outputs.record_path(out))
    if (table := printed.columns_table(result, arguments.top, truth)) is not None:
        print(table)
        print()
    rows = {} if truth is None else printed.column_rows(result, truth)
    if rows:
        print(printed.quality_table(rows))
        print()
    print(f"columns: {out}  ({record['distinct']} distinct networks; labels {record['labels'].partition(':')[0]})")
    if truth is None:
        print(common.UNCHECKED)
    if figure is not None:
        title = f"{spec.space.name}, {len(archs)} architectures"
        print(common.draw(figure, lambda: printed.quality_plot(figure, rows, title, out)))
    return 0


def proxies_of(text: str, spec: RunSpec) -> tuple[list[str], dict[str, Any], list[Path]]:
    """Return the names that --proxy or --then asks for, the settings of its columns of Eproxy, and the files it names.

    ``eproxy:FILE`` is one column for each setting of the file: ``eproxy:FILE``, or ``eproxy:FILE#0``, ``...#1``, ...
    """
    from eproxy_jax import files

    names: list[str] = []
    settings: dict[str, Any] = {"": spec.settings}
    read: list[Path] = []
    for part in _parts(text):
        if not part.startswith(_FILE):
            names.append(part)
            continue
        file = part.removeprefix(_FILE)
        read.append(files.expanded(file))
        members = common.read_proxy(read[-1]).members
        for number, member in enumerate(members):
            name = file if len(members) == 1 else f"{file}#{number}"
            settings[name] = member.settings
            names.append(_FILE + name)
    return names, settings, [path for path in read if path.exists()]
