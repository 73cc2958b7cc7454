"""This configuration runs plain Eproxy on TransNAS-Bench-101-micro.

  eproxy score --config configs/transnas_micro.py         --sample 300 --seed 0 --workdir runs/transnas
  eproxy score --config configs/transnas_micro.py:small   --sample 300 --seed 0 --workdir runs/transnas-small
  eproxy score --config configs/transnas_micro.py:smoke   --sample 10  --seed 0 --workdir runs/transnas-smoke

Expected time of ``paper`` on 2 CPU cores: 21 s of compilation, then 1.35 s a distinct network. Expected Spearman with
class_scene: -.44, so plain settings rank it in reverse, and .669 with alpha = 0.5 (MACs alone .63). Page:
benchmarks/results/ranking_transnas_micro.md.

The size ``small`` is a different proxy: Spearman between its scores and those of ``paper`` is .36, on 24 networks
(benchmarks/results/small_vs_paper_transnas_micro.md).
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    return eproxy_config.variant_config(
        "transnas_micro",
        variant,
        small={"stem_channels": 8},
        smoke={"stem_channels": 4, "macro": "414"},
    )
