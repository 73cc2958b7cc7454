"""The command line: whole runs, resuming, bad input, every config."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from helpers import ROOT, slow_unless

from eproxy_jax.cli import main

SMOKE = ["score", "--config", f"{ROOT}/configs/nasbench201.py:smoke"]
# What is trained compiles in two seconds; test_every_smoke_variant_runs trains the real configurations.
QUICK = ["score", "--config", f"{ROOT}/tests/tiny_config.py"]
MICRO, MACRO = ([*SMOKE[:2], f"{ROOT}/configs/transnas_{space}.py:smoke"] for space in ("micro", "macro"))
TEXT = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"
GOOD_ROW = {
    "arch": TEXT, "score": -1.0, "loss": 1.0, "losses": [1.0], "macs": 1, "params": 1, "effective_macs": 1,
    "status": "ok", "run": "another-run",
}  # fmt: skip


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments):
    return main.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 12 architectures."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(*QUICK, "--sample", 12, "--seed", 1, "--workdir", folder) == 0
    return folder


def test_output_lines_record_and_figure(finished):
    lines = rows(finished / "scores.jsonl")
    space = tiny.Tiny()
    assert [line["arch"] for line in lines] == [space.format(arch) for arch in space.sample(12, 1)]
    for line in lines:
        assert set(GOOD_ROW) == set(line)
        assert line["status"] == "ok"
        assert len(line["losses"]) == 3
        assert line["score"] == pytest.approx(-line["loss"])
        assert line["params"] == space.params(space.parse(line["arch"]))
    record = json.loads((finished / "scores.run.json").read_text())
    assert record["run"] == lines[0]["run"]
    assert record["settings"]["num_steps"] == 3
    assert record["seconds"]["run"] > 0


def test_figure(finished):
    pytest.importorskip("matplotlib")
    assert (finished / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_resumes_from_any_prefix_to_the_same_file(finished, tmp_path, capsys):
    whole = (finished / "scores.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in (0, ends[0], ends[4] + 17, ends[-1] - 1, len(whole)):
        out = tmp_path / f"{cut}.jsonl"
        out.write_bytes(whole[:cut])
        assert run(*QUICK, "--sample", 12, "--seed", 1, "--out", out, "--workdir", tmp_path, "--no-plot") == 0
        assert out.read_bytes() == whole
    assert "dropped a half-written last line" in capsys.readouterr().err


@pytest.mark.slow
def test_survives_kill_and_resumes(tmp_path):
    """SIGKILL in the middle of writing, then the same command: the file equals the undisturbed one."""
    out = tmp_path / "scores.jsonl"
    command = [sys.executable, "-m", "eproxy_jax", *QUICK, "--sample", "120", "--seed", "1", "--out", str(out)]
    command += ["--workdir", str(tmp_path), "--no-plot", "--chunk-size", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (out.exists() and out.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert out.exists()
    assert 0 < out.read_bytes().count(b"\n") < 120
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert run(*QUICK, "--sample", 120, "--seed", 1, "--workdir", tmp_path / "undisturbed", "--no-plot") == 0
    assert out.read_bytes() == (tmp_path / "undisturbed" / "scores.jsonl").read_bytes()


def test_truth_prints_correlations_beside_macs_and_params(finished, tmp_path, capsys):
    truth = [[row["arch"], row["macs"] / 1e6] for row in rows(finished / "scores.jsonl")]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    arguments = [*QUICK, "--sample", 12, "--seed", 1, "--workdir", finished, "--truth", tmp_path / "truth.json"]
    assert run(*arguments, "--no-plot") == 0
    printed = capsys.readouterr().out
    table = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()}
    assert float(table["macs"][0]) == 1.0
    assert float(table["params"][0]) > 0.9
    assert -1 <= float(table["eproxy"][0]) <= 1
    assert "Spearman" in printed
    assert "Kendall" in printed
    assert "top-10 %" in printed
    assert "unchecked" not in printed


def test_settings_file_and_diverged_rows(tmp_path, capsys):
    settings = {"lr": 1e30, "branches": [{"transform_channels": 8, "target_channels": 4, "barrier_kernel": 1}]}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    (tmp_path / "archs.txt").write_text("# a comment\n\n3-0-2\n3-0-2\n")
    arguments = ["--archs", tmp_path / "archs.txt", "--settings", tmp_path / "settings.json", "--workdir", tmp_path]
    assert run(*QUICK, *arguments, "--no-plot") == 0
    (row,) = rows(tmp_path / "scores.jsonl")
    assert row["status"] == "diverged"
    assert row["score"] is row["loss"] is None
    captured = capsys.readouterr()
    assert "1 repeated lines" in captured.err
    assert "1 diverged" in captured.out
    assert captured.out.splitlines()[-1].startswith("unchecked: nothing says")  # there is no truth


# --- bad input -----------------------------------------------------------------------------------------------


def write(folder, name, content):
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


BAD = {
    "unknown space": (lambda f: ["score", "--space", "nasbench21"], "did you mean 'nasbench201'"),
    "no space": (lambda f: ["score"], "give either --space NAME or --config FILE"),
    "missing config": (lambda f: ["score", "--config", f / "nope.py"], "no configuration file"),
    "unknown variant": (lambda f: ["score", "--config", f"{ROOT}/configs/nasbench201.py:smol"], "known: paper, small"),
    "config without get_config": (lambda f: ["score", "--config", write(f, "c.py", "x = 1\n")], "get_config"),
    "unknown override": (lambda f: [*SMOKE, "--config.settings.lrr=1"], 'Did you mean "lr"'),
    "override of a wrong type": (lambda f: [*SMOKE, "--config.settings.lr=fast"], "--config.settings.lr: expected float such as 1.2, got 'fast'"),
    "override out of range": (lambda f: [*SMOKE, "--config.settings.lr=-1.0"], "settings.lr: expected a positive"),
    "override without config": (lambda f: ["score", "--space", "nasbench201", "--config.weight_seed=1"], "need --config"),
    "bad image size": (lambda f: [*SMOKE, "--config.images.size=10"], "divisible by 4"),
    "unknown images": (lambda f: [*SMOKE, "--images", "dead_leafs"], "did you mean 'dead_leaves'"),
    "missing archs": (lambda f: [*SMOKE, "--archs", f / "nope.txt"], "no file of architectures"),
    "empty archs": (lambda f: [*SMOKE, "--archs", write(f, "a.txt", "# nothing\n")], "no architectures in it"),
    "empty json": (lambda f: [*SMOKE, "--archs", write(f, "a.json", [])], "no architectures in it"),
    "bad line": (lambda f: [*SMOKE, "--archs", write(f, "a.txt", f"{TEXT}\n|oops~0|\n")], "a.txt:2: not a NAS-Bench-201"),
    "mixed spaces": (
        lambda f: [*SMOKE, "--archs", write(f, "a.txt", f"{TEXT}\n64-41414-1_11_111\n")],
        "a.txt:2: '64-41414-1_11_111' belongs to space 'transnas_micro'",
    ),
    "micro in a macro list": (
        lambda f: [*MACRO, "--archs", write(f, "a.txt", "64-2311-basic\n64-41414-1_11_111\n")],
        "a.txt:2: '64-41414-1_11_111' belongs to space 'transnas_micro', not 'transnas_macro': use --space transnas_micro",
    ),
    "macro in a micro list": (
        lambda f: [*MICRO, "--archs", write(f, "a.json", [["64-41414-1_11_111", 1.0], ["64-2311-basic", 2.0]])],
        "entry 2: '64-2311-basic' belongs to space 'transnas_macro', not 'transnas_micro': use --space transnas_macro",
    ),
    "half json": (lambda f: [*SMOKE, "--archs", write(f, "a.json", '[["x"')], "not JSON"),
    "csv of another space": (
        lambda f: [*SMOKE, "--archs", write(f, "a.csv", "arch,v\n64-41414-1_11_111,3\n")],
        "belong to space transnas_micro",
    ),
    "binary file": (lambda f: [*SMOKE, "--archs", _binary(f)], "not a text file"),
    "two sources": (lambda f: [*SMOKE, "--sample", 3, "--all"], "exclude one another"),
    "too many": (lambda f: [*SMOKE, "--sample", 99999], "choose a number from 1 to 15625"),
    "truth without values": (lambda f: [*SMOKE, "--truth", write(f, "t.txt", TEXT)], "expected one value"),
    "truth with columns": (
        lambda f: [*SMOKE, "--truth", write(f, "t.csv", f"arch,a,b\n{TEXT},1,2\n")],
        "columns: a, b; choose one with --truth-column",
    ),
    "truth of others": (lambda f: [*SMOKE, "--sample", 5, "--truth", write(f, "t.json", [[TEXT, 1.0]])], "need at least 3"),
    "truth without an archs file": (lambda f: [*SMOKE, "--lower-is-better"], "--lower-is-better needs --truth FILE"),
    "standard input twice": (lambda f: [*SMOKE, "--archs", "-", "--truth", "-"], "standard input can be read once"),
    "truth of two data sets": (
        lambda f: [*SMOKE, "--truth", write(f, "t.json", {"a": {TEXT: 1.0}, "b": {TEXT: 2.0}})],
        "holds several data sets: a, b; choose one with --dataset",
    ),
    "unknown data set": (
        lambda f: [*SMOKE, "--dataset", "c", "--truth", write(f, "t.json", {"a": {TEXT: 1.0}})],
        "no data set 'c'; it has a",
    ),
    "truth not finite": (lambda f: [*SMOKE, "--truth", write(f, "t.json", f'[["{TEXT}", NaN]]')], "found no number"),
    "settings not json": (lambda f: [*SMOKE, "--settings", write(f, "s.json", "{")], "not JSON"),
    "unknown setting": (lambda f: [*SMOKE, "--settings", write(f, "s.json", {"alfa": 1})], "did you mean 'alpha'"),
    "out not ours": (lambda f: [*SMOKE, "--out", write(f, "o.jsonl", '{"a": 1}\n')], "not a line of a score file of eproxy"),
    "out damaged": (lambda f: [*SMOKE, "--out", write(f, "o.jsonl", "{{{\n")], "o.jsonl:1: not JSON"),
    "out of another run": (
        lambda f: [*SMOKE, "--out", write(f, "o.jsonl", json.dumps(GOOD_ROW) + "\n")],
        "written by another run",
    ),
    "out is a folder": (lambda f: [*SMOKE, "--out", f], "a folder, where a file is expected"),
    "nan images": (lambda f: [*SMOKE, "--images", _nan_images(f)], "not finite in image"),
}  # fmt: skip


def _binary(folder):
    (folder / "a.txt").write_bytes(b"\xfd\xfe\x00\x01")
    return folder / "a.txt"


def _nan_images(folder):
    np.save(folder / "i.npy", np.full((20, 8, 8, 3), math.nan))
    return folder / "i.npy"


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    before = {}
    command = [str(a) for a in arguments(tmp_path)]
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert main.main(command) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("eproxy: error: ")
    assert message in line
    assert captured.out == ""
    for path, content in before.items():  # nothing already written is lost
        assert path.read_bytes() == content


def test_bad_flags_have_status_2(capsys):
    for command in (["score", "--spcae", "x"], ["score", "--sample", "0"], [], ["score", "--sample", "many"],
                    ["score", "--vmap-width", "wide"]):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main.main(command)
        assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_two_writers_of_one_file(finished, tmp_path, capsys):
    import fcntl

    out = tmp_path / "o.jsonl"
    with out.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run(*QUICK, "--sample", 3, "--out", out, "--workdir", tmp_path) == 2
    assert "another process is writing it" in capsys.readouterr().err


# --- configs and data ----------------------------------------------------------------------------------------


CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds(path):
    from eproxy_jax.cli import config

    space = {"nds": "nds_darts"}.get(path.stem, path.stem)  # one file for many spaces has a first one
    for variant in ("paper", "small", "smoke"):
        spec = config.build(config.load_config(f"{path}:{variant}"))
        assert spec.space.name == space
    plain = config.build(config.load_config(str(path)))
    default = config.build(config.default_config(space))
    assert dataclasses.replace(plain.settings, lr=default.settings.lr) == default.settings
    assert plain.settings.lr == (0.1 if path.stem == "mixer" else 1.2)
    assert plain.space == default.space


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_smoke_variant_runs(path, tmp_path):
    command = ["score", "--config", f"{path}:smoke", "--sample", 1, "--workdir", tmp_path, "--no-plot"]
    assert run(*command) == 0


@pytest.mark.parametrize(
    ("space", "archs", "truth", "column"),
    slow_unless(
        ["nasbench201"],
        [
            (
                "nasbench201",
                "nasbench201/cifar10valid.json",
                "nasbench201/test_accuracy_200ep.csv",
                "CIFAR10TestAccuracy200Epochs",
            ),
            ("nasbench201", "nasbench201/hw_cifar10.csv", "nasbench201/mini_nb201_12epochs.csv", "cifar10-val"),
            ("nasbench101", "nasbench101/nasbench1_20.json", "nasbench101/nasbench1_20.json", None),
            ("transnas_micro", "transnas/micro_jigsaw.json", "transnas/micro_class_scene.json", None),
            ("transnas_macro", "transnas/macro_jigsaw.json", "transnas/macro_class_scene.json", None),
        ],
    ),
)
def test_real_rows(data, tmp_path, capsys, space, archs, truth, column):
    arguments = ["--config", f"{ROOT}/configs/{space}.py:smoke", "--archs", data / archs, "--limit", 6, "--seed", 2]
    arguments += ["--truth", data / truth, *(["--truth-column", column] if column else [])]
    assert run("score", *arguments, "--workdir", tmp_path, "--no-plot") == 0
    assert len(rows(tmp_path / "scores.jsonl")) == 6
    assert "Spearman" in capsys.readouterr().out


def test_installed_command_needs_no_checkout(tmp_path):
    """``eproxy score --help`` from another directory, and loading every public name touches no device."""
    code = "import eproxy_jax as ep, jax; [getattr(ep, n) for n in ep.__all__]; from jax._src import xla_bridge"
    code += "; assert not xla_bridge.backends_are_initialized()"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    printed = subprocess.run(
        [sys.executable, "-m", "eproxy_jax", "score", "--help"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "--archs" in printed
