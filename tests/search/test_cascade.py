"""Dear columns of what can still win, and candidates that evolution adds: what is wanted, seen, kept, refused."""

import json

import numpy as np
import pytest
import tiny

import eproxy_jax as ep
from eproxy_jax import search

SPACE = tiny.Tiny()
ARCHS = list(dict.fromkeys(SPACE.format(SPACE.canonical(arch)) for arch in SPACE.enumerate()))


def value(arch):
    digits = SPACE.parse(arch)
    return digits[0] + 2.0 * digits[1] - 0.3 * digits[2]


def cheap(archs, noise=3.0):
    """Sizes and a weak hint; each row depends on its architecture alone."""
    hints = [value(a) + noise * np.random.default_rng(SPACE.parse(a)).normal() for a in archs]
    macs = [SPACE.macs(SPACE.parse(a)) for a in archs]
    return ep.Columns.of(archs, {"macs": macs, "jacov": hints})


def dear(archs):
    return ep.Columns.of(archs, {"eproxy:a": [value(a) for a in archs], "eproxy:b": [-(value(a) ** 2) for a in archs]})


def start(seed=0, **options):
    return search.init(SPACE, cheap(ARCHS), search.Process(num_initial=5, initial_top=30), seed=seed, **options)


def play(state, queries, *, cascade, most=None):
    for _ in range(queries):
        while cascade and (wanted := search.wanting(state, 6, most)):
            state = search.supply(state, dear(wanted))
        archs, state = search.ask(state)
        state = search.tell(state, archs, [value(archs[0])])
    return state


def test_dear_columns_of_a_few_find_what_cheap_ones_miss():
    """Values that nothing in the architecture tells: the cheap hint is three parts noise, the dear column one of ten."""
    rng = np.random.default_rng(0)
    truth = dict(zip(ARCHS, rng.normal(size=len(ARCHS)).tolist(), strict=True))
    noise = rng.normal(size=(2, len(ARCHS)))
    values = np.asarray(list(truth.values()))
    few = ep.Columns.of(ARCHS, {"jacov": values + 3 * noise[0]})
    exact = ep.Columns.of(ARCHS, {"eproxy": values + 0.1 * noise[1]})

    def best(seed, *, cascade):
        state = search.init(SPACE, few, search.Process(num_initial=5), seed=seed)
        for _ in range(14):
            while cascade and (wanted := search.wanting(state, 8, 50)):
                state = search.supply(state, exact.rows(wanted))
            archs, state = search.ask(state)
            state = search.tell(state, archs, [truth[archs[0]]])
        assert state.dear is None or len(state.dear) <= 50
        return state.best.values[0]

    with_dear, without = (np.mean([best(seed, cascade=on) for seed in range(4)]) for on in (True, False))
    assert with_dear > without + 0.2


def test_nothing_is_wanted_before_something_is_measured_and_the_share_is_kept():
    state = start()
    assert search.wanting(state) == ()
    state = play(state, 5, cascade=True)
    wanted = search.wanting(state, 7)
    assert set(wanted) >= {one.arch for one in state.results}  # the measured ones first
    assert 5 < len(wanted) <= 12
    assert search.wanting(state, 7, most=3) == wanted[:3]
    assert len(play(state, 12, cascade=True, most=9).dear) <= 9
    known = search.supply(state, dear(ARCHS))
    assert search.wanting(known) == ()


def test_all_supplied_is_the_search_on_all_columns_but_for_scales():
    """A candidate that is asked for is the best of the process that sees the dear columns."""
    state = search.supply(play(start(), 8, cascade=False), dear(ARCHS))
    (arch,), _ = search.ask(state)
    whole = search.init(SPACE, cheap(ARCHS).join(dear(ARCHS)), state.strategy)
    whole = search.replay(whole, search.to_rows(state)[:2])
    assert search.ask(whole)[0] == (arch,)


def test_what_was_supplied_is_in_the_rows_and_batches_resume():
    state = play(start(), 9, cascade=True)
    rows = json.loads(json.dumps(search.to_rows(state)))
    again = search.replay(start(), rows)
    assert again.dear.archs == state.dear.archs
    assert again.dear.values.tobytes() == state.dear.values.tobytes()
    batch, after = search.ask(state, 4)
    assert search.ask(again, 4)[0] == batch
    assert len(set(batch)) == 4
    assert set(search.wanting(after)) & set(batch) or set(batch) <= set(state.dear.archs)


def test_unknown_and_worst_values_survive_the_rows():
    some = ep.Columns.of(ARCHS[:3], {"x": [np.nan, -np.inf, 0.1]})
    again = search.replay(start(), json.loads(json.dumps(search.to_rows(search.supply(start(), some)))))
    assert again.dear.values.tobytes() == some.values.tobytes()


def test_several_objectives_take_dear_columns():
    state = search.init(
        SPACE, cheap(ARCHS), search.Process(num_initial=4), objectives=("value", "-macs"), constraints={"params": 150}
    )
    state = play(state, 10, cascade=True)
    assert state.dear is not None
    assert len(state.front) > 1


def test_what_cannot_be_supplied_is_said():
    state = search.supply(start(), dear(ARCHS[:4]))
    with pytest.raises(ValueError, match="all candidates have the column 'macs'"):
        search.supply(state, cheap(ARCHS[:2]))
    with pytest.raises(ValueError, match="expected the columns eproxy:a, eproxy:b, got other"):
        search.supply(state, ep.Columns.of(ARCHS[:1], {"other": [1]}))
    few = search.init(SPACE, cheap(ARCHS[:9]))
    with pytest.raises(ValueError, match="is no candidate of this search"):
        search.supply(few, dear(ARCHS[9:12]))
    with pytest.raises(ValueError, match="a cascade goes by the process"):
        search.wanting(search.init(SPACE, cheap(ARCHS), "random"))
    with pytest.raises(ValueError, match="number of architectures >= 1, got 0"):
        search.wanting(state, 0)
    with pytest.raises(ValueError, match="the search has macs, jacov, the new rows have eproxy:a, eproxy:b"):
        search.grow(state, dear(ARCHS[:2]))
    whole = search.init(SPACE, None, "random")
    with pytest.raises(ValueError, match="a search of the whole space has no columns"):
        search.supply(whole, dear(ARCHS[:2]))
    for row in (
        {"supply": 3}, {"supply": ["1-0-0"], "names": ["x"], "blocks": ["x"], "values": [[10**400]]},
        {"grow": ["1-0-0"], "names": ["x"], "blocks": ["x"], "values": "x"}, {"grow": ["1-0-0"], "names": [1]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="row 1: "):
            search.replay(state, [row])


# --- candidates that evolution adds ------------------------------------------------------------------------------


def explored(num=30, seed=0, **options):
    calls = []

    def columns_of(archs):
        calls.append(len(archs))
        return cheap(archs, noise=0.1)

    begun = search.init(SPACE, cheap(ARCHS[:20], noise=0.1), search.Process(num_initial=5), seed=seed, **options)
    return search.explore(begun, columns_of, num, batch=10), calls


def test_evolution_adds_better_candidates_each_once():
    state, calls = explored()
    keys = state.problem.keys
    assert calls == [10, 10, 10]
    assert len(set(keys)) == len(keys) == 50
    assert keys[:20] == tuple(ARCHS[:20])
    assert np.mean(list(map(value, keys[20:]))) > np.mean(list(map(value, ARCHS))) > np.mean([*map(value, keys[:20])])
    assert explored()[0].problem.keys == keys
    assert explored(seed=1)[0].problem.keys != keys


def test_evolution_keeps_limits_and_ends_where_nothing_is_left():
    state, _ = explored(constraints={"params": 60})
    assert all(SPACE.params(SPACE.parse(key)) <= 60 for key in state.problem.keys[20:])
    everything, _ = explored(num=1000)
    assert set(everything.problem.keys) == set(ARCHS)


def test_an_explored_search_goes_on_and_resumes():
    state, _ = explored()
    archs, state = search.ask(state, 6)
    state = search.tell(state, archs, [value(arch) for arch in archs])
    more = search.explore(state, lambda archs: cheap(archs, noise=0.1), 10)
    assert more.grown == 2
    assert len(more.problem.keys) == 60
    new = more.problem.columns.rows(more.problem.columns.archs[50:])
    row = json.loads(json.dumps(search.state.columns_row("grow", new)))
    again = search.replay(state, [row])
    assert (again.problem.keys, again.grown) == (more.problem.keys, more.grown)
    assert search.ask(again, 3)[0] == search.ask(more, 3)[0]
