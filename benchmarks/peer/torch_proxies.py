"""Some zero-cost proxies as a plain PyTorch loop computes them, one network after the other.

The formulas are those of the papers that ``eproxy_jax.proxies`` names. Forward hooks record what happens inside.
``benchmarks/proxy_speed.py`` times ours against them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from peer import torch_reference as reference
from torch import nn  # pyright: ignore[reportMissingImports]

CLASSES = 10
_LAST_OF_BLOCK = ("stage", "reduce", "module", "stack")  # names of blocks in the reference's networks


class Net(nn.Module):
    """A backbone of the reference, the mean over pixels, and a linear layer."""

    def __init__(self, backbone: nn.Module, images: torch.Tensor, normed: bool):
        super().__init__()
        self.backbone, self.normed = backbone, normed
        with torch.no_grad():
            channels = backbone(images[:2])[0].shape[1]
        self.head = nn.Linear(channels, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits [B, K]."""
        tap = self.backbone(images)[0]
        if self.normed:
            tap = reference.F.relu(nn.functional.batch_norm(tap, None, None, training=True))
        return self.head(tap.mean((2, 3)))


@contextmanager
def _hooked(modules: list[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def naswot(net: Net, images: torch.Tensor) -> float:
    """ln|det| of the agreement of activation patterns."""
    kernel = torch.zeros(len(images), len(images))
    before = reference.F.relu

    def relu(x: torch.Tensor) -> torch.Tensor:
        nonlocal kernel
        on = (x > 0).float().reshape(len(x), -1)
        kernel = kernel + on @ on.T + (1 - on) @ (1 - on).T
        return before(x)

    reference.F.relu = relu  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with torch.no_grad():
            net(images)
    finally:
        reference.F.relu = before  # pyright: ignore[reportAttributeAccessIssue]
    return torch.linalg.slogdet(kernel.double())[1].item()


def jacov(net: Net, images: torch.Tensor) -> float:
    """Correlations of the images' input Jacobians."""
    net.requires_grad_(False)  # as an implementation that spares what it can
    images = images.clone().requires_grad_()
    rows = torch.autograd.grad(net(images).sum(), images)[0].reshape(len(images), -1)
    net.requires_grad_(True)
    values = torch.linalg.eigvalsh(torch.corrcoef(rows.double())) + 1e-5
    return -(values.log() + 1 / values).sum().item()


def synflow(net: Net, images: torch.Tensor) -> float:
    """Sum of |weight x gradient| of the summed output, without batch norms, in float64."""
    net = net.double()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.abs_()
    net.normed, normed = False, net.normed
    with _hooked(list(norms), lambda module, inputs, out: inputs[0]):
        net(torch.ones_like(images[:1], dtype=torch.float64)).sum().backward()
    net.normed = normed
    flow = sum((p * p.grad).abs().sum() for p in net.parameters() if p.ndim > 1 and p.grad is not None)
    return float(torch.as_tensor(flow).log())


def az_nas(net: Net, noise: torch.Tensor) -> tuple[float, float, float]:
    """expressivity, progressivity, trainability."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    children = dict(net.backbone.named_children())
    blocks = [child for name, child in children.items() if name.startswith(_LAST_OF_BLOCK)]
    stem = next(children[name] for name in ("stem_norm", "stem") if name in children)
    features: list[torch.Tensor] = []
    with _hooked([stem, *blocks], lambda module, inputs, out: features.append(out)):
        net.backbone(noise)
    entropies = []
    for feature in features:
        rows = feature.detach().permute(0, 2, 3, 1).reshape(-1, feature.shape[1])
        rows = rows - rows.mean(0)
        shares = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp(min=0)
        shares = shares / shares.sum()
        entropies.append(-(shares * (shares + 1e-8).log()).sum().item())
    terms = []
    for below, above in zip(features[-2::-1], features[:0:-1], strict=True):
        signs = torch.empty_like(above).bernoulli_().mul_(2).sub_(1)
        grad = torch.autograd.grad(above, below, signs, retain_graph=True)[0]
        if grad.shape[2] != signs.shape[2]:
            grad = nn.functional.pixel_unshuffle(grad, grad.shape[2] // signs.shape[2])
        rows = [t.permute(0, 2, 3, 1).reshape(-1, t.shape[1]) for t in (grad, signs)]
        largest = torch.linalg.matrix_norm(rows[0].T @ rows[1] / len(rows[0]), 2).item()
        terms.append(2 - largest - 1 / (largest + 1e-6))
    growth = min(b - a for a, b in itertools.pairwise(entropies))
    return sum(entropies), growth, sum(terms) / len(terms)
