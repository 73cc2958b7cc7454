"""This module describes a network as plain data: a straight list of steps, each one layer or operation.

It is what every printer reads. Steps come from a trace of the space's own stand-alone network (``trace.py``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

Path = tuple[str, ...]

# Fields of a step that are sizes: in two blocks of equal form they may differ. The rest is the form.
SIZES = ("channels", "channels_in", "kernel", "kernel_width", "stride", "stride_width", "dilation", "groups", "size",
         "start", "height", "width")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a network.

    Attributes:
      op: what it does; the printers have a method of that name.
      inputs: numbers of the values that it reads.
      output: number of the value that it gives.
      shape: of its output, with a batch of one.
      scope: path of the module that runs it.
      kind: class of that module.
      sizes: numbers by their name in ``SIZES``.
      form: other facts: whether there is a bias, the name of an activation.
      owner: path of the module that owns its weights; None without weights.
      weights: shapes of the weights by their names.
      macs: multiply-accumulates for one image.
    """

    op: str
    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    scope: Path
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    form: tuple[Any, ...] = ()
    owner: Path | None = None
    weights: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    macs: int = 0

    @property
    def params(self) -> int:
        """Number of its trainable weights."""
        return sum(math.prod(shape) for shape in self.weights.values())


@dataclasses.dataclass(frozen=True)
class Network:
    """A network: steps in an order in which they can run. Value 0 is the images.

    Attributes:
      steps: in order.
      output: number of the value that is the result.
      kinds: class names of the modules by their paths, for names of printed classes.
    """

    steps: tuple[Step, ...]
    output: int
    kinds: dict[Path, str]

    def live(self) -> Network:
        """Return the network without the steps that the output does not depend on."""
        needed, kept = {self.output}, []
        for step in reversed(self.steps):
            if step.output in needed:
                needed.update(step.inputs)
                kept.append(step)
        return dataclasses.replace(self, steps=tuple(reversed(kept)))

    @property
    def params(self) -> int:
        """Number of trainable weights."""
        return sum(step.params for step in self.steps)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and products for one image."""
        return sum(step.macs for step in self.steps)


def tidied(network: Network) -> Network:
    """Return the network in fewer steps: sums of several terms in one, pools with the stride that follows them."""
    steps = {step.output: step for step in network.live().steps}
    readers = _readers(network.output, steps.values())
    for step in list(steps.values()):
        if step.op == "add":
            terms: list[int] = []
            for number, value in enumerate(step.inputs):
                inner = steps.get(value)
                # Only the first term: (a + b) + c rounds as a + b + c does, a + (b + c) does not.
                single = inner is not None and inner.op == "add" and readers[value] == 1 and number == 0
                if single and inner is not None and inner.scope == step.scope:
                    terms += inner.inputs
                    del steps[value]
                else:
                    terms.append(value)
            steps[step.output] = dataclasses.replace(step, inputs=tuple(terms))
        elif step.op == "subsample":
            inner = steps.get(step.inputs[0])
            if inner is None or readers[inner.output] > 1 or inner.op not in ("avg_pool", "max_pool"):
                continue
            if inner.sizes["stride"] == 1 and inner.form == (True,):
                sizes = {**inner.sizes, "stride": step.sizes["stride"]}
                steps[step.output] = dataclasses.replace(inner, output=step.output, shape=step.shape, sizes=sizes)
                del steps[inner.output]
    return dataclasses.replace(network, steps=tuple(_measured(list(steps.values()))))


def _measured(steps: list[Step]) -> list[Step]:
    """Let zeros and resized maps take their height and width from another map, so that they fit all image sizes."""
    place = {step.output: number for number, step in enumerate(steps)}
    resizes = ("resize_bilinear", "resize_nearest")
    for number, step in enumerate(steps):
        near: Iterable[Step] = ()
        if step.op == "zeros":
            near = (other for other in reversed(steps[:number]) if other.scope[:1] == step.scope[:1])
        elif step.op in resizes:
            beside = {v for reader in steps if step.output in reader.inputs for v in reader.inputs}
            near = (steps[place[v]] for v in beside if v in place and place[v] < number)
        for other in near:
            if other.op not in (*resizes, "zeros") and len(other.shape) == 4 and other.shape[1:3] == step.shape[1:3]:
                inputs = (other.output,) if step.op == "zeros" else (*step.inputs, other.output)
                sizes = {role: size for role, size in step.sizes.items() if role not in ("height", "width")}
                steps[number] = dataclasses.replace(step, inputs=inputs, sizes=sizes)
                break
    return steps


def _readers(output: int, steps: Iterable[Step]) -> dict[int, int]:
    """Return how many times each value is read; the network's output counts once."""
    counts = {output: 1}
    for step in steps:
        for value in step.inputs:
            counts[value] = counts.get(value, 0) + 1
    return counts


def shared_weights(steps: Sequence[Step]) -> Path | None:
    """Return the path of a module whose weights two steps use, if there is one."""
    seen: set[Path] = set()
    for step in steps:
        if step.owner is not None:
            if step.owner in seen:
                return step.owner
            seen.add(step.owner)
    return None
