"""This benchmark measures how alike proxies rank with fewer images, less noise, or fewer initialisations.

  python benchmarks/proxy_batches.py --num-archs 200

It computes each family on random NAS-Bench-201 networks at the size ``small``: with 64 images, 64 of noise or 32
initialisations, with another key (the floor that no saving can beat), and with smaller batches or fewer repeats. A row
has Spearman's correlation with the first row's column, the column's correlation with CIFAR-10 validation accuracy, and
seconds a network without compilation. A saving is worth having where it ranks alike (.98) or no worse than another key
does.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from common import DATA, config_source, header, markdown_table, write_page

WHOLE = 64  # images of one run through a network, as published
BATCHES = (32, 16, 8)
PUBLISHED = 32  # initialisations of zen and swap
REPEATS = (8, 4, 1)


def variants(inputs: Any, other: Any, classes: int) -> Iterator[tuple[str, str, Callable[..., Any], Any]]:
    """Yield (family, what is changed, function of one candidate, its arrays): the whole batch first."""
    from eproxy_jax.proxies.fisher_spectrum import FisherSpectrum
    from eproxy_jax.proxies.gradients import WeightGradients
    from eproxy_jax.proxies.jacobians import Jacobians
    from eproxy_jax.proxies.perturbations import Perturbations
    from eproxy_jax.proxies.registry import batches
    from eproxy_jax.proxies.spectra import Spectra

    def images(each: Any, size: int) -> tuple[Any, ...]:
        return each.images[:size], each.labels[:size]

    def noise(each: Any, size: int) -> tuple[Any, ...]:
        return (each.noise[:size],)

    gradients = ("grad_norm", "snip", "plain", "l2_norm", "fisher")
    families: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {
        "jacobians": (Jacobians(("naswot", "jacov", "epe_nas"), classes), images),
        "spectra": (
            Spectra(("expressivity", "progressivity", "trainability", "entropy_taps", "entropy_last")),
            noise,
        ),
        "norm_spectra": (Spectra(("entropy_norms",)), noise),
        "vkdnw": (FisherSpectrum(classes), noise),
        "gradients": (WeightGradients(gradients, classes), batches),
        "grasp": (WeightGradients(("grasp",), classes), batches),
        "zico": (WeightGradients(("zico",), classes), batches),
    }
    for family, (function, arrays) in families.items():
        what = ("of noise", "noise") if arrays is noise else ("images", "images")
        for size in (WHOLE, *BATCHES):
            yield family, f"{size} {what[0]}", function, arrays(inputs, size)
            if size == WHOLE:
                yield family, f"other {what[1]} and key", function, arrays(other, size)
    few = [(each.noise[:32].reshape(2, 16, *each.noise.shape[1:]), each.images[:16]) for each in (inputs, other)]
    for column in ("zen", "swap"):
        default = Perturbations((column,), PUBLISHED)
        yield column, f"{PUBLISHED} repeats", default, few[0]
        yield column, "other noise and key", default, few[1]
        for repeats in REPEATS:
            yield column, f"{repeats} repeats", Perturbations((column,), repeats), few[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-archs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", default="images/cifar10_train256_jpeg.npz")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    import eproxy_jax as ep
    from eproxy_jax.cli import config
    from eproxy_jax.proxies.inputs import NUM_IMAGES, make_inputs
    from eproxy_jax.ranks import spearman_rows
    from eproxy_jax.runs.truth import match, read_truth

    loaded = config.load_config(config_source("nasbench201", "small"))
    space, size = config.space_of_config(loaded), loaded.images.size
    archs = [arch for arch in space.sample(2 * arguments.num_archs, arguments.seed) if space.is_connected(arch)]
    archs = list({space.canonical(arch): arch for arch in archs}.values())[: arguments.num_archs]
    truth = match(archs, read_truth(DATA / "nasbench201" / "cifar10valid.json", space), space).values
    reads = [ep.load_labelled(DATA / arguments.images, NUM_IMAGES, seed, size) for seed in (0, 1)]
    inputs, other = (make_inputs(jax.random.key(i), read.images, read.labels) for i, read in enumerate(reads))
    rows, default = [], {}
    for family, change, function, arrays in variants(inputs, other, 10):
        key = jax.random.key(1 if change.startswith("other") else 0)
        seconds = []
        for chunk in (archs[: os.cpu_count()], archs):  # the first call compiles
            start = time.perf_counter()
            columns = ep.evaluate(function, chunk, space, key=key, shared=arrays)
            columns = {name: np.asarray(values, np.float64) for name, values in columns.items()}
            seconds.append(time.perf_counter() - start)
        for name, values in columns.items():
            values = np.where(np.isfinite(values), values, -np.inf)
            base = default.setdefault(name, values)
            rows.append(
                {
                    "family": family,
                    "change": change,
                    "column": name,
                    "like the first": f"{float(spearman_rows(values, base)):.3f}",
                    "with accuracy": f"{float(spearman_rows(values, truth)):.3f}",
                    "s a network": f"{seconds[1] / len(archs):.4f}",
                }
            )
            print(rows[-1], flush=True)
    text = header("Proxies with smaller batches and fewer repeats, nasbench201 at the size small")
    text += f"{len(archs)} random functions, Spearman's correlation.\n\n{markdown_table(rows)}"
    write_page("proxy_batches_nasbench201_small", text, rows)


if __name__ == "__main__":
    main()
