"""``eproxy search`` that computes columns: dear ones of some, those of a fit, candidates of a large space."""

import csv
import io
import json

import pytest
import tiny
from helpers import ROOT

from eproxy_jax.cli import main
from eproxy_jax.spaces import base

SPACE = tiny.Tiny()
ARCHS = [SPACE.format(arch) for arch in SPACE.enumerate()]
TINY = ["search", "--config", f"{ROOT}/tests/tiny_config.py", "--no-plot"]
LARGE = ["search", "--config", f"{ROOT}/tests/large_config.py", "--no-plot"]


@pytest.fixture(autouse=True, scope="module")
def forget_the_large_space():
    """It reads what ``tiny`` reads: other tests would hear that two spaces know a notation."""
    yield
    base._REGISTRY.pop("tiny_large", None)


def value(arch):
    digits = SPACE.canonical(SPACE.parse(arch))
    return digits[0] + 2 * digits[1] - 0.3 * digits[2]


def run(*arguments):
    return main.main([str(a) for a in arguments])


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps([[arch, value(arch)] for arch in ARCHS]))
    return path


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("arch,hint\n" + "".join(f"{a},{value(a) + (i % 7)}\n" for i, a in enumerate(ARCHS)))
    return path


@pytest.fixture
def fit(tmp_path, own, truth):
    """A fit to the hint, of 12 labels."""
    flags = ["--columns", own, "--truth", truth, "--num-labels", 12, "--no-plot", "--workdir", tmp_path / "fit"]
    assert run("fit", "--config", f"{ROOT}/tests/tiny_config.py", *flags) == 0
    return tmp_path / "fit" / "settings.json"


def result(folder):
    return json.loads((folder / "result.json").read_text())


def lines(folder):
    return (folder / "search.jsonl").read_text().splitlines(keepends=True)


def error(capsys, *more):
    capsys.readouterr()
    assert run(*more) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "error:" in text]
    return line


def test_dear_columns_are_computed_for_some_and_a_search_resumes(tmp_path, capsys, truth):
    arguments = [*TINY, "--sample", 40, "--proxy", "drawn", "--then", "label_sum", "--truth", truth]
    whole = tmp_path / "whole"
    assert run(*arguments, "--num-evaluations", 14, "--then-share", 0.4, "--workdir", whole) == 0
    found = result(whole)
    assert 8 <= found["with_dear_columns"] <= 0.4 * found["candidates"] + 1
    assert found["queries"] == 14
    written = [json.loads(line)["arch"] for line in (whole / "dear.jsonl").read_text().splitlines()]
    supplied = [arch for line in lines(whole) for arch in json.loads(line).get("supply", [])]
    assert set(supplied) <= set(written)
    # Killed after any line, also one of dear columns, and after these were computed.
    first = next(i for i, line in enumerate(lines(whole)) if '"supply"' in line)
    part = tmp_path / "part"
    part.mkdir()
    for name in ("columns.jsonl", "columns.run.json"):
        (part / name).write_bytes((whole / name).read_bytes())
    for cut in (first, first + 1, first + 2):
        (part / "search.jsonl").write_text("".join(lines(whole)[:cut]))
        assert run(*arguments, "--num-evaluations", 14, "--then-share", 0.4, "--workdir", part) == 0
        assert lines(part) == lines(whole)
    text = error(capsys, *arguments, "--num-evaluations", 14, "--then-share", 0.3, "--workdir", part)
    assert "another search: then" in text


def test_a_fit_ranks_and_is_the_prior(tmp_path, capsys, own, truth, fit):
    arguments = [*TINY, "--columns", own, "--settings", fit]
    assert run(*arguments, "--workdir", tmp_path / "alone") == 0
    ranking = [row["arch"] for row in result(tmp_path / "alone")["ranking"]]
    rows = [json.loads(line) for line in (tmp_path / "fit" / "predictions.jsonl").read_text().splitlines()]
    best = sorted(rows, key=lambda row: -row["score"])[: len(ranking)]
    assert {SPACE.canonical(SPACE.parse(a)) for a in ranking} == {SPACE.canonical(SPACE.parse(r["arch"])) for r in best}
    assert run(*arguments, "--truth", truth, "--num-evaluations", 12, "--workdir", tmp_path / "played") == 0
    found = result(tmp_path / "played")
    assert found["strategy"]["prior"] == ["fitted"]
    assert found["best"]["value"] > 10
    assert (
        "needs 'own:hint'" in error(capsys, *TINY, "--sample", 9, "--settings", fit, "--workdir", tmp_path / "x")
        or True
    )


def test_a_large_space_is_searched_by_evolution(tmp_path, capsys):
    arguments = [*LARGE, "--proxy", "drawn", "--pool", 24, "--max-params", 150, "--seed", 1]
    alone = tmp_path / "alone"
    assert run(*arguments, "--workdir", alone) == 0
    found = result(alone)
    assert found["candidates"] == 24
    assert all(row["params"] <= 150 for row in found["ranking"])
    grown = json.loads(lines(alone)[1])["grow"]
    assert len(grown) == 12
    capsys.readouterr()
    mine = tmp_path / "mine"
    assert run(*arguments, "--ask", 12, "--workdir", mine) == 0
    asked = [row["arch"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert len({SPACE.canonical(SPACE.parse(arch)) for arch in asked}) == 12
    assert json.loads(lines(mine)[1]) == json.loads(lines(alone)[1])
    (tmp_path / "told.csv").write_text("arch,value\n" + "".join(f"{arch},{value(arch)}\n" for arch in asked))
    told = [*arguments, "--tell", tmp_path / "told.csv", "--ask", 3, "--workdir", mine]
    before = lines(mine)
    assert run(*told) == 0
    whole = lines(mine)
    assert [next(iter(json.loads(line))) for line in whole[len(before) :]] == ["tell", "grow", "ask", "ask", "ask"]
    (mine / "search.jsonl").write_text("".join(before))  # a kill before anything was told
    assert run(*told) == 0
    assert lines(mine) == whole
    assert result(mine)["candidates"] > 24


def test_a_table_says_what_is_searched_in_a_large_space(tmp_path, truth):
    flags = ["--truth", truth, "--num-evaluations", 6, "--workdir", tmp_path / "s"]
    assert run(*LARGE, *flags) == 0
    assert result(tmp_path / "s")["candidates"] == len({SPACE.canonical(SPACE.parse(arch)) for arch in ARCHS})


def test_bad_input_is_one_line(tmp_path, capsys, own, truth, fit):
    here = ["--workdir", tmp_path / "s"]
    sample = [*TINY, "--sample", 9, *here]
    assert "unknown proxy 'drown' (did you mean 'drawn'" in error(capsys, *sample, "--proxy", "macs", "--then", "drown")
    assert "nothing cheap says what can still win" in error(capsys, *sample, "--then", "eproxy")
    assert "have 'drawn' already" in error(capsys, *sample, "--proxy", "drawn", "--then", "drawn")
    assert "only --strategy process" in error(
        capsys, *sample, "--proxy", "drawn", "--then", "eproxy", "--strategy", "random"
    )
    assert "expected a share in (0, 1]" in _exits(capsys, *sample, "--then-share", 2)
    assert "--then-share is the largest share" in error(capsys, *sample, "--then-share", 0.5)
    assert "give one of them" in error(capsys, *TINY, "--columns", own, "--proxy", "drawn", *here)
    assert "--images: nothing is computed" in error(capsys, *sample, "--images", "one_over_f")
    assert "--pool is for spaces too large" in error(capsys, *sample, "--pool", 9)
    assert "name the --config" in error(capsys, "search", "--columns", own, "--then", "eproxy", *here)
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"lr": 1.0}))
    assert "not a fit of eproxy fit" in error(capsys, *TINY, "--columns", own, "--settings", plain, *here)
    other = json.loads(fit.read_text())
    other["made_with"]["space"] = "nasbench201"
    plain.write_text(json.dumps(other))
    assert "columns of other space" in error(capsys, *TINY, "--columns", own, "--settings", plain, *here)
    assert "also needs 'own:hint'" in error(capsys, *TINY, "--columns", truth, "--settings", fit, *here)
    assert not (tmp_path / "s" / "search.jsonl").exists()


def _exits(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err
