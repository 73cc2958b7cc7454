"""This module holds what all commands use: flags, configurations, devices, records of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from eproxy_jax import files
from eproxy_jax.errors import SEEDS, check_seed, one_line, quoted

if TYPE_CHECKING:
    from eproxy_jax.cli.config import RunSpec
    from eproxy_jax.dps.fitted import FittedProxy
    from eproxy_jax.execution.execution import Execution
    from eproxy_jax.runs.gathering import Gathered
    from eproxy_jax.runs.hosts import Process
    from eproxy_jax.runs.truth import Matched, Truth
    from eproxy_jax.spaces import SearchSpace

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, whatever was typed."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        self.exit(2, f"eproxy: error: {one_line(message, 400)} (see {self.prog} --help)\n")


class UsageError(Exception):
    """A mistake of the user; the command line prints it in one line."""


# --- flags ---------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """Parse an integer >= 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text}")
    return value


def width(text: str) -> int | str:
    """Parse an integer >= 1 or ``auto``, for argparse."""
    return text if text == "auto" else positive(text)


def natural(text: str) -> int:
    """Parse an integer >= 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text}")
    return value


def seconds(text: str) -> float:
    """Parse a positive number of seconds, for argparse."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text}")
    return value


def seed(text: str) -> int:
    """Parse a seed, an integer from 0 to 2 ** 32 - 1, for argparse."""
    try:
        return check_seed(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to {SEEDS - 1}, got {quoted(text)}") from None


def add_command(commands: Commands, name: str, help: str, epilog: str) -> argparse.ArgumentParser:
    """Add the parser of one command of ``eproxy``; ``epilog`` is printed unchanged."""
    return commands.add_parser(name, help=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_proxy_flags(parser: argparse.ArgumentParser) -> Any:
    """Add --space, --config, --images, --weight-seed; returns the group, for more flags of a command."""
    what = parser.add_argument_group("what to score with")
    what.add_argument("--space", metavar="NAME", help="search space; enough alone: plain Eproxy at the paper's size")
    what.add_argument(
        "--config", metavar="FILE[:VARIANT]", help="configuration file, such as configs/nasbench201.py:small"
    )
    add_input_flags(what)
    return what


def add_input_flags(group: Any) -> None:
    """Add --images and --weight-seed to a group."""
    group.add_argument(
        "--images",
        metavar="SOURCE",
        help="dead_leaves, one_over_f, white_noise; .npy, .npz or FILE.npz:NAME; or a folder: CIFAR-10, CIFAR-100, "
        "ImageNet16, or image files",
    )
    group.add_argument("--weight-seed", type=seed, metavar="N", help="seed of weights, targets and barrier (default 0)")


def add_arch_flags(parser: argparse.ArgumentParser) -> None:
    """Add --archs, --sample, --all, --limit, --seed, --dataset."""
    which = parser.add_argument_group("which architectures (one of --archs, --sample, --all)")
    which.add_argument(
        "--archs", metavar="FILE", help="a file of architectures in any common form; - for standard input"
    )
    which.add_argument("--sample", type=positive, metavar="N", help="N distinct random ones")
    which.add_argument("--all", action="store_true", help="the whole space")
    which.add_argument("--limit", type=positive, metavar="N", help="a random subset of N out of --archs or --all")
    which.add_argument("--seed", type=seed, metavar="S", default=0, help="seed of --sample and --limit (default 0)")
    add_dataset_flag(which)


def add_dataset_flag(group: Any) -> None:
    """Add --dataset."""
    group.add_argument(
        "--dataset", metavar="NAME", help="which data set or task, of files that hold several, such as cifar10"
    )


def add_truth_flags(group: Any, required: bool = False) -> None:
    """Add --truth, --truth-column, --lower-is-better to a group."""
    group.add_argument(
        "--truth",
        metavar="FILE",
        required=required,
        help="measured values, higher is better, to compare the ranking with; - for standard input",
    )
    group.add_argument("--truth-column", metavar="NAME", help="name of the value, if the file has several")
    group.add_argument(
        "--lower-is-better", action="store_true", help="the values are errors, losses or times: lower is better"
    )


def add_execution_flags(parser: argparse.ArgumentParser) -> None:
    """Add --form, --chunk-size, --vmap-width, --grouping, --precision, --devices, --compile-cache."""
    execution = parser.add_argument_group("execution (does not change scores within one form)")
    execution.add_argument(
        "--form", choices=("map", "vmap"), help="one candidate at a time, or batches (default by backend)"
    )
    execution.add_argument("--chunk-size", type=positive, metavar="N", help="candidates per dispatched chunk")
    execution.add_argument(
        "--vmap-width",
        type=width,
        default=32,
        metavar="N",
        help="candidates of one batch (default 32); 'auto' (eproxy score): as many as the devices' memory holds",
    )
    execution.add_argument(
        "--grouping",
        choices=("coarse", "fine"),
        default="coarse",
        help="few programs (default), or more that waste less work in batches",
    )
    execution.add_argument(
        "--precision",
        choices=("default", "float32", "bfloat16"),
        default="default",
        help="of the operands of matrix products; default is the backend's own for float32. Changes scores a little",
    )
    execution.add_argument(
        "--devices", type=positive, metavar="N", help="devices to use (default: all; CPU: one per core)"
    )
    execution.add_argument(
        "--compile-cache",
        metavar="DIR",
        help="folder of compiled programs, for later runs; 'off' for none (default ~/.cache/eproxy_jax/programs)",
    )


# --- paths ---------------------------------------------------------------------------------------------------

_READ = (
    "archs",
    "truth",
    "labels",
    "columns",
    "tell",
    "bank",
    "settings",
    "config",
    "images",
    "file",
)  # flags of files that are only read
_FOLDERS = ("workdir", "compile_cache")
_STDIN = "-"


def check_paths(arguments: argparse.Namespace) -> None:
    """Expand ``~`` in all paths of the flags, and refuse devices, pipes and folders where a file is expected.

    Raises:
      UsageError: a path is of the wrong kind, or has a name that no file can have; the message names the flag.
    """
    for name in (*_READ, "out", *_FOLDERS):
        value = getattr(arguments, name, None)
        try:
            if isinstance(value, list):
                setattr(arguments, name, [_checked(name, one) for one in value])
            elif isinstance(value, str):
                setattr(arguments, name, _checked(name, value))
        except (OSError, ValueError) as error:
            flag = "FILE" if name == "file" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag}: {getattr(error, 'strerror', None) or error}") from error


def _checked(name: str, text: str) -> str:
    if text == _STDIN or (name == "compile_cache" and text == "off"):
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{quoted(text)}: a name that is not UTF-8 text, which no table or record can show") from None
    path = files.expanded(text)
    if name == "out":
        files.writable(path)
    elif name in _FOLDERS:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: not a folder, where one is expected")
    elif path.exists() and not (name == "images" and path.is_dir()):
        files.existing(path)
    elif name in ("config", "images") and (plain := Path(str(path).rpartition(":")[0])).exists() and ":" in text:
        files.existing(plain)  # FILE:VARIANT, FILE.npz:NAME
    return str(path)


def check_outputs(arguments: argparse.Namespace, written: Sequence[Path], also: Sequence[Path] = ()) -> None:
    """Check that no file of the flags is both read and written, and that all names can be written.

    Args:
      arguments: the flags.
      written: the files that the command will write.
      also: further files that it reads, named by --proxy.

    Raises:
      UsageError: a file is read and written.
      OSError: a name is too long.
    """
    from eproxy_jax.runs.outputs import check_distinct

    read = {}
    for name in _READ:
        value = getattr(arguments, name, None)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one != _STDIN:
                read[one] = f"--{name}"
                if ":" in one:
                    read[one.rpartition(":")[0]] = f"--{name}"
    check_distinct(written, {Path(one): flag for one, flag in read.items() if one} | dict.fromkeys(also, "--proxy"))


UNCHECKED = "unchecked: nothing says that a high score is a good network; give 20 measured networks by --truth FILE"

# --- from flags to specs -------------------------------------------------------------------------------------


def refuse_overrides(overrides: Sequence[str]) -> None:
    """Check that a command without --config has no overrides of one."""
    if overrides:
        raise UsageError("--config.FIELD=VALUE overrides are for commands with --config")


def check_source(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Check that there is one of --space and --config, and overrides only with the latter."""
    if (arguments.space is None) == (arguments.config is None):
        raise UsageError("give either --space NAME or --config FILE")
    if overrides and arguments.config is None:
        raise UsageError("--config.FIELD=VALUE overrides need --config FILE")


def check_archs(arguments: argparse.Namespace) -> None:
    """Check that there is one source of architectures."""
    if sum([arguments.archs is not None, arguments.sample is not None, arguments.all]) > 1:
        raise UsageError("--archs, --sample and --all exclude one another")
    if arguments.limit is not None and arguments.sample is not None:
        raise UsageError("--limit is for --archs and --all; --sample already says how many")


def check_truth(arguments: argparse.Namespace) -> None:
    """Check that flags about the truth have one, and that standard input is read once."""
    for flag, given in (
        ("--truth-column", arguments.truth_column is not None),
        ("--lower-is-better", arguments.lower_is_better),
    ):
        if given and arguments.truth is None:
            raise UsageError(f"{flag} needs --truth FILE")
    flags = [f"--{name}" for name in ("archs", "labels", "truth") if getattr(arguments, name, None) == "-"]
    if len(flags) > 1:
        raise UsageError(f"{' and '.join(flags)}: standard input can be read once; name a file")


def execution_of(arguments: argparse.Namespace, chunk_size: int | None = None) -> Execution:
    """Make the ``Execution`` of the flags; without a flag, ``chunk_size`` counts per device."""
    import jax

    from eproxy_jax.execution.execution import Execution

    devices = jax.local_devices()
    wanted = arguments.devices
    if wanted is not None and wanted > len(devices):
        raise UsageError(f"--devices {wanted}: JAX has {len(devices)} ({devices[0].platform})")
    devices = devices[:wanted]
    if arguments.vmap_width == "auto" and arguments.command != "score":
        raise UsageError("--vmap-width auto: only eproxy score can; give a number")
    if arguments.chunk_size is None and chunk_size is not None:
        chunk_size *= len(devices)
    else:
        chunk_size = arguments.chunk_size
    return Execution.of(
        devices, arguments.form, chunk_size, arguments.vmap_width, arguments.grouping, arguments.precision
    )


def process_of(arguments: argparse.Namespace) -> Process:
    """Return this process among those of the run, as the flags or JAX's distributed runtime say."""
    from eproxy_jax.runs.hosts import Process

    if arguments.coordinator is not None:
        return Process(arguments.process_id, arguments.num_processes, arguments.coordinator)
    return Process.current()


def search_spec(arguments: argparse.Namespace, overrides: Sequence[str]) -> RunSpec:
    """Make the ``config.RunSpec`` of the flags for commands whose settings are genes.

    Raises:
      UsageError: the configuration has targets or an optimiser, which no gene stands for.
    """
    spec = run_spec(arguments, overrides)
    if spec.targets or spec.optimizer is not None:
        raise UsageError(
            f"{arguments.config}: eproxy {arguments.command} tries built-in features with SGD: config.targets and "
            "config.optimizer are for eproxy score; leave them out"
        )
    return spec


def run_spec(arguments: argparse.Namespace, overrides: Sequence[str], num_labelled: int | None = None) -> RunSpec:
    """Make the ``config.RunSpec`` of the flags; ``num_labelled``: see ``config.build``."""
    from eproxy_jax.cli.config import build, default_config, load_config

    if arguments.config is not None:
        config = load_config(arguments.config, overrides)
    else:
        config = default_config(arguments.space)
    with config.unlocked():
        if arguments.images is not None:
            config.images.source = arguments.images
        if arguments.weight_seed is not None:
            config.weight_seed = arguments.weight_seed
    return build(config, num_labelled)


def space_of(arguments: argparse.Namespace, overrides: Sequence[str]) -> SearchSpace:
    """Return the search space of --space or --config alone: no images are read or made."""
    from eproxy_jax.cli.config import load_config, space_of_config
    from eproxy_jax.spaces import get

    if arguments.config is None:
        return get(arguments.space)
    return space_of_config(load_config(arguments.config, overrides))


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object of a file."""
    text = files.read_text(path, "file of settings")
    try:
        values = json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON ({one_line(error, 200)})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected a JSON object of settings, got {quoted(values)}")
    return values


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{quoted(next(key for key in keys if keys.count(key) > 1))} stands twice in one object")
    return values


def read_proxy(path: Path) -> FittedProxy:
    """Read a fitted proxy: a file of ``eproxy dps``, a file of one plain setting, or SPACE/TASK of ``ep.found``."""
    from eproxy_jax.dps import fitted

    if not path.exists() and len(path.parts) == 2 and path.parts in fitted.found_names():
        return fitted.found(*path.parts)
    values = read_json(path)
    if is_saved_fit(values):
        raise UsageError(f"{path}: a fit of columns, where settings are expected: eproxy score --settings ranks by it")
    try:
        return fitted.FittedProxy.from_dict(values)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def is_saved_fit(values: Any) -> bool:
    """Say if the content of a file of settings is a fit of columns, of ``eproxy fit``."""
    return isinstance(values, dict) and {"fit", "model"} <= values.keys()


def architectures(arguments: argparse.Namespace, space: SearchSpace) -> list[Any]:
    """Return the architectures that the flags ask for, each string once."""
    from eproxy_jax.runs.archs import read_archs
    from eproxy_jax.sampling import draw_distinct

    if arguments.archs is None and not arguments.all:
        few = 20 if space.num_archs is None else min(20, space.num_archs)
        return space.sample(arguments.sample or few, arguments.seed)
    if arguments.archs is not None:
        archs = [record.arch for record in read_archs(arguments.archs, space, arguments.dataset)]
    else:
        archs = list(space.enumerate())
    distinct = list(dict.fromkeys(archs))
    if len(distinct) < len(archs):
        print(
            f"eproxy: {len(archs) - len(distinct)} repeated lines of {arguments.archs} are scored once", file=sys.stderr
        )
    if arguments.limit is not None and arguments.limit < len(distinct):
        return [distinct[i] for i in draw_distinct(len(distinct), arguments.limit, arguments.seed, "the list")]
    return distinct


def draw(path: Path, plot: Callable[[], None]) -> str:
    """Draw a figure and return the line to print: where it is, or why there is none.

    A figure is no reason to fail a finished run: matplotlib may be absent, broken, or set up with an unknown backend.
    """
    try:
        plot()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "matplotlib":
            return "no figure: matplotlib is not installed; pip install 'eproxy_jax[plot]', or --no-plot"
        return f"no figure: matplotlib is broken ({one_line(error, 200)}); --no-plot leaves it out"
    except Exception as error:  # whatever a broken matplotlib raises
        return f"no figure: {type(error).__name__}: {one_line(error, 200)}; --no-plot leaves it out"
    return f"figure:  {path}"


def read_truth(arguments: argparse.Namespace, path: str, space: SearchSpace) -> Truth:
    """Read measured values as the flags of :func:`add_truth_flags` say; see :func:`announce_truth`."""
    from eproxy_jax.runs import truth

    return truth.read_truth(
        path,
        space,
        arguments.truth_column,
        dataset=arguments.dataset,
        lower_is_better=arguments.lower_is_better,
    )


def gather_columns(
    arguments: argparse.Namespace, space: SearchSpace, values: Mapping[Path, str] | None = None
) -> Gathered:
    """Read the files of --columns, without the columns of --leave-out.

    Args:
      arguments: of a command with --columns, --dataset, --leave-out and --no-graph-counts.
      space: the search space.
      values: columns of these files that hold measured values, and so are no evidence.
    """
    from eproxy_jax.runs import gathering

    return gathering.gather(
        arguments.columns,
        space,
        with_graph_counts=not arguments.no_graph_counts,
        dataset=arguments.dataset,
        leave_out=arguments.leave_out,
        values=values,
    )


def num_classes_of(arguments: argparse.Namespace, spec: RunSpec) -> int | None:
    """Return the number of classes: that of --num-classes, else that of the images; None if neither tells it."""
    return spec.num_classes if arguments.num_classes is None else arguments.num_classes


def announce_truth(truth: Truth, *more: str) -> None:
    """Print how measured values were read, and more of it."""
    from eproxy_jax.progress import announce

    for note in (*truth.notes(), *more):
        announce(note)


def match_truth(arguments: argparse.Namespace, archs: Sequence[Any], space: SearchSpace) -> Matched:
    """Read the truth, look architectures up in it, and print how many have a value.

    Raises:
      UsageError: fewer than 3 have one.
    """
    from eproxy_jax.runs import truth

    measured = read_truth(arguments, arguments.truth, space)
    matched = truth.match(archs, measured, space)
    counts = f"{measured.name}: {matched.num_known:,} of the {len(archs):,} architectures have a value"
    if matched.num_known < 3:
        raise UsageError(f"{counts}; need at least 3")
    if matched.num_canonical:
        counts += f" ({matched.num_canonical:,} of them written in another way)"
    announce_truth(measured, f"{counts}; {matched.num_unused:,} of its {len(measured):,} architectures match none")
    return matched


class Destination(NamedTuple):
    """Where a run of ``eproxy score`` writes.

    Attributes:
      out: the result file.
      figure: the figure; None if this process draws none.
      process: this process among those of the run.
    """

    out: Path
    figure: Path | None
    process: Process


def destination_of(
    arguments: argparse.Namespace,
    name: str,
    written: Callable[[Path, Process], Sequence[Path]],
    draws: bool,
    read: Sequence[Path] = (),
) -> Destination:
    """Return where a run writes, once nothing that it writes is read or somebody else's.

    Args:
      arguments: the flags of ``eproxy score``.
      name: of the result file in --workdir, where there is no --out.
      written: (result file, process) -> all files of the run, its figure left out.
      draws: whether there is something to draw.
      read: files that are read and that no flag names.

    Raises:
      UsageError: a file is read and written.
      ValueError: somebody else's file stands where the figure goes.
      OSError: a name is too long.
    """
    from eproxy_jax.runs import outputs

    workdir = files.folder(arguments.workdir or ".")
    out = files.writable(arguments.out) if arguments.out else workdir / name
    process = process_of(arguments)
    figure = outputs.figure_path(out) if draws and process.index == 0 and not arguments.no_plot else None
    check_outputs(arguments, [*written(out, process), *([] if figure is None else [figure])], read)
    if figure is not None:
        outputs.check_figure(figure, out)
    return Destination(out, figure, process)


def command_line() -> str:
    """Return this process's command, for the record of a run."""
    return " ".join(["eproxy", *sys.argv[1:]])
