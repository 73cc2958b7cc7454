"""What tests of exported files share: running their source, and outputs of three networks from the same weights."""

import types

import jax
import jax.numpy as jnp
import numpy as np
from helpers import pattern_images, pattern_tree

from eproxy_jax import exports


def module_of(source):
    """The module that a source text defines."""
    module = types.ModuleType("exported_network")
    exec(compile(source, "exported_network.py", "exec"), module.__dict__)
    return module


def statistics(tree):
    """Running averages that are not those of the start, and leave half of the activations on."""

    def drawn(path, leaf):
        low, high = (-0.1, 0.1) if path[-1].key == "mean" else (0.2, 0.6)
        return np.linspace(low, high, leaf.size).reshape(leaf.shape)

    return jax.tree_util.tree_map_with_path(drawn, tree)


def flax_outputs(space, arch, num_classes=7, size=16):
    """(Exported, images, variables of to_flax, its outputs in training and evaluation, those of the exported Flax file).

    Needs 64-bit types. Both networks are one program: XLA merges what is the same in both, and compiles it once.
    """
    ready = exports.exported(space, arch, num_classes, size)
    net = space.to_flax(ready.arch, num_classes).clone(dtype=jnp.float64)
    network = module_of(ready.source()).Network()
    images = pattern_images(3, size)
    shapes, made = (jax.eval_shape(each.init, jax.random.key(0), jnp.asarray(images)) for each in (net, network))
    variables = {"params": pattern_tree(shapes["params"]), "batch_stats": statistics(shapes.get("batch_stats", {}))}
    own = ready.variables(variables)
    for part in ("params", "batch_stats"):
        assert jax.tree.map(jnp.shape, made.get(part, {})) == jax.tree.map(jnp.shape, own[part])

    @jax.jit
    def run(variables, own):
        trained, _ = network.apply(own, images, mutable=["batch_stats"])
        of_space = [net.apply(variables, images, train=train) for train in (True, False)]
        return of_space, [trained, network.apply(own, images, train=False)]

    return ready, images, variables, *jax.device_get(run(variables, own))


def torch_outputs(source, ready, variables, images):
    """Outputs of an exported PyTorch file in training and evaluation, and its number of trainable weights."""
    import torch

    module = module_of(source)
    found = []
    for train in (True, False):
        network = module.load_flax(module.Network().double(), ready.variables(variables)).train(train)
        with torch.no_grad():
            found.append(network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy())
    return found, sum(p.numel() for p in network.parameters())
