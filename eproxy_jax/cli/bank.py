"""``eproxy bank`` trains many settings on many architectures and keeps the losses, to fit any task later."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eproxy_jax.cli import common
from eproxy_jax.cli.common import UsageError

_EPILOG = """\
examples:
  eproxy bank --config configs/nasbench201.py:small --sample 600 --num-settings 96 --workdir runs/bank
  eproxy bank --config configs/nds.py:DARTS,small --archs DARTS_in.json --settings found.json --num-settings 0
  eproxy dps --config configs/nasbench201.py:small --bank runs/bank/bank.jsonl --truth accuracy.json --workdir runs/dps

The bank is extended on demand: more settings or more architectures train only what is missing. A killed run, started
again with the same flags, resumes. Settings of the configuration come first, then those that were found on other tasks
(--settings), mutations of the configuration's (--num-mutations), and random ones out of its genes.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    bank = common.add_command(commands, "bank", "compute or extend a loss bank", _EPILOG)
    common.add_proxy_flags(bank)
    common.add_arch_flags(bank)
    output = bank.add_argument_group("bank")
    output.add_argument(
        "--num-settings", type=common.natural, default=100, metavar="P", help="random ones (default 100)"
    )
    output.add_argument(
        "--settings",
        metavar="FILE",
        nargs="+",
        default=[],
        help="settings found on other tasks (JSON, from eproxy dps)",
    )
    output.add_argument(
        "--num-mutations", type=common.natural, default=0, metavar="M", help="of the configuration's (default 0)"
    )
    output.add_argument(
        "--settings-seed", type=common.seed, default=0, metavar="S", help="of mutations and random ones"
    )
    output.add_argument("--out", metavar="FILE", help="the bank (default WORKDIR/bank.jsonl)")
    output.add_argument("--workdir", metavar="DIR", help="folder of the bank (default .)")
    common.add_execution_flags(bank)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.check_source(arguments, overrides)
    common.check_archs(arguments)
    import numpy as np

    from eproxy_jax import images, progress
    from eproxy_jax.dps import loss_bank

    spec = common.search_spec(arguments, overrides)
    archs = common.architectures(arguments, spec.space)
    execution = common.execution_of(arguments, loss_bank.CHUNK)
    bank_spec = loss_bank.BankSpec(
        spec.space, spec.genes, images.standardize(spec.images), spec.weight_seed, spec.settings.num_steps
    )
    chosen = _encode(spec.genes, [spec.settings], "the configuration's settings")
    for path in arguments.settings:
        members = common.read_proxy(Path(path)).members
        chosen += _encode(spec.genes, [member.settings for member in members], path)
    rate, seed = spec.search.mutation_rate, arguments.settings_seed
    counts = (arguments.num_mutations, arguments.num_settings)
    settings = loss_bank.settings_to_try(spec.genes, chosen, rate, *counts, seed)
    out = Path(arguments.out or Path(arguments.workdir or ".") / "bank.jsonl")
    common.check_outputs(arguments, [out])
    with loss_bank.LossBank(out, bank_spec.identity(execution)) as bank:
        progress.announce("compiling, then training setting after setting")
        seconds = loss_bank.fill(bank, bank_spec, settings, archs, execution, loss_bank.show_progress())
        finite = np.isfinite(bank.losses(spec.settings.num_steps)[..., -1])
        diverged = int((bank.computed() & ~finite).sum())
        print(f"bank:    {out}")
        print(f"         {len(bank.genes)} settings x {len(bank.archs)} distinct networks, {diverged} diverged")
        print(f"seconds: compile {seconds['compile']:.1f}, run {seconds['run']:.1f}")
    return 0


def _encode(genes: Any, settings: Sequence[Any], where: str) -> list[Any]:
    """Encode settings as genomes; ``where`` names their source in errors."""
    try:
        return [genes.encode(one) for one in settings]
    except ValueError as error:
        raise UsageError(f"{where}: not among the configuration's genes (dps.genes): {error}") from error
