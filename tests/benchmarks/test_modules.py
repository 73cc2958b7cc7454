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


def test_stored_columns_are_of_networks_as_written(monkeypatch, tmp_path):
    """Another spelling of the same function has more dead parts: its stored columns are not those of this one."""
    space = spaces.get("transnas_micro")
    archs = [arch for arch in space.sample(400, 0) if space.is_connected(arch)]
    stored_scores = {arch: {"params": space.params(arch), "macs": space.macs(arch)} for arch in archs}
    monkeypatch.setattr(proxies, "DATA", tmp_path)
    (tmp_path / "proxy_scores").mkdir()
    monkeypatch.setattr(proxies, "peer_scores", lambda space: [("images", stored_scores)])
    written = {"MACs as written": space.macs, "parameters as written": space.params}
    columns = {name: np.asarray([count(arch) for arch in archs], float) for name, count in written.items()}
    columns["params"] = np.asarray([space.params(space.canonical(arch)) for arch in archs], float)
    rows = {row["proxy"]: row for row in proxies.peer_rows(space, archs, columns)}
    assert rows["parameters as written"]["Spearman"] == rows["MACs as written"]["Spearman"] == "1.000"
    assert rows["params"]["Spearman without dead parts"] == "1.000" > rows["params"]["Spearman"]
    assert proxies.FEWEST < rows["params"]["architectures without dead parts"] < rows["params"]["architectures"]
    assert len({space.canonical(arch) for arch in archs}) < len(set(archs))
