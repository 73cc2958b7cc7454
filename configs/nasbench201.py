"""NAS-Bench-201 with plain Eproxy.

  eproxy score --config configs/nasbench201.py            --sample 300 --seed 0 --workdir runs/nb201
  eproxy score --config configs/nasbench201.py:small      --sample 300 --seed 0 --workdir runs/nb201-small
  eproxy score --config configs/nasbench201.py:smoke      --sample 10  --seed 0 --workdir runs/nb201-smoke

On 2 CPU cores: paper 0.53 s a distinct network and 19 s of compilation (213 distinct of 300: 2 to 3 minutes), Spearman
with CIFAR-10 validation accuracy .731 +- .005 over 3 weight seeds, .821 with alpha = 0.3 (MACs alone .723); small and
smoke: tens of networks a second. Figures: benchmarks/results/ranking_nasbench201.md.
"""

from eproxy_jax import config as eproxy_config

VARIANTS = ("paper", "small", "smoke")


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    config = eproxy_config.default_config("nasbench201")
    if variant == "small":
        config.sizes.stem_channels = 8
        config.sizes.cells_per_stage = 2
        config.images.size = 16
        config.settings.branches[0]["transform_channels"] = 256
        eproxy_config.narrow_genes(config, kernels=(1, 3), channels=(16, 32, 64, 128, 256))
    if variant == "smoke":
        config.sizes.stem_channels = 4
        config.sizes.cells_per_stage = 1
        config.images.size = 8
        config.settings.branches[0]["transform_channels"] = 16
        config.settings.branches[0]["target_channels"] = 16
        eproxy_config.narrow_genes(config, kernels=(1, 3), channels=(4, 8, 16))
    return config
