"""The loss bank and what is fitted from it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from scipy import stats

from eproxy_jax import images, ranks
from eproxy_jax.dps import fitted, loss_bank, selection
from eproxy_jax.dps import genes as genes_lib
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.execution import execution as execution_lib
from eproxy_jax.types import ProxySettings

SPACE = tiny.Cut()
TABLE = GeneTable(
    branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(4, 8), target_channels=(4,)
)
ARCHS = SPACE.sample(9, 0)
DISCONNECTED = [arch for arch in ARCHS if not SPACE.is_connected(arch)]
SPEC = loss_bank.BankSpec(SPACE, TABLE, images.standardize(images.default_images(num=4, size=8)), 0, 2)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A bank of 3 settings x 6 architectures, extended by one setting and 3 architectures."""
    path = tmp_path_factory.mktemp("bank") / "bank.jsonl"
    execution = execution_lib.Execution.of(chunk_size=8)
    settings = genes_lib.random_settings(TABLE, 4)
    bank = loss_bank.LossBank(path, SPEC.identity(execution))
    trained = []
    loss_bank.fill(bank, SPEC, settings[:3], ARCHS[:6], execution, lambda *a: trained.append(a))
    loss_bank.fill(bank, SPEC, settings, ARCHS, execution, lambda *a: trained.append(a))
    bank.close()
    return path, execution, settings, trained


def test_only_what_is_missing_is_trained(filled):
    path, execution, settings, trained = filled
    first = len({SPACE.canonical(arch) for arch in ARCHS[:6] if SPACE.is_connected(arch)})
    all_ = len({SPACE.canonical(arch) for arch in ARCHS if SPACE.is_connected(arch)})
    assert [done for done, _, _ in trained[:3]] == [first, 2 * first, 3 * first]
    assert trained[-1][1] == 3 * (all_ - first) + all_
    bank = loss_bank.LossBank(path, SPEC.identity(execution))
    # Disconnected networks are known to the bank, and have no losses.
    dead = sorted(set(bank.columns(SPACE, DISCONNECTED)))
    assert dead
    done = np.delete(np.arange(all_ + len(dead)), dead)
    assert bank.computed()[:, done].all()
    assert np.isfinite(bank.losses(2)[:, done]).all()
    assert not bank.computed()[:, dead].any()
    assert np.isnan(bank.losses(2)[:, dead]).all()
    assert bank.losses(2).shape == (4, all_ + len(dead), 2)
    assert loss_bank.fill(bank, SPEC, settings, ARCHS, execution)["run"] == 0
    bank.close()


def test_a_torn_line_is_trained_again_and_losses_come_back_equal(filled, tmp_path):
    path, execution, settings, _ = filled
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(path.read_bytes()[:-40])
    bank = loss_bank.LossBank(torn, SPEC.identity(execution))
    whole = loss_bank.LossBank(path, SPEC.identity(execution))
    assert 0 < bank.computed().sum() < whole.computed().sum()
    loss_bank.fill(bank, SPEC, settings, ARCHS, execution)
    np.testing.assert_array_equal(bank.losses(2), whole.losses(2))
    bank.close()
    whole.close()


def test_foreign_files_are_refused(filled, tmp_path):
    path, execution, _, _ = filled
    other = {**SPEC.identity(execution), "weight_seed": 1}
    with pytest.raises(ValueError, match="other weight_seed"):
        loss_bank.LossBank(path, other)
    scores = tmp_path / "scores.jsonl"
    scores.write_text(json.dumps({"arch": "x"}) + "\n")
    with pytest.raises(ValueError, match="not a line of a loss bank"):
        loss_bank.LossBank(scores, other)


BANK_LINES = [
    "[]", "5", "null", '{"archs": 5}', '{"archs": [1]}', '{"archs": {"a": 1}}', '{"setting": 5, "start": 0, "losses": []}',
    '{"setting": [0], "start": -1, "losses": [[1, 1]]}', '{"setting": [0], "start": 0.5, "losses": [[1, 1]]}',
    '{"setting": [0], "start": 0, "losses": [[1]]}', '{"setting": [0], "start": 0, "losses": [["x", 1]]}',
    '{"setting": [0], "start": 7, "losses": [[1, 1]]}', '{"setting": ["0"], "start": 0, "losses": [[1, 1]]}', "{}",
    '{"setting": [0], "start": 0, "losses": 3}', '{"setting": [0], "start": 0, "losses": [[true, 1]]}',
]  # fmt: skip


@pytest.mark.parametrize("line", BANK_LINES)
def test_lines_of_wrong_types_are_told_with_their_place(tmp_path, line):
    path = tmp_path / "b.jsonl"
    loss_bank.LossBank(path, {"num_steps": 2}).close()
    with path.open("a") as file:
        file.write('{"archs": ["x"]}\n' + line + '\n{"archs": ["y"]}\n')
    for read_only in (False, True):
        with pytest.raises(ValueError, match=r"b\.jsonl:3: not a line of a loss bank"):
            loss_bank.LossBank(path, {"num_steps": 2}, read_only)


def test_a_bank_that_is_read_is_neither_made_nor_changed(tmp_path):
    path = tmp_path / "b.jsonl"
    with pytest.raises(FileNotFoundError, match="no loss bank"):
        loss_bank.LossBank(path, {"num_steps": 2}, read_only=True)
    assert not path.exists()
    with loss_bank.LossBank(path, {"num_steps": 2}) as bank:
        bank.add_archs(["x"])
        with path.open("a") as file:
            file.write('{"setting"')
        content = path.read_bytes()
        assert loss_bank.LossBank(path, {"num_steps": 2}, read_only=True).archs == ["x"]  # while it is written
        assert path.read_bytes() == content


def test_more_settings_than_a_table_has_are_refused_at_once():
    table = GeneTable(lr=(1.0,), branches=(1,), level=(1.0,), transform_kernel=(1,), barrier_kernel=(1,),
                      transform_channels=(4,), target_channels=(4,), network_init=("default",),
                      barrier_init=("default",))  # fmt: skip
    assert genes_lib.num_settings(table) == 31
    assert len(genes_lib.random_settings(table, 31)) == 31
    (one,) = genes_lib.random_settings(table, 1)
    assert genes_lib.num_settings(dataclasses.replace(table, branches=(1, 2, 3))) == 31 + 31**2 + 31**3
    for count in (32, 10**12):
        with pytest.raises(ValueError, match=rf"{count} distinct settings: the gene table has too few \(31\)"):
            genes_lib.random_settings(table, count)
    with pytest.raises(ValueError, match=r"31 distinct settings: the gene table has too few \(30\)"):
        genes_lib.mutated_settings(table, one, 0.5, 31)
    assert len(genes_lib.mutated_settings(table, one, 0.5, 10)) == 10


def test_random_settings_are_distinct_and_prefix_stable():
    settings = genes_lib.random_settings(TABLE, 10)
    assert len({tuple(s.tolist()) for s in settings}) == 10
    np.testing.assert_array_equal(settings[:4], genes_lib.random_settings(TABLE, 4))
    tiny = GeneTable(lr=(1.0,), branches=(1,), level=(1.0,), transform_kernel=(1,), barrier_kernel=(1,),
                     transform_channels=(4,), target_channels=(4,), network_init=("default",),
                     barrier_init=("default",))  # fmt: skip
    with pytest.raises(ValueError, match="too few"):
        genes_lib.random_settings(tiny, 32)
    assert genes_lib.random_settings(tiny, 0) == []


def test_mutated_settings_are_near_and_not_the_one_they_come_from():
    (one,) = genes_lib.random_settings(TABLE, 1)
    settings = genes_lib.mutated_settings(TABLE, one, 0.1, 10)
    assert len({tuple(s.tolist()) for s in (one, *settings)}) == 11
    np.testing.assert_array_equal(settings[:4], genes_lib.mutated_settings(TABLE, one, 0.1, 4))
    changed = [(s != one).sum() for s in settings]
    other = [(s != one).sum() for s in genes_lib.random_settings(TABLE, 11)[1:]]
    assert np.mean(changed) < np.mean(other) / 2


def test_the_fittest_of_a_bank(filled):
    path, execution, _, _ = filled
    labelled = {arch: float(i) for i, arch in enumerate(ARCHS) if SPACE.is_connected(arch)}
    bank = loss_bank.LossBank(path, SPEC.identity(execution))
    for blend in ("alpha", "rank"):
        fittest = loss_bank.fittest_of_bank(bank, SPEC, labelled, 3, blend)
        fitness = [f for _, _, f in fittest]
        assert fitness == sorted(fitness, reverse=True)
        assert len(fittest) == 3
        with pytest.warns(UserWarning, match="1 of the .* labelled .* are disconnected"):
            same = loss_bank.fittest_of_bank(bank, SPEC, {**labelled, DISCONNECTED[0]: 99.0}, 3, blend)
        assert [f for _, _, f in same] == fitness
    with pytest.raises(ValueError, match="lacks 1 of the architectures"):
        loss_bank.fittest_of_bank(bank, SPEC, {**labelled, SPACE.sample(30, 5)[-1]: 9.0}, 3, "rank")
    bank.close()


# --- selection and fitted proxies ---


def random_case(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.3, 1, (5, 12)), rng.uniform(0, 1, (2, 12)), rng.normal(size=12)


def test_score_matrix_and_spearman_are_scipys():
    losses, (macs, _), truth = random_case()
    losses[1, 3] = np.nan
    scores = selection.score_matrix(losses, macs, (0.0, 0.5))
    rows = ranks.spearman_rows(scores, truth)
    for p in (0, 2):
        expected = stats.spearmanr(-losses[p] * (1 - 0.5 * macs), truth)[0]
        assert rows[p, 1] == pytest.approx(expected)
    assert scores[1, 0, 3] == -np.inf
    fitness = selection.fitness(scores, losses, truth)
    assert (fitness[1] == -np.inf).all()
    assert 1 not in [p for p, _ in selection.best_members(fitness, 5)]


def test_rank_blends_reach_from_loss_to_sizes():
    losses, sizes, _ = random_case()
    blends = selection.rank_blends(losses, sizes, ((-1.0, 0.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)))
    for blend, expected in zip(blends[0], (-sizes[0], -losses[0], *sizes), strict=True):
        assert stats.spearmanr(blend, expected)[0] == pytest.approx(1)


def test_shares_are_a_mean_of_those_that_rank_well():
    assert all(abs(macs) + abs(params) <= 1 for macs, params in selection.SHARES)
    shares = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0))
    share = selection.mean_share(np.asarray([0.9, 0.9, 0.1]), 20, shares)
    np.testing.assert_allclose(share, (0.5, 0.5), atol=1e-6)
    assert np.isfinite(selection.mean_share(np.full(3, -np.inf), 20, shares)).all()


def test_the_sign_of_a_size_is_that_of_the_labels():
    truth = np.arange(4.0)
    np.testing.assert_array_equal(selection.signs([truth, -truth, np.zeros(4)], truth), (1, -1, 1))


def test_parameters_count_where_labels_say_so():
    losses, sizes, _ = random_case()
    (macs, params), *_ = fitted.fit_weights(losses, sizes, -sizes[1])[0]
    assert params < -0.8
    assert abs(macs) < 0.2


def test_every_setting_diverged():
    with pytest.raises(ValueError, match="every setting diverged"):
        selection.best_members(np.full((3, 2), -np.inf), 2)


def test_a_fitted_proxy_ranks_and_round_trips():
    losses, sizes, truth = random_case()
    weights, fitness = fitted.fit_weights(losses, sizes, truth)
    members = tuple(fitted.Member(ProxySettings(), *w) for w in weights[:2].tolist())
    proxy = fitted.FittedProxy(members)
    assert fitted.FittedProxy.from_dict(json.loads(json.dumps(proxy.to_dict()))) == proxy
    losses[0, 2] = np.nan
    losses[:, 3] = np.nan
    scores = proxy.scores(losses[:2], sizes)
    assert scores[3] == -np.inf
    assert ((scores > 0) & (scores <= 1) | (scores == -np.inf)).all()
    assert fitness.shape == (5,)
    plain = fitted.FittedProxy.from_dict(ProxySettings(alpha=0.3).to_dict())
    assert plain.is_plain
    np.testing.assert_allclose(
        stats.rankdata(plain.scores(losses[2:3], sizes, sizes[0])[4:]),
        stats.rankdata((-losses[2] * (1 - 0.3 * sizes[0]))[4:]),
    )
    with pytest.raises(ValueError, match=r"pass macs \(spaces.macs_fractions\)"):
        plain.scores(losses[2:3], sizes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": []}, "at least one"),
        ({"members": [{"settings": {"lrr": 1}}]}, r"members\[0\].*did you mean"),
        ({"members": [{"settings": {}, "macs_weight": 2}]}, r"members\[0\].*macs_weight"),
        ({"members": [{"settings": {}, "macs_weight": 0.6, "params_weight": -0.5}]}, "sum to at most 1"),
        ({"members": [{"settings": {}, "params_weight": 0.5}]}, "needs macs_weight"),
        ({"members": [{}]}, r"members\[0\]: expected 'settings'"),
        ({"members": [], "other": 1}, "one field"),
    ],
)
def test_bad_fitted_proxies_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        fitted.FittedProxy.from_dict(values)


def test_keys_of_a_bank_have_no_alpha():
    genes = np.asarray(TABLE.random_genes(jax.random.key(0)))
    other = genes.copy()
    other[1] = (genes[1] + 1) % 11
    np.testing.assert_array_equal(genes_lib.without_alpha(TABLE, genes), genes_lib.without_alpha(TABLE, other))
