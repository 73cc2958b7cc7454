"""This module turns an architecture into the text of a file, and checks its parameters and MACs against the space's."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.exports import blocks, flax_source, strings, torch_source, train_example
from eproxy_jax.exports import trace as tracing
from eproxy_jax.exports.marker import MARKER
from eproxy_jax.exports.network import Network, Step, shared_weights, tidied
from eproxy_jax.spaces.base import SearchSpace
from eproxy_jax.spaces.flax_family import FlaxFamily

FORMATS = ("flax", "torch", "strings")
_COUNTED_SIZE = 32  # pixels of the images that a space counts MACs for


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network that is ready to print.

    Attributes:
      space: its search space.
      written: the architecture as given, as the space writes it.
      arch: the canonical architecture.
      network: its steps, without dead ones.
      root: the steps in blocks.
      params: trainable weights of the backbone, equal to ``space.params``.
      dead_params: those of them that no output depends on, which are left out.
      macs: multiply-accumulates of the backbone for one 3x32x32 image, equal to ``space.macs``.
      num_classes: of the classifier.
      image_size: height and width that the network was traced with.
    """

    space: SearchSpace
    written: str
    arch: Any
    network: Network
    root: blocks.Block
    params: int
    dead_params: int
    macs: int
    num_classes: int
    image_size: int

    def source(self, format: str = "flax") -> str:
        """Return the text of a file: "flax" or "torch"."""
        printer = flax_source if format == "flax" else torch_source
        return printer.source(self.root, _header(self, format), self.num_classes)

    def variables(self, variables: Any) -> dict[str, Any]:
        """Return the exported Flax network's variables from those of ``space.to_flax(arch, num_classes)``.

        Args:
          variables: {"params": ..., "batch_stats": ...} of the canonical architecture's stand-alone network.

        Returns:
          The same weights under the names of the exported file.
        """
        found: dict[str, Any] = {"params": {}, "batch_stats": {}}
        for path, step in blocks.paths(self.root):
            for collection in found:
                owned = variables.get(collection, {})
                for part in step.owner or ():
                    owned = owned.get(part, {})
                arrays = {name: owned[name] for name in step.weights} if collection == "params" else {}
                if step.op == "batch_norm" and collection == "batch_stats":
                    arrays = dict(owned)
                for place, name, array in _placed(step, arrays):
                    inner = found[collection]
                    for part in (*path, *place):
                        inner = inner.setdefault(part, {})
                    inner[name] = array
        return found


def _placed(step: Step, arrays: dict[str, Any]) -> list[tuple[tuple[str, ...], str, Any]]:
    """Return (place inside the layer, name, array) of a step's weights, as the exported file has them."""
    if step.op == "halving_conv":
        kernel, half = arrays.get("kernel"), step.sizes["channels"] // 2
        if kernel is None:
            return []
        return [(("first",), "kernel", kernel[..., :half]), (("second",), "kernel", kernel[..., half:])]
    return [((), name, array) for name, array in arrays.items()]


def exported(space: SearchSpace, arch: Any, num_classes: int = 10, image_size: int = 32) -> Exported:
    """Trace an architecture's network and check it; see :func:`export`."""
    arch = space.parse(arch)
    text, arch = space.format(arch), space.canonical(arch)
    if not space.is_connected(arch):
        raise ValueError(
            f"{space.name}: {quoted(text)} cannot be exported: its output does not depend on the image, so it computes "
            "a constant: choose a connected architecture"
        )
    for name, value, most in (("num_classes", num_classes, 10**6), ("image_size", image_size, 4096)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{name}: expected an integer from 1 to {most:,}, got {quoted(value)}")
    with tracing.explained(space, text):
        traced = _traced(space, arch, num_classes, image_size)
        counted = traced if image_size == _COUNTED_SIZE else _traced(space, arch, num_classes, _COUNTED_SIZE)
        if (shared := shared_weights(traced.steps)) is not None:
            raise tracing.ExportError(f"{'/'.join(shared)}: two steps use the same weights")
        backbone = _backbone(space, arch)
        steps = [step for step in counted.steps if step.owner in backbone]
        params, macs = sum(step.params for step in steps), sum(step.macs for step in steps)
        for what, own, theirs in (("parameters", params, space.params(arch)), ("MACs", macs, space.macs(arch))):
            if own != theirs:
                raise tracing.ExportError(
                    f"the traced backbone has {own:,} {what}, the space counts {theirs:,}: this is a fault of one of "
                    "the two; please report it"
                )
        network = tidied(traced)
        kept = {step.output for step in network.steps}
        dead = sum(step.params for step in traced.steps if step.owner in backbone and step.output not in kept)
    root = blocks.tree(network)
    return Exported(space, text, arch, network, root, params, dead, macs, num_classes, image_size)


def _module(space: SearchSpace, arch: Any, num_classes: int | None) -> tuple[Any, Any]:
    """Return (init, apply) of the network: images -> logits, or the last feature map of a backbone."""
    if isinstance(space, FlaxFamily):
        own = space.network(arch)

        def last_map(variables: Any, images: Any) -> Any:
            # Batch norms show as whole operations, which read no averages: those would look never updated.
            return own.taps({name: tree for name, tree in variables.items() if name != "batch_stats"}, images)[0]

        return lambda x: own.init(jax.random.key(0), x), last_map
    net = space.to_flax(arch, num_classes)

    def apply(variables: Any, images: Any) -> Any:
        result = net.apply(variables, images, train=False) if num_classes is not None else net.apply(variables, images)
        return result if num_classes is not None else result[0]

    return lambda x: net.init(jax.random.key(0), x), apply


def _traced(space: SearchSpace, arch: Any, num_classes: int, image_size: int) -> Network:
    init, apply = _module(space, arch, num_classes)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    network = tracing.trace(apply, jax.eval_shape(init, images), images)
    return _with_classifier(network, num_classes) if isinstance(space, FlaxFamily) else network


def _with_classifier(network: Network, num_classes: int) -> Network:
    """Return the network with a mean over pixels and a dense layer behind its last feature map."""
    last = next(step for step in network.steps if step.output == network.output)
    channels, number = last.shape[-1], max(step.output for step in network.steps) + 1
    if len(last.shape) != 4:
        raise tracing.ExportError(f"its first result has the shape {last.shape}, not that of a feature map")
    mean = Step("mean", (network.output,), number, (1, channels), ())
    weights = {"kernel": (channels, num_classes), "bias": (num_classes,)}
    dense = Step(
        "dense", (number,), number + 1, (1, num_classes), ("classifier",),
        {"channels_in": channels, "channels": num_classes}, (True,), ("classifier",), weights, channels * num_classes,
    )  # fmt: skip
    return dataclasses.replace(network, steps=(*network.steps, mean, dense), output=number + 1)


def _backbone(space: SearchSpace, arch: Any) -> set[tuple[str, ...]]:
    """Return the paths of the modules with weights of the network without its classifier."""
    init, _ = _module(space, arch, None)
    images = jax.ShapeDtypeStruct((1, _COUNTED_SIZE, _COUNTED_SIZE, 3), jnp.float32)
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.eval_shape(init, images)["params"])
    return {tuple(key.key for key in path[:-1]) for path, _ in leaves}


# --- text ----------------------------------------------------------------------------------------------------


def export(space: SearchSpace, arch: Any, format: str = "flax", num_classes: int = 10, image_size: int = 32) -> str:
    """Write an architecture as a file that stands alone.

    The network is that of the canonical architecture, without dead parts, with a classifier. Weights start as the
    library draws them. Its parameters and MACs are checked against the space's own counts.

    Args:
      space: a search space, also one of a user's own modules (``spaces.from_flax``).
      arch: an architecture, in any notation of the space.
      format: "flax" or "torch", a file that imports nothing but that library; or "strings", the architecture in the
        field's notations as JSON.
      num_classes: outputs of the classifier.
      image_size: height and width of the images that the MACs are told for.

    Returns:
      The text of the file.

    Raises:
      ValueError: unknown architecture or format, an architecture whose output does not depend on the image, or a
        network with parts that an exported file has no layer for.

    Example:
      >>> from eproxy_jax import spaces
      >>> space = spaces.get("transnas_macro", stem_channels=4)
      >>> print(export(space, "64-1234-basic", "strings").splitlines()[3])
        "canonical": "64-1232-basic",
    """
    if format not in FORMATS:
        raise ValueError(
            f"format: unknown {quoted(format)}{did_you_mean(str(format), FORMATS)}; known: flax, torch, strings"
        )
    if format == "strings":
        return strings_of(space, arch)
    return exported(space, arch, num_classes, image_size).source(format)


def train_script(network_file: str, num_classes: int = 10, image_size: int = 32) -> str:
    """Return the text of a script that trains an exported Flax file.

    Args:
      network_file: name of that file, in the script's own folder.
      num_classes: of its classifier.
      image_size: of the synthetic images that it trains on without data.
    """
    text = Path(train_example.__file__).read_text(encoding="utf-8")
    text = text.replace("IMAGE_SIZE, NUM_CLASSES = 32, 10", f"IMAGE_SIZE, NUM_CLASSES = {image_size}, {num_classes}")
    text = text.replace('HERE / "NETWORK_FILE"', f"HERE / {json.dumps(network_file)}")
    return f"{MARKER}\n{text.replace('NETWORK_FILE', json.dumps(network_file)[1:-1])}"


def strings_of(space: SearchSpace, arch: Any) -> str:
    """Return an architecture's strings, counts and notations as a JSON object."""
    arch = space.parse(arch)
    canonical = space.canonical(arch)
    values = {
        "space": space.name,
        "arch": space.format(arch),
        "canonical": space.format(canonical),
        "connected": bool(space.is_connected(arch)),
        "params": int(space.params(canonical)),
        "macs": int(space.macs(canonical)),
        "notations": strings.notations(space, arch),
    }
    rows = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items() if name != "notations"]
    inner = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in values["notations"].items()]
    lines = ",\n".join([*rows, '  "notations": {' + ("\n" + ",\n".join(inner) + "\n  }" if inner else "}")])
    return f"{{\n{lines}\n}}\n"


def _header(ready: Exported, format: str) -> str:
    """Return the first line and the docstring of a file."""
    written, canonical = ready.written, ready.space.format(ready.arch)
    sizes = ", ".join(
        f"{field.name}={getattr(ready.space, field.name)!r}"
        for field in dataclasses.fields(ready.space)
        if isinstance(getattr(ready.space, field.name), (int, str))
    )
    whole, size = ready.network, ready.image_size
    counts = [
        f"parameters: {whole.params:,}, of which the backbone has {ready.params - ready.dead_params:,}",
        f"multiply-accumulates: {whole.macs:,} for one image of {size} x {size} pixels",
    ]
    if size != _COUNTED_SIZE:
        counts.append(f"of the backbone at {_COUNTED_SIZE} x {_COUNTED_SIZE} pixels: {ready.macs:,}")
    if ready.dead_params:
        counts.append(f"left out, for no output depends on them: {ready.dead_params:,} parameters of {ready.params:,}")
    call = (
        ["network = Network()", "variables = network.init(jax.random.key(0), images)  # [B, H, W, 3]",
         'logits, updates = network.apply(variables, images, mutable=["batch_stats"])  # training',
         "logits = network.apply(variables, images, train=False)"]
        if format == "flax"
        else ["network = Network()", "logits = network(images)  # [B, 3, H, W]; network.eval() before evaluation"]
    )  # fmt: skip
    names = [f"architecture: {written}"] + ([f"canonical: {canonical}"] if canonical != written else [])
    lines = [
        f"An image classifier of the search space {ready.space.name}{f' ({sizes})' if sizes else ''}.",
        "",
        *names,
        *counts,
        "",
        "Use it as:",
        "",
        *(f"  {line}" for line in call),
    ]
    wrapped: list[str] = []
    for line in lines:
        wrapped += textwrap.wrap(line, 116, subsequent_indent="  ", break_on_hyphens=False) or [""]
    text = "\n".join(wrapped).replace("\\", "\\\\").replace('"""', "'''")
    return f'{MARKER}\n"""{text}\n"""'
