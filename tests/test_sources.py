"""Fingerprints of code: what changes them, and what does not."""

import functools
import importlib.util
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from helpers import ROOT

from eproxy_jax.sources import source_fingerprint

TEXT = '''
import math
import flax.linen as nn

SCALE = 2

def helper(x):
    """Doubles."""
    return x * SCALE

class Net(nn.Module):
    """A network."""
    width: int
    depth: int = 3

    @nn.compact
    def __call__(self, x):
        """Runs."""
        layers = [helper(math.sqrt(n)) for n in range(self.depth)]
        return [nn.Dense(self.width)(x) * layers[0]]

class Wide(Net):
    width: int = 8

def build(arch, extra=(1, 2)):
    """Builds."""
    return Wide(arch) if arch in {1, 2, "x"} else Net(arch)
'''


@pytest.fixture
def fingerprint(tmp_path):
    """Of ``build`` in a module of the text given, each time another file under another name."""
    numbers = itertools.count()

    def of(text, what="build"):
        number = next(numbers)
        path = tmp_path / f"folder{number}" / f"module{number}.py"
        path.parent.mkdir()
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(f"module{number}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
            return source_fingerprint(getattr(module, what))
        finally:
            del sys.modules[spec.name]

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("SCALE = 2", "\n\n# a comment\nSCALE = 2  # another"),
        ('"""Runs."""', '"""Runs a network."""'),
        ('"""A network."""', '"""A network of some depth."""'),
        ("def build(arch", "def unused():\n    return 1\n\ndef build(arch"),
    ],
)
def test_not_counted(fingerprint, old, new):
    assert fingerprint(TEXT) == fingerprint(TEXT.replace(old, new) if old else TEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SCALE = 2", "SCALE = 3"),  # a global variable of a function of a method of a base
        ("return x * SCALE", "return x + SCALE"),
        ("depth: int = 3", "depth: int = 4"),
        ("width: int = 8", "width: int = 9"),
        ("math.sqrt", "math.exp"),
        ("nn.Dense", "nn.DenseGeneral"),
        ("layers[0]", "layers[1]"),
        ("extra=(1, 2)", "extra=(1, 3)"),
        ('{1, 2, "x"}', '{1, 2, "y"}'),
        ("Wide", "Broad"),  # Linen draws weights by the names of classes
        ("if arch in", "if arch not in"),
        ("def __call__(self, x):", "def setup(self):\n        pass\n\n    def __call__(self, x):"),
    ],
)
def test_counted(fingerprint, old, new):
    assert TEXT.count(old)
    assert fingerprint(TEXT) != fingerprint(TEXT.replace(old, new))
    assert fingerprint(TEXT, "build") != fingerprint(TEXT, "Net")


def test_values_of_closures_partials_and_bound_methods():
    def make(value):
        return lambda arch: (arch, value)

    class Family:
        def __init__(self, width):
            self.width = width

        def build(self, arch):
            return self.width, arch

    values = [1, 1.0, True, "1", (1,), [1, 2], {"a": 1}, {"a": 2}, {1, 2}, jnp.ones(2), jnp.zeros(2), jnp.float32,
              jnp.dtype("float32"), jnp.dtype("float64"), range(10**12), math_exp, len, functools.partial(make, 1),
              functools.partial(make, 2), Family(1).build, Family(2).build, jax.jit(make), jax.random.key(0),
              jax.nn.initializers.normal(0.1), jax.nn.initializers.normal(0.2)]  # fmt: skip
    prints = [source_fingerprint(make(value)) for value in values]
    assert len(set(prints)) == len(prints)
    assert prints == [source_fingerprint(make(value)) for value in values]
    assert source_fingerprint(make({3, 1, 2})) == source_fingerprint(make({1, 2, 3}))


def math_exp(x):
    return math_exp(x - 1) if x else jnp.exp(x)  # names itself


def test_rules_of_a_custom_gradient_count():
    def make(factor):
        function = jax.custom_vjp(lambda x: x)
        function.defvjp(lambda x: (x, None), lambda _, grad: (factor * grad,))
        return function

    assert source_fingerprint(make(1)) == source_fingerprint(make(1)) != source_fingerprint(make(2))


def test_other_modules_of_the_user_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users_layers.py").write_text("def block(x):\n    return x + 1\n")
    (tmp_path / "users_net.py").write_text(
        "import users_layers\n\ndef build(arch):\n    return users_layers.block(arch)\n"
    )

    def read():
        for name in ("users_layers", "users_net"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return source_fingerprint(importlib.import_module("users_net").build)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = read()
    assert before == read()
    (tmp_path / "users_layers.py").write_text("def block(x):\n    return x + 222\n")
    assert before != read()


def test_the_same_in_every_process():
    """Hash seeds, module names and what was imported before differ; the example's identity does not."""
    code = (
        "import importlib.util, json, sys\n"
        "name, path = sys.argv[1:]\n"
        "spec = importlib.util.spec_from_file_location(name, path)\n"
        "module = sys.modules[name] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from eproxy_jax import spaces\n"
        "print(json.dumps([module.MixerSpace().identity(), spaces.from_flax(lambda a: module.Mixer(*a), [(1, 2)])"
        ".identity()]))\n"
    )
    path = f"{ROOT}/configs/mixer.py"
    found = {
        subprocess.run(
            [sys.executable, "-c", code, name, path], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True, capture_output=True, text=True,
        ).stdout
        for name, seed in (("mixer", "1"), ("another_name", "2"))
    }  # fmt: skip
    assert len(found) == 1
    assert '"source": "' in found.pop()
