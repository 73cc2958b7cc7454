"""TransNAS-Bench-101-micro with plain Eproxy.

  eproxy score --config configs/transnas_micro.py         --sample 300 --seed 0 --workdir runs/transnas
  eproxy score --config configs/transnas_micro.py:small   --sample 300 --seed 0 --workdir runs/transnas-small
  eproxy score --config configs/transnas_micro.py:smoke   --sample 10  --seed 0 --workdir runs/transnas-smoke

On 2 CPU cores: paper 1.35 s a distinct network and 21 s of compilation. Plain settings rank class_scene the wrong way
round (Spearman -.44, MACs alone .63); alpha = 0.5 gives .669. Figures: benchmarks/results/ranking_transnas_micro.md.

The size small is a proxy of its own: its scores rank like the paper size's by .36 only, on 24 networks
(benchmarks/results/small_vs_paper_transnas_micro.md).
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    return eproxy_config.variant_config(
        "transnas_micro",
        variant,
        small={"stem_channels": 8},
        smoke={"stem_channels": 4, "macro": "414"},
    )
