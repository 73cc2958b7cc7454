"""Exported files: the same network in Flax, in PyTorch and in the space, and the strings of an architecture."""

import importlib.util
import json

import exporting
import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import CELLS, SPACES, dag_cell

import eproxy_jax as ep
from eproxy_jax import exports, spaces
from eproxy_jax.nn import layers
from eproxy_jax.spaces.cells.graph import Cell

# Architectures of every space, the quick ones first; a disconnected one is not exported.
CASES = [
    (name, number) for name, archs in CELLS.items() for number, arch in enumerate(archs)
    if SPACES[name].is_connected(SPACES[name].canonical(arch))
]  # fmt: skip
TOLERANCE = {"rtol": 1e-8, "atol": 1e-10}
ARCH_201 = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"


def equal_networks(space, arch):
    """Check the outputs of both files, in training and evaluation, against the space's own network."""
    arch = space.parse(arch)
    ready, images, variables, outputs, exported = exporting.flax_outputs(space, arch)
    assert min(np.std(output, axis=0).max() for output in outputs) > 1e-6, "outputs that do not depend on the image"
    for own, expected in zip(exported, outputs, strict=True):
        np.testing.assert_allclose(own, expected, **TOLERANCE)
    if importlib.util.find_spec("torch") is None:
        return
    own, params = exporting.torch_outputs(ready.source("torch"), ready, variables, images)
    for output, expected in zip(own, outputs, strict=True):
        np.testing.assert_allclose(output, expected, **TOLERANCE)
    assert params == ready.network.params


def test_a_network_equals_its_files(x64):
    equal_networks(SPACES["nasbench201"], SPACES["nasbench201"].parse(ARCH_201))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), CASES)
def test_networks_of_all_spaces_equal_their_files(x64, name, number):
    equal_networks(SPACES[name], CELLS[name][number])


@pytest.mark.parametrize("name", SPACES)
def test_files_of_all_spaces_import_one_library_and_have_their_counts(name):
    space, arch = SPACES[name], next(CELLS[name][number] for case, number in CASES if case == name)
    ready = exports.exported(space, arch)
    canonical = space.canonical(arch)
    # ``exported`` has compared its own counts with these.
    assert (ready.params, ready.macs) == (space.params(canonical), space.macs(canonical))
    for form, allowed in (("flax", {"flax", "jax"}), ("torch", {"torch"})):
        source = ready.source(form)
        assert source.startswith("# Written by eproxy export")
        imported = {
            line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))
        }
        assert imported <= allowed
        assert f"parameters: {ready.network.params:,}, of which" in source
        assert all(ord(letter) < 128 for letter in source)
        compile(source, "net.py", "exec")


def test_trees_of_weights_are_those_of_the_space():
    """But for what a module of the space owns beside its layers, names are the space's own."""
    space = SPACES["nasbench201"]
    ready = exports.exported(space, ARCH_201)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    own = jax.eval_shape(space.to_flax(ready.arch, 10).init, jax.random.key(0), images)
    assert jax.tree.map(lambda leaf: leaf.shape, ready.variables(own)) == jax.tree.map(lambda leaf: leaf.shape, own)


def test_equal_cells_are_one_class_in_a_loop():
    space = spaces.get("nasbench201", cells_per_stage=3)
    ready = exports.exported(space, ARCH_201)
    source = ready.source()
    assert source.count("class CellNet") == 1
    assert 'for n in range(3):\n            x = CellNet(32, name=f"stage1_cell{n}")(x, train)' in source
    source = ready.source("torch")
    assert source.count("class CellNet") == 1
    assert 'for n in range(3):\n            self.add_module(f"stage1_cell{n}", CellNet(32))' in source


def test_loops_compute_what_the_chain_computes(x64):
    equal_networks(spaces.get("nasbench201", stem_channels=2, cells_per_stage=2), ARCH_201)


def test_dead_parts_are_left_out():
    space = SPACES["nasbench101"]
    dead = dag_cell("01 12 23 14", "31")  # vertex 3 leads nowhere else
    assert ep.export(space, dead).count("vertex") == ep.export(space, space.canonical(dead)).count("vertex")


# --- a user's own modules ------------------------------------------------------------------------------------


class Own(nn.Module):
    """Layers of flax.linen and of this package, and an activation."""

    width: int
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(self.width, (3, 3), strides=(2, 2), padding=self.padding)(x)
        x = nn.silu(nn.BatchNorm(use_running_average=not train)(x))
        y = layers.DepthwiseConv(3, use_bias=True)(x)
        return [nn.hard_swish(nn.Conv(2 * self.width, (1, 1))(x + y))]


def test_a_users_family_is_exported_with_a_classifier():
    space = spaces.from_flax(Own, archs=[4, 8])
    source = ep.export(space, 8, num_classes=3, image_size=16)
    network = exporting.module_of(source).Network()
    variables = network.init(jax.random.key(0), np.zeros((2, 16, 16, 3), np.float32))
    assert network.apply(variables, np.zeros((2, 16, 16, 3), np.float32), train=False).shape == (2, 3)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert params == space.params(8) + 3 * 16 + 3
    with pytest.raises(ValueError, match="no padding"):  # Flax pads a stride of 2 on one side
        ep.export(space, 8, "torch")


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return [nn.LayerNorm()(nn.Conv(4, (3, 3))(x))]


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        x, conv = nn.Conv(4, (3, 3))(x), nn.Conv(4, (3, 3), name="twice")
        return [conv(conv(x))]


def test_what_has_no_layer_is_refused_with_its_place():
    with pytest.raises(ValueError, match="LayerNorm_0: the operation"):
        ep.export(spaces.from_flax(lambda arch: Normed(), archs=[1]), 1)
    with pytest.raises(ValueError, match="twice: two steps use the same weights"):
        ep.export(spaces.from_flax(lambda arch: Shared(), archs=[1]), 1)


# --- strings and bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", spaces.names())
def test_strings_are_read_back(name):
    space = spaces.get(name)
    arch = space.sample(1, 3)[0]
    values = json.loads(ep.export(space, arch, "strings"))
    assert space.parse(values["arch"]) == arch
    assert space.parse(values["canonical"]) == space.canonical(arch)
    assert values["notations"]
    for text in values["notations"].values():
        assert space.parse(text) == arch
    assert (values["params"], values["macs"]) == (
        space.params(space.canonical(arch)),
        space.macs(space.canonical(arch)),
    )


def test_bad_input_says_what_to_do():
    space = SPACES["nasbench201"]
    with pytest.raises(ValueError, match="does not depend on the image"):
        ep.export(space, Cell((0,) * 6))
    with pytest.raises(ValueError, match="did you mean 'torch'"):
        ep.export(space, ARCH_201, "torhc")
    with pytest.raises(ValueError, match="num_classes: expected an integer"):
        ep.export(space, ARCH_201, num_classes=0)
    with pytest.raises(ValueError, match="nor_conv_3x3"):
        ep.export(space, ARCH_201.replace("nor_conv_3x3", "nor_conv_5x5"))


def test_wrong_counts_fail(monkeypatch):
    space = SPACES["nasbench201"]
    monkeypatch.setattr(type(space), "params", lambda self, arch: 1)
    with pytest.raises(ValueError, match="parameters, the space counts 1: this is a fault"):
        exports.exported(space, ARCH_201)
