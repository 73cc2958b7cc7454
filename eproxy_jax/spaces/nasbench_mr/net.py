"""This module has the Flax modules of NAS-Bench-MR: stand-alone networks, and one whose network is data.

``program.py`` says what the network is.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from eproxy_jax.nn import convolution, initializers, layers, marks, resizing
from eproxy_jax.spaces.interpreter import bank, loop
from eproxy_jax.spaces.nasbench_mr import interpreter
from eproxy_jax.spaces.nasbench_mr.notation import Arch
from eproxy_jax.spaces.nasbench_mr.program import FUSED_LEVEL, NUM_LEVELS, NUM_TAPS, decode
from eproxy_jax.spaces.standalone import StandAloneNet
from eproxy_jax.types import TARGET_SIZE

_SMALLEST_MAP = 2 ** (NUM_LEVELS - 1)


def _check_images(images: Array) -> None:
    if images.shape[1] % _SMALLEST_MAP or images.shape[2] % _SMALLEST_MAP:
        raise ValueError(
            f"NAS-Bench-MR networks halve their maps {NUM_LEVELS - 1} times: expected images whose height and width "
            f"are multiples of {_SMALLEST_MAP}, got {images.shape[1]} x {images.shape[2]}"
        )


class ResidualBlock(nn.Module):
    """A residual block: conv3x3-BN-ReLU-conv3x3-BN plus identity, then ReLU."""

    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Run the block: [B, H, W, C] -> [B, H, W, C]."""
        y = x
        for suffix in ("a", "b"):
            y = layers.Conv(x.shape[-1], 3, dtype=self.dtype, name=f"conv_{suffix}")(y)
            y = layers.BatchNorm(True, self.track, self.dtype, name=f"norm_{suffix}")(y, train)
            y = marks.relu(y) if suffix == "a" else marks.relu(y + x)
        return y


def _resized(branches: list[Array], height: int, width: int) -> Array:
    """Resize the branches to one size and put them side by side."""
    return jnp.concatenate([resizing.resize_bilinear(x, height, width) for x in branches], axis=-1)


class NasBenchMrNet(StandAloneNet):
    """A stand-alone NAS-Bench-MR network. Its feature taps are resized to 8x8, as the proxy reads them.

    Attributes:
      arch: the architecture.
      divisor: what its channels are divided by.
    """

    arch: Arch
    divisor: int = 1

    def setup(self):
        """Name the layers by their place, so that weights can be found by path."""
        super().setup()
        entering, modules, last = self.arch
        inputs = 1

        def put(name: str, channels: int, size: int = 3, stride: int = 1) -> None:
            setattr(self, name, layers.ConvBnRelu(channels // self.divisor, size, stride, self.track, self.dtype))

        put("stem_a", entering[0])
        put("stem_b", entering[1])
        for m, (branches, blocks, channels) in enumerate(modules):
            for level in range(branches):
                if level >= inputs:
                    put(f"module{m}_fuse{level}_new", channels[level], stride=2)
                for source in range(max(level - 1, 0), min(level + 2, inputs) if level < inputs else 0):
                    up, down = source > level, source < level
                    put(f"module{m}_fuse{level}_{source}", channels[level], 1 if up else 3, 2 if down else 1)
                for block in range(blocks[level]):
                    setattr(self, f"module{m}_branch{level}_block{block}", ResidualBlock(self.track, self.dtype))
            inputs = branches
        put("fuse_end", last, 1)

    def _module(self, m: int, branches: list[Array], train: bool) -> list[Array]:
        """Return the values of the branches after a module, from those before it."""
        fused: list[Array] = []
        num_branches, blocks, _ = self.arch[1][m]
        for level in range(num_branches):
            name = f"module{m}_fuse{level}"
            if level >= len(branches):
                fused.append(getattr(self, f"{name}_new")(fused[level - 1], train))
                continue
            total = getattr(self, f"{name}_{level}")(branches[level], train)
            if level > 0:
                total = total + getattr(self, f"{name}_{level - 1}")(branches[level - 1], train)
            if level + 1 < len(branches):
                total = total + resizing.upsample_2x(getattr(self, f"{name}_{level + 1}")(branches[level + 1], train))
            fused.append(total)
        for level in range(num_branches):
            for block in range(blocks[level]):
                fused[level] = getattr(self, f"module{m}_branch{level}_block{block}")(fused[level], train)
        return fused

    def _last_modules(self, images: Array, train: bool) -> list[list[Array]]:
        """Return the branches of the last three modules, last module first."""
        _check_images(images)
        branches, outputs = [self.stem_b(self.stem_a(images, train), train)], []
        for m in range(len(self.arch[1])):
            branches = self._module(m, branches, train)
            outputs.append(branches)
        return outputs[::-1][:NUM_TAPS]

    def _end(self, branches: list[Array], train: bool) -> Array:
        """Fuse the branches into one, [B, H / 4, W / 4, C]."""
        return self.fuse_end(_resized(branches, *branches[FUSED_LEVEL].shape[1:3]), train)

    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps: the end, then the branches of the second and third last module.

        Args:
          images: [B, H, W, 3], sizes that are multiples of 8.
          train: normalise with batch statistics.

        Returns:
          Three arrays [B, 8, 8, C].

        Raises:
          ValueError: images of other sizes.
        """
        last, *others = self._last_modules(images, train)
        end = resizing.resize_bilinear(self._end(last, train), TARGET_SIZE, TARGET_SIZE)
        return [end, *(_resized(branches, TARGET_SIZE, TARGET_SIZE) for branches in others)]

    def __call__(self, images: Array, train: bool = True) -> Array | list[Array]:
        """Return class logits [B, num_classes], from the end at its own size; the feature taps for a backbone only."""
        if self.num_classes is None:
            return self.features(images, train)
        return self.classifier(self._end(self._last_modules(images, train)[0], train).mean((1, 2)))


# --- the universal network -------------------------------------------------------------------------------------


class MaskedConvBnRelu(nn.Module):
    """A :class:`layers.ConvBnRelu` whose numbers of channels are data: unused ones have zero weights, and stay zero.

    Attributes:
      features: the most output channels.
      kernel_size: of the convolution.
      dtype: dtype of the parameters.
    """

    features: int
    kernel_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, used: Array, features: Array, init: Array | int = 0) -> Array:
        """Run the layer: [B, H, W, C_in] -> [B, H, W, self.features].

        Args:
          x: [B, H, W, C_in].
          used: [C_in] bool, which input channels are in use.
          features: how many output channels are in use.
          init: index into ``initializers.INITS``.
        """

        def kernel_init(key: Array) -> Array:
            shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
            fans = (features.astype(self.dtype), jnp.sum(used).astype(self.dtype))
            kernel = initializers.conv_kernel(key, shape, self.dtype, init, None, *fans)
            return kernel * (used[:, None] & (jnp.arange(self.features) < features)[None])[None, None]

        x = convolution.conv2d(x, self.param("kernel", kernel_init))
        return marks.relu(layers.BatchNorm(dtype=self.dtype, name="norm")(x))


def _side_by_side(maps: Array, channels: Array) -> Array:
    """Join branches [4, B, H, W, C], of which the first ``channels`` [4] are in use, without gaps: [B, H, W, 4 C]."""
    *shape, most = maps.shape[1:]
    wide, start = jnp.zeros((*shape, NUM_LEVELS * most), maps.dtype), jnp.zeros((), channels.dtype)
    for level in range(NUM_LEVELS):
        # What a branch writes beyond its own channels are zeros, and there the next one begins.
        wide = lax.dynamic_update_slice_in_dim(wide, maps[level], start, axis=-1)
        start = start + channels[level]
    return wide


def _padded_tap(features: Array, used: Array) -> layers.PaddedTap:
    """Return a tap that is read at the next of four widths."""
    quarter = features.shape[-1] // 4
    return layers.PaddedTap(features, (used - 1) // quarter, tuple(quarter * k for k in (1, 2, 3, 4)), used)


class UniversalNasBenchMr(nn.Module):
    """A module for every NAS-Bench-MR network up to a capacity: the network is data.

    Attributes:
      channels: the largest number of channels.
      capacity: of the networks that it takes, see ``interpreter.capacity_of``.
      dtype: dtype of the parameters.
    """

    channels: int
    capacity: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, encoded: Array, init: Array | int = 0) -> list[layers.PaddedTap]:
        """Return the feature taps: the end, then the branches of the second and third last module.

        Args:
          images: [B, H, W, 3], sizes that are multiples of 8.
          encoded: the network, see ``program.encode``.
          init: index into ``initializers.INITS``.

        Returns:
          Three taps, of at most C, 4 C and 4 C channels.

        Raises:
          ValueError: images of other sizes.
        """
        _check_images(images)
        most, parts = self.channels, decode(encoded)
        spec = interpreter.TapeSpec(images.shape[0], images.shape[1], images.shape[2], most, self.capacity)
        network, first, last = interpreter.placed(spec, parts), parts.first, parts.last
        x = MaskedConvBnRelu(most, 3, self.dtype, name="stem_a")(images, jnp.ones(3, bool), first, init)
        kernels = functools.partial(interpreter.init_bank, spec=spec, network=network, dtype=self.dtype, init=init)
        weights = bank.declare(self, kernels, int(spec.totals[3]), self.dtype)
        maps: Any = interpreter.run(spec, x, weights, network)
        widths = parts.taps.channels
        ends = loop.side_by_side(maps.last)
        used = (jnp.arange(most)[None] < widths[0][:, None]).reshape(-1)
        end = MaskedConvBnRelu(most, 1, self.dtype, name="fuse_end")(ends, used, last, init)
        taps = [_padded_tap(resizing.resize_bilinear(end, TARGET_SIZE, TARGET_SIZE), last)]
        taps += [
            _padded_tap(_side_by_side(branches, counts), jnp.sum(counts))
            for branches, counts in zip(maps.others, widths[1:], strict=True)
        ]
        return taps
