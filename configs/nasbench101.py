"""This configuration runs plain Eproxy on NAS-Bench-101.

  eproxy score --config configs/nasbench101.py            --sample 300 --seed 0 --workdir runs/nb101
  eproxy score --config configs/nasbench101.py:small      --sample 300 --seed 0 --workdir runs/nb101-small
  eproxy score --config configs/nasbench101.py:smoke      --sample 10  --seed 0 --workdir runs/nb101-smoke

Expected time of ``small`` on 2 CPU cores: 16 s of compilation, then 0.25 s a network. At the paper's size networks
have 0.06 to 7.3 GMACs per image, so their times differ as much.

Expected Spearman of plain Eproxy with ``small``, 300 networks, 3 weight seeds:

* CIFAR-10: .650 (MACs alone .491). Eight settings fitted to 20 labels reach .811.
* ImageNet: .273 (MACs alone .238)

Pages in benchmarks/results: ranking_nasbench101_small.md, dps_nasbench101.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    return eproxy_config.variant_config(
        "nasbench101",
        variant,
        small={"stem_channels": 32, "modules_per_stack": 1},
        smoke={"stem_channels": 4, "modules_per_stack": 1},
        small_image_size=16,
    )
