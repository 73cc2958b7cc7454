"""Columns of proxies in a file: what is kept, resumed column by column, refused; several processes; sums of ranks."""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import SPACES, TINY, pattern_images
from scipy import stats

import eproxy_jax as ep
from eproxy_jax.execution import memory
from eproxy_jax.execution.evaluation import Evaluation
from eproxy_jax.proxies import registry
from eproxy_jax.runs import columns_file, hosts, printed

SPACE = tiny.Cut()  # some networks are disconnected
IMAGES = pattern_images(4, 8).astype(np.float32)
LIST = SPACE.sample(14, 1)
TEXTS = [SPACE.format(arch) for arch in LIST]
SHORT = dataclasses.replace(TINY, num_steps=2)


def draw(network, key, encoded, inputs):
    """A number that depends on key, architecture and images; compiles in a moment."""
    del network
    return jax.random.normal(key) + jnp.sum(encoded) / 7 + inputs.images[0, 0, 0, 0]


def classes(network, key, encoded, inputs):
    """A number of the labels."""
    del network, key
    return jnp.sum(inputs.labels * (1 + jnp.arange(len(inputs.labels)))) + 0.1 * encoded[0]


def gap(network, key, encoded, inputs):
    """Not finite for some."""
    del network, key, inputs
    return jnp.where(encoded[0] > 1, jnp.nan, 1.0 * encoded[0])


OWN = {"draw": draw, "classes": classes, "gap": gap}


@pytest.fixture(autouse=True)
def own_proxies(monkeypatch):
    """Three proxies of a user; each test starts with these."""
    monkeypatch.setattr(registry, "_own", {})
    for name, function in OWN.items():
        ep.proxies.register(name, function)


@pytest.fixture(autouse=True)
def computed(monkeypatch):
    """(function, architecture) of all that ran on devices."""
    done, run = [], Evaluation.run

    def counted(self, archs, compiled=None):
        done.extend((getattr(self.fn, "name", type(self.fn).__name__), arch) for arch in archs)
        return run(self, archs, compiled)

    monkeypatch.setattr(Evaluation, "run", counted)
    return done


def score(folder, proxy="macs,draw,gap", archs=LIST, **options):
    options = {"say": lambda _: None, "images": IMAGES, **options}
    return ep.runs.score_columns(archs, SPACE, proxy, workdir=folder, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "columns.jsonl").read_text().splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def distinct_in_order(archs):
    return list(dict.fromkeys(SPACE.canonical(arch) for arch in archs if SPACE.is_connected(arch)))


def distinct(archs):
    return set(distinct_in_order(archs))


# --- values --------------------------------------------------------------------------------------------------


def test_values_are_those_of_memory_to_the_bit(tmp_path):
    proxy = "macs,draw,gap,params,classes,eproxy"
    expected = ep.score(LIST, SPACE, SHORT, IMAGES, proxy=proxy)
    found = score(tmp_path, proxy, [*LIST, LIST[3]], settings=SHORT)
    again = score(tmp_path, proxy, settings=SHORT, execution=ep.Execution.of(jax.devices()[:1], chunk_size=1))
    assert list(found.columns) == list(expected.columns) == proxy.split(",")
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], [*column, column[3]])
        np.testing.assert_array_equal(again.columns[name], column)
        assert found.columns[name].dtype == np.float64
    assert found.archs == (*expected.archs, expected.archs[3])
    assert again.status == expected.status
    np.testing.assert_array_equal(again.macs, expected.macs)
    np.testing.assert_array_equal(again.params, expected.params)
    dead = [not SPACE.is_connected(arch) for arch in LIST]
    assert 0 < sum(dead) < len(LIST)
    np.testing.assert_array_equal(again.columns["draw"] == -np.inf, dead)
    assert np.isinf(again.columns["gap"][[arch[0] > 1 for arch in LIST]]).all()
    lines = rows(tmp_path)
    assert [line["arch"] for line in lines] == TEXTS
    assert [line["macs_as_written"] for line in lines] == expected.macs.tolist()
    assert all(isinstance(line["macs"], int) or line["macs"] is None for line in lines)


def test_a_value_depends_on_no_order_chunk_or_device_count(tmp_path):
    whole = score(tmp_path / "a")
    few = score(
        tmp_path / "b", "draw", LIST[::-1][:9], execution=ep.Execution.of(jax.devices()[:1], chunk_size=3)
    )  # fmt: skip
    np.testing.assert_array_equal(few.columns["draw"], whole.columns["draw"][::-1][:9])


@pytest.mark.parametrize("exact", [True, False])
def test_numbers_come_back_to_the_bit(exact):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=50) * 10.0 ** rng.integers(-30, 30, 50), [0, -0.0, 3, 2**24, -7, 2.0**40]])
    values = values if exact else values.astype(np.float32).astype(np.float64)
    values = [*values, -np.inf, *([2.0**53 + 2, 1e300] if exact else [])]
    text = json.dumps([columns_file.encode(np.float64(v), exact) for v in values])
    found = columns_file.decode(json.loads(text), exact)
    assert found.tobytes() == np.asarray(values).tobytes()
    assert "3," in text
    vectors = [columns_file.encode(np.asarray([1.0, 0.5, -np.inf]), exact), None]
    np.testing.assert_array_equal(columns_file.decode(vectors, exact), [[1, 0.5, -np.inf], [-np.inf] * 3])


def test_vectors_come_back_beside_numbers(tmp_path):
    space = SPACES["nasbench201"]
    archs = [*space.sample(6, 2), space.parse([[0], [0, 0], [0, 0, 0]])]  # the last one is disconnected
    found = ep.runs.score_columns(archs, space, "graph_counts,params", workdir=tmp_path, say=lambda _: None)
    expected = ep.score(archs, space, proxy="graph_counts,params")
    assert found.columns["graph_counts"].shape[1] > 50
    for name, column in expected.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    assert (found.columns["graph_counts"][-1] == -np.inf).all()
    assert list(found.scalars()) == ["params"]


# --- resuming ------------------------------------------------------------------------------------------------


def test_more_names_and_more_architectures_compute_what_is_missing(tmp_path, computed):
    score(tmp_path, "draw", LIST[:6])
    assert {name for name, _ in computed} == {"draw"}
    computed.clear()
    score(tmp_path, "gap,macs", LIST[:6])
    assert set(computed) == {("gap", arch) for arch in distinct(LIST[:6])}
    computed.clear()
    score(tmp_path, "draw,gap", LIST)
    new = distinct(LIST) - distinct(LIST[:6])
    assert sorted(computed) == sorted((name, arch) for name in ("draw", "gap") for arch in new)
    assert set(rows(tmp_path)[0]) >= {"draw", "gap", "macs", "params"}  # macs was not asked for now
    computed.clear()
    score(tmp_path)
    assert not computed
    score(tmp_path / "at once")
    assert (tmp_path / "columns.jsonl").read_bytes() == (tmp_path / "at once" / "columns.jsonl").read_bytes()
    record = json.loads((tmp_path / "columns.run.json").read_text())
    assert record["finished"]
    assert set(record["columns"]) == {"draw", "gap", "macs", "params"}
    assert set(record["seconds"]) == {"draw", "gap", "sizes"}
    assert record["labels"] == "random: the images have none"
    before = (tmp_path / "columns.jsonl").stat().st_mtime_ns
    score(tmp_path, "draw")
    assert (tmp_path / "columns.jsonl").stat().st_mtime_ns == before


def test_any_kill_resumes_to_the_same_file(tmp_path, monkeypatch):
    """Stopped at each write of the run in turn; the next session stops at its own next write."""
    score(tmp_path / "whole")
    real, left = os.fsync, [0]

    def fsync(handle):
        real(handle)
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)
    for writes in range(1, 200):
        left[0] = writes
        try:
            score(tmp_path, execution=ep.Execution.of(jax.devices()[:1], chunk_size=2))
        except KeyboardInterrupt:
            continue
        break
    monkeypatch.undo()
    assert (tmp_path / "columns.jsonl").read_bytes() == (tmp_path / "whole" / "columns.jsonl").read_bytes()


def test_a_half_written_line_is_dropped(tmp_path):
    score(tmp_path)
    whole = (tmp_path / "columns.jsonl").read_bytes()
    for cut in (10, 60, len(whole) // 2, len(whole) - 1):
        (tmp_path / "columns.jsonl").write_bytes(whole[:cut])
        score(tmp_path)
        assert (tmp_path / "columns.jsonl").read_bytes() == whole


@pytest.mark.parametrize("content", ["", '{"run": "a', "[" * 5000])
def test_a_damaged_record_stops_no_run(tmp_path, computed, content):
    score(tmp_path)
    whole = (tmp_path / "columns.jsonl").read_bytes()
    (tmp_path / "columns.run.json").write_text(content)
    computed.clear()
    with pytest.warns(RuntimeWarning, match="not a readable record of a run: kept as"):
        score(tmp_path)
    assert not computed
    assert (tmp_path / "columns.jsonl").read_bytes() == whole


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 1}, r"columns\.jsonl:1: written by another run .*: other weight_seed \(1, there 0\)"),
        ({"num_classes": 7}, r"other num_classes \(7, there 10\)"),
        ({"labels": [0, 1, 1, 0], "num_classes": 10}, r"other labels \('\w{12}', there 'random"),
        ({"images": IMAGES + np.arange(4)[:, None, None, None]}, r"other images\.sha256"),
        ({"archs": LIST[:3]}, "which this run's list of architectures lacks"),
    ],
)
def test_another_run_is_named_by_what_differs(tmp_path, computed, change, message):
    score(tmp_path)
    before = contents(tmp_path)
    computed.clear()
    with pytest.raises(ValueError, match=message):
        score(tmp_path, **change)
    assert contents(tmp_path) == before
    assert not computed


def test_a_column_made_with_something_else_is_refused(tmp_path, computed):
    score(tmp_path, "draw,eproxy", settings=SHORT)
    before = contents(tmp_path)
    computed.clear()
    with pytest.raises(ValueError, match=r"column 'eproxy' was made with .* other settings\.lr \(0\.5, there 1\.2\)"):
        score(tmp_path, "draw,eproxy", settings=dataclasses.replace(SHORT, lr=0.5))
    ep.proxies.register("draw", lambda network, key, encoded, inputs: 2.0 * jnp.sum(encoded))
    with pytest.raises(ValueError, match=r"column 'draw' was made with .* other source"):
        score(tmp_path, "draw")
    (tmp_path / "columns.run.json").unlink()  # the lines say it too
    with pytest.raises(ValueError, match="column 'draw' was made with"):
        score(tmp_path, "draw")
    assert contents(tmp_path) == {name: content for name, content in before.items() if "run.json" not in name}
    assert not computed
    score(tmp_path, "gap")  # goes on beside it
    assert {"draw", "eproxy", "gap"} <= set(rows(tmp_path)[0])


def test_a_column_of_another_version_is_refused(tmp_path, computed, monkeypatch):
    score(tmp_path, "synflow,draw", archs=LIST[:2])
    before, synflow = contents(tmp_path), registry.get("synflow")
    newer = dataclasses.replace(synflow.made_by, version=2)
    monkeypatch.setattr(registry, "PASSES", (*registry.PASSES, newer))
    changed = {**registry._BUILT_IN, "synflow": dataclasses.replace(synflow, made_by=newer)}
    monkeypatch.setattr(registry, "_BUILT_IN", changed)
    computed.clear()
    with pytest.raises(ValueError, match=r"column 'synflow' was made with something else"):
        score(tmp_path, "synflow,draw", archs=LIST[:2])
    assert contents(tmp_path) == before
    score(tmp_path, "draw", archs=LIST[:2])
    assert not computed


def test_columns_name_the_width_that_memory_allowed(tmp_path, monkeypatch):
    """Rounding depends on it, and each pass has its own."""
    ways = ep.Execution.of(form="vmap", vmap_width="auto")
    monkeypatch.setattr(memory, "fitting_width", lambda *_: 4)
    score(tmp_path, "draw,macs", execution=ways)
    record = json.loads((tmp_path / "columns.run.json").read_text())
    assert record["form"] == "vmap auto"
    assert record["columns"]["draw"]["form"] == "vmap 4"
    assert record["columns"]["macs"] == {"pass": "sizes"}
    score(tmp_path, "draw,gap", execution=ways)
    monkeypatch.setattr(memory, "fitting_width", lambda *_: 8)
    with pytest.raises(ValueError, match=r"column 'draw' .* other form \('vmap 8', there 'vmap 4'\)"):
        score(tmp_path, "draw", execution=ways)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("columns.jsonl", '{"arch": "x", "val": 91.2}'),
        ("columns.jsonl", '{"arch": "0-0-0", "score": -1.0, "loss": 1.0, "losses": [1.0], "macs": 1, "params": 1}\n'),
        ("columns.jsonl", "my only copy"),
        ("columns.run.json", '{"my": "notes"}\n'),
    ],
)
def test_files_of_others_are_refused_before_anything_runs(tmp_path, computed, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        score(tmp_path)
    assert contents(tmp_path) == {name: content.encode()}
    assert not computed


@pytest.mark.parametrize(
    "change",
    [{"draw": "x"}, {"draw": True}, {"draw": [1, "x"]}, {"status": 3}, {"macs_as_written": 1.5}, {"made_with": 5}],
)
def test_lines_of_wrong_types_are_refused(tmp_path, change):
    score(tmp_path, "draw")
    first, *rest = rows(tmp_path)
    text = "".join(json.dumps(row) + "\n" for row in [{**first, **change}, *rest])
    (tmp_path / "columns.jsonl").write_text(text)
    with pytest.raises(ValueError, match=rf"columns\.jsonl:1: {next(iter(change))}: .* is no value of that field"):
        score(tmp_path, "draw")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proxy": "drow"}, "unknown proxy 'drow' .did you mean 'draw'"),
        ({"proxy": "eproxy:fast"}, "no settings of that name"),
        ({"proxy": ""}, "no proxy given"),
        ({"labels": [0, 1, 2, 10], "num_classes": 10}, "labels: expected 0 to 9 for 10 classes, got 10"),
        ({"labels": [0, 1, 2]}, "labels: expected one for each of the 4 images"),
        ({"labels": [0, 1, 2, 0.5]}, "labels: expected whole numbers"),
        ({"num_classes": 1}, "num_classes: expected at least 2"),
        ({"proxy": "jacov", "images": IMAGES[:1]}, "images: batch statistics need at least 2 images, got 1"),
        ({"archs": []}, "the list is empty"),
    ],
)
def test_bad_input(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        score(tmp_path, **options)
    if "archs" not in options:
        more = {"images": IMAGES, "proxy": "draw", **options}
        with pytest.raises(ValueError, match=message):
            ep.score(LIST, SPACE, **more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory", [True, False])
def test_a_proxy_that_cannot_be_computed_is_told_before_anything_runs(tmp_path, computed, memory):
    ep.proxies.register("broken", lambda network, key, encoded, inputs: 1 / 0)
    ep.proxies.register("vector", lambda network, key, encoded, inputs: encoded)
    for name, message in (("broken", "ZeroDivisionError: division by zero"), ("vector", "proxy 'vector': expected a")):
        call = functools.partial(ep.score, LIST, SPACE, images=IMAGES) if memory else functools.partial(score, tmp_path)
        with pytest.raises(ValueError, match=f"proxy '{name}', space tiny: {message}"):
            call(proxy=["draw", name])
    assert not computed
    assert not memory or not list(tmp_path.iterdir())


# --- labels and a user's own ---------------------------------------------------------------------------------


def test_labels_reach_the_proxies_and_the_record(tmp_path):
    labels = [3, 0, 1, 2]
    found = score(tmp_path, "classes", labels=labels)
    alive = np.asarray([SPACE.is_connected(arch) for arch in LIST])
    expected = 3 + 0 + 3 + 8 + 0.1 * np.asarray([arch[0] for arch in LIST])
    np.testing.assert_allclose(found.columns["classes"][alive], expected[alive], rtol=1e-6)
    record = json.loads((tmp_path / "columns.run.json").read_text())
    assert len(record["labels"]) == 12
    assert record["num_classes"] == 4


def test_three_lines_register_a_proxy():
    ep.proxies.register("width", lambda network, key, encoded, inputs: encoded[0], higher_is_better=False)
    result = ep.score(["1-0-0", "3-0-0"], SPACE, images=IMAGES, proxy="width")
    assert result.columns["width"].tolist() == [-1, -3]
    assert result.ranking("width").tolist() == [0, 1]
    assert ep.proxies.get("width").needs == ("images", "labels", "noise")
    for taken in ("macs", "cheap", "rank_sum", "eproxy", "run", "arch"):
        with pytest.raises(ValueError, match="the name is taken"):
            ep.proxies.register(taken, draw)
    with pytest.raises(ValueError, match="expected a name of letters"):
        ep.proxies.register("a,b", draw)


# --- several processes ---------------------------------------------------------------------------------------


def test_two_processes_write_the_file_of_one(tmp_path, computed):
    """Both are threads of this process."""
    score(tmp_path / "alone")
    count = len(computed)
    computed.clear()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    calls = itertools.repeat(0)

    def both(proxy):
        with pytest.MonkeyPatch.context() as patch, concurrent.futures.ThreadPoolExecutor(2) as pool:
            patch.setattr(hosts, "_CALLS", calls)
            patch.setattr(hosts, "_POLL_SECONDS", 0.02)
            started = [
                pool.submit(score, tmp_path, proxy, process=hosts.Process(i, 2, address), wait=30.0) for i in (1, 0)
            ]
            return [one.result(60) for one in started]

    results = both("macs,draw")
    assert results[0] is None
    assert results[1].archs == tuple(TEXTS)
    both("macs,draw,gap")
    assert len(computed) == count
    assert (tmp_path / "columns.jsonl").read_bytes() == (tmp_path / "alone" / "columns.jsonl").read_bytes()
    # Process 0 alone again, with the shares of the other: only its own networks run.
    computed.clear()
    (tmp_path / "columns.jsonl").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hosts, "_CALLS", calls)
        patch.setattr(hosts, "_POLL_SECONDS", 0.02)
        score(tmp_path, process=hosts.Process(0, 2, address), wait=5.0)
    own = [arch for number, arch in enumerate(distinct_in_order(LIST)) if number % 2 == 0]
    assert sorted(computed) == sorted((name, arch) for name in ("draw", "gap") for arch in own)
    assert (tmp_path / "columns.jsonl").read_bytes() == (tmp_path / "alone" / "columns.jsonl").read_bytes()


def test_a_share_of_another_run_is_refused(tmp_path):
    score(tmp_path, key=5)
    (tmp_path / "columns.jsonl").rename(tmp_path / "columns.1of2.jsonl")
    (tmp_path / "columns.run.json").unlink()
    with pytest.raises(ValueError, match=r"columns\.1of2\.jsonl:1: written by another run"):
        hosts.await_shares(
            {1: tmp_path / "columns.1of2.jsonl"},
            lambda path: columns_file_rows(path),
            lambda: {1: 3},
        )


def columns_file_rows(path):
    from eproxy_jax.runs.results import read_rows

    return read_rows(path, "another", columns_file.check_row, columns_file.WHAT)


# --- sums of ranks and tables --------------------------------------------------------------------------------


def result(**columns):
    size = len(next(iter(columns.values())))
    ones = np.ones(size, np.int64)
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    return ep.ColumnsResult(tuple("abcdefgh"[:size]), arrays, ones, ones, ("ok",) * size, {})


def test_sums_of_ranks():
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 5, 20).astype(float) for name in ep.proxies.AGGREGATES["rank_sum"]}
    columns["jacov"][3] = -np.inf
    expected = sum(np.log(stats.rankdata(column) / 20) for column in columns.values())
    np.testing.assert_allclose(ep.proxies.rank_sum(columns), expected)
    assert set(ep.proxies.aggregates_of(columns)) == {"rank_sum"}
    assert set(
        ep.proxies.aggregates_of({**columns, "progressivity": columns["macs"], "expressivity": columns["jacov"]})
    ) == {"rank_sum", "az_nas"}
    for bad in ({}, {"a": np.ones((2, 2))}, {"a": [np.nan]}):
        with pytest.raises(ValueError, match="column"):
            ep.proxies.rank_sum(bad)
    names = [proxy.name for proxy in ep.proxies.resolve("az_nas,macs")]
    assert names == list(ep.proxies.AGGREGATES["az_nas"])


def test_tables_have_a_row_for_each_column_and_each_sum():
    values = {name: [1.0, 2, 3, 4] for name in ep.proxies.AGGREGATES["rank_sum"]}
    values["jacov"] = [2.0, 1, 3, 4]
    found = result(**values, graph_counts=np.ones((4, 2)))
    rows = printed.column_rows(found, np.asarray([1.0, 2, np.nan, 4]))
    assert list(rows) == [*ep.proxies.AGGREGATES["rank_sum"], "rank_sum", "macs as written", "params as written"]
    assert rows["macs"].ndcg == 1
    assert rows["macs"].count == 3
    table = printed.columns_table(found, top=2)
    assert "rank_sum" in table.splitlines()[0]
    assert [line.split()[-1] for line in table.splitlines()[1:3]] == ["d", "c"]
    only = printed.columns_table(result(jacov=[1.0, -np.inf, 3]), truth=np.asarray([1.0, np.nan, 2]))
    assert [line.split()[-1] for line in only.splitlines()[1:4]] == ["c", "a", "b"]
    assert printed.columns_table(result(graph_counts=np.ones((3, 2)))) is None
    with pytest.raises(ValueError, match="no column 'jakov' of numbers .did you mean 'jacov'"):
        found.ranking("jakov")


def test_figure_of_the_rows(tmp_path):
    pytest.importorskip("matplotlib")
    rows = printed.column_rows(result(jacov=[1.0, 2, 3], macs=[1.0, 1, 1]), np.asarray([1.0, 3, 2]))
    printed.quality_plot(tmp_path / "c.png", rows, "title", tmp_path / "columns.jsonl")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
