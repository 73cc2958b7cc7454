"""Files of JSON lines: nothing of somebody else changes, nothing of ours is lost."""

import errno
import json
import os
import stat

import numpy as np
import pytest

from eproxy_jax import jsonlines
from eproxy_jax.runs import results as results_lib

ARCHS = ["a", "b", "c"]


def line(name, **change):
    row = {
        "arch": name, "score": -0.5, "loss": 0.5, "losses": [1.0, 0.5], "macs": 1, "params": 1, "effective_macs": 1,
        "status": "ok", "run": "this",
    }  # fmt: skip
    return json.dumps({**row, **change})


def headed(path, read_only=False):
    return jsonlines.HeadedLines(path, "loss bank", {"bank": "id", "n": 1}, lambda _: "another bank", read_only)


def scores(path):
    return results_lib.ResultsFile(path, "this", ARCHS)


OPENERS = {"header": headed, "scores": scores}
FOREIGN = {
    "one line without an end": b'[["|nor_conv_3x3~0|", 91.2]]',
    "an object without an end": b'{"arch": "a", "score": 0.5}',
    "text without an end": b"my only copy",
    "a short text": b"{",
    "text": b"first\nsecond\n",
    "JSON": b'{"x": 1}\n{"x": 2}\n',
    "a list": b"[1]\n",
    "binary": b"\x89PNG\r\n\x1a\n\x00\x00",
    "null bytes": b"\0" * 64,
    "deep nesting": b"[" * 100_000 + b"\n",
    "a huge number": b"1" * 5000 + b"\n",
    "an old line end": b'{"x": 1}\r{"y": 2}\r',
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("opener", OPENERS)
def test_files_of_others_are_refused_and_left_as_they_are(tmp_path, opener, name):
    path = tmp_path / "file"
    path.write_bytes(FOREIGN[name])
    before = path.stat().st_mtime_ns
    with pytest.raises(ValueError, match="choose another file"):
        OPENERS[opener](path)
    assert path.read_bytes() == FOREIGN[name]
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("special", ["/dev/full", "/dev/zero", "/dev/stdout", "folder", "fifo"])
def test_devices_pipes_and_folders_are_refused(tmp_path, opener, special):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match=r"not a regular file|a folder"):
        OPENERS[opener](tmp_path / special)
    (tmp_path / "link").symlink_to(tmp_path / special)
    with pytest.raises(ValueError, match=r"not a regular file|a folder"):
        OPENERS[opener](tmp_path / "link")


def test_any_end_of_a_file_of_ours_is_cut_to_whole_lines(tmp_path):
    content = "".join(line(arch) + "\n" for arch in ARCHS).encode()
    for size in range(12, len(content)):
        (tmp_path / "s").write_bytes(content[:size])
        file = scores(tmp_path / "s")
        file.close()
        lacks_its_end = content[size : size + 1] == b"\n"
        whole = size + 1 if lacks_its_end else content[:size].rfind(b"\n") + 1
        assert (tmp_path / "s").read_bytes() == content[:whole]
        assert len(file.rows) == content[:whole].count(b"\n")
        assert file.torn == (whole < size)
    header = json.dumps({"bank": "id", "n": 1})
    for size in range(9, len(header)):
        (tmp_path / "b").write_text(header[:size])
        headed(tmp_path / "b").close()
        assert (tmp_path / "b").read_text() == header + "\n"


def test_a_damaged_last_line_is_dropped_and_one_before_it_is_told(tmp_path):
    path = tmp_path / "s"
    path.write_text(f"{line('a')}\n{line('b')}\n\0\0\0\0\n")
    file = scores(path)
    file.close()
    assert file.torn
    assert [row["arch"] for row in file.rows] == ["a", "b"]
    path.write_text(f"{line('a')}\n\0\0\n{line('b')}\n")
    content = path.read_bytes()
    with pytest.raises(ValueError, match="s:2: not JSON"):
        scores(path)
    assert path.read_bytes() == content


def test_a_torn_end_is_not_cut_where_another_line_is_wrong(tmp_path):
    path = tmp_path / "s"
    path.write_text(f'{line("a", run="other")}\n{{"half')
    content = path.read_bytes()
    with pytest.raises(ValueError, match="written by another run"):
        scores(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"arch": 1}, {"arch": None}, {"losses": None}, {"losses": []}, {"losses": ["0.5"]}, {"losses": [[1.0]]},
        {"losses": {"0": 1}}, {"loss": "x"}, {"score": True}, {"macs": 1.5}, {"macs": 10**400}, {"macs": None},
        {"status": None}, {"run": 5}, {"run": None}, {"loss": 10**400}, {"params": -1},
    ],
)  # fmt: skip
def test_lines_of_wrong_types_are_told_with_their_place(tmp_path, change):
    path = tmp_path / "s.jsonl"
    path.write_text(f"{line('a')}\n{line('b', **change)}\n")
    field = next(iter(change))
    with pytest.raises(ValueError, match=rf"s\.jsonl:2: {field}: "):
        scores(path)
    with pytest.raises(ValueError, match=rf"s\.jsonl:2: {field}: "):
        results_lib.read_results(path, "this")
    path.write_text(f'{line("a")}\n{line("b")[:-1]}, "x": NaN}}\n')
    scores(path).close()


def test_wrong_lengths_other_runs_and_strangers_are_told(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(line("a") + "\n")
    with pytest.raises(ValueError, match=r"s\.jsonl:1: losses: 2 of them, where the run has 3 steps"):
        results_lib.ResultsFile(path, "this", ARCHS, 3)
    for content, message in (
        (line("z"), "lacks"),
        (f"{line('a')}\n{line('a')}", "a second time"),
        ("[]", "not a line"),
    ):
        path.write_text(content + "\n")
        with pytest.raises(ValueError, match=message):
            scores(path)


@pytest.mark.parametrize("opener", [headed])
def test_reading_makes_and_changes_nothing(tmp_path, opener):
    with pytest.raises(FileNotFoundError, match="no loss bank"):
        opener(tmp_path / "absent", read_only=True)
    assert not list(tmp_path.iterdir())
    opener(tmp_path / "b").close()
    with (tmp_path / "b").open("a") as file:
        file.write('{"half')
    (tmp_path / "b").chmod(0o444)
    content = (tmp_path / "b").read_bytes()
    writer = (tmp_path / "b").open("rb")
    bank = opener(tmp_path / "b", read_only=True)  # while another process has it
    assert bank.torn
    assert bank.rows == []
    bank.close()
    writer.close()
    assert (tmp_path / "b").read_bytes() == content
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty, where a loss bank is expected"):
        opener(tmp_path / "empty", read_only=True)


def test_sorting_keeps_links_mode_and_target(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "t.jsonl"
    target.write_text(f"{line('c')}\n{line('a')}\n")
    target.chmod(0o640)
    os.link(target, tmp_path / "hard")
    link = tmp_path / "out.jsonl"
    link.symlink_to(target)
    inode = target.stat().st_ino
    file = scores(link)
    file.append([line("b")])
    file.finish()
    file.append([])  # the lock and the place to append are still those of the file
    file.close()
    assert link.is_symlink()
    assert target.stat().st_ino == inode
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert (tmp_path / "hard").read_text() == target.read_text() == "".join(line(a) + "\n" for a in ARCHS)
    assert [p.name for p in target.parent.iterdir()] == ["t.jsonl"]


def test_a_rewriting_that_is_killed_anywhere_is_finished(tmp_path):
    old = f"{line('c')}\n{line('b', score=-0.7)}\n{line('a')}\n".encode()
    new = "".join(line(a) + "\n" for a in ARCHS).encode()
    path, draft = tmp_path / "s", tmp_path / ".s.rewriting"
    for written in range(0, len(new) + 1, 7):
        path.write_bytes(new[:written] + old[written:])
        draft.write_bytes(new)
        file = scores(path)
        file.close()
        assert path.read_bytes() == new
        assert file.known == set(ARCHS)
        assert not draft.exists()


def test_a_draft_replaces_nothing_but_its_own_file(tmp_path):
    path, draft = tmp_path / "s", tmp_path / ".s.rewriting"
    for foreign in (b"something else\n", line("a", run="other").encode() + b"\n"):
        path.write_bytes(foreign)
        draft.write_bytes(line("a").encode() + b"\n")
        with pytest.raises(ValueError, match="choose another file"):
            scores(path)
        assert path.read_bytes() == foreign


class Full:
    """A file on a disk with a little space left."""

    def __init__(self, file, space):
        self._file, self._space = file, space

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if len(data) > self._space:
            self._file.write(data[: self._space])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)


def test_a_full_disk_loses_no_line(tmp_path):
    path = tmp_path / "s"
    file = scores(path)
    file.append([line("a")])
    whole = path.read_bytes()
    inner, file._file = file._file, Full(file._file, 20)
    with pytest.raises(OSError, match="No space left on device.*the lines before stay"):
        file.append([line("b"), line("c")])
    assert path.read_bytes() == whole
    assert file.missing() == ["b", "c"]
    file._file = inner
    file.append([line("b")])
    file.close()
    assert [json.loads(text)["arch"] for text in path.read_text().splitlines()] == ["a", "b"]


def test_an_interrupted_write_is_taken_back(tmp_path, monkeypatch):
    file = scores(tmp_path / "s")
    file.append([line("a")])
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        file.append([line("b")])
    monkeypatch.undo()
    file.close()
    assert (tmp_path / "s").read_text() == line("a") + "\n"


def test_two_writers(tmp_path):
    file = headed(tmp_path / "b")
    with pytest.raises(ValueError, match="another process is writing it"):
        headed(tmp_path / "b")
    file.rewrite([{"x": 1}])
    with pytest.raises(ValueError, match="another process is writing it"):
        headed(tmp_path / "b")
    file.close()
    again = headed(tmp_path / "b")
    assert again.rows == [{"x": 1}]
    again.close()


def test_what_is_no_number_is_quoted_in_short():
    """Found by the long fuzz run."""
    with pytest.raises(ValueError, match="expected numbers of shape") as error:
        jsonlines.decode_array(["x" * 10_000], (1,), np.float32)
    assert len(str(error.value)) < 200


def test_plain_data_keeps_its_digits_and_what_is_not_finite_is_null():
    held = {"a": [0.1, np.nan, (np.inf, "x")], "b": {"c": -np.inf, "d": 3, "e": True, "f": None}}
    text = jsonlines.as_json(held)
    assert text.endswith("\n")
    assert json.loads(text) == {"a": [0.1, None, [None, "x"]], "b": {"c": None, "d": 3, "e": True, "f": None}}
