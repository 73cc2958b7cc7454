"""This configuration runs plain Eproxy on the size space of NATS-Bench.

  eproxy score --config configs/nats_size.py            --sample 300 --seed 0 --workdir runs/sizes
  eproxy score --config configs/nats_size.py:small      --sample 300 --seed 0 --workdir runs/sizes-small
  eproxy score --config configs/nats_size.py:smoke      --sample 10  --seed 0 --workdir runs/sizes-smoke

One program of full width serves all 32,768 networks; ``--grouping fine`` makes up to 32, which waste less work. No
ranking of this space has been measured here: that needs labels (``--truth``).
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    return eproxy_config.variant_config(
        "nats_size",
        variant,
        small={"channel_divisor": 2},
        smoke={"channel_divisor": 8},
        small_image_size=16,
    )
