"""This module reads proxies that an independent implementation computed: ``proxy_scores`` below EPROXY_DATA."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import DATA

import eproxy_jax as ep
from eproxy_jax import spaces
from eproxy_jax.proxies import graph_counts

_NAMES = {"nwot": "naswot"}  # of the stored columns, where ours differ
_NO_PROXIES = ("net", "net_str", "arch", "idx", "flops", "params", "val_accuracy")  # sizes come from the space
_FAILED = -1e8  # what the files hold where a proxy failed


def read_truth(space: spaces.SearchSpace, file: str) -> dict[str, float]:
    """Return the measured values of a file below EPROXY_DATA, by architecture as the space writes it."""
    return {space.format(space.parse(arch)): value for arch, value in json.loads((DATA / file).read_text())}


def read_rows(file: str) -> list[dict[str, str]]:
    """Return the rows of a CSV of stored proxies."""
    with (DATA / "proxy_scores" / file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def columns_of(space: spaces.SearchSpace, archs: Sequence[Any], rows: Sequence[Any]) -> ep.Columns:
    """Join stored proxies with sizes and graph counts.

    Args:
      space: the search space.
      archs: A architectures as the file writes them.
      rows: A dicts of stored proxies, each a number or a dict with its score.
    """
    parsed = [space.parse(arch) for arch in archs]
    proxies = [name for name in rows[0] if name not in _NO_PROXIES and all(name in row for row in rows)]
    sizes = spaces.size_measures(space, parsed)
    counts = graph_counts.graph_counts(space, parsed)
    return ep.Columns.of(
        [space.format(arch) for arch in parsed],
        {_NAMES.get(name) or name: [_number(row[name]) for row in rows] for name in proxies}
        | {"macs": sizes[0], "params": sizes[1], "graph_counts": counts},
    )


def nasbench201_columns(space: spaces.SearchSpace, task: str) -> ep.Columns:
    """Return the stored proxies of 9,445 strings of NAS-Bench-201."""
    rows = read_rows("nb201_zc_proxies.csv")
    strings = [row["net_str"] for row in rows]
    if task == "tinyimagenet":
        others = {row["net"]: row for row in read_rows("nb201_ImageNet16-120_zc_proxies.csv")}
        rows = [others[row["net"]] for row in rows]
    return columns_of(space, strings, rows)


def _number(given: Any) -> float:
    value = float((given["score"] if isinstance(given, dict) else given) or "nan")
    return -np.inf if value <= _FAILED else value
