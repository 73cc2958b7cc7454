"""TransNAS-Bench-101-macro with plain Eproxy.

eproxy score --config configs/transnas_macro.py         --sample 300 --seed 0 --workdir runs/macro
eproxy score --config configs/transnas_macro.py:small   --sample 300 --seed 0 --workdir runs/macro-small
eproxy score --config configs/transnas_macro.py:smoke   --sample 10  --seed 0 --workdir runs/macro-smoke

One compilation serves all 3,255 codes, but it holds 53 block shapes forward and backward: 28 s for ``small`` on 2 CPU
cores, then 3 to 4 networks a second. (Width 4, 8-pixel images: 25 shapes; 6 s of CPU time forward,
17 s with gradients.) On accelerators take the form ``map`` or a small ``vmap`` width: each candidate owns a bank of
160 MB three times over (weights, gradients, momenta), and trunks run one after the other in both forms.
300 random codes with ``small``, 3 weight seeds: none diverged, Spearman with class_scene .527, with alpha = 0.5 .692,
MACs alone .857; all tasks: benchmarks/results/ranking_transnas_macro_small.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    return eproxy_config.variant_config(
        "transnas_macro",
        variant,
        small={"stem_channels": 16},
        smoke={"stem_channels": 4},
    )
