"""Fit the proxy to a task with a few measured networks, then rank others with it.

  python examples/twenty_labels.py                                      # a toy
  python examples/twenty_labels.py --truth accuracy.json --labels 20    # yours: a file of [architecture, value] pairs

Prints Spearman's correlation with the values of networks that the search has not seen: of plain Eproxy, of MACs and of
the settings found.
"""

import argparse
import json
import tempfile
from pathlib import Path

import eproxy_jax as ep


def main() -> None:
    """Search with labels, score the other networks, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, help="JSON list of [architecture, value] pairs")
    parser.add_argument("--labels", type=int, default=6, help="how many of them the search sees (default 6)")
    parser.add_argument("--evaluations", type=int, default=12, help="settings tried (default 12)")
    arguments = parser.parse_args()
    ep.configure()

    space = ep.spaces.get("nasbench201", stem_channels=2, cells_per_stage=1)
    images = ep.default_images(num=4, size=8)
    if arguments.truth:
        pairs = [(space.parse(arch), float(value)) for arch, value in json.loads(arguments.truth.read_text())]
    else:
        # The toy's measured value: how many edges of the cell do anything, pools left out.
        pairs = [(a, float(sum(op in (1, 2, 3) for op in space.canonical(a)))) for a in space.sample(16, seed=0)]
    labelled = dict(pairs[: arguments.labels])
    functions = {space.canonical(arch) for arch in labelled}
    held_out = {arch: value for arch, value in pairs if space.canonical(arch) not in functions}

    # One branch, one kernel size, one width: a toy. Leave ``genes`` out for the paper's choices.
    genes = ep.GeneTable(
        branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(8,), target_channels=(8,)
    )
    search = ep.SearchSpec(num_evaluations=arguments.evaluations, population_size=6, tournament_size=3)
    found = ep.search_proxy(labelled, space, genes, search, images, ensemble=2)

    plain = ep.ProxySettings(branches=(ep.BranchSettings(transform_channels=8, barrier_kernel=1, target_channels=8),))
    truth = list(held_out.values())
    by_plain = ep.score(list(held_out), space, plain, images)
    with tempfile.TemporaryDirectory() as folder:
        by_found = ep.runs.score(list(held_out), space, found.proxy, images, workdir=folder)
    rows = {"plain Eproxy": by_plain.score, "MACs": by_plain.macs, "settings found": by_found.score}
    for name, column in rows.items():
        print(f"{name:15} {ep.rank_quality(column, truth).spearman:6.3f}")


if __name__ == "__main__":
    main()
