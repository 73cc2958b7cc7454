"""Searches by ask and tell: exact resume, batches, failures, duplicates as functions, constraints, fronts."""

import json
import math

import numpy as np
import pytest
import tiny

import eproxy_jax as ep
from eproxy_jax import search
from eproxy_jax.fits.process import fit_process
from eproxy_jax.fits.transforms import Features, vector_scores
from eproxy_jax.search.acquisition import bounds_of

SPACE = tiny.Tiny()
ARCHS = [SPACE.format(arch) for arch in SPACE.enumerate()]
RNG = np.random.default_rng(0)
TRUTH = {arch: sum(SPACE.parse(arch)[:2]) + 0.1 * SPACE.canonical(SPACE.parse(arch))[2] for arch in ARCHS}
COLUMNS = ep.Columns.of(
    ARCHS,
    {
        "macs": [SPACE.macs(SPACE.parse(arch)) for arch in ARCHS],
        "jacov": [TRUTH[arch] + RNG.normal() for arch in ARCHS],
        "naswot": [TRUTH[arch] + 2 * RNG.normal() for arch in ARCHS],
        "latency": [float(SPACE.parse(arch)[0]) for arch in ARCHS],
        "graph_counts": [SPACE.canonical(SPACE.parse(arch)) for arch in ARCHS],
    },
)
NUM_FUNCTIONS = len({SPACE.canonical(SPACE.parse(arch)) for arch in ARCHS})
SHORT = {
    "process": search.Process(num_initial=4, initial_top=20),
    "evolution": search.Evolution(population_size=5),
    "random": search.Random(),
    "by_proxy": search.ByProxy(),
}
strategies = pytest.mark.parametrize("strategy", SHORT.values(), ids=list(SHORT))


def function(arch):
    return SPACE.canonical(SPACE.parse(arch))


def value(arch):
    return math.nan if function(arch)[0] == 3 else TRUTH[arch]  # some trainings fail


def start(strategy, **options):
    return search.init(SPACE, COLUMNS, strategy, seed=3, **options)


@strategies
def test_a_search_resumes_exactly_after_every_step(strategy):
    state, rows = start(strategy), []
    for n in (1, 3, 2, 2, 1, 3):
        archs, state = search.ask(state, n)
        rows.append({"ask": list(archs)})
        told = archs[:2]  # the others wait
        state = search.tell(state, told, [value(arch) for arch in told])
        whole = json.loads(json.dumps(search.to_rows(state)))
        again = search.replay(start(strategy), whole)
        assert (again.asked, repr(again.told)) == (state.asked, repr(state.told))
        assert search.ask(again, 4)[0] == search.ask(state, 4)[0]
    assert state.pending


@strategies
def test_a_batch_is_one_ask_after_another_and_repeats_no_function(strategy):
    state = start(strategy)
    for n in (7, 5, 4):
        batch, after = search.ask(state, n)
        one_by_one = state
        for _ in range(n):
            _, one_by_one = search.ask(one_by_one)
        assert one_by_one.asked == after.asked
        state = search.tell(after, batch, [value(arch) for arch in batch])
    asked = [function(one.arch) for one in state.results]
    assert len(set(asked)) == len(asked) == 16


@strategies
def test_all_candidates_are_asked_for_once_and_then_none(strategy):
    few = COLUMNS.rows(ARCHS[::4])
    state = search.init(SPACE, few, strategy)
    functions = {function(arch) for arch in few.archs}
    archs, state = search.ask(state, 1000)
    assert {function(arch) for arch in archs} == functions
    assert len(archs) == len(functions)
    with pytest.raises(ValueError, match=f"all {len(functions)} candidates have been asked for"):
        search.ask(state)


def test_the_process_finds_the_best_and_beats_random_draws():
    def regret(strategy, seed):
        state = search.init(SPACE, COLUMNS, strategy, seed=seed)
        for _ in range(14):
            archs, state = search.ask(state)
            state = search.tell(state, archs, [TRUTH[archs[0]]])
        return max(TRUTH.values()) - state.best.values[0]

    process, random = ([regret(name, seed) for seed in range(5)] for name in ("process", "random"))
    assert np.mean(process) < 0.1 < np.mean(random)


def test_the_default_sum_draws_the_first_and_is_not_in_the_mean():
    sums = ("auto", ("macs", "jacov"))  # the same columns, by default and by name
    told = []
    for prior in sums:
        archs, state = search.ask(start(search.Process(4, 20, prior=prior)), 4)
        told.append(search.tell(state, archs, [TRUTH[arch] for arch in archs]))
    assert told[0].asked == told[1].asked  # both begin at the top of the sum
    problem = told[0].problem
    rows = [problem.place[one.key] for one in told[0].results]
    targets = vector_scores(np.asarray([one.values[0] for one in told[0].results]))
    process, _ = fit_process(Features.of(problem.columns)(problem.columns)[rows], targets)
    mean, deviation = process.predict(Features.of(problem.columns)(problem.columns))
    default, named = (bounds_of(state, prior, 2.0).upper[:, 0] for state, prior in zip(told, sums, strict=True))
    np.testing.assert_allclose(default, mean + 2 * deviation)
    assert abs(named - default).max() > 0.1


def test_failures_repeats_and_other_spellings():
    few = COLUMNS.rows(["1-0-3", "1-0-0", "2-1-0", "4-1-1"])
    state = search.init(SPACE, few, "random")
    archs, state = search.ask(state, 9)
    assert sorted(archs) == ["1-0-3", "2-1-0", "4-1-1"]  # the first spelling of each function
    state = search.tell(state, ["1-0-4"], [1.0])  # any spelling
    state = search.tell(state, ["1-0-3", "2-1-0", "2-1-0", "4-1-1"], [2.0, None, 3.0, math.nan])
    found = {one.arch: (one.values, one.failed) for one in state.results}
    assert found == {"1-0-3": ((1.5,), False), "2-1-0": ((3.0,), False), "4-1-1": (None, True)}
    assert state.best.arch == "2-1-0"
    assert state.pending == ()


def test_disconnected_networks_are_no_candidates():
    state = search.init(tiny.Cut(), COLUMNS, "random")
    assert not any(key.split("-")[1] == "4" for key in state.problem.keys)


@pytest.mark.parametrize("columns", [COLUMNS, None], ids=["pool", "space"])
def test_constraints_hold_for_sizes_columns_and_functions(columns):
    limits = {"macs": 150_000, "odd": (1, None)} | ({"latency": (1, 3)} if columns is not None else {})
    state = search.init(
        SPACE, columns, "evolution", constraints=limits, measures={"odd": lambda arch: arch[2] % 2}, seed=1
    )
    for _ in range(4):
        archs, state = search.ask(state, 3)
        state = search.tell(state, archs, [TRUTH[arch] for arch in archs])
    for arch in map(SPACE.parse, (one.key for one in state.results)):
        assert SPACE.full_sizes(arch)[0] <= 150_000
        assert arch[2] % 2 == 1
        assert columns is None or 1 <= arch[0] <= 3


@pytest.mark.parametrize("columns", [COLUMNS, None], ids=["pool", "space"])
def test_infeasible_constraints_name_the_one_and_the_closest(columns):
    with pytest.raises(ValueError, match=r"macs <= 5 excludes all .* the closest is '0-0-.' with macs 27648"):
        search.ask(
            search.init(SPACE, columns, "random", constraints={"macs": 5, "params": 1e9}),
        )
    with pytest.raises(ValueError, match=r"params >= 100 and macs <= 60000 exclude together all"):
        search.ask(search.init(SPACE, columns, "random", constraints={"params": (100, None), "macs": 60_000}))


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match=r"unknown column 'latenci' \(did you mean 'latency'"):
        start("random", constraints={"latenci": 3})
    with pytest.raises(ValueError, match=r"expected the largest value, or \(smallest, largest\), got \(3, 2\)"):
        start("random", constraints={"latency": (3, 2)})
    with pytest.raises(ValueError, match="unknown strategy 'proces'"):
        start("proces")
    with pytest.raises(ValueError, match="'process' ranks by columns"):
        search.init(SPACE)
    with pytest.raises(ValueError, match="one of them measured"):
        start("random", objectives=["-macs"])
    with pytest.raises(ValueError, match="row 1 is no architecture of tiny"):
        search.init(SPACE, ep.Columns.of(["x"], {"a": [1]}))
    with pytest.raises(ValueError, match="population_size: expected an integer >= 1, got 0"):
        search.Evolution(population_size=0)
    archs, state = search.ask(start("random"), 2)
    stranger = next(arch for arch in ARCHS if function(arch) not in map(function, archs))
    with pytest.raises(ValueError, match=f"1 of 2 architectures were never asked for: '{stranger}'"):
        search.tell(state, [archs[0], stranger], [1, 2])
    with pytest.raises(ValueError, match=r"expected 1 value\(s\) \(value\) for each of 2 architectures"):
        search.tell(state, archs, [1])
    with pytest.raises(ValueError, match="expected finite numbers, or NaN if it failed"):
        search.tell(state, archs, [1, math.inf])
    with pytest.raises(ValueError, match=">= 1, got 0"):
        search.ask(state, 0)
    for row, words in (
        ({"ask": list(archs)}, "asked for twice"),
        ({"ask": ["9"]}, "not an architecture"),
        ({"told": 1}, "expected 'ask', 'tell', 'supply' or 'grow'"),
        ({"tell": [stranger], "values": [[1]]}, "never asked"),
    ):
        with pytest.raises(ValueError, match=f"row 1: .*{words}"):
            search.replay(state, [row])


@pytest.mark.parametrize("objectives", [("value", "-macs"), ("value", "-error", "-macs")], ids=len)
@pytest.mark.parametrize("strategy", ["process", "evolution"])
def test_several_objectives_give_a_front(objectives, strategy):
    state = start(SHORT[strategy], objectives=objectives)
    width = len(objectives) - 1
    while len(state.asked) < 16:
        archs, state = search.ask(state, 4)
        state = search.tell(state, archs, [[TRUTH[a], -TRUTH[a]][:width] for a in archs])
    values = state.objective_values()
    assert values.shape == (16, len(objectives))
    front = {one.arch for one in state.front}
    assert front == {one.arch for one, best in zip(state.measured, search.front(values), strict=True) if best}
    assert [one.values[0] for one in state.front] == sorted((one.values[0] for one in state.front), reverse=True)
    if strategy == "process" and width == 1:
        every = np.asarray([[TRUTH[a], -float(SPACE.macs(function(a)))] for a in ARCHS])
        reference = (0, every[:, 1].min())
        reached = search.hypervolume(values, reference) / search.hypervolume(every, reference)
        assert reached > 0.9


def test_evolution_over_predicted_scores_proposes_a_pool():
    calls = []

    def score(archs):
        calls.append(len(archs))
        return [TRUTH[arch] for arch in archs]

    archs, scores = search.evolve(SPACE, score, 40, batch=8, constraints={"params": 120})
    assert calls == [8] * 5
    assert len({function(arch) for arch in archs}) == 40
    assert scores.tolist() == sorted((TRUTH[arch] for arch in archs), reverse=True)
    best = max(TRUTH[arch] for arch in ARCHS if SPACE.params(function(arch)) <= 120)
    assert scores[0] == best
