r"""This benchmark plays searches with dear columns on few candidates, and compares answers and device seconds.

  python benchmarks/cascade.py --benchmark nasbench201 --columns cheap/columns.jsonl --bank bank.jsonl --num-seeds 10
  python benchmarks/cascade.py --benchmark transnas_micro --columns columns.jsonl --dear eproxy zico vkdnw

The candidates are the networks that have all columns. The cheap ones are sizes, graph counts and the columns of
``--columns`` (files of ``eproxy score --proxy``); the dear ones are minus the losses of a bank of ``eproxy bank``, or
the columns named by ``--dear``. Three searches of the same seeds are compared: cheap columns alone, all columns on all
candidates, and the cascade, which gets dear columns of what can still win, of a quarter of the candidates at most.

The measure is the rank of the best queried network by validation accuracy, among the candidates. Device seconds are
those of one network, ``--seconds CHEAP DEAR``, times how many networks have the columns; compilation is left out, for
both have it. The record beside a file of columns has the seconds of each pass.

It writes benchmarks/results/cascade_BENCHMARK.md and .jsonl, with a row as each search ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import search as search_benchmark
from common import RESULTS, header, markdown_table, write_page

import eproxy_jax as ep
from eproxy_jax import search, spaces
from eproxy_jax.dps.loss_bank import LossBank

_ROWS = ("cheap columns alone", "all columns on all", "cascade")


def losses_of(space: spaces.SearchSpace, path: Path) -> ep.Columns:
    """Return minus the final losses of a bank, for the settings that are trained on all its architectures."""
    identity = json.loads(path.read_text().partition("\n")[0])
    del identity["bank"]
    with LossBank(path, identity, read_only=True) as bank:
        losses, done = bank.losses(int(identity["num_steps"]))[..., -1], bank.computed().all(1)
        texts = [space.format(space.canonical(space.parse(arch))) for arch in bank.archs]
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    values = np.where(np.isfinite(losses), -losses, -np.inf)[done][:, list(first.values())]
    return ep.Columns.of(list(first), {f"eproxy:{n}": row for n, row in zip(np.flatnonzero(done), values, strict=True)})


def dear_columns(space: spaces.SearchSpace, bank: str | None, own: ep.Columns, names: list[str]) -> ep.Columns:
    """Return the dear columns of the networks that have all of them, by canonical string."""
    columns = own.select(names) if bank is None else losses_of(space, Path(bank))
    whole = [arch for arch, row in zip(columns.archs, columns.values, strict=True) if not np.isnan(row).any()]
    return columns.rows(whole)


def play(
    state: search.State, values: dict[str, float], dear: ep.Columns | None, share: float, most: int
) -> tuple[list[str], list[int]]:
    """Return the best so far after each query, and how many candidates have dear columns then."""
    best, counts = [], []
    limit = int(np.ceil(share * len(state.problem.keys)))
    for _ in range(most):
        while dear is not None and (wanted := search.wanting(state, 16, limit)):
            state = search.supply(state, dear.rows(wanted))
        archs, state = search.ask(state)
        state = search.tell(state, archs, [values[archs[0]]])
        assert state.best is not None
        best.append(state.best.arch)
        counts.append(0 if state.dear is None else len(state.dear))
    return best, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=list(search_benchmark.TABLES), required=True)
    parser.add_argument("--columns", nargs="+", required=True, metavar="FILE")
    parser.add_argument("--bank", metavar="FILE", help="a bank of eproxy bank: its losses are the dear columns")
    parser.add_argument("--dear", nargs="+", default=[], metavar="NAME", help="dear columns among those of --columns")
    parser.add_argument("--seconds", type=float, nargs=2, required=True, metavar=("CHEAP", "DEAR"), help="a network")
    parser.add_argument("--share", type=float, default=0.25, help="of the candidates, at most, with dear columns")
    parser.add_argument("--num-seeds", type=int, default=10)
    parser.add_argument("--queries", type=int, nargs="+", default=[10, 20, 50])
    args = parser.parse_args()
    space = spaces.get(args.benchmark)
    own = search_benchmark.own_columns(space, args.columns)
    dear = dear_columns(space, args.bank, own, args.dear)
    cheap = own.select([name for name in own.names if name not in args.dear])
    name = f"cascade_{args.benchmark}"
    rows: list[dict[str, Any]] = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    for task, values, _ in search_benchmark.TABLES[args.benchmark](space, 200):
        both = cheap.rows(sorted(set(cheap.archs) & set(dear.archs)))
        spelled = search_benchmark.spelled_in(space, both, list(values))
        few, more = (dataclasses.replace(one.rows(spelled), archs=tuple(spelled.values())) for one in (cheap, dear))
        pool = sorted((values[arch] for arch in few.archs), reverse=True)
        ranks = search_benchmark._ranks(values, pool)
        for what in _ROWS:
            columns = few.join(more) if what == _ROWS[1] else few
            for seed in range(args.num_seeds):
                state = search.init(space, columns, "process", seed=seed)
                best, counts = play(state, values, more if what == _ROWS[2] else None, args.share, max(args.queries))
                number = len(state.problem.keys)
                for count in args.queries:
                    known = number if what == _ROWS[1] else counts[count - 1]
                    seconds = number * args.seconds[0] + known * args.seconds[1]
                    rows.append(
                        {"task": task, "search": what, "seed": seed, "queries": count, "rank": ranks[best[count - 1]],
                         "candidates": number, "with_dear": known, "seconds": round(seconds, 1)}
                    )  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
        write_page(name, page(args, rows, cheap, dear), rows)


def page(args: argparse.Namespace, rows: list[dict[str, Any]], cheap: ep.Columns, dear: ep.Columns) -> str:
    """Return the page of the tasks that are finished."""
    text = header(f"Dear columns on few candidates, {args.benchmark}")
    text += f"{rows[0]['candidates']:,} candidates, {len(cheap.names)} cheap columns and {len(dear.names)} dear ones; "
    text += (
        f"{args.seconds[0]:g} s and {args.seconds[1]:g} s a network. {args.num_seeds} seeds. The rank is that of the "
    )
    text += "best queried network by validation accuracy, among the candidates: mean ± standard deviation. Seconds and "
    text += "networks with dear columns are means over seeds and tasks; the share is of all columns on all.\n"
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    for count in args.queries:
        own = [row for row in rows if row["queries"] == count]
        whole = np.mean([row["seconds"] for row in own if row["search"] == _ROWS[1]])
        table = []
        for what in _ROWS:
            some = [row for row in own if row["search"] == what]
            cells = {}
            for task in tasks:
                found = np.asarray([row["rank"] for row in some if row["task"] == task])
                cells[task] = f"{found.mean():.2f} ± {found.std():.2f}"
            seconds = np.mean([row["seconds"] for row in some])
            table.append(
                {"search": what, **cells, "mean": f"{np.mean([row['rank'] for row in some]):.2f}",
                 "with dear columns": f"{np.mean([row['with_dear'] for row in some]):.0f}",
                 "device s": f"{seconds:.0f}", "share": f"{seconds / whole:.2f}"}
            )  # fmt: skip
        text += f"\n## After {count} queries\n\n{markdown_table(table)}"
    return text


if __name__ == "__main__":
    main()
