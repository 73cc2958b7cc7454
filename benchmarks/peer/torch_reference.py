"""Eproxy of one network at a time in plain PyTorch: the peer of the benchmarks and the oracle of the parity tests.

Written from docs/method.md for this purpose, the straightforward way: modules in NCHW, autograd, ``torch.optim.SGD``.
Modules are named like the Flax ones, so that weights translate by path (:func:`load_params`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]  # noqa: N812
from peer.torch_anynet import ResNet, ResNeXt, Vanilla
from peer.torch_nds import NdsCells
from torch import nn  # pyright: ignore[reportMissingImports]

NONE, SKIP, CONV1X1, CONV3X3, POOL = range(5)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def conv(channels_in: int, channels: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, size, stride, size // 2, bias=bias)


def norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


class ReluConvBn(nn.Module):
    def __init__(self, channels_in: int, channels: int, size: int, stride: int, affine: bool):
        super().__init__()
        self.conv = conv(channels_in, channels, size, stride)
        self.norm = norm(channels, affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(F.relu(x)))


class FactorizedReduce(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, affine: bool):
        super().__init__()
        self.stride = stride
        if stride == 2:
            self.conv_a = conv(channels_in, channels // 2, 1, 2)
            self.conv_b = conv(channels_in, channels - channels // 2, 1, 2)
        else:
            self.conv_a = conv(channels_in, channels, 1)
        self.norm = norm(channels, affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 1:
            return self.norm(self.conv_a(x))
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.conv_a(x), self.conv_b(shifted)], dim=1))


class CellNet(nn.Module):
    def __init__(self, cell: Sequence[int], channels_in: int, channels: int, stride: int = 1, affine: bool = False):
        super().__init__()
        self.cell, self.stride, self.channels = tuple(cell), stride, channels
        for edge, (source, _) in enumerate(EDGES):
            op, reads_input = self.cell[edge], source == 0
            width, step = (channels_in, stride) if reads_input else (channels, 1)
            if op in (CONV1X1, CONV3X3):
                self.add_module(f"edge{edge}", ReluConvBn(width, channels, 3 if op == CONV3X3 else 1, step, affine))
            elif op == SKIP and (step != 1 or width != channels):
                self.add_module(f"edge{edge}", FactorizedReduce(width, channels, step, affine))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = [-(-n // self.stride) for n in x.shape[2:]]
        nodes = [x]
        for target in (1, 2, 3):
            terms = []
            for edge, (source, edge_target) in enumerate(EDGES):
                op = self.cell[edge]
                if edge_target != target or op == NONE:
                    continue
                if op == POOL:
                    terms.append(F.avg_pool2d(nodes[source], 3, 1, 1, count_include_pad=False))
                elif hasattr(self, f"edge{edge}"):
                    terms.append(getattr(self, f"edge{edge}")(nodes[source]))
                else:
                    terms.append(nodes[source])
            nodes.append(sum(terms[1:], terms[0]) if terms else x.new_zeros(x.shape[0], self.channels, *size))
        return nodes[3]


class ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.conv_a, self.norm_a = conv(channels_in, channels, 3, 2), norm(channels)
        self.conv_b, self.norm_b = conv(channels, channels, 3), norm(channels)
        self.shortcut = conv(channels_in, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_a(self.conv_a(F.relu(x)))
        y = self.norm_b(self.conv_b(F.relu(y)))
        return y + self.shortcut(F.avg_pool2d(x, 2))


class NasBench201(nn.Module):
    def __init__(self, cell: Sequence[int], stem_channels: int = 16, cells_per_stage: int = 5):
        super().__init__()
        self.cells_per_stage = cells_per_stage
        self.stem_conv, self.stem_norm = conv(3, stem_channels, 3), norm(stem_channels)
        for stage in range(3):
            channels = stem_channels * 2**stage
            if stage:
                self.add_module(f"reduce{stage}", ResidualBlock(channels // 2, channels))
            for n in range(cells_per_stage):
                self.add_module(f"stage{stage}_cell{n}", CellNet(cell, channels, channels))
        self.tap_channels = [stem_channels * 2**stage for stage in (2, 1, 0)]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, taps = self.stem_norm(self.stem_conv(x)), []
        for stage in range(3):
            if stage:
                x = getattr(self, f"reduce{stage}")(x)
            for n in range(self.cells_per_stage):
                x = getattr(self, f"stage{stage}_cell{n}")(x)
            taps.append(x)
        return taps[::-1]


class NatsSize(nn.Module):
    def __init__(self, widths: Sequence[int], channel_divisor: int = 1):
        super().__init__()
        widths = [width // channel_divisor for width in widths]
        self.stem_conv, self.stem_norm = conv(3, widths[0], 3), norm(widths[0])
        for number, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            piece = (
                ResidualBlock(before, width) if number % 2 else CellNet((3, 3, 3, 1, 3, 3), before, width, affine=True)
            )
            self.add_module(f"piece{number}", piece)
        self.tap_channels = [widths[number] for number in (4, 2, 0)]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, outputs = self.stem_norm(self.stem_conv(x)), []
        for number in range(5):
            x = getattr(self, f"piece{number}")(x)
            outputs.append(x)
        return [outputs[number] for number in (4, 2, 0)]


def darts(cell: Any, width_divisor: int = 1, **sizes: int) -> NdsCells:
    """``sizes`` are the architecture's own as well."""
    return NdsCells(cell, width_divisor, concat_all=True)


class Stem(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv_a, self.norm_a = conv(3, channels // 2, 3, 2), norm(channels // 2)
        self.conv_b, self.norm_b = conv(channels // 2, channels, 3, 2), norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm_b(self.conv_b(F.relu(self.norm_a(self.conv_a(x)))))


class TransNas(nn.Module):
    """Stem, and two pieces a digit of the macro code, which ``piece(channels_in, channels, stride)`` makes."""

    def __init__(self, macro: str, stem_channels: int, name: str, piece: Callable[[int, int, int], nn.Module]):
        super().__init__()
        self.stem, channels, self.num_modules, self.name = Stem(stem_channels), stem_channels, len(macro), name
        widths = []
        for m, digit in enumerate(macro):
            if m == len(macro) - 1 and digit == "4":
                digit = "2"
            doubled = channels * 2 if digit in "24" else channels
            self.add_module(f"module{m}_{name}0", piece(channels, doubled, 2 if digit in "34" else 1))
            self.add_module(f"module{m}_{name}1", piece(doubled, doubled, 1))
            channels = doubled
            widths.append(channels)
        self.tap_channels = widths[::-1][:3]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, taps = self.stem(x), []
        for m in range(self.num_modules):
            x = getattr(self, f"module{m}_{self.name}1")(getattr(self, f"module{m}_{self.name}0")(x))
            taps.append(x)
        return taps[::-1][:3]


class TransNasMicro(TransNas):
    def __init__(self, cell: Sequence[int], stem_channels: int = 64, macro: str = "41414"):
        super().__init__(macro, stem_channels, "cell", lambda i, o, stride: CellNet(cell, i, o, stride, True))


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv_a, self.norm_a = conv(channels_in, channels, 3, stride), norm(channels)
        self.conv_b, self.norm_b = conv(channels, channels, 3), norm(channels)
        self.projects = stride != 1 or channels_in != channels
        if self.projects:
            self.conv_shortcut, self.norm_shortcut = conv(channels_in, channels, 1, stride), norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_b(self.conv_b(F.relu(self.norm_a(self.conv_a(x)))))
        return F.relu(y + (self.norm_shortcut(self.conv_shortcut(x)) if self.projects else x))


class TransNasMacro(TransNas):
    def __init__(self, code: Sequence[int], stem_channels: int = 64):
        super().__init__("".join(map(str, code)), stem_channels, "block", BasicBlock)


class ConvBnRelu(nn.Module):
    def __init__(self, channels_in: int, channels: int, size: int, stride: int = 1):
        super().__init__()
        self.conv, self.norm = conv(channels_in, channels, size, stride), norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(x)))


def without_dead_vertices(cell: Sequence[Any]) -> tuple[np.ndarray, list[str]]:
    """Matrix and ops of a NAS-Bench-101 cell, vertices on no path from input to output removed."""
    matrix, ops = np.array(cell[0]), list(cell[1])
    paths = np.eye(len(ops), dtype=int)  # paths[i, j]: number of paths from i to j
    for _ in ops:
        paths = np.eye(len(ops), dtype=int) + matrix @ paths
    live = [v for v in range(len(ops)) if paths[0, v] and paths[v, -1]]
    return matrix[np.ix_(live, live)], [ops[v] for v in live]


class NasBench101Cell(nn.Module):
    def __init__(self, cell: Sequence[Any], channels_in: int, channels: int):
        super().__init__()
        self.matrix, self.ops = without_dead_vertices(cell)
        self.last = len(self.ops) - 1
        interior = range(1, self.last)
        feeding = [v for v in interior if self.matrix[v, self.last]]
        shares = np.array_split(np.arange(channels), len(feeding)) if feeding else []
        self.widths = {v: len(share) for v, share in zip(feeding, shares, strict=True)}
        for v in reversed(interior):
            if v not in self.widths:
                self.widths[v] = max(self.widths[t] for t in interior if self.matrix[v, t])
        for v in interior:
            if self.matrix[0, v]:
                self.add_module(f"project{v}", ConvBnRelu(channels_in, self.widths[v], 1))
            if self.ops[v] != "maxpool3x3":
                size = {"conv3x3-bn-relu": 3, "conv1x1-bn-relu": 1}[self.ops[v]]
                self.add_module(f"vertex{v}", ConvBnRelu(self.widths[v], self.widths[v], size))
        if self.matrix[0, self.last]:
            self.project_output = ConvBnRelu(channels_in, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[int, torch.Tensor] = {}
        for v in range(1, self.last):
            terms = [values[u][:, : self.widths[v]] for u in range(1, v) if self.matrix[u, v]]
            if self.matrix[0, v]:
                terms.append(getattr(self, f"project{v}")(x))
            total = sum(terms[1:], terms[0])
            pools = self.ops[v] == "maxpool3x3"
            values[v] = F.max_pool2d(total, 3, 1, 1) if pools else getattr(self, f"vertex{v}")(total)
        parts = [values[v] for v in range(1, self.last) if self.matrix[v, self.last]]
        if not self.matrix[0, self.last]:
            return torch.cat(parts, dim=1)
        projected = self.project_output(x)
        return torch.cat(parts, dim=1) + projected if parts else projected


class NasBench101(nn.Module):
    def __init__(self, cell: Sequence[Any], stem_channels: int = 128, modules_per_stack: int = 3):
        super().__init__()
        self.modules_per_stack = modules_per_stack
        self.stem, channels_in = ConvBnRelu(3, stem_channels, 3), stem_channels
        for stack in range(3):
            channels = stem_channels * 2**stack
            for n in range(modules_per_stack):
                self.add_module(f"stack{stack}_module{n}", NasBench101Cell(cell, channels_in, channels))
                channels_in = channels
        self.tap_channels = [stem_channels * 2**stack for stack in (2, 1, 0)]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, taps = self.stem(x), []
        for stack in range(3):
            if stack:
                x = F.max_pool2d(x, 2)
            for n in range(self.modules_per_stack):
                x = getattr(self, f"stack{stack}_module{n}")(x)
            taps.append(x)
        return taps[::-1]


def resized(branches: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """Branches at one size, side by side."""
    parts = [F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False) for x in branches]
    return torch.cat(parts, dim=1)


class NasBenchMr(nn.Module):
    """Multi-resolution network: a fusion and a stack of residual blocks per module; see multires_program."""

    def __init__(self, arch: Sequence[Any], channel_divisor: int = 1):
        super().__init__()
        (first, second), modules, last = arch
        first, second, last = (n // channel_divisor for n in (first, second, last))
        self.stem_a, self.stem_b = ConvBnRelu(3, first, 3), ConvBnRelu(first, second, 3)
        self.blocks, widths, self.tap_channels = [module[1] for module in modules], [second], []
        for m, (branches, blocks, written) in enumerate(modules):
            channels = [n // channel_divisor for n in written]
            for i in range(branches):
                if i >= len(widths):
                    self.add_module(f"module{m}_fuse{i}_new", ConvBnRelu(channels[i - 1], channels[i], 3, 2))
                else:
                    for j in range(max(i - 1, 0), min(i + 2, len(widths))):
                        layer = ConvBnRelu(widths[j], channels[i], 1 if j > i else 3, 2 if j < i else 1)
                        self.add_module(f"module{m}_fuse{i}_{j}", layer)
                for n in range(blocks[i]):
                    self.add_module(f"module{m}_branch{i}_block{n}", BasicBlock(channels[i], channels[i], 1))
            widths = channels
            self.tap_channels.append(sum(widths))
        self.fuse_end = ConvBnRelu(sum(widths), last, 1)
        self.tap_channels = [last, *self.tap_channels[-2:-4:-1]]

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        branches, outputs = [self.stem_b(self.stem_a(images))], []
        for m, blocks in enumerate(self.blocks):
            fused: list[torch.Tensor] = []
            for i in range(len(blocks)):
                if i >= len(branches):
                    fused.append(getattr(self, f"module{m}_fuse{i}_new")(fused[i - 1]))
                    continue
                terms = []
                for j in range(max(i - 1, 0), min(i + 2, len(branches))):
                    term = getattr(self, f"module{m}_fuse{i}_{j}")(branches[j])
                    terms.append(F.interpolate(term, scale_factor=2, mode="nearest") if j > i else term)
                fused.append(F.relu(sum(terms[1:], terms[0])))
            for i, count in enumerate(blocks):
                for n in range(count):
                    fused[i] = getattr(self, f"module{m}_branch{i}_block{n}")(fused[i])
            branches = fused
            outputs.append(branches)
        end = self.fuse_end(resized(branches, branches[2].shape[2:]))
        return [resized([end], (8, 8)), *(resized(tap, (8, 8)) for tap in outputs[-2:-4:-1])]


# By registry name; keyword arguments are the fields of the space.
BACKBONES = {
    "nasbench101": NasBench101,
    "nasbench201": NasBench201,
    "nds_resnet": ResNet,
    "nds_resnext_a": ResNeXt,
    "nds_resnext_b": ResNeXt,
    "nds_vanilla": Vanilla,
    "nasbench_mr": NasBenchMr,
    "nats_size": NatsSize,
    "darts": darts,
    **dict.fromkeys(("nds_darts", "nds_pnas"), functools.partial(NdsCells, concat_all=True)),
    **dict.fromkeys(("nds_enas", "nds_nasnet", "nds_amoeba"), NdsCells),
    "transnas_micro": TransNasMicro,
    "transnas_macro": TransNasMacro,
}


class Transform(nn.Module):
    def __init__(self, channels_in: int, size: int, channels: int):
        super().__init__()
        self.conv, self.norm = conv(channels_in, channels, size, bias=True), norm(channels)

    def forward(self, tap: torch.Tensor) -> torch.Tensor:
        return self.norm(F.relu(self.conv(F.interpolate(tap, size=(8, 8), mode="nearest"))))


class ProxyNetwork(nn.Module):
    """Backbone and transforms; ``heads`` is (kernel size, channels) of each branch."""

    def __init__(self, backbone: nn.Module, heads: Sequence[tuple[int, int]]):
        super().__init__()
        self.backbone, self.num_branches = backbone, len(heads)
        for branch, (size, channels) in enumerate(heads):
            self.add_module(f"transform{branch}", Transform(backbone.tap_channels[branch], size, channels))  # pyright: ignore

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        taps = self.backbone(images)
        return [getattr(self, f"transform{b}")(taps[b]) for b in range(self.num_branches)]


def tensor(array: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An NHWC or vector array as an NCHW or vector tensor."""
    array = np.asarray(array)
    result = torch.from_numpy(np.array(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array, order="C"))
    return result if dtype is None else result.to(dtype)


def kernel_tensor(kernel: Any) -> torch.Tensor:
    """An HWIO kernel as an OIHW tensor."""
    return torch.from_numpy(np.array(np.asarray(kernel).transpose(3, 2, 0, 1), order="C"))


def load_params(module: nn.Module, params: dict[str, Any]) -> None:
    """Copy Flax parameters of the stand-alone network into the module of the same structure; all must be used."""
    state, used = module.state_dict(), set()

    def put(name: str, value: torch.Tensor) -> None:
        if state[name].shape != value.shape:
            raise ValueError(f"{name}: {tuple(value.shape)} for {tuple(state[name].shape)}")
        state[name] = value
        used.add(name)

    def walk(prefix: str, tree: dict[str, Any]) -> None:
        if "kernel" in tree and f"{prefix}conv_b.weight" in state:  # both halves of a factorised reduction
            kernel = kernel_tensor(tree["kernel"])
            half = state[f"{prefix}conv_a.weight"].shape[0]
            put(f"{prefix}conv_a.weight", kernel[:half])
            put(f"{prefix}conv_b.weight", kernel[half:])
        elif "kernel" in tree:
            name = "weight" if f"{prefix}weight" in state else "conv_a.weight"
            put(f"{prefix}{name}", kernel_tensor(tree["kernel"]))
        if "scale" in tree:
            put(f"{prefix}weight", tensor(tree["scale"]))
        if "bias" in tree:
            put(f"{prefix}bias", tensor(tree["bias"]))
        for name, value in tree.items():
            if isinstance(value, dict):
                walk(f"{prefix}{name}.", value)

    walk("", params)
    missing = set(state) - used
    if missing:
        raise ValueError(f"no value for {sorted(missing)}")
    module.load_state_dict(state)


def frozen_barrier(kernel: Any, bias: Any) -> nn.Conv2d:
    """A barrier layer with given weights, never trained."""
    weight = kernel_tensor(kernel)
    layer = conv(weight.shape[1], weight.shape[0], weight.shape[2], bias=True).to(weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": tensor(bias)})
    return layer.requires_grad_(False)


def train_losses(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[torch.Tensor],
    barriers: Sequence[nn.Module],
    lr: float = 1.2,
    momentum: float = 0.9,
    weight_decay: float = 4e-5,
    num_steps: int = 10,
    last_backward: bool = False,
) -> list[float]:
    """Loss at each step's forward pass. Like ours, the last step ends after its forward pass, if not told otherwise."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD([g for g in groups if g["params"]], lr=lr, momentum=momentum)
    losses = []
    for step in range(num_steps):
        errors = [F.mse_loss(barrier(h), t) for h, barrier, t in zip(network(images), barriers, targets, strict=True)]
        losses.append(float(sum(error.detach() / 2**branch for branch, error in enumerate(errors))))
        if step < num_steps - 1 or last_backward:
            optimizer.zero_grad()
            sum(errors).backward()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
    return losses
