"""Paths of the command line: what is no file is refused, what is read is not written, what is somebody else's stays."""

import fcntl
import json
import os

import pytest
import tiny
from helpers import ROOT

from eproxy_jax.cli import common, main

CONFIG = ["--config", f"{ROOT}/tests/tiny_config.py"]
SPACE = tiny.Tiny()


def run(*arguments):
    return main.main([str(a) for a in arguments])


def told(capsys):
    """The one line that an error is; what a file of values says stands before it."""
    *before, line = capsys.readouterr().err.splitlines()
    assert all(text.startswith("eproxy: ") for text in before)
    assert line.startswith("eproxy: error: ")
    return line


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    """Whatever is trained or compiled fails the test."""
    from eproxy_jax.dps import search
    from eproxy_jax.execution.evaluation import Evaluation

    def fail(*_, **__):
        raise AssertionError("a training began")

    monkeypatch.setattr(Evaluation, "run", fail)
    monkeypatch.setattr(search, "make_search", fail)


@pytest.fixture
def truth(tmp_path):
    """Twelve architectures with values, on one line without an end."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps([[SPACE.format(arch), float(i)] for i, arch in enumerate(SPACE.sample(12, 0))]))
    return path


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FLAGS = {
    "score": ["archs", "truth", "settings", "images", "out", "workdir"],
    "dps": ["truth", "labels", "bank", "images", "workdir"],
    "bank": ["archs", "settings", "images", "out", "workdir"],
    "plan": ["archs", "images"],
}
SPECIAL = ["/dev/zero", "/dev/full", "/dev/stdout", "fifo", "link"]


@pytest.mark.parametrize(("command", "flag"), [(c, f) for c, flags in FLAGS.items() for f in flags])
def test_devices_and_pipes_are_refused_for_every_path(tmp_path, capsys, truth, command, flag):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for special in [*SPECIAL, *([] if flag in ("workdir", "images") else ["folder"])]:
        more = ["--truth", truth] if command == "dps" and flag != "truth" else []
        assert run(command, *CONFIG, *more, f"--{flag}={tmp_path / special}") == 2
        line = told(capsys)
        assert f"--{flag}: " in line
        assert any(word in line for word in ("not a regular file", "not a folder", "a folder, where a file"))
    assert run(command, "--config", "/dev/zero", *(["--truth", truth] if command == "dps" else [])) == 2
    assert "--config: " in told(capsys)


@pytest.mark.parametrize("command", FLAGS)
def test_home_is_expanded_in_every_path(tmp_path, monkeypatch, command):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {"settings": ["--settings=~/a"], "compile_cache": ["--compile-cache=~/c"]}
    flags = [word for f in FLAGS[command] for word in names.get(f, [f"--{f}=~/{f}"])] + names["compile_cache"]
    arguments = main.parser().parse_args([command, "--config=~/c.py:small", *flags])
    common.check_paths(arguments)
    values = [v for value in vars(arguments).values() for v in (value if isinstance(value, list) else [value])]
    assert not any(isinstance(value, str) and "~" in value for value in values)
    assert arguments.config == f"{tmp_path}/c.py:small"


@pytest.mark.parametrize("special", ["/dev/zero", "fifo"])
def test_what_is_converted_is_a_file(tmp_path, capsys, special):
    os.mkfifo(tmp_path / "fifo")
    assert run("convert", *CONFIG, tmp_path / special) == 2
    assert "FILE: " in (line := told(capsys))
    assert "not a regular file" in line


def test_homes_that_do_not_exist_and_null_bytes_are_told(capsys):
    assert run("score", *CONFIG, "--out=~nobody-of-this-name/x") == 2
    assert "--out: '~nobody-of-this-name/x': no such home folder" in told(capsys)
    assert run("score", *CONFIG, "--out=\udcff.jsonl") == 2
    assert "--out: '\\udcff.jsonl': a name that is not UTF-8" in told(capsys)
    assert run("score", *CONFIG, "--archs=a\0b") == 2
    assert "--archs: " in told(capsys)
    assert run("score", *CONFIG, "--out", "x" * 300) == 2
    assert "too long" in told(capsys).lower()


@pytest.mark.parametrize("flag", ["--archs", "--truth", "--settings", "--images", "--config"])
def test_a_result_file_that_is_read_is_refused_and_left_as_it_is(tmp_path, capsys, truth, flag):
    (tmp_path / "settings.json").write_text(json.dumps({"lr": 1.0}))
    files = {"--settings": tmp_path / "settings.json", "--config": tmp_path / "c.py", "--images": tmp_path / "i.npy"}
    path = files.get(flag, truth)
    if flag == "--config":
        path.write_text("from eproxy_jax.cli.config import default_config as get_config\n")
    if flag == "--images":
        import numpy as np

        np.save(path, np.random.default_rng(0).normal(size=(20, 8, 8, 3)))
    before = contents(tmp_path)
    source = ["--config", path] if flag == "--config" else [*CONFIG, flag, path]
    lists = [] if flag == "--archs" else ["--all"] if flag == "--truth" else ["--sample", 12]
    assert run("score", *source, *lists, "--out", path, "--workdir", tmp_path) == 2
    assert f"would be written, but {flag} reads it" in told(capsys)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("out", "reads"),
    [("a.jsonl", "a.run.json"), ("a.jsonl", "a.png"), ("a.txt", "a.txt.run.json"), ("a.png", "a.png.png")],
)
def test_what_is_written_beside_the_result_file_is_not_read(tmp_path, capsys, truth, out, reads):
    truth.rename(tmp_path / reads)
    before = contents(tmp_path)
    assert run("score", *CONFIG, "--settings", tmp_path / reads, "--sample", 3, "--out", tmp_path / out) == 2
    capsys.readouterr()
    assert contents(tmp_path) == before


def test_one_line_of_anybody_is_left_as_it_is(tmp_path, capsys, truth):
    other = tmp_path / "mine.jsonl"
    for content in (truth.read_text(), "a note", '{"arch": "0-0-0", "val": 3}', "1", "0-1-2"):
        other.write_text(content)
        assert run("score", *CONFIG, "--sample", 3, "--out", other) == 2
        assert "left as it is" in (line := told(capsys)) or "choose another file" in line
        assert run("bank", *CONFIG, "--sample", 3, "--num-settings", 1, "--out", other) == 2
        assert "and left as it is" in told(capsys)
        assert other.read_text() == content


def test_a_figure_of_somebody_is_not_replaced(tmp_path, capsys):
    (tmp_path / "scores.png").write_bytes(b"\x89PNG\r\n\x1a\nmy photo")
    assert run("score", *CONFIG, "--sample", 3, "--workdir", tmp_path) == 2
    assert "scores.png: not the figure of scores.jsonl, and left as it is" in told(capsys)
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.png"]


# --- searches ------------------------------------------------------------------------------------------------


DPS = ["dps", *CONFIG, "--num-labels", "6", "--num-evaluations", "4"]
THEIRS = {
    "settings.json": ('{"members": []}', "not written by eproxy"),
    "search.json": ("[1, 2]", "not written by eproxy"),
    "search.png": ("photo", "not the figure of search.json"),
    "history.evolution.jsonl": ("diary", "not a history of a search"),
    "evaluation.jsonl": ('{"a": 1}\n', "not a line of a loss bank"),
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_search_replaces_no_file_of_somebody(tmp_path, capsys, truth, name):
    content, message = THEIRS[name]
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / name).write_text(content)
    assert run(*DPS, "--truth", truth, "--workdir", folder) == 2
    line = told(capsys)
    assert name in line
    assert message in line
    assert (folder / name).read_text() == content


def test_a_search_does_not_write_what_it_reads(tmp_path, capsys, truth):
    truth.rename(tmp_path / "settings.json")
    assert run(*DPS, "--truth", tmp_path / "settings.json", "--workdir", tmp_path) == 2
    assert "settings.json: would be written, but --truth reads it" in told(capsys)


def test_settings_of_another_search_are_not_replaced(tmp_path, capsys, truth):
    (tmp_path / "settings.json").write_text('{"members": [], "search": "other"}')
    assert run(*DPS, "--truth", truth, "--workdir", tmp_path) == 2
    assert "settings.json: of another search ('other'; this one is " in told(capsys)


def test_two_searches_in_one_folder(tmp_path, capsys, truth):
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert run(*DPS, "--truth", truth, "--workdir", tmp_path) == 2
    finally:
        os.close(handle)
    assert "another search is running in this folder: wait for it, or choose another --workdir" in told(capsys)


def test_a_bank_that_is_read_is_not_made(tmp_path, capsys, truth):
    (tmp_path / "b.jsonl").write_text('{"x": 1}')
    for name, message in (("absent.jsonl", "no loss bank at"), ("b.jsonl", "not a line of a loss bank")):
        assert run(*DPS, "--truth", truth, "--bank", tmp_path / name, "--workdir", tmp_path) == 2
        assert message in told(capsys)
    assert not (tmp_path / "absent.jsonl").exists()
    assert (tmp_path / "b.jsonl").read_text() == '{"x": 1}'


def test_more_settings_than_there_are_end_at_once(tmp_path, capsys):
    assert run("bank", *CONFIG, "--sample", 3, "--num-settings", 10**9, "--out", tmp_path / "b.jsonl") == 2
    assert "1000000000 distinct settings: the gene table has too few" in told(capsys)


@pytest.mark.parametrize("wait", ["0", "-1", "nan", "inf", "x"])
def test_waits_are_positive(wait, capsys):
    with pytest.raises(SystemExit):
        run("score", *CONFIG, "--wait", wait)
    assert "--wait" in capsys.readouterr().err
