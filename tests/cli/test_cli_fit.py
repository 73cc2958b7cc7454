"""``eproxy fit``, ``eproxy suggest`` and ``eproxy score --settings`` with a fit: whole runs, files, flags that do not fit."""

import csv
import io
import json

import numpy as np
import pytest
import tiny
from helpers import ROOT

from eproxy_jax.cli import main

CONFIG = ["--config", f"{ROOT}/tests/tiny_config.py"]
SPACE = tiny.Tiny()


def run(*arguments):
    return main.main([str(a) for a in arguments])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with columns of 60 networks, a table of one's own, and measured values of all 125."""
    folder = tmp_path_factory.mktemp("made")
    archs = list(SPACE.enumerate())
    pairs = [[SPACE.format(a), SPACE.macs(SPACE.canonical(a)) / 1e4 + np.sin(7 * a[0])] for a in archs]
    (folder / "truth.json").write_text(json.dumps(pairs))
    (folder / "eight.json").write_text(json.dumps(pairs[:100:12]))
    (folder / "mine.csv").write_text("".join(f"{SPACE.format(a)},{a[1] + i / 500}\n" for i, a in enumerate(archs)))
    assert run("score", *CONFIG, "--proxy", "drawn,label_sum", "--all", "--workdir", folder) == 0
    return folder


def test_fit_then_score(made, tmp_path, capsys):
    flags = ["--columns", made / "columns.jsonl", made / "mine.csv", "--truth", made / "truth.json", "--seed", 3]
    assert run("fit", *flags, "--num-labels", 15, "--workdir", tmp_path) == 0
    captured = capsys.readouterr()
    printed = captured.out
    assert printed.index("left out") < printed.index("fitted (process)") < printed.index("best by labels:")
    table = {line.split("  ")[0]: line.split() for line in printed.splitlines() if line}
    assert set(table) >= {"left out", "fitted (process)", "fitted sizes", "macs", "params"}
    assert table["left out"][-1] == "15"
    record, settings = (json.loads((tmp_path / name).read_text()) for name in ("fit.json", "settings.json"))
    assert len(record["labels"]) == 15
    assert record["held_out"] == int(table["macs"][-1])
    assert record["quality"]["macs"]["count"] == record["held_out"]
    assert set(settings["columns"]) == {"macs", "params", "drawn", "label_sum", "mine"}
    predictions = {row["arch"]: row for row in rows(tmp_path / "predictions.jsonl")}
    assert set(predictions["3-0-0"]) == {"arch", "score", "std", "status", "fit"}
    pytest.importorskip("matplotlib")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".jsonl"}
    assert run("fit", *flags, "--num-labels", 15, "--workdir", tmp_path) == 0  # the same again
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert run("fit", *flags, "--num-labels", 14, "--workdir", tmp_path) == 2
    assert "of another fit" in capsys.readouterr().err.splitlines()[-1]

    score = ["score", *CONFIG, "--settings", tmp_path / "settings.json", "--columns", made / "mine.csv", "--top", 2]
    score += ["--sample", 12, "--workdir", tmp_path / "s"]
    assert run(*score, "--truth", made / "truth.json") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["rank", "score", "std"]
    assert [line.split()[0] for line in printed if line][3:6] == ["12", "Spearman", "fitted"]
    for row in rows(tmp_path / "s/scores.jsonl"):
        expected = predictions[SPACE.format(SPACE.canonical(SPACE.parse(row["arch"])))]
        assert row["score"] == pytest.approx(expected["score"], rel=1e-9)
        assert row["std"] == pytest.approx(expected["std"], rel=1e-9)
    assert {row["arch"] for row in rows(tmp_path / "s/columns.jsonl")} == {
        r["arch"] for r in rows(tmp_path / "s/scores.jsonl")
    }
    before = (tmp_path / "s/scores.jsonl").read_bytes()
    assert run(*score) == 0
    assert "resuming after 33 of 33" in capsys.readouterr().err
    assert (tmp_path / "s/scores.jsonl").read_bytes() == before


def test_labels_of_a_file(made, tmp_path, capsys):
    flags = ["--columns", made / "columns.jsonl", *CONFIG, "--labels", made / "eight.json", "--no-plot"]
    assert run("fit", *flags, "--workdir", tmp_path / "a") == 0
    printed = capsys.readouterr().out
    assert "left out" in printed
    assert "no held-out architectures" in printed
    for number, method in enumerate(("ridge", "best_column", "blend")):
        given = ["--truth", made / "truth.json", "--method", method, "--workdir", tmp_path / f"b{number}"]
        assert run("fit", *flags, *given) == 0
        assert f"fitted ({method})" in capsys.readouterr().out
    assert run("fit", *flags, "--prior", "macs,drawn", "--workdir", tmp_path / "c") == 0
    assert run("fit", *flags, "--prior", "none", "--leave-out", "dr*", "--workdir", tmp_path / "d") == 0
    assert "drawn" not in json.loads((tmp_path / "d/settings.json").read_text())["columns"]
    # A table that holds the measured values is one column short.
    both = "".join(f"{SPACE.format(a)},{a[0]},{i}\n" for i, a in enumerate(SPACE.enumerate()))
    (tmp_path / "both.csv").write_text("arch,one,acc\n" + both)
    given = ["--columns", tmp_path / "both.csv", "--truth", tmp_path / "both.csv", "--truth-column", "acc"]
    assert run("fit", *CONFIG, *given, "--workdir", tmp_path / "e", "--no-plot") == 0
    assert "both:acc" not in (tmp_path / "e/settings.json").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "proces"], "unknown method 'proces' (did you mean 'process'?)"),
        (["--prior", "rank_sun"], "unknown prior 'rank_sun' (did you mean 'rank_sum'?)"),
        (["--prior", "rank_sum"], "prior 'rank_sum' needs 'trainability'"),
        (["--method", "ridge", "--prior", "macs,dawn"], "'dawn'"),
        (["--method", "alpha"], "needs columns of the block 'losses'"),
        (["--method", "blend", "--prior", "none"], "the method 'blend' has no prior"),
        (["--num-labels", "2"], "labels: expected at least 3, got 2"),
        (["--num-labels", "999"], "999 asked for, but 105 architectures have both columns and a value"),
        (["--labels", "{made}/eight.json", "--num-labels", "4"], "--num-labels draws labels from --truth"),
        (["--leave-out", "draw"], "'draw' is to be left out, but no column has that name (did you mean 'drawn'?)"),
        (["--columns", "{made}/none.jsonl"], "none.jsonl"),
        (["--columns", "-"], "--columns: standard input has no record"),
        (["--columns", "{made}/mine.csv"], "name it by --space or --config"),
        (["--space", "nasbench201"], "belongs to space 'tiny', not 'nasbench201'"),
        (["--config.sizes.width=2"], "overrides need --config FILE"),
        ([*CONFIG, "--config.sizes.width=2"], "columns of other sizes: sizes.width (1, there 2)"),
        (["--truth-column", "x"], "no value column 'x'"),
    ],
)
def test_bad_fits_are_one_line(made, tmp_path, capsys, flags, message):
    given = ["--columns", made / "columns.jsonl", "--truth", made / "truth.json", "--workdir", tmp_path]
    assert run("fit", *given, *[flag.format(made=made) for flag in flags]) == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert all(text.startswith("eproxy: ") for text in before)
    assert line.startswith("eproxy: error: ")
    assert message in line
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size]


def test_files_that_do_not_fit(made, tmp_path, capsys):
    def error(*arguments):
        assert run(*arguments) == 2
        return capsys.readouterr().err.splitlines()[-1]

    columns = ["fit", "--columns", made / "columns.jsonl"]
    assert "give measured values by --truth FILE" in error(*columns)
    (tmp_path / "x.csv").write_text("0-0-0,1\n9-9-9,2\n")
    assert "x.csv:2" in error(*columns, "--truth", tmp_path / "x.csv")
    (tmp_path / "few.json").write_text(json.dumps([["0-0-0", 1], ["1-1-1", 2]]))
    assert "expected at least 3, got 2" in error(*columns, "--labels", tmp_path / "few.json")
    (tmp_path / "equal.json").write_text(json.dumps([[f"{i}-1-1", 2] for i in range(5)]))
    assert "labels: all 5 are 2" in error(*columns, "--labels", tmp_path / "equal.json")
    whole = [*columns, "--truth", made / "truth.json", "--workdir", tmp_path]
    (tmp_path / "settings.json").write_text("{}")
    assert "settings.json: not written by eproxy" in error(*whole)
    (tmp_path / "settings.json").unlink()
    (tmp_path / "predictions.jsonl").write_text("mine\n")
    assert "predictions.jsonl: not written by this command" in error(*whole)
    assert (tmp_path / "predictions.jsonl").read_text() == "mine\n"
    (tmp_path / "predictions.jsonl").unlink()
    assert run(*whole, "--no-plot") == 0
    fit = ["--settings", tmp_path / "settings.json", "--workdir", tmp_path / "s"]
    assert "a fit of columns, where settings are expected" in error("bank", *CONFIG, *fit[:2])
    assert "made with other sizes" in error("score", *CONFIG, "--config.sizes.width=2", *fit)
    assert "other weight seed" in error("score", *CONFIG, "--weight-seed", 1, *fit)
    assert "made with other images" in error("score", *CONFIG, "--images", "white_noise", *fit)
    assert "other num classes" in error("score", *CONFIG, "--num-classes", 7, *fit)
    assert "the settings are those of the fit" in error("score", *CONFIG, "--config.settings.lr=0.1", *fit)
    assert "--columns needs --settings" in error("score", *CONFIG, "--columns", made / "mine.csv")
    damaged = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "d.json").write_text(json.dumps({**damaged, "columns": {}}))
    assert "d.json: a saved fit: columns: nothing says" in error("score", *CONFIG, "--settings", tmp_path / "d.json")
    (tmp_path / "s").mkdir(exist_ok=True)
    (tmp_path / "s/scores.jsonl").write_text('{"arch": "0-0-0", "run": "1"}\n')
    assert "of another run" in error("score", *CONFIG, *fit)


def test_suggestions(made, tmp_path, capsys):
    flags = ["--columns", made / "columns.jsonl", "--num-labels", 6, "--seed", 2]
    assert run("suggest", *flags) == 0
    text = capsys.readouterr().out
    header, *found = csv.reader(io.StringIO(text))
    assert header == ["arch", "value"]
    archs = [SPACE.parse(arch) for arch, value in found if value == ""]
    assert len({SPACE.canonical(arch) for arch in archs}) == 6
    filled = "".join(f"{arch},{i}\n" for i, (arch, _) in enumerate(found))
    (tmp_path / "filled.csv").write_text("arch,value\n" + filled)
    assert run("fit", *CONFIG, *flags[:2], "--labels", tmp_path / "filled.csv", "--workdir", tmp_path, "--no-plot") == 0
    capsys.readouterr()
    assert run("suggest", *flags, "--truth", tmp_path / "filled.csv", "--json") == 0
    more = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not {row["arch"] for row in more} & {arch for arch, _ in found}
    assert all(row["value"] is None for row in more)
    top = ["--by", "top", "--settings", tmp_path / "settings.json"]
    assert run("suggest", *flags, *top) == 0
    assert not {line.split(",")[0] for line in capsys.readouterr().out.splitlines()} & {arch for arch, _ in found}
    assert run("score", *CONFIG, "--proxy", "macs,synflow", "--sample", 8, "--workdir", tmp_path, "--no-plot") == 0
    capsys.readouterr()
    assert run("suggest", "--columns", tmp_path / "columns.jsonl", *CONFIG, "--num-labels", 2, "--by", "top") == 0
    assert "make a poor fit" in capsys.readouterr().err
    assert run("suggest", *CONFIG, "--all", "--num-labels", 3) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    for bad, message in (
        (["--by", "tip"], "did you mean 'top'"),
        (["--by", "top"], "what is good needs a fit"),
        (["--num-labels", 9999], "9999 asked for"),
        (["--all"], "--all: the files of --columns say"),
        (["--keep", 2], "keep: expected a share"),
    ):
        assert run("suggest", *flags, *bad) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert run("suggest", *CONFIG) == 2
    assert "give columns by --columns FILE" in capsys.readouterr().err
