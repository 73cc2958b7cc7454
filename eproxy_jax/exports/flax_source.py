"""This module prints a network as a Flax file."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from eproxy_jax.exports import printing
from eproxy_jax.exports.blocks import Block, Form, Layer, classify
from eproxy_jax.exports.network import Step

_HALVING = '''
class HalvingConv(nn.Module):
    """Two 1x1 convolutions of stride 2 to half the channels each; the second reads the pixels between."""

    channels: int

    @nn.compact
    def __call__(self, x):
        """Map [B, H, W, C] to [B, H / 2, W / 2, channels]."""
        shifted = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
        half = self.channels // 2
        first = nn.Conv(half, (1, 1), strides=2, padding=0, use_bias=False, name="first")(x)
        second = nn.Conv(self.channels - half, (1, 1), strides=2, padding=0, use_bias=False, name="second")(shifted)
        return jnp.concatenate([first, second], axis=-1)

'''
_RESIZE = '''
def resize(x, height, width, method):
    """Resize [B, H, W, C] without smoothing."""
    shape = (x.shape[0], height, width, x.shape[3])
    return jax.image.resize(x, shape, method, antialias=False)

'''
_NEAREST = '''
def resize_nearest(x, height, width):
    """Take pixel i * old // new of each row and column: [B, H, W, C] -> [B, height, width, C]."""
    rows = jnp.arange(height) * x.shape[1] // height
    return x[:, rows][:, :, jnp.arange(width) * x.shape[2] // width]

'''


class FlaxLanguage(printing.Language):
    """Flax: layers are made where they are used, and know their input channels by themselves."""

    @override
    def sizes(self, step: Step) -> list[tuple[str, int]]:
        left_out = {"batch_norm": ["channels"], "zeros": []}.get(step.op, ["channels_in"])
        return self.sized(step, left_out)

    @override
    def layer(self, item: Layer, sizes: dict[str, str], values: Sequence[str]) -> str:
        sizes = {role: self.argument(text) for role, text in sizes.items()}
        return getattr(self, f"_{item.step.op}")(item, sizes, list(values))

    @override
    def block(self, name: str, form: Form, item: Block, values: Sequence[str]) -> str:
        arguments = f"ARGUMENTS, name={name}" if form.parameters else f"name={name}"
        return f"{form.name}({arguments})({', '.join([*values, *(['train'] if item.normed else [])])})"

    def _conv(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        bias, pads, _ = item.step.form
        square = s["kernel"] == s["kernel_width"]
        paddings = [printing.half(s[role], s["dilation"]) for role in ("kernel", "kernel_width")]
        padding = paddings[0] if square else f"(({paddings[0]},) * 2, ({paddings[1]},) * 2)"
        parts = [s["channels"], printing.pair(s["kernel"], s["kernel_width"])]
        if s["stride"] != "1" or s["stride_width"] != "1":
            same = s["stride"] == s["stride_width"]
            parts.append(f"strides={s['stride'] if same else printing.pair(s['stride'], s['stride_width'])}")
        parts.append(f"padding={padding if pads is None else pads}")
        if s["dilation"] != "1":
            parts.append(f"kernel_dilation={s['dilation']}")
        if s["groups"] != "1":
            parts.append(f"feature_group_count={s['groups']}")
        if not bias:
            parts.append("use_bias=False")
        return f'nn.Conv({", ".join(parts)}, name="{item.name}")({v[0]})'

    def _halving_conv(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f'HalvingConv({s["channels"]}, name="{item.name}")({v[0]})'

    def _dense(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        bias = "" if item.step.form[0] else ", use_bias=False"
        return f'nn.Dense({s["channels"]}{bias}, name="{item.name}")({v[0]})'

    def _batch_norm(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        scale, bias, epsilon = item.step.form
        parts = ["not train", "momentum=0.9"]
        parts += ([] if epsilon == 1e-5 else [f"epsilon={epsilon}"]) + ([] if scale else ["use_scale=False"])
        parts += [] if bias else ["use_bias=False"]
        return f'nn.BatchNorm({", ".join(parts)}, name="{item.name}")({v[0]})'

    def _activation(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"nn.{item.step.form[0]}({v[0]})"

    def _pool(self, item: Layer, s: dict[str, str], v: list[str], more: str) -> str:
        padding = f"(({printing.half(s['kernel'])},) * 2,) * 2" if item.step.form[0] else '"VALID"'
        if item.step.form[0] and s["kernel"].isdigit():
            size = printing.half(s["kernel"])
            padding = f"(({size}, {size}), ({size}, {size}))"
        stride, kernel = s["stride"], s["kernel"]
        return f"nn.{item.step.op}({v[0]}, ({kernel}, {kernel}), strides=({stride}, {stride}), padding={padding}{more})"

    def _max_pool(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return self._pool(item, s, v, "")

    def _avg_pool(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return self._pool(item, s, v, ", count_include_pad=False" if item.step.form[0] else "")

    def _add(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return " + ".join(v)

    def _multiply(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return " * ".join(v)

    def _concat(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"jnp.concatenate([{', '.join(v)}], axis=-1)"

    def _channels(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        start = s["start"] if s["start"] != "0" else ""
        return f"{v[0]}[..., {start}:{printing.plus(s['start'], s['channels'])}]"

    def _subsample(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"{v[0]}[:, ::{s['stride']}, ::{s['stride']}]"

    def _upsample(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"jnp.repeat(jnp.repeat({v[0]}, 2, axis=1), 2, axis=2)"

    def _size(self, s: dict[str, str], v: list[str]) -> str:
        return f"*{v[1]}.shape[1:3]" if len(v) > 1 else f"{s['height']}, {s['width']}"

    def _resize_bilinear(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f'resize({v[0]}, {self._size(s, v)}, "bilinear")'

    def _resize_nearest(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"resize_nearest({v[0]}, {self._size(s, v)})"

    def _mean(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        return f"{v[0]}.mean((1, 2))"

    def _zeros(self, item: Layer, s: dict[str, str], v: list[str]) -> str:
        shape = f"{v[0]}.shape[0], {s['height']}, {s['width']}" if "height" in s else f"*{v[0]}.shape[:3]"
        return f"jnp.zeros(({shape}, {s['channels']}), {v[0]}.dtype)"


def source(root: Block, header: str, num_classes: int | None) -> str:
    """Print the network as the source of a Flax file.

    Args:
      root: of ``blocks.tree``.
      header: first line and docstring.
      num_classes: outputs of the classifier, the last dense layer.
    """
    language = FlaxLanguage()
    forms = classify(root, language.sizes)
    classes = "\n\n".join(_class(language, form, forms, num_classes) for form in forms)
    helpers = [text for word, text in (("HalvingConv(", _HALVING), (" resize(", _RESIZE), ("resize_nearest(", _NEAREST))
               if word in classes]  # fmt: skip
    everything = "\n".join([*helpers, classes])
    imports = ["import flax.linen as nn"]
    imports += ["import jax"] if "jax." in everything else []
    imports += ["import jax.numpy as jnp"] if "jnp." in everything else []
    return "\n".join([header, "", *imports, "", *helpers, "", classes]).replace("\n\n\n\n", "\n\n\n") + "\n"


def _class(language: FlaxLanguage, form: Form, forms: Sequence[Form], num_classes: int | None) -> str:
    is_root = form is forms[-1]
    inputs, result, lines = printing.body(language, form, forms)
    fields = [f"    {name}: int" for name in form.parameters]
    text = f"Blocks {printing.places(form)}."
    if is_root:
        text = "The whole network: images [B, H, W, 3] -> logits [B, num_classes]."
        if num_classes is not None:
            fields = [f"    num_classes: int = {num_classes}"]
            result = result.replace(f"nn.Dense({num_classes}", "nn.Dense(self.num_classes")
    train = (", train=True" if is_root else ", train") if form.example.normed or is_root else ""
    docstring = f'    """{text}"""'
    head = [f"class {form.name}(nn.Module):", docstring, "", *fields, *([""] if fields else [])]
    call = ["    @nn.compact", f"    def __call__(self, {', '.join(inputs)}{train}):"]
    lines = [f"        {line}" for line in (*lines, f"return {result}")]
    return "\n".join(printing.wrapped([*head, *call, *lines, ""]))
