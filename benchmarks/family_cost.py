"""This benchmark measures what a network costs as a module of its own, and as data of a universal module.

  python benchmarks/family_cost.py
  python benchmarks/family_cost.py --variant paper --num 4

The same networks of NAS-Bench-201 are scored twice. ``from_flax`` takes their stand-alone modules, and compiles one
program a network. The search space takes them as data, and compiles one program for all. Nothing is read from a cache.
"""

from __future__ import annotations

import argparse

from common import config_source, header, markdown_table, page_name, write_page

import eproxy_jax as ep
from eproxy_jax.cli import config

SPACE = "nasbench201"


def main() -> None:
    """Score both ways and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="small")
    parser.add_argument("--num", type=int, default=6, help="networks (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    arguments = parser.parse_args()
    ep.configure(compile_cache="off")
    spec = config.build(config.load_config(config_source(SPACE, arguments.variant)))
    space = spec.space
    archs = list(dict.fromkeys(space.canonical(arch) for arch in space.sample(arguments.num, arguments.seed)))
    family = ep.spaces.from_flax(space.to_flax, archs)
    rows = []
    for name, where in (("from_flax: one program a network", family), ("search space: one program", space)):
        seconds = ep.score(archs, where, spec.settings, spec.images).seconds
        rows.append(
            {
                "way": name,
                "networks": len(archs),
                "compile, s a network": f"{seconds['compile'] / len(archs):.2f}",
                "run, s a network": f"{seconds['run'] / len(archs):.2f}",
                "compile in all, s": f"{seconds['compile']:.0f}",
            }
        )
    text = header(f"What a network of one's own costs, {SPACE} ({arguments.variant})") + markdown_table(rows)
    write_page(page_name("family_cost", SPACE, arguments.variant), text, rows)


if __name__ == "__main__":
    main()
