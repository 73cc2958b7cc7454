"""This configuration runs plain Eproxy on DARTS genotypes at CIFAR sizes: 36 channels and 20 cells.

  eproxy score --config configs/darts.py            --archs genotypes.txt --workdir runs/darts
  eproxy score --config configs/darts.py:small      --sample 100 --seed 0 --workdir runs/darts-small
  eproxy score --config configs/darts.py:smoke      --sample 10  --seed 0 --workdir runs/darts-smoke

``--config.sizes.width=32 --config.sizes.depth=8`` are the networks of NAS-Bench-301, whose index pairs are read as
well (``eproxy spaces darts``). Programs and times are those of ``configs/nds.py`` at this width and depth. No ranking
of this space has been measured here: that needs labels (``--truth``).
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    return eproxy_config.variant_config(
        "darts",
        variant,
        small={"width_divisor": 4},
        smoke={"width_divisor": 12, "depth": 5},
        small_image_size=16,
    )
