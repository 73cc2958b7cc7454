"""This module says settings and fits in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from eproxy_jax.dps.fitted import FittedProxy, Member
from eproxy_jax.errors import listed
from eproxy_jax.fits.columns import usual_block
from eproxy_jax.fits.fitted import Fitted, ProcessModel
from eproxy_jax.fits.scores import Alpha
from eproxy_jax.types import ProxySettings

_BLOCKS = {
    "losses": ("loss of Eproxy", "losses of Eproxy"),
    "sizes": ("size", "sizes"),
    "graph": ("count in the graph", "counts in the graph"),
    "proxies": ("other number", "other numbers"),
}


def of_settings(settings: ProxySettings) -> str:
    """Return settings of Eproxy as a sentence.

    Example:
      >>> of_settings(ProxySettings())[:60]
      '10 steps of SGD at learning rate 1.2, momentum 0.9, weight d'
    """
    text = f"{settings.num_steps} steps of SGD at learning rate {settings.lr:g}, momentum {settings.momentum:g}, "
    text += f"weight decay {settings.weight_decay:g}; weights {settings.network_init}, barrier {settings.barrier_init}"
    for number, branch in enumerate(settings.branches):
        where = "the last stage" if number == 0 else f"the stage {number} before it"
        text += (
            f"; from {where} a {_square(branch.transform_kernel)} transform to {branch.transform_channels} channels "
            f"and a frozen {_square(branch.barrier_kernel)} barrier to {branch.target_channels}, towards "
            f"{' + '.join(branch.features)} times {branch.level:g}"
        )
    return text + "."


def _square(size: int) -> str:
    return f"{size} x {size}"


def of_member(number: int, member: Member) -> str:
    """Return a member of a fitted proxy as a sentence."""
    if member.macs_weight is None:
        share = f"its loss, with MACs by alpha = {member.settings.alpha:g}"
    else:
        rest = 1 - abs(member.macs_weight) - abs(member.params_weight)
        share = (
            f"{rest:.2f} rank of its loss, {member.macs_weight:+.2f} of MACs, {member.params_weight:+.2f} of parameters"
        )
    return f"Setting {number}, {share}: {of_settings(member.settings)}"


def of_proxy(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings that ``eproxy dps`` found, a sentence each."""
    proxy = FittedProxy.from_dict(dict(values))
    first = f"{len(proxy.members)} settings rank together, by the mean percentile." if len(proxy.members) > 1 else ""
    return tuple(filter(None, [first, *(of_member(i, one) for i, one in enumerate(proxy.members, start=1))]))


def of_fit(fitted: Fitted) -> tuple[str, ...]:
    """Return how a fit ranks, a few sentences."""
    labels, columns = len(fitted.labels), fitted.names
    found = [f"{labels} labels, from {min(fitted.labels):.5g} to {max(fitted.labels):.5g}; method {fitted.method}."]
    model = fitted.model
    if isinstance(model, ProcessModel):
        counted = Counter(map(usual_block, columns))
        parts = [f"{count} {_BLOCKS[block][count > 1]}" for block, count in counted.items()]
        found.append(f"It sees {len(columns)} columns: {', '.join(parts)}.")
        if model.prior is None:
            found.append("No label-free ranking stands behind it.")
        else:
            names = " + ".join(model.prior.names)
            found.append(f"The label-free sum of ranks {names} counts with the weight {model.weight:.2f} of 1.")
        shares = {
            name: sum(part.share * getattr(part.process, field) for part in model.parts)
            for name, field in (("smooth part", "signal"), ("linear part", "linear"), ("noise of a label", "noise"))
        }
        total = sum(shares.values())
        said = ", ".join(f"{name} {value / total:.0%}" for name, value in shares.items() if value > 0)
        found.append(f"What the labels add is a Gaussian process; its variance: {said}.")
    elif isinstance(model.score, Alpha):
        found.append(f"The loss {model.score.column}, with MACs by alpha = {model.score.alpha:g}.")
    else:
        for one in model.score.shares:
            rest = 1 - abs(one.macs) - abs(one.params)
            way = "" if one.sign > 0 else " (lower is better, say the labels)"
            sizes = f"{one.macs:+.2f} of MACs, {one.params:+.2f} of parameters"
            found.append(f"{rest:.2f} rank of {one.column}{way}, {sizes}.")
    if len(columns) <= 60:
        found.append(f"Columns: {listed(columns, 60)}.")
    return tuple(found)
