"""Disconnected networks in scores, files, fitted proxies, evaluations and plans; and numbers that files give back.

Trainings are replaced by a function of the architecture: nothing is compiled.
"""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SPACES, pattern_images, real_input

import eproxy_jax as ep
from eproxy_jax import proxy, spaces
from eproxy_jax.dps.fitted import FittedProxy, Member
from eproxy_jax.execution import planner
from eproxy_jax.execution.evaluation import Evaluation
from eproxy_jax.execution.execution import Execution
from eproxy_jax.jsonlines import as_float32, json_number, read_numbers
from eproxy_jax.runs import printed
from eproxy_jax.spaces.cells.graph import Cell
from eproxy_jax.types import ScoreResult

SPACE = SPACES["nasbench201"]
# Random signs as a target: the task compiles in no time.
TINY = ep.ProxySettings.from_dict(
    {"branches": [{"features": ["dot"], "barrier_kernel": 1, "transform_channels": 8, "target_channels": 4}]}
)
IMAGES = pattern_images(4, 8).astype(np.float32)
DEAD = list(map(Cell, [(0, 0, 0, 0, 0, 0), (3, 3, 3, 0, 0, 0), (0, 0, 3, 0, 3, 3)]))
DIVERGES = Cell((3, 3, 3, 3, 3, 3))
# One 3x3 convolution, three spellings.
EQUAL = list(map(Cell, [(3, 0, 0, 0, 1, 0), (0, 1, 3, 3, 0, 0), (1, 3, 0, 0, 0, 1)]))
ALIVE = [Cell((3, 1, 2, 4, 3, 1)), *EQUAL, Cell((2, 3, 4, 1, 0, 3)), DIVERGES]
LIST = [DEAD[0], *ALIVE[:3], DEAD[1], *ALIVE[3:], DEAD[2]]


def losses_of(arch) -> np.ndarray:
    """Ten float32 losses without short decimals, as a training gives them; NaN in the end for one architecture."""
    rng = np.random.default_rng(list(arch))
    losses = rng.uniform(0.3, 0.9, 10).astype(np.float32)
    losses[-1] = np.nan if arch == DIVERGES else losses[-1]
    return losses


@pytest.fixture
def trained(monkeypatch):
    """The networks that were trained, in order."""
    done = []

    def run(self, archs, compiled=None):
        for position, arch in enumerate(archs):
            done.append(arch)
            shift = np.float32(0 if self.shared[0][1].lr > 1 else 0.1)
            yield np.asarray([position]), losses_of(arch)[None] + shift

    monkeypatch.setattr(Evaluation, "run", run)
    return done


def scored(archs=LIST, settings=TINY, **options):
    return ep.score(archs, SPACE, settings, IMAGES, **options)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_not_trained_no_score_last_rank_no_effective_macs(trained):
    result = scored()
    assert result.status == tuple("disconnected" if a in DEAD else "diverged" if a == DIVERGES else "ok" for a in LIST)
    assert set(trained) == {SPACE.canonical(arch) for arch in ALIVE}
    dead = np.asarray([arch in DEAD for arch in LIST])
    assert (result.score[dead] == -np.inf).all()
    assert np.isnan(result.loss[dead]).all()
    assert np.isnan(result.losses[dead]).all()
    assert (result.effective_macs[dead] == 0).all()
    assert (result.effective_macs[~dead] > 0).all()
    assert result.macs.tolist() == [SPACE.macs(arch) for arch in LIST]  # as written
    ranking = result.ranking().tolist()
    assert [LIST[i] for i in ranking[-4:]] == [DIVERGES, *DEAD]  # the order given, among equals
    table = printed.ranked_table(result, top=len(LIST))
    assert table.splitlines()[-1] == f"{len(LIST)} architectures, 1 diverged, 3 disconnected"
    assert "  disconnected  " in table


def test_with_alpha_too(trained):
    settings = dataclasses.replace(TINY, alpha=-0.5)
    assert (scored(settings=settings).score[[0, 4, -1]] == -np.inf).all()


def test_only_disconnected_networks(trained, tmp_path):
    assert set(scored(DEAD).status) == {"disconnected"}
    assert ep.runs.score(DEAD, SPACE, TINY, IMAGES, workdir=tmp_path).status == ("disconnected",) * 3
    assert trained == []
    plan = planner.plan(DEAD, SPACE, TINY, IMAGES.shape, Execution.of()).to_dict()
    assert (plan["architectures"], plan["distinct"], plan["disconnected"], plan["programs"]) == (3, 0, 3, 0)


def test_real_list(trained):
    result = scored(real_input("06_disconnected.txt").read_text().split())
    assert result.status.count("disconnected") >= 1


def test_result_file_and_resume(trained, tmp_path, capsys):
    whole = ep.runs.score(LIST, SPACE, TINY, IMAGES, workdir=tmp_path)
    rows = lines(tmp_path / "scores.jsonl")
    dead = [row for row in rows if row["status"] == "disconnected"]
    assert [SPACE.parse(row["arch"]) for row in dead] == DEAD
    for row in dead:
        assert row["score"] is row["loss"] is None
        assert row["losses"] == [None] * 10
        assert row["effective_macs"] == 0
        assert row["macs"] > 0
    record = json.loads((tmp_path / "scores.run.json").read_text())
    assert (record["archs"], record["diverged"], record["disconnected"]) == (len(LIST), 1, 3)
    assert "3 disconnected (their output never depends on the image)" in capsys.readouterr().err
    content = (tmp_path / "scores.jsonl").read_bytes()
    for kept in range(len(rows)):
        (tmp_path / "scores.jsonl").write_bytes(b"".join(content.splitlines(True)[:kept]))
        resumed = ep.runs.score(LIST, SPACE, TINY, IMAGES, workdir=tmp_path)
        assert (tmp_path / "scores.jsonl").read_bytes() == content
        assert resumed.status == whole.status


def test_a_file_that_scored_disconnected_networks_is_refused(trained, tmp_path):
    ep.runs.score(LIST, SPACE, TINY, IMAGES, workdir=tmp_path)
    rows = lines(tmp_path / "scores.jsonl")
    content = "".join(json.dumps({**row, "status": "ok", "score": -1.0, "losses": [1.0] * 10}) + "\n" for row in rows)
    (tmp_path / "scores.jsonl").write_text(content)
    with pytest.raises(ValueError, match="has a score of a disconnected network.*choose another file"):
        ep.runs.score(LIST, SPACE, TINY, IMAGES, workdir=tmp_path)
    assert (tmp_path / "scores.jsonl").read_text() == content


def test_fitted_proxies_rank_among_the_connected(trained, tmp_path):
    """Disconnected networks change no percentile of the others."""
    other = dataclasses.replace(TINY, lr=0.5)
    fitted = FittedProxy((Member(TINY, 0.3, 0.2), Member(other, None)))
    with_dead = ep.runs.score(LIST, SPACE, fitted, IMAGES, workdir=tmp_path / "with")
    without = ep.runs.score(ALIVE, SPACE, fitted, IMAGES, workdir=tmp_path / "without")
    alive = [i for i, arch in enumerate(LIST) if arch not in DEAD]
    np.testing.assert_array_equal(with_dead.score[alive], without.score)
    assert with_dead.select(alive).status == without.status
    assert [with_dead.status[i] for i in (0, 4, -1)] == ["disconnected"] * 3
    assert with_dead.ranking().tolist()[-4:] == [LIST.index(DIVERGES), *(LIST.index(arch) for arch in DEAD)]
    assert lines(tmp_path / "with" / "scores.jsonl")[0]["status"] == "disconnected"
    sizes = np.ones((2, 3))
    none = fitted.scores(np.ones((2, 3)), sizes, np.ones(3), np.zeros(3, bool))
    assert (none == -np.inf).all()


def test_rank_quality_beside_sizes(trained):
    result = scored()
    truth = np.arange(len(LIST), dtype=float)
    rows = printed.quality_rows(result, truth)
    assert list(rows) == ["eproxy", "macs", "params", "effective macs"]
    assert rows["macs"] == ep.rank_quality([SPACE.macs(arch) for arch in LIST], truth)
    expected = [0 if arch in DEAD else SPACE.macs(SPACE.canonical(arch)) for arch in LIST]
    assert rows["effective macs"] == ep.rank_quality(expected, truth)


@dataclasses.dataclass(frozen=True)
class Result:
    """A function of one candidate with a result of some type; nothing is traced but its shape."""

    dtype: str

    def __call__(self, network, key, encoded):
        return {"value": jnp.sum(encoded).astype(self.dtype), "two": jnp.zeros(2, self.dtype)}


def test_evaluations_of_other_proxies(monkeypatch):
    seen = []

    def run(self, archs, compiled=None):
        seen.extend(archs)
        for position, arch in enumerate(archs):
            values = {"value": np.float32([sum(arch)]), "two": np.float32([[1, 2]])}
            yield np.asarray([position]), values

    monkeypatch.setattr(Evaluation, "run", run)
    dead = np.asarray([arch in DEAD for arch in LIST])
    found = ep.evaluate(Result("float32"), LIST, SPACE)
    assert not {SPACE.canonical(arch) for arch in DEAD} & set(seen)
    np.testing.assert_array_equal(np.isnan(found["value"]), dead)
    assert np.isnan(found["two"][dead]).all()
    np.testing.assert_array_equal(found["two"][~dead], [[1, 2]] * 6)
    every = ep.evaluate(Result("float32"), LIST, SPACE, disconnected="run")
    assert np.isfinite(every["value"]).all()
    assert np.isnan(ep.evaluate(Result("float32"), DEAD, SPACE)["two"]).all()
    with pytest.raises(ValueError, match='3 of the architectures are disconnected.*int32 lacks.*disconnected="run"'):
        ep.evaluate(Result("int32"), LIST, SPACE)
    with pytest.raises(ValueError, match="disconnected: unknown choice 'skip'"):
        ep.evaluate(Result("float32"), LIST, SPACE, disconnected="skip")  # pyright: ignore[reportArgumentType]


def test_order_of_statuses():
    score = np.asarray([-np.inf, -np.inf, -3.0, -np.inf, -1.0, -np.inf])
    status = ("disconnected", "diverged", "ok", "disconnected", "ok", "diverged")
    zeros = np.zeros(6, int)
    result = ScoreResult(tuple("abcdef"), score, score, score[:, None], zeros, zeros, zeros, status, {})
    assert result.ranking().tolist() == [4, 2, 1, 5, 0, 3]


# --- numbers that files give back ---


def test_equal_functions_get_equal_bits_however_a_list_grows(trained, tmp_path):
    """In one file, in several sessions: scores and losses are those of ``ep.score``, to the bit."""
    settings = dataclasses.replace(TINY, alpha=0.3)
    whole = scored(settings=settings)
    for count in (1, 2, 4, len(LIST)):
        grown = ep.runs.score(LIST[:count], SPACE, settings, IMAGES, workdir=tmp_path)
        for name in ("score", "loss", "losses", "macs", "params", "effective_macs"):
            np.testing.assert_array_equal(getattr(grown, name), getattr(whole, name)[:count], err_msg=name)
    # A network was trained before, and only other spellings of it are asked for.
    again = ep.runs.score(LIST + EQUAL[::-1], SPACE, settings, IMAGES, workdir=tmp_path)
    ones = [i for i, arch in enumerate(LIST) if arch in EQUAL]
    assert len({again.score[i] for i in ones}) == len({again.loss[i] for i in ones}) == 1
    assert len(trained) == 2 * len({SPACE.canonical(arch) for arch in ALIVE})
    row = next(row for row in lines(tmp_path / "scores.jsonl") if row["status"] == "ok")
    exact = proxy.scores(read_numbers([row["loss"]]), row["effective_macs"] / SPACE.max_macs(), 0.3)
    assert row["score"] == float(exact[0])


def test_numbers_come_back_to_the_bit():
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.uniform(0, 1, 500), 10.0 ** rng.uniform(-44, 39, 500), [0.1, 1 / 3, 0.0, np.nan, np.inf, -np.inf, 1e300]]
    )
    text = json.dumps([json_number(value) for value in values])
    assert "Infinity" not in text
    assert "NaN" not in text
    kept = as_float32(values)
    np.testing.assert_array_equal(read_numbers(json.loads(text)), np.where(np.isfinite(kept), kept, np.nan))
    assert math.isnan(float(read_numbers(None)))


# --- the share of MACs ---


@pytest.mark.parametrize("alpha", [-1.0, -0.5, 0.5, 0.99])
def test_a_larger_loss_never_ranks_first(trained, monkeypatch, alpha):
    """Whatever the largest MACs of a space are said to be."""
    for largest in (0, 1, SPACE.max_macs() // 100, SPACE.max_macs()):
        monkeypatch.setattr(type(SPACE), "max_macs", lambda _, largest=largest: largest)
        settings = dataclasses.replace(TINY, alpha=alpha)
        assert (scored(ALIVE[:-1], settings).score < 0).all()
        fractions = spaces.macs_fractions(SPACE, ALIVE)
        bad, good = (proxy.scores(np.full(len(ALIVE), loss), fractions, alpha) for loss in (1e30, 0.5))
        assert bad.max() < good.min()
        member = FittedProxy((Member(settings),))
        sizes = spaces.size_measures(SPACE, ALIVE[:2])
        ranked = member.scores([[1e30, 0.5]], sizes, np.asarray([40.0, 0.1]))
        assert ranked[0] < ranked[1]
