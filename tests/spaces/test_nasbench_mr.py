"""NAS-Bench-MR: its rules and notations, its rows, both of its groups against PyTorch."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from helpers import CELLS, SPACES, multires, pattern_images, pattern_tree, true_taps, used_params
from scipy import stats

from eproxy_jax import spaces
from eproxy_jax.runs.truth import read_truth
from eproxy_jax.spaces.nasbench_mr import interpreter, notation, program

SPACE = spaces.get("nasbench_mr")
ARCH = CELLS["nasbench_mr"][0]
WRITTEN = json.loads(SPACE.format(ARCH))


def changed(**values):
    return {**WRITTEN, **values}


def with_modules(*modules):
    return changed(inverted_residual_setting=list(modules))


STAGES = ([1, [1], [8]], [2, [1, 1], [8, 8]], [3, [1, 1, 1], [8, 8, 8]], [4, [1, 1, 1, 1], [8, 8, 8, 8]])


def test_notations():
    assert SPACE.parse(WRITTEN) == SPACE.parse(json.dumps(WRITTEN)) == SPACE.parse(list(WRITTEN.values())) == ARCH
    assert SPACE.format(ARCH).startswith('{"input_channel":[16,32],"inverted_residual_setting":[[1,[1],[24]],')
    numbers = notation.to_numbers(ARCH)
    assert len(numbers) == len(notation.CHOICES) == 27
    assert notation.from_numbers(numbers) == ARCH
    assert math.prod(map(len, notation.CHOICES)) == 2**80


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected a dict with .*like .*input_channel"),
        ("64-2311-basic", "'64-2311-basic'; expected a dict"),
        ("17", "expected a dict with input_channel, inverted_residual_setting, last_channel"),
        (None, "expected a dict with"),
        ([[16, 16], 16], "expected a dict with"),
        (
            {("last_chanel" if k == "last_channel" else k): v for k, v in WRITTEN.items()},
            "unknown key 'last_chanel' .did you mean 'last_channel'",
        ),
        ({k: v for k, v in WRITTEN.items() if k != "last_channel"}, "last_channel missing; expected an object like"),
        (changed(last_channel=12), "last_channel: expected a multiple of 8 from 8 to 128, got 12"),
        (changed(last_channel=[16]), r"last_channel: expected a multiple of 8 from 8 to 128, got \[16\]"),
        (changed(input_channel=16), "input_channel: expected a list of 2, the channels of the two stem conv.*got 16"),
        (changed(input_channel=[16, 136]), r"input_channel\[1\]: expected a multiple of 8 from 8 to 128, got 136"),
        (changed(input_channel=[True, 16]), r"input_channel\[0\]: expected a multiple of 8 .*got True"),
        (with_modules(), "expected a list of modules"),
        (changed(inverted_residual_setting="x"), "expected a list of modules"),
        (with_modules([1, [1]], *STAGES[1:]), r"setting\[0\]: expected \[branches, blocks, channels\]"),
        (with_modules(*STAGES[:3], [5, [1] * 5, [8] * 5]), r"setting\[3\] branches: expected an integer from 1 to 4"),
        (with_modules([1, [1, 2], [8]], *STAGES[1:]), r"setting\[0\] blocks: expected a list of 1, one a branch"),
        (with_modules([1, [5], [8]], *STAGES[1:]), r"blocks\[0\]: expected an integer from 1 to 4, got 5"),
        (with_modules([1, [1], [9]], *STAGES[1:]), r"channels\[0\]: expected a multiple of 8 from 8 to 128, got 9"),
        (with_modules(*STAGES[1:]), r"setting\[0\]: 2 branches after 0; modules start with 1 branch"),
        (with_modules(STAGES[0], *STAGES[2:]), r"setting\[1\]: 3 branches after 1; .*add at most one"),
        (with_modules(*STAGES, STAGES[0]), r"setting\[4\]: 1 branches after 4"),
        (with_modules(STAGES[0], [1, [2], [8]], *STAGES[1:]), r"setting\[1\]: differs from the module before it"),
        (with_modules(*STAGES[:3]), "ends with 3 branches; expected stages of 1, 2, 3 and 4"),
        (with_modules(*[STAGES[0]] * 5, *STAGES[1:]), "5 modules of 1 branches; expected 1 to 4 a stage"),
    ],
)
def test_bad_notation_says_where_and_how_to_fix(source, message):
    with pytest.raises(ValueError, match=message):
        SPACE.parse(source)


def test_bad_sizes_and_images():
    with pytest.raises(ValueError, match="channel_divisor: expected 1, 2, 4 or 8, got 3"):
        spaces.get("nasbench_mr", channel_divisor=3)
    with pytest.raises(ValueError, match="multiples of 8, got 12 x 16"):
        jax.eval_shape(SPACE.to_flax(ARCH).init, jax.random.key(0), jnp.zeros((1, 12, 16, 3)))


def test_samples_are_uniform_and_neighbours_mutual():
    drawn = SPACE.sample(300, 7)
    for place, choices in enumerate(notation.CHOICES):
        numbers = [notation.to_numbers(arch)[place] for arch in drawn]
        assert max(abs(numbers.count(choice) / 300 - 1 / len(choices)) for choice in choices) < 0.1
    around = SPACE.neighbours(drawn[0])
    assert len(set(around)) == len(around) == sum(len(choices) - 1 for choices in notation.CHOICES)
    assert drawn[0] not in around
    assert all(drawn[0] in SPACE.neighbours(arch) for arch in around[::20])
    assert all(SPACE.parse(SPACE.format(arch)) == arch for arch in around)


def test_counts():
    """By hand for the smallest network: two stem convolutions, fusions, 10 blocks of two convolutions, the end."""
    smallest = multires((8, 8), *((1, (1,) * i, (8,) * i) for i in (1, 2, 3, 4)), last=8)
    # Convolutions: 3x3 to level 0, 1, 2, 3 and 1x1 at level 1, 2, 3.
    blocks = np.array([8, 6, 4, 2])
    fusions = np.array([4, 5, 3, 1])  # from the same level, or from the one above
    assert len(program.conv_sequence(smallest).steps) == 1 + blocks.sum() + fusions.sum() + 2 + 1
    large, small = blocks + fusions + np.array([1, 0, 0, 0]), np.array([0, 2, 1, 0])
    positions = 1024 // 4 ** np.arange(4)
    stem, end = 27 * 8, 32 * 8
    assert SPACE.macs(smallest) == 64 * positions @ (9 * large + small) + 1024 * stem + 64 * end
    assert SPACE.params(smallest) == (64 * (9 * large + small) + 16 * (large + small)).sum() + stem + end + 2 * 16
    assert (
        SPACE.macs(program.LARGEST)
        == SPACE.max_macs()
        == max(map(SPACE.macs, [*SPACE.sample(100, 0), program.LARGEST]))
    )
    quarter = spaces.get("nasbench_mr", channel_divisor=4)
    assert 15 < SPACE.macs(ARCH) / quarter.macs(ARCH) < 16  # the first convolution's inputs stay three


@pytest.mark.slow
def test_every_row_of_the_data(data):
    """Round trip, groups and work of all rows, and the published trends: FACTS of MACs and parameters per task."""
    expected = {
        "seg": (0.51, 0.60), "seg-4x": (0.45, 0.37), "3ddet": (0.41, 0.34), "cls-50-1000": (0.54, 0.55),
        "cls-10-1000": (-0.13, -0.15), "cls-10c": (-0.06, -0.02), "cls-50-100": (-0.30, -0.30),
        "video": (-0.31, -0.33), "video-p": (-0.31, -0.33),
    }  # fmt: skip
    paths = {path.stem: path for path in (data / "nasbench_mr").glob("*.json")}
    assert set(paths) == set(expected)
    truths = {task: read_truth(paths[task], SPACE) for task in expected}
    archs = list(truths["seg"])
    assert len(archs) == 2507
    assert all(SPACE.parse(SPACE.format(arch)) == arch for arch in archs)
    macs, params = np.array([SPACE.macs(arch) for arch in archs]), [SPACE.params(arch) for arch in archs]
    assert macs.max() <= SPACE.max_macs()
    for task, correlations in expected.items():
        assert set(truths[task]) == set(archs)
        values = [truths[task][arch] for arch in archs]
        for counts, correlation in zip((macs, params), correlations, strict=True):
            assert stats.spearmanr(counts, values)[0] == pytest.approx(correlation, abs=0.0065)
    groups = [SPACE.group(arch) for arch in archs]
    assert [groups.count(group) for group in sorted(set(groups), key=groups.count)] == [227, 2280]
    executed = np.array([group.executed_macs(arch) for group, arch in zip(groups, archs, strict=True)])
    assert np.all(executed >= macs)
    assert executed.sum() / macs.sum() == pytest.approx(1.146, abs=1e-3)
    assert np.mean(executed / macs) == pytest.approx(1.292, abs=1e-3)


def test_both_groups_equal_live_pytorch(x64):
    """Networks of all depths and widths in two compiled programs; the largest one is of the second group."""
    pytest.importorskip("torch", reason="torch is not installed")
    space, images = SPACES["nasbench_mr"], pattern_images(4, 16)
    archs = [*space.sample(2, 5), program.LARGEST]
    assert sorted({interpreter.capacity_of(arch) for arch in archs}) == [0, 1]
    apply = jax.jit(lambda universal, *arguments: universal.apply(*arguments), static_argnums=0)
    for arch in archs:
        group = space.group(arch)
        universal, encoded = group.universal(jnp.float64), jnp.asarray(group.encode([arch])[0])
        shapes = jax.eval_shape(lambda e, u=universal: u.init(jax.random.key(0), images, e), encoded)
        params = used_params(group, arch, pattern_tree(shapes["params"]))
        ours = true_taps(apply(universal, {"params": params}, images, encoded))
        for a, b in zip(ours, parity.torch_taps(SPACE.name, arch, params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)
