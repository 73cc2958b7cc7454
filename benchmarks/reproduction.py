"""This script writes REPRODUCTION.md: published figures, and ours on the same protocol, out of the files of results.

  python benchmarks/reproduction.py
  python benchmarks/reproduction.py --check

It computes nothing and may be run again when there are more results; what is in no file is "not measured". Published
figures are in benchmarks/published.py. ``--check`` writes nothing and ends with status 1 if the page is not what the
files say.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, ROOT, markdown_table
from cost_quality import cost, read_rows, seconds_by_pass
from published import PUBLISHED, SPEARMAN

PAGE = ROOT / "REPRODUCTION.md"
CLOSE = 0.04  # the largest difference of two Spearman correlations that is called agreement
_NDS = ("darts", "enas", "pnas", "nasnet", "amoeba", "resnext_a", "resnext_b")


@dataclasses.dataclass(frozen=True)
class Found:
    """What the files say.

    Attributes:
      values: in the order of the tasks.
      page: its name.
      command: that wrote it.
      seconds: a network.
      count: how many networks each correlation is over.
    """

    values: tuple[float, ...]
    page: str
    command: str
    seconds: float | None = None
    count: int | None = None


Reader = Callable[[Path], Found | None]


def _number(text: Any) -> float:
    """Return the first number of ``0.5``, ``0.5 ± 0.1`` and ``0.5 / 0.4``."""
    return float(re.split(r" [±/] ", str(text))[0])


def _mean(values: Sequence[float]) -> tuple[float, ...]:
    return (float(np.mean(values)),)


def of_proxies(pages: Sequence[str], name: str, tasks: Sequence[str] | None = None) -> Reader:
    """Read a proxy's row on the first of several pages of benchmarks/proxies.py that has it; by default its mean."""

    def read(results: Path) -> Found | None:
        from eproxy_jax.proxies import AGGREGATES

        for page in pages:
            rows = read_rows(page, results)
            for row in rows:
                if row.get("ranking") == name:
                    shown = ("mean",) if tasks is None else tasks
                    values = tuple(_number(row[task]) for task in shown)
                    seconds = cost(AGGREGATES.get(name, (name,)), seconds_by_pass(rows))
                    count = None if tasks is None else int(row["architectures"])  # a mean is of more than these
                    return Found(values, page, row["command"], seconds, count)
        return None

    return read


def of_dps(page: str, method: str, tasks: int, mean: bool = True) -> Reader:
    """Read a method's Spearman at 20 labels from a page of benchmarks/dps.py."""

    def read(results: Path) -> Found | None:
        own = [r for r in read_rows(page, results) if r.get("draws") and re.fullmatch(method, r["method"])]
        if len(own) != tasks:
            return None
        values = [_number(row["Spearman"]) for row in own]
        return Found(_mean(values) if mean else tuple(values), page, own[0]["command"])

    return read


def of_ranking(page: str, column: str) -> Reader:
    """Read the mean over tasks of a column of a page of benchmarks/ranking.py."""

    def read(results: Path) -> Found | None:
        rows = read_rows(page, results)
        return Found(_mean([_number(row[column]) for row in rows]), page, rows[0]["command"]) if rows else None

    return read


def of_fits(spaces: Sequence[str], tasks: int, mean: bool = True, task: str | None = None) -> Reader:
    """Read Spearman of the default fit to 20 labels from pages of benchmarks/fit_columns.py; ``task``: of one alone."""

    def read(results: Path) -> Found | None:
        rows = [(space, row) for space in spaces for row in read_rows(f"fit_columns_{space}", results)]
        own = [(s, r) for s, r in rows if r.get("method") == "prior + process" and r.get("labels") == 20]
        own = [(s, r) for s, r in own if "labels_chosen" not in r and task in (None, r["task"])]
        if len(own) != tasks:
            return None
        values = [row["spearman"] for _, row in own]
        return Found(_mean(values) if mean else tuple(values), f"fit_columns_{own[0][0]}", own[0][1]["command"])

    return read


def of_search(page: str, measure: str, queries: int, mean: bool, strategy: str = "process") -> Reader:
    """Read a strategy's mean over seeds from a page of benchmarks/search.py."""

    def read(results: Path) -> Found | None:
        rows = read_rows(page, results)
        own = [row for row in rows if row["measure"] == measure and row["strategy"] == strategy]
        own = [row for row in own if f"after {queries}" in row]
        if not own:
            return None
        tasks = dict.fromkeys(row["task"] for row in own)
        values = [float(np.mean([r[f"after {queries}"] for r in own if r["task"] == task])) for task in tasks]
        return Found(_mean(values) if mean else tuple(values), page, own[0]["command"])

    return read


@dataclasses.dataclass(frozen=True)
class Ours:
    """A figure of ours.

    Attributes:
      published: key of the published one.
      what: the method.
      same: True if it is the published method, which should agree; False for another one in its place.
      protocol: on which networks, with how many labels or queries.
      read: how it is found in the files.
      why: why it does not agree, where that is known.
    """

    published: str
    what: str
    same: bool
    protocol: str
    read: Reader
    why: str = ""


_LISTED = ("proxies_nasbench201", "proxies_nasbench201_more")
_101 = ("proxies_nasbench101", "proxies_nasbench101_small")
_MICRO = ("proxies_transnas_micro", "proxies_transnas_micro_small")
_DRAWN = "a random sample of the 9,445 strings, paper's size, no labels"
_FIT = "20 labels, held-out networks of other functions, size small"
_THREE = ("cifar10", "cifar100", "imagenet16-120")
_ALL_RANKS = "rank among all"
_TEST = "test regret, %"
_STORED = "columns of an independent implementation; candidates: the 9,445 strings"

OURS = (
    Ours(
        "eproxy_dps_nds",
        "the paper's form: best setting with `alpha`",
        True,
        "20 labels, 100 networks a space, size small, 5 settings",
        of_dps("dps_nds", r"best setting, alpha \(paper's form\)", 7),
    ),
    Ours(
        "eproxy_dps_nds",
        "several settings, blend by rank",
        False,
        "the same",
        of_dps("dps_nds", r"\d+ settings, rank blend", 7),
    ),
    Ours("eproxy_dps_nds", "`eproxy fit`", False, _FIT, of_fits([f"nds_{name}" for name in _NDS], 7)),
    Ours(
        "gennas_101",
        "several settings, blend by rank",
        False,
        "20 labels, 275 held out, size small",
        of_dps("dps_nasbench101", r"\d+ settings, rank blend", 1),
    ),
    Ours("gennas_101", "`eproxy fit`", False, _FIT, of_fits(["nasbench101"], 1, task="cifar10")),
    Ours(
        "az_nas_all", "`az_nas`", True, "all 15,625 strings", of_proxies(("proxies_nasbench201_all",), "az_nas", _THREE)
    ),
    Ours("az_nas", "`az_nas`", True, _DRAWN, of_proxies(_LISTED, "az_nas", _THREE)),
    Ours("vkdnw_agg", "`vkdnw_agg`", True, _DRAWN, of_proxies(_LISTED, "vkdnw_agg", _THREE)),
    Ours("vkdnw_agg", "`rank_sum`", False, _DRAWN, of_proxies(_LISTED, "rank_sum", _THREE)),
    Ours("vkdnw_agg", "`eproxy fit`", False, _FIT, of_fits(["nasbench201"], 3, mean=False)),
    Ours("naswot", "`naswot`", True, _DRAWN, of_proxies(_LISTED, "naswot", _THREE)),
    Ours("zico", "`zico`", True, _DRAWN, of_proxies(_LISTED, "zico", _THREE)),
    Ours("synflow", "`synflow`", True, _DRAWN, of_proxies(_LISTED, "synflow", _THREE)),
    Ours("zico_101", "`zico`", True, "random networks", of_proxies(_101, "zico", _THREE[:1])),
    Ours("zen_101", "`zen`", True, "random networks", of_proxies(_101, "zen", _THREE[:1])),
    Ours("synflow_101", "`synflow`", True, "random networks", of_proxies(_101, "synflow", _THREE[:1])),
    Ours(
        "jacov_micro",
        "`jacov`",
        True,
        "random networks",
        of_proxies(_MICRO, "jacov"),
        "batch norms come last there, so that the published gradient is rounding; ours weighs images by signs",
    ),
    Ours("zen_micro", "`zen`", True, "random networks", of_proxies(_MICRO, "zen")),
    Ours(
        "macs_micro",
        "MACs",
        True,
        "300 random networks, MACs of the backbone as written",
        of_ranking("ranking_transnas_micro", "MACs"),
    ),
    Ours(
        "libra_micro",
        "several settings, blend by rank",
        False,
        "20 labels, 184 held out, size small",
        of_dps("dps_transnas_micro", r"\d+ settings, rank blend", 7),
    ),
    Ours("libra_micro", "`eproxy fit`", False, _FIT, of_fits(["transnas_micro"], 7)),
    Ours(
        "libra_macro",
        "several settings, blend by rank",
        False,
        "20 labels, 138 held out, size small",
        of_dps("dps_transnas_macro", r"\d+ settings, rank blend", 7),
    ),
    Ours("libra_macro", "`eproxy fit`", False, _FIT, of_fits(["transnas_macro"], 7)),
    Ours(
        "robot_201",
        "`eproxy search`",
        False,
        f"20 queries; {_STORED}",
        of_search("search_nasbench201", _TEST, 20, False),
    ),
    Ours(
        "robot_201",
        "`eproxy search`",
        False,
        "20 queries; this package's columns; candidates: all functions",
        of_search("search_nasbench201_columns", _TEST, 20, False),
    ),
    Ours(
        "robot_201",
        "`eproxy search`",
        False,
        f"50 queries; {_STORED}",
        of_search("search_nasbench201", _TEST, 50, False),
    ),
    Ours(
        "robot_micro",
        "`eproxy search`",
        False,
        "50 queries; sizes and graph counts alone; candidates: all networks",
        of_search("search_transnas_micro_no_proxies", _ALL_RANKS, 50, True),
    ),
    Ours(
        "robot_micro",
        "`eproxy search`",
        False,
        "50 queries; stored columns; candidates: the 711 networks that have them",
        of_search("search_transnas_micro", _ALL_RANKS, 50, True),
        "rank among all 4,096: only 711 of them are candidates",
    ),
    Ours(
        "robot_macro",
        "`eproxy search`",
        False,
        "50 queries; sizes and graph counts alone; candidates: all networks",
        of_search("search_transnas_macro_no_proxies", _ALL_RANKS, 50, True),
    ),
)


# --- the page ------------------------------------------------------------------------------------------------


def shown(values: Sequence[float], measure: str) -> str:
    """Return values as the page shows them: three digits of a correlation, two if the third is 0; two of the rest."""
    two = measure != SPEARMAN or all(abs(100 * value - round(100 * value)) < 1e-9 for value in values)
    texts = [f"{value:.{2 if two else 3}f}" for value in values]
    return " / ".join(text.replace("0.", ".", 1) if measure == SPEARMAN else text for text in texts)


def standard_error(value: float, count: int) -> float:
    """Return the standard error of Spearman's correlation over so many networks.

    Source: Bonett and Wright, Sample size requirements for estimating Pearson, Kendall and Spearman correlations, 2000.
    """
    return float((1 - value**2) * np.sqrt((1 + value**2 / 2) / (count - 3)))


def verdict(ours: Ours, found: Found | None) -> str:
    """Say whether a figure agrees, or by how much it differs, on the task where it differs most to its disadvantage."""
    if found is None:
        return "not measured"
    theirs = PUBLISHED[ours.published]
    sign = 1 if theirs.measure == SPEARMAN else -1
    gaps = [sign * (a - b) for a, b in zip(found.values, theirs.values, strict=True)]
    worst, digits = min(gaps), 3 if theirs.measure == SPEARMAN else 2
    if ours.same:
        largest = max(map(abs, gaps))
        if largest <= CLOSE + 1e-9:
            return f"agrees, within {largest:.{digits}f}"
        text = f"differs, by up to {largest:.{digits}f}"
        if ours.why or found.count is None:
            return text + f": {ours.why or 'not explained'}"
        value = found.values[int(np.argmax(np.abs(gaps)))]
        return text + f"; over {found.count} networks one standard error is {standard_error(value, found.count):.3f}"
    if worst >= -1e-9:
        text = "better" if worst > 0 else "as good"
        return text + (f", by {worst:.{digits}f}" if worst > 0 else "")
    text = f"worse, by {-worst:.{digits}f}" if max(gaps) <= 0 else f"mixed: worse by up to {-worst:.{digits}f}"
    return text + (f" ({ours.why})" if ours.why else "")


def page(results: Path = RESULTS) -> str:
    """Return the text of REPRODUCTION.md."""
    text = (
        "# Published figures beside ours\n\n"
        "Written by `python benchmarks/reproduction.py` from the files in [benchmarks/results](benchmarks/results); a "
        "test compares. Published figures are in [one table](benchmarks/published.py) with their sources, as this "
        "project's notes have them from the papers.\n\n"
        f"A row of the *same* method agrees if no value differs by more than {CLOSE:g}. *Other* rows stand in place of "
        "the published method: they are better or worse. Of regrets and ranks, less is better. Seconds are those of a "
        "network, compilation left out, where the page has them.\n"
    )
    for benchmark in dict.fromkeys(one.benchmark for one in PUBLISHED.values()):
        for measure in dict.fromkeys(one.measure for one in PUBLISHED.values() if one.benchmark == benchmark):
            keys = [k for k, one in PUBLISHED.items() if (one.benchmark, one.measure) == (benchmark, measure)]
            text += f"\n## {benchmark}: {measure}\n\n"
            text += markdown_table([_row(ours, results) for key in keys for ours in OURS if ours.published == key])
            text += _commands([ours for ours in OURS if ours.published in keys], results)
    return text


def _row(ours: Ours, results: Path) -> dict[str, Any]:
    theirs, found = PUBLISHED[ours.published], ours.read(results)
    source = theirs.source or "source not noted"
    return {
        "published": f"{theirs.method} ({source})",
        "its protocol": theirs.protocol,
        "of": theirs.tasks,
        "value": shown(theirs.values, theirs.measure),
        "ours": ours.what,
        "method": "same" if ours.same else "other",
        "our protocol": ours.protocol,
        "our value": "-" if found is None else f"[{shown(found.values, theirs.measure)}]({_link(found.page)})",
        "s a network": "-" if found is None or found.seconds is None else f"{found.seconds:.3f}",
        "agreement, or why not": verdict(ours, found),
    }


def _link(name: str) -> str:
    return f"benchmarks/results/{name}.md"


def _commands(rows: Sequence[Ours], results: Path) -> str:
    found = [one for one in (ours.read(results) for ours in rows) if one is not None]
    commands = dict.fromkeys(one.command.strip() for one in found)
    return "\n" + "".join(f"    {command}\n" for command in commands) if commands else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the page is out of date")
    arguments = parser.parse_args()
    text = page()
    if not arguments.check:
        PAGE.write_text(text)
        print(text)
        return 0
    if not PAGE.exists() or PAGE.read_text() != text:
        print("REPRODUCTION.md is not what the files of results say: run python benchmarks/reproduction.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
