"""This module prints a network as a PyTorch file."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from eproxy_jax.exports import printing
from eproxy_jax.exports.blocks import Block, Form, Layer, classify
from eproxy_jax.exports.network import Step

_HALVING = '''
class HalvingConv(nn.Module):
    """Two 1x1 convolutions of stride 2 to half the channels each; the second reads the pixels between."""

    def __init__(self, channels_in, channels):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels // 2, 1, stride=2, bias=False)
        self.second = nn.Conv2d(channels_in, channels - channels // 2, 1, stride=2, bias=False)

    def forward(self, x):
        """Map [B, C, H, W] to [B, channels, H / 2, W / 2]."""
        shifted = functional.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        return torch.cat([self.first(x), self.second(shifted)], dim=1)

'''
_NEAREST = '''
def resize_nearest(x, height, width):
    """Take pixel i * old // new of each row and column: [B, C, H, W] -> [B, C, height, width]."""
    rows = torch.arange(height, device=x.device) * x.shape[2] // height
    return x[:, :, rows][..., torch.arange(width, device=x.device) * x.shape[3] // width]

'''
_LOAD = '''
def load_flax(network, variables):
    """Copy the variables of the exported Flax network ({"params": ..., "batch_stats": ...}) into this one."""
    axes = {nn.Conv2d: (3, 2, 0, 1), nn.Linear: (1, 0)}
    state = {}
    for name, module in network.named_modules():
        weights = {}
        for tree in (variables["params"], variables.get("batch_stats", {})):
            for part in name.split("."):
                tree = tree.get(part, {}) if part else tree
            weights.update({key: torch.tensor(x.__array__()) for key, x in tree.items() if hasattr(x, "shape")})
        names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        for key, value in weights.items():
            value = value.permute(axes[type(module)]) if key == "kernel" else value
            state[f"{name}.{names[key]}"] = value
    unused = network.load_state_dict(state, strict=False).unexpected_keys
    assert not unused, f"weights of another network: {unused}"
    return network

'''
_ACTIVATIONS = {"sigmoid": "torch.sigmoid", "tanh": "torch.tanh", "hard_silu": "functional.hardswish"}


class TorchLanguage(printing.Language):
    """PyTorch: layers are made in ``__init__`` and used in ``forward``; images are [B, C, H, W]."""

    def __init__(self):
        self.made: list[str] = []  # lines of ``__init__`` of the class that is printed
        self.kept: dict[str, None] = {}  # arguments that ``forward`` reads

    @override
    def sizes(self, step: Step) -> list[tuple[str, int]]:
        return self.sized(step)

    @override
    def argument(self, text: str) -> str:
        return text

    @override
    def layer(self, item: Layer, sizes: dict[str, str], values: Sequence[str]) -> str:
        made = getattr(self, f"_make_{item.step.op}", None)
        if made is None:
            self.kept.update(dict.fromkeys(text for text in sizes.values() if not text.isdigit()))
            sizes = {role: text if text.isdigit() else f"self.{text}" for role, text in sizes.items()}
            return getattr(self, f"_{item.step.op}")(item, sizes, list(values))
        self.made.append(f"self.{item.name} = {made(item, sizes)}")
        return f"self.{item.name}({values[0]})"

    @override
    def block(self, name: str, form: Form, item: Block, values: Sequence[str]) -> str:
        call = f"getattr(self, {name})" if name.startswith("f") else f"self.{item.name}"
        return f"{call}({', '.join(values)})"

    def _make_conv(self, item: Layer, s: dict[str, str]) -> str:
        bias, pads, _ = item.step.form
        kernels, strides = [s["kernel"], s["kernel_width"]], [s["stride"], s["stride_width"]]
        paddings = [printing.half(kernel, s["dilation"]) for kernel in kernels]
        parts = [s["channels_in"], s["channels"], _pair(kernels)]
        parts += [f"stride={_pair(strides)}"] if set(strides) != {"1"} else []
        even = pads is None or all(before == after for before, after in pads)
        if pads is not None:
            paddings = [str(before) for before, _ in pads] if even else ["0", "0"]
        parts += [f"padding={_pair(paddings)}"] if set(paddings) != {"0"} else []
        parts += [f"dilation={s['dilation']}"] if s["dilation"] != "1" else []
        parts += [f"groups={s['groups']}"] if s["groups"] != "1" else []
        parts += [] if bias else ["bias=False"]
        conv = f"nn.Conv2d({', '.join(parts)})"
        if even:
            return conv
        raise ValueError(
            f"{'.'.join(item.step.scope)}: PyTorch's convolutions have no padding {pads}: pad by kernel_size // 2 on "
            "every side, or export --format flax"
        )

    def _make_halving_conv(self, item: Layer, s: dict[str, str]) -> str:
        return f"HalvingConv({s['channels_in']}, {s['channels']})"

    def _make_dense(self, item: Layer, s: dict[str, str]) -> str:
        return f"nn.Linear({s['channels_in']}, {s['channels']}{'' if item.step.form[0] else ', bias=False'})"

    def _make_batch_norm(self, item: Layer, s: dict[str, str]) -> str:
        scale, bias, epsilon = item.step.form
        if scale != bias:
            raise ValueError(f"{'.'.join(item.step.scope)}: PyTorch's batch norm has scale and bias, or neither")
        parts = [s["channels"], *([] if epsilon == 1e-5 else [f"eps={epsilon}"]), *([] if scale else ["affine=False"])]
        return f"nn.BatchNorm2d({', '.join(parts)})"

    def _activation(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        name = item.step.form[0]
        return f"{_ACTIVATIONS.get(name, f'functional.{name}')}({v[0]})"

    def _max_pool(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        padding = printing.half(s["kernel"]) if item.step.form[0] else "0"
        return f"functional.max_pool2d({v[0]}, {s['kernel']}, stride={s['stride']}, padding={padding})"

    def _avg_pool(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        if not item.step.form[0]:
            return f"functional.avg_pool2d({v[0]}, {s['kernel']}, stride={s['stride']})"
        padding = printing.half(s["kernel"])
        sizes = f"{s['kernel']}, stride={s['stride']}, padding={padding}"
        return f"functional.avg_pool2d({v[0]}, {sizes}, count_include_pad=False)"

    def _add(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return " + ".join(v)

    def _multiply(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return " * ".join(v)

    def _concat(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"torch.cat([{', '.join(v)}], dim=1)"

    def _channels(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        start = s["start"] if s["start"] != "0" else ""
        return f"{v[0]}[:, {start}:{printing.plus(s['start'], s['channels'])}]"

    def _subsample(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"{v[0]}[:, :, ::{s['stride']}, ::{s['stride']}]"

    def _upsample(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f'functional.interpolate({v[0]}, scale_factor=2, mode="nearest")'

    def _resize_bilinear(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        size = f"{v[1]}.shape[2:]" if len(v) > 1 else f"({s['height']}, {s['width']})"
        return f'functional.interpolate({v[0]}, {size}, mode="bilinear", align_corners=False)'

    def _resize_nearest(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        size = f"*{v[1]}.shape[2:]" if len(v) > 1 else f"{s['height']}, {s['width']}"
        return f"resize_nearest({v[0]}, {size})"

    def _mean(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"{v[0]}.mean((2, 3))"

    def _zeros(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        size = f"{s['height']}, {s['width']}" if "height" in s else f"*{v[0]}.shape[2:]"
        return f"{v[0]}.new_zeros({v[0]}.shape[0], {s['channels']}, {size})"


def _pair(texts: Sequence[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"


def source(root: Block, header: str, num_classes: int | None) -> str:
    """Print the network as the source of a PyTorch file; arguments as those of ``flax_source.source``."""
    language = TorchLanguage()
    forms = classify(root, language.sizes)
    classes = "\n\n".join(_class(language, form, forms, num_classes) for form in forms)
    helpers = [text for word, text in (("HalvingConv(", _HALVING), ("resize_nearest(", _NEAREST)) if word in classes]
    functional = ["from torch.nn import functional"] if "functional." in "".join([*helpers, classes]) else []
    imports = ["import torch", "from torch import nn", *functional]
    text = "\n".join([header, "", *imports, "", *helpers, "", classes, _LOAD.rstrip()])
    return text.replace("\n\n\n\n", "\n\n\n") + "\n"


def _class(language: TorchLanguage, form: Form, forms: Sequence[Form], num_classes: int | None) -> str:
    language.made, language.kept = [], {}
    is_root = form is forms[-1]
    inputs, result, lines = printing.body(language, form, forms)
    layers = iter(language.made)
    made: list[str] = []
    for first, count in printing.runs(form):
        item = form.example.items[first]
        if isinstance(item, Block):
            new = f"{forms[item.form].name}({', '.join(form.expressions[first].values())})"
            if count > 1:
                name, numbers = printing.loop_name(item.name), printing.loop_range(item, count)
                made += [f"for n in {numbers}:", f"    self.add_module({name}, {new})"]
            else:
                made.append(f"self.{item.name} = {new}")
        elif hasattr(language, f"_make_{item.step.op}"):
            made.append(next(layers))
    arguments = list(form.parameters)
    text = f"Blocks {printing.places(form)}."
    if is_root:
        text = "The whole network: images [B, 3, H, W] -> logits [B, num_classes]."
        if num_classes is not None:
            arguments = [f"num_classes={num_classes}"]
            made = [
                line.replace(f", {num_classes}", ", num_classes") if line.startswith("self.classifier = nn.L") else line
                for line in made
            ]
    kept = [f"self.{name} = {name}" for name in language.kept]
    init = [f"    def __init__({', '.join(['self', *arguments])}):", "        super().__init__()"]
    init += [f"        {line}" for line in [*kept, *made]] + [""]
    head = [f"class {form.name}(nn.Module):", f'    """{text}"""', "", *(init if kept or made or arguments else [])]
    call = [f"    def forward({', '.join(['self', *inputs])}):"]
    lines = [f"        {line}" for line in (*lines, f"return {result}")]
    return "\n".join(printing.wrapped([*head, *call, *lines, ""]))
