"""Figures in README and docs are in the files of results that they point to."""

import dataclasses
import json
import re

import figures
import pytest
from figures import RESULTS, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What is no measurement, by page. Another figure never comes here: it gets a page of results, or goes.
CONSTANTS = {
    "defaults, genes and constants of the method, which the code holds": {
        "docs/method.md": ["1.2", "0.9", "0.01", "0.5", "1.5", "2.5", "3.5", "0.6", "-0.5", "-0.4", "0.2", "0.1"],
        "docs/cli.md": [".25", "3 MB"],
        "docs/execution.md": ["1.2", "80 %", "30 %", "10 minutes"],
        "docs/spaces.md": ["1.2", "0.1"],
        "docs/proxies.md": ["4 times"],
    },
    "part of a definition or of an example": {
        "docs/cli.md": ["91.5"],
        "docs/python.md": ["10 %"],
        "docs/results.md": ["10 %"],
        "docs/execution.md": ["80GB"],
    },
    "a range in round numbers; the table of times has the seconds of each space": {
        "docs/execution.md": ["100 seconds"]
    },
    "a first measurement, as the text says": {"docs/execution.md": [".01", "3 %"]},
    "a limit that a test of the reader holds": {"docs/robustness.md": ["5 s"]},
    "a count that a test of the space holds": {"docs/spaces.md": ["0.71"]},
}
# Sections that say themselves that no script prints their figures.
UNSCRIPTED = {("docs/execution.md", "Measured once, no script"), ("docs/execution.md", "Work that programs waste")}


def rows(name):
    return [json.loads(line) for line in (RESULTS / f"{name}.jsonl").read_text().splitlines()]


def mean_of_nds(column):
    names = [path.stem for path in RESULTS.glob("ranking_nds_*_small.jsonl")]
    assert len(names) == 7
    return sum(float(rows(name)[0][column].split(" ")[0]) for name in names) / 7


def mean_of_draws(name, method):
    values = [
        float(row["Spearman"].split(" ")[0]) for row in rows(name) if row.get("draws") and row["method"] == method
    ]
    return sum(values) / len(values)


# What follows from several rows, with what computes it.
DERIVED = {
    ("docs/results.md", ".533"): lambda: mean_of_nds("Spearman"),
    ("docs/results.md", ".738"): lambda: mean_of_nds("alpha 0.5"),
    ("docs/results.md", ".654"): lambda: mean_of_nds("MACs"),
    ("docs/results.md", ".665"): lambda: mean_of_nds("parameters"),
    ("docs/results.md", ".002"): lambda: (
        mean_of_draws("dps_nasbench201", "plain Eproxy") - mean_of_draws("dps_nasbench201", "MACs")
    ),
}


def is_constant(figure):
    return any(figure.text in own.get(figure.page, ()) for own in CONSTANTS.values())


def is_derived(figure):
    known = DERIVED.get((figure.page, figure.text))
    return known is not None and bool(figures.matches(figure.text, known()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_figure_is_in_a_file_of_results(page):
    for figure in figures.figures(page):
        if (figure.page, figure.section) in UNSCRIPTED or is_constant(figure) or is_derived(figure):
            continue
        where = (
            ", ".join(path.name for path in figure.files) or "no page of benchmarks/results: link the one it is from"
        )
        assert figures.is_in_results(figure), (
            f"{figure.page}, {figure.section!r}: {figure.text} is not in {where}\n{figure.context}"
        )


def test_lists_of_exceptions_are_needed():
    found = [figure for page in PAGES for figure in figures.figures(page)]
    for reason, pages in CONSTANTS.items():
        for page, texts in pages.items():
            for text in texts:
                assert any((f.page, f.text) == (page, text) for f in found), (
                    f"{page}: {text} ({reason}) is gone: remove it"
                )
    for page, text in DERIVED:
        assert any((f.page, f.text) == (page, text) for f in found), f"{page}: {text} is gone: remove it"
    for page, heading in UNSCRIPTED:
        text = figures.section(ROOT / page, heading.lower().replace(" ", "-").replace(",", ""))
        assert re.search(r"no\s+script", text, re.IGNORECASE), f"{page}, {heading}: say that no script prints these"


def changed(figure, step):
    """The figure, moved by so many units of its last digit."""
    shown = re.match(rf"[-+]?{figures.NUMBER}", figure.text)[0]
    value = float(shown.replace(",", "")) + step * 10.0**-figure.digits
    return dataclasses.replace(figure, text=f"{value:.{figure.digits}f}{figure.text[len(shown) :]}")


def test_a_changed_figure_is_caught():
    """Files hold many numbers, and a wrong figure may be another one's right one: most changes must be seen."""
    found = [f for page in PAGES for f in figures.figures(page) if f.files and figures.is_in_results(f)]
    caught = [not figures.is_in_results(changed(figure, step)) for figure in found for step in (-21, -1, 1, 21)]
    assert len(found) > 600
    assert sum(caught) > 0.85 * len(caught), f"{sum(caught)} of {len(caught)}"


def test_what_is_a_figure():
    def texts(line):
        return [figure.text for figure in figures.figures_in(line, page="", section="", context="", files=())]

    assert texts("reaches .932/.929 with `--alpha 0.5`, jax 0.10.2, 1.1e18 genotypes") == [".932", ".929"]
    assert texts("**.811**, 2,879 s and 1.9 h, 48 min, 80 %, 20 labels") == [
        ".811",
        "2,879 s",
        "1.9 h",
        "48 min",
        "80 %",
    ]
    assert texts(".732 ± .009, ImageNet16-120, [1.5](x_2.5.md), -.440") == [".732", "1.5", "-.440"]


def test_scales_and_rounding():
    assert figures.matches("1.9", 6944 / 3600)
    assert figures.matches(".846", 0.8459)
    assert not figures.matches(".846", 0.8466)
    assert figures.matches("2,879", 2878.6)
