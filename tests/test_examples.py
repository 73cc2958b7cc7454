"""Every example runs as it stands, prints what the site shows, and is short."""

import runpy
import sys

import pages
import pytest
from helpers import ROOT

import eproxy_jax as ep

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# A piece of what each prints; a new example needs a line here.
PRINTS = {
    "own_networks": "(patch, width, depth) = [",
    "own_proxy": "Spearman with MACs",
    "score": "Spearman of score and MACs",
    "search_latency": "24 of ",
    "twenty_labels": "settings found",
    "your_own_vmap": "",
}


def test_examples_are_the_known_ones_and_short():
    assert {path.stem for path in EXAMPLES} == set(PRINTS)
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 60, path


@pytest.mark.parametrize(
    "path", EXAMPLES, ids=lambda path: path.stem,
)  # fmt: skip
@pytest.mark.slow  # quick: that they are the known ones; tests/test_public.py calls what they call
def test_example_runs(path, monkeypatch, capsys):
    monkeypatch.setattr(ep, "configure", lambda *_, **__: None)  # the tests have configured JAX already
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.strip()
    assert PRINTS[path.stem] in printed
    stored = ROOT / "examples" / "outputs" / f"{path.stem}.txt"
    assert stored.exists(), "the site shows what each example prints: make examples"
    shown = stored.read_text()
    assert not pages.disagreements(printed, shown), "the site shows another output: make examples"
