"""``eproxy search``: by proxy alone, against a table, with a person's trainings over days; kills, locks, bad input."""

import csv
import fcntl
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny
from helpers import ROOT

from eproxy_jax.cli import main

SPACE = tiny.Tiny()
ARCHS = [SPACE.format(arch) for arch in SPACE.enumerate()]
FUNCTIONS = {SPACE.canonical(arch) for arch in SPACE.enumerate()}
TINY = ["search", "--config", f"{ROOT}/tests/tiny_config.py"]


def value(arch):
    digits = SPACE.canonical(SPACE.parse(arch))
    return digits[0] + 2 * digits[1] - 0.3 * digits[2]


def run(*arguments):
    return main.main([str(a) for a in arguments])


@pytest.fixture
def columns(tmp_path):
    """Columns of one's own: one is a hint, one a latency."""
    rng = np.random.default_rng(0)
    path = tmp_path / "own.csv"
    rows = [(a, value(SPACE.format(SPACE.canonical(SPACE.parse(a)))) + rng.normal(), int(a[0])) for a in ARCHS]
    path.write_text("arch,hint,latency\n" + "".join(f"{a},{x},{y}\n" for a, x, y in rows))
    return path


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps([[arch, value(arch)] for arch in ARCHS]))
    return path


def result(folder):
    return json.loads((folder / "result.json").read_text())


def asked(text):
    return [row["arch"] for row in csv.DictReader(io.StringIO(text))]


def test_by_proxy_alone(tmp_path, capsys, columns):
    out = tmp_path / "s"
    assert run(*TINY, "--columns", columns, "--max-macs", 150_000, "--top", 3, "--workdir", out) == 0
    captured = capsys.readouterr()
    assert "unchecked" in captured.out
    assert "ranked by proxy alone" in captured.out
    found = result(out)
    assert found["best_is"] == "ranked by proxy alone"
    assert found["queries"] == 0
    assert len(found["ranking"]) == 3
    assert found["best"] == found["ranking"][0]
    macs = [SPACE.full_sizes(SPACE.parse(row["arch"]))[0] for row in found["ranking"]]
    assert [row["macs"] for row in found["ranking"]] == macs
    assert macs[0] == max(m for f in FUNCTIONS if (m := SPACE.full_sizes(f)[0]) <= 150_000)
    assert not (out / "result.png").exists()


def test_against_a_table_and_resuming(tmp_path, capsys, columns, truth):
    arguments = [*TINY, "--columns", columns, "--truth", truth, "--seed", 1]
    assert run(*arguments, "--num-evaluations", 30, "--workdir", tmp_path / "a") == 0
    found = result(tmp_path / "a")
    assert found["queries"] == 30
    assert found["best"]["value"] == max(map(value, ARCHS)) == found["history"][-1]["best"]
    assert found["top"][0] == found["best"]
    assert [row["value"] for row in found["history"]] == [value(row["arch"]) for row in found["history"]]
    pytest.importorskip("matplotlib")
    assert (tmp_path / "a" / "result.png").exists()
    for count in (12, 30):
        assert run(*arguments, "--num-evaluations", count, "--workdir", tmp_path / "b") == 0
    assert (tmp_path / "b" / "search.jsonl").read_text() == (tmp_path / "a" / "search.jsonl").read_text()
    # A kill between ask and tell: the file ends with an ask, perhaps a torn one.
    lines = (tmp_path / "a" / "search.jsonl").read_text().splitlines(keepends=True)
    for cut, torn in ((24, ""), (25, '{"tel')):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "search.jsonl").write_text("".join(lines[:cut]) + torn)
        assert run(*arguments, "--num-evaluations", 30, "--workdir", folder, "--no-plot") == 0
        assert (folder / "search.jsonl").read_text() == "".join(lines)
    capsys.readouterr()
    assert run(*arguments, "--num-evaluations", 30, "--workdir", tmp_path / "a", "--max-macs", 1e5) == 2
    assert "another search: constraints" in capsys.readouterr().err


def test_the_table_is_no_evidence(tmp_path, columns):
    """A file that holds columns and values: the values are not searched by."""
    with_values = tmp_path / "both.csv"
    lines = columns.read_text().splitlines()
    with_values.write_text("\n".join([lines[0] + ",acc", *(f"{s},{value(s.split(',')[0])}" for s in lines[1:])]))
    arguments = ["--truth", with_values, "--truth-column", "acc", "--num-evaluations", 3, "--no-plot"]
    assert run(*TINY, "--columns", with_values, *arguments, "--workdir", tmp_path / "s", "--max", "both:hint=9") == 0
    assert run(*TINY, "--columns", with_values, *arguments, "--workdir", tmp_path / "t", "--max", "both:acc=9") == 2


def test_ask_and_tell_over_days(tmp_path, capsys, columns):
    arguments = [*TINY, "--columns", columns, "--workdir", tmp_path / "mine"]
    assert run(*arguments, "--ask", 4) == 0
    four = asked(capsys.readouterr().out)
    assert len(set(four)) == 4
    assert result(tmp_path / "mine")["pending"] == four
    # Two are ready, one failed, one still trains. The file grows, and is told again.
    told = tmp_path / "told.csv"
    told.write_text(f"arch,value\n{four[0]},0.5\n{four[1]},0.7\n{four[2]},nan\n{four[3]},\n")
    assert run(*arguments, "--tell", told, "--ask", 2) == 0
    captured = capsys.readouterr()
    assert "3 values told" in captured.err
    two = asked(captured.out)
    assert not set(two) & set(four)
    found = result(tmp_path / "mine")
    assert (found["failed"], found["pending"]) == ([four[2]], [four[3], *two])
    assert (found["best"]["arch"], found["best"]["value"]) == (four[1], 0.7)
    assert set(found["best"]) == {"arch", "value", "macs", "params"}
    told.write_text(told.read_text() + f"{two[0]},0.9\n{four[1]},0.9\n")
    assert run(*arguments, "--tell", told) == 0
    captured = capsys.readouterr()
    assert "2 values told; 3 were told before" in captured.err
    assert "measured:" in captured.out
    history = {row["arch"]: row["value"] for row in result(tmp_path / "mine")["history"]}
    assert history[four[1]] == pytest.approx(0.8)
    assert history[four[2]] is None
    assert result(tmp_path / "mine")["best"]["arch"] == two[0]


def test_results_in_other_forms(tmp_path, capsys, columns):
    """Values behind twenty empty rows; a table without a header; JSON lines."""
    arguments = [*TINY, "--columns", columns, "--workdir", tmp_path / "mine", "--no-plot"]
    assert run(*arguments, "--ask", 24) == 0
    printed = capsys.readouterr().out
    archs = asked(printed)
    (tmp_path / "late.csv").write_text(printed.removesuffix("\n") + "0.5\n")
    assert run(*arguments, "--tell", tmp_path / "late.csv") == 0
    (tmp_path / "plain.txt").write_text(f"{archs[0]} 0.25\n{archs[1]} failed\n{archs[2]} nan\n")
    assert run(*arguments, "--tell", tmp_path / "plain.txt") == 0
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"arch": a, "acc": 0.1}) + "\n" for a in archs[3:5]))
    assert run(*arguments, "--tell", tmp_path / "rows.jsonl") == 0
    found = result(tmp_path / "mine")
    assert {row["arch"]: row["value"] for row in found["history"]} == {
        archs[0]: 0.25, archs[1]: None, archs[2]: None, archs[3]: 0.1, archs[4]: 0.1, archs[-1]: 0.5,
    }  # fmt: skip


def test_a_front_and_lower_is_better(tmp_path, capsys, columns, truth):
    arguments = [*TINY, "--columns", columns, "--truth", truth, "--num-evaluations", 40]
    objectives = ["--minimize", "own:latency", "--min", "own:latency=1"]
    assert run(*arguments, *objectives, "--workdir", tmp_path / "f") == 0
    assert "front:" in capsys.readouterr().out
    front = result(tmp_path / "f")["front"]
    assert [row["own:latency"] for row in front] == [4, 3, 2, 1]
    assert [row["value"] for row in front] == sorted((row["value"] for row in front), reverse=True)
    assert run(*arguments, "--lower-is-better", "--workdir", tmp_path / "l", "--no-plot") == 0
    found = result(tmp_path / "l")
    assert found["best"]["value"] == min(row["value"] for row in found["history"])
    assert found["best"]["value"] == 0


def test_a_whole_space_by_evolution(tmp_path, truth):
    arguments = ["--strategy", "evolution", "--truth", truth, "--num-evaluations", 25, "--max-params", 120]
    assert run(*TINY, *arguments, "--workdir", tmp_path / "s", "--no-plot") == 0
    found = result(tmp_path / "s")
    assert (found["candidates"], found["queries"]) == (None, 25)
    assert all(SPACE.params(SPACE.canonical(SPACE.parse(row["arch"]))) <= 120 for row in found["history"])


def test_bad_input_is_one_line(tmp_path, capsys, columns, truth):
    arguments = [*TINY, "--columns", columns, "--workdir", tmp_path / "s"]

    def error(*more):
        assert run(*more) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if "error:" in text]
        return line

    assert "macs <= 5 excludes all of 105 candidates; the closest is" in error(*arguments, "--max-macs", 5)
    assert "unknown column 'own:latenci' (did you mean 'own:latency'" in error(*arguments, "--max", "own:latenci=3")
    assert "--minimize: unknown column 'x'" in error(*arguments, "--minimize", "x")
    assert "unknown strategy 'x'" in error(*arguments, "--strategy", "x")
    assert "leave --ask and --tell out" in error(*arguments, "--truth", truth, "--ask", 2)
    assert "--num-evaluations counts" in error(*arguments, "--num-evaluations", 3)
    assert "give columns by --columns" in error(*TINY)
    assert "leave it out" in error(*arguments, "--all")
    assert run(*arguments, "--ask", 2) == 0
    two = asked(capsys.readouterr().out)
    stranger = next(a for a in ARCHS if SPACE.canonical(SPACE.parse(a)) not in map(SPACE.parse, two))
    (tmp_path / "told.csv").write_text(f"arch,value\n{two[0]},1\n{stranger},1\n")
    line = error(*arguments, "--tell", tmp_path / "told.csv")
    assert f"1 of 2 architectures were never asked for: '{stranger}'" in line
    (tmp_path / "none.csv").write_text(f"arch,value\n{two[0]},\n{two[1]},\n")
    assert "no architecture has a value yet" in error(*arguments, "--tell", tmp_path / "none.csv")
    (tmp_path / "none.csv").write_text(f"arch,value\n{two[0]},soon\n")
    assert "none.csv:2: could not convert" in error(*arguments, "--tell", tmp_path / "none.csv")
    (tmp_path / "two.csv").write_text(f"arch,a,b\n{two[0]},1,2\n{two[1]},1,3\n")
    assert "choose one with --truth-column" in error(*arguments, "--tell", tmp_path / "two.csv")
    steps = tmp_path / "s" / "search.jsonl"
    before = steps.read_text()
    with steps.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert "another process is writing it" in error(*arguments, "--ask", 1)
    steps.write_text(before + json.dumps({"ask": [two[0]]}) + "\n")
    assert f"{steps}:3: an architecture is asked for twice" in error(*arguments, "--ask", 1)
    other = tmp_path / "other"
    other.mkdir()
    (other / "result.json").write_text("{}")
    assert "not a result of eproxy search, and left as it is" in error(*TINY, "--columns", columns, "--workdir", other)


@pytest.mark.slow
def test_a_killed_search_resumes(tmp_path, columns, truth):
    arguments = [*TINY, "--columns", columns, "--truth", truth, "--no-plot", "--num-evaluations", 40]
    command = [sys.executable, "-m", "eproxy_jax", *map(str, arguments), "--workdir", str(tmp_path / "k")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    steps = tmp_path / "k" / "search.jsonl"
    while child.poll() is None:
        if steps.exists() and steps.read_bytes().count(b"\n") > 20:
            child.send_signal(signal.SIGKILL)
            child.wait()
    assert run(*arguments, "--workdir", tmp_path / "k") == 0
    assert run(*arguments, "--workdir", tmp_path / "whole") == 0
    assert steps.read_text() == (tmp_path / "whole" / "search.jsonl").read_text()
