"""This module holds Flax modules for four-node cells, which NAS-Bench-201, NATS-Bench and TransNAS-Bench-101 share."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from typing_extensions import override

from eproxy_jax.nn import choice, initializers, layers, marks, pooling
from eproxy_jax.spaces.cells.graph import CONV1X1, CONV3X3, EDGES, NONE, POOL, SKIP, Cell
from eproxy_jax.spaces.standalone import StandAloneNet

# Edges that read the cell's input take its stride and channel change; the others do not.
INPUT_EDGES = tuple(e for e, (source, _) in enumerate(EDGES) if source == 0)
INNER_EDGES = tuple(e for e, (source, _) in enumerate(EDGES) if source != 0)


class ReluConvBn(nn.Module):
    """ReLU, convolution without bias, batch norm."""

    features: int
    kernel_size: int
    stride: int = 1
    affine: bool = False
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]."""
        x = layers.Conv(self.features, self.kernel_size, self.stride, dtype=self.dtype, name="conv")(marks.relu(x))
        return layers.BatchNorm(self.affine, self.track, self.dtype, name="norm")(x, train)


class FactorizedReduce(nn.Module):
    """The ``skip`` that changes stride or channels."""

    features: int
    stride: int
    affine: bool = True
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]."""
        kernel = self.param("kernel", initializers.conv_kernel, (1, 1, x.shape[-1], self.features), self.dtype)
        x = choice.factorized_reduce(x, kernel, self.stride)
        return layers.BatchNorm(self.affine, self.track, self.dtype, name="norm")(x, train)


class CellNet(nn.Module):
    """One cell with its operations fixed: part of stand-alone networks. Dead edges are kept as written."""

    cell: Cell
    features: int
    stride: int = 1
    affine: bool = False
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True) -> Array:
        """Map [B, H, W, C_in] to [B, H / stride, W / stride, features]."""
        reshapes = self.stride > 1 or x.shape[-1] != self.features
        height, width = (-(-n // self.stride) for n in x.shape[1:3])
        zeros = jnp.zeros((x.shape[0], height, width, self.features), x.dtype)
        nodes = [x]
        for target in (1, 2, 3):
            total = zeros
            for edge, (source, edge_target) in enumerate(EDGES):
                op, name = self.cell[edge], f"edge{edge}"
                if edge_target != target or op == NONE:
                    continue
                stride = self.stride if source == 0 else 1
                value = nodes[source]
                if op == SKIP:
                    if source == 0 and reshapes:
                        value = FactorizedReduce(self.features, stride, self.affine, self.track, self.dtype, name=name)(
                            value, train
                        )
                elif op == POOL:
                    value = pooling.avg_pool_3x3(value)
                else:
                    size = 3 if op == CONV3X3 else 1
                    value = ReluConvBn(self.features, size, stride, self.affine, self.track, self.dtype, name=name)(
                        value, train
                    )
                total = total + value
            nodes.append(total)
        return nodes[3]


class ResidualBlock(nn.Module):
    """The block between stages: stride 2, other channels.

    ReLU-conv3x3/2-BN-ReLU-conv3x3-BN, plus 2x2 average pool and conv1x1.
    """

    features: int
    track: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool = True, init: Array | int = 0) -> Array:
        """Map [B, H, W, C] to [B, H / 2, W / 2, features]."""
        y = layers.Conv(self.features, 3, 2, dtype=self.dtype, name="conv_a")(marks.relu(x), init)
        y = layers.BatchNorm(True, self.track, self.dtype, name="norm_a")(y, train)
        y = layers.Conv(self.features, 3, dtype=self.dtype, name="conv_b")(marks.relu(y), init)
        y = layers.BatchNorm(True, self.track, self.dtype, name="norm_b")(y, train)
        shortcut = layers.Conv(self.features, 1, dtype=self.dtype, name="shortcut")(pooling.avg_pool_2x2(x), init)
        return y + shortcut


class NormedNet(StandAloneNet):
    """Base of stand-alone networks of NAS-Bench-201 and NATS-Bench: batch norm and ReLU stand before the pooling."""

    def setup(self):
        """Add the classifier and the norm before it."""
        super().setup()
        if self.num_classes is not None:
            self.last_norm = layers.BatchNorm(True, self.track, self.dtype)

    @override
    def before_pooling(self, tap: Array, train: bool) -> Array:
        """Apply batch norm and ReLU, [B, H, W, C] -> [B, H, W, C]."""
        return marks.relu(self.last_norm(tap, train))


# --- the universal cell --------------------------------------------------------------------------------------


def edge_ops(num_ops: int, *, affine: bool, stride: int, reshapes: bool) -> tuple[choice.Op, ...]:
    """Return the operations of one edge of a universal cell, indexed by operation code.

    Args:
      num_ops: how many of the codes the space uses (4 or 5).
      affine: batch norms scale and shift.
      stride: of this edge.
      reshapes: the edge changes stride or channels, so ``skip`` is a factorised reduction and ``none`` a smaller zero.

    Returns:
      One ``Op`` per code, in order.
    """
    if reshapes:
        none = _reshaping_zero(stride, affine)
        skip = choice.conv_bn_op(lambda x, kernel: choice.factorized_reduce(x, kernel[1:2, 1:2], stride), affine)
    else:
        none = choice.linear_op(jnp.zeros_like, lambda x, grad: jnp.zeros_like(x), affine)
        skip = choice.linear_op(lambda x: x, lambda x, grad: grad, affine)
    table = {
        NONE: none,
        SKIP: skip,
        CONV1X1: choice.conv_bn_op(choice.relu_conv1x1(stride), affine),
        CONV3X3: choice.conv_bn_op(choice.relu_conv3x3(stride), affine),
        POOL: choice.linear_op(pooling.avg_pool_3x3, lambda x, grad: pooling.avg_pool_gradient(grad), affine),
    }
    return tuple(table[code] for code in range(num_ops))


def _reshaping_zero(stride: int, affine: bool) -> choice.Op:
    def forward(x: Array, weights: Any):
        channels = weights["kernel"].shape[-1]
        zeros = jnp.zeros((x.shape[0], *(-(-n // stride) for n in x.shape[1:3]), channels), x.dtype)
        return zeros, (jnp.zeros((channels,), x.dtype), zeros if affine else None)

    def backward(x: Array, weights: Any, y: Array, residual: Any, grad: Array):
        del y, residual, grad
        return jnp.zeros_like(x), jax.tree.map(jnp.zeros_like, weights)

    return choice.Op(forward, backward)


def edge_area(cell: Array, edges: tuple[int, ...], dtype: Any) -> Array:
    """Return the kernel positions that each edge's fans count (9 or 1), [len(edges), 1, 1, 1, 1]."""
    codes = jnp.stack([cell[e] for e in edges])
    return jnp.where(codes == CONV3X3, 9, 1).astype(dtype)[:, None, None, None, None]


def apply_cell(
    x: Array,
    cell: Array,
    weights: list[Any],
    input_ops: tuple[choice.Op, ...],
    inner_ops: tuple[choice.Op, ...],
) -> Array:
    """Run one universal cell, whose operations are data.

    Args:
      x: [B, H, W, C_in].
      cell: operation codes, integer [6].
      weights: per edge, what its ``Op`` reads.
      input_ops: operations of edges that read the input.
      inner_ops: operations of the other edges.

    Returns:
      [B, H', W', C_out].
    """
    nodes: list[Array] = [x]
    for target in (1, 2, 3):
        terms: list[Any] = [
            choice.switch_op(input_ops if source == 0 else inner_ops, cell[edge], nodes[source], weights[edge])
            for edge, (source, edge_target) in enumerate(EDGES)
            if edge_target == target
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        nodes.append(total)
    return nodes[3]
