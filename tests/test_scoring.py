"""Scores do not depend on order, chunks, padding, devices or company; nothing is compiled twice."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import CELLS, SPACES, THREE_BRANCHES, TINY, pattern_images, pattern_tree, slow_unless

from eproxy_jax import proxy, score, scoring, spaces
from eproxy_jax.execution import evaluation, memory, programs
from eproxy_jax.execution.execution import VMAP_WIDTH, Execution, candidates_mesh

SPACE = tiny.Tiny()  # for what holds whatever the networks are
REAL = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
IMAGES = pattern_images(4, 8).astype(np.float32)
ARCHS = SPACE.sample(10, 3)
WAYS = ("devices", "form", "chunk_size", "vmap_width", "grouping", "precision")


def scored(archs=ARCHS, **options):
    ways = {"chunk_size": 8, **{name: options.pop(name) for name in WAYS if name in options}}
    options = {"space": SPACE, "settings": TINY, "images": IMAGES, "key": 5, **options}
    return score(archs, **options, execution=Execution.of(**ways))


@pytest.fixture(scope="module")
def baseline():
    return scored()


@pytest.mark.parametrize("form", ["map", "vmap"])
@pytest.mark.parametrize("space", [SPACE, pytest.param(REAL, marks=pytest.mark.slow)], ids=lambda space: space.name)
def test_bit_equal_within_a_form(form, space):
    """Whatever the order, chunk size, padding, devices and other architectures, the bits are the same."""
    archs, options = space.sample(10, 3), {"space": space, "form": form, "vmap_width": 3}
    whole = scored(archs, chunk_size=8, **options).losses
    variants = {
        "reversed": scored(archs[::-1], chunk_size=8, **options).losses[::-1],
        "smallest chunks, one device": scored(archs, chunk_size=1, devices=jax.devices()[:1], **options).losses,
        "alone": scored(archs[:1], chunk_size=8, **options).losses,
        "repeated": scored([*archs, *archs], chunk_size=8, **options).losses[len(archs) :],
        "strings": scored([space.format(arch) for arch in archs], chunk_size=8, **options).losses,
    }
    for name, losses in variants.items():
        np.testing.assert_array_equal(losses, whole[: len(losses)], err_msg=name)


@pytest.mark.slow
def test_map_vmap_and_loop_agree_in_float64(x64):
    """All ten steps within 1e-6, step 1 far closer; the loop is each candidate's own jitted program.

    Only networks differ in other spaces: tests/test_parity.py has their batches.
    """
    archs, images = REAL.sample(10, 3)[:4], pattern_images(4, 8)
    results = {
        form: scored(archs, space=REAL, images=images, form=form, devices=jax.devices()[:1], chunk_size=4, vmap_width=4)
        for form in ("map", "vmap")
    }
    assert results["map"].losses.dtype == np.float64
    np.testing.assert_allclose(results["vmap"].losses, results["map"].losses, rtol=1e-6)
    np.testing.assert_allclose(results["vmap"].losses[:, 0], results["map"].losses[:, 0], rtol=1e-10)
    job = scoring.make_job(REAL, TINY, images, 5, Execution.of(jax.devices()[:1]))
    network = proxy.ProxyNetwork(REAL.universal(jnp.float64), proxy.ProxySpec.of(TINY).heads, jnp.float64)
    one = jax.jit(proxy.candidate_losses, static_argnums=(0, 1))
    loop = []
    for arch in map(REAL.canonical, archs):
        key = proxy.candidate_key(job.evaluation.key, jnp.asarray(spaces.arch_identity(REAL, arch)))
        loop.append(one(network, 10, key, jnp.asarray(REAL.encode([arch])[0]), job.task, job.hyper))
    np.testing.assert_allclose(np.stack(loop), results["map"].losses, rtol=1e-6)


@pytest.mark.slow
def test_features_of_a_batch_of_transnas_cells(x64):
    """Features only: gradients of a batch of cells with affine norms take XLA's CPU backend minutes to fuse."""
    space, images = spaces.get("transnas_micro", stem_channels=2, macro="414"), jnp.asarray(pattern_images(4, 8))
    universal, cells = space.universal(jnp.float64), jnp.asarray(space.encode(space.sample(4, 1)))
    shapes = jax.eval_shape(lambda cell: universal.init(jax.random.key(0), images, cell), cells[0])["params"]
    params = [jax.tree.map(lambda leaf, n=n: (1 + 0.1 * n) * leaf, pattern_tree(shapes)) for n in range(len(cells))]
    features = jax.jit(lambda p, cell: universal.apply({"params": p}, images, cell))
    batch = jax.jit(jax.vmap(features))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), cells)
    for n, cell in enumerate(cells):
        for one, many in zip(features(params[n], cell), batch, strict=True):
            np.testing.assert_allclose(many[n], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("space", [SPACE, pytest.param(REAL, marks=pytest.mark.slow)], ids=lambda space: space.name)
def test_map_and_vmap_agree_at_step_one_in_float32(space):
    archs = space.sample(10, 3)
    by_map, by_vmap = (
        scored(archs, space=space, form=form, chunk_size=8, vmap_width=3).losses for form in ("map", "vmap")
    )
    np.testing.assert_allclose(by_vmap[:, 0], by_map[:, 0], rtol=1e-5)


@pytest.mark.slow
def test_bfloat16_products_sum_in_float32():
    archs, options = REAL.sample(10, 3), {"form": "vmap", "vmap_width": 3}
    one_step = type(TINY).from_dict({**TINY.to_dict(), "num_steps": 1})
    exact, rounded = (
        scored(archs, space=REAL, settings=one_step, precision=precision, chunk_size=8, **options).losses
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(rounded[:, 0], exact[:, 0])
    np.testing.assert_allclose(rounded[:, 0], exact[:, 0], rtol=2e-2)

    execution = Execution.of(jax.devices()[:1], precision="bfloat16", **options)
    job = scoring.make_job(REAL, TINY, IMAGES, 5, execution)
    group = REAL.group(archs[0])
    shape = group.encode(archs[:1]).shape[1:]
    spec = programs.ProgramSpec.of(
        job.evaluation.candidate(group), shape, execution, job.evaluation.key, job.evaluation.shared
    )
    lines = spec.lower()[0].as_text().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line or "stablehlo.convolution" in line]
    assert len(products) > 20
    for line in products:
        operands, result = line[line.rindex(" : (") :].split("->")
        assert operands.count("bf16>") == 2
        assert "xf32>" in result


def test_batches_as_wide_as_memory_holds(baseline, monkeypatch):
    class Program:
        temp_bytes = VMAP_WIDTH * 1000

    monkeypatch.setattr(evaluation.Evaluation, "program", lambda *_: Program())
    monkeypatch.setattr(memory, "free_bytes", lambda devices: 5000 / 0.8)
    job = scoring.make_job(SPACE, TINY, IMAGES, 5, Execution.of(form="vmap", vmap_width="auto"))
    wide = job.widened(ARCHS).execution
    assert (wide.vmap_width, wide.chunk_size) == (4, 4 * len(jax.devices()))
    np.testing.assert_array_equal(scored(vmap_width="auto").losses, baseline.losses)  # no batches in the map form


def test_no_compilation_on_the_second_call():
    scored(ARCHS[2:5])  # not a shared fixture: the programs of an earlier test may have been dropped since
    before = programs.num_compilations()
    again = scored(ARCHS[2:5])
    assert programs.num_compilations() == before
    assert again.seconds["compile"] == 0
    # Data genes compile nothing either: learning rate, weight seed, initialisers, features.
    values = {**TINY.to_dict(), "lr": 0.7, "network_init": "kaiming_normal", "barrier_init": "xavier_uniform"}
    values["branches"][0]["features"] = ["dot", "wave_l"]
    other = scored(ARCHS[2:5], settings=type(TINY).from_dict(values), key=6)
    assert programs.num_compilations() == before
    assert not np.array_equal(other.loss, again.loss)


def test_duplicates_are_trained_once_and_scored_alike():
    shared = [(3, 0, 0), (3, 0, 1), (3, 0, 4)]  # one convolution, written three ways
    calls = []
    result = scored(shared, settings=type(TINY).from_dict({**TINY.to_dict(), "alpha": 0.3}),
                    progress=lambda done, total: calls.append((done, total)))  # fmt: skip
    assert calls == [(1, 1)]
    assert len(set(result.score.tolist())) == 1
    assert len(set(result.effective_macs.tolist())) == 1
    assert result.macs[1] > result.macs[0]


def test_different_keys_and_archs_get_different_weights(baseline):
    assert not np.array_equal(scored(key=6).losses, baseline.losses)
    assert len(np.unique(baseline.losses[:, 0])) == len({SPACE.canonical(a) for a in ARCHS})
    np.testing.assert_array_equal(scored(key=jax.random.key(5)).losses, baseline.losses)


def test_result_fields(baseline):
    assert baseline.losses.shape == (10, 10)
    np.testing.assert_array_equal(baseline.loss, baseline.losses[:, -1])
    np.testing.assert_allclose(baseline.score, -baseline.loss)
    assert baseline.archs == tuple(SPACE.format(arch) for arch in ARCHS)
    np.testing.assert_array_equal(baseline.macs, [SPACE.macs(arch) for arch in ARCHS])
    assert (np.diff(baseline.score[baseline.ranking()]) <= 0).all()
    assert baseline.losses[:, -1].mean() < baseline.losses[:, 0].mean()


def test_divergence_is_a_status_and_the_worst_rank():
    values = {**TINY.to_dict(), "lr": 1e30}
    result = scored(ARCHS[:4], settings=type(TINY).from_dict(values))
    assert set(result.status) == {"diverged"}
    assert np.isnan(result.loss).all()
    assert (result.score == -np.inf).all()


@pytest.mark.slow
def test_all_genes_are_accepted():
    result = scored(REAL.sample(2, 1), space=REAL, settings=THREE_BRANCHES)
    assert result.losses.shape == (2, 10)
    assert len(THREE_BRANCHES.branches) == 3
    # The final loss halves each further branch's weight.
    np.testing.assert_allclose(proxy.final_loss(jnp.asarray([4.0, 2.0, 8.0])), 4 + 1 + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archs": []}, "the list is empty"),
        ({"space": REAL, "archs": ["|none~0|"]}, r"archs\[0\]: not a NAS-Bench-201 string"),
        ({"archs": [ARCHS[0], "64-41414-3_21_013"]}, r"archs\[1\]"),
        ({"space": "nasbench202"}, "did you mean 'nasbench201'"),
        ({"form": "pmap"}, "unknown execution form 'pmap'; known: map, vmap"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; known: default, float32, bfloat16"),
        ({"images": np.ones((4, 8, 8))}, r"expected shape \[B, H, W, 3\]"),
        ({"images": np.ones((4, 3, 8, 8))}, "looks like NCHW"),
        ({"images": np.full((4, 8, 8, 3), np.nan)}, "not finite in image"),
        ({"images": np.ones((4, 8, 8, 3))}, "constant over the batch"),
        ({"images": IMAGES[:1]}, "at least 2 images"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        scored(**change)


def test_no_gradient_for_the_barrier(monkeypatch):
    """The program's gradient has nothing shaped like a barrier's weight gradient, which a plain one would have."""
    # 24 and 5 channels: no other layer has a weight gradient of [24, 3, 3, 5].
    settings = type(TINY).from_dict({"branches": [{"transform_channels": 24, "target_channels": 5}]})
    network = proxy.ProxyNetwork(SPACE.universal(), ((1, 24),))
    job = scoring.make_job(SPACE, settings, IMAGES, 0)
    encoded = jnp.asarray(SPACE.encode([ARCHS[0]])[0])
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGES, encoded))["params"]

    def jaxpr():
        def loss(params, kernel):
            task = job.task.replace(barriers=({**job.task.barriers[0], "kernel": kernel},))
            return jnp.sum(proxy.branch_losses(network.apply({"params": params}, task.images, encoded), task))

        return str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, job.task.barriers[0]["kernel"]))

    assert "f32[24,3,3,5]" not in jaxpr()
    monkeypatch.setattr(proxy.convolution, "frozen_conv2d", proxy.convolution.conv2d)
    assert "f32[24,3,3,5]" in jaxpr()


# One machine runs all cell spaces of NDS, another all its AnyNets; fine groups of NAS-Bench-201: tests/execution/test_groups.py.
@pytest.mark.parametrize(
    "name",
    slow_unless(
        ["nasbench201"],
        ["nasbench101", "nasbench201", "nasbench_mr", "nds_darts", "nds_resnext_a", "transnas_macro", "transnas_micro"],
    ),
)
def test_lowers_for_accelerators(name):
    """The vmapped device program exports for TPU and CUDA, all at once too; none but cuDNN meets grouped convolutions.

    Where they are faster there, see benchmarks/conv_forms.py.
    """
    space, arch = SPACES[name], CELLS[name][0]
    group = space.group(arch)
    execution = Execution.of(jax.devices()[:1], "vmap", vmap_width=2)
    job = scoring.make_job(space, TINY, IMAGES, 0, execution)
    mesh = candidates_mesh(execution.devices)
    program = jax.jit(programs.chunk_program(job.evaluation.candidate(group), "vmap", mesh, 2))
    arguments = (job.evaluation.key, np.zeros((2, 2), np.uint32), group.encode([arch, arch]), np.ones(2, bool))
    for platforms, groups in ((("cpu", "tpu"), {"1"}), (("cpu", "cuda", "tpu"), {"1", "2"})):
        text = jax.export.export(program, platforms=platforms)(*arguments, job.evaluation.shared).mlir_module()
        assert "stablehlo.convolution" in text or "stablehlo.dot_general" in text
        assert set(re.findall(r"feature_group_count = (\d+)", text)) <= groups
