"""Families in use: what is traced when, what an architecture may be, when a run goes on, what users are warned of."""

import dataclasses
import json
import warnings

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import ROOT

from eproxy_jax import images, scoring, spaces
from eproxy_jax.cli.main import main
from eproxy_jax.execution import programs
from eproxy_jax.nn import layers
from eproxy_jax.types import ProxySettings

BATCH = images.default_images(num=2, size=8)
TWO_STEPS = {"num_steps": 2, "branches": [{"transform_channels": 4, "target_channels": 4}]}


class Net(nn.Module):
    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, init=0):
        return [layers.Conv(self.width, 3, self.stride)(x, init)]


class Counted:
    """A function that counts what it builds."""

    def __init__(self):
        self.built = set()

    def __call__(self, arch):
        self.built.add(arch)
        return Net(1 + arch % 5)


def test_only_networks_that_are_scored_are_built():
    build = Counted()
    space = spaces.from_flax(build, range(5000))
    settings = ProxySettings.from_dict(TWO_STEPS)
    result = scoring.score([7, "12"], space, settings, BATCH)  # two of one program
    assert result.status == ("ok", "ok")
    assert tuple(result.params) == (27 * 3, 27 * 3)
    assert build.built == {7, 12}
    np.testing.assert_array_equal(result.score, -result.loss)
    few = spaces.from_flax(Counted(), range(4))
    blended = scoring.score([2], few, ProxySettings.from_dict({**TWO_STEPS, "alpha": 0.5}), BATCH)
    assert blended.score[0] == -blended.loss[0] * (1 - 0.5 * 3 / 4)


def test_architectures_are_any_values_of_json():
    space = spaces.from_flax(Net, ["12012100", "0", "a b"])
    for arch in space.archs:
        assert space.parse(arch) == space.parse(space.format(arch)) == arch
    with pytest.raises(ValueError, match="'12012101' .did you mean"):
        space.parse("12012101")
    archs = [{"width": 2, "blocks": [{"kernel": 3}, None]}, {"width": 4, "blocks": [{"kernel": 3}, None]}, 1.5, None]
    space = spaces.from_flax(lambda arch: Net(arch["width"]), archs, "mappings")
    for arch, given in zip(space.archs, archs, strict=True):
        assert space.parse(given) == space.parse(json.dumps(given)) == space.parse(space.format(arch)) == arch
    turned = {"blocks": archs[0]["blocks"], "width": 2}  # keys in another order
    assert space.format(space.parse(turned)) == '{"blocks": [{"kernel": 3}, null], "width": 2}'
    assert space.neighbours(space.archs[0]) == [space.archs[1]]
    assert space.params(space.archs[1]) == 27 * 4
    assert space.group(space.archs[0]) == space.group(space.parse(turned))
    with pytest.raises(ValueError, match="has the architecture 1 and the text of it, '1'"):
        spaces.from_flax(Net, [1, "1"]).parse(1)


@pytest.mark.parametrize(
    "archs",
    [
        [{"width": 4}, {"width": 8}],
        [[1, [2, 3]], [1, [2, 4]]],
        [(1, {"a": [True, None]}), (1, {"a": [False, None]})],
        [True, False, None, "text", 0.25, -3, {}, []],
        [np.int64(3), np.float32(0.5), np.arange(3)],
    ],
    ids=["dicts", "nested lists", "tuples", "all kinds", "numpy"],
)
def test_functions_get_architectures_as_they_were_given(archs):
    got = []

    def build(arch):
        got.append(arch)
        return Net(2)

    space = spaces.from_flax(build, archs)
    for arch in space.enumerate():
        assert hash(arch) == hash(space.parse(json.loads(space.format(arch))))
        space.to_flax(arch)
    for given, built in zip(archs, got, strict=True):
        assert type(built) is type(given)
        np.testing.assert_equal(built, given)
    if isinstance(got[0], dict):
        got[0]["width"] = 100  # a function that changes what it gets
        space.to_flax(space.parse(archs[0]))
        assert got[-1] == {"width": 4}


@dataclasses.dataclass(frozen=True)
class Dicts(spaces.FlaxFamily):
    """A family of dictionaries of its own class."""

    base: int = 2

    @property
    def archs(self):
        return tuple({"width": self.base * factor, "se": False} for factor in (1, 2))

    def build(self, arch):
        assert type(arch) is dict
        return Net(arch["width"])


def test_classes_may_have_dictionaries_as_architectures():
    space = Dicts()
    assert len(set(space.enumerate())) == space.num_archs == 2
    assert {space.params(arch) for arch in space.sample(2, 0)} == {27 * 2, 27 * 4}
    assert space.max_macs() == space.macs(space.parse({"se": False, "width": 4}))
    assert space.group(space.parse('{"width": 4, "se": false}')) == space.group(space.parse({"se": False, "width": 4}))
    with pytest.raises(ValueError, match="not one of the 2 architectures"):
        space.parse({"width": 4, "se": 0})  # Python has False == 0, JSON has not


@pytest.mark.parametrize(
    ("archs", "message"),
    [
        ([], "got none"),
        ([{"a": 1}, {"a": 1.0}], "stands twice, or an equal one"),
        ([float("nan")], "values of JSON: nan is none"),
        ([{3: "a"}], "keys that are no strings"),
        ([{1, 2}], "values of JSON: {1, 2} is none"),
        ([object], "is none"),
    ],
)
def test_architectures_that_are_no_values_of_json(archs, message):
    with pytest.raises(ValueError, match=message):
        spaces.from_flax(Net, archs)


@pytest.mark.parametrize(
    "source", ["[" * 100_000, {"width": {3}}, "9" * 5000, "1e999", "x" * 10**6, [[]], None, {"width": [4]}, b"4", True]
)
def test_what_is_no_architecture_is_refused(source):
    space = spaces.from_flax(Net, [{"width": 4}, 1, *range(2, 3000)])
    with pytest.raises(ValueError, match="not one of the 3,000 architectures") as raised:
        space.parse(source)
    assert len(str(raised.value)) < 400


def test_the_identity_of_a_run_changes_with_the_source():
    def identity(space):
        return scoring.run_identity(space, BATCH, 0, programs.Execution.of(jax.devices()[:1], "map"))

    def family(factor, archs=(1, 2)):
        return spaces.from_flax(lambda arch: Net(factor * arch), archs, "mine")

    first = identity(family(1))
    assert first == identity(family(1)) == json.loads(json.dumps(first))
    assert first["space"] == "mine"
    assert {"sizes", "source", "images"} <= set(first)
    assert first != identity(family(2))
    assert first != identity(family(1, (1, 2, 3)))


def test_small_maps_are_warned_of_once_a_network():
    settings = ProxySettings.from_dict(TWO_STEPS)
    with pytest.warns(UserWarning, match=r"'from_flax': 8x8 images leave feature maps of 2x2 pixels.*8x8") as caught:
        scoring.score([4], spaces.from_flax(lambda width: Net(width, 4), [4]), settings, BATCH)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scoring.score([4], spaces.from_flax(lambda width: Net(width, 2), [4]), settings, BATCH)


@pytest.mark.slow  # quick: identities here, resuming in tests/cli
def test_a_run_on_a_family_goes_on(tmp_path, capsys):
    """The config is loaded anew each time, as in another process; tests/cli has the same with a real kill."""
    out = tmp_path / "scores.jsonl"
    archs = tmp_path / "archs.txt"
    archs.write_text("[4, 4, 3, 1]\n[4, 8, 3, 1]\n")
    command = ["score", "--config", f"{ROOT}/configs/mixer.py:smoke", "--archs", str(archs), "--no-plot",
               "--out", str(out), "--config.settings.num_steps=2", "--config.images.size=16"]  # fmt: skip
    assert main(command) == 0
    whole = out.read_text()
    out.write_text(whole.splitlines(keepends=True)[0])
    capsys.readouterr()
    assert main(command) == 0
    assert "resuming after 1 of 2" in capsys.readouterr().err
    assert out.read_text() == whole
