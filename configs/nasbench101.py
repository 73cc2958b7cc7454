"""NAS-Bench-101 with plain Eproxy.

  eproxy score --config configs/nasbench101.py            --sample 300 --seed 0 --workdir runs/nb101
  eproxy score --config configs/nasbench101.py:small      --sample 300 --seed 0 --workdir runs/nb101-small
  eproxy score --config configs/nasbench101.py:smoke      --sample 10  --seed 0 --workdir runs/nb101-smoke

The cost is the architecture's: 0.06 to 7.3 GMACs an image at the paper's size, 0.7 in the median; at most 0.22 in
NAS-Bench-201. ``small`` compiles in about 16 s of CPU time and takes 0.25 s a network on one core beside other load.

Spearman of plain Eproxy with ``small``, 300 networks, 3 weight seeds: CIFAR-10 .650, MACs alone .491; ImageNet .273,
MACs .238; with eight settings found by 20 labels .811 on CIFAR-10. Pages in benchmarks/results:
ranking_nasbench101_small.md, dps_nasbench101.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    return eproxy_config.variant_config(
        "nasbench101",
        variant,
        small={"stem_channels": 32, "modules_per_stack": 1},
        smoke={"stem_channels": 4, "modules_per_stack": 1},
        small_image_size=16,
    )
