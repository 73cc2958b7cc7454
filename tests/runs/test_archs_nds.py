"""Reading the files of NDS as they are."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from eproxy_jax.runs import archs
from eproxy_jax.runs.truth import read_truth


def parse(source):
    if not isinstance(source, dict) or not {"width", "genotype", "ws"} & source.keys():
        raise ValueError(f"not a network: {source!r}")
    return json.dumps(source, sort_keys=True)


ANY: Any = SimpleNamespace(name="any", parse=parse)
A, B = {"width": 32}, {"width": 48}


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def row(net, *errors):
    return {"net": net, "params": 7, "flops": 9, "test_ep_top1": list(errors)}


def test_accuracy_is_what_the_last_epochs_error_leaves(tmp_path):
    path = write(tmp_path / "rows.json", [row(A, 90.0, 25.5), row(B, 80.0, 30)])
    records = archs.read_archs(path, ANY)
    assert [record.arch for record in records] == [parse(A), parse(B)]
    assert [record.values for record in records] == [{"value": 74.5}, {"value": 70.0}]
    assert records[1].where == f"{path}: entry 2"
    assert read_truth(path, ANY) == {parse(A): 74.5, parse(B): 70.0}


def test_runs_of_one_architecture_are_averaged_over_all_lists(tmp_path):
    path = write(tmp_path / "runs.json", {"top": [row(A, 20), row(A, 22)], "mid": [row(B, 30), row(A, 24)]})
    truth = read_truth(path, ANY)
    assert truth == {parse(A): 78.0, parse(B): 70.0}
    assert truth.notes() == [f"{path}: 1 architecture has several rows: the mean is taken"]
    assert archs.read_archs(path, ANY)[3].where == f"{path}: mid: entry 2"
    assert read_truth(path, ANY, dataset="mid") == {parse(A): 76.0, parse(B): 70.0}


def test_a_run_that_left_no_number_is_left_out(tmp_path):
    truth = read_truth(write(tmp_path / "rows.json", [row(A, float("nan")), row(B, 30)]), ANY)
    assert truth == {parse(B): 70.0}
    assert truth.num_missing == 1


def test_rows_without_results_are_architectures_only(tmp_path):
    path = write(tmp_path / "nets.json", [{"net": A}, {"net": B}])
    assert len(archs.read_archs(path, ANY)) == 2
    with pytest.raises(ValueError, match="expected one value an architecture, found no number"):
        read_truth(path, ANY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([row(A, 20), {"params": 3}], 'entry 2: expected an object with "net"'),
        ([row(A, 20), [1, 2]], 'entry 2: expected an object with "net"'),
        ([row(A)], 'entry 1: expected "test_ep_top1" to be a list of errors in %'),
        ([row(A, 20), row(B, "20")], 'entry 2: expected "test_ep_top1"'),
        ([row(A, float("nan"))], "found no number"),
        ([row("x", 20)], "entry 1: not a network: 'x'"),
        ({"top": [row("x", 20)], "mid": {}}, "found no architectures of space 'any'"),
        ({}, "no architectures in it"),
    ],
)
def test_faults_are_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_truth(write(tmp_path / "bad.json", content), ANY)


def test_every_row_of_the_data_is_read(data):
    paths = sorted((data / "nds").glob("*.json"))
    assert len(paths) == 13
    for path in paths:
        records = archs.read_archs(path, ANY)
        assert len(records) >= 117
        # Some runs diverged: an error of 100 %.
        assert all(0 <= record.values["value"] < 100 for record in records)
        truth = read_truth(path, ANY)
        assert len(truth) == (2 if "reruns" in path.name else len(records))
