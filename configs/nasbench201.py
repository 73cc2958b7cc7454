"""NAS-Bench-201 with plain Eproxy.

  eproxy score --config configs/nasbench201.py            --sample 300 --seed 0 --workdir runs/nb201
  eproxy score --config configs/nasbench201.py:small      --sample 300 --seed 0 --workdir runs/nb201-small
  eproxy score --config configs/nasbench201.py:smoke      --sample 10  --seed 0 --workdir runs/nb201-smoke

On 2 CPU cores: paper 0.53 s a distinct network and 19 s of compilation (213 distinct of 300: 2 to 3 minutes), Spearman
with CIFAR-10 validation accuracy .731 +- .005 over 3 weight seeds, .821 with alpha = 0.3 (MACs alone .723); small and
smoke: tens of networks a second. Figures: benchmarks/results/ranking_nasbench201.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    return eproxy_config.variant_config(
        "nasbench201",
        variant,
        small={"stem_channels": 8, "cells_per_stage": 2},
        smoke={"stem_channels": 4, "cells_per_stage": 1},
        small_image_size=16,
    )
