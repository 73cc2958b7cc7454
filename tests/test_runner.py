"""Scores do not depend on order, chunks, padding, devices or company; nothing is compiled twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SPACES, THREE_BRANCHES, TINY, pattern_images

from eproxy_jax import programs, proxy, runner, score, spaces

SPACE = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
IMAGES = pattern_images(4, 8).astype(np.float32)
ARCHS = SPACE.sample(10, 3)


def scored(archs=ARCHS, **options):
    options = {"space": SPACE, "settings": TINY, "images": IMAGES, "key": 5, **options}
    return score(archs, **options)


@pytest.fixture(scope="module")
def baseline():
    return scored()


@pytest.mark.parametrize("form", ["map", "vmap"])
def test_bit_equal_within_a_form(form):
    """Whatever the order, chunk size, padding, devices and other architectures, the bits are the same."""
    options = {"form": form, "vmap_width": 3}
    whole = scored(chunk_size=6, **options).losses
    variants = {
        "reversed": scored(ARCHS[::-1], chunk_size=6, **options).losses[::-1],
        "padded": scored(chunk_size=12, **options).losses,
        "smallest chunks, one device": scored(chunk_size=1, devices=jax.devices()[:1], **options).losses,
        "alone": scored(ARCHS[:1], chunk_size=6, **options).losses,
        "repeated": scored([*ARCHS, *ARCHS], chunk_size=6, **options).losses[len(ARCHS) :],
        "strings": scored([SPACE.format(arch) for arch in ARCHS], chunk_size=6, **options).losses,
    }
    for name, losses in variants.items():
        np.testing.assert_array_equal(losses, whole[: len(losses)], err_msg=name)


# One machine runs all cell spaces of NDS, another all its AnyNets.
ONE_OF_EACH = ("nasbench101", "nasbench201", "nasbench_mr", "nds_darts", "nds_resnet", "nds_resnext_a", "transnas_macro",
               "transnas_micro")  # fmt: skip


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_map_vmap_and_loop_agree_in_float64(x64, name):
    """All ten steps within 1e-6, step 1 far closer; the loop is each candidate's own jitted program."""
    sizes = {
        "nasbench101": {"stem_channels": 4, "modules_per_stack": 1},
        "nasbench201": {"stem_channels": 2, "cells_per_stage": 1},
        "nasbench_mr": {"channel_divisor": 8},
        **{name: {"width_divisor": 32} for name in SPACES if name.startswith("nds_")},
        "transnas_micro": {"stem_channels": 2, "macro": "414"},
        "transnas_macro": {"stem_channels": 2},
    }
    space = spaces.get(name, **sizes[name])
    drawn = space.sample(8, 1)
    archs = [arch for arch in drawn if space.group(arch) == space.group(drawn[0])][:4]  # one program
    images = pattern_images(4, 8)
    # Batch norms over single pixels of 4 images make gradients explode: from the third step on, a change of 1e-13 in the
    # weights turns a finite loss into NaN, in the stand-alone networks too.
    single_pixels = name in ("nasbench_mr", "nds_resnet", "transnas_macro")
    settings = type(TINY).from_dict({**TINY.to_dict(), "num_steps": 2}) if single_pixels else TINY
    results = {
        form: score(archs, space, settings, images, 5, form=form, devices=jax.devices()[:1], chunk_size=4, vmap_width=4)
        for form in ("map", "vmap")
    }
    assert results["map"].losses.dtype == np.float64
    np.testing.assert_allclose(results["vmap"].losses, results["map"].losses, rtol=1e-6)
    np.testing.assert_allclose(results["vmap"].losses[:, 0], results["map"].losses[:, 0], rtol=1e-10)
    if name != "nasbench201":
        return  # the loop differs in the runner only, which is the same for all spaces
    job = runner.make_job(space, TINY, images, 5, programs.Execution.of(jax.devices()[:1]))
    network = proxy.ProxyNetwork(space.universal(jnp.float64), proxy.ProxySpec.of(TINY).heads, jnp.float64)
    one = jax.jit(proxy.candidate_losses, static_argnums=(0, 1))
    loop = []
    for arch in map(space.canonical, archs):
        key = proxy.arch_key(job.key, jnp.asarray(spaces.arch_identity(space, arch)))
        loop.append(one(network, 10, key, jnp.asarray(space.encode([arch])[0]), job.task, job.hyper))
    np.testing.assert_allclose(np.stack(loop), results["map"].losses, rtol=1e-6)


def test_map_and_vmap_agree_at_step_one_in_float32(baseline):
    np.testing.assert_allclose(
        scored(form="vmap", chunk_size=6, vmap_width=3).losses[:, 0], baseline.losses[:, 0], rtol=1e-5
    )


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
    shared = [(3, 0, 0, 0, 1, 0), (0, 1, 3, 3, 0, 0), (0, 0, 0, 3, 4, 4)]  # one 3x3 convolution, written three ways
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


def test_all_genes_are_accepted():
    result = scored(ARCHS[:2], settings=THREE_BRANCHES)
    assert result.losses.shape == (2, 10)
    assert len(THREE_BRANCHES.branches) == 3
    # The final loss halves each further branch's weight.
    np.testing.assert_allclose(proxy.final_loss(jnp.asarray([4.0, 2.0, 8.0])), 4 + 1 + 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archs": []}, "the list is empty"),
        ({"archs": ["|none~0|"]}, r"archs\[0\]: not a NAS-Bench-201 string"),
        ({"archs": [ARCHS[0], "64-41414-3_21_013"]}, r"archs\[1\]"),
        ({"space": "nasbench202"}, "did you mean 'nasbench201'"),
        ({"form": "pmap"}, "unknown execution form 'pmap'; known: map, vmap"),
        ({"chunk_size": 0}, "chunk_size"),
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
    """The program's gradient has no product shaped like a barrier's weight gradient, which a plain one would have."""
    # 24 and 5 channels: no other layer has a product of [24, 9 * 5].
    settings = type(TINY).from_dict({"branches": [{"transform_channels": 24, "target_channels": 5}]})
    network = proxy.ProxyNetwork(SPACE.universal(), ((1, 24),))
    job = runner.make_job(SPACE, settings, IMAGES, 0)
    encoded = jnp.asarray(SPACE.encode([ARCHS[0]])[0])
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), IMAGES, encoded))["params"]

    def jaxpr():
        def loss(params, kernel):
            task = job.task.replace(barriers=({**job.task.barriers[0], "kernel": kernel},))
            return jnp.sum(proxy.branch_losses(network.apply({"params": params}, task.images, encoded), task))

        return str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(params, job.task.barriers[0]["kernel"]))

    assert "f32[24,45]" not in jaxpr()
    monkeypatch.setattr(proxy.ops, "frozen_conv2d", proxy.ops.conv2d)
    assert "f32[24,45]" in jaxpr()


def test_lowers_for_accelerators_without_grouped_convolutions():
    """The vmapped device program exports for TPU and CUDA, and no convolution in it is grouped."""
    mesh = programs.candidates_mesh(jax.devices()[:1])
    network = proxy.ProxyNetwork(SPACE.universal(), ((1, 8),))
    job = runner.make_job(SPACE, TINY, IMAGES, 0, programs.Execution.of(jax.devices()[:1]))
    program = jax.jit(programs.chunk_program(proxy.Candidate(network, 2), 2, "vmap", mesh, 3))
    arguments = (
        job.key,
        np.zeros((3, 2), np.uint32),
        SPACE.encode(ARCHS[:3]),
        np.ones(3, bool),
        (job.task, job.hyper),
    )
    text = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(*arguments).mlir_module()
    assert "stablehlo.convolution" in text
    groups = {part.split()[0] for part in text.split("feature_group_count = ")[1:]}
    assert groups == {"1"}
