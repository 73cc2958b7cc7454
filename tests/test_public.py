"""The public core composes: the pair of pure functions, any function of one candidate, own targets and optimisers."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from helpers import ROOT, TINY, pattern_images

import eproxy_jax as ep
from eproxy_jax.execution import configuration, memory, programs

SPACE = ep.spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)


class Net(nn.Module):
    """One convolution: programs that compile in a moment."""

    width: int

    @nn.compact
    def __call__(self, images):
        return [nn.relu(ep.nn.layers.Conv(self.width, 3, stride=2)(images))]


FAMILY = ep.spaces.from_flax(Net, archs=[2, 3, 4])
TINY_SPACE = tiny.Tiny()  # one program for all
A, B, C = "1-0-0", "2-2-1", "3-1-0"
IMAGES = pattern_images(4, 8).astype(np.float32)
ARCHS = SPACE.sample(6, 3)
SHORT = dataclasses.replace(TINY, num_steps=3)


@pytest.fixture(scope="module")
def scored():
    return ep.score([A, B, C], TINY_SPACE, SHORT, IMAGES, key=5)


# --- ep.eproxy -----------------------------------------------------------------------------------------------


def test_the_pair_of_functions_is_what_score_runs(scored):
    arch = TINY_SPACE.parse(B)
    init, losses = ep.eproxy(TINY_SPACE.group(arch), SHORT)
    task, encoded = init(5, IMAGES), jnp.asarray(TINY_SPACE.group(arch).encode([arch])[0])
    keys = jnp.stack([ep.arch_key(5, TINY_SPACE, arch), ep.arch_key(6, TINY_SPACE, arch)])
    one = jax.jit(losses)(keys[0], encoded, task)
    np.testing.assert_allclose(one, scored.losses[1], rtol=1e-5)
    many = jax.jit(jax.vmap(losses, (0, None, None)))(keys, encoded, task)
    assert many.shape == (2, 3)
    np.testing.assert_allclose(many[0], one, rtol=1e-3)  # forms round differently
    assert not np.array_equal(many[0], many[1])


def test_integer_and_typed_keys_are_one(scored):
    typed = ep.score([A, B, C], TINY_SPACE, SHORT, IMAGES, key=jax.random.key(5))
    np.testing.assert_array_equal(typed.losses, scored.losses)
    for key in (5, np.int64(5), jax.random.key(5)):
        assert ep.arch_key(key, SPACE, ARCHS[0]) == ep.arch_key(5, SPACE, ARCHS[0])


# --- own targets and optimiser -------------------------------------------------------------------------------


def checkerboard(key, images, channels):
    del key
    board = (jnp.arange(8)[:, None] + jnp.arange(8)[None, :]) % 2
    return jnp.broadcast_to(board[None, :, :, None], (len(images), 8, 8, channels)).astype(images.dtype)


def with_features(*features):
    return dataclasses.replace(SHORT, branches=(dataclasses.replace(SHORT.branches[0], features=features),))


def test_a_target_of_the_users_own():
    settings = with_features("checkerboard")
    result = ep.score([A, B], TINY_SPACE, settings, IMAGES, targets={"checkerboard": checkerboard})
    assert np.isfinite(result.losses).all()
    task, _ = ep.eproxy(TINY_SPACE.group(A), settings, targets={"checkerboard": checkerboard}).init(0, IMAGES)
    assert set(np.unique(task.targets[0])) == {0, 1}
    both = ep.eproxy(TINY_SPACE.group(A), with_features("net", "checkerboard"), targets={"checkerboard": checkerboard})
    plain = ep.eproxy(TINY_SPACE.group(A), with_features("net"))
    np.testing.assert_allclose(
        both.init(0, IMAGES)[0].targets[0], plain.init(0, IMAGES)[0].targets[0] + task.targets[0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (("nett",), None, r"branches\[0\].features: unknown feature 'nett' .did you mean 'net'"),
        (("checkerbord",), {"checkerboard": checkerboard}, "did you mean 'checkerboard'"),
        (("net",), {"net": checkerboard}, "'net' is a built-in feature"),
        (
            ("small",),
            {"small": lambda key, images, channels: jnp.ones((2, 4, 4, channels))},
            r"expected \[4, 8, 8, 4\]",
        ),
    ],
)
def test_bad_targets(features, targets, message):
    with pytest.raises(ValueError, match=message):
        ep.score([A], TINY_SPACE, with_features(*features), IMAGES, targets=targets)


def test_an_optimiser_of_the_users_own():
    """SGD with the settings' numbers, given as an optax transformation, is the settings' SGD."""
    decay = optax.add_decayed_weights(SHORT.weight_decay, lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    sgd = optax.chain(decay, optax.sgd(SHORT.lr, SHORT.momentum))
    own = ep.score([A, B], TINY_SPACE, SHORT, IMAGES, key=5)
    same = ep.score([A, B], TINY_SPACE, SHORT, IMAGES, key=5, optimizer=sgd)
    np.testing.assert_allclose(same.losses, own.losses, rtol=1e-4)
    still = ep.score([A, B], TINY_SPACE, SHORT, IMAGES, key=5, optimizer=optax.set_to_zero())
    np.testing.assert_allclose(still.losses, still.losses[:, :1] * np.ones(3), rtol=1e-5)


# --- ep.evaluate ---------------------------------------------------------------------------------------------


def gradient_norm(network, key, encoded, images):
    """A pytree of numbers: not Eproxy at all."""
    params = network.init(key, images, encoded)["params"]

    def activity(params):
        return sum(jnp.mean(tap**2) for tap in network.apply({"params": params}, images, encoded))

    value, grads = jax.value_and_grad(activity)(params)
    return {
        "value": value,
        "norm": jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))),
        "live": jnp.int32(sum(p.size for p in jax.tree.leaves(params))),
    }


def numbers(network, key, encoded, images):
    """A function that compiles in no time, of all that a candidate has."""
    del network
    return {"value": jax.random.normal(key, (2,)) + images.mean(), "live": jnp.sum(encoded)}


SHARED = (jnp.asarray(IMAGES),)


@pytest.fixture(scope="module")
def evaluated():
    return ep.evaluate(numbers, ARCHS, SPACE, key=5, shared=SHARED)


def test_any_function_of_one_candidate():
    found = ep.evaluate(gradient_norm, [2, 4], FAMILY, key=5, shared=SHARED)
    assert {name: leaf.shape for name, leaf in found.items()} == {"value": (2,), "norm": (2,), "live": (2,)}
    assert found["live"].dtype == np.int32
    assert found["live"].tolist() == [27 * 2, 27 * 4]
    group = FAMILY.group(4)
    alone = jax.jit(functools.partial(gradient_norm, group.universal()))
    expected = alone(ep.arch_key(5, FAMILY, 4), jnp.asarray(group.encode([4])[0]), *SHARED)
    np.testing.assert_allclose(found["norm"][1], expected["norm"], rtol=1e-5)


def test_results_do_not_depend_on_chunks_devices_order_or_duplicates(evaluated):
    done = []
    ways = ep.Execution.of(jax.devices()[:1], chunk_size=1)
    again = ep.evaluate(
        numbers, [*ARCHS[::-1], ARCHS[0]], SPACE, key=5, shared=SHARED, execution=ways,
        progress=lambda *n: done.append(n),
    )  # fmt: skip
    assert done[-1] == (len({SPACE.canonical(arch) for arch in ARCHS}),) * 2
    for name, leaf in evaluated.items():
        np.testing.assert_array_equal(again[name][:6][::-1], leaf)
        np.testing.assert_array_equal(again[name][6], leaf[0])
    batched = ep.evaluate(
        numbers, ARCHS, SPACE, key=5, shared=SHARED, execution=ep.Execution.of(form="vmap", vmap_width=4)
    )
    np.testing.assert_allclose(batched["value"], evaluated["value"], rtol=1e-6)


def test_nothing_is_compiled_again(evaluated):
    before = programs.num_compilations()
    ep.evaluate(numbers, ARCHS[:2], SPACE, key=6, shared=SHARED)
    assert programs.num_compilations() - before <= 1  # forgotten programs may come back once
    before = programs.num_compilations()
    ep.evaluate(numbers, ARCHS[1:], SPACE, key=7, shared=SHARED)
    assert programs.num_compilations() == before


def test_an_evaluation_on_disk_resumes_and_refuses_others(evaluated, tmp_path):
    path, done = tmp_path / "column.jsonl", []
    options = {"space": SPACE, "key": 5, "shared": SHARED, "path": path, "progress": lambda *n: done.append(n)}
    first = ep.evaluate(numbers, ARCHS, **options)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in (ends[2] + 11, len(whole)):
        path.write_bytes(whole[:cut])
        done.clear()
        again = ep.evaluate(numbers, ARCHS, **options)
        assert len(done) == (cut < len(whole)) * len(done)
        for name, leaf in evaluated.items():
            np.testing.assert_array_equal(again[name], leaf)
            np.testing.assert_array_equal(first[name], leaf)
            assert again[name].dtype == leaf.dtype
    assert not done  # everything was there
    narrow = {"execution": ep.Execution.of(form="vmap", vmap_width=2)}
    for change in (
        {"key": 6},
        {"shared": (SHARED[0] + 1,)},
        {"identity": {"version": 2}},
        {"dtype": jnp.float16},
        narrow,
    ):
        with pytest.raises(ValueError, match=r"column.jsonl: not of this evaluation"):
            ep.evaluate(numbers, ARCHS, **{**options, **change})
    with pytest.raises(ValueError, match="not of this evaluation"):
        ep.evaluate(lambda network, key, encoded, images: jnp.sum(images), ARCHS, **options)
    assert path.read_bytes().count(b"\n") == len(ends)


def test_a_file_names_the_width_that_memory_allowed(tmp_path, monkeypatch):
    """Rounding depends on it, as in ``ep.runs.score``."""
    monkeypatch.setattr(memory, "fitting_width", lambda *_: 4)
    path = tmp_path / "column.jsonl"
    ways = ep.Execution.of(form="vmap", vmap_width="auto")
    ep.evaluate(numbers, ARCHS, SPACE, shared=SHARED, execution=ways, path=path)
    assert json.loads(path.read_text().splitlines()[0])["form"] == "vmap 4"


def test_infinite_results_come_back_from_disk(tmp_path):
    def odd(network, key, encoded):
        del network, key
        return jnp.where(encoded[:3] > 1, jnp.inf, jnp.nan)

    options = {"space": SPACE, "path": tmp_path / "odd.jsonl"}
    first = ep.evaluate(odd, ARCHS, **options)
    np.testing.assert_array_equal(ep.evaluate(odd, ARCHS, **options), first)
    assert np.isinf(first).any()
    assert np.isnan(first).any()


# --- ep.runs.score -------------------------------------------------------------------------------------------


def test_a_run_from_python_is_that_of_score(scored, tmp_path):
    said = []
    options = {"workdir": tmp_path, "say": said.append}
    result = ep.runs.score([A, B, C, A], TINY_SPACE, SHORT, IMAGES, 5, **options)
    np.testing.assert_allclose(result.losses[:3], scored.losses, rtol=1e-6)
    assert result.archs[3] == result.archs[0]
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["arch"] for line in lines] == list(scored.archs)
    record = json.loads((tmp_path / "scores.run.json").read_text())
    assert record["settings"] == SHORT.to_dict()
    assert record["seconds"] == result.seconds
    said.clear()
    again = ep.runs.score([A, B, C], TINY_SPACE, SHORT, IMAGES, 5, **options)
    np.testing.assert_array_equal(again.losses, result.losses[:3])
    assert any("resuming after 3 of 3" in text for text in said)
    with pytest.raises(ValueError, match="written by another run"):
        ep.runs.score([A, B, C], TINY_SPACE, SHORT, IMAGES, 6, **options)
    for change in ({"optimizer": optax.sgd(0.1)}, {"targets": {"checkerboard": checkerboard}}):
        with pytest.raises(ValueError, match="written by another run"):
            ep.runs.score([A, B, C], TINY_SPACE, SHORT, IMAGES, 5, **options, **change)


@pytest.mark.slow
def test_a_run_from_python_survives_a_kill(tmp_path):
    script = """
import sys
import eproxy_jax as ep
import tiny
ep.configure(devices=1)
space = tiny.Tiny()
settings = ep.ProxySettings.from_dict({"num_steps": 3, "branches": [{"transform_channels": 8, "target_channels": 4}]})
ways = ep.Execution.of(chunk_size=1)
ep.runs.score(space.sample(120, 3), space, settings, ep.default_images(num=4, size=8), workdir=sys.argv[1], execution=ways)
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment, stderr=subprocess.DEVNULL)

    out = tmp_path / "killed" / "scores.jsonl"
    process, deadline = start(out.parent), time.monotonic() + 300
    while not (out.exists() and out.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < out.read_bytes().count(b"\n") < 120
    assert start(out.parent).wait() == 0
    assert start(tmp_path / "undisturbed").wait() == 0
    assert out.read_bytes() == (tmp_path / "undisturbed" / "scores.jsonl").read_bytes()


# --- results, settings, configuration ------------------------------------------------------------------------


def test_a_result_is_a_record(scored):
    rows = scored.to_rows()
    assert [row["arch"] for row in rows] == list(scored.archs)
    assert rows[1]["losses"] == scored.losses[1].tolist()
    values = json.loads(json.dumps(scored.to_dict()))
    assert values["macs"] == scored.macs.tolist()
    assert set(values) == {field.name for field in dataclasses.fields(ep.ScoreResult)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        scored.score = None
    np.testing.assert_array_equal(scored.select([2, 0]).loss, scored.loss[[2, 0]])
    frame = pytest.importorskip("pandas").DataFrame(rows)
    assert list(frame["score"]) == scored.score.tolist()


def test_found_settings_load_by_name():
    names = ep.found_names()
    assert len(names) == len(set(names)) == 35
    for space, task in names:
        assert space in ep.spaces.names()
        assert ep.found(space, task).members
    with pytest.raises(ValueError, match="unknown space 'nasbench21' .did you mean 'nasbench201'"):
        ep.found("nasbench21", "cifar10")
    with pytest.raises(ValueError, match="unknown task 'cifar1' .did you mean 'cifar10'"):
        ep.found("nasbench201", "cifar1")


def test_the_portfolio_is_settings_by_name():
    from eproxy_jax.columns import wanted_columns

    settings = ep.portfolio()
    assert 4 <= len(settings) <= 8
    assert len(set(settings.values())) == len(settings)
    for one in settings.values():
        assert one.alpha == 0
        assert one.num_steps == 10
    columns = {column.name: column.settings for column in wanted_columns("macs,portfolio")}
    assert columns == {"macs": None, **{f"eproxy:{name}": one for name, one in settings.items()}}


def test_configure_after_jax_has_started():
    jax.devices()
    configuration.configure(devices=2, compile_cache="off")  # what runs already
    with pytest.raises(ValueError, match=r"JAX runs already, with 2 CPU device\(s\) instead of 3"):
        ep.configure(devices=3, compile_cache="off")
    with pytest.raises(ValueError, match="expected an integer >= 1, got 0"):
        ep.configure(devices=0)


def test_targets_and_optimiser_of_a_configuration(tmp_path):
    from eproxy_jax.cli import config

    path = tmp_path / "own.py"
    path.write_text(
        "import jax.numpy as jnp\nimport optax\nfrom eproxy_jax.cli import config as eproxy_config\n"
        "def ones(key, images, channels):\n    return jnp.ones((len(images), 8, 8, channels))\n"
        "def get_config(variant='smoke'):\n"
        "    config = eproxy_config.variant_config('nasbench201', variant, small={}, smoke={'stem_channels': 2})\n"
        "    config.targets = {'ones': ones}\n    config.optimizer = optax.adam(1e-3)\n"
        "    config.settings.branches[0]['features'] = ('ones',)\n    return config\n"
    )
    spec = config.build(config.load_config(str(path)))
    assert spec.settings.branches[0].features == ("ones",)
    assert spec.targets["ones"](None, np.ones((2, 8, 8, 3)), 5).shape == (2, 8, 8, 5)
    assert spec.optimizer.update is not None
    with pytest.raises(ValueError, match="unknown feature 'twos'; known: net, wave_l, wave_m, wave_h, dot, ones"):
        config.build(config.load_config(str(path), ["--config.settings.branches[0].features=('twos',)"]))
