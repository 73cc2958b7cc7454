"""This module holds NAS-Bench-201's networks: stand-alone ones, and the universal one, which takes the cell as data."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from typing_extensions import override

from eproxy_jax.nn import initializers, layers, marks
from eproxy_jax.spaces.cells import net
from eproxy_jax.spaces.cells.graph import NUM_EDGES, POOL, Cell

NUM_STAGES = 3


class NasBench201Net(net.NormedNet):
    """A stand-alone NAS-Bench-201 network.

    Attributes:
      cell: six operation codes.
      stem_channels: channels of the first stage.
      cells_per_stage: cells in each stage.
    """

    cell: Cell
    stem_channels: int = 16
    cells_per_stage: int = 5

    def setup(self):
        """Name the layers by their place, so that weights can be found by path."""
        super().setup()
        self.stem_conv = layers.Conv(self.stem_channels, 3, dtype=self.dtype)
        self.stem_norm = layers.BatchNorm(True, self.track, self.dtype)
        for stage in range(NUM_STAGES):
            channels = self.stem_channels * 2**stage
            if stage:
                setattr(self, f"reduce{stage}", net.ResidualBlock(channels, self.track, self.dtype))
            for n in range(self.cells_per_stage):
                cell = net.CellNet(self.cell, channels, track=self.track, dtype=self.dtype)
                setattr(self, f"stage{stage}_cell{n}", cell)

    @override
    def features(self, images: Array, train: bool = True) -> list[Array]:
        """Return the feature taps, last stage first.

        Args:
          images: [B, H, W, 3].
          train: normalise with batch statistics.

        Returns:
          Three arrays [B, H / 4, W / 4, 4 C], [B, H / 2, W / 2, 2 C], [B, H, W, C].
        """
        x = self.stem_norm(self.stem_conv(images), train)
        taps = []
        for stage in range(NUM_STAGES):
            if stage:
                x = getattr(self, f"reduce{stage}")(x, train)
            for n in range(self.cells_per_stage):
                x = getattr(self, f"stage{stage}_cell{n}")(x, train)
            taps.append(x)
        return taps[::-1]


class UniversalNasBench201(nn.Module):
    """Every NAS-Bench-201 network in one module: the cell is data.

    Each edge owns a 3x3 kernel; a 1x1 convolution uses its centre.

    Attributes:
      stem_channels: channels of the first stage.
      cells_per_stage: cells in each stage.
      dtype: dtype of the parameters.
    """

    stem_channels: int = 16
    cells_per_stage: int = 5
    dtype: Any = jnp.float32

    norm_before_pooling: ClassVar[bool] = True  # of a classifier behind it

    @nn.compact
    def __call__(self, images: Array, cell: Array, init: Array | int = 0) -> list[Array]:
        """Return the feature taps, last stage first.

        Args:
          images: [B, H, W, 3].
          cell: operation codes, integer [6].
          init: index into ``initializers.INITS``.

        Returns:
          Three arrays [B, H / 4, W / 4, 4 C], [B, H / 2, W / 2, 2 C], [B, H, W, C].
        """
        x = layers.Conv(self.stem_channels, 3, dtype=self.dtype, name="stem_conv")(images, init)
        x = marks.feature(layers.BatchNorm(dtype=self.dtype, name="stem_norm")(x))
        taps = []
        for stage in range(NUM_STAGES):
            channels = self.stem_channels * 2**stage
            if stage:
                reduce = net.ResidualBlock(channels, dtype=self.dtype, name=f"reduce{stage}")
                x = marks.feature(reduce(x, True, init))
            x = self.cells(x, f"stage{stage}", cell, init)
            taps.append(x)
        return taps[::-1]

    def cells(self, x: Array, name: str, cell: Array, init: Array | int) -> Array:
        """Run the cells of a stage, [B, H, W, C] -> [B, H, W, C].

        Their kernels, [N, 6, 3, 3, C, C], are the parameter ``name``.
        """
        edge_ops = net.edge_ops(POOL + 1, affine=False, stride=1, reshapes=False)
        area = net.edge_area(cell, tuple(range(NUM_EDGES)), self.dtype)
        shape = (self.cells_per_stage, NUM_EDGES, 3, 3, x.shape[-1], x.shape[-1])
        kernels = self.param(name, initializers.conv_kernel, shape, self.dtype, init, area[None])
        # Not a lax.scan over the cells: stacking what the backward pass needs costs as much as a convolution.
        for cell_kernels in layers.unstack(kernels):
            weights = [{"kernel": kernel} for kernel in layers.unstack(cell_kernels)]
            x = marks.feature(net.apply_cell(x, cell, weights, edge_ops, edge_ops))
        return x
