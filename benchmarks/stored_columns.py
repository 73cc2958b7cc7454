"""This benchmark measures what makes stored columns of NAS-Bench-101 differ from ours: initialisation or a draw.

  python benchmarks/stored_columns.py --num-archs 100

It computes columns of networks of the stored list, at the depth of the benchmark and an eighth of its width, with 32
images as the stored ones have, under two initialisers and two keys: PyTorch's default, which is ours, and the normal
one by fan_out that the stored networks have. A row has Spearman's correlation with the stored column, and that between
our two keys: no column agrees with another draw better than with its own.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import DATA, header, markdown_table, write_page

SIZES = {"stem_channels": 16, "modules_per_stack": 3}  # three stacks of three modules, as trained
BATCH = 32
INITS = ("default", "kaiming_normal")
GRADIENTS = ("grad_norm", "snip", "plain", "l2_norm", "fisher")
JACOBIANS = ("jacov", "epe_nas")


def columns(network: Any, key: Any, encoded: Any, images: Any, labels: Any, init: Any) -> dict[str, Any]:
    """Return the columns of one candidate; ``init`` is data, so that one program serves both."""
    from eproxy_jax.proxies.classifier import Classifier
    from eproxy_jax.proxies.gradients import WeightGradients
    from eproxy_jax.proxies.jacobians import Jacobians
    from eproxy_jax.proxies.synflow import Synflow

    params = Classifier(network, 10, images.dtype).init(key, images, encoded, init)["params"]
    pair = jnp.stack([images, images]), jnp.stack([labels, labels])
    return {
        **WeightGradients(GRADIENTS, 10).of_params(network, params, encoded, *pair),
        **Jacobians(JACOBIANS, 10).of_params(network, params, encoded, images, labels),
        **Synflow(10).of_params(network, params, encoded, jnp.ones_like(images[:1])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-archs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", default="images/cifar10_train256_jpeg.npz")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    from proxies import drawn, peer_scores

    import eproxy_jax as ep
    from eproxy_jax.nn import initializers
    from eproxy_jax.proxies.inputs import make_inputs
    from eproxy_jax.ranks import spearman_rows

    space = ep.spaces.get("nasbench101", **SIZES)
    archs = drawn(space, arguments.num_archs, arguments.seed, stored=True)
    (_, known), *_ = peer_scores(space)
    read = ep.load_labelled(DATA / arguments.images, BATCH, 0, 32)
    inputs = make_inputs(jax.random.key(0), read.images, read.labels)
    found = {
        (init, key): ep.evaluate(
            columns,
            archs,
            space,
            key=key,
            shared=(inputs.images, inputs.labels, jnp.asarray(initializers.init_index(init))),
            progress=lambda done, total: print(f"{done}/{total}", flush=True),
        )
        for init in INITS
        for key in (0, 1)
    }
    rows = []
    for name in ("synflow", "l2_norm", "snip", "grad_norm", "fisher", "plain", "jacov", "epe_nas"):
        stored = np.asarray([known[arch][name] for arch in archs])
        row: dict[str, Any] = {"proxy": name}
        for init in INITS:
            values = [np.asarray(found[init, key][name], np.float64) for key in (0, 1)]
            row[f"{init}: stored"] = f"{float(spearman_rows(values[0], stored)):.3f}"
            row[f"{init}: another key"] = f"{float(spearman_rows(values[0], values[1])):.3f}"
        rows.append(row)
    text = header("Stored columns of NAS-Bench-101 beside ours, by initialiser and key")
    text += f"Spearman over {len(archs)} networks of the stored list, three stacks of three modules with "
    text += f"{SIZES['stem_channels']} channels in the first, {BATCH} images of CIFAR-10.\n\n{markdown_table(rows)}"
    write_page("stored_columns_nasbench101", text, rows)


if __name__ == "__main__":
    main()
