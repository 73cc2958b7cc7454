"""TransNAS-Bench-101-micro with plain Eproxy.

  eproxy score --config configs/transnas_micro.py         --sample 300 --seed 0 --workdir runs/transnas
  eproxy score --config configs/transnas_micro.py:small   --sample 300 --seed 0 --workdir runs/transnas-small
  eproxy score --config configs/transnas_micro.py:smoke   --sample 10  --seed 0 --workdir runs/transnas-smoke

On 2 CPU cores: paper 1.35 s a distinct network and 21 s of compilation. Plain settings rank class_scene the wrong way
round (Spearman -.44, MACs alone .63); alpha = 0.5 gives .669. Figures: benchmarks/results/ranking_transnas_micro.md.
"""

from eproxy_jax import config as eproxy_config

VARIANTS = ("paper", "small", "smoke")


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    config = eproxy_config.default_config("transnas_micro")
    if variant == "small":
        config.sizes.stem_channels = 8
        config.settings.branches[0]["transform_channels"] = 256
        eproxy_config.narrow_genes(config, kernels=(1, 3), channels=(16, 32, 64, 128, 256))
    if variant == "smoke":
        config.sizes.stem_channels = 4
        config.sizes.macro = "414"
        config.images.size = 8
        config.settings.branches[0]["transform_channels"] = 16
        config.settings.branches[0]["target_channels"] = 16
        eproxy_config.narrow_genes(config, kernels=(1, 3), channels=(4, 8, 16))
    return config
