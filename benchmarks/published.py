"""This module holds figures that others have published; benchmarks/reproduction.py sets ours beside them.

They stand as this project's notes have them from the papers. A source that the notes do not name is left empty, and the
page says so; no note names the table.
"""

from __future__ import annotations

from typing import NamedTuple

EPROXY = "Li et al., Extensible and Efficient Proxy for NAS, ICCV 2023"
GENNAS = "Li et al., Generic NAS via Regression, NeurIPS 2021"
AZ_NAS = "Lee, Ham, AZ-NAS, CVPR 2024"
VKDNW = "Tybl, Neumann, VKDNW, CVPR 2025"
LIBRA = "Casarin et al., L-SWAG and LIBRA, CVPR 2025"
ROBOT = "He et al., RoBoT, ICLR 2024"
UNKNOWN = ""

NB101, NB201 = "NAS-Bench-101", "NAS-Bench-201"
MICRO, MACRO, NDS = "TransNAS-Bench-101 micro", "TransNAS-Bench-101 macro", "NDS on ImageNet"
THREE = "CIFAR-10 / CIFAR-100 / ImageNet16-120"
ALL, LISTED = "all 15,625 strings, no labels", "9,445 strings without unreachable duplicates, no labels"
ONE, SEVEN, SPACES = "CIFAR-10", "mean of 7 tasks", "mean of 7 spaces"
SPEARMAN, REGRET, RANK = "Spearman", "test regret, %", "validation rank"


class Published(NamedTuple):
    """A published figure.

    Attributes:
      method: whose it is.
      source: the paper; empty where the notes do not name it.
      benchmark: what is ranked or searched.
      tasks: what the values are of, in order.
      measure: Spearman, where more is better; a regret or a rank, where less is.
      protocol: on which networks, with how many labels or queries.
      values: the figures.
    """

    method: str
    source: str
    benchmark: str
    tasks: str
    measure: str
    protocol: str
    values: tuple[float, ...]


# fmt: off
PUBLISHED = {
    "eproxy_dps_nds": Published("Eproxy + DPS", EPROXY, NDS, SPACES, SPEARMAN, "20 labels", (0.73,)),
    "gennas_101": Published("GenNAS", GENNAS, NB101, ONE, SPEARMAN, "500 networks", (0.85,)),
    "az_nas_all": Published("AZ-NAS", AZ_NAS, NB201, THREE, SPEARMAN, ALL, (0.913, 0.900, 0.886)),
    "az_nas": Published("AZ-NAS", VKDNW, NB201, THREE, SPEARMAN, LISTED, (0.892, 0.880, 0.859)),
    "vkdnw_agg": Published("VKDNW_agg", VKDNW, NB201, THREE, SPEARMAN, LISTED, (0.919, 0.919, 0.906)),
    "naswot": Published("NASWOT", UNKNOWN, NB201, THREE, SPEARMAN, "no labels", (0.77, 0.80, 0.78)),
    "zico": Published("ZiCo", UNKNOWN, NB201, THREE, SPEARMAN, "no labels", (0.80, 0.81, 0.79)),
    "synflow": Published("synflow", UNKNOWN, NB201, THREE, SPEARMAN, "no labels", (0.73, 0.76, 0.75)),
    "zico_101": Published("ZiCo", UNKNOWN, NB101, ONE, SPEARMAN, "no labels", (0.63,)),
    "zen_101": Published("Zen", UNKNOWN, NB101, ONE, SPEARMAN, "no labels", (0.63,)),
    "synflow_101": Published("synflow", UNKNOWN, NB101, ONE, SPEARMAN, "no labels", (0.35,)),
    "jacov_micro": Published("jacov", UNKNOWN, MICRO, SEVEN, SPEARMAN, "no labels", (0.56,)),
    "zen_micro": Published("Zen", UNKNOWN, MICRO, SEVEN, SPEARMAN, "no labels", (0.52,)),
    "macs_micro": Published("MACs", UNKNOWN, MICRO, SEVEN, SPEARMAN, "no labels", (0.45,)),
    "libra_micro": Published("LIBRA", LIBRA, MICRO, SEVEN, SPEARMAN, "a sum of proxies chosen for the space", (0.664,)),
    "libra_macro": Published("LIBRA", LIBRA, MACRO, SEVEN, SPEARMAN, "a sum of proxies chosen for the space", (0.829,)),
    "robot_201": Published("RoBoT", ROBOT, NB201, THREE, REGRET, "20 queries", (0.01, 0.00, 0.97)),
    "robot_micro": Published("RoBoT", ROBOT, MICRO, SEVEN, RANK, "100 queries", (16.0,)),
    "robot_macro": Published("RoBoT", ROBOT, MACRO, SEVEN, RANK, "100 queries", (4.0,)),
}
# fmt: on
