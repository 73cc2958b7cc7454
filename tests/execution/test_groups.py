"""Spaces whose architectures need several compiled programs: same scores, same files, same searches."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import SPACES, TINY, pattern_images

from eproxy_jax import images, scoring, spaces
from eproxy_jax.cli.main import main
from eproxy_jax.dps import evolution
from eproxy_jax.dps import labels as labels_lib
from eproxy_jax.dps import search as search_lib
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.execution import grouping, planner
from eproxy_jax.execution.execution import Execution
from eproxy_jax.runs import results
from eproxy_jax.types import ScoreResult

WHOLE = tiny.Tiny()
IMAGES = images.standardize(images.default_images(num=4, size=8))
SETTINGS = dataclasses.replace(TINY, num_steps=2)


@dataclasses.dataclass(frozen=True)
class Part:
    """One of two groups of the same space."""

    space: tiny.Tiny
    odd: bool

    def encode(self, archs):
        assert {sum(arch) % 2 == 1 for arch in archs} == {self.odd}
        return self.space.encode(archs)

    def universal(self, dtype=np.float32):
        return self.space.universal(dtype)

    def extract(self, arch, universal_params):
        return self.space.extract(arch, universal_params)

    def executed_macs(self, arch):
        return 2 * self.space.macs(arch)


@dataclasses.dataclass(frozen=True)
class Split(tiny.Tiny):
    """The same space in two groups."""

    def group(self, arch):
        return Part(WHOLE, sum(arch) % 2 == 1)


SPLIT = Split(WHOLE.width)
ARCHS = SPLIT.sample(12, 3)


def execution(num_devices=2, **sizes):
    return Execution.of(jax.devices()[:num_devices], "map", **sizes)


def test_scores_do_not_depend_on_groups():
    done = []
    ways = execution()
    split = scoring.score(ARCHS, SPLIT, TINY, IMAGES, progress=lambda *n: done.append(n), execution=ways)
    whole = scoring.score(ARCHS, WHOLE, TINY, IMAGES, execution=ways)
    np.testing.assert_array_equal(split.losses, whole.losses)
    distinct = grouping.distinct_networks(ARCHS, SPLIT).distinct
    groups = grouping.by_group(distinct, SPLIT)
    assert len(groups) == 2
    assert sorted(i for members in groups.values() for i in members) == list(range(len(distinct)))
    assert done[-1] == (len(distinct), len(distinct))


@pytest.mark.slow
def test_labels_of_several_groups_give_the_losses_of_one():
    table = GeneTable(branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(4,),
                      target_channels=(4,))  # fmt: skip
    spec = evolution.SearchSpec(num_evaluations=2, population_size=2, tournament_size=1, log_every=2, num_steps=2)
    histories = []
    for space in (SPLIT, WHOLE):
        labels = labels_lib.make_labels(space, ARCHS, range(len(ARCHS)), execution())
        assert len(labels.functions) == (2 if space is SPLIT else 1)
        search = search_lib.make_search(table, spec, labels, IMAGES, 0, 0, execution())
        histories.append(search.call(search.initial, 2, 2))
    np.testing.assert_allclose(histories[0].losses, histories[1].losses, rtol=1e-4)
    assert np.isfinite(np.asarray(histories[0].losses)).all()


def test_a_file_written_in_any_order_ends_in_the_order_asked_for(tmp_path):
    """As groups finish one after the other, and runs are killed between them."""
    count = len(ARCHS)
    numbers, sizes = np.linspace(0.1, 0.9, count), np.arange(1, count + 1)
    names, curves = tuple(map(SPLIT.format, ARCHS)), np.linspace(0.1, 0.9, 2 * count).reshape(count, 2)
    result = ScoreResult(names, -numbers, numbers, curves, sizes, sizes, sizes, ("ok",) * count, {})
    lines = results.lines_of(result, "run")
    whole = "".join(line + "\n" for line in lines)
    path = tmp_path / "scores.jsonl"
    for order in ((5, 2, 11), (0, 1, 3, 4, 10, 9, 8, 7, 6)):
        file = results.ResultsFile(path, "run", result.archs)
        file.append([lines[i] for i in order])
        file.close()
    file = results.ResultsFile(path, "run", result.archs)
    assert file.known == set(result.archs)
    assert not file.missing()
    assert path.read_text() != whole
    file.finish()
    file.close()
    assert path.read_text() == whole
    path.write_text(whole + lines[3] + "\n")
    with pytest.raises(ValueError, match=r"scores.jsonl:13: holds .* a second time"):
        results.ResultsFile(path, "run", result.archs)
    path.write_text(whole)
    with pytest.raises(ValueError, match=r"scores.jsonl:2: holds .* lacks"):
        results.ResultsFile(path, "run", [arch for i, arch in enumerate(result.archs) if i != 1])


# --- fine groups of NAS-Bench-201 ---

FINE_CELLS = [(3, 1, 3, 4, 3, 2), (3, 3, 1, 2, 4, 3), (0, 4, 0, 2, 0, 1)]


@pytest.mark.slow
def test_fine_groups_train_like_the_one_program(x64):
    """Ten steps in float64, one after the other and in batches, for cells with every operation."""
    space = SPACES["nasbench201"]
    archs = [space.canonical(cell) for cell in FINE_CELLS[:2]]
    assert len(grouping.by_group(archs, space, "fine")) == 1
    losses = [
        scoring.score(
            archs,
            space,
            TINY,
            pattern_images(4, 16),
            execution=Execution.of(jax.devices()[:1], form, vmap_width=2, grouping=kind),
        ).losses
        for form, kind in (("map", "coarse"), ("map", "fine"), ("vmap", "fine"))
    ]
    assert np.isfinite(losses[0]).all()
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-6)


@pytest.mark.slow
def test_weights_of_a_fine_group_are_those_of_the_network(x64):
    space, x = SPACES["nasbench201"], jnp.asarray(pattern_images())
    for cell in FINE_CELLS:
        group = space.fine_group(cell)
        module, encoded = group.universal(jnp.float64), jnp.asarray(group.encode([cell])[0])
        params = jax.jit(module.init)(jax.random.key(0), x, encoded)["params"]
        taps = jax.jit(module.apply)({"params": params}, x, encoded)
        expected = jax.jit(space.to_flax(cell).apply)({"params": group.extract(cell, params)}, x)
        for ours, theirs in zip(taps, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_lowered_program_of_a_fine_group_has_few_products():
    """In batches, a slot pays for its own operation: one product a slot, not two."""
    space = SPACES["nasbench201"]
    group = space.fine_group((3, 3, 3, 1, 1, 1))
    module, x = group.universal(), jnp.ones((2, 8, 8, 3))
    one = jnp.asarray(group.encode([(3, 3, 3, 1, 1, 1)])[0])
    params = jax.eval_shape(lambda e: module.init(jax.random.key(0), x, e), one)
    pair = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), (params, one))
    program = jax.jit(jax.vmap(lambda p, e: module.apply(p, x, e)))
    for platform in ("cuda", "tpu"):
        text = jax.export.export(program, platforms=[platform])(*pair).mlir_module()
        groups = set(re.findall(r"feature_group_count = (\d+)", text))
        assert groups <= ({"1", "2"} if platform == "cuda" else {"1"})  # the two candidates: cuDNN's, by measurement
        # 3 stages of one cell with six slots, five of which choose their source by a product of their own, the stem,
        # and two residual blocks of three convolutions.
        assert text.count("stablehlo.dot_general") + text.count("stablehlo.convolution") == 3 * (6 + 5) + 1 + 2 * 3


# --- the plan ---


@pytest.mark.slow
def test_plan_of_the_whole_space():
    """At most 24 programs, and at most half as much work again as is needed, in batches of 32."""
    space = spaces.get("nasbench201", cells_per_stage=1)
    every = list(space.enumerate())
    batches = Execution.of(jax.devices()[:1], "vmap", grouping="fine")
    fine = planner.plan(every, space, TINY, (16, 32, 32, 3), batches).to_dict()
    assert fine["architectures"] == 15625
    assert fine["disconnected"] == 341  # strings, all of one function, which is not trained
    assert fine["distinct"] == 5043 == sum(group["networks"] for group in fine["groups"])
    assert fine["programs"] == len(fine["groups"]) <= 24
    assert 1 < fine["flops_executed"] / fine["flops_needed"] < 1.5
    coarse = dataclasses.replace(batches, grouping="coarse")
    one = planner.plan(every, space, TINY, (16, 32, 32, 3), coarse).to_dict()
    assert one["programs"] == 1
    assert one["flops_needed"] == fine["flops_needed"] < one["flops_executed"] / 2
    exact = planner.plan(every, space, TINY, (16, 32, 32, 3), execution(1)).to_dict()
    assert exact["flops_executed"] == exact["flops_needed"] == fine["flops_needed"]


def test_executed_work_of_groups_is_counted():
    plan = planner.plan(ARCHS, SPLIT, SETTINGS, (2, 8, 8, 3), execution())
    assert len(plan.groups) == 2
    # Backbones twice, heads once.
    values = plan.to_dict()
    assert 1 < values["flops_executed_per_needed"] < 2


@pytest.mark.slow
@pytest.mark.parametrize("form", ["map", "vmap"])
def test_predicted_memory_is_near_the_compiled_programs(form):
    space = spaces.get("nasbench201", stem_channels=8, cells_per_stage=2)
    batch = images.default_images(num=16, size=16)
    ways = Execution.of(jax.devices()[:1], form, vmap_width=4, grouping="coarse")
    job = scoring.make_job(space, SETTINGS, batch, 0, ways)
    archs = [space.canonical(arch) for arch in space.sample(8, 0) if space.is_connected(arch)]
    predicted = planner.plan(archs, space, SETTINGS, batch.shape, ways).groups[0].bytes_per_device
    assert 0.5 < predicted / job.evaluation.program(archs[0]).temp_bytes < 2


def test_plan_command(capsys):
    flags = ["plan", "--space", "nasbench201", "--sample", "40", "--devices", "1"]
    assert main([*flags, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    for name in ("architectures", "distinct", "programs", "flops_needed", "flops_executed", "bytes_per_device"):
        assert values[name] > 0
    assert values["architectures"] == 40
    assert main(flags) == 0
    assert "executed/needed" in capsys.readouterr().out
    assert main([*flags, "--vmap-width", "auto"]) == 2
    assert "only eproxy score can" in capsys.readouterr().err
