"""This configuration runs plain Eproxy on NAS-Bench-201.

  eproxy score --config configs/nasbench201.py            --sample 300 --seed 0 --workdir runs/nb201
  eproxy score --config configs/nasbench201.py:small      --sample 300 --seed 0 --workdir runs/nb201-small
  eproxy score --config configs/nasbench201.py:smoke      --sample 10  --seed 0 --workdir runs/nb201-smoke

Expected time on 2 CPU cores: ``paper`` takes 19 s of compilation and 0.53 s a distinct network, so 2 to 3 minutes for
the 213 distinct ones of 300. ``small`` and ``smoke`` run tens of networks a second.

Expected Spearman of ``paper`` with CIFAR-10 validation accuracy, 3 weight seeds: .731 +- .005, and .821 with
alpha = 0.3 (MACs alone .723). Page: benchmarks/results/ranking_nasbench201.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    return eproxy_config.variant_config(
        "nasbench201",
        variant,
        small={"stem_channels": 8, "cells_per_stage": 2},
        smoke={"stem_channels": 4, "cells_per_stage": 1},
        small_image_size=16,
    )
