"""This module writes the record of a search and compares its result with simpler methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eproxy_jax import ranks, scoring, spaces
from eproxy_jax.dps import fitted, loss_bank, selection, tiered
from eproxy_jax.dps.evolution import SearchState
from eproxy_jax.dps.search import Problem
from eproxy_jax.execution import flops
from eproxy_jax.execution.execution import Execution
from eproxy_jax.execution.grouping import distinct_networks
from eproxy_jax.types import ProxySettings


def record(
    problem: Problem,
    histories: Mapping[str, SearchState],
    proxy: fitted.FittedProxy,
    numbers: Sequence[int],
    execution: Execution,
) -> dict[str, Any]:
    """Return the record of a search: best settings, whole history, work, and all that the search depends on.

    Args:
      problem: the search problem.
      histories: history of each kind of search.
      proxy: the proxy that the evolution found.
      numbers: numbers of the proxy's evaluations, best first.
      execution: devices and execution form.
    """
    state = histories["evolution"]
    count = int(state.count)
    fitness = np.asarray(state.fitness)[:count]
    # The settings of a warm start cost nothing here.
    work = [setting_flops(problem, np.asarray(state.genes)[i]) for i in range(len(problem.warm or ()), count)]
    return {
        "settings": proxy.to_dict(),
        "best": numbers[0],
        "fitness": float(fitness[numbers[0]]),
        "evaluations": count,
        "diverged": int((~np.isfinite(fitness)).sum()),
        "flops": {
            "needed": float(sum(needed for needed, _ in work)),
            "executed": float(sum(executed for _, executed in work)),
        },
        "history": {
            kind: [
                {
                    "genes": np.asarray(one.genes)[i].tolist(),
                    "fitness": float(value) if np.isfinite(value := np.asarray(one.fitness)[i]) else None,
                }
                for i in range(int(one.count))
            ]
            for kind, one in histories.items()
        },
        "problem": problem.identity("evolution", execution),
    }


def setting_flops(problem: Problem, genes: Any) -> tuple[float, float]:
    """Return the floating-point operations of the convolutions of one evaluation: (needed, executed).

    The needed ones count the kernels and channels of the architectures and of the setting. The executed ones count
    these as rounded up by groups of architectures and by widths of settings (execution form ``map``).
    """
    space, (batch, size) = problem.space, problem.images.shape[:2]
    settings = (problem.genes.decode(genes), tiered.rounded(problem.genes, genes))
    totals = np.zeros(2)
    for arch in distinct_networks(problem.labelled, space).distinct:
        backbones = (space.macs(arch), space.group(arch).executed_macs(arch))
        for i, (backbone, setting) in enumerate(zip(backbones, settings, strict=True)):
            transforms, barriers = flops.head_macs(setting, space.tap_channels(arch), batch)
            trained = backbone * batch * (size / 32) ** 2 + transforms
            totals[i] += flops.training_flops(trained, barriers, problem.search.num_steps)
    needed, executed = problem.search.weight_seeds * totals
    return float(needed), float(executed)


def bank_spec(problem: Problem) -> loss_bank.BankSpec:
    """Return all that the trainings of a comparison depend on."""
    return loss_bank.BankSpec(problem.space, problem.genes, problem.images, problem.key, problem.search.num_steps)


def compare(
    problem: Problem,
    found: Mapping[str, fitted.FittedProxy],
    evaluation: Mapping[Any, float],
    path: Path,
    plain: ProxySettings,
    execution: Execution,
    progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, ranks.RankQuality]:
    """Measure the rank quality of fitted proxies and of simpler methods on evaluation architectures.

    Args:
      problem: the search problem.
      found: fitted proxies by kind of search.
      evaluation: architectures with their values, disjoint from the labelled ones.
      path: a loss bank for the trainings, so that a killed comparison resumes.
      plain: the settings to compare with.
      execution: devices and execution form.
      progress: called with (trainings done, in total, diverged), of the plain settings and then of those found.

    Returns:
      Rows by name: ``macs``, ``params``, both ``fitted`` (dead edges removed, sign by the labels), ``plain``,
      ``evolution`` and ``random`` (best setting of each), and their ``... x K`` ensembles. Disconnected networks rank
      last in all rows but the first two, which are sizes as written.
    """
    space, table, archs = problem.space, problem.genes, list(evaluation)
    truth = np.asarray(list(evaluation.values()), np.float64)
    networks = distinct_networks(archs, space)
    connected = networks.connected
    sizes, labelled_sizes = (spaces.size_measures(space, some) for some in (archs, problem.labelled))
    signed = selection.signs(labelled_sizes, problem.truth)[:, None] * sizes
    macs, params = np.where(connected, signed, -np.inf)
    fractions = spaces.macs_fractions(space, archs)
    job = scoring.make_job(space, plain, problem.images, problem.key, execution)
    scores: dict[str, Any] = {
        "macs": [space.macs(arch) for arch in archs],
        "params": [space.params(arch) for arch in archs],
        "macs, fitted": macs,
        "params, fitted": params,
        "plain": scoring.score_networks(
            job, networks, progress and (lambda done, total: progress(done, total, 0))
        ).score,
    }
    spec = bank_spec(problem)
    genomes = {kind: [table.encode(m.settings) for m in proxy.members] for kind, proxy in found.items()}
    with loss_bank.LossBank(path, spec.identity(execution)) as bank:
        wide = dataclasses.replace(execution, chunk_size=loss_bank.CHUNK * len(execution.devices))
        loss_bank.fill(bank, spec, [g for own in genomes.values() for g in own], archs, wide, progress)
        losses = bank.losses(spec.num_steps)[:, bank.columns(space, archs), -1]
        rows = {kind: bank.rows(table, own) for kind, own in genomes.items()}
    for kind, proxy in found.items():
        own = losses[rows[kind]]
        scores[kind] = fitted.FittedProxy(proxy.members[:1]).scores(own[:1], sizes, fractions, connected)
        scores[f"{kind} x {len(proxy.members)}"] = proxy.scores(own, sizes, fractions, connected)
    return {name: ranks.rank_quality(score, truth) for name, score in scores.items()}
