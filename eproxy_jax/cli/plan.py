"""``eproxy plan`` predicts the cost of scoring a list of architectures, and runs nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from eproxy_jax.cli import common

_EPILOG = """\
examples:
  eproxy plan --space nasbench201 --all
  eproxy plan --space nasbench201 --all --form vmap --json

Work is counted from shapes: convolutions and matrix products of whole trainings. Memory is predicted for one device:
parameters, momenta, gradients and saved activations of the candidates it trains at once.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    plan = common.add_command(commands, "plan", "count networks, programs, work and memory of a list", _EPILOG)
    common.add_proxy_flags(plan)
    common.add_arch_flags(plan)
    plan.add_argument("--json", action="store_true", help="one JSON object")
    common.add_execution_flags(plan)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.check_source(arguments, overrides)
    common.check_archs(arguments)
    from eproxy_jax.execution import planner
    from eproxy_jax.progress import Progress

    spec = common.run_spec(arguments, overrides)
    archs = common.architectures(arguments, spec.space)
    execution = common.execution_of(arguments)
    shape = tuple(spec.images.shape)
    with Progress(len(archs), unit="networks", after=2) as meter:

        def show(done: int, total: int) -> None:
            meter.total = total
            meter.update(done)

        values = planner.plan(archs, spec.space, spec.settings, shape, execution, show).to_dict()
    if arguments.json:
        print(json.dumps(values))
        return 0
    groups = values.pop("groups")
    for name, value in values.items():
        print(f"{name:26} {value:.4g}" if isinstance(value, float) else f"{name:26} {value}")
    print(f"\n{'networks':>9} {'padding':>8} {'executed/needed':>16} {'MiB/device':>11}  group")
    for group in groups:
        ratio = group["flops_executed"] / group["flops_needed"]
        memory = group["bytes_per_device"] / 2**20
        print(f"{group['networks']:9} {group['padding']:8} {ratio:16.3f} {memory:11.0f}  {group['group']}")
    return 0
