"""This benchmark times a batch of convolutions with one kernel each: products of patches against a grouped convolution.

  python benchmarks/conv_forms.py
  python benchmarks/conv_forms.py --width 4 --batch 2     # seconds on a CPU

``eproxy_jax/nn/convolution.py`` has both forms for the vmap form. Each one is timed forward alone and in training
(forward and both gradients), at the shapes of several spaces. ``Forms.batch`` there follows this table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import jax
import jax.numpy as jnp
from common import best_seconds, header, markdown_table, write_page

from eproxy_jax.nn import convolution

# Input channels, output channels, map size, kernel size, stride. The first three are the cells of NAS-Bench-201.
SHAPES = (
    (16, 16, 32, 3, 1),
    (32, 32, 16, 3, 1),
    (64, 64, 8, 3, 1),
    (128, 128, 8, 3, 1),
    (512, 512, 2, 3, 1),
    (33, 33, 16, 3, 1),
    (16, 32, 32, 3, 2),
    (4, 4, 32, 3, 1),
    (256, 256, 4, 3, 1),
    (44, 44, 16, 5, 1),
)
FORMS = ("products", "grouped")
REPEATS = 10


@contextmanager
def only(form: str) -> Iterator[None]:
    """Trace only one of the two forms, on any platform."""
    name = "cuda" if form == "grouped" else "default"

    def pick(*arrays: jax.Array, **forms: Callable[..., jax.Array]) -> jax.Array:
        return forms.get(name, forms["default"])(*arrays)

    with mock.patch.object(convolution.lax, "platform_dependent", pick):
        yield


def seconds(function: Callable[..., jax.Array], *arrays: jax.Array) -> float:
    """Return the seconds of one call, from several calls in a row on the device."""

    def many(scale: jax.Array) -> jax.Array:
        def turn(_: int, total: jax.Array) -> jax.Array:
            return total + jnp.sum(function(arrays[0] * (1 + total), *arrays[1:]))

        return jax.lax.fori_loop(0, REPEATS, turn, scale)

    return best_seconds(jax.jit(many), [jnp.float32(0)]) / REPEATS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32, help="candidates")
    parser.add_argument("--batch", type=int, default=16, help="images")
    arguments = parser.parse_args()
    table = []
    for shape in SHAPES:
        channels_in, channels_out, size, kernel_size, stride = shape
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (arguments.width, arguments.batch, size, size, channels_in))
        kernel = jax.random.normal(keys[1], (arguments.width, kernel_size, kernel_size, channels_in, channels_out)) / 10

        def forward(x: jax.Array, kernel: jax.Array, stride: int = stride) -> jax.Array:
            return jax.vmap(lambda x, kernel: convolution.conv2d(x, kernel, stride))(x, kernel)

        grad = jax.random.normal(keys[2], jax.eval_shape(forward, x, kernel).shape)

        def train(x: jax.Array, kernel: jax.Array, grad: jax.Array, forward=forward) -> jax.Array:
            y, pull = jax.vjp(forward, x, kernel)
            return jnp.stack([jnp.sum(part) for part in (y, *pull(grad))])

        flops = 2 * grad.size * kernel_size**2 * channels_in
        row = {"channels": f"{channels_in} to {channels_out}", "map": size, "kernel": kernel_size, "stride": stride}
        for what, function, inputs, work in (
            ("forward", forward, (x, kernel), flops),
            ("training", train, (x, kernel, grad), 3 * flops),
        ):
            times = {}
            for form in FORMS:
                with only(form):
                    times[form] = seconds(function, *inputs)
                row[f"{what}, {form}, us"] = f"{times[form] * 1e6:.0f}"
            row[f"{what}, grouped, TFLOP/s"] = f"{work / times['grouped'] / 1e12:.2f}"
            row[f"{what}, grouped against products"] = f"{times['products'] / times['grouped']:.2f}x"
        table.append(row)
        # Write after each row: compilation takes minutes, and a borrowed machine may stop before the end.
        title = header(f"Forms of {arguments.width} convolutions with a kernel each, {arguments.batch} images")
        write_page(f"conv_forms_{jax.default_backend()}", title + markdown_table(table), table)


if __name__ == "__main__":
    main()
