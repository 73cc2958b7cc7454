"""Runs into files, with trainings replaced by a function of the architecture: what is kept, refused, computed anew."""

import concurrent.futures
import dataclasses
import itertools
import json
import os
import socket

import numpy as np
import pytest
from helpers import SPACES, pattern_images

import eproxy_jax as ep
from eproxy_jax.dps.fitted import FittedProxy, Member
from eproxy_jax.execution import evaluation
from eproxy_jax.execution.evaluation import Evaluation
from eproxy_jax.runs import hosts

SPACE = SPACES["nasbench201"]
SETTINGS = ep.ProxySettings.from_dict(
    {"branches": [{"features": ["dot"], "barrier_kernel": 1, "transform_channels": 8, "target_channels": 4}]}
)
FITTED = FittedProxy(tuple(Member(dataclasses.replace(SETTINGS, lr=lr), 0.25, 0.25) for lr in (1.0, 1.2)))
IMAGES = pattern_images(4, 8).astype(np.float32)
LIST = SPACE.sample(9, 0)
TEXTS = [SPACE.format(arch) for arch in LIST]


@pytest.fixture(autouse=True)
def trained(monkeypatch):
    """The networks that were trained, in order."""
    done = []

    def run(self, archs, compiled=None):
        for position, arch in enumerate(archs):
            done.append(arch)
            rng = np.random.default_rng([*arch, int(10 * float(self.shared[0][1].lr))])
            yield np.asarray([position]), rng.uniform(0.3, 0.9, (1, 10)).astype(np.float32)

    monkeypatch.setattr(Evaluation, "run", run)
    return done


def score(folder, archs=LIST, proxy=SETTINGS, **options):
    return ep.runs.score(archs, SPACE, proxy, IMAGES, workdir=folder, say=lambda _: None, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def undisturbed(tmp_path_factory, proxy=SETTINGS, archs=LIST):
    folder = tmp_path_factory.mktemp("undisturbed")
    score(folder, archs, proxy)
    return folder


# --- records and other small files ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", '{"run": "a', "garbage", "\0\0", "[" * 5000])
@pytest.mark.parametrize("proxy", [SETTINGS, FITTED], ids=["plain", "fitted"])
def test_a_damaged_record_stops_no_run(tmp_path, proxy, content):
    score(tmp_path, proxy=proxy)
    records = [path for path in tmp_path.iterdir() if path.name.endswith(".run.json")]
    whole = (tmp_path / "scores.jsonl").read_bytes()
    for record in records:
        record.write_text(content)
    with pytest.warns(RuntimeWarning, match="not a readable record of a run: kept as"):
        score(tmp_path, proxy=proxy)
    assert (tmp_path / "scores.jsonl").read_bytes() == whole
    assert all(json.loads(record.read_text())["finished"] for record in records)


@pytest.mark.parametrize("seconds", [None, [], "x", {"run": "x"}, {"run": 1e400, "compile": None}, {"compile": -1}])
def test_a_record_of_wrong_types_stops_no_run(tmp_path, seconds):
    score(tmp_path)
    path = tmp_path / "scores.run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "seconds": seconds, "settings": 5, "finished": "x", "out": None}))
    assert set(score(tmp_path).seconds) == {"compile", "run"}
    assert json.loads(path.read_text())["settings"] == SETTINGS.to_dict()


FOREIGN = {
    "scores.run.json": '{"my": "notes"}\n',
    "scores.jsonl": '{"arch": "x", "val": 91.2}',
    "scores.member1.jsonl": "my only copy",
    "scores.member0.run.json": "[1, 2]",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_are_refused_before_anything_is_trained(tmp_path, trained, name):
    (tmp_path / name).write_text(FOREIGN[name])
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        score(tmp_path, proxy=FITTED if "member" in name else SETTINGS)
    assert contents(tmp_path) == before
    assert trained == []


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.run.json", "scores.member1.jsonl"])
@pytest.mark.parametrize("kind", ["folder", "fifo", "/dev/full"])
def test_what_is_no_file_is_refused_before_anything_is_trained(tmp_path, trained, name, kind):
    if kind == "folder":
        (tmp_path / name).mkdir()
    elif kind == "fifo":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to(kind)
    with pytest.raises(ValueError, match=r"not a regular file|a folder, where a file"):
        score(tmp_path, proxy=FITTED)
    assert trained == []


def test_runs_beside_each_other_share_no_file(tmp_path):
    outs = ["a.jsonl", "a.txt", "a.png"]
    for number, name in enumerate(outs):
        score(tmp_path, out=tmp_path / name, key=number)
    for number, name in enumerate(outs):
        score(tmp_path, out=tmp_path / name, key=number)
    before = contents(tmp_path)
    assert len(before) == 6
    with pytest.raises(ValueError, match=r"a\.run\.json: the record of another run"):
        score(tmp_path, out=tmp_path / "a", key=9)
    assert {**contents(tmp_path), "a": b""} == {**before, "a": b""}


def test_names_that_no_file_can_have_are_told_before_anything_is_trained(tmp_path, trained):
    for name in ("x" * 254, "x" * 248 + ".jsonl"):  # the second is a name, but that of its record is too long
        with pytest.raises(OSError, match="too long"):
            score(tmp_path, out=tmp_path / name)
    with pytest.raises(ValueError, match="null byte"):
        score(tmp_path, out=f"{tmp_path}/x\0y")
    assert trained == []
    assert contents(tmp_path) == {}


# --- links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [SETTINGS, FITTED], ids=["plain", "fitted"])
def test_a_linked_result_file_keeps_target_mode_and_links(tmp_path, tmp_path_factory, proxy):
    whole = (undisturbed(tmp_path_factory, proxy) / "scores.jsonl").read_bytes()
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "big.jsonl"
    target.touch(mode=0o640)
    os.link(target, tmp_path / "hard")
    (tmp_path / "scores.jsonl").symlink_to(target)
    inode = target.stat().st_ino
    for _ in range(2):
        score(tmp_path, proxy=proxy)
        assert (tmp_path / "scores.jsonl").is_symlink()
        assert (target.stat().st_ino, target.stat().st_nlink, target.stat().st_mode & 0o777) == (inode, 2, 0o640)
        assert target.read_bytes() == (tmp_path / "hard").read_bytes() == whole
    assert [path.name for path in target.parent.iterdir()] == ["big.jsonl"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    score(tmp_path, out="~/deep/x.jsonl")
    score("~/work")
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"x.jsonl", "x.run.json"}
    assert (tmp_path / "work" / "scores.jsonl").exists()
    with pytest.raises(ValueError, match="no such home folder"):
        score("~nobody-of-this-name/x")


# --- resuming ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [SETTINGS, FITTED], ids=["plain", "fitted"])
def test_any_kill_resumes_to_the_same_files(tmp_path, monkeypatch, proxy, tmp_path_factory):
    """Stopped at each write of the run in turn; the next session stops at its own next write."""
    expected = contents(undisturbed(tmp_path_factory, proxy))
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
            score(tmp_path, proxy=proxy)
        except KeyboardInterrupt:
            continue
        break
    found = contents(tmp_path)
    assert found.keys() == expected.keys()
    for name, content in expected.items():
        if name.endswith(".jsonl"):
            assert found[name] == content


def test_scores_that_do_not_follow_from_losses_are_computed_anew(tmp_path, trained):
    score(tmp_path)
    path = tmp_path / "scores.jsonl"
    whole = path.read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    rows[0]["score"] = 0.0
    rows[1]["loss"] = rows[1]["macs"] = 1
    rows[2]["status"] = "diverged"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained.clear()
    said = []
    result = ep.runs.score(LIST, SPACE, SETTINGS, IMAGES, workdir=tmp_path, say=said.append)
    assert trained == []
    assert path.read_bytes() == whole
    assert any("3 lines did not follow from their losses" in text for text in said)
    np.testing.assert_array_equal(result.score[np.isfinite(result.score)], -result.loss[np.isfinite(result.score)])


def test_a_finished_file_is_not_written_again(tmp_path):
    score(tmp_path)
    before = (tmp_path / "scores.jsonl").stat().st_mtime_ns
    score(tmp_path)
    assert (tmp_path / "scores.jsonl").stat().st_mtime_ns == before


# --- identities ----------------------------------------------------------------------------------------------


def test_another_run_is_named_by_what_differs(tmp_path):
    score(tmp_path)
    with pytest.raises(
        ValueError, match=r"scores\.jsonl:1: written by another run .*: other weight_seed \(1, there 0\)"
    ):
        score(tmp_path, key=1)
    with pytest.raises(ValueError, match=r"other settings\.lr \(0\.5, there 1\.2\)"):
        score(tmp_path, proxy=dataclasses.replace(SETTINGS, lr=0.5))
    (tmp_path / "scores.run.json").unlink()
    with pytest.raises(ValueError, match="seed, form or versions differ"):
        score(tmp_path, key=1)


@pytest.mark.parametrize("package", ["eproxy_jax", "jax"])
def test_other_versions_are_another_run(tmp_path, monkeypatch, package):
    score(tmp_path)
    whole = contents(tmp_path)
    if package == "jax":
        monkeypatch.setattr(evaluation.jax, "__version__", "0.99")
    else:
        monkeypatch.setattr(evaluation, "__version__", "9.9")
    with pytest.raises(ValueError, match=rf"other versions\.{package} \("):
        score(tmp_path)
    assert contents(tmp_path) == whole


def test_a_longer_list_trains_what_is_new_and_mixes_no_percentiles(tmp_path, tmp_path_factory, trained):
    score(tmp_path, LIST[:5], FITTED)
    trained.clear()
    said = []
    result = ep.runs.score(LIST, SPACE, FITTED, IMAGES, workdir=tmp_path, say=said.append)
    fresh = {SPACE.canonical(arch) for arch in LIST[5:] if SPACE.is_connected(arch)}
    fresh -= {SPACE.canonical(arch) for arch in LIST[:5]}
    assert set(trained) == fresh
    assert any("the list has changed" in text for text in said)
    expected = undisturbed(tmp_path_factory, FITTED)
    assert (tmp_path / "scores.jsonl").read_bytes() == (expected / "scores.jsonl").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len({row["run"] for row in rows}) == 1
    assert [-np.inf if row["score"] is None else row["score"] for row in rows] == result.score.tolist()


def test_a_fitted_proxy_over_the_file_of_another_run_trains_nothing(tmp_path, trained):
    score(tmp_path)
    (tmp_path / "scores.run.json").unlink()
    score(tmp_path, out=tmp_path / "x.member1.jsonl", key=3)
    before = contents(tmp_path)
    trained.clear()
    for out in ("scores.jsonl", "x.jsonl"):
        with pytest.raises(ValueError, match="written by another run"):
            score(tmp_path, proxy=FITTED, out=tmp_path / out)
    assert trained == []
    assert {name: content for name, content in contents(tmp_path).items() if content} == before


def test_a_fitted_proxy_with_other_members_is_another_run(tmp_path):
    score(tmp_path, proxy=FITTED)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="another run"):
        score(tmp_path, proxy=FittedProxy(FITTED.members[::-1]))
    assert contents(tmp_path) == before


# --- several processes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [SETTINGS, FITTED], ids=["plain", "fitted"])
def test_two_processes_write_the_file_of_one(tmp_path, tmp_path_factory, trained, proxy):
    """Both are threads of this process; the shares' scores are not believed."""
    whole = (undisturbed(tmp_path_factory, proxy) / "scores.jsonl").read_bytes()
    count = len(trained)
    trained.clear()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    calls = itertools.repeat(0)
    with (
        pytest.MonkeyPatch.context() as patch,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        patch.setattr(hosts, "_CALLS", calls)
        patch.setattr(hosts, "_POLL_SECONDS", 0.02)
        both = [
            pool.submit(score, tmp_path, proxy=proxy, process=hosts.Process(i, 2, address), wait=30.0) for i in (1, 0)
        ]
        results = [one.result(60) for one in both]
    assert results[0] is None
    assert (tmp_path / "scores.jsonl").read_bytes() == whole
    assert len(trained) == count
    # Process 0 alone again, from the shares: nothing waits, nothing is trained, and scores of shares are not believed.
    trained.clear()
    for path in tmp_path.glob("*.1of2.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "score": 5.0}) + "\n" for row in rows))
    own = tmp_path / ("scores.jsonl" if proxy is SETTINGS else "scores.member1.jsonl")
    lines = own.read_text().splitlines(keepends=True)
    shared = {json.loads(line)["arch"] for line in own.with_name(own.stem + ".1of2.jsonl").read_text().splitlines()}
    own.write_text("".join(line for line in lines if json.loads(line)["arch"] not in shared))
    (tmp_path / "scores.jsonl").write_bytes(own.read_bytes() if proxy is SETTINGS else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hosts, "_CALLS", calls)
        score(tmp_path, proxy=proxy, process=hosts.Process(0, 2, address), wait=1.0)
    assert trained == []
    assert (tmp_path / "scores.jsonl").read_bytes() == whole
