"""The NDS cell spaces: real rows, published counts, rules, canonical forms, bad input, groups, operations."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, ROOT, SPACES, nds, pattern, slow_unless

from eproxy_jax import spaces
from eproxy_jax.cli import config
from eproxy_jax.nn import pooling, windowed
from eproxy_jax.spaces.nds_cells import budget, cell_ops, notation, program
from eproxy_jax.spaces.nds_cells.published_counts import counts

FILES = {
    "DARTS": "nds_darts",
    "DARTS_fix-w-d": "nds_darts",
    "DARTS_lr-wd": "nds_darts",
    "ENAS": "nds_enas",
    "PNAS": "nds_pnas",
    "NASNet": "nds_nasnet",
    "Amoeba": "nds_amoeba",
}
NAMES = sorted(set(FILES.values()))
DARTS = spaces.get("nds_darts")


@pytest.mark.parametrize("file", FILES)
def test_every_row(data, file):
    """Strings, canonical forms, and the parameters and flops that the files report, exactly."""
    space = spaces.get(FILES[file])
    rows = json.loads((data / "nds" / f"{file}_in.json").read_text())
    assert len(rows) >= 117
    groups = set()
    for row in rows:
        arch = space.parse(row["net"])
        assert space.parse(space.format(arch)) == arch == space.parse(json.loads(space.format(arch)))
        assert space.full_sizes(arch) == (row["flops"], row["params"])
        assert budget.fits(arch, space.rules)
        form = space.canonical(arch)
        assert space.canonical(form) == form
        assert space.macs(form) <= space.macs(arch) <= space.max_macs()
        group = space.group(form)
        assert group.executed_macs(form) == space.macs(form)
        groups.add(group)
    assert len(groups) <= 5


# --- the set of architectures --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_unless(("nds_darts", "nds_enas"), NAMES))
def test_samples_are_uniform_within_the_budget(name):
    space = spaces.get(name)
    drawn = space.sample(1500, 1)
    assert len(set(drawn)) == 1500
    assert drawn[:20] == space.sample(20, 1)
    assert max(map(space.macs, drawn)) <= space.max_macs()
    assert all(counts(arch, space.rules).params < 6_000_000 for arch in drawn)
    used = {op for arch in drawn for op, _ in (*arch.normal, *arch.reduce)}
    assert used == set(space.rules.ops)
    assert {arch.depth for arch in drawn} == {6, 10, 14, 18, 22}
    # What costs nothing is not favoured among small networks, where the budget excludes none.
    small = [arch for arch in drawn if arch.width == 32 and arch.depth == 6]
    share = np.mean([op == "max_pool_3x3" for arch in small for op, _ in arch.normal])
    assert abs(share - 1 / len(space.rules.ops)) < 0.06


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_are_one_change_away_and_mutual(name):
    space = spaces.get(name)
    (arch,) = space.sample(1, 5)
    around = space.neighbours(arch)
    assert len(set(around)) == len(around) > 50
    for other in around[::29]:
        edges = zip((*arch.normal, *arch.reduce), (*other.normal, *other.reduce), strict=True)
        changes = sum((a[0] != b[0]) + (a[1] != b[1]) for a, b in edges)
        assert changes + (arch.width != other.width) + (arch.depth != other.depth) == 1
        assert arch in space.neighbours(other)
        assert space.parse(space.format(other)) == other


def test_largest_network_within_the_budget_is_found():
    """Against all 4^4 normal cells of one that is small enough."""
    rules = dataclasses.replace(
        DARTS.rules, ops=("none", "avg_pool_3x3", "sep_conv_3x3", "dil_conv_5x5"), nodes=2, widths=(16,), depths=(6,),
        max_params=180_000,
    )  # fmt: skip
    best = 0
    for normal, reduce in itertools.product(itertools.combinations_with_replacement(rules.ops, 4), repeat=2):
        # Where operations with weights cost the same at both strides, what they read does not matter.
        arch = notation.NdsArch(tuple((op, 0) for op in normal), tuple((op, 0) for op in reduce), 16, 6)
        if budget.fits(arch, rules):
            best = max(best, program.macs(arch, rules, 16))
    assert best == budget.max_macs(rules, 1) > 0


def test_canonical_cells():
    def form(text):
        return notation.canonical_cell(nds(text, text).normal)

    base = "s3-0 s5-1 i-2 a3-0 n-0 s3-3 m3-1 d3-2"
    assert form(base) == form("s5-1 s3-0 i-2 a3-0 s3-3 n-2 m3-1 d3-2")  # order of a node's edges, input of ``none``
    assert form(base) == form("s3-0 s5-1 i-2 a3-0 m3-1 d3-2 n-0 s3-3")  # order of nodes
    assert form(base) != form("s3-0 s5-1 i-2 a3-0 n-0 s3-2 m3-1 d3-2")
    # Nothing is made of nothing, except by what has a bias.
    assert form("n-0 n-1 i-2 a3-2 m3-3 s3-0 s3-2 d3-3") == form("n-0 n-0 n-0 n-0 n-0 s3-0 s3-2 d3-3")


# --- bad input -----------------------------------------------------------------------------------------------

NET = json.loads(DARTS.format(CELLS["nds_darts"][0]))


def changed(**values):
    """The network with other values, ``genotype__KEY`` for those of the genotype; None takes one out."""
    net = {**NET, "genotype": dict(NET["genotype"])}
    for key, value in values.items():
        place, key = (net["genotype"], key[10:]) if key.startswith("genotype__") else (net, key)
        place[key] = value
        if value is None:
            del place[key]
    return net


def with_edge(place, edge):
    normal = list(NET["genotype"]["normal"])
    normal[place] = edge
    return changed(genotype__normal=normal)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "''; expected an object like"),
        ("[" * 100_000, "has more than 20 brackets within brackets; expected text like"),
        ("3", "'3'; expected an object like"),
        (None, "None; expected an object like"),
        ([1, 2], "expected an object like"),
        (changed(width=None, widht=3), "unknown key 'widht' .did you mean 'width'"),
        (changed(genotype=None, ds=[1]), "is an AnyNet of stages"),
        (changed(drop_prob=0.2), "drop_prob is 0.2; .* set it to 0"),
        (changed(width=0), "width is 0; expected a positive integer"),
        (changed(width=True), "width is True"),
        (changed(width="32"), "width is '32'"),
        (changed(depth=4), "depth is 4; expected 5 cells or more"),
        (changed(depth=6.0), "depth is 6.0"),
        (changed(genotype=3), "the genotype is 3"),
        (changed(genotype__reduce=None), "keys of the genotype: reduce missing"),
        (changed(genotype__normal=None, genotype__normals=[]), "unknown key 'normals' .did you mean 'normal'"),
        (changed(genotype__normal=NET["genotype"]["normal"][:6]), "a list of 6; expected a list of 8"),
        (changed(genotype__normal=7), "normal is 7, a int; expected a list of 8"),
        (changed(genotype__normal_concat=[2, 3, 4]), r"a cell's output is all nodes: \[2, 3, 4, 5\]"),
        (changed(genotype__normal_concat="all"), "normal_concat is 'all'"),
        (with_edge(3, ["sep_conv_3x3"]), r"normal\[3\] is \['sep_conv_3x3'\]; expected a pair"),
        (with_edge(3, ["sep_conv_4x4", 0]), r"normal\[3\]: unknown operation 'sep_conv_4x4' .did you mean"),
        (with_edge(3, ["conv_7x1_1x7", 0]), "unknown operation 'conv_7x1_1x7'.*this space has none, skip_connect"),
        (with_edge(3, [["none"], 0]), r"unknown operation \['none'\]"),
        (with_edge(3, ["none", 3]), r"input is 3 .a node cannot read itself or a later node.; node 3 reads 0 or 1"),
        (with_edge(0, ["none", -1]), "input is -1; node 2 reads 0 or 1, the cell's inputs$"),
        (with_edge(0, ["none", False]), "input is False"),
    ],
)
def test_bad_networks(source, message):
    with pytest.raises(ValueError, match=message) as error:
        DARTS.parse(source)
    assert "\n" not in str(error.value)


def test_loose_ends_are_the_output():
    space = spaces.get("nds_enas")
    net = json.loads(space.format(CELLS["nds_enas"][0]))
    assert net["genotype"]["normal_concat"] == [6]
    net["genotype"]["normal_concat"] = [5, 6]
    with pytest.raises(ValueError, match=r"output is the nodes that no other node reads: \[6\]"):
        space.parse(net)


# --- programs ------------------------------------------------------------------------------------------------


def test_groups_are_widths_and_little_else():
    for name in NAMES:
        space = spaces.get(name, width_divisor=4)
        groups = {space.group(arch) for arch in space.sample(200, 2)}
        assert len(groups) <= 10
        for arch in space.sample(10, 3):
            group = space.group(space.canonical(arch))
            assert group == space.group(arch)
            assert group.encode([arch]).shape == group.encode([space.sample(1, 0)[0]._replace(width=arch.width)]).shape
    deep = CELLS["nds_darts"][0]._replace(depth=30)
    assert DARTS.group(deep).places == 14
    with pytest.raises(ValueError, match="is not of the group"):
        DARTS.group(CELLS["nds_darts"][0]).encode([deep])


def test_a_program_that_cannot_be_indexed_is_refused():
    space = spaces.get("nds_darts")
    arch = CELLS["nds_darts"][0]._replace(width=4000)
    group = space.group(arch)
    images = jax.ShapeDtypeStruct((64, 64, 64, 3), jnp.float32)
    with pytest.raises(ValueError, match="do not fit on 64 images of 64x64"):
        jax.eval_shape(group.universal().init, jax.random.key(0), images, group.encode([arch])[0])


@pytest.mark.parametrize("name", ["nds_darts", "nds_nasnet"])
def test_bank_is_that_of_the_group(name):
    arch = CELLS[name][0]
    group = SPACES[name].group(arch)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(group.universal().init, jax.random.key(0), images, group.encode([arch])[0])
    assert shapes["params"]["kernels"].shape == (group.rows, group.width)


def test_config_names_every_nds_space():
    spec = config.build(config.load_config(f"{ROOT}/configs/nds.py:PNAS,small"))
    assert (spec.space.name, spec.space.width_divisor) == ("nds_pnas", 4)
    with pytest.raises(ValueError, match="unknown NDS space 'DART'.*did you mean 'DARTS'"):
        config.load_config(f"{ROOT}/configs/nds.py:DART,small")
    with pytest.raises(ValueError, match="unknown variant 'smal'"):
        config.load_config(f"{ROOT}/configs/nds.py:DARTS,smal")


# --- operations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 7])
def test_spatial_operations_equal_live_pytorch(x64, size):
    """Values and all gradients, at both strides and with ties."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import torch.nn.functional as F  # noqa: N812
    from peer import torch_reference as reference

    def check(ours, theirs, x, *kernels):
        y, pull = jax.vjp(jax.jit(ours), jnp.asarray(x), *map(jnp.asarray, kernels))
        t, weights = reference.tensor(x).requires_grad_(True), [torch.tensor(k).requires_grad_(True) for k in kernels]
        expected = theirs(t, *weights)
        np.testing.assert_allclose(y, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-8, atol=1e-9)
        grad = pattern(y.shape, 5)
        expected.backward(reference.tensor(grad))
        grad_x, *grads = pull(jnp.asarray(grad))
        np.testing.assert_allclose(grad_x, t.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-7, atol=1e-8)
        for g, weight in zip(grads, weights, strict=True):
            np.testing.assert_allclose(g, weight.grad.numpy(), rtol=1e-7, atol=1e-8)

    x = pattern((2, size, size, 3), 0)
    ties = np.round(pattern(x.shape, 0, 1.5))
    for stride in (1, 2):
        for k, dilation in ((3, 1), (7, 1), (5, 2)):
            check(
                lambda x, w, s=stride, d=dilation: windowed.depthwise_conv2d(x, w, s, d),
                lambda t, w, s=stride, d=dilation, k=k: F.conv2d(
                    t, w.permute(2, 0, 1)[:, None], stride=s, padding=k // 2 * d, dilation=d, groups=3
                ),
                x,
                pattern((k, k, 3), 1),
            )
        kernel = pattern((7, 3, 4), 2)
        check(
            lambda x, w, s=stride: windowed.line_conv(x, w, 1, s),
            lambda t, w, s=stride: F.conv2d(t, w.permute(2, 1, 0)[..., None], stride=(s, 1), padding=(3, 0)),
            x,
            kernel,
        )
        check(
            lambda x, w, s=stride: windowed.line_conv(x, w, 2, s),
            lambda t, w, s=stride: F.conv2d(t, w.permute(2, 1, 0)[:, :, None], stride=(1, s), padding=(0, 3)),
            x,
            kernel,
        )
        for k, values in itertools.product((3, 7), (x, ties)):
            check(
                lambda x, k=k, s=stride: windowed.max_pool(x, k, s),
                lambda t, k=k, s=stride: F.max_pool2d(t, k, s, k // 2),
                values,
            )
        check(
            cell_ops.weightless("avg_pool_3x3", stride),
            lambda t, s=stride: F.avg_pool2d(t, 3, s, 1, count_include_pad=False),
            x,
        )
    np.testing.assert_array_equal(pooling.max_pool_3x3(jnp.asarray(x)), windowed.max_pool(jnp.asarray(x), 3))
