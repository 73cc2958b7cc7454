"""NDS AnyNets: rules and notation, the official counts, tiles and groups, initialisation, padding that stays zero."""

import collections
import json

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
from helpers import CELLS, SPACES, TINY, anynet, pattern_images

from eproxy_jax import proxy, spaces
from eproxy_jax.spaces.nds_anynet import interpreter, program
from eproxy_jax.spaces.nds_anynet.space import AnyNetGroup, _largest
from eproxy_jax.types import TARGET_SIZE

NAMES = ["nds_resnet", "nds_resnext_a", "nds_resnext_b", "nds_vanilla"]
CELLS_OF = [(name, arch) for name in NAMES for arch in CELLS[name]]
FILES = {
    "ResNeXt-A_in": ("nds_resnext_a", 130),
    "ResNeXt-B_in": ("nds_resnext_b", 164),
    "ResNet_lr-wd_in": ("nds_resnet", 494),
    "Vanilla_lr-wd_in": ("nds_vanilla", 500),
    "ResNet_reruns": ("nds_resnet", 200),
    "Vanilla_reruns": ("nds_vanilla", 200),
}
EXAMPLE = (
    '{"block_type":"res_bottleneck_block","bot_muls":[1.0,0.25,0.5,1.0],"ds":[1,1,2,16],"num_gs":[1,4,2,1],'
    '"ss":[8,1,2,2],"ws":[64,16,32,256]}'
)


@pytest.mark.parametrize("file", FILES)
def test_every_published_row(data, file):
    """Round trip, parameters and FLOPs of every row; one program serves many, and executes little in vain."""
    name, count = FILES[file]
    space = spaces.get(name)
    rows = json.loads((data / "nds" / f"{file}.json").read_text())
    rows = [row for part in rows.values() for row in part] if isinstance(rows, dict) else rows
    assert len(rows) == count
    padding, groups = [], collections.Counter()
    for row in rows:
        arch = space.parse(row["net"])
        text = space.format(arch)
        assert json.loads(text) == row["net"]
        assert space.parse(text) == space.parse(arch) == arch
        assert space.full_sizes(arch) == (row["flops"], row["params"])
        arch = space.canonical(arch)
        groups[space.group(arch)] += 1
        padding.append(space.group(arch).executed_macs(arch) / space.macs(arch))
    assert len(groups) <= 4
    assert {group.capacity for group in groups} == {0}
    assert min(padding) >= 1
    assert np.mean(padding) < 1.15


def test_sizes_of_the_design_spaces():
    """The numbers of architectures that the paper gives for the ResNeXt spaces."""
    assert spaces.get("nds_resnext_a").rules[0].size == 11_390_625
    assert spaces.get("nds_resnext_b").rules[0].size == 52_734_375


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_uniform_and_neighbours_mutual(name):
    space = spaces.get(name)
    rules = space.rules[0]
    drawn = space.sample(600, 7)
    for field in rules.free_fields:
        for place in range(1, len(rules.strides)):
            found = collections.Counter(getattr(arch, field)[place] for arch in drawn)
            choices = rules.choices(field)
            assert set(found) == set(choices)
            assert max(abs(found[choice] / 600 - 1 / len(choices)) for choice in choices) < 0.09
    for arch in (drawn[0], CELLS[name][-1]):
        around = space.neighbours(arch)
        assert len(set(around)) == len(around) > 0
        assert arch not in around
        assert all(space.parse(other) == other for other in around)
        assert all(arch in space.neighbours(other) for other in around[::7])
        assert all(sum(a != b for a, b in zip(arch, other, strict=True)) == 1 for other in around)


def changed(**fields):
    """The example as a dict with other fields; None takes one out."""
    return {key: value for key, value in (json.loads(EXAMPLE) | fields).items() if value is not None}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("64-2311-basic", "nds_resnext_a: '64-2311-basic'; expected .*like {\"block_type\""),
        ("[1, 2", "is no literal: expected a value at character 5, found the end; .*like .*block_type"),
        ("17", "expected the official 'net'"),
        (None, "expected the official 'net'"),
        ([[1, 2], [3]], "expected the official 'net'"),
        (changed(ds=None, ws=None), "ds, ws missing; expected the keys block_type, ds, ws"),
        (changed(ds=None, genotype=3), "ds missing; expected the keys block_type"),
        (changed(num_gs=None, num_g=[1]), "unknown key 'num_g' .did you mean 'num_gs'"),
        (changed(block_type="res_basic_block"), "block_type is 'res_basic_block'; expected 'res_bottleneck_block'"),
        (changed(ss=[8, 1, 2]), r"ss is \[8, 1, 2\]; expected \[8, 1, 2, 2\] or \[1, 1, 2, 2\]"),
        (changed(ss=[4, 1, 2, 2, 2]), r"ss is \[4, 1, 2, 2, 2\]"),
        (changed(ds=[1, 1, 2]), "ds has 3 entries; expected 4, the stem's and one a stage"),
        (changed(num_gs=[1, 4, 2, 1, 1]), "num_gs has 5 entries; expected 4"),
        (changed(ds=[1, 1, 2, 3]), r"ds\[3\] is 3; allowed for stage 3: 1, 2, 4, 8, 16"),
        (changed(ds=[2, 1, 2, 2]), r"ds\[0\] is 2; allowed for the stem: 1"),
        (changed(ws=[64, 16, 48, 256]), r"ws\[2\] is 48; allowed for stage 2: 16, 32, 64, 128, 256"),
        (changed(ws=[64, 16, 32, 512]), r"ws\[3\] is 512"),
        (changed(ws=[32, 16, 32, 256]), r"ws\[0\] is 32; allowed for the stem: 64"),
        (changed(bot_muls=[1.0, 0.3, 0.5, 1.0]), r"bot_muls\[1\] is 0.3; allowed for stage 1: 0.25, 0.5, 1.0"),
        (changed(num_gs=[1, 3, 2, 1]), r"num_gs\[1\] is 3; allowed for stage 1: 1, 2, 4"),
        (changed(num_gs=[1, 8, 2, 1]), r"num_gs\[1\] is 8"),
        (changed(ds=[1, 1, 2, 2.5]), r"ds is \[1, 1, 2, 2.5\]; expected a list of integers"),
        (changed(ds=[1, 1, True, 2]), "expected a list of integers"),
        (changed(ws="64"), "ws is '64'; expected a list of integers"),
        (changed(bot_muls=[1.0, "a", 1, 1]), "expected a list of numbers, the stem's entry first"),
        (changed(bot_muls=[], num_gs=[]), "bot_muls has 0 entries"),
    ],
)
def test_bad_input_says_what_and_how_to_fix(source, message):
    with pytest.raises(ValueError, match=message) as error:
        spaces.get("nds_resnext_a").parse(source)
    assert "\n" not in str(error.value)


def test_blocks_without_bottlenecks_have_no_such_fields():
    space = spaces.get("nds_resnet")
    net = json.loads(space.format(space.sample(1, 0)[0]))
    with pytest.raises(ValueError, match=r"num_gs is \[1, 1\]; blocks of this space have no such field, write \[\]"):
        space.parse(net | {"num_gs": [1, 1]})
    with pytest.raises(ValueError, match="allowed for stage 1: 16, 24, ..., 256"):
        space.parse(anynet((1, 1, 1), (20, 16, 16), cifar=True))
    with pytest.raises(ValueError, match="622,080,000 architectures, too many to enumerate: sample some"):
        space.enumerate()


def test_notation():
    space = spaces.get("nds_resnext_a")
    arch = space.parse(EXAMPLE)
    assert space.format(arch) == EXAMPLE
    assert arch == space.parse(json.loads(EXAMPLE)) == space.parse([list(field) for field in arch])
    assert space.parse(changed(bot_muls=[1, 0.25, 0.5, 1])) == arch


def test_canonical_form_is_what_is_built():
    """Stems of the benchmark are not built; a divisor may make bottlenecks equal."""
    space = spaces.get("nds_resnext_a")
    arch = space.parse(EXAMPLE)
    assert space.canonical(arch) == arch
    assert space.canonical(arch._replace(ss=(1, 1, 2, 2), ws=(16, *arch.ws[1:]))) == arch
    resnet = anynet((2, 1, 1, 2), (32, 96, 48, 16))
    assert spaces.get("nds_resnet").canonical(resnet._replace(ws=(64, *resnet.ws[1:]))) == resnet
    small = spaces.get("nds_resnext_a", width_divisor=4)
    for mul in (0.25, 0.5, 1.0):
        equal = arch._replace(bot_muls=(1.0, mul, 0.5, 1.0))
        assert small.canonical(equal).bot_muls == (1.0, 0.25, 0.5, 1.0)
        assert small.macs(equal) == small.macs(small.canonical(equal))
        assert space.canonical(equal) == equal
    for name in NAMES:
        for form in map(SPACES[name].canonical, SPACES[name].sample(50, 1)):
            assert SPACES[name].canonical(form) == form


@pytest.mark.parametrize("name", NAMES)
def test_max_macs_is_the_largest(name):
    for space in (SPACES[name], spaces.get(name)):
        largest = _largest(space.rules[0])
        assert space.max_macs() == space.macs(largest)
        assert all(space.macs(arch) <= space.max_macs() for arch in [*space.sample(100, 2), *space.neighbours(largest)])


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="width_divisor: expected a positive integer, got 0"):
        spaces.get("nds_resnext_b", width_divisor=0)


# --- tiles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [4, 8])
@pytest.mark.parametrize(
    ("channels", "groups"), [(12, 1), (3, 1), (16, 4), (16, 16), (12, 4), (24, 2), (10, 2), (8, 2)]
)
def test_channels_lie_in_tiles_of_their_groups(channels, groups, tile):
    lanes = program.lanes(channels, groups, tile)
    assert len(set(lanes)) == channels
    assert lanes.max() < program.num_tiles(channels, groups, tile) * tile
    tiles = lanes.reshape(groups, -1) // tile
    for group in range(groups):
        shares = [other for other in range(groups) if set(tiles[other]) & set(tiles[group])]
        assert shares == [group] or (len(set(tiles[group])) == 1 and channels // groups < tile)
    table_lane, table_tile = np.meshgrid(np.arange(tile), np.arange(tiles.max() + 1))
    exists = program._exists(table_lane, table_tile, np.int32(channels), np.int32(groups), tile)
    assert set(np.flatnonzero(np.asarray(exists))) == set(lanes)


@pytest.mark.parametrize("tile", [8, 16])
@pytest.mark.parametrize(("name", "arch"), CELLS_OF)
def test_tables_lay_arrays_side_by_side(name, arch, tile):
    """Nothing is written over what is still needed, and all of it has room."""
    space = SPACES[name]
    group = AnyNetGroup(space, tile, 1)
    module, chain = group.universal(), space.chain(arch)
    assert group.has_room(chain)
    table = interpreter.Instructions(*group.encode([arch])[0])
    machine = module._machine((2, 16, 16, 4))
    network = interpreter.placed(machine, interpreter.Instructions(*map(jnp.asarray, table)), 2 * 16 * 16)
    end, row, vector = 2 * 16 * 16, 0, 0
    assert int(network.length) == len(chain)
    for number, layer in enumerate(chain):
        conv = machine.convs[table.conv[number]]
        rows = machine.rows(conv.size_out) * table.tiles_out[number]
        assert int(network.places.base[number]) == end
        assert (table.row[number], table.vector[number]) == (row, vector)
        assert table.tiles_in[number] % table.block_in[number] == 0
        assert table.tiles_out[number] // table.block_out[number] == table.tiles_in[number] // table.block_in[number]
        row += table.tiles_in[number] * table.block_out[number] * conv.kernel**2 * tile
        end, vector = end + 2 * rows, vector + table.tiles_out[number]
        assert rows <= machine.slot_rows
        # A buffer of gradients is not written while the gradient in it is still to be read.
        assert layer.slots[0] != layer.slots[1] or not space.residual
    assert row <= module.bank_rows
    assert vector <= module.vector_tiles
    assert end <= machine.tape_rows


@pytest.mark.slow
def test_every_group_gives_the_same_features():
    """Whatever the tile, features are those of the stand-alone network."""
    space, arch = SPACES["nds_resnext_a"], CELLS["nds_resnext_a"][0]
    group = AnyNetGroup(space, 32, 0)
    assert group != space.group(arch)
    with pytest.raises(ValueError, match="no room for .*: ask the space for its group"):
        AnyNetGroup(space, 64, 0).encode([arch])
    images = jnp.asarray(pattern_images(2, 8), jnp.float32)
    encoded = jnp.asarray(group.encode([arch])[0])
    params = jax.jit(group.universal().init)(jax.random.key(3), images, encoded)["params"]
    taps = jax.jit(group.universal().apply)({"params": params}, images, encoded)
    alone = jax.jit(space.to_flax(arch).apply)({"params": group.extract(arch, params)}, images)
    for tap, expected in zip(taps, alone, strict=True):
        width = expected.shape[-1]
        assert int(tap.channels) == width
        assert not np.any(tap.features[..., width:])
        repeats = TARGET_SIZE // expected.shape[1]
        expected = np.repeat(np.repeat(expected, repeats, 1), repeats, 2)
        np.testing.assert_allclose(tap.features[..., :width], expected, rtol=1e-4, atol=1e-4)


def test_padding_stays_zero(x64):
    """Three steps of SGD leave at zero what is padded, and nothing else."""
    space, archs = SPACES["nds_resnext_a"], CELLS["nds_resnext_a"]
    each = [parity.network_and_params(space, TINY, arch) for arch in archs]
    network, task = each[0][0], jax.tree.map(jnp.asarray, parity.task_arrays(TINY))
    optimizer = proxy.sgd(proxy.ProxyHyper.of(TINY, jnp.float64))

    @jax.jit
    def step(params, state, encoded):
        def loss(params):
            return jnp.sum(proxy.branch_losses(network.apply({"params": params}, task.images, encoded), task))

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.add, params, updates), state

    for arch, (own, before) in zip(archs, each, strict=True):
        assert own == network
        params = jax.tree.map(jnp.asarray, before)
        state, encoded = optimizer.init(params), jnp.asarray(space.group(arch).encode([arch])[0])
        for _ in range(3):
            params, state = step(params, state, encoded)
        kernels = np.asarray(params["backbone"]["kernels"])
        assert np.isfinite(kernels).all()
        np.testing.assert_array_equal(kernels == 0, before["backbone"]["kernels"] == 0)
