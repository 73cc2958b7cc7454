"""The files of a run: names that never collide, and files of others that stay."""

import json
import warnings

import pytest

from eproxy_jax.dps.fitted import FittedProxy, Member
from eproxy_jax.runs import hosts, outputs, resumable
from eproxy_jax.types import ProxySettings

FITTED = FittedProxy((Member(ProxySettings(), 0.1), Member(ProxySettings(lr=0.5), 0.2)))


@pytest.mark.parametrize("proxy", [ProxySettings(), FITTED], ids=["plain", "fitted"])
def test_no_two_files_of_one_or_of_two_runs_have_one_name(tmp_path, proxy):
    outs = ["a.jsonl", "a.txt", "a.png", "a.json", "a.run.json", "b", ".jsonl", "a.b.jsonl", "a.b.c"]
    found = []
    for name in outs:
        out = tmp_path / name
        names = [*resumable.written_files(out, proxy, hosts.Process(0, 3)), outputs.figure_path(out)]
        assert len(set(names)) == len(names)
        found += names
    shared = {path.name for path in found if found.count(path) > 1}
    assert shared == {
        "a.run.json",
        "a.png",
    }  # result files that are named as files of others: refused when they are met


def test_a_file_that_is_read_is_not_written(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a.jsonl")
    for other in (tmp_path / "a.jsonl", tmp_path / "link", tmp_path / "x" / ".." / "a.jsonl"):
        with pytest.raises(ValueError, match=r"a\.jsonl: would be written, but --archs reads it"):
            outputs.check_distinct([tmp_path / "b", tmp_path / "a.jsonl"], {other: "--archs"})
    with pytest.raises(ValueError, match="--truth"):
        outputs.check_distinct([tmp_path / "new"], {tmp_path / "new": "--truth"})
    outputs.check_distinct([tmp_path / "b"], {tmp_path / "a.jsonl": "--archs"})
    with pytest.raises(OSError, match="too long"):
        outputs.check_distinct([tmp_path / ("x" * 300)], {})
    with pytest.raises(ValueError, match="null byte"):
        outputs.check_distinct([tmp_path / "x\0y"], {})


@pytest.mark.parametrize("content", ['{"run": "a", "secon', "", "garbage", b"\xff\xfe\0", "[" * 100_000, "1" * 5000])
def test_a_damaged_record_is_set_aside_with_a_warning(tmp_path, content):
    path = tmp_path / "s.run.json"
    content = content if isinstance(content, bytes) else content.encode()
    for number in range(2):
        path.write_bytes(content)
        with pytest.warns(RuntimeWarning, match=r"s\.run\.json: not a readable record.*kept as"):
            assert outputs.read_record(path) is None
        assert (tmp_path / f"s.run.json.damaged{number or ''}").read_bytes() == content
    assert not path.exists()


@pytest.mark.parametrize("content", ['{"my": "data"}', "[1, 2]", "null", "5"])
def test_a_record_of_others_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "s.run.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a record of eproxy, and left as it is"):
        outputs.read_record(path)
    with pytest.raises(ValueError, match="not written by eproxy, and left as it is"):
        outputs.check_marked(path, "search", "id")
    assert path.read_text() == content


def test_the_record_of_another_run_is_refused(tmp_path):
    out = tmp_path / "a.jsonl"
    outputs.check_record(None, out, "this", False)
    outputs.check_record({"run": "this"}, out, "this", True)
    stopped = {"run": "other", "finished": False, "out": "a.jsonl"}
    outputs.check_record(stopped, out, "this", False)  # stopped before its first line: nothing is lost
    for record in ({**stopped, "finished": True}, {**stopped, "out": "a"}, {"run": ["x"]}):
        with pytest.raises(ValueError, match=r"a\.run\.json: the record of another run"):
            outputs.check_record(record, out, "this", False)
    with pytest.raises(ValueError, match="the record of another run"):
        outputs.check_record(stopped, out, "this", True)


def test_marks(tmp_path):
    path = tmp_path / "settings.json"
    outputs.check_marked(path, "search", "id")
    path.write_text('{"members": [], "search": "id"}')
    outputs.check_marked(path, "search", "id")
    with pytest.raises(ValueError, match="of another search"):
        outputs.check_marked(path, "search", "new")
    path.write_text('{"mem')
    with pytest.warns(RuntimeWarning, match="kept as settings.json.damaged"):
        outputs.check_marked(path, "search", "id")


def test_figures_know_what_they_show(tmp_path):
    figure = pytest.importorskip("matplotlib.figure")
    path, source = tmp_path / "a.png", tmp_path / "ä.jsonl"
    outputs.check_figure(path, source)

    def draw(file, texts):
        figure.Figure(figsize=(1, 1)).savefig(file, format="png", metadata=texts)

    outputs.write_figure(path, source, draw)
    outputs.check_figure(path, source)
    with pytest.raises(ValueError, match="not the figure of b.jsonl"):
        outputs.check_figure(path, tmp_path / "b.jsonl")
    for foreign in (b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, b"photo"):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="left as it is"):
            outputs.check_figure(path, source)
        assert path.read_bytes() == foreign
    figure.Figure(figsize=(1, 1)).savefig(path)
    with pytest.raises(ValueError, match="left as it is"):
        outputs.check_figure(path, source)


def test_differences_name_fields():
    own = {"seed": 0, "versions": {"jax": "1"}, "sizes": {"width": 2}}
    assert outputs.differences(own, {**own, "more": 1}) == []
    assert outputs.differences(own, {"seed": 1, "versions": {"jax": "2"}, "sizes": {"width": 2}}) == [
        "seed (0, there 1)",
        "versions.jax ('1', there '2')",
    ]
    assert outputs.differences(own, {}) != []


def test_drafts_leave_no_trace(tmp_path):
    from eproxy_jax import files

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.write_atomically(tmp_path / "r.json", json.dumps({"run": "x"}))
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert outputs.read_record(tmp_path / "r.json") == {"run": "x"}
