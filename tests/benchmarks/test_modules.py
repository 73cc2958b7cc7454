"""Benchmarks can start: what one takes from another is there, and pages made of pages are what the pages say."""

import ast
import importlib
import json

import numpy as np
import proxies
import pytest
import shrink_images
import stored
from helpers import ROOT

from eproxy_jax import spaces

FOLDER = ROOT / "benchmarks"
MODULES = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_what_is_taken_from_another_benchmark_is_there(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    taken = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in MODULES
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in taken:
            assert hasattr(importlib.import_module(taken[node.value.id]), node.attr), f"{node.value.id}.{node.attr}"


def test_the_page_of_all_proxies_is_what_the_pages_say():
    rows = [json.loads(line) for line in (FOLDER / "results" / "proxies.jsonl").read_text().splitlines()]
    for row in rows:
        del row["command"]
    assert rows == proxies.summary_rows(), "run python benchmarks/proxies.py --summary"


def test_images_shrink_to_means():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    small = shrink_images.shrunk(images, 2)
    assert small.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(small[1, 0, 1], images[1, :2, 2:].reshape(4, 3).mean(0))


def test_stored_proxies_join_sizes_and_failures_are_worst():
    space = spaces.get("nasbench201")
    archs = [space.format(arch) for arch in space.sample(3, 0)]
    rows = [{"net": "x", "nwot": {"score": 1.5}, "zen": "-1e9", "flops": 7, "params": 7}] * 3
    columns = stored.columns_of(space, archs, rows)
    assert {"naswot", "zen", "macs", "params"} <= set(columns.names)
    assert columns.column("naswot").tolist() == [1.5] * 3
    assert np.isneginf(columns.column("zen")).all()
