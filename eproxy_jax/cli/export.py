"""``eproxy export`` writes one architecture as a file that stands alone: Flax, PyTorch, or its strings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from eproxy_jax import files
from eproxy_jax.cli import common
from eproxy_jax.cli.common import UsageError
from eproxy_jax.errors import quoted

_EPILOG = """\
examples:
  eproxy export --space nasbench201 --arch '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|' --out net.py
  eproxy export --space transnas_macro --arch 64-2311-basic --out net.py --format torch --num-classes 100
  eproxy export --space nasbench101 --arch '[[[0, 1], [0, 0]], ["input", "output"]]' --format strings
  eproxy export --config configs/mixer.py --arch '[16, 2]' --out net.py --train-example

The file has the canonical architecture without dead parts, and imports flax and jax, or torch, alone. --train-example
writes train.py beside it: python train.py --data images.npz trains the network, with resume.
"""  # noqa: E501
_FORMATS = ("flax", "torch", "strings")
_TRAIN = "train.py"


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    export = common.add_command(commands, "export", "write an architecture as a Flax or PyTorch file", _EPILOG)
    export.add_argument("--space", metavar="NAME", help="search space")
    export.add_argument("--config", metavar="FILE[:VARIANT]", help="configuration file, for the sizes of its space")
    export.add_argument("--arch", metavar="ARCH", required=True, help="the architecture, in any notation of the space")
    export.add_argument("--out", metavar="FILE", help="file to write (default: standard output)")
    export.add_argument(
        "--format",
        choices=_FORMATS,
        default="flax",
        help="a Flax file (default), a PyTorch file, or the architecture's strings as JSON",
    )
    export.add_argument(
        "--num-classes", type=common.positive, default=10, metavar="N", help="outputs of the classifier (default 10)"
    )
    export.add_argument(
        "--image-size", type=common.positive, default=32, metavar="N", help="height and width of images (default 32)"
    )
    export.add_argument(
        "--train-example", action="store_true", help=f"also write {_TRAIN}, which trains the Flax network, beside --out"
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.check_source(arguments, overrides)
    if arguments.train_example and (arguments.format != "flax" or arguments.out is None):
        raise UsageError("--train-example trains a Flax file: it needs --out FILE, and no other --format")
    written = [] if arguments.out is None else [Path(arguments.out)]
    if arguments.train_example:
        written.append(written[0].with_name(_TRAIN))
        if files.same_file(*written):
            raise UsageError(f"--out {arguments.out}: the training script has this name; name another file")
    for path in written:
        _check_replaceable(path)

    from eproxy_jax.exports import export, train_script

    space = common.space_of(arguments, overrides)
    sizes = arguments.num_classes, arguments.image_size
    text = export(space, arguments.arch, arguments.format, *sizes)
    if not written:
        print(text, end="")
        return 0
    files.write_atomically(written[0], text)
    print(f"network: {written[0]}")
    if arguments.train_example:
        files.write_atomically(written[1], train_script(written[0].name, *sizes))
        print(f"script:  {written[1]}")
    return 0


def _check_replaceable(path: Path) -> None:
    """Check that a file can be written: there is none, or ``eproxy export`` wrote it."""
    from eproxy_jax.exports.marker import MARKER

    files.writable(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {quoted(str(path.parent))}: make it, or name another --out")
    if path.exists():
        with path.open("rb") as file:
            first = file.readline(len(MARKER) + 2)
        if first.rstrip(b"\r\n") not in (MARKER.encode(), b""):
            raise UsageError(f"{path}: there is such a file, not written by eproxy export: remove it, or name another")
