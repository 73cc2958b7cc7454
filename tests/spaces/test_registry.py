"""One registry: reloaded files replace their own spaces, other files may not."""

import dataclasses
import importlib.util
import sys

import pytest
from helpers import ROOT, SPACES

from eproxy_jax import spaces
from eproxy_jax.cli import config
from eproxy_jax.spaces import base

TEXT = """
import dataclasses
from typing import ClassVar
from eproxy_jax import spaces

@spaces.register("reloaded")
@dataclasses.dataclass(frozen=True)
class Reloaded(spaces.FlaxFamily):
    name: ClassVar[str] = "reloaded"
    archs = (1, 2)

    def build(self, arch):
        return None
"""


def load(path, name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry(monkeypatch):
    """The registry, put back after the test."""
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    monkeypatch.setattr(base, "_ORIGINS", dict(base._ORIGINS))


@pytest.mark.usefixtures("registry")
def test_a_file_replaces_its_own_spaces_under_any_module_name(tmp_path, monkeypatch):
    path = tmp_path / "family.py"
    path.write_text(TEXT)
    first, second = (load(path, name, monkeypatch) for name in ("first_name", "second_name"))
    assert first.Reloaded is not second.Reloaded
    assert type(spaces.get("reloaded")) is second.Reloaded
    monkeypatch.chdir(tmp_path)
    third = load("family.py", "third_name", monkeypatch)  # the same file, by another path
    assert type(spaces.get("reloaded")) is third.Reloaded


@pytest.mark.usefixtures("registry")
def test_another_file_or_class_of_the_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "family.py").write_text(TEXT)
    (tmp_path / "copy.py").write_text(TEXT)
    load(tmp_path / "family.py", "family", monkeypatch)
    with pytest.raises(ValueError, match=r"'reloaded' is registered twice: Reloaded in .*family.py and .*copy.py"):
        load(tmp_path / "copy.py", "family", monkeypatch)
    (tmp_path / "family.py").write_text(TEXT + TEXT.replace("class Reloaded", "class Another"))
    with pytest.raises(ValueError, match="Reloaded in .*family.py and Another in .*family.py; rename one of them"):
        load(tmp_path / "family.py", "family", monkeypatch)


@pytest.mark.usefixtures("registry")
def test_the_example_is_a_config_and_a_module(monkeypatch):
    path = f"{ROOT}/configs/mixer.py"
    space = config.build(config.load_config(f"{path}:smoke")).space
    module = load(path, "mixer", monkeypatch)
    assert module.MixerSpace(base_width=space.base_width).archs == space.archs
    assert config.build(config.load_config(f"{path}:smoke")).space.archs == space.archs


def test_the_base_class_says_what_is_missing():
    with pytest.raises(TypeError, match="abstract"):
        spaces.SearchSpace()

    class NoGroup(spaces.NasBenchMr):
        group = spaces.SearchSpace.group

    with pytest.raises(TypeError, match=r"NoGroup has no groups: derive it from Group .* or override group\(\)"):
        NoGroup().group(None)
    with pytest.raises(NotImplementedError, match=r"has no neighbours\(\)"):
        spaces.SearchSpace.neighbours(SPACES["nasbench201"], (0,) * 6)


@pytest.mark.parametrize("name", spaces.names())
def test_identities_of_built_in_spaces_are_their_name_and_sizes(name):
    """Run ids depend on it: files of earlier versions go on."""
    space = SPACES[name]
    own = ("width", "depth") if name.startswith("nds_") else ()  # the architectures' own, in those spaces
    sizes = {size: value for size, value in dataclasses.asdict(space).items() if size not in own}
    assert space.identity() == {"space": name, "sizes": sizes}
    group = space.group(space.sample(1, 0)[0])
    assert isinstance(group, spaces.Group)
