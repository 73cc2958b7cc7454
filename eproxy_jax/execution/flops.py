"""This module counts the work of a proxy training from shapes.

It counts convolutions and matrix products: the forward pass in every step, and gradients in all steps but the last. A
trained layer has two gradients, the frozen barrier one. The first layer needs one and is counted with two, which is
under 1 % of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eproxy_jax import spaces
from eproxy_jax.types import TARGET_SIZE, ProxySettings


def head_macs(settings: ProxySettings, channels: Sequence[int], batch: int) -> tuple[int, int]:
    """Return the multiply-accumulates of one forward pass of all branches.

    Args:
      settings: the proxy's settings.
      channels: channels of the feature taps, last stage first.
      batch: B.

    Returns:
      (transforms, barriers).
    """
    positions = batch * TARGET_SIZE**2
    pairs = list(zip(settings.branches, channels, strict=False))
    transforms = sum(b.transform_kernel**2 * c * b.transform_channels for b, c in pairs)
    barriers = sum(b.barrier_kernel**2 * b.transform_channels * b.target_channels for b, _ in pairs)
    return positions * transforms, positions * barriers


def training_flops(trained: float, frozen: float, num_steps: int) -> float:
    """Return the floating-point operations of a whole training.

    Args:
      trained: multiply-accumulates of a forward pass of backbone and transforms, all images.
      frozen: multiply-accumulates of a forward pass of the barriers, all images.
      num_steps: S.
    """
    return 2.0 * (trained * (3 * num_steps - 2) + frozen * (2 * num_steps - 1))


def needed_flops(space: spaces.SearchSpace, settings: ProxySettings, arch: Any, batch: int, image_size: int) -> float:
    """Return the floating-point operations that the training of one canonical architecture needs.

    Args:
      space: the search space.
      settings: the proxy's settings.
      arch: a canonical architecture.
      batch: B.
      image_size: H = W, pixels.
    """
    transforms, barriers = head_macs(settings, space.tap_channels(arch), batch)
    backbone = space.macs(arch) * batch * (image_size / 32) ** 2
    return training_flops(backbone + transforms, barriers, settings.num_steps)
