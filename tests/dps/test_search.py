"""The search: rank statistics, evolution on a planted optimum, resume, honest labels, one compilation."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import stats

from eproxy_jax import images, ranks
from eproxy_jax.dps import comparison, evolution
from eproxy_jax.dps import labels as labels_lib
from eproxy_jax.dps import search as search_lib
from eproxy_jax.dps.genes import GeneTable
from eproxy_jax.execution import grouping, programs
from eproxy_jax.execution.execution import Execution

SPACE = tiny.Tiny()
NARROW = GeneTable(
    alpha=(-0.5, 0.0, 0.5),
    branches=(1, 2),
    transform_kernel=(1,),
    barrier_kernel=(1, 3),
    transform_channels=(4, 8),
    target_channels=(4,),
)
# One branch of one width: what is tested of a whole search compiles in half the time.
ONE_BRANCH = dataclasses.replace(NARROW, branches=(1,), transform_channels=(4,))
CONNECTED = [arch for arch in SPACE.sample(12, 0) if SPACE.is_connected(arch)]
IMAGES = images.standardize(images.default_images(num=4, size=8))
SMALL = evolution.SearchSpec(
    num_evaluations=12, population_size=4, tournament_size=2, log_every=5, num_steps=2, blend="alpha"
)


# --- ranks ---


@pytest.mark.parametrize(
    "x", [[3.0, 1.0, 2.0], [1.0, 1.0, 2.0, 2.0, 0.0], [5.0, -np.inf, 5.0, -np.inf], [2.0, 2.0, 2.0]]
)
def test_average_ranks_are_scipys(x):
    np.testing.assert_array_equal(ranks.average_ranks(jnp.asarray(x)), stats.rankdata(x))


def test_nan_ranks_last():
    x = jnp.asarray([2.0, jnp.nan, 1.0, jnp.nan])
    np.testing.assert_array_equal(ranks.average_ranks(x), [4, 1.5, 3, 1.5])


def test_spearman_is_scipys_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, 15).astype(np.float32), rng.integers(0, 6, 15).astype(np.float32)
        assert float(ranks.spearman(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(
            stats.spearmanr(x, y)[0], abs=1e-6
        )
    assert float(ranks.spearman(jnp.ones(4), jnp.arange(4.0))) == 0


# --- evolution without networks ---


@functools.partial(jax.jit, static_argnums=(0, 1))
def advance_planted(table, spec, planted, key, state, random_until):
    def evaluate(genes):
        return jnp.mean((genes == planted).astype(jnp.float32)), jnp.zeros((1, 3))

    return evolution.advance(table, spec, evaluate, key, state, random_until, jnp.asarray(spec.num_evaluations))


def planted_search(table: GeneTable, spec: evolution.SearchSpec, random_until: int, seed: int) -> float:
    """Best fitness of a search whose fitness is the share of genes that equal a planted genome's."""
    planted = table.random_genes(jax.random.key(12345))
    initial = evolution.initial_state(table, spec, 3)
    state = advance_planted(table, spec, planted, jax.random.key(seed), initial, jnp.asarray(random_until))
    assert int(state.count) == spec.num_evaluations
    return float(jnp.max(state.fitness))


def test_evolution_beats_random_search_at_equal_budget():
    """The paper's sizes on the paper's genes, 200 evaluations each."""
    spec = evolution.SearchSpec(log_every=200)
    evolved = [planted_search(GeneTable(), spec, 40, seed) for seed in range(6)]
    random = [planted_search(GeneTable(), spec, 200, seed) for seed in range(6)]
    assert all(e > r for e, r in zip(evolved, random, strict=True))


def test_evolution_finds_a_planted_optimum():
    spec = evolution.SearchSpec(num_evaluations=1500, mutation_rate=0.05, log_every=1500)
    assert [planted_search(NARROW, spec, 40, seed) for seed in range(3)] == [1.0, 1.0, 1.0]


def test_the_population_is_the_most_recent_evaluations():
    """A parent's genes come from the last ``population_size`` evaluations, and diverged ones win no tournament."""
    table = NARROW
    spec = evolution.SearchSpec(num_evaluations=10, population_size=4, tournament_size=4, mutation_rate=1e-9)
    state = evolution.initial_state(table, spec, 3)
    genes = jnp.stack([table.random_genes(jax.random.key(i)) for i in range(10)])
    fitness = jnp.asarray([9.0, 1.0, 2.0, -jnp.inf, 3.0, jnp.nan, jnp.nan, jnp.nan, jnp.nan, jnp.nan])
    state = state.replace(genes=genes, fitness=fitness, count=jnp.asarray(5))
    child = evolution.propose(table, spec, jax.random.key(0), state, jnp.asarray(0))
    np.testing.assert_array_equal(child, genes[4])  # 9.0 is too old


def test_fitness():
    labels = labels_lib.make_labels(SPACE, CONNECTED[:6], [3, 1, 2, 5, 4, 6], Execution.of(jax.devices()[:1]))
    losses = jnp.asarray([[0.5, 0.9, 0.8, 0.2, 0.3, 0.1]])
    assert float(labels_lib.fitness_of(losses, jnp.asarray(0.0), labels, "alpha")) == pytest.approx(1)
    assert float(labels_lib.fitness_of(losses, jnp.asarray(0.0), labels, "rank")) == pytest.approx(1)
    macs = np.asarray(labels.macs)
    blended = stats.spearmanr(-np.asarray(losses[0]) * (1 + 0.5 * macs), labels.truth)[0]
    assert float(labels_lib.fitness_of(losses, jnp.asarray(-0.5), labels, "alpha")) == pytest.approx(blended, abs=1e-6)
    assert float(labels_lib.fitness_of(losses.at[0, 0].set(jnp.nan), jnp.asarray(0.0), labels, "rank")) == -np.inf


# --- labels ---


@pytest.mark.parametrize(
    ("archs", "truth", "message"),
    [
        (SPACE.sample(2, 0), [1, 2], "at least 3"),
        (SPACE.sample(3, 0), [1, 2], "3 labelled architectures, but 2"),
        ([*SPACE.sample(3, 0), SPACE.sample(3, 0)[0]], [1, 2, 3, 4], "stands twice"),
        (SPACE.sample(3, 0), [1, 1, 1], "not all equal"),
        (SPACE.sample(3, 0), [1, np.nan, 2], "finite"),
    ],
)
def test_bad_labels_are_refused(archs, truth, message):
    with pytest.raises(ValueError, match=message):
        labels_lib.make_labels(SPACE, archs, truth, Execution.of(jax.devices()[:1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"population_size": 0}, "population_size"), ({"tournament_size": 50}, "larger"), ({"blend": "rnk"}, "did you")],
)
def test_bad_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        evolution.SearchSpec(**change)


# --- the whole search ---


def problem_of(**change):
    archs = tuple(CONNECTED[:7])
    values = {
        "space": SPACE,
        "genes": ONE_BRANCH,
        "search": SMALL,
        "images": IMAGES,
        "key": 0,
        "search_key": 0,
        "labelled": archs,
        "truth": tuple(float(SPACE.macs(arch)) + i for i, arch in enumerate(archs)),
        **change,
    }
    return search_lib.Problem(**values)


@pytest.fixture(scope="module")
def searches():
    """Compiled searches of the small problem on one and on two devices."""
    executions = [Execution.of(jax.devices()[:count]) for count in (1, 2)]
    return [(execution, search_lib.prepare(problem_of(), execution)) for execution in executions]


def test_a_search_does_not_depend_on_devices_and_resumes_exactly(searches, tmp_path):
    histories = [search_lib.run(s, problem_of(), None, "evolution", e) for e, s in searches]
    assert int(histories[0].count) == 12
    np.testing.assert_array_equal(histories[0].genes, histories[1].genes)
    np.testing.assert_array_equal(histories[0].losses, histories[1].losses)
    execution, search = searches[0]
    # Stopped after the first look, started again from the checkpoint.
    stopped = search_lib.run(search, problem_of(), tmp_path, "evolution", execution, max_seconds=1e-9)
    assert int(stopped.count) == 0
    looks = []

    def interrupt(state):
        looks.append(int(state.count))
        if len(looks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_lib.run(search, problem_of(), tmp_path, "evolution", execution, progress=interrupt)
    assert looks == [0, 5]
    looks.clear()
    resumed = search_lib.run(
        search, problem_of(), tmp_path, "evolution", execution, progress=lambda s: looks.append(int(s.count))
    )
    assert looks == [5, 10, 12]
    np.testing.assert_array_equal(resumed.genes, histories[0].genes)
    np.testing.assert_array_equal(resumed.fitness, histories[0].fitness)
    with pytest.raises(ValueError, match="the history of another search"):
        search_lib.run(search, problem_of(search_key=1), tmp_path, "evolution", execution)


def test_checkpoints_of_an_older_version_are_named(searches, tmp_path):
    (tmp_path / "checkpoints" / "evolution").mkdir(parents=True)
    execution, search = searches[0]
    with pytest.raises(ValueError, match="checkpoints of an older eproxy_jax"):
        search_lib.run(search, problem_of(), tmp_path, "evolution", execution)


DAMAGED = [
    '{"genes": [1, 2]}',
    "[]",
    '{"genes": [0], "fitness": "x", "losses": []}',
    "5",
    '{"genes": null}',
    "\0\0",
    "{" * 9,
]


def saved(searches, folder):
    """A history of two evaluations, in a file."""
    state = jax.tree.map(np.array, jax.device_get(searches[0][1].initial))
    state.fitness[:2], state.losses[:2] = (0.25, 0.5), 0.125
    state = state.replace(count=np.asarray(2, np.int32))
    history = search_lib.HistoryFile(folder, "random", "id")
    history.save(state)
    history.close()
    return folder / "history.random.jsonl"


def restored(searches, folder):
    """The state that a history on disk restores."""
    history = search_lib.HistoryFile(folder, "random", "id")
    try:
        return history.restore(searches[0][1].initial)
    finally:
        history.close()


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_newest_evaluation_falls_back_to_those_before(searches, tmp_path, line):
    path = saved(searches, tmp_path)
    whole = path.read_text()
    with path.open("a") as file:
        file.write(line + "\n")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        state = restored(searches, tmp_path)
    assert int(state.count) == 2
    assert state.fitness[:2].tolist() == [0.25, 0.5]
    assert all("history.random.jsonl:4: not an evaluation of this search" in str(one.message) for one in told)
    assert len(told) == line.endswith(("]", "}", "5"))
    assert path.read_text() == whole


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_evaluation_before_others_is_told_with_its_line(searches, tmp_path, line):
    path = saved(searches, tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"history.random.jsonl:2: not (an evaluation of this search|JSON)"):
        restored(searches, tmp_path)
    assert path.read_bytes() == content


def test_a_diverged_evaluation_comes_back_to_the_bit(searches, tmp_path):
    """JSON has no number for infinity and NaN; the history on disk has."""
    state = jax.tree.map(np.array, jax.device_get(searches[0][1].initial))
    state.fitness[0], state.losses[0] = -np.inf, np.linspace(0.1, 0.7, state.losses.shape[-1])
    state.losses[0, 0, 1:3] = np.inf, np.nan
    state = state.replace(count=np.asarray(1, np.int32))
    for _ in range(2):
        history = search_lib.HistoryFile(tmp_path, "random", "id")
        history.save(state)
        restored = history.restore(searches[0][1].initial)
        history.close()
        np.testing.assert_array_equal(restored.losses[0], state.losses[0])
        assert restored.fitness[0] == -np.inf
        assert int(restored.count) == 1


@pytest.mark.slow  # quick: tests/dps/test_tiered.py trains the same candidate
def test_losses_are_those_of_the_tiered_candidate(searches):
    """What the search files is what the bank's program gives for the same weights key."""
    from eproxy_jax.dps import tiered

    execution, search = searches[0]
    problem = problem_of()
    history = search_lib.run(search, problem, None, "random", execution)
    candidate = tiered.Candidate.of(SPACE, ONE_BRANCH, 2)
    key, task = jax.random.key(0), tiered.make_task(jax.random.key(0), candidate.network.spec, IMAGES)
    key = jax.random.fold_in(key, 0)
    shared = execution.replicate((tiered.setting_task(ONE_BRANCH, task, jnp.asarray(history.genes[3])),))
    archs = list(dict.fromkeys(SPACE.canonical(arch) for arch in problem.labelled))
    trained = programs.run_groups(
        lambda _: candidate,
        grouping.group_inputs(archs, SPACE, "coarse"),
        execution,
        execution.replicate(key),
        shared,
    )
    losses = np.concatenate([losses for _, losses in trained])
    by_arch = dict(zip(archs, losses[:, -1], strict=True))
    expected = [by_arch[SPACE.canonical(arch)] for arch in problem.labelled]
    np.testing.assert_allclose(history.losses[3, 0], expected, rtol=1e-4)


def test_one_compilation_for_a_whole_search(searches):
    execution, search = searches[0]
    compiled = []

    def listen(event, duration, **_):
        del duration
        if "backend_compile" in event:
            compiled.append(event)

    search_lib.run(search, problem_of(), None, "evolution", execution)  # small conversions on the host compile once
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        search_lib.run(search, problem_of(), None, "random", execution)
        assert not compiled
        jax.jit(lambda x: x + 17)(jnp.ones(3))
        assert compiled  # the listener does hear compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_warm_start_costs_no_evaluations(searches):
    execution, search = searches[0]
    history = search_lib.run(search, problem_of(), None, "random", execution)
    warm = tuple((history.genes[i], history.losses[i, 0], float(history.fitness[i])) for i in (2, 0, 1, 3))
    problem = problem_of(warm=warm)
    state = search_lib.run(search, problem, None, "evolution", execution)
    np.testing.assert_array_equal(state.genes[3], history.genes[2])  # the best one, youngest
    assert int(state.count) == 12


def test_flops_are_counted():
    problem = problem_of()
    needed, executed = comparison.setting_flops(problem, np.asarray(ONE_BRANCH.random_genes(jax.random.key(0))))
    assert 0 < needed <= executed < 2 * needed


@pytest.mark.slow
def test_search_proxy_from_python():
    labelled = {SPACE.format(arch): float(i) for i, arch in enumerate(SPACE.sample(5, 1))}
    search = evolution.SearchSpec(num_evaluations=4, population_size=2, tournament_size=2, log_every=2, num_steps=2)
    found = search_lib.search_proxy(
        labelled, SPACE, ONE_BRANCH, search, images.default_images(num=4, size=8), ensemble=2
    )
    assert len(found.proxy.members) == 2
    assert all(member.macs_weight is not None for member in found.proxy.members)
    assert found.fitness == np.nanmax(found.history.fitness)


def test_functions_are_dealt_so_that_devices_finish_together():
    macs = np.asarray([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0])
    order = labels_lib._deal(range(1, 7), macs, 2, 8)  # without the first
    assert sorted(order) == [-1, -1, 1, 2, 3, 4, 5, 6]
    halves = [half[half >= 0] for half in np.split(order, 2)]
    assert [len(half) for half in halves] == [3, 3]
    assert abs(macs[halves[0]].sum() - macs[halves[1]].sum()) <= 3
    assert all(half[-1] == -1 for half in np.split(order, 2))
