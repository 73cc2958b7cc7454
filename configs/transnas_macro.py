"""This configuration runs plain Eproxy on TransNAS-Bench-101-macro.

eproxy score --config configs/transnas_macro.py         --sample 300 --seed 0 --workdir runs/macro
eproxy score --config configs/transnas_macro.py:small   --sample 300 --seed 0 --workdir runs/macro-small
eproxy score --config configs/transnas_macro.py:smoke   --sample 10  --seed 0 --workdir runs/macro-smoke

One program serves all 3,255 codes. Expected time of ``small`` on 2 CPU cores: 28 s of compilation, then 3 to 4 networks
a second. On accelerators take the form ``map`` or a small ``vmap`` width: each candidate has 160 MB of weights, and as
much of gradients and of momenta, and backbones run one after the other in both forms.

Expected Spearman of ``small`` with class_scene, 300 random codes, 3 weight seeds: .527, and .692 with alpha = 0.5 (MACs
alone .857). No training diverged. All tasks: benchmarks/results/ranking_transnas_macro_small.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    return eproxy_config.variant_config(
        "transnas_macro",
        variant,
        small={"stem_channels": 16},
        smoke={"stem_channels": 4},
    )
