"""Whole files: what a killed writer leaves is removed by the next one, and a writer at work is left alone."""

import fcntl

from eproxy_jax import files


def test_drafts_that_killed_processes_have_left_are_removed(tmp_path):
    target = tmp_path / "settings.json"
    left, other = tmp_path / ".settings.json.abcdefgh.draft", tmp_path / ".other.json.abcdefgh.draft"
    at_work = tmp_path / ".settings.json.hgfedcba.draft"
    for path in (left, other, at_work):
        path.write_text("{")
    with at_work.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        files.write_atomically(target, "{}")
        assert sorted(tmp_path.iterdir()) == sorted([target, other, at_work])
    files.write_atomically(target, "[]")
    assert sorted(tmp_path.iterdir()) == sorted([target, other])
    assert target.read_text() == "[]"


def test_a_file_system_without_locks_keeps_all_drafts(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".a.b.draft").write_text("in use by another process, for all we know")
    files.write_atomically(tmp_path / "a", "text")
    assert {path.name for path in tmp_path.iterdir()} == {"a", ".a.b.draft"}
