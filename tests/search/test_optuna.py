"""The sampler for Optuna: the search of ask and tell, resumed from a study, in both directions, with failures."""

import math

import numpy as np
import pytest
import tiny

import eproxy_jax as ep
from eproxy_jax import search

optuna = pytest.importorskip("optuna")
from eproxy_jax.search.optuna import ArchSampler  # noqa: E402

SPACE = tiny.Tiny()
ARCHS = [SPACE.format(arch) for arch in SPACE.enumerate()]
COLUMNS = ep.Columns.of(
    ARCHS,
    {
        "macs": [SPACE.macs(SPACE.parse(arch)) for arch in ARCHS],
        "jacov": np.random.default_rng(0).normal(size=len(ARCHS)) + [float(arch[0]) for arch in ARCHS],
    },
)
STRATEGY = search.Process(num_initial=4, initial_top=20)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def value(arch):
    digits = SPACE.canonical(SPACE.parse(arch))
    return digits[0] + 2.0 * digits[1] - 0.3 * digits[2]


def study_of(sampler, **options):
    return optuna.create_study(**({"direction": "maximize"} | options), sampler=sampler)


def test_it_asks_for_what_the_search_asks_for():
    sampler = ArchSampler(SPACE, COLUMNS, STRATEGY, seed=2)
    study = study_of(sampler)
    study.optimize(lambda trial: value(sampler.suggest(trial)), n_trials=12)
    state = search.init(SPACE, COLUMNS, STRATEGY, seed=2)
    for _ in range(12):
        archs, state = search.ask(state)
        state = search.tell(state, archs, [value(archs[0])])
    assert [trial.user_attrs["arch"] for trial in study.trials] == [one.arch for one in state.results]
    assert study.best_value == state.best.values[0]
    assert sampler.archs[study.best_params["arch"]] == study.best_trial.user_attrs["arch"] == state.best.arch


def test_a_study_resumes_in_another_process(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"

    def run(count):
        sampler = ArchSampler(SPACE, COLUMNS, STRATEGY)
        study = study_of(sampler, storage=storage, study_name="s", load_if_exists=True)
        study.optimize(lambda trial: value(sampler.suggest(trial)), n_trials=count)
        return [trial.user_attrs["arch"] for trial in study.trials]

    run(5)
    both = run(4)
    sampler = ArchSampler(SPACE, COLUMNS, STRATEGY)
    whole = study_of(sampler)
    whole.optimize(lambda trial: value(sampler.suggest(trial)), n_trials=9)
    assert both == [trial.user_attrs["arch"] for trial in whole.trials]


def test_running_failed_and_pruned_trials():
    sampler = ArchSampler(SPACE, COLUMNS, STRATEGY)
    study = study_of(sampler)
    running = [study.ask() for _ in range(3)]
    asked = [sampler.suggest(trial) for trial in running]
    assert len(set(asked)) == 3
    study.tell(running[0], state=optuna.trial.TrialState.FAIL)
    study.tell(running[1], state=optuna.trial.TrialState.PRUNED)
    state = sampler.state(study)
    assert [one.failed for one in state.results] == [True, True, False]
    assert state.pending == (asked[2],)
    assert sampler.suggest(study.ask()) not in asked


def test_lower_is_better_two_objectives_and_other_parameters():
    sampler = ArchSampler(SPACE, COLUMNS, STRATEGY, constraints={"params": 120})

    def objective(trial):
        arch = sampler.suggest(trial)
        assert 0 <= trial.suggest_float("lr", 0, 1) <= 1
        assert SPACE.params(SPACE.canonical(SPACE.parse(arch))) <= 120
        return -value(arch), float(arch[0])

    study = study_of(sampler, direction=None, directions=["minimize", "maximize"])
    study.optimize(objective, n_trials=10)
    state = sampler.state(study)
    assert state.best.values[0] == min(trial.values[0] for trial in study.trials)
    fronts = {trial.values[0] for trial in study.best_trials}
    assert {one.values[0] for one in state.front} == fronts


def test_an_enqueued_trial_and_the_end_of_the_candidates():
    few = COLUMNS.rows(ARCHS[::25])
    sampler = ArchSampler(SPACE, few, "random")
    study = study_of(sampler)
    study.enqueue_trial({"arch": 1})
    study.optimize(lambda trial: value(sampler.suggest(trial)), n_trials=len(sampler.archs))
    assert study.trials[0].user_attrs["arch"] == sampler.archs[1]
    assert sorted(trial.params["arch"] for trial in study.trials) == list(range(len(sampler.archs)))
    with pytest.raises(ValueError, match="candidates have been asked for"):
        sampler.suggest(study.ask())
    assert not math.isnan(study.best_value)
