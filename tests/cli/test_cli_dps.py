"""``eproxy dps``, ``eproxy bank`` and scoring with what they find."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from helpers import ROOT

from eproxy_jax.cli import main

SPACE = tiny.Tiny()
TINY = ["--config", f"{ROOT}/tests/tiny_config.py"]
SEARCH = ["dps", *TINY, "--num-labels", "6", "--num-evaluations", "12", "--ensemble", "2"]


POOL = SPACE.sample(30, 0)


def run(*arguments):
    return main.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A file of 30 architectures and made-up values that MACs explain in part."""
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    noise = np.random.default_rng(0).normal(size=30)
    pairs = [[SPACE.format(a), float(SPACE.macs(a) / 1e6 + n)] for a, n in zip(POOL, noise, strict=True)]
    path.write_text(json.dumps(pairs))
    return path


@pytest.fixture(scope="module")
def searched(truth, tmp_path_factory):
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("searched")
    assert run(*SEARCH, "--truth", truth, "--num-eval", 10, "--random-search", "--workdir", folder) == 0
    return folder


def test_what_a_search_leaves(searched, truth):
    record = json.loads((searched / "search.json").read_text())
    assert record["evaluations"] == 12
    assert len(record["history"]["evolution"]) == len(record["history"]["random"]) == 12
    best = max(one["fitness"] for one in record["history"]["evolution"])
    assert record["fitness"] == best == record["history"]["evolution"][record["best"]]["fitness"]
    assert {"macs", "params", "macs, fitted", "plain", "evolution", "random"} <= set(record["evaluation"])
    assert 1 <= record["flops"]["executed"] / record["flops"]["needed"] < 2
    assert {"eproxy_jax", "jax"} <= set(record["versions"])
    labelled = {SPACE.canonical(SPACE.parse(arch)) for arch in record["problem"]["labelled"]}
    evaluated = json.loads((searched / "evaluation.jsonl").read_text().splitlines()[1])["archs"]
    assert not labelled & {SPACE.parse(arch) for arch in evaluated}
    assert len(json.loads((searched / "settings.json").read_text())["members"]) == 2


@pytest.mark.slow
def test_score_uses_what_was_found(searched, truth, tmp_path, capsys):
    command = ["score", *TINY, "--settings", searched / "settings.json", "--archs", truth, "--truth", truth]
    assert run(*command, "--workdir", tmp_path, "--no-plot") == 0
    assert "Spearman" in capsys.readouterr().out
    whole = (tmp_path / "scores.jsonl").read_bytes()
    scores = [json.loads(line)["score"] for line in whole.splitlines()]
    assert len(scores) == 30
    assert all(0 < score <= 1 for score in scores)
    # Again, after losing the end of the scores and of one member's file: the same files.
    member = tmp_path / "scores.member1.jsonl"
    (tmp_path / "scores.jsonl").write_bytes(whole[:1000])
    content = member.read_bytes()
    member.write_bytes(content[:-30])
    assert run(*command, "--workdir", tmp_path, "--no-plot") == 0
    assert (tmp_path / "scores.jsonl").read_bytes() == whole
    assert member.read_bytes() == content


def test_a_finished_search_is_not_run_again(searched, truth, capsys):
    record = json.loads((searched / "search.json").read_text())
    assert run(*SEARCH, "--truth", truth, "--num-eval", 10, "--random-search", "--workdir", searched, "--no-plot") == 0
    again = json.loads((searched / "search.json").read_text())
    assert again["history"] == record["history"]
    assert again["evaluation"] == record["evaluation"]
    assert run(*SEARCH, "--truth", truth, "--seed", 1, "--num-eval", 0, "--workdir", searched, "--no-plot") == 2
    assert "the history of another search" in capsys.readouterr().err


@pytest.mark.slow
def test_survives_kill_and_resumes(truth, tmp_path):
    """SIGKILL after the first saved evaluations, then the same command: the history of an undisturbed search."""
    command = [
        sys.executable,
        "-m",
        "eproxy_jax",
        *SEARCH,
        "--truth",
        str(truth),
        "--num-eval",
        "0",
        "--no-plot",
        "--num-evaluations",
        "600",
    ]
    # The same program is compiled in every process: once is enough.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **cache}
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, "--workdir", str(killed)], env=environment, **quiet)
    history = killed / "history.evolution.jsonl"
    deadline = time.monotonic() + 300
    while not (history.is_file() and history.read_bytes().count(b"\n") > 2) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "search.json").exists()
    for folder in (killed, undisturbed):
        subprocess.run([*command, "--workdir", str(folder)], env=environment, check=True, capture_output=True)
    histories = [json.loads((folder / "search.json").read_text())["history"] for folder in (killed, undisturbed)]
    assert histories[0] == histories[1]


def test_a_bank_and_a_search_that_starts_from_it(truth, searched, tmp_path, capsys):
    bank = tmp_path / "bank.jsonl"
    command = ["bank", *TINY, "--archs", truth, "--out", bank]
    assert run(*command, "--num-settings", 3) == 0
    assert "4 settings" in capsys.readouterr().out
    size = bank.stat().st_size
    assert run(*command, "--num-settings", 3) == 0  # nothing to do
    assert bank.stat().st_size == size
    assert run(*SEARCH, "--truth", truth, "--num-eval", 0, "--bank", bank, "--workdir", tmp_path, "--no-plot") == 0
    found = json.loads((searched / "settings.json").read_text())["members"]
    capsys.readouterr()
    new = ["--settings", searched / "settings.json", "--num-mutations", 1, "--num-settings", 0]
    assert run(*command, *new) == 0
    genomes = [json.loads(line).get("setting") for line in bank.read_text().splitlines()[2:]]
    known = {tuple(g) for g in genomes[:4]}
    # Settings of the search that the bank had not, and one mutation.
    assert len(genomes) == len({tuple(g) for g in genomes}) > len(known)
    assert len(genomes) <= 4 + len(found) + 1
    record = json.loads((tmp_path / "search.json").read_text())
    assert len(record["problem"]["warm"]) == 4


@pytest.mark.slow
def test_without_macs(truth, tmp_path):
    assert run(*SEARCH, "--truth", truth, "--num-eval", 0, "--no-macs", "--workdir", tmp_path, "--no-plot") == 0
    members = json.loads((tmp_path / "settings.json").read_text())["members"]
    assert all(m["macs_weight"] is None and m["settings"]["alpha"] == 0 for m in members)


def test_labels_of_disconnected_networks_are_left_out(truth, tmp_path, capsys):
    from eproxy_jax.cli import dps

    space, labels = tiny.Cut(), tmp_path / "labels.json"
    seen = [arch for arch in POOL if space.is_connected(arch)]
    dead = [arch for arch in POOL if not space.is_connected(arch)]

    def split(archs):
        labels.write_text(json.dumps([[space.format(arch), float(n)] for n, arch in enumerate(archs)]))
        flags = ["--space", "nasbench201", "--truth", str(truth), "--labels", str(labels)]
        return dps._split(main.parser().parse_args(["dps", *flags]), space)

    labelled, evaluation = split([*seen[:5], dead[0]])
    assert list(labelled) == seen[:5]
    assert set(dead) <= set(evaluation)  # ranked last, as everywhere
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of the 6 labelled architectures are disconnected" in line
    with pytest.raises(ValueError, match="needs at least 3 others, got 2"):
        split([*seen[:2], *dead])


BAD = {
    "no source": (["dps"], "give either --space NAME or --config FILE"),
    "labels and number": ([*SEARCH, "--labels", "x.json"], "--num-labels draws labels from --truth"),
    "too many labels": ([*SEARCH, "--num-labels", "30"], "leaves none to evaluate"),
    "no bank": ([*SEARCH, "--bank", "missing.jsonl"], "no loss bank at"),
    "budget": ([*SEARCH, "--max-seconds", "0"], "--max-seconds: expected a positive number"),
    "gene": ([*SEARCH, "--config.dps.genes.level=(0.0,)"], "genes.level: choice 0.0"),
    "blend": ([*SEARCH, "--config.dps.blend=rnk"], "did you mean 'rank'"),
    "tournament": ([*SEARCH, "--config.dps.tournament_size=9"], "larger than dps.population_size"),
    "plain not a choice": (
        ["bank", *TINY, "--sample", "3", "--config.settings.lr=0.123"],
        "the configuration's settings: not among the configuration's genes (dps.genes): settings.lr = 0.123",
    ),
    "found with other genes": (
        ["bank", *TINY, "--sample", "3", "--settings", "nasbench101/cifar10"],
        "nasbench101/cifar10: not among the configuration's genes (dps.genes): settings.branches = 3",
    ),
    "no settings": (["bank", *TINY, "--sample", "3", "--settings", "missing.json"], "missing.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_2(name, truth, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD[name]
    if arguments[0] == "dps":
        arguments = [*arguments, "--truth", truth]
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("eproxy: error: ")
    assert message in line


@pytest.mark.parametrize("command", ["dps", "bank"])
@pytest.mark.parametrize("own", ["config.targets = {'ones': len}", "config.optimizer = optax.sgd(0.1)"])
def test_own_targets_and_optimisers_are_not_ignored(command, own, truth, tmp_path, capsys):
    path = tmp_path / "own.py"
    path.write_text(
        "import optax\nfrom eproxy_jax.cli import config as eproxy_config\n\n\ndef get_config():\n"
        f"    config = eproxy_config.default_config()\n    {own}\n    return config\n"
    )
    which = ["--truth", truth] if command == "dps" else ["--sample", 3]
    assert run(command, "--config", path, *which, "--workdir", tmp_path) == 2
    assert f"own.py: eproxy {command} tries built-in features with SGD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"members": [{"settings": {"lrr": 1}}]}', "did you mean 'lr'"),
        ('{"members": []}', "at least one"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_bad_settings_files(content, message, tmp_path, capsys):
    (tmp_path / "s.json").write_text(content)
    assert run("score", *TINY, "--settings", tmp_path / "s.json", "--sample", 2, "--workdir", tmp_path) == 2
    assert message in capsys.readouterr().err


def test_a_search_ends_with_a_fit_to_its_members_and_other_columns(searched, truth, tmp_path, capsys):
    """What it saves ranks other architectures, by exactly the columns that it needs."""
    again = [*SEARCH, "--truth", truth, "--num-eval", 10, "--random-search", "--workdir", searched, "--no-plot"]
    assert run(*again, "--proxy", "drawn,label_sum") == 0
    printed = capsys.readouterr().out
    assert printed.index("left out") < printed.index("fitted (process)")
    saved = json.loads((searched / "fit" / "settings.json").read_text())
    members = [name for name, need in saved["columns"].items() if "genome" in need]
    assert len(members) == 2
    assert set(saved["columns"]) - set(members) == {"macs", "params", "drawn", "label_sum"}
    others = ["score", *TINY, "--settings", searched / "fit" / "settings.json", "--all", "--workdir", tmp_path]
    assert run(*others, "--no-plot") == 0
    found = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(found) == SPACE.num_archs
    expected = {
        row["arch"]: row["score"]
        for row in map(json.loads, (searched / "fit" / "predictions.jsonl").read_text().splitlines())
    }
    by_arch = {row["arch"]: row["score"] for row in found}
    np.testing.assert_allclose([by_arch[arch] for arch in expected], list(expected.values()), rtol=1e-4, atol=1e-4)


def test_a_search_without_evaluation_fits_among_drawn_architectures(searched, truth, tmp_path, capsys):
    del searched
    flags = ["--truth", truth, "--num-eval", 0, "--workdir", tmp_path, "--no-plot", "--proxy", "drawn"]
    assert run(*SEARCH, *flags) == 0
    assert "fitted (process)" not in capsys.readouterr().out
    assert len((tmp_path / "fit" / "predictions.jsonl").read_text().splitlines()) > 50
    assert run(*SEARCH, *flags[:-1], "drwn") == 2
    assert "drwn" in capsys.readouterr().err
