"""This configuration runs plain Eproxy on NAS-Bench-MR.

eproxy score --config configs/nasbench_mr.py         --sample 300 --seed 0 --workdir runs/mr
eproxy score --config configs/nasbench_mr.py:small   --sample 300 --seed 0 --workdir runs/mr-small
eproxy score --config configs/nasbench_mr.py:smoke   --sample 10  --seed 0 --workdir runs/mr-smoke

The space has two programs: one for nine of ten networks of the benchmark, one for those that need more memory. Expected
time of ``small`` in CPU seconds: 22 to compile a program, then 2.1 a network (mean of 30). For ``paper`` on 2 CPU cores
see benchmarks/results/small_vs_paper_nasbench_mr.md. A search uses one branch only, as the paper does here.

Expected Spearman with ``small`` on all nine tasks: benchmarks/results/ranking_nasbench_mr_small.md. Settings fitted to
20 labels: benchmarks/results/dps_nasbench_mr.md.
"""

from eproxy_jax.cli import config as eproxy_config


def get_config(variant: str = "paper"):
    """Return the configuration of one variant."""
    config = eproxy_config.variant_config(
        "nasbench_mr",
        variant,
        small={"channel_divisor": 4},
        smoke={"channel_divisor": 8},
        small_image_size=16,
    )
    config.dps.genes.branches = (1,)
    return config
