"""Measured values: the mean of runs, looked up as written and by function, in the right direction."""

import json
import math

import numpy as np
import pytest
from helpers import SPACES, dag_cell, real_input

from eproxy_jax import spaces
from eproxy_jax.cli import common, main
from eproxy_jax.runs import truth as truth_lib
from eproxy_jax.runs.archs import read_archs
from eproxy_jax.runs.truth import match, read_truth

NB201 = spaces.get("nasbench201")
NB101 = spaces.get("nasbench101")
TEXTS = [NB201.format(arch) for arch in NB201.sample(6, 2)]
ARCHS = [NB201.parse(text) for text in TEXTS]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_runs_are_averaged(tmp_path):
    """Rows of one architecture, in every container; equal rows are no runs."""
    expected = {ARCHS[0]: 91.5, ARCHS[1]: 80.0}
    pairs = [(TEXTS[0], 91.0), (TEXTS[0], 92.0), (TEXTS[1], 80.0), (TEXTS[1], 80.0)]
    forms = [
        json.dumps(pairs),
        "arch,seed,acc\n" + "".join(f"{text},{i},{value}\n" for i, (text, value) in enumerate(pairs)),
        "".join(f"{text} {value}\n" for text, value in pairs),
        "".join(json.dumps({"arch": text, "acc": value}) + "\n" for text, value in pairs),
        "{" + ", ".join(f'"{text}": {value}' for text, value in pairs) + "}",  # keys that stand twice
    ]
    for form in forms:
        truth = read_truth(write(tmp_path / "t", form), NB201)
        assert truth == expected
        assert truth.num_several == 1
        assert truth.notes() == [f"{tmp_path / 't'}: 1 architecture has several rows: the mean is taken"]


def test_real_runs():
    truth = read_truth(real_input("12_runs.csv"), NB201)
    assert sorted(truth.values()) == [71.0, 88.75, 90.25, 91.5]
    assert truth.num_several == 4


def test_lower_is_better_and_a_name_that_says_so():
    path = real_input("19_error_as_truth.csv")
    (note,) = read_truth(path, NB201).notes()
    assert "warning: " in note
    assert "'valid_error' sounds like an error" in note
    assert "--lower-is-better" in note
    truth = read_truth(path, NB201, lower_is_better=True)
    assert sorted(truth.values()) == [-29.0, -11.25, -9.75, -8.5]
    assert truth.notes() == []


@pytest.mark.parametrize(
    ("name", "is_cost"),
    [
        ("error", True), ("valid_error", True), ("testErr", True), ("top1-err", True), ("Loss", True), ("test_loss", True),
        ("trainTime", True), ("latency(ms)", True), ("edgegpu_energy", True), ("perplexity", True), ("rmse", True),
        ("acc", False), ("neg_loss", False), ("negative error", False), ("mirror", False), ("timeless", False),
        ("glossy", False), ("value", False), ("val_accuracy", False), ("mIoU", False), ("synflow", False),
    ],
)  # fmt: skip
def test_names_of_costs(name, is_cost):
    assert truth_lib.looks_like_cost(name) == is_cost


def test_rows_without_a_value_are_left_out_and_counted(tmp_path):
    cells = ["91.5", "nan", "", "inf", "n/a", "80%"]
    rows = "".join(f"{text},{cell}\n" for text, cell in zip(TEXTS, cells, strict=True))
    truth = read_truth(write(tmp_path / "t.csv", f"arch,acc\n{rows}"), NB201)
    assert truth == {ARCHS[0]: 91.5, ARCHS[5]: 80.0}
    assert truth.num_missing == 4
    assert truth.notes() == [f"{tmp_path / 't.csv'}: 4 rows have no finite 'acc': left out"]
    values = [91.5, math.nan, None, True, 10**400, "80"]
    truth = read_truth(write(tmp_path / "t.json", list(zip(TEXTS, values, strict=True))), NB201)
    assert truth == {ARCHS[0]: 91.5, ARCHS[5]: 80.0}
    truth = read_truth(write(tmp_path / "t.json", [[TEXTS[0], 1e308], [TEXTS[0], 1.5e308]]), NB201)
    assert truth == {ARCHS[0]: 1.25e308}


def test_a_column_is_chosen(tmp_path):
    path = write(tmp_path / "t.csv", f"arch,seed,test_acc,val_acc\n{TEXTS[0]},7,1,2\n")
    with pytest.raises(ValueError, match="columns: test_acc, val_acc; choose one with --truth-column"):
        read_truth(path, NB201)
    assert read_truth(path, NB201, "val_acc") == {ARCHS[0]: 2.0}
    with pytest.raises(ValueError, match="no value column 'val_ac'.*did you mean 'val_acc'.*it has test_acc, val_acc"):
        read_truth(path, NB201, "val_ac")
    with pytest.raises(ValueError, match="no value column 'seed'"):
        read_truth(path, NB201, "seed")
    wide = {f"proxy{i}": i for i in range(500)}
    with pytest.raises(ValueError, match="proxy19, ...; choose one") as raised:
        read_truth(write(tmp_path / "wide.json", [{"arch": TEXTS[0], **wide}]), NB201)
    assert len(str(raised.value)) < 500


def test_values_keep_their_last_digit(tmp_path):
    values = [90.0000000001, 90.0000000002, 90.0]
    matched = match(ARCHS[:3], read_truth(write(tmp_path / "t", list(zip(TEXTS, values, strict=False))), NB201), NB201)
    assert matched.values.dtype == np.float64
    assert matched.values.tolist() == values


# --- lookup --------------------------------------------------------------------------------------------------


def test_an_architecture_is_looked_up_by_its_function():
    """The exact spelling first; else the mean of all that the truth has of its canonical form."""
    first, same, other = dag_cell("01 02 13 23", "31"), dag_cell("01 02 13 23", "13"), dag_cell("01 02 13 23", "3m")
    padded = dag_cell("01 02 14 24 03", "31m")  # a vertex that leads nowhere
    assert NB101.canonical(first) == NB101.canonical(same) == NB101.canonical(padded)
    matched = match([first], {first: 1.0, same: 3.0, other: 7.0}, NB101)
    assert (matched.values.tolist(), matched.num_canonical, matched.num_unused) == ([1.0], 0, 2)
    matched = match([padded, other], {first: 1.0, same: 3.0, other: 7.0}, NB101)
    assert (matched.values.tolist(), matched.num_canonical, matched.num_unused) == ([2.0, 7.0], 1, 0)
    matched = match([dag_cell("01 12", "3"), first], {same: 3.0, other: 7.0}, NB101)
    assert math.isnan(matched.values[0])
    assert (matched.values[1], matched.num_known, matched.num_canonical, matched.num_unused) == (3.0, 1, 1, 1)


def test_real_isomorphic_cells():
    archs = [record.arch for record in read_archs(real_input("03_iso_archs.json"), NB101)]
    matched = match(archs, read_truth(real_input("03_iso_truth.json"), NB101), NB101)
    assert matched.values.tolist() == [0.94, 0.93, 0.91]
    assert (matched.num_canonical, matched.num_unused) == (3, 0)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_finds_canonical_forms(name):
    space = SPACES[name]
    archs = space.sample(5, 4)
    truth = {space.canonical(arch): float(i) for i, arch in enumerate(archs)}
    assert match(archs, truth, space).num_known == 5


# --- the command line ----------------------------------------------------------------------------------------


def arguments(tmp_path, content, *flags):
    command = ["score", "--space", "nasbench201", "--truth", str(write(tmp_path / "t", content)), *flags]
    return main.parser().parse_args(command)


def test_counts_are_printed(tmp_path, capsys):
    pairs = [[text, 10.0 * i] for i, text in enumerate(TEXTS)]
    archs = [*ARCHS[:4], NB201.parse("|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|")]
    matched = common.match_truth(arguments(tmp_path, pairs), archs, NB201)
    assert np.isfinite(matched.values).tolist() == [True] * 4 + [False]
    path = tmp_path / "t"
    expected = f"eproxy: {path}: 4 of the 5 architectures have a value; 2 of its 6 architectures match none\n"
    assert capsys.readouterr().err == expected
    lower = common.match_truth(arguments(tmp_path, pairs, "--lower-is-better"), archs, NB201)
    assert lower.values[:4].tolist() == (-matched.values[:4]).tolist()


def test_three_values_are_needed(tmp_path):
    with pytest.raises(common.UsageError, match="2 of the 6 architectures have a value; need at least 3"):
        common.match_truth(arguments(tmp_path, [[text, 1.0] for text in TEXTS[:2]]), ARCHS, NB201)


def test_help_says_the_direction(capsys):
    for command in ("score", "dps"):
        with pytest.raises(SystemExit):
            main.main([command, "--help"])
        printed = " ".join(capsys.readouterr().out.split())
        assert "measured values, higher is better" in printed
        assert "--lower-is-better" in printed
        assert "--dataset" in printed


def test_messages_cut_the_names_of_columns(tmp_path):
    """Found by the long fuzz run: twenty names of hundreds of characters."""
    names = [f"{'c' * 500}{number}" for number in range(30)]
    path = tmp_path / "x.csv"
    path.write_text(",".join(["arch", *names]) + "\n" + ",".join([TEXTS[0], *["1"] * 30]) + "\n")
    with pytest.raises(ValueError, match="choose one with --truth-column") as error:
        read_truth(path, NB201)
    assert len(str(error.value)) < 2500
