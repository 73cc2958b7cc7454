"""This module runs a user's own Flax module, Linen or NNX, initialised from a key and in training mode.

What can go wrong with a user's code is told in one line, with the class, the architecture and the user's own line.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import errors as flax_errors
from flax import nnx
from jax import Array

from eproxy_jax import sources
from eproxy_jax.errors import quoted
from eproxy_jax.nn import marks
from eproxy_jax.spaces import own_marks

# Parameters of ``__call__`` that tell training from evaluation, and their value in training.
_TRAINING = {
    "train": True, "training": True, "is_training": True, "is_train": True, "train_mode": True,
    "deterministic": False, "use_running_average": False, "inference": False, "is_inference": False,
    "eval": False, "evaluate": False, "evaluation": False, "is_eval": False, "eval_mode": False,
}  # fmt: skip
_KEY = 0  # of what is only looked at for its shape, and of dropout
_STATISTICS = "batch_stats"
_MESSAGE = 300  # characters of a user's error that are told


class NetworkError(ValueError):
    """A user's network cannot be built, initialised or run; the cause is the original error."""


# --- errors --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(arch: Any, what: str = "network") -> Iterator[None]:
    """Turn any error of a user's code into a :class:`NetworkError` of one line.

    Args:
      arch: the architecture, for the message.
      what: what fails: the name of the module's class, where it is known.
    """
    try:
        yield
    except NetworkError:
        raise
    except Exception as error:  # a user's code may raise anything
        place, is_ours = _place(error)
        if is_ours and isinstance(error, ValueError):
            raise
        text = " ".join(str(error).split())
        if len(text) > _MESSAGE:  # its beginning and its end: that of a host callback begins with a traceback
            text = f"{text[: _MESSAGE // 2]} ... {text[-_MESSAGE // 2 :]}"
        hint = ""
        if isinstance(error, flax_errors.ScopeParamShapeError):
            hint = "; does the function build another network each time it is called?"
        raise NetworkError(f"{what} of {quoted(arch)}: {type(error).__name__}: {text}{hint}{place}") from error


def _place(error: BaseException) -> tuple[str, bool]:
    """Return the innermost line of the user's own code; and whether there is none and this package raised the error."""
    place, module = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        file = frame.f_code.co_filename
        if not sources.is_library(module) and not file.startswith("<frozen"):
            place = f" ({file}:{line})"
    return place, not place and module.startswith("eproxy_jax.")


# --- modules -------------------------------------------------------------------------------------------------


class OwnNetwork:
    """A user's module in training mode, as functions of its parameters.

    Attributes:
      module: a Linen module; an NNX module comes through Flax's own bridge.
      name: name of the user's class.
    """

    def __init__(self, build: Callable[..., Any], given: Any, arch: Any):
        """Build the module.

        Args:
          build: architecture -> a Linen or an NNX module, or a class of NNX modules; with a parameter ``rngs``, it gets
            an ``nnx.Rngs``.
          given: the architecture, as the user wrote it.
          arch: the same, for messages.

        Raises:
          NetworkError: ``build`` fails, or returns something else.
        """
        self.arch, self.name = arch, "network"
        with explained(arch, "the function that builds the network"), nnx.use_eager_sharding(False):
            takes_rngs = "rngs" in _parameters(build)
            made = build(given, rngs=_rngs()) if takes_rngs else build(given)
            maker = None
            if takes_rngs:
                maker = functools.partial(build, given)
            elif not isinstance(made, (nn.Module, nnx.Module)) and callable(made) and "rngs" in _parameters(made):
                maker, made = made, made(rngs=_rngs())  # a class, or a partial of one
        self.name = type(made).__name__
        if isinstance(made, nnx.Module):
            self.module: nn.Module = _bridged(made, maker)
        elif isinstance(made, nn.Module):
            self.module = made
        else:
            raise NetworkError(
                f"the function that builds the network of {quoted(arch)} returns {quoted(made)}: expected a module of "
                "flax.linen or flax.nnx"
            )
        with explained(arch, self.name):
            self._keywords = self._training_keywords(type(made))

    def _training_keywords(self, cls: type) -> dict[str, Any]:
        """Return the arguments of ``__call__`` that stand for training mode.

        Raises:
          NetworkError: an argument that the proxy does not know has no default.
        """
        parameters = list(_parameters(cls.__call__).values())[1:]  # without self
        others = parameters[1:]  # without the images
        named = [p for p in others if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        known = {p.name: _TRAINING[p.name] for p in named if p.name in _TRAINING}
        asked = [p.name for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        unknown = [name for name in asked if name not in known and name != "init"]
        if not parameters or unknown:
            wish = f"asks for {', '.join(map(repr, unknown))}" if unknown else "takes no images"
            raise NetworkError(
                f"{self.name} of {quoted(self.arch)}: its __call__ {wish}: the proxy calls it with images "
                "[B, H, W, 3], and says that it trains; give other parameters defaults"
            )
        self.takes_init = any(p.name == "init" for p in named)
        return known

    def init(self, key: Array, images: Array, init: Array | int = 0) -> dict[str, Any]:
        """Return the module's variables; ``params`` are among them. Consumes the key.

        Raises:
          NetworkError: the module fails.
        """
        with explained(self.arch, self.name), nnx.use_eager_sharding(False):
            rngs = {"params": key, **_other_keys(key)}
            variables = dict(self.module.init(rngs, images, **self._arguments(init)))
        return {"params": {}, **variables}

    def taps(self, variables: Mapping[str, Any], images: Array, init: Array | int = 0) -> list[Array]:
        """Return the feature maps of the module in training mode, last one first.

        Args:
          variables: from :meth:`init`. Collections other than ``params`` start from these values in each call.
          images: [B, H, W, 3].
          init: index into ``initializers.INITS``, for modules that take it.

        Raises:
          NetworkError: the module fails, normalises with running averages, or returns something else than feature maps.
        """
        state = [name for name in variables if name != "params"]
        key = jax.random.key(_KEY)
        rngs = {"params": key, **_other_keys(key)}  # a module that asks for another name of keys gets "params"

        def run(interceptor: Callable[..., Any] | None = None) -> tuple[Any, Any]:
            shown = contextlib.nullcontext() if interceptor is None else nn.intercept_methods(interceptor)
            with nn.intercept_methods(self._refuse_running_averages), shown:
                arguments = self._arguments(init)
                return self.module.apply(dict(variables), images, **arguments, mutable=state, rngs=rngs)

        with explained(self.arch, self.name), nnx.use_eager_sharding(False):
            taps, updated = own_marks.marked(run, len(images)) if marks.collecting() else run()
        if _STATISTICS in state:
            before, after = (jax.tree.leaves(tree[_STATISTICS]) for tree in (variables, updated))
            if before and all(old is new for old, new in zip(before, after, strict=True)):
                self._refuse()  # nothing has updated them
        return self._checked(taps, images)

    def _arguments(self, init: Array | int) -> dict[str, Any]:
        return {**self._keywords, "init": init} if self.takes_init else self._keywords

    def _refuse_running_averages(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        """Look at each batch norm as it is called, and refuse running averages."""
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            given = kwargs.get("use_running_average", args[1] if len(args) > 1 else None)
            if (context.module.use_running_average if given is None else given) is True:
                self._refuse()
        return call(*args, **kwargs)

    def _refuse(self) -> None:
        raise NetworkError(
            f"{self.name} of {quoted(self.arch)}: a batch norm uses running averages, which nothing has trained: the "
            "proxy trains; build it with use_running_average=False, or give __call__ a parameter train"
        )

    def _checked(self, taps: Any, images: Array) -> list[Array]:
        maps = isinstance(taps, (list, tuple)) and len(taps) > 0
        if maps and all(_is_map(tap, len(images)) for tap in taps):
            return list(taps)
        shapes = jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf).__name__), taps)
        reason = "a list of feature maps [B, H, W, C], last one first (reshape tokens to a map; leave out a classifier)"
        if maps and all(getattr(tap, "ndim", None) == 4 and len(tap) == len(images) for tap in taps):
            shapes, reason = [str(tap.dtype) for tap in taps], "floating-point feature maps"
        raise NetworkError(f"{self.name} of {quoted(self.arch)} returns {quoted(shapes)}: expected {reason}")


def _is_map(tap: Any, batch: int) -> bool:
    shape = getattr(tap, "shape", ())
    return len(shape) == 4 and shape[0] == batch and min(shape) > 0 and jnp.issubdtype(tap.dtype, jnp.floating)


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function; of a class those of its ``__init__``, which NNX's metaclass hides."""
    if isinstance(function, functools.partial):
        left = list(_parameters(function.func).items())[len(function.args) :]
        return {name: parameter for name, parameter in left if name not in function.keywords}
    try:
        if isinstance(function, type):
            return dict(list(inspect.signature(function.__init__).parameters.items())[1:])
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some callables have no signature
        return {}


def _other_keys(key: Array) -> dict[str, Array]:
    return {"dropout": jax.random.fold_in(key, 1), "default": jax.random.fold_in(key, 2)}


def _rngs() -> nnx.Rngs:
    """Return random streams for a module that is only looked at."""
    return nnx.Rngs(_KEY)


def _bridged(made: nnx.Module, maker: Callable[..., Any] | None) -> nn.Module:
    """Return an NNX module as a Linen one, in training mode.

    Args:
      made: the module.
      maker: rngs -> such a module; None if the module brings its weights.
    """

    def make(rngs: nnx.Rngs | None = None) -> nnx.Module:
        # A copy, as the module may be older than the program that is traced.
        module = nnx.clone(made) if maker is None else maker(rngs=rngs)
        nnx.Module.train(module)
        return module

    return nnx.bridge.ToLinen(make, skip_rng=maker is None, metadata_fn=None)
