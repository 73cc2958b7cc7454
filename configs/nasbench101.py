"""NAS-Bench-101 with plain Eproxy.

  eproxy score --config configs/nasbench101.py            --sample 300 --seed 0 --workdir runs/nb101
  eproxy score --config configs/nasbench101.py:small      --sample 300 --seed 0 --workdir runs/nb101-small
  eproxy score --config configs/nasbench101.py:smoke      --sample 10  --seed 0 --workdir runs/nb101-smoke

The cost is the architecture's: 0.06 to 7.3 GMACs an image at the paper's size, 0.7 in the median; at most 0.22 in
NAS-Bench-201. Times and Spearman are still to be measured on an idle machine.
"""

from eproxy_jax import config as eproxy_config

VARIANTS = ("paper", "small", "smoke")


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    config = eproxy_config.default_config("nasbench101")
    if variant == "small":
        config.sizes.stem_channels = 32
        config.sizes.modules_per_stack = 1
        config.images.size = 16
        config.settings.branches[0]["transform_channels"] = 256
        eproxy_config.narrow_genes(config, kernels=(1, 3), channels=(16, 32, 64, 128, 256))
    if variant == "smoke":
        config.sizes.stem_channels = 4
        config.sizes.modules_per_stack = 1
        config.images.size = 8
        config.settings.branches[0]["transform_channels"] = 16
        config.settings.branches[0]["target_channels"] = 16
        eproxy_config.narrow_genes(config, kernels=(1, 3), channels=(4, 8, 16))
    return config
