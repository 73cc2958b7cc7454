"""NAS-Bench-MR with plain Eproxy.

eproxy score --config configs/nasbench_mr.py         --sample 300 --seed 0 --workdir runs/mr
eproxy score --config configs/nasbench_mr.py:small   --sample 300 --seed 0 --workdir runs/mr-small
eproxy score --config configs/nasbench_mr.py:smoke   --sample 10  --seed 0 --workdir runs/mr-smoke

Two programs serve the space: nine of ten networks of the benchmark, and those that need more memory. ``small`` takes
22 s of CPU time to compile one, then 2.1 s of CPU time a network (mean of 30, 0.9 to 3.6). At the paper's size the mean
network has 3.4 GMACs an image; times are still to be measured. A search uses one branch only, as the paper does here.

Spearman of plain Eproxy, blends with MACs and parameters, and MACs alone on all nine tasks, with ``small``:
benchmarks/results/ranking_nasbench_mr_small.md; settings fitted to 20 labels: benchmarks/results/dps_nasbench_mr.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """The configuration of one variant."""
    config = eproxy_config.variant_config(
        "nasbench_mr",
        variant,
        small={"channel_divisor": 4},
        smoke={"channel_divisor": 8},
        small_image_size=16,
    )
    config.dps.genes.branches = (1,)
    return config
