"""REPRODUCTION.md is what the files of results say."""

import json

import numpy as np
import pytest
import reproduction
from published import PUBLISHED
from scipy import stats


def test_the_page_is_what_the_files_say():
    assert reproduction.PAGE.read_text() == reproduction.page(), "run python benchmarks/reproduction.py"


def test_every_published_figure_has_a_row_of_ours():
    assert {ours.published for ours in reproduction.OURS} == set(PUBLISHED)


def test_without_files_nothing_is_measured(tmp_path):
    text = reproduction.page(tmp_path)
    rows = [line for line in text.splitlines() if line.startswith("| ") and "published |" not in line]
    assert len(rows) == len(reproduction.OURS)
    assert all(row.endswith("| - | - | not measured |") for row in rows)


def written(tmp_path, page, rows):
    (tmp_path / f"{page}.jsonl").write_text("".join(json.dumps({**row, "command": "python x"}) + "\n" for row in rows))


def fit_row(task, spearman, **more):
    return {
        "space": "nasbench201",
        "task": task,
        "labels": 20,
        "method": "prior + process",
        "spearman": spearman,
        **more,
    }


def test_new_files_get_in(tmp_path):
    (ours,) = [o for o in reproduction.OURS if o.published == "vkdnw_agg" and o.what == "`eproxy fit`"]
    tasks = ("cifar10", "cifar100", "imagenet16-120")
    rows = [fit_row(task, value) for task, value in zip(tasks, (0.95, 0.93, 0.9), strict=True)]
    rows += [
        fit_row("cifar10", 0.5, labels=50),
        fit_row("cifar10", 0.5, labels_chosen="top"),
        fit_row("cifar10", 0.5, method="ridge"),
    ]
    written(tmp_path, "fit_columns_nasbench201", rows[:2])
    assert ours.read(tmp_path) is None  # a run that is under way
    written(tmp_path, "fit_columns_nasbench201", rows)
    found = ours.read(tmp_path)
    assert found == reproduction.Found((0.95, 0.93, 0.9), "fit_columns_nasbench201", "python x")
    assert reproduction.verdict(ours, found) == "mixed: worse by up to 0.006"
    assert "| [.95 / .93 / .90](benchmarks/results/fit_columns_nasbench201.md) |" in reproduction.page(tmp_path)


@pytest.mark.parametrize(
    ("published", "same", "values", "expected"),
    [
        ("az_nas", True, (0.90, 0.88, 0.85), "agrees, within 0.009"),
        ("az_nas", True, (0.80, 0.88, 0.85), "differs, by up to 0.092: not explained"),
        ("az_nas", False, (0.90, 0.89, 0.86), "better, by 0.001"),
        ("az_nas", False, (0.80, 0.80, 0.80), "worse, by 0.092"),
        ("robot_micro", False, (16.0,), "as good"),
        ("robot_micro", False, (20.0,), "worse, by 4.00"),
    ],
)  # fmt: skip
def test_verdicts(published, same, values, expected):
    ours = reproduction.Ours(published, "", same, "", lambda _: None)
    assert reproduction.verdict(ours, reproduction.Found(values, "", "")) == expected


def test_a_difference_has_its_standard_error():
    rng = np.random.default_rng(0)
    drawn = rng.multivariate_normal((0, 0), ((1, 0.8), (0.8, 1)), (400, 200))
    found = [float(stats.spearmanr(*pairs.T)[0]) for pairs in drawn]
    assert np.std(found) == pytest.approx(reproduction.standard_error(np.mean(found), 200), rel=0.1)
    ours = reproduction.Ours("az_nas", "", True, "", lambda _: None)
    row = reproduction.Found((0.80, 0.88, 0.85), "", "", None, 200)
    text = "differs, by up to 0.092; over 200 networks one standard error is 0.029"
    assert reproduction.verdict(ours, row) == text
