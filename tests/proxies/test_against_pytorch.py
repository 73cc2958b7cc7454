"""Every proxy against a plain PyTorch build of its formula, from the same weights and inputs, in float64."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import CELLS, SPACES, pattern, pattern_images, pattern_tree, used_params

from eproxy_jax.nn import layers, marks
from eproxy_jax.proxies import spectra
from eproxy_jax.proxies.classifier import Classifier
from eproxy_jax.proxies.fisher_spectrum import FisherSpectrum
from eproxy_jax.proxies.gradients import WeightGradients
from eproxy_jax.proxies.jacobians import Jacobians
from eproxy_jax.proxies.perturbations import swap, zen
from eproxy_jax.proxies.spectra import Spectra
from eproxy_jax.proxies.synflow import Synflow
from eproxy_jax.types import TARGET_SIZE

CLASSES, BATCH = 5, 6
CASES = [("nasbench201", 0), ("transnas_micro", 0), ("nasbench101", 0), ("nds_darts", 0), ("nds_resnext_a", 0)]
CASES += [("transnas_macro", 0), ("nasbench_mr", 0), ("nats_size", 0)]
LABELS = np.asarray([0, 1, 2, 0, 1, 4])
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("x64")]


def _as_initialised(path, leaf):
    """Scales of batch norms are ones, biases zeros: several proxies are defined for networks that start so."""
    name = jax.tree_util.keystr(path)
    return np.ones_like(leaf) if "scale" in name else np.zeros_like(leaf) if "bias" in name else leaf


class Case:
    """One network on both sides: ours by universal module and parameters, PyTorch's by module and linear layer."""

    def __init__(self, name, number):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        from peer import torch_reference as reference

        self.torch, self.reference = torch, reference
        space, cell = SPACES[name], SPACES[name].canonical(CELLS[name][number])
        group = space.group(cell)
        self.network = group.universal(jnp.float64)
        self.encoded = jnp.asarray(group.encode([cell])[0])
        model = Classifier(self.network, CLASSES, jnp.float64)
        images = jax.ShapeDtypeStruct((BATCH, 16, 16, 3), jnp.float64)
        shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, self.encoded), images)["params"]
        params = jax.tree_util.tree_map_with_path(_as_initialised, pattern_tree(shapes))
        self.backbone = reference.BACKBONES[name](cell, **space.identity()["sizes"]).double()
        channels = self.backbone.tap_channels[0]  # those of the universal network may be more
        params["kernel"][:, :, channels:] = 0
        self.params = {**params, "backbone": used_params(group, cell, params["backbone"])}
        reference.load_params(self.backbone, group.extract(cell, self.params["backbone"]))
        self.head = torch.nn.Linear(channels, CLASSES, bias=False).double()
        self.head.weight.data = torch.tensor(params["kernel"][0, 0, :channels].T)
        self.normed = getattr(self.network, "norm_before_pooling", False)
        self.space, self.cell, self.branches = space, cell, name == "nasbench_mr"
        taps = jax.eval_shape(
            lambda p, x: self.network.apply({"params": p}, x, self.encoded), params["backbone"], images
        )
        self.resizes = isinstance(taps[0], layers.PaddedTap)

    def feature_width(self, shape):
        """Channels of a feature of that height as our program holds it: more than the network's where widths are data."""
        if self.branches:
            from eproxy_jax.spaces.nasbench_mr import program

            level, divisor = (16 // int(shape[1])).bit_length() - 1, self.space.channel_divisor
            conv = program.CONV_SHAPES[program.conv_shape(program.SAME, level, int(shape[3]) * divisor)]
            return conv.eighths * program.MAX_CHANNELS // divisor // 8
        found = [int(shape[3])]

        def record(state, x):
            if self.padded and x.shape[1] == shape[1]:
                found.append(x.shape[3])
            return state

        run = marks.collect(
            lambda x: self.network.apply({"params": self.params["backbone"]}, x, self.encoded),
            {"feature": marks.observe(record)},
            0,
        )
        jax.eval_shape(run, jax.ShapeDtypeStruct((BATCH, 16, 16, 3), jnp.float64))
        return max(found)

    @property
    def padded(self):
        """Whether the maps of blocks have channels that are not in use."""
        return self.resizes and self.space.name != "transnas_macro"

    def taps_seen(self, taps):
        """As proxies of taps see them: some spaces give all at one size."""
        size = TARGET_SIZE
        return [self.torch.nn.functional.interpolate(tap, size=(size, size)) for tap in taps] if self.resizes else taps

    def logits(self, x, batch_norm=True):
        functional, tap = self.torch.nn.functional, self.backbone(x)[0]
        if self.normed:
            if batch_norm is True:
                tap = functional.batch_norm(tap, None, None, training=True)
            elif callable(batch_norm):
                tap = batch_norm(tap)
            elif batch_norm:
                tap = tap * batch_norm
            tap = self.reference.F.relu(tap)
        return self.head(tap.mean((2, 3)))

    def inputs(self, seed=0):
        return np.asarray(pattern_images(BATCH, 16)) + np.asarray(pattern((BATCH, 16, 16, 3), 77 + seed))

    def tensor(self, array):
        return self.torch.tensor(np.asarray(array).transpose(0, 3, 1, 2))

    def weights(self):
        """Of convolutions and the linear layer."""
        return [p for p in [*self.backbone.parameters(), self.head.weight] if p.ndim > 1]

    @contextlib.contextmanager
    def relus(self, record):
        """Record the inputs of all ReLUs."""
        functional = self.reference.F
        before = functional.relu
        # A sum of what ReLUs gave may go through one more, which changes nothing.
        functional.relu = lambda x: ((self.branches and bool((x >= 0).all())) or record.append(x), before(x))[1]
        try:
            yield
        finally:
            functional.relu = before

    @contextlib.contextmanager
    def norms_are(self, factor):
        """Replace batch norms by a constant factor."""
        norms = [m for m in self.backbone.modules() if isinstance(m, self.torch.nn.BatchNorm2d)]
        hooks = [m.register_forward_hook(lambda m, inputs, out: inputs[0] * factor) for m in norms]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@pytest.fixture(scope="module", params=CASES, ids=[f"{name}-{number}" for name, number in CASES])
def case(request):
    with jax.enable_x64(True):
        return Case(*request.param)


def close(ours, expected, rtol=1e-5):
    assert math.isfinite(expected)
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=rtol)


def loss_of(case, number):
    functional = case.torch.nn.functional
    return functional.cross_entropy(case.logits(case.tensor(case.inputs(number))), case.torch.tensor(LABELS))


def test_gradients(case):
    torch, weights = case.torch, case.weights()
    names = ("grad_norm", "snip", "plain", "l2_norm", "fisher", "grasp", "zico")
    images = jnp.asarray(np.stack([case.inputs(0), case.inputs(1)]))
    labels = jnp.asarray(np.stack([LABELS, LABELS]))
    proxy = WeightGradients(names, CLASSES)
    ours = jax.jit(lambda p: proxy.of_params(case.network, p, case.encoded, images, labels))(case.params)

    outputs = []
    layers = [m for m in [*case.backbone.modules(), case.head] if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    hooks = [m.register_forward_hook(lambda m, i, out: outputs.append((m, out))) for m in layers]
    loss = loss_of(case, 0)
    for hook in hooks:
        hook.remove()
    grads = torch.autograd.grad(loss, weights, create_graph=True)
    close(ours["grad_norm"], sum(g.norm().item() for g in grads))
    close(ours["l2_norm"], sum(w.norm().item() for w in weights))
    close(ours["snip"], sum((w * g).abs().sum().item() for w, g in zip(weights, grads, strict=True)))
    close(ours["plain"], sum((w * g).sum().item() for w, g in zip(weights, grads, strict=True)))
    of_outputs = torch.autograd.grad(loss, [out for _, out in outputs], retain_graph=True)
    fisher = 0.0
    for (module, out), grad in zip(outputs, of_outputs, strict=True):
        product = (out * grad).reshape(*out.shape[:2], -1).sum(2)
        fisher += 0.5 * (product**2).mean(0).sum().item() * module.weight[0].numel()
    close(ours["fisher"], fisher)
    along = sum((g * g.detach()).sum() for g in grads)
    curved = torch.autograd.grad(along, weights)
    close(ours["grasp"], sum((-w * h).sum().item() for w, h in zip(weights, curved, strict=True)))
    others = torch.autograd.grad(loss_of(case, 1), weights)
    zico = 0.0
    for first, second in zip(grads, others, strict=True):
        pair = torch.stack([first.detach(), second])
        deviation = pair.std(0, correction=0)
        ratio = pair.abs().mean(0)[deviation > 0] / deviation[deviation > 0]
        zico += math.log(ratio.sum().item()) if ratio.numel() else 0.0
    close(ours["zico"], zico)


def test_synflow(case):
    torch = case.torch
    ours = jax.jit(lambda p: Synflow(CLASSES).of_params(case.network, p, case.encoded, jnp.ones((1, 32, 32, 3))))
    own = ours(case.params)["synflow"]
    before = [p.data.clone() for p in [*case.backbone.parameters(), case.head.weight]]
    try:
        for p in [*case.backbone.parameters(), case.head.weight]:
            p.data = p.data.abs()
        with case.norms_are(1.0):
            total = case.logits(torch.ones(1, 3, 32, 32, dtype=torch.float64), batch_norm=False).sum()
            grads = torch.autograd.grad(total, case.weights())
        flow = sum((w * g).abs().sum().item() for w, g in zip(case.weights(), grads, strict=True))
    finally:
        for p, data in zip([*case.backbone.parameters(), case.head.weight], before, strict=True):
            p.data = data
    close(own, math.log(flow))


def test_jacobians(case):
    torch, images = case.torch, case.inputs()
    proxy = Jacobians(("naswot", "jacov", "epe_nas"), CLASSES)
    arguments = jnp.asarray(images), jnp.asarray(LABELS)
    ours = jax.jit(lambda p: proxy.of_params(case.network, p, case.encoded, *arguments))(case.params)
    x, seen = case.tensor(images).requires_grad_(), []
    with case.relus(seen):
        logits = case.logits(x)
    if case.normed:  # the head's ReLU reads the tap, at the size that proxies see: its own at 32 px
        seen[-1] = case.taps_seen(seen[-1:])[0]
    kernel = 0
    for inputs in seen:
        on = (inputs > 0).double().reshape(BATCH, -1)
        kernel = kernel + on @ on.T + (1 - on) @ (1 - on).T
    close(ours["naswot"], torch.linalg.slogdet(kernel)[1].item(), 1e-4)
    rows = torch.autograd.grad(logits.sum(), x, retain_graph=True)[0].reshape(BATCH, -1).numpy()
    if np.abs(rows).max() < 1e-9:  # where batch norms come last, the sum of the logits is constant
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(BATCH)[:BATCH, None]
        rows = torch.autograd.grad((signs * logits).sum(), x)[0].reshape(BATCH, -1).numpy()
        assert np.abs(rows).max() > 1e-6
    values = np.linalg.eigvalsh(np.corrcoef(rows)) + 1e-5
    close(ours["jacov"], -np.sum(np.log(values) + 1 / values), 1e-4)
    epe = 0.0
    for label in set(LABELS.tolist()):
        matrix = np.atleast_2d(np.corrcoef(rows[label == LABELS]))
        epe += abs(np.sum(np.log(np.abs(matrix) + 1e-5)))
    close(ours["epe_nas"], epe, 1e-4)


def entropy(x):
    """[B, C, H, W] -> entropy of the covariance's spectrum."""
    rows = x.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, x.shape[1])
    rows = rows - rows.mean(0)
    values = np.maximum(np.linalg.eigvalsh(rows.T @ rows / len(rows)), 0)
    shares = values / values.sum()
    return -np.sum(shares * np.log(shares + 1e-8))


def blocks_of(case):
    """Modules whose outputs are the features after the stem, in order, and the stem."""
    names = ("stem_norm", "stem", "stem_b")
    children = dict(case.backbone.named_children())
    stem = next(children[name] for name in names if name in children)
    kinds = ("stage", "reduce", "module", "stack", "cell", "piece")
    rest = [child for name, child in children.items() if name.startswith(kinds) and "_fuse" not in name]
    order = []  # as they run
    hooks = [m.register_forward_hook(lambda m, i, out: order.append(m)) for m in rest]
    case.backbone(case.tensor(case.inputs()))
    for hook in hooks:
        hook.remove()
    return stem, order


def test_spectra(case):
    torch, noise = case.torch, case.inputs()
    names = (*spectra.FORWARD, "trainability")
    key = jax.random.key(3)
    ours = jax.jit(
        lambda p: Spectra(names).of_params(case.network, p, key, case.encoded, jnp.asarray(noise)),
    )(case.params["backbone"])
    stem, order = blocks_of(case)
    features, inputs, norms = [], [], []

    def keep(module, given, out):
        features.append(out)
        inputs.append(given[0])

    hooks = [m.register_forward_hook(keep) for m in (stem, *order)]
    every = [m for m in case.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks += [m.register_forward_hook(lambda m, i, out: norms.append((m, i[0]))) for m in every]
    taps = case.backbone(case.tensor(noise))
    for hook in hooks:
        hook.remove()
    if not case.branches:  # max pools of NAS-Bench-101 are part of the block behind
        inputs[1:] = features[:-1]
    entropies = [entropy(f) for f in features]
    close(ours["expressivity"], sum(entropies), 1e-4)
    close(
        ours["progressivity"],
        min(entropy(out) - entropy(x) for x, out in list(zip(inputs, features, strict=True))[1:]),
        1e-4,
    )
    close(ours["entropy_taps"], sum(entropy(tap) for tap in case.taps_seen(taps)), 1e-4)
    close(ours["entropy_last"], entropy(taps[0]), 1e-4)
    standard = [torch.nn.functional.batch_norm(x, None, None, training=True) for _, x in norms]
    close(ours["entropy_norms"], np.mean([entropy(x) for x in standard]), 1e-4)
    # The random gradients are ours, from the last block to the first.
    terms = []
    for place in range(len(features) - 1, 0, -1):
        out, below = features[place], inputs[place]
        shape = np.asarray(out.shape)[[0, 2, 3, 1]]
        number = len(features) - 1 - place
        drawn = (*map(int, shape[:3]), case.feature_width(shape))
        signs = jax.random.rademacher(jax.random.fold_in(key, number), drawn, jnp.float64)[..., : shape[3]]
        signs = torch.tensor(np.asarray(signs).transpose(0, 3, 1, 2))
        grad = torch.autograd.grad(out, below, signs, retain_graph=True)[0]
        if grad.shape[2] != signs.shape[2]:
            grad = torch.nn.functional.pixel_unshuffle(grad, grad.shape[2] // signs.shape[2])
        rows = [t.permute(0, 2, 3, 1).reshape(-1, t.shape[1]) for t in (grad, signs)]
        largest = torch.linalg.matrix_norm(rows[0].T @ rows[1] / len(rows[0]), 2).item()
        terms.append(2 - largest - 1 / (largest + 1e-6))
    close(ours["trainability"], np.mean(terms), 1e-4)


def test_perturbations(case):
    torch = case.torch
    noise, change = case.inputs(0), case.inputs(1)
    params = case.params["backbone"]

    def run(x):
        return case.network.apply({"params": params}, x, case.encoded)

    own = jax.jit(lambda a, b: (zen(run, a, b), swap(run, a)))(jnp.asarray(noise), jnp.asarray(noise + 0.01 * change))
    variances, patterns = {}, []
    every = [m for m in case.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    def record(module, inputs, out):
        variances.setdefault(module, []).append(inputs[0].var((0, 2, 3)).detach())

    hooks = [m.register_forward_hook(record) for m in every]
    with case.relus(patterns):
        first = case.backbone(case.tensor(noise))[0]
    second = case.backbone(case.tensor(noise + 0.01 * change))[0]
    for hook in hooks:
        hook.remove()
    distance = (first - second).abs().sum((1, 2, 3)).mean().item()
    running = [(0.9 * (0.9 + 0.1 * a) + 0.1 * b).mean().item() for a, b in variances.values()]
    close(own[0], math.log(distance) + sum(math.log(v) / 2 for v in running))
    signs = torch.cat([(x > 0).reshape(BATCH, -1) for x in patterns], 1)
    assert int(own[1]) == len(torch.unique(signs, dim=1).T)


def test_fisher_spectrum(case):
    torch, noise = case.torch, case.inputs()
    proxy = FisherSpectrum(CLASSES, max_tensors=512)  # all: which are first is a matter of the order of branches
    ours = jax.jit(lambda p: proxy.of_params(case.network, p, case.encoded, jnp.asarray(noise)))
    own = ours(case.params)["vkdnw"]
    vectors = []  # scales and biases, which the reference's norms may lack

    def norm(x):
        shape = 1, x.shape[1], 1, 1
        scale, bias = (make(shape, dtype=x.dtype).requires_grad_() for make in (torch.ones, torch.zeros))
        vectors.extend([scale, bias])
        return x * (1 + 1e-5) ** -0.5 * scale + bias

    norms = [m for m in case.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(lambda m, inputs, out: norm(inputs[0])) for m in norms]
    try:
        bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)  # of the linear layer
        logits = case.logits(case.tensor(noise), batch_norm=norm) + bias
        weights = [*case.weights(), *vectors, bias]
        assert len(weights) <= proxy.max_tensors
        rows = torch.zeros(BATCH, CLASSES, len(weights), dtype=torch.float64)
        for image in range(BATCH):
            for k in range(CLASSES):
                grads = torch.autograd.grad(logits[image, k], weights, retain_graph=True)
                rows[image, k] = torch.stack([g.reshape(-1)[0] for g in grads])
    finally:
        for hook in hooks:
            hook.remove()
    p = (0.95 * torch.softmax(logits, 1).detach() + 0.05 / CLASSES)[:, :, None]
    # diag(p) - p p' is the matrix of a weighted variance. So rows less their mean are a root of the Fisher matrix, whose
    # singular values are exact where those of the matrix would be rounding.
    root = p.sqrt() * (rows - (p * rows).sum(1, keepdim=True)) / math.sqrt(BATCH)
    values = torch.linalg.svdvals(root.reshape(-1, len(weights))) ** 2
    values = torch.cat([values, torch.zeros(len(weights) - len(values), dtype=values.dtype)])
    deciles = torch.quantile(values, torch.arange(1, 10, dtype=torch.float64) / 10)
    shares = deciles / (deciles.sum() + 1e-10)
    expected = -(shares * torch.log(shares + 1e-10)).sum().item()
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-9)
