"""This configuration runs plain Eproxy on an NDS space; the argument is the space and the variant.

  eproxy score --config configs/nds.py:DARTS,paper --sample 100 --seed 0 --workdir runs/nds-darts
  eproxy score --config configs/nds.py:DARTS,small --archs DARTS_in.json --truth DARTS_in.json --workdir runs/darts
  eproxy score --config configs/nds.py:DARTS,smoke --sample 10  --seed 0 --workdir runs/nds-smoke

Expected time on 2 CPU cores, for the cell spaces (DARTS to Amoeba), in CPU seconds:

* compilation, for each width of the networks: 16 (DARTS) to 24 (NASNet)
* a network with ``small``: 0.6 to 2
* a network with ``paper`` at width 32: 9 (6 cells) to 21 (14 cells), and 3.4 GB of memory; both grow with the width

Expected Spearman with ``small`` on all ImageNet rows, 3 weight seeds:

  space      plain Eproxy  alpha = 0.5  MACs alone  parameters alone
  DARTS      .508          .835         .824        .805
  ENAS       .482          .824         .758        .739
  PNAS       .225          .688         .617        .537
  NASNet     .404          .598         .489        .468
  Amoeba     .693          .683         .387        .288
  ResNeXt-A  .715          .820         .786        .920
  ResNeXt-B  .704          .715         .718        .895

Pages: benchmarks/results/ranking_nds_*_small.md. Five settings fitted to 20 labels, with the sizes of the ImageNet
networks, reach a mean of .784 over the seven spaces. These sizes alone reach .66 and .69
(benchmarks/results/dps_nds.md).

Spaces: DARTS, ENAS, PNAS, NASNet, Amoeba, ResNet, ResNeXt-A, ResNeXt-B, Vanilla. ``--archs`` and ``--truth`` take the
files of NDS unchanged.
"""

from eproxy_jax import spaces
from eproxy_jax.cli import config as eproxy_config
from eproxy_jax.errors import did_you_mean

_CELL = {"small": {"width_divisor": 4}, "smoke": {"width_divisor": 16}}
_ANYNET = {"small": {"width_divisor": 4}, "smoke": {"width_divisor": 8}}
_WIDE_ANYNET = {"small": {"width_divisor": 4}, "smoke": {"width_divisor": 32}}

# By the name in the argument: registry name, sizes of the variants, pixels at size ``small``.
SPACES = {
    "DARTS": ("nds_darts", _CELL, 16),
    "ENAS": ("nds_enas", _CELL, 16),
    "PNAS": ("nds_pnas", _CELL, 16),
    "NASNet": ("nds_nasnet", _CELL, 16),
    "Amoeba": ("nds_amoeba", _CELL, 16),
    "ResNet": ("nds_resnet", _ANYNET, 16),
    "ResNeXt-A": ("nds_resnext_a", _ANYNET, 16),
    "ResNeXt-B": ("nds_resnext_b", _WIDE_ANYNET, 16),
    "Vanilla": ("nds_vanilla", _ANYNET, 16),
}


def get_config(argument: str = "paper"):
    """Return the configuration of ``SPACE,VARIANT``, or of ``VARIANT`` of DARTS."""
    label, _, variant = (argument if "," in argument else f"DARTS,{argument}").partition(",")
    if label not in SPACES:
        raise ValueError(f"unknown NDS space {label!r}{did_you_mean(label, SPACES)}; known: {', '.join(SPACES)}")
    space, sizes, small_image_size = SPACES[label]
    if space not in spaces.names():
        raise ValueError(f"the NDS space {label!r} needs the search space {space!r}, which is not registered")
    return eproxy_config.variant_config(space, variant, **sizes, small_image_size=small_image_size)
