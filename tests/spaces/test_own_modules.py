"""Users' own modules: training mode, dropout, NNX, what they return, and their errors in one line; all in traces."""

import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import real_input

from eproxy_jax import scoring, spaces
from eproxy_jax.cli.main import main
from eproxy_jax.execution import programs
from eproxy_jax.spaces.own_modules import NetworkError, OwnNetwork
from eproxy_jax.types import ProxySettings

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)


def run(build, arch=2):
    """Feature maps of a network in the form that the proxy runs, from the same key."""
    network = OwnNetwork(build, arch, arch)
    variables = network.init(jax.random.key(0), IMAGES)
    return network.taps(variables, IMAGES)


def shapes(build, arch=2):
    """Their shapes: traced only."""
    return [tap.shape for tap in jax.eval_shape(lambda: run(build, arch))]


def normalised(parameter, default, dropout=0.0):
    """A convolution and a batch norm whose mode is a parameter of that name, with that default."""
    in_training = parameter.strip("*") in ("train", "training", "is_training")

    class Net(nn.Module):
        width: int

        def run(self, x, mode):
            evaluates = mode != in_training
            x = nn.Conv(self.width, (1, 1), name="conv")(x)
            x = nn.BatchNorm(use_running_average=evaluates, name="norm")(x)
            return [nn.Dropout(dropout, deterministic=evaluates)(x)]

    body = f"return self.run(x, {parameter.strip('*')})"
    star = "*, " if parameter.startswith("*") else ""
    given = "" if default is None else f" = {default}"
    scope = {}
    exec(f"def __call__(self, x, {star}{parameter.strip('*')}{given}):\n    {body}", scope)
    return type("Net", (Net,), {"__call__": nn.compact(scope["__call__"]), "__annotations__": {"width": int}})


MODES = ["train", "*train", "training", "is_training", "deterministic", "use_running_average", "inference", "eval"]


@pytest.mark.parametrize("default", [None, True, False])
@pytest.mark.parametrize("parameter", MODES)
def test_every_parameter_of_training_mode_gets_its_value(parameter, default):
    (tap,) = run(normalised(parameter, default))
    np.testing.assert_allclose(tap.mean((0, 1, 2)), 0, atol=1e-5)  # by batch statistics
    np.testing.assert_allclose(tap.std((0, 1, 2)), 1, rtol=1e-3)


def test_dropout_has_one_mask_that_does_not_change():
    dropped = normalised("train", False, dropout=0.5)
    (tap,), (again,), (plain,) = run(dropped), run(dropped), run(normalised("train", False))
    np.testing.assert_array_equal(tap, again)
    kept = tap != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(tap[kept], 2 * plain[kept], rtol=1e-6)  # initial weights do not depend on it


def test_other_random_streams_are_served():
    class Noisy(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            x = nn.Conv(self.width, (1, 1))(x)
            return [x + jax.random.normal(self.make_rng("noise"), x.shape)]

    np.testing.assert_array_equal(run(Noisy)[0], run(Noisy)[0])


class Setup(nn.Module):
    """Batch norms made in setup, in running-average mode or told so by the call."""

    width: int
    fixed: bool = True

    def setup(self):
        self.conv = nn.Conv(self.width, (1, 1))
        self.norm = nn.BatchNorm(use_running_average=True if self.fixed else None)

    def __call__(self, x):
        return [self.norm(self.conv(x)) if self.fixed else self.norm(self.conv(x), True)]


class OwnNorm(nn.Module):
    """A norm of the user's own that only reads its statistics."""

    width: int

    @nn.compact
    def __call__(self, x):
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros((1, 1, 1, 3)))
        return [nn.Conv(self.width, (1, 1))(x - mean.value)]


@pytest.mark.parametrize("build", [Setup, lambda width: Setup(width, False), OwnNorm])
def test_running_averages_are_refused(build):
    with pytest.raises(NetworkError, match="of 2: a batch norm uses running averages.*use_running_average=False"):
        shapes(build)


def test_other_state_is_left_alone():
    class Counts(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            constant = self.variable("constants", "shift", lambda: jnp.ones((1, 1, 1, 3)))
            return [nn.Conv(self.width, (1, 1))(x + constant.value)]

    assert shapes(Counts) == [(4, 8, 8, 2)]


def test_networks_without_parameters_have_none():
    class Pool(nn.Module):
        width: int

        def __call__(self, x):
            return [nn.avg_pool(x, (2, 2), (2, 2))]

    family = spaces.from_flax(Pool, [2])
    assert family.params(2) == 0
    assert family.tap_channels(2) == (3,)
    result = scoring.make_job(family, ProxySettings(), IMAGES).evaluation.structure(2)
    assert result.shape == (10,)


# --- NNX -----------------------------------------------------------------------------------------------------


class Nnx(nnx.Module):
    """A convolution, a batch norm in evaluation mode, and a dropout."""

    def __init__(self, width, rngs, dropout=0.0):
        self.conv = nnx.Conv(3, width, (1, 1), rngs=rngs)
        self.norm = nnx.BatchNorm(width, use_running_average=True, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs, deterministic=True)

    def __call__(self, x):
        return [self.dropout(self.norm(self.conv(x)))]


class NnxMode(Nnx):
    """The same with a parameter of the call."""

    def __call__(self, x, train: bool = False):
        return [self.norm(self.conv(x), use_running_average=not train)]


OLD = {2: Nnx(2, nnx.Rngs(0))}
NNX = {
    "an instance": lambda width: Nnx(width, nnx.Rngs(0)),
    "an instance that is older than the program": OLD.get,
    "a class": Nnx,
    "a function of rngs": lambda width, *, rngs: Nnx(width, rngs),
    "a partial": lambda width: functools.partial(Nnx, width),
    "a parameter of the call": NnxMode,
    "a parameter of the call of an instance": lambda width: NnxMode(width, nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", NNX)
def test_nnx_modules_train(name):
    (tap,) = jax.jit(lambda: run(NNX[name]))()
    np.testing.assert_allclose(tap.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(tap.std((0, 1, 2)), 1, rtol=1e-3)


def test_nnx_weights_come_from_the_key_where_the_function_takes_it():
    def kernels(build):
        network = OwnNetwork(build, 2, 2)
        return [network.init(jax.random.key(seed), IMAGES)["params"]["conv"]["kernel"] for seed in (0, 1)]

    first, second = kernels(Nnx)
    assert not np.array_equal(first, second)
    first, second = kernels(NNX["an instance"])
    np.testing.assert_array_equal(first, second)


def test_nnx_dropout_has_one_mask():
    tap, again = (run(lambda width, rngs: Nnx(width, rngs, 0.5))[0] for _ in range(2))
    np.testing.assert_array_equal(tap, again)
    assert 0.3 < (tap != 0).mean() < 0.7


def test_nnx_families_have_sizes_and_gradients():
    space = spaces.from_flax(Nnx, [2, 4])
    assert space.params(4) == 3 * 4 + 4 + 2 * 4
    assert space.macs(4) == 32 * 32 * 12
    structure = scoring.make_job(space, ProxySettings(), IMAGES).evaluation.structure(4)
    assert structure.shape == (10,)  # the training, traced


# --- what goes wrong -----------------------------------------------------------------------------------------


def module(body):
    """A module whose call is that function."""

    class Net(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return body(nn.Conv(self.width, (1, 1))(x))

    return Net


class AsksForMask(nn.Module):
    width: int

    def __call__(self, x, mask):
        return [x]


class TakesNothing(nn.Module):
    width: int

    def __call__(self):
        return []


def fails(*arguments):
    raise KeyError("my own\nproblem")  # the line that is told


LINE = fails.__code__.co_firstlineno + 1
WRONG = {
    "the function raises": (fails, rf"builds the network of 2: KeyError: 'my own.*problem' \({re.escape(__file__)}:{LINE}\)"),
    "the module raises": (module(fails), rf"Net of 2: KeyError: .* \({re.escape(__file__)}:{LINE}\)"),
    "no module": (lambda width: width, "builds the network of 2 returns 2: expected a module of flax.linen or flax.nnx"),
    "None": (lambda width: None, "returns None: expected a module"),
    "one map": (module(lambda x: x), r"Net of 2 returns \(., \d+, \d+, 2\): expected a list of feature maps"),
    "no maps": (module(lambda x: []), r"returns \[\]: expected a list"),
    "logits": (module(lambda x: [x.mean((1, 2))]), r"returns \[\(., 2\)\]: expected a list .* leave out a classifier"),
    "a dict": (module(lambda x: {"last": x}), "returns {'last': .*}: expected a list"),
    "a number": (module(lambda x: [1]), "returns .'int'.: expected a list"),
    "another batch": (module(lambda x: [jnp.concatenate([x, x])]), "expected a list of feature maps"),
    "integers": (module(lambda x: [x.astype(jnp.int32)]), "returns .'int32'.: expected floating-point"),
    "a parameter without default": (AsksForMask, "AsksForMask of 2: its __call__ asks for 'mask'.*give other parameters"),
    "no images": (TakesNothing, "TakesNothing of 2: its __call__ takes no images"),
    "a missing argument": (lambda: None, "builds the network of 2: TypeError"),
    "branches on values": (module(lambda x: [x] if x.sum() > 0 else [x, x]), "Net of 2: TracerBoolConversionError"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_in_one_line(name):
    build, message = WRONG[name]
    family = spaces.from_flax(build, [2])
    for look in (
        family.macs,
        lambda arch: scoring.make_job(family, ProxySettings(), IMAGES).evaluation.structure(arch),
    ):
        with pytest.raises(NetworkError, match=message) as raised:
            look(2)
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 600
    if "raises" in name:
        assert isinstance(raised.value.__cause__, KeyError)


def test_gradients_that_do_not_exist_are_told_too():
    loop = module(lambda x: [jax.lax.while_loop(lambda y: y.sum() > 1e9, lambda y: y, x)])
    family = spaces.from_flax(loop, [2])
    assert family.params(2) == 8
    with pytest.raises(NetworkError, match="the network of 2: ValueError: Reverse-mode differentiation does not work"):
        scoring.make_job(family, ProxySettings(), IMAGES).evaluation.structure(2)


def test_errors_while_the_program_runs_are_told_too(monkeypatch):
    """As those of host callbacks; of a real one, JAX would tell again when the process ends."""

    def run_group(*arguments):
        raise jax.errors.JaxRuntimeError(
            "INTERNAL: CpuCallback error: Traceback" + 300 * " line" + "\nKeyError: 'my own'"
        )

    monkeypatch.setattr(programs, "_run_group", run_group)
    family = spaces.from_flax(module(lambda x: [x]), [2])
    with pytest.raises(NetworkError, match="the network of 2: JaxRuntimeError: INTERNAL.* [.]{3} .*KeyError: 'my own'"):
        list(scoring.make_job(family, ProxySettings(), IMAGES).evaluation.run([2]))


def test_functions_that_build_another_network_each_time():
    widths = iter(range(1, 100))
    family = spaces.from_flax(lambda arch: module(lambda x: [x])(next(widths)), [2])
    with pytest.raises(NetworkError, match="another network each time it is called"):
        scoring.make_job(family, ProxySettings(), IMAGES).evaluation.structure(2)


CONFIG = """
import dataclasses
import flax.linen as nn
from eproxy_jax import spaces
from eproxy_jax.cli import config

class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        return [nn.Conv(self.width.size, (1, 1))(x)]

@spaces.register("broken_family")
@dataclasses.dataclass(frozen=True)
class Broken(spaces.FlaxFamily):
    name = "broken_family"

    @property
    def archs(self):
        return tuple({"width": width} for width in (4, 8))

    def build(self, arch):
        return Net(**arch)

def get_config(variant="paper"):
    return config.variant_config("broken_family", variant, small={}, smoke={})
"""


def test_the_command_line_prints_one_line(tmp_path, capsys):
    """Families of objects as well: the file of dictionaries is read, and the error names the dictionary."""
    (tmp_path / "broken.py").write_text(CONFIG)
    assert main(["plan", "--config", f"{tmp_path}/broken.py:smoke", "--all", "--images", "white_noise"]) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("eproxy: error: Net of {'width': 4}: AttributeError: 'int' object has no attribute 'size' (")
    assert "broken.py:12)" in line
    assert "Traceback" not in captured.err


def test_dictionaries_of_a_file():
    space = spaces.from_flax(lambda arch: module(lambda x: [x])(**arch), [{"width": 4}, {"width": 8}])
    for given in json.loads(real_input("27_dicts.json").read_text()):
        assert space.params(space.parse(given)) == 4 * given["width"]
