"""This module traces a space's stand-alone network once, and reads the trace as steps.

One reader serves all spaces and a user's own families. Layers of ``eproxy_jax.nn`` and of ``flax.linen`` show as whole
operations; between them it knows sums, products, concatenations, slices, means and activations.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from eproxy_jax.errors import quoted
from eproxy_jax.exports.network import Network, Path, Step
from eproxy_jax.nn import layers
from eproxy_jax.nn.recording import OPERATION, whole, whole_operations

# Names of jitted functions without arguments; tanh and sigmoid are primitives. gelu is inlined, and so unknown.
ACTIVATIONS = ("relu", "relu6", "silu", "hard_silu", "softplus")
_SAME = ("convert_element_type", "copy", "stop_gradient", "eproxy_mark")
_KEEP_ZERO = ("add", "mul", "slice", "squeeze", "reshape", "concatenate", "max", "add_any", *_SAME)
_VIEWS = ("reshape", "squeeze", "slice", "gather", "dynamic_slice", "expand_dims")
_PLACE = re.compile(r"\|([^|]*)\|")


class ExportError(ValueError):
    """The network has a part that no exported file has a layer for."""


def trace(apply: Callable[[Any, Any], Any], variables: Any, images: Any) -> Network:
    """Trace a network.

    Args:
      apply: (variables, images) -> one array. It calls modules of ``flax.linen``.
      variables: ``jax.ShapeDtypeStruct`` by collection and path.
      images: of a batch of one.

    Raises:
      ExportError: an operation that the reader does not know.
    """
    kinds: dict[Path, str] = {}

    def intercepted(variables: Any, images: Any) -> Any:
        with nn.intercept_methods(_interceptor(kinds)):
            return apply(variables, images)

    with whole_operations():
        jaxpr = jax.make_jaxpr(intercepted)(variables, images)
    reader = _Reader()
    paths = [
        ("variable", tuple(key.key for key in path)) for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]
    ]
    (output,) = reader.run(jaxpr.jaxpr, jaxpr.consts, [*paths, ("value", 0)], "")
    if output[0] != "value":
        raise ExportError("the network's output does not depend on the images")
    return Network(tuple(reader.steps), output[1], kinds)


# --- layers as whole operations ------------------------------------------------------------------------------


def _interceptor(kinds: dict[Path, str]) -> Callable[..., Any]:
    """Return a Flax interceptor that names the place of every equation, and shows layers as one operation."""

    def intercept(method: Callable[..., Any], arguments: Any, options: Any, context: Any) -> Any:
        module: nn.Module = context.module
        if context.method_name != "__call__":
            return method(*arguments, **options)
        kinds[module.path] = type(module).__name__
        with jax.named_scope(f"|{'/'.join(module.path)}|"):
            described = _LAYERS.get(type(module))
            return described(module, arguments[0]) if described else method(*arguments, **options)

    return intercept


def _params(module: nn.Module, *names: str) -> dict[str, Any]:
    return {name: module.get_variable("params", name) for name in names if module.has_variable("params", name)}


def _batch_norm(module: Any, x: Any) -> Any:
    axis, epsilon = getattr(module, "axis", -1), getattr(module, "epsilon", 1e-5)
    if axis != -1 or getattr(module, "axis_name", None) is not None:
        raise ExportError(f"{'/'.join(module.path)}: a batch norm over other axes than the last, or over devices")
    params = _params(module, "scale", "bias")
    facts = (*params, float(epsilon)), module.path
    return whole(lambda x, *_: x, x, *params.values(), name="batch_norm", static=facts)


def _dense(module: Any, x: Any) -> Any:
    params = _params(module, "kernel", "bias")
    return whole(lambda x, kernel, *_: x @ kernel, x, *params.values(), name="dense")


def _conv(module: Any, x: Any) -> Any:
    """Show a convolution of Flax, with its padding in numbers."""
    pair: Callable[[Any], tuple[int, ...]] = lambda v: (1, 1) if v is None else (v, v) if isinstance(v, int) else (*v,)  # noqa: E731
    kernel, strides, dilation = (pair(v) for v in (module.kernel_size, module.strides, module.kernel_dilation))
    if len(kernel) != 2 or pair(module.input_dilation) != (1, 1) or module.mask is not None or x.ndim != 4:
        raise ExportError(f"{'/'.join(module.path)}: a convolution that is not a plain one over images")
    spread = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = module.padding
    if isinstance(padding, str):
        if padding.upper() not in ("SAME", "VALID"):
            raise ExportError(f"{'/'.join(module.path)}: a convolution with the padding {quoted(padding)}")
        pads = lax.padtype_to_pads(x.shape[1:3], spread, strides, padding)
    else:
        pads = [pair(one) for one in pair(padding)]
    params = _params(module, "kernel", "bias")

    def shape(x: Any, kernel: Any, *_: Any) -> Any:
        dimensions = ("NHWC", "HWIO", "NHWC")
        groups = module.feature_group_count
        return lax.conv_general_dilated(
            x, kernel, strides, pads, None, dilation, dimensions, feature_group_count=groups
        )

    static = (strides, tuple(map(tuple, pads)), dilation, module.feature_group_count)
    return whole(shape, x, *params.values(), name="conv", static=static)


def _own_conv(module: Any, x: Any) -> Any:
    depthwise = isinstance(module, layers.DepthwiseConv)
    size, dilation = module.kernel_size, module.dilation if depthwise else 1
    static = _static(size, size, module.stride, module.stride, dilation, x.shape[-1] if depthwise else 1)
    params = _params(module, "kernel", "bias")
    features = x.shape[-1] if depthwise else module.features

    def shape(x: Any, *_: Any) -> Any:
        height, width = (-(-n // module.stride) for n in x.shape[1:3])
        return jnp.zeros((x.shape[0], height, width, features), x.dtype)

    return whole(shape, x, *params.values(), name="conv", static=static)


def _static(height: int, width: int, stride: int, across: int, dilation: int, groups: int) -> tuple[Any, ...]:
    """Return the facts of a convolution with PyTorch's "same" padding."""
    pads = tuple((dilation * (k // 2),) * 2 for k in (height, width))
    return (stride, across), pads, (dilation, dilation), groups


_LAYERS: dict[type, Callable[[Any, Any], Any]] = {
    layers.BatchNorm: _batch_norm, nn.BatchNorm: _batch_norm, nn.Dense: _dense, nn.Conv: _conv,
    layers.Conv: _own_conv, layers.DepthwiseConv: _own_conv,
}  # fmt: skip


# --- from equations to steps ---------------------------------------------------------------------------------

# What a variable of the trace holds: ("value", number), ("variable", path), ("constant", array or None)
_Held = tuple[str, Any]


class _Reader:
    """Reads equations in order; ``steps`` grows."""

    def __init__(self):
        self.steps: list[Step] = []
        self._count = 1  # value 0 is the images

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[_Held], place: str) -> list[_Held]:
        held: dict[Any, _Held] = dict(zip(jaxpr.invars, arguments, strict=True))
        held.update(zip(jaxpr.constvars, [("constant", np.asarray(const)) for const in consts], strict=True))

        def read(atom: Any) -> _Held:
            return ("constant", np.asarray(atom.val)) if isinstance(atom, core.Literal) else held[atom]

        for equation in jaxpr.eqns:
            places = _PLACE.findall(str(equation.source_info.name_stack))
            here = places[-1] if places else place
            results = self._equation(equation, [read(atom) for atom in equation.invars], here)
            held.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: list[_Held], here: str) -> list[_Held]:
        name, params = equation.primitive.name, equation.params
        if name in _SAME:
            return operands
        if all(kind != "value" for kind, _ in operands) and name not in ("broadcast_in_dim", OPERATION.name):
            if (view := _view(equation, operands)) is not None:
                return [view]
            # What the images do not reach: zeros stay zeros, of anything else only this is known.
            zero = name in _KEEP_ZERO and all(kind == "constant" and _is_zero(value) for kind, value in operands)
            return [("constant", np.zeros(()) if zero else None)] * len(equation.outvars)
        if params.get("name") in ACTIVATIONS and name in ("jit", "pjit") and operands[0][0] == "value":
            return [self._step("activation", operands[:1], equation, here, form=(params["name"],))]
        if (method := getattr(self, f"_{name}", None)) is not None:
            return [method(equation, operands, here)]
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if isinstance(inner, (core.ClosedJaxpr, core.Jaxpr)) and name not in ("while", "scan", "cond"):
            closed = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            return self.run(closed.jaxpr, closed.consts, operands, here)
        raise _unknown(equation, here)

    def _step(self, op: str, operands: Sequence[_Held], equation: Any, here: str, **facts: Any) -> _Held:
        inputs = tuple(value for kind, value in operands if kind == "value")
        shape = tuple(equation.outvars[0].aval.shape)
        scope = tuple(here.split("/")) if here else ()
        self.steps.append(Step(op, inputs, self._count, shape, scope, **facts))
        self._count += 1
        return "value", self._count - 1

    # Methods below are named after primitives: (equation, operands, place) -> what the result is.

    def _eproxy_operation(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        name, static = equation.params["name"], equation.params["static"]
        operands = [self._solid(one, atom, here) for one, atom in zip(operands, equation.invars, strict=True)]
        shapes = [tuple(atom.aval.shape) for atom in equation.invars]
        out = tuple(equation.outvars[0].aval.shape)
        if name in ("relu",):
            return self._step("activation", operands, equation, here, form=("relu",))
        if name in ("avg_pool_3x3", "max_pool_3x3"):
            return self._step(name[:8], operands, equation, here, sizes={"kernel": 3, "stride": 1}, form=(True,))
        if name in ("avg_pool_2x2", "max_pool_2x2"):
            return self._step(name[:8], operands, equation, here, sizes={"kernel": 2, "stride": 2}, form=(False,))
        if name == "max_pool":
            sizes = {"kernel": static[0], "stride": static[1] if len(static) > 1 else 1}
            return self._step("max_pool", operands, equation, here, sizes=sizes, form=(True,))
        if name == "upsample_2x":
            return self._step("upsample", operands, equation, here)
        if name in ("resize_bilinear", "resize_nearest"):
            if out == shapes[0]:
                return operands[0]
            return self._step(name, operands, equation, here, sizes={"height": out[1], "width": out[2]})
        if name == "batch_norm":
            (*names, epsilon), owner = static
            weights = dict(zip(names, shapes[1:], strict=True))
            form = ("scale" in names, "bias" in names, epsilon)
            sizes = {"channels": out[-1]}
            return self._step(name, operands, equation, here, sizes=sizes, form=form, owner=owner, weights=weights)
        return self._weighted(name, static, operands, shapes, out, equation, here)

    def _weighted(
        self, name: str, static: Any, operands: Any, shapes: Any, out: Any, equation: Any, here: str
    ) -> _Held:
        if any(kind != "variable" or value[0] != "params" for kind, value in operands[1:]):
            raise ExportError(f"{here}: {name} with weights that are no parameters")
        paths = [value[1:] for _, value in operands[1:]]
        weights = {path[-1]: shape for path, shape in zip(paths, shapes[1:], strict=True)}
        owner, bias = paths[0][:-1], len(paths) > 1
        if name in ("dense", "halving_conv2d"):
            op = "dense" if name == "dense" else "halving_conv"
            sizes = {"channels_in": shapes[0][-1], "channels": out[-1]}
            pixels = int(np.prod(out[1:-1]))
            macs, form = shapes[0][-1] * out[-1] * pixels, (bias,)
        else:
            facts = _convolution(name, static, shapes)
            (stride, across), pads, (dilation, _), groups = facts[1]
            height, width = facts[0]
            half = pads == _static(height, width, stride, across, dilation, groups)[1]
            sizes = {"channels_in": shapes[0][-1], "channels": out[-1], "kernel": height, "kernel_width": width,
                     "stride": stride, "stride_width": across, "dilation": dilation, "groups": groups}  # fmt: skip
            macs = height * width * (shapes[0][-1] // groups) * int(np.prod(out[1:]))
            op, form = "conv", (bias, None if half else pads, groups == 1)
        return self._step(
            op, operands[:1], equation, here, sizes=sizes, form=form, owner=owner, weights=weights, macs=macs
        )

    def _solid(self, operand: _Held, atom: Any, here: str) -> _Held:
        """Return the operand of an operation, where zeros that no step has made yet become a step."""
        if operand[0] != "constant":
            return operand
        if not _is_zero(operand[1]):
            raise ExportError(f"{here or 'the network'}: an operation on constants that are no zeros")
        shape = tuple(atom.aval.shape)
        scope = tuple(here.split("/")) if here else ()
        # Value 0, the images, gives zeros their batch; printers take the nearest map of equal size where there is one.
        sizes = {"height": shape[1], "width": shape[2], "channels": shape[3]}
        self.steps.append(Step("zeros", (0,), self._count, shape, scope, sizes=sizes))
        self._count += 1
        return "value", self._count - 1

    def _broadcast_in_dim(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        kind, value = operands[0]
        if kind == "value":
            raise _unknown(equation, here)
        return "constant", value if kind == "constant" and value is not None and value.ndim == 0 else None

    def _add(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        live = [one for one in operands if one[0] == "value"]
        if len(live) == len(operands):
            if len({tuple(atom.aval.shape) for atom in equation.invars}) > 1:
                raise _unknown(equation, here)
            return self._step("add", operands, equation, here)
        (rest,) = [value for kind, value in operands if kind != "value"]
        if _is_zero(rest):
            return live[0]
        raise _unknown(equation, here)

    _add_any = _add

    def _mul(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        if all(kind == "value" for kind, _ in operands):
            return self._step("multiply", operands, equation, here)
        raise _unknown(equation, here)

    def _max(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        (kind, value), (other, zero) = operands
        if kind == "value" and other == "constant" and _is_zero(zero):
            return self._step("activation", [(kind, value)], equation, here, form=("relu",))
        raise _unknown(equation, here)

    def _tanh(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        return self._step("activation", operands, equation, here, form=("tanh",))

    def _logistic(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        return self._step("activation", operands, equation, here, form=("sigmoid",))

    def _concatenate(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        if equation.params["dimension"] != len(equation.outvars[0].aval.shape) - 1:
            raise _unknown(equation, here)
        operands = [self._solid(one, atom, here) for one, atom in zip(operands, equation.invars, strict=True)]
        return operands[0] if len(operands) == 1 else self._step("concat", operands, equation, here)

    def _slice(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        shape, params = equation.invars[0].aval.shape, equation.params
        strides = params["strides"] or (1,) * len(shape)
        starts, limits = params["start_indices"], params["limit_indices"]
        whole_axes = [(start, limit) == (0, size) for start, limit, size in zip(starts, limits, shape, strict=True)]
        if all(whole_axes) and set(strides) == {1}:
            return operands[0]
        if len(shape) == 4 and all(whole_axes[:3]) and set(strides) == {1}:
            sizes = {"start": starts[3], "channels": limits[3] - starts[3]}
            return self._step("channels", operands, equation, here, sizes=sizes)
        near_whole = all(
            start == 0 and size - limit < by
            for start, limit, size, by in zip(starts, limits, shape, strides, strict=True)
        )
        if len(shape) == 4 and near_whole and strides[1] == strides[2] and strides[0] == strides[3] == 1:
            return self._step("subsample", operands, equation, here, sizes={"stride": strides[1]})
        raise _unknown(equation, here)

    def _reduce_sum(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        shape = equation.invars[0].aval.shape
        if tuple(equation.params["axes"]) != (1, 2) or len(shape) != 4:
            raise _unknown(equation, here)
        return self._step("pixel_sum", operands, equation, here, form=(shape[1] * shape[2],))

    def _div(self, equation: Any, operands: list[_Held], here: str) -> _Held:
        (kind, value), (other, divisor) = operands
        last = self.steps[-1] if self.steps else None
        is_number = other == "constant" and divisor is not None and divisor.ndim == 0
        form = (int(divisor),) if is_number else None  # pyright: ignore[reportArgumentType]
        if kind == "value" and form and last and (last.op, last.output, last.form) == ("pixel_sum", value, form):
            self.steps.pop()
            return self._step("mean", [("value", last.inputs[0])], equation, here)
        raise _unknown(equation, here)


def _convolution(name: str, static: tuple[Any, ...], shapes: Sequence[tuple[int, ...]]) -> tuple[Any, Any]:
    """Return (height, width) of a kernel and (strides, padding, dilation, groups) of a convolution of ``nn/``."""
    height, width, channels = shapes[1][:3]
    if name == "conv":
        return (height, width), static
    if name == "conv2d":
        stride = static[0] if static else 1
        return (height, width), _static(height, width, stride, stride, 1, 1)
    if name == "grouped_conv2d":
        stride = static[1] if len(static) > 1 else 1
        return (height, width), _static(height, width, stride, stride, 1, static[0])  # pyright: ignore[reportGeneralTypeIssues]
    if name == "depthwise_conv2d":
        stride, dilation = (*static, 1, 1)[:2]
        return (height, width), _static(height, width, stride, stride, dilation, channels)
    if name == "line_conv":
        axis, stride = (*static, 1)[:2]
        size = (height, 1) if axis == 1 else (1, height)
        strides = (stride, 1) if axis == 1 else (1, stride)
        return size, _static(*size, *strides, 1, 1)
    raise ExportError(f"the operation {name!r} has no printer")


def _is_zero(value: Any) -> bool:
    return isinstance(value, np.ndarray) and not np.any(value)


def _view(equation: Any, operands: list[_Held]) -> _Held | None:
    """Return the variable that an equation only reshapes, if it does."""
    if not operands or operands[0][0] != "variable" or equation.primitive.name not in _VIEWS:
        return None
    before, after = equation.invars[0].aval, equation.outvars[0].aval
    constant = all(kind == "constant" for kind, _ in operands[1:])
    return operands[0] if constant and before.size == after.size else None


def _unknown(equation: Any, here: str) -> ExportError:
    shapes = ", ".join(str(tuple(atom.aval.shape)) for atom in equation.invars)
    return ExportError(
        f"{here or 'the network'}: the operation {equation.primitive.name!r} on {shapes} has no layer in exported "
        "files: build the network of convolutions, batch norms, pools, sums, concatenations and activations"
    )


@contextlib.contextmanager
def explained(space: Any, text: str) -> Iterator[None]:
    """Put the space and the architecture into the message of :class:`ExportError`."""
    try:
        yield
    except ExportError as error:
        raise ExportError(f"{space.name}: {quoted(text)} cannot be exported: {error}") from error
