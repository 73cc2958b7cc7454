"""Tiny spaces, settings and deterministic weights for the tests."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from eproxy_jax import spaces
from eproxy_jax.nn import layers
from eproxy_jax.spaces.cells.graph import Cell
from eproxy_jax.spaces.nds_anynet.notation import AnyNetArch
from eproxy_jax.spaces.nds_cells.notation import NdsArch
from eproxy_jax.types import ProxySettings

ROOT = Path(__file__).resolve().parents[1]
INPUTS = Path(os.environ.get("EPROXY_INPUTS", ROOT.parent / "shared" / "inputs"))


def real_input(name: str) -> Path:
    """The path of a real-world input, or a skip where the folder of inputs is absent."""
    if not INPUTS.is_dir():
        pytest.skip(f"no real-world inputs at {INPUTS}: set EPROXY_INPUTS to their folder")
    return INPUTS / name


class Table(dict):
    """One entry for every registered space; a missing one says what to add."""

    def __init__(self, what: str, entries: dict):
        super().__init__(entries)
        self.what = what

    def __missing__(self, name: str):
        raise LookupError(f"the search space {name!r} is not tested: add {self.what} in tests/helpers.py")


SPACES = Table("a tiny instance of it to SPACES", {
    # Five channels divide by no number of vertices: remainders and truncation everywhere.
    "nasbench101": spaces.get("nasbench101", stem_channels=5, modules_per_stack=1),
    "nasbench201": spaces.get("nasbench201", stem_channels=4, cells_per_stage=1),
    "nds_resnet": spaces.get("nds_resnet", stem_channels=4, width_divisor=8),
    "nds_resnext_a": spaces.get("nds_resnext_a", stem_channels=4, width_divisor=8),
    "nds_resnext_b": spaces.get("nds_resnext_b", stem_channels=4, width_divisor=32),
    "nds_vanilla": spaces.get("nds_vanilla", stem_channels=4, width_divisor=8),
    "nasbench_mr": spaces.get("nasbench_mr", channel_divisor=8),
    "nats_size": spaces.get("nats_size", channel_divisor=4),
    "darts": spaces.get("darts", width_divisor=16, width=32, depth=5),
    "nds_amoeba": spaces.get("nds_amoeba", width_divisor=16),
    "nds_darts": spaces.get("nds_darts", width_divisor=16),
    "nds_enas": spaces.get("nds_enas", width_divisor=16),
    "nds_nasnet": spaces.get("nds_nasnet", width_divisor=16),
    "nds_pnas": spaces.get("nds_pnas", width_divisor=16),
    "transnas_micro": spaces.get("transnas_micro", stem_channels=4, macro="4141"),
    "transnas_macro": spaces.get("transnas_macro", stem_channels=4),
})  # fmt: skip


def anynet(depths, widths, bot_muls=(), num_gs=(), cifar=False):
    """An AnyNet from its stages: residual or plain without multipliers, else ResNeXt."""
    if bot_muls:
        return AnyNetArch((1, *depths), (64, *widths), (8, 1, 2, 2), (1.0, *bot_muls), (1, *num_gs))
    return AnyNetArch((1, *depths), (16, *widths), (1, 1, 2, 2) if cifar else (4, 1, 2, 2, 2))


def dag_cell(edges: str, ops: str):
    """A NAS-Bench-101 cell from edges like ``01 12`` and one letter a vertex: 1 and 3 convolutions, m max pool."""
    names = {"1": "conv1x1-bn-relu", "3": "conv3x3-bn-relu", "m": "maxpool3x3"}
    pairs = {(int(i), int(j)) for i, j in edges.split()}
    size = len(ops) + 2
    matrix = tuple(tuple(int((i, j) in pairs) for j in range(size)) for i in range(size))
    return matrix, ("input", *(names[op] for op in ops), "output")


def multires(entering, *stages, last):
    """A NAS-Bench-MR architecture from (number of modules, blocks, channels) of each stage."""
    modules = [(i, blocks, channels) for i, (count, blocks, channels) in enumerate(stages, 1) for _ in range(count)]
    return entering, tuple(modules), last


def nds(normal: str, reduce: str, width: int = 64, depth: int = 5):
    """An NDS network from edges like ``s3-0``: letters of an operation, its size, and what it reads."""
    names = {
        "n": "none", "i": "skip_connect", "m": "max_pool_{0}x{0}", "a": "avg_pool_{0}x{0}", "s": "sep_conv_{0}x{0}",
        "d": "dil_conv_{0}x{0}", "ds": "dil_sep_conv_{0}x{0}", "c": "conv_{0}x{0}", "l": "conv_{0}x1_1x{0}",
    }  # fmt: skip

    def cell(text: str):
        edges = [edge.split("-") for edge in text.split()]
        return tuple((names[op.rstrip("1357")].format(op[-1]), int(source)) for op, source in edges)

    return NdsArch(cell(normal), cell(reduce), width, depth)


# Cells that between them use every operation, dead edges, shared nodes and the zero network; macro codes of every
# length with every digit, a last 4, maps of one pixel and the widest ones.
CELLS = Table("architectures that use every operation of it to CELLS", {
    "nasbench101": [
        dag_cell("01 02 13 24 14 15 35 45 05", "3m13"),  # three vertices share the output, input to output
        dag_cell("01 12 23 03 34 14 46 35 56", "1m3m1"),  # two share it, others only feed vertices, pool at the end
        dag_cell("01 12 24 02 13", "mm3"),  # a dead vertex
        dag_cell("01 02 03 04 15 25 35 45 12", "31m3"),  # four share it
        dag_cell("01", ""),  # no interior vertex
    ],
    "nasbench201": list(map(Cell, [(3, 1, 2, 4, 3, 1), (2, 3, 4, 1, 0, 3), (0, 4, 3, 2, 1, 1), (0, 0, 0, 0, 0, 0)])),
    # Several tiles and parts of one, identity and projected shortcuts, an identity behind the stem, three stages.
    "nds_resnet": [anynet((2, 1, 1, 2), (32, 96, 48, 16)), anynet((1, 2, 1), (24, 72, 16), cifar=True)],
    # Groups narrower than a tile, of the tile's width and wider, alone and together, and hidden widths rounded up.
    "nds_resnext_a": [
        anynet((1, 2, 1), (128, 64, 256), (0.5, 1.0, 1.0), (4, 2, 2)),
        anynet((2, 1, 1), (32, 16, 64), (1.0, 0.25, 1.0), (4, 2, 1)),
    ],
    "nds_resnext_b": [anynet((1, 1, 2), (64, 1024, 256), (0.25, 0.5, 1.0), (16, 2, 8))],
    "nds_vanilla": [anynet((1, 2, 1, 1), (64, 96, 16, 48))],
    "nasbench_mr": [
        multires(
            (16, 32), (2, (1,), (24,)), (1, (1, 1), (32, 16)), (1, (1, 1, 2), (16, 40, 128)),
            (1, (1, 1, 1, 1), (24, 32, 16, 48)), last=40,
        )
    ],
    # Widths that grow, shrink and stay: with and without a convolution on the skip of a cell.
    "nats_size": [(8, 16, 24, 24, 24), (24, 16, 16, 8, 16)],
    # All operations between them (NASNet's at both strides), one or several outputs; few with weights: less to compile.
    "nds_amoeba": [
        nds("ds3-0 i-1 m3-2 a3-0 a3-1 i-3 s5-2 i-0 i-4 i-0", "ds3-0 i-1 m3-0 a3-1 a3-0 m3-1 i-2 m3-0 m3-3 i-2")
    ],
    "nds_darts": [nds("n-0 s3-1 d3-0 i-2 m3-1 d5-3 a3-2 s5-0", "i-0 s3-1 d3-0 n-1 m3-1 d5-0 a3-2 s5-3", 50, 5)],
    "darts": [nds("i-0 s3-1 d3-0 m3-2 d5-3 a3-1 s5-0 s3-4", "i-0 s3-1 d3-0 m3-1 d5-0 a3-2 s5-3 i-2", 32, 5)],
    "nds_enas": [nds("s3-0 a3-1 i-2 a3-0 m3-3 i-2 i-3 s5-4 m3-5 i-5", "m3-1 a3-0 a3-1 i-0 i-0 m3-0 s3-2 i-2 i-2 a3-3")],
    "nds_nasnet": [
        nds("c1-0 c3-1 l3-0 l7-1 m5-0 m7-2 s7-1 d3-3 i-4 a3-0", "c1-0 c3-1 l3-0 l7-1 m5-0 m7-1 s7-0 d3-0 i-1 s5-2"),
    ],
    "nds_pnas": [nds("i-0 l7-1 m3-2 a3-0 m3-3 i-1 i-4 s7-0 i-2 i-5", "i-1 l7-0 m3-1 a3-2 m3-0 a3-1 m3-0 i-3 i-4 i-5")],
    "transnas_micro": list(map(Cell, [(3, 1, 2, 1, 3, 1), (1, 2, 3, 0, 1, 3), (0, 0, 3, 2, 1, 1), (0, 0, 0, 0, 0, 0)])),
    "transnas_macro": [(1, 2, 3, 1), (1, 1, 1, 4, 4), (2, 2, 2, 1, 1, 3), (3, 3, 3, 4, 2, 1)],
})  # fmt: skip
# One space of each kind of program that compiles fast; tests of what holds for all are slow on the others.
QUICK = ("nasbench201", "nds_resnext_a")


def slow_unless(quick, cases):
    """Cases for ``pytest.mark.parametrize``, tuples or single values, marked slow where the first value is not quick."""
    tuples = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=() if case[0] in quick else pytest.mark.slow) for case in tuples]


TINY = ProxySettings.from_dict({"branches": [{"transform_channels": 8, "target_channels": 4}]})
THREE_BRANCHES = ProxySettings.from_dict(
    {
        "lr": 0.9,
        "branches": [
            {"features": ["net", "wave_l"], "transform_channels": 8, "target_channels": 4},
            {"features": ["wave_m", "dot"], "transform_kernel": 3, "barrier_kernel": 1, "transform_channels": 4,
             "target_channels": 8, "level": 0.5},
            {"features": ["wave_h"], "transform_kernel": 7, "barrier_kernel": 7, "transform_channels": 4,
             "target_channels": 4, "level": 2.0},
        ],
    }
)  # fmt: skip


def true_taps(taps) -> list:
    """Feature taps of a universal module without padding: resized ones, where their width is data."""
    return [t.features[..., : int(t.channels)] if isinstance(t, layers.PaddedTap) else t for t in taps]


def used_params(group, arch, params):
    """Parameters of a universal module with zeros where ``arch`` uses none: what is padded starts there and stays."""
    leaves, treedef = jax.tree.flatten(params)
    ends = np.cumsum([leaf.size for leaf in leaves])
    places = [np.arange(end - leaf.size, end).reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)]
    used = np.zeros(ends[-1], bool)
    for kept in jax.tree.leaves(group.extract(arch, jax.tree.unflatten(treedef, places))):
        used[np.asarray(kept)] = True
    masked = [np.asarray(leaf) * used[place] for leaf, place in zip(leaves, places, strict=True)]
    return jax.tree.unflatten(treedef, masked)


def tap_params(space, arch, params):
    """Parameters of a universal proxy network with the input channels of its transforms that ``arch`` uses."""
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    taps = jax.eval_shape(lambda x: space.to_flax(arch).init_with_output(jax.random.key(0), x)[0], images)
    cut = dict(params)
    for branch, tap in enumerate(taps):
        if f"transform{branch}" in params:
            transform = params[f"transform{branch}"]
            kernel = transform["conv"]["kernel"][:, :, : tap.shape[-1]]
            cut[f"transform{branch}"] = {**transform, "conv": {**transform["conv"], "kernel": kernel}}
    return cut


def deviation(initialiser: str, fan_in: float, fan_out: float) -> float:
    """Standard deviation of PyTorch's initialisers."""
    return {
        "default": (1 / (3 * fan_in)) ** 0.5,
        "xavier_uniform": (2 / (fan_in + fan_out)) ** 0.5,
        "xavier_normal": (2 / (fan_in + fan_out)) ** 0.5,
        "kaiming_uniform": (2 / fan_out) ** 0.5,
        "kaiming_normal": (2 / fan_out) ** 0.5,
    }[initialiser]


def pattern(shape, number: int, scale: float = 0.5) -> np.ndarray:
    """Deterministic float64 numbers that need no random generator; ``number`` tells leaves apart."""
    flat = np.sin(12.9898 * (np.arange(np.prod(shape, dtype=int)) + 1) + 78.233 * (number + 1))
    return scale * flat.reshape(shape)


def pattern_tree(tree):
    """The tree's shapes filled with :func:`pattern`; scales near one so that batch norms stay alive."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    filled = []
    for number, (path, leaf) in enumerate(leaves):
        is_scale = "scale" in jax.tree_util.keystr(path)
        filled.append(pattern(leaf.shape, number, 0.2) + (1.0 if is_scale else 0.0))
    return jax.tree_util.tree_unflatten(treedef, filled)


def pattern_images(num: int = 4, size: int = 8) -> np.ndarray:
    """Deterministic float64 images."""
    return pattern((num, size, size, 3), 1000, 1.5)
