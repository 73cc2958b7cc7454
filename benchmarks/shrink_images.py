"""This script writes real images of fewer pixels, with their labels: dear networks are ranked on these.

  python benchmarks/shrink_images.py images/cifar10_train256_jpeg.npz --out runs/images/cifar10_16px.npz

It draws the images that ``eproxy score --images`` would draw, and averages ``--factor`` pixels in each direction.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import DATA


def shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    """Return means of ``factor`` x ``factor`` pixels, [N, H, W, 3] -> float32 [N, H / factor, W / factor, 3]."""
    count, height, width, channels = images.shape
    tiles = (count, height // factor, factor, width // factor, factor, channels)
    return images.reshape(tiles).mean((2, 4), dtype=np.float32)


def main() -> None:
    import eproxy_jax as ep
    from eproxy_jax.proxies.inputs import NUM_IMAGES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="FILE.npz with x and y, below EPROXY_DATA")
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    read = ep.load_labelled(DATA / arguments.images, NUM_IMAGES)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.rint(shrunk(np.asarray(read.images), arguments.factor)).astype(np.uint8)
    np.savez(arguments.out, x=pixels, y=np.asarray(read.labels))


if __name__ == "__main__":
    main()
