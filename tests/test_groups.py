"""Spaces whose architectures need several compiled programs: same scores, same files, same searches."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import TINY

from eproxy_jax import dps, images, results_file, runner, spaces
from eproxy_jax.genes import GeneTable

WHOLE = spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
IMAGES = images.standardize(images.default_images(num=2, size=8))
SETTINGS = dataclasses.replace(TINY, num_steps=2)


@dataclasses.dataclass(frozen=True)
class Part:
    """One of two groups of the same space."""

    space: spaces.NasBench201
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
class Split(spaces.NasBench201):
    """NAS-Bench-201 in two groups."""

    def group(self, arch):
        return Part(WHOLE, sum(arch) % 2 == 1)


SPLIT = Split(WHOLE.stem_channels, WHOLE.cells_per_stage)
ARCHS = SPLIT.sample(12, 3)


def execution(num_devices=2, **sizes):
    return runner.Execution.of(jax.devices()[:num_devices], "map", **sizes)


def test_scores_do_not_depend_on_groups():
    done = []
    options = {"devices": jax.devices(), "chunk_size": 2}
    split = runner.score(ARCHS, SPLIT, SETTINGS, IMAGES, progress=lambda *n: done.append(n), **options)
    whole = runner.score(ARCHS, WHOLE, SETTINGS, IMAGES, **options)
    np.testing.assert_array_equal(split.losses, whole.losses)
    distinct = runner.make_plan(ARCHS, SPLIT).distinct
    groups = runner.by_group(distinct, SPLIT)
    assert len(groups) == 2
    assert sorted(i for members in groups.values() for i in members) == list(range(len(distinct)))
    assert done[-1] == (len(distinct), len(distinct))


def test_labels_of_several_groups_give_the_losses_of_one():
    table = GeneTable(branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(4,),
                      target_channels=(4,))  # fmt: skip
    spec = dps.SearchSpec(num_evaluations=2, population_size=2, tournament_size=1, log_every=2, num_steps=2)
    histories = []
    for space in (SPLIT, WHOLE):
        labels = dps.make_labels(space, ARCHS, range(len(ARCHS)), execution())
        assert len(labels.functions) == (2 if space is SPLIT else 1)
        search = dps.make_search(table, spec, labels, IMAGES, 0, 0, execution())
        histories.append(search.call(search.initial, 2, 2))
    np.testing.assert_allclose(histories[0].losses, histories[1].losses, rtol=1e-4)
    assert np.isfinite(np.asarray(histories[0].losses)).all()


def test_a_file_written_in_any_order_ends_in_the_order_asked_for(tmp_path):
    """As groups finish one after the other, and runs are killed between them."""
    result = runner.score(ARCHS, SPLIT, SETTINGS, IMAGES, devices=jax.devices()[:1])
    result = result.replace(archs=(*result.archs[:-1], result.archs[0]))  # one string twice
    lines = results_file.lines_of(result, "run")
    rows = [json.loads(line) for line in lines]
    rows[-1] = {**rows[0]}
    lines = [json.dumps(row) for row in rows]
    whole = "".join(line + "\n" for line in lines)
    path = tmp_path / "scores.jsonl"
    for order in ((5, 2, 11), (0, 1, 3, 4, 10, 9, 8, 7, 6)):
        file = results_file.ResultsFile(path, "run", result.archs)
        file.append([lines[i] for i in order])
        file.close()
    file = results_file.ResultsFile(path, "run", result.archs)
    assert sorted(file.positions) == list(range(12))
    assert path.read_text() != whole
    file.finish()
    assert file.positions == list(range(12))
    file.close()
    assert path.read_text() == whole
    with pytest.raises(ValueError, match=r"scores.jsonl:12: holds .* has fewer times"):
        results_file.ResultsFile(path, "run", result.archs[:-1])
    with pytest.raises(ValueError, match=r"scores.jsonl:2: holds .* lacks"):
        results_file.ResultsFile(path, "run", [arch for i, arch in enumerate(result.archs) if i != 1])
