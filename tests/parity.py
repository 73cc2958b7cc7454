"""The cases of the PyTorch parity tests, ours and PyTorch's side of each, and the script that writes the golden file.

Weights, images, targets and barriers are :func:`helpers.pattern`, a formula, so that a case is fully described by its
names and sizes. ``python tests/parity.py`` computes new and changed cases with PyTorch (``--all``: every one) and writes
golden_parity.json.
"""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from helpers import CELLS, SPACES, THREE_BRANCHES, TINY, pattern, pattern_images, pattern_tree, tap_params, used_params

from eproxy_jax import proxy
from eproxy_jax.proxy import ProxyTask

GOLDEN = Path(__file__).with_name("golden_parity.json")
SETTINGS = {"one_branch": TINY, "three_branches": THREE_BRANCHES}
# Branches are the same code in all spaces; these have taps of different shapes.
THREE_BRANCH_SPACES = ("nasbench201", "transnas_macro")
CASES = [
    (name, settings, number)
    for name in SPACES
    for settings in SETTINGS
    for number in range(len(CELLS[name]))
    if settings == "one_branch" or (number == 0 and name in THREE_BRANCH_SPACES)
]


def task_arrays(settings) -> ProxyTask:
    """Float64 images, targets and barriers of a case."""
    images = pattern_images(4, 16)
    targets, barriers = [], []
    for number, branch in enumerate(settings.branches):
        size, channels = branch.barrier_kernel, branch.target_channels
        targets.append(pattern((len(images), 8, 8, channels), 2000 + number, branch.level))
        kernel = pattern((size, size, branch.transform_channels, channels), 3000 + number, 0.3)
        barriers.append({"kernel": kernel, "bias": pattern((channels,), 4000 + number)})
    return ProxyTask(images=images, targets=tuple(targets), barriers=tuple(barriers))


def network_and_params(space, settings, cell):
    """The universal proxy network of a cell in float64 and pattern weights for it."""
    group = space.group(cell)
    network = proxy.ProxyNetwork(group.universal(jnp.float64), proxy.ProxySpec.of(settings).heads, jnp.float64)
    images = jax.ShapeDtypeStruct((4, 16, 16, 3), jnp.float64)
    encoded = jax.ShapeDtypeStruct(group.encode([cell])[0].shape, jnp.int32)
    shapes = jax.eval_shape(lambda x, e: network.init(jax.random.key(0), x, e), images, encoded)["params"]
    params = pattern_tree(shapes)
    return network, {**params, "backbone": used_params(group, cell, params["backbone"])}


def standalone_params(space, cell, params):
    """The same weights for backbone ``to_flax(cell)`` and the transforms."""
    return {**tap_params(space, cell, params), "backbone": space.group(cell).extract(cell, params["backbone"])}


def torch_losses(name: str, settings_name: str, number: int) -> list[float]:
    """The case in plain PyTorch, float64: loss at each of the ten steps."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import torch
    from peer import torch_reference as reference

    space, settings, cell = SPACES[name], SETTINGS[settings_name], CELLS[name][number]
    _, params = network_and_params(space, settings, cell)
    task = task_arrays(settings)
    backbone = reference.BACKBONES[name](cell, **space.identity()["sizes"])
    network = reference.ProxyNetwork(backbone, proxy.ProxySpec.of(settings).heads).to(torch.float64)
    reference.load_params(network, standalone_params(space, cell, params))
    barriers = [reference.frozen_barrier(b["kernel"], b["bias"]) for b in task.barriers]
    targets = [reference.tensor(t) for t in task.targets]
    images = reference.tensor(task.images)
    return reference.train_losses(
        network, images, targets, barriers, settings.lr, settings.momentum, settings.weight_decay, settings.num_steps
    )


def torch_taps(name: str, cell, params) -> list[np.ndarray]:
    """Feature taps of a cell's network in plain PyTorch on the cases' images, NHWC.

    Args:
      name: of the space.
      cell: the cell.
      params: of the universal backbone.
    """
    from peer import torch_reference as reference

    space = SPACES[name]
    module = reference.BACKBONES[name](cell, **space.identity()["sizes"]).double()
    reference.load_params(module, space.group(cell).extract(cell, params))
    return [tap.detach().numpy().transpose(0, 2, 3, 1) for tap in module(reference.tensor(pattern_images(4, 16)))]


def our_batch_losses(name: str) -> tuple[list[int], np.ndarray]:
    """Cells that share the first one's program, at least two, trained in one batch, float64: (numbers, losses [A, S])."""
    space, settings, cells = SPACES[name], SETTINGS["one_branch"], CELLS[name]
    group = space.group(cells[0])
    numbers = [number for number, cell in enumerate(cells) if space.group(cell) == group]
    numbers = numbers if len(numbers) > 1 else [0, 0]
    network = network_and_params(space, settings, cells[0])[0]
    each = [network_and_params(space, settings, cells[number])[1] for number in numbers]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    encoded = jnp.asarray(group.encode([cells[number] for number in numbers]))
    task = jax.tree.map(jnp.asarray, task_arrays(settings))
    train = functools.partial(proxy.train_losses, network, settings.num_steps)
    hyper = proxy.ProxyHyper.of(settings, jnp.float64)
    return numbers, np.asarray(jax.jit(jax.vmap(train, (0, 0, None, None)))(params, encoded, task, hyper))


def described(case) -> dict:
    """A case's inputs, as the golden file holds them."""
    name, settings, number = case
    inputs = {
        "space": name,
        "sizes": SPACES[name].identity()["sizes"],
        "settings": SETTINGS[settings].to_dict(),
        "case": list(case),
        "cell": list(CELLS[name][number]),
        "weights": "helpers.pattern_tree over the universal parameters; see parity.task_arrays for the rest",
    }
    return json.loads(json.dumps(inputs))


def main(everything: bool) -> None:
    """Write the golden file: what is new or has other inputs than before, or ``everything``."""
    jax.config.update("jax_enable_x64", True)
    import torch

    before = {} if everything or not GOLDEN.is_file() else json.loads(GOLDEN.read_text())
    known = {tuple(row["case"]): row for row in before.get("cases", ())}
    rows = []
    for case in CASES:
        row, old = described(case), known.get(case, {})
        same = row == {key: value for key, value in old.items() if key != "losses"}
        rows.append(old if same else {**row, "losses": torch_losses(*case)})
        print("kept" if same else "new", case, rows[-1]["losses"][-1], flush=True)
    text = json.dumps({"script": "tests/parity.py", "torch": torch.__version__, "cases": rows}, indent=1)
    GOLDEN.write_text(text + "\n")


if __name__ == "__main__":
    main("--all" in sys.argv)
