"""``eproxy score --proxy`` and ``eproxy proxies``: whole runs, tables, labels, flags that do not fit."""

import json

import numpy as np
import pytest
import tiny
from helpers import ROOT

import eproxy_jax as ep
from eproxy_jax.cli import main

TINY = ["score", "--config", f"{ROOT}/tests/tiny_config.py"]
SPACE = tiny.Tiny()
SETTINGS = {"num_steps": 2, "branches": [{"transform_channels": 8, "target_channels": 4, "barrier_kernel": 1}]}


def run(*arguments):
    return main.main([str(a) for a in arguments])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def truth(tmp_path):
    """Measured values that MACs alone rank."""
    path = tmp_path / "truth.json"
    path.write_text(json.dumps([[SPACE.format(arch), SPACE.macs(arch) / 1e3] for arch in SPACE.sample(9, 1)]))
    return path


def test_columns_tables_figure_and_resuming(tmp_path, capsys, truth):
    arguments = [*TINY, "--sample", 9, "--seed", 1, "--workdir", tmp_path, "--top", 3]
    assert run(*arguments, "--proxy", "drawn") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split()[1] == "drawn"
    assert "unchecked" in printed
    assert not (tmp_path / "columns.png").exists()
    assert run(*arguments, "--proxy", " macs, drawn,label_sum", "--truth", truth) == 0
    captured = capsys.readouterr()
    assert "resuming after 9 of 27 (networks x passes)" in captured.err
    table = {line.split("  ")[0]: line.split() for line in captured.out.splitlines() if line}
    assert "nDCG" in captured.out
    assert table["macs as written"][3:] == ["1.000", "1.000", "1.00", "1.000", "0.000", "9"]
    for name in ("macs", "drawn", "label_sum", "params as written"):
        assert -1 <= float(table[name][-6]) <= 1
    assert "labels random" in captured.out
    pytest.importorskip("matplotlib")
    assert (tmp_path / "columns.png").read_bytes().startswith(b"\x89PNG")
    lines = rows(tmp_path / "columns.jsonl")
    assert [line["arch"] for line in lines] == [SPACE.format(arch) for arch in SPACE.sample(9, 1)]
    assert set(lines[0]) == {
        "arch", "status", "params", "macs", "drawn", "label_sum", "macs_as_written", "params_as_written", "made_with",
        "run",
    }  # fmt: skip
    record = json.loads((tmp_path / "columns.run.json").read_text())
    assert record["num_images"] == 128  # whatever config.images.num says
    assert record["images"]["shape"] == [128, 8, 8, 3]  # and its size
    assert record["labels"].startswith("random")
    assert (record["finished"], record["num_classes"]) == (True, 10)
    assert set(record["seconds"]) == {"sizes", "drawn", "label_sum"}


def test_images_with_labels(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(150, 8, 8, 3)).astype(np.float32), rng.integers(0, 7, 150)
    np.savez(tmp_path / "d.npz", x=images, y=labels)
    arguments = [*TINY, "--sample", 4, "--proxy", "label_sum", "--images", tmp_path / "d.npz"]
    assert run(*arguments, "--workdir", tmp_path / "a") == 0
    drawn = ep.load_labelled(tmp_path / "d.npz", 128)
    for row in rows(tmp_path / "a" / "columns.jsonl"):
        assert row["label_sum"] == drawn.labels.sum() + SPACE.parse(row["arch"])[0]
    record = json.loads((tmp_path / "a" / "columns.run.json").read_text())
    assert record["num_classes"] == 7
    assert not record["labels"].startswith("random")
    capsys.readouterr()
    assert run(*arguments, "--workdir", tmp_path / "b", "--num-classes", 3) == 2
    assert "labels: expected 0 to 2 for 3 classes" in capsys.readouterr().err
    assert run(*arguments, "--workdir", tmp_path / "a", "--num-classes", 9) == 2
    assert "other num_classes (9, there 7)" in capsys.readouterr().err


def test_columns_of_settings_files(tmp_path):
    members = [{"settings": {**SETTINGS, "lr": lr}, "macs_weight": 0.2, "params_weight": 0.0} for lr in (0.5, 1.5)]
    (tmp_path / "two.json").write_text(json.dumps({"members": members}))
    (tmp_path / "one.json").write_text(json.dumps({**SETTINGS, "lr": 1.5}))
    proxy = f"eproxy:{tmp_path}/two.json,eproxy:{tmp_path}/one.json"
    assert run(*TINY, "--sample", 4, "--proxy", proxy, "--workdir", tmp_path) == 0
    for row in rows(tmp_path / "columns.jsonl"):
        names = [f"eproxy:{tmp_path}/{name}" for name in ("two.json#0", "two.json#1", "one.json")]
        assert set(row["made_with"]) == set(names)
        assert row[names[1]] == row[names[2]] != row[names[0]]
    archs = [row["arch"] for row in rows(tmp_path / "columns.jsonl")]
    settings = ep.ProxySettings.from_dict({**SETTINGS, "lr": 1.5})
    scores = ep.score(archs, SPACE, settings, ep.default_images("one_over_f", 128, 8)[:16]).score
    np.testing.assert_array_equal(scores, np.float32([row[names[2]] for row in rows(tmp_path / "columns.jsonl")]))


def test_columns_of_the_portfolio(tmp_path, monkeypatch):
    one = ep.ProxySettings.from_dict({**SETTINGS, "lr": 1.5})
    monkeypatch.setattr("eproxy_jax.columns.portfolio", lambda: {"portfolio#0": one})
    assert run(*TINY, "--sample", 4, "--proxy", "portfolio", "--workdir", tmp_path) == 0
    found = rows(tmp_path / "columns.jsonl")
    archs = [row["arch"] for row in found]
    scores = ep.score(archs, SPACE, one, ep.default_images("one_over_f", 128, 8)[:16]).score
    np.testing.assert_array_equal(scores, np.float32([row["eproxy:portfolio#0"] for row in found]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--proxy", "drown"], "unknown proxy 'drown' (did you mean 'drawn'?); known: cheap, all, rank_sum"),
        (["--proxy", "eproxi"], "did you mean 'eproxy'"),
        (["--proxy", ","], "no proxy given"),
        (["--proxy", "eproxy:nope.json"], "no file of settings at 'nope.json'"),
        (["--proxy", "eproxy:"], "a folder, where a file is expected"),
        (["--proxy", "drawn", "--settings", "x.json"], "--settings goes without --proxy: write --proxy eproxy:FILE"),
        (["--proxy", "drawn", "--config.settings.lr=0.5"], "settings.lr: no column of --proxy reads it: add eproxy"),
        (["--proxy", "eproxy", "--config.settings.alpha=0.5"], "columns stand alone: add macs to --proxy"),
        (["--proxy", "drawn", "--config.images.num=32"], "--proxy reads 128 images"),
        (["--num-classes", "5"], "--num-classes needs --proxy"),
        (["--proxy", "drawn", "--num-classes", "1"], "num_classes: expected at least 2"),
        (["--proxy", "trainability"], "proxy 'trainability', space tiny: "),
    ],
)
def test_bad_flags_are_one_line(tmp_path, monkeypatch, capsys, more, message):
    monkeypatch.chdir(tmp_path)
    assert run(*TINY, "--sample", 3, *more) == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert all(text.startswith("eproxy: ") for text in before)
    assert line.startswith("eproxy: error: ")
    assert message in line


def test_too_few_images_and_a_file_that_is_read(tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.ones((20, 8, 8, 3), np.float32))
    assert run(*TINY, "--proxy", "drawn", "--images", tmp_path / "few.npy", "--workdir", tmp_path) == 2
    assert "a batch needs 128 images, the file has 20" in capsys.readouterr().err
    (tmp_path / "s.json").write_text(json.dumps(SETTINGS))
    assert run(*TINY, "--proxy", f"eproxy:{tmp_path}/s.json", "--out", tmp_path / "s.json") == 2
    assert "would be written, but --proxy reads it" in capsys.readouterr().err


def test_the_proxies_are_listed(capsys):
    assert run("proxies") == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[:-2]]
    assert names == [*ep.proxies.names(), "eproxy", *ep.proxies.AGGREGATES]
    assert run("proxies", "--json") == 0
    listed = {row["proxy"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["naswot"]["needs"] == ["images"]  # its pass reads labels for the column beside it
    assert listed["epe_nas"]["needs"] == ["images", "labels"]
    assert "labels" not in listed["rank_sum"]["needs"]
    assert listed["naswot"]["sets"] == ["cheap", "all"]
    assert "Mellor" in listed["naswot"]["paper"]
    assert listed["rank_sum"]["computed_with"] == list(ep.proxies.AGGREGATES["rank_sum"])
    for name in names:
        assert run("proxies", name) == 0
        assert capsys.readouterr().out.startswith(f"{name}:")
    assert run("proxies", "jakov") == 2
    assert "did you mean 'jacov'" in capsys.readouterr().err
    assert run("proxies", "--config.x=1") == 2
