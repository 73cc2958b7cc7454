"""``eproxy dps`` searches settings from a few labelled architectures and compares them with simpler methods."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eproxy_jax.cli import common
from eproxy_jax.cli.common import UsageError
from eproxy_jax.errors import SEEDS, quoted

_EPILOG = """\
examples:
  eproxy dps --config configs/nasbench201.py:small --truth accuracy.json --num-labels 20 --seed 0 --workdir runs/dps
  eproxy dps --config configs/nasbench201.py:small --labels twenty.json --truth accuracy.json --workdir runs/dps
  eproxy score --config configs/nasbench201.py:small --settings runs/dps/settings.json --all --workdir runs/all
  eproxy dps --config configs/nasbench201.py:small --truth accuracy.json --proxy cheap --workdir runs/dps
  eproxy score --config configs/nasbench201.py:small --settings runs/dps/fit/settings.json --all --workdir runs/all

Labelled and evaluation architectures are always disjoint, as functions. A killed run, started again with the same
flags, resumes. Sizes of the search are fields of the configuration: --config.dps.population_size=20,
--config.dps.genes.alpha='(0.0,)'.
"""


def add_parser(commands: common.Commands) -> None:
    """Add the command to the subparsers of ``eproxy``."""
    dps = common.add_command(
        commands, "dps", "search settings that rank a space, from a few labelled architectures", _EPILOG
    )
    common.add_proxy_flags(dps)
    labels = dps.add_argument_group("labelled and evaluation architectures")
    common.add_truth_flags(labels, required=True)
    common.add_dataset_flag(labels)
    labels.add_argument("--labels", metavar="FILE", help="labelled architectures (default: drawn from --truth)")
    labels.add_argument("--num-labels", type=common.positive, metavar="M", help="how many to draw (default 20)")
    labels.add_argument(
        "--seed", type=common.seed, default=0, metavar="S", help="of the draw and the search (default 0)"
    )
    labels.add_argument(
        "--num-eval",
        type=common.natural,
        default=500,
        metavar="N",
        help="evaluation architectures (default 500; 0: none)",
    )
    search = dps.add_argument_group("search")
    search.add_argument("--num-evaluations", type=common.positive, metavar="N", help="settings tried (default 200)")
    search.add_argument("--max-seconds", type=float, metavar="T", help="stop searching after T seconds of it")
    search.add_argument("--no-macs", action="store_true", help="search without the MACs gene (alpha = 0)")
    search.add_argument(
        "--random-search", action="store_true", help="also a random search of the same budget, to compare"
    )
    search.add_argument("--bank", metavar="FILE", help="start the evolution from the fittest settings of a loss bank")
    search.add_argument(
        "--ensemble", type=common.positive, default=8, metavar="K", help="settings combined (default 8)"
    )
    fit = dps.add_argument_group("fit to columns, after the search")
    fit.add_argument(
        "--proxy",
        metavar="NAME[,NAME...]",
        help="also compute these, such as cheap, and fit a ranking to them and to the settings found: DIR/fit",
    )
    output = dps.add_argument_group("output")
    output.add_argument(
        "--workdir", metavar="DIR", default=".", help="folder for settings, history, figures (default .)"
    )
    output.add_argument("--no-plot", action="store_true", help="draw no figure")
    common.add_execution_flags(dps)


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    common.check_source(arguments, overrides)
    common.check_truth(arguments)
    if arguments.labels is not None and arguments.num_labels is not None:
        raise UsageError("--num-labels draws labels from --truth; with --labels FILE the file says which")
    if arguments.max_seconds is not None and not arguments.max_seconds > 0:
        raise UsageError(f"--max-seconds: expected a positive number, got {arguments.max_seconds}")
    from eproxy_jax import files

    spec = _spec(arguments, overrides)
    labelled_images = None
    if arguments.proxy is not None:
        from eproxy_jax import columns
        from eproxy_jax.proxies.inputs import NUM_IMAGES

        columns.wanted_columns(arguments.proxy)  # tells unknown names before hours of search
        labelled_images = common.run_spec(arguments, overrides, NUM_IMAGES)
    workdir = files.folder(arguments.workdir)
    message = f"{workdir}: another search is running in this folder: wait for it, or choose another --workdir"
    with files.locked_folder(workdir, message):
        return _run_in(workdir, arguments, spec, labelled_images)


def _run_in(workdir: Path, arguments: argparse.Namespace, spec: Any, labelled_images: Any) -> int:
    """Search, compare, fit and report in a folder that no other search uses.

    ``labelled_images`` is the specification that holds the images of --proxy, or None.
    """
    from eproxy_jax import files, images
    from eproxy_jax.dps import comparison, loss_bank
    from eproxy_jax.dps.search import Kind, Problem, fitted_proxy, prepare, show_progress
    from eproxy_jax.dps.search import run as run_search
    from eproxy_jax.jsonlines import fingerprint
    from eproxy_jax.progress import announce, close
    from eproxy_jax.runs.session import versions

    labelled, evaluation = _split(arguments, spec.space)
    execution = common.execution_of(arguments)
    batch = images.standardize(spec.images)
    warm = _warm_start(arguments, spec, execution, batch, labelled) if arguments.bank else None
    problem = Problem(
        space=spec.space,
        genes=spec.genes,
        search=spec.search,
        images=batch,
        key=spec.weight_seed,
        search_key=arguments.seed,
        labelled=tuple(labelled),
        truth=tuple(labelled.values()),
        warm=warm,
    )
    kinds: list[Kind] = ["evolution", "random"] if arguments.random_search else ["evolution"]
    search_id = fingerprint(problem.identity("evolution", execution))
    _check_outputs(workdir, arguments, problem, kinds, execution, bool(evaluation))
    announce(f"{len(labelled)} labelled architectures, {len(evaluation)} for evaluation; compiling the search")
    search = prepare(problem, execution)
    announce(f"compiled in {search.compile_seconds:.1f} s")
    histories, seconds = {}, {"compile": round(search.compile_seconds, 2)}
    for kind in kinds:
        start = time.perf_counter()
        state = run_search(
            search,
            problem,
            workdir,
            kind,
            execution,
            arguments.max_seconds,
            show_progress(spec.search, kind),
        )
        seconds[kind] = round(time.perf_counter() - start, 2)
        histories[kind] = state
        close()  # --max-seconds may have ended it early
    found, numbers = {}, {}
    for kind, state in histories.items():
        found[kind], numbers[kind] = fitted_proxy(problem, state, arguments.ensemble)
    record = comparison.record(problem, histories, found["evolution"], numbers["evolution"], execution)
    rows: dict[str, Any] = {}
    if evaluation:
        announce(f"comparing on {len(evaluation)} evaluation architectures")
        path, show = workdir / "evaluation.jsonl", loss_bank.show_progress()
        rows = comparison.compare(problem, found, evaluation, path, spec.settings, execution, show)
    record |= {
        "search": search_id,
        "evaluation": {name: dataclasses.asdict(row) for name, row in rows.items()},
        "seconds": seconds,
        "command": common.command_line(),
        "versions": versions(),
    }
    settings = {**record["settings"], "search": search_id}  # which search found them
    files.write_atomically(workdir / "search.json", json.dumps(record, indent=1) + "\n")
    files.write_atomically(workdir / "settings.json", json.dumps(settings, indent=1) + "\n")
    _report(workdir, record, rows, spec)
    if labelled_images is not None:
        _fit(workdir, arguments, labelled_images, problem, found["evolution"], evaluation, execution)
    if not arguments.no_plot:
        from eproxy_jax.runs import printed

        figure, title = workdir / "search.png", f"DPS on {spec.space.name}, {len(labelled)} labels"
        fitness = {kind: state.fitness for kind, state in histories.items()}
        print(common.draw(figure, lambda: printed.search_plot(figure, fitness, title, figure.with_suffix(".json"))))
    return 0


def _check_outputs(
    workdir: Path, arguments: argparse.Namespace, problem: Any, kinds: Sequence[Any], execution: Any, compares: bool
) -> None:
    """Check, before anything is compiled, that no file of somebody else or of another search would be replaced."""
    from eproxy_jax.dps import comparison, loss_bank
    from eproxy_jax.dps.search import HistoryFile, history_path
    from eproxy_jax.jsonlines import fingerprint
    from eproxy_jax.runs import outputs

    records = [workdir / name for name in ("search.json", "settings.json")]
    figure, evaluation = workdir / "search.png", workdir / "evaluation.jsonl"
    written = [*records, *(history_path(workdir, kind) for kind in kinds), figure, evaluation]
    if arguments.proxy is not None:
        from eproxy_jax.runs import searched

        written += searched.written_files(workdir)
    common.check_outputs(arguments, written)
    for kind in kinds:
        HistoryFile(workdir, kind, fingerprint(problem.identity(kind, execution))).close()
    for path in records:
        outputs.check_marked(path, "search", fingerprint(problem.identity("evolution", execution)))
    if not arguments.no_plot:
        outputs.check_figure(figure, records[0])
    if compares:
        loss_bank.LossBank(evaluation, comparison.bank_spec(problem).identity(execution)).close()


def _spec(arguments: argparse.Namespace, overrides: Sequence[str]) -> Any:
    spec = common.search_spec(arguments, overrides)
    genes, search = spec.genes, spec.search
    if arguments.no_macs:
        search = dataclasses.replace(search, blend="alpha")
        genes = dataclasses.replace(genes, alpha=(0.0,))
    genes = search.genes_with_effect(genes)
    if arguments.num_evaluations is not None:
        search = dataclasses.replace(search, num_evaluations=arguments.num_evaluations)
    return dataclasses.replace(spec, genes=genes, search=search)


def _split(arguments: argparse.Namespace, space: Any) -> tuple[dict[Any, float], dict[Any, float]]:
    """Split into labelled and evaluation architectures with their values, disjoint as functions."""
    from eproxy_jax.dps.labels import connected_labels
    from eproxy_jax.progress import announce
    from eproxy_jax.sampling import draw_distinct

    truth = common.read_truth(arguments, arguments.truth, space)
    common.announce_truth(truth)
    archs = list(truth)
    if arguments.labels is not None:
        labelled = common.read_truth(arguments, arguments.labels, space)
        common.announce_truth(labelled)
    else:
        count = arguments.num_labels or 20
        if count >= len(archs):
            raise UsageError(
                f"--num-labels {count}: {arguments.truth} has {len(archs)} architectures, which leaves none to evaluate"
            )
        drawn = draw_distinct(len(archs), count, arguments.seed, arguments.truth)
        labelled = {archs[i]: truth[archs[i]] for i in drawn}
    labelled = connected_labels(space, labelled, announce)
    known = {space.canonical(arch) for arch in labelled}
    rest = [arch for arch in archs if space.canonical(arch) not in known]
    if arguments.num_eval == 0:
        return labelled, {}
    if len(rest) > arguments.num_eval:
        # Another random stream than that of the labels, and the same for every number of labels.
        drawn = draw_distinct(len(rest), arguments.num_eval, (10_000 + arguments.seed) % SEEDS, arguments.truth)
        rest = [rest[i] for i in drawn]
    if 0 < len(rest) < 3:
        raise UsageError(f"{arguments.truth}: {len(rest)} architectures left to evaluate; need 3, or --num-eval 0")
    return labelled, {arch: truth[arch] for arch in rest}


def _warm_start(arguments: argparse.Namespace, spec: Any, execution: Any, batch: Any, labelled: Any) -> Any:
    from eproxy_jax.dps import loss_bank

    if not Path(arguments.bank).exists():
        raise FileNotFoundError(f"no loss bank at {quoted(arguments.bank)}: make one with eproxy bank")
    bank_spec = loss_bank.BankSpec(spec.space, spec.genes, batch, spec.weight_seed, spec.settings.num_steps)
    with loss_bank.LossBank(Path(arguments.bank), bank_spec.identity(execution), read_only=True) as bank:
        return loss_bank.fittest_of_bank(bank, bank_spec, labelled, spec.search.population_size, spec.search.blend)


def _report(workdir: Path, record: dict[str, Any], rows: dict[str, Any], spec: Any) -> None:
    from eproxy_jax.runs import printed

    print(
        f"fitness on the labels: {record['fitness']:.3f} (evaluation {record['best']} of {record['evaluations']}), "
        f"{record['diverged']} settings diverged"
    )
    flops = record["flops"]
    print(f"FLOPs executed / needed: {flops['executed'] / flops['needed']:.2f}")
    if rows:
        print()
        print(printed.quality_table(rows))
    print()
    print(f"settings: {workdir / 'settings.json'}  (eproxy score --settings)")
    print(f"history:  {workdir / 'search.json'}")


def _fit(
    workdir: Path,
    arguments: argparse.Namespace,
    spec: Any,
    problem: Any,
    proxy: Any,
    evaluation: dict[Any, float],
    execution: Any,
) -> None:
    """Fit a ranking to the settings found and to the columns of --proxy, and print its quality."""
    from eproxy_jax.runs import printed, searched

    result = searched.fit_members(
        problem,
        proxy,
        evaluation,
        arguments.proxy,
        spec.images,
        spec.labels,
        spec.num_classes,
        plain=spec.settings,
        workdir=workdir,
        execution=execution,
        command=common.command_line(),
    )
    print()
    print(f"fit to {len(result.saved.fitted.names)} columns:")
    print(printed.quality_table({"left out": result.saved.fitted.quality, **result.quality}))
    print()
    print(f"settings: {workdir / searched.FOLDER / 'settings.json'}  (eproxy score --settings)")
