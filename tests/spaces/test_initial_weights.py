"""Initial weights of every space: each kernel is scaled by its own fans, whatever it is padded to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, SPACES, deviation, pattern_images, slow_unless, used_params

from eproxy_jax import spaces
from eproxy_jax.nn import initializers
from eproxy_jax.spaces.nds_cells import program
from eproxy_jax.spaces.nds_cells.notation import NdsArch

# Kernels with more numbers than those of the smallest sizes.
WIDER = {
    "nasbench101": spaces.get("nasbench101", stem_channels=24, modules_per_stack=1),
    "nasbench_mr": spaces.get("nasbench_mr", channel_divisor=2),
}
# One of each kind of universal module.
QUICK = ("nasbench101", "nasbench201", "nasbench_mr", "nds_darts", "nds_resnext_a", "transnas_macro")
# Banks whose padding starts at zero, to stay there.
ZERO_PADDED = ("nasbench_mr", "nds_resnet", "nds_resnext_a", "nds_resnext_b", "nds_vanilla")


def factorised(cell) -> tuple[str, ...]:
    """Where NDS cells have two convolutions of half the channels side by side, in one kernel."""
    if not isinstance(cell, NdsArch):
        return ()
    found = []
    for number, (stage, place, inputs) in enumerate(program.cells(cell.depth)):
        if stage > 0 and place == 0:
            skips = [edge for edge, (op, source) in enumerate(cell.reduce) if op == "skip_connect" and source < 2]
            found += [f"['cell{number}']['edge{edge}']" for edge in skips]
        else:
            found += [f"['cell{number}']['input{side}']" for side, (of, _) in enumerate(inputs) if of != stage]
    return tuple(found)


@functools.cache
def initialiser(group):
    """(encoded, index of the initialiser) -> parameters, one program a group."""
    universal, images = group.universal(), jnp.asarray(pattern_images(2, 8), jnp.float32)
    return jax.jit(lambda encoded, kind: universal.init(jax.random.key(0), images, encoded, kind)["params"])


@pytest.mark.parametrize(
    ("name", "number"), slow_unless(QUICK, [(name, number) for name in SPACES for number in range(len(CELLS[name]))])
)
def test_fans_are_true(name, number):
    space, cell = WIDER.get(name, SPACES[name]), CELLS[name][number]
    group = space.group(cell)
    encoded, halves = jnp.asarray(group.encode([cell])[0]), factorised(cell)
    for kind, init in enumerate(initializers.INITS):
        params = jax.device_get(initialiser(group)(encoded, kind))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
        if name in ZERO_PADDED:
            np.testing.assert_array_equal(used_params(group, cell, params)["kernels"], params["kernels"])
        own = group.extract(cell, params)
        assert sum(leaf.size for leaf in jax.tree.leaves(own)) == space.params(cell)
        for path, kernel in jax.tree_util.tree_leaves_with_path(own):
            where = f"{init} {jax.tree_util.keystr(path)}"
            if "kernel" not in where:
                continue
            fan_in, fan_out = np.prod(kernel.shape[:3]), np.prod(kernel.shape[:2]) * kernel.shape[3]
            spread = deviation(init, fan_in, fan_out // 2 if jax.tree_util.keystr(path).startswith(halves) else fan_out)
            # Six standard errors of the mean square, whose kurtosis is at most that of the normal.
            assert abs((kernel**2).mean() / spread**2 - 1) < 6 * np.sqrt(2 / kernel.size), where
            if not init.endswith("normal"):
                bound = np.sqrt(3) * spread
                assert (0.8 if kernel.size > 50 else 0) * bound < np.abs(kernel).max() <= bound * (1 + 1e-6), where
