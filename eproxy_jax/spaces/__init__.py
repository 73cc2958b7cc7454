"""Search spaces, one room each, behind one base class (:class:`SearchSpace`) and one registry.

Importing this package registers the built-in spaces; :func:`get` returns one by name.
"""

from eproxy_jax.spaces.base import (
    Group,
    SearchSpace,
    arch_identity,
    effective_macs,
    get,
    macs_fractions,
    names,
    register,
    size_measures,
)
from eproxy_jax.spaces.flax_family import FlaxFamily, from_flax
from eproxy_jax.spaces.nasbench101.space import NasBench101
from eproxy_jax.spaces.nasbench201.space import NasBench201
from eproxy_jax.spaces.nasbench_mr.space import NasBenchMr
from eproxy_jax.spaces.nats_size.space import NatsSize
from eproxy_jax.spaces.nds_anynet.space import NdsResNet, NdsResNextA, NdsResNextB, NdsVanilla
from eproxy_jax.spaces.nds_cells.darts import Darts
from eproxy_jax.spaces.nds_cells.space import NdsAmoeba, NdsDarts, NdsEnas, NdsNasnet, NdsPnas
from eproxy_jax.spaces.transnas.macro import TransNasMacro
from eproxy_jax.spaces.transnas.micro import TransNasMicro

__all__ = [
    "Darts",
    "FlaxFamily",
    "Group",
    "NasBench101",
    "NasBench201",
    "NasBenchMr",
    "NatsSize",
    "NdsAmoeba",
    "NdsDarts",
    "NdsEnas",
    "NdsNasnet",
    "NdsPnas",
    "NdsResNet",
    "NdsResNextA",
    "NdsResNextB",
    "NdsVanilla",
    "SearchSpace",
    "TransNasMacro",
    "TransNasMicro",
    "arch_identity",
    "effective_macs",
    "from_flax",
    "get",
    "macs_fractions",
    "names",
    "register",
    "size_measures",
]
