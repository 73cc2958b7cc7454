"""The benchmark of fits gives every method the same networks, and holds out what is labelled."""

import json

import fit_columns
import numpy as np
import pytest
import tiny

import eproxy_jax as ep

SPACE = tiny.Tiny()
ARCHS = list(SPACE.enumerate())


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    quality = np.asarray([arch[0] + arch[1] * (arch[2] > 1) for arch in ARCHS]) + rng.normal(size=len(ARCHS)) / 4
    noisy = {name: quality + rng.normal(size=len(ARCHS)) for name in ("jacov", "naswot", "eproxy:a", "eproxy:b")}
    sizes = {"macs": [SPACE.macs(arch) for arch in ARCHS], "params": [SPACE.params(arch) for arch in ARCHS]}
    numbers = {}
    functions = np.asarray([numbers.setdefault(SPACE.canonical(arch), len(numbers)) for arch in ARCHS])
    columns = ep.Columns.of([SPACE.format(arch) for arch in ARCHS], {**sizes, **noisy})
    return fit_columns.Case(SPACE, columns, functions, {"task": quality}, ("eproxy:b",), "eproxy:a")


def test_rows_of_a_task(case):
    rows = fit_columns.measure(case, "task", (5, 20), 2)
    methods = [row["method"] for row in rows if row["labels"] == 5]
    assert {"MACs", "plain Eproxy", "paper's form", "rank blend", "ridge", "prior + process, portfolio"} <= set(methods)
    more = {row["method"] for row in rows if row["labels"] == 20} - set(methods)
    assert more == {"without sizes", "without proxies", "sizes alone", "proxies alone", "losses alone"}
    quality = {(row["labels"], row["method"]): row for row in rows}
    default = quality[20, fit_columns.DEFAULT]
    assert default["spearman"] > quality[20, "fitted sizes"]["spearman"]
    assert default["held_out"] == quality[5, "MACs"]["held_out"] < default["networks"] == len(ARCHS)
    assert set(fit_columns.METRICS) <= default.keys()
    text = fit_columns.page(case, rows)
    assert "What each block of columns is worth, 20 labels" in text
    json.dumps(rows)


def test_ways_to_choose_labels(case):
    rows = fit_columns.suggested(case, "task", 2)
    assert [row["labels_chosen"] for row in rows] == ["random", "diverse", "diverse of the better half", "top"]
    assert all(row["spearman"] > 0.3 for row in rows)
