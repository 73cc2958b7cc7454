"""Shapes and dtypes of the public functions, checked against their jaxtyping annotations; users pay for no check."""

import ast
import dataclasses
import functools
import importlib
import inspect
import types
import typing

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import tiny
from helpers import TINY, pattern_images, slow_unless

import eproxy_jax as ep

DTYPES = ("Bool", "Float", "Float64", "Int", "Int32", "Int64", "Key", "Num", "Shaped", "UInt32")
NAMES = {name: getattr(jaxtyping, name) for name in (*DTYPES, "PyTree")}
SHORT = dataclasses.replace(TINY, num_steps=2)
IMAGES = pattern_images(4, 8).astype(np.float32)


SPACE = tiny.Tiny()


def checked(function, owner=None):
    """A function that checks its arguments and its result against its annotations.

    Args:
      function: any Python function; with ``owner`` the ``__init__`` that its dataclass made.
      owner: the class whose fields annotate the arguments.
    """
    known = {**vars(importlib.import_module((owner or function).__module__)), **NAMES}
    hints = typing.get_type_hints(owner or function, known, known)
    if owner is not None:
        names = inspect.signature(function).parameters
        hints = {name: hint for name, hint in hints.items() if name in names}
    own = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    own.__kwdefaults__, own.__annotations__, own.__module__ = function.__kwdefaults__, hints, function.__module__
    return jaxtyping.jaxtyped(own, typechecker=beartype.beartype)


def record(cls):
    """The same for the arguments of a dataclass."""
    make = checked(cls.__init__, cls)
    return lambda **fields: make(cls.__new__(cls), **fields)


def evaluate(images):
    def weights(network, key, encoded, images):
        return {"count": sum(leaf.size for leaf in jax.tree.leaves(network.init(key, images, encoded)))}

    return checked(ep.evaluate)(weights, ["1-0-0", "2-2-1"], SPACE, shared=(images,))


def search_proxy(images):
    genes = ep.GeneTable(
        branches=(1,), transform_kernel=(1,), barrier_kernel=(1,), transform_channels=(4,), target_channels=(4,)
    )
    search = ep.SearchSpec(num_evaluations=2, population_size=1, tournament_size=1, log_every=2, num_steps=2)
    return checked(ep.search_proxy)({"1-0-0": 1.0, "2-2-1": 2.0, "3-1-0": 4.0}, SPACE, genes, search, images)


@functools.cache
def task():
    return ep.eproxy(GROUP, SHORT).init(0, IMAGES)


def load_images(tmp_path, num):
    np.save(tmp_path / "images.npy", IMAGES)
    return checked(ep.load_images)(tmp_path / "images.npy", num)


GROUP = SPACE.group((1, 0, 0))
TABLE = ep.GeneTable()
ENCODED = jnp.asarray(GROUP.encode([(1, 0, 0)])[0])
GENES = TABLE.encode(ep.ProxySettings(network_init="kaiming_normal", barrier_init="kaiming_normal"))
RESULT = {
    "archs": ("2", "3"), "score": np.ones(2), "loss": np.ones(2), "losses": np.ones((2, 3)),
    "macs": np.ones(2, int), "params": np.ones(2, int), "effective_macs": np.ones(2, int), "status": ("ok", "ok"),
    "seconds": {},
}  # fmt: skip
COLUMNS_RESULT = {
    "archs": ("2", "3"), "columns": {"macs": np.ones(2), "graph_counts": np.ones((2, 5))}, "macs": np.ones(2, int),
    "params": np.ones(2, int), "status": ("ok", "ok"), "seconds": {},
}  # fmt: skip
MEMBERS = ep.FittedProxy((ep.Member(ep.ProxySettings(), 0.5), ep.Member(ep.ProxySettings())))
KEY = jax.random.key(0)
COLUMNS = ep.Columns.of("abcd", {"x": [1.0, 2.0, 3.0, 5.0]})
LABELS = {"a": 1.0, "b": 2.0, "d": 3.0}


def saved():
    """A fit to MACs."""
    columns = ep.Columns.of("abcd", {"macs": [1.0, 2.0, 3.0, 5.0]})
    return ep.runs.SavedFit(ep.fit(columns, LABELS), {"macs": {"proxy": "macs"}}, {"space": SPACE.name}, "0")


FIT = {
    "saved": saved(), "labels": LABELS, "quality": {}, "archs": ("a", "b"), "score": np.ones(2), "deviation": np.ones(2),
}  # fmt: skip
RANKED = {
    "archs": ("a", "b"), "score": np.ones(2), "deviation": np.ones(2), "columns": ep.ColumnsResult(**COLUMNS_RESULT),
}  # fmt: skip

# By what is called: the call of its changed argument, a good value of that argument, and bad ones.
CALLS = {
    "standardize": (checked(ep.standardize), IMAGES, [IMAGES[0], IMAGES[..., :2], IMAGES > 0]),
    "rank_quality": (
        lambda score: checked(ep.rank_quality)(score, np.arange(4.0)),
        np.ones(4),
        [np.ones(3), np.ones((4, 1)), np.ones(4) > 0],
    ),
    "arch_key": (lambda key: checked(ep.arch_key)(key, SPACE, (1, 0, 0)), KEY, [jax.random.split(KEY), jnp.ones(2)]),
    "score": (
        lambda images: checked(ep.score)(["1-0-0", "2-2-1"], SPACE, SHORT, images),
        IMAGES,
        [IMAGES[0], IMAGES[..., :1], IMAGES.tolist()],
    ),
    "score: labels": (
        lambda labels: checked(ep.score)(["1-0-0"], SPACE, None, IMAGES, proxy="macs", labels=labels),
        np.arange(4),
        [np.ones((4, 1), int), np.ones(4), 1],
    ),
    "ColumnsResult": (
        lambda macs: record(ep.ColumnsResult)(**{**COLUMNS_RESULT, "macs": macs}),
        COLUMNS_RESULT["macs"],
        [np.ones(2), np.ones((2, 1), int)],
    ),
    "runs.score": (lambda images: checked(ep.runs.score)(["1-0-0"], SPACE, SHORT, images, workdir="-"), IMAGES, [IMAGES[0]]),
    "runs.score_columns": (
        lambda images: checked(ep.runs.score_columns)(["1-0-0"], SPACE, "macs", images, workdir="-"),
        IMAGES,
        [IMAGES[0], IMAGES.tolist()],
    ),
    "runs.score_columns: labels": (
        lambda labels: checked(ep.runs.score_columns)(["1-0-0"], SPACE, "macs", IMAGES, labels=labels, workdir="-"),
        np.arange(4),
        [np.ones(4), np.ones((4, 1), int)],
    ),
    "runs.rank": (
        lambda images: checked(ep.runs.rank)(saved(), ["1-0-0"], SPACE, images),
        None,
        [IMAGES[0], IMAGES.tolist()],
    ),
    "runs.FitResult": (lambda score: record(ep.runs.FitResult)(**{**FIT, "score": score}), np.ones(2), [np.ones(3), [1, 2]]),
    "runs.Ranked": (lambda score: record(ep.runs.Ranked)(**{**RANKED, "score": score}), np.ones(2), [np.ones(3), [1, 2]]),
    "ColumnsResult.ranking": (lambda name: checked(ep.ColumnsResult.ranking)(ep.ColumnsResult(**COLUMNS_RESULT), name), "macs", []),
    "ColumnsResult.scalars": (checked(ep.ColumnsResult.scalars), ep.ColumnsResult(**COLUMNS_RESULT), []),
    "proxies.make_inputs": (
        lambda images: checked(ep.proxies.make_inputs)(KEY, images),
        IMAGES,
        [IMAGES[0], IMAGES[..., :2]],
    ),
    "proxies.rank_sum": (checked(ep.proxies.rank_sum), {"macs": np.ones(3), "jacov": [1, 2, 3]}, []),
    "proxies.aggregates_of": (checked(ep.proxies.aggregates_of), {"macs": np.ones(3)}, []),
    "evaluate": (evaluate, IMAGES, ["images"]),
    "search_proxy": (search_proxy, IMAGES, [IMAGES[0]]),
    "eproxy: init": (
        lambda images: checked(ep.eproxy(GROUP, SHORT).init)(KEY, images),
        IMAGES,
        [IMAGES[0], IMAGES.tolist()],
    ),
    "eproxy: losses": (
        lambda encoded: checked(ep.eproxy(GROUP, SHORT).losses)(KEY, encoded, task()),
        ENCODED,
        [ENCODED.astype(jnp.float32)],
    ),
    "ProxyTask": (
        lambda images: record(ep.ProxyTask)(**{**vars(task()[0]), "images": images}),
        jnp.asarray(IMAGES),
        [IMAGES, jnp.asarray(IMAGES[:2]), jnp.asarray(IMAGES[0])],
    ),
    "ScoreResult": (
        lambda losses: record(ep.ScoreResult)(**{**RESULT, "losses": losses}),
        RESULT["losses"],
        [np.ones(2), np.ones((3, 3)), np.ones((2, 3), np.float32)],
    ),
    "LabelledImages": (
        lambda labels: record(ep.LabelledImages)(images=IMAGES, labels=labels, num_classes=4),
        np.arange(4),
        [np.arange(3), np.arange(4.0), np.zeros((4, 1), int)],
    ),
    "Columns": (
        lambda values: record(ep.Columns)(archs=("a", "b"), names=("x",), values=values, blocks=("proxies",)),
        np.ones((2, 1)),
        [np.ones((2, 1), np.float32), np.ones(2)],
    ),
    "Columns.column": (lambda name: checked(ep.Columns.column)(COLUMNS, name), "x", []),
    "Fitted.predict": (lambda columns: checked(ep.Fitted.predict)(ep.fit(COLUMNS, LABELS), columns), COLUMNS, []),
    "ScoreResult.ranking": (checked(ep.ScoreResult.ranking), ep.ScoreResult(**RESULT), []),
    "FittedProxy.scores": (
        lambda sizes: checked(ep.FittedProxy.scores)(MEMBERS, np.ones((2, 4)), sizes, np.ones(4)),
        np.ones((2, 4)),
        [np.ones(4), np.ones((2, 3)), np.ones((3, 4))],
    ),
    "GeneTable.decode": (lambda genes: checked(ep.GeneTable.decode)(TABLE, genes), GENES, [GENES[None], GENES / 2]),
    "GeneTable.encode": (lambda genes: checked(ep.GeneTable.encode)(TABLE, TABLE.decode(genes)), GENES, []),
    "GeneTable.canonical": (lambda genes: checked(ep.GeneTable.canonical)(TABLE, genes), GENES, [GENES[None]]),
    "GeneTable.random_genes": (
        lambda key: checked(ep.GeneTable.random_genes)(TABLE, key), KEY, [jax.random.split(KEY)]
    ),
    "GeneTable.mutate": (
        lambda genes: checked(ep.GeneTable.mutate)(TABLE, KEY, genes, 0.5),
        jnp.asarray(GENES),
        [jnp.asarray(GENES)[None], jnp.asarray(GENES) / 2],
    ),
    "GeneTable.values": (lambda genes: checked(ep.GeneTable.values)(TABLE, genes, "lr"), jnp.asarray(GENES), [GENES]),
    "GeneTable.index": (lambda genes: checked(ep.GeneTable.index)(TABLE, genes, "lr"), jnp.asarray(GENES), [GENES]),
}  # fmt: skip


# A search compiles for long.
@pytest.mark.parametrize("name", slow_unless(CALLS.keys() - {"search_proxy"}, CALLS))
def test_good_arrays_pass_and_wrong_shapes_raise(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, good, bad = CALLS[name]
    call(good)
    for value in bad:
        with pytest.raises(jaxtyping.TypeCheckError):
            call(value)


def test_sizes_of_images_are_those_asked_for(tmp_path):
    assert checked(ep.default_images)("white_noise", 2, 8).shape == (2, 8, 8, 3)
    assert load_images(tmp_path, 3).shape == (3, 8, 8, 3)

    def wrong(num: int) -> 'jaxtyping.Num[np.ndarray, "{num} H W 3"]':
        return IMAGES

    with pytest.raises(jaxtyping.TypeCheckError):
        checked(wrong)(3)


# --- new functions must be annotated -------------------------------------------------------------------------


def bare_arrays(annotation):
    """Names of arrays in an annotation that stand outside of a jaxtyping annotation.

    ``Any`` counts where it is the whole annotation, or all of it but None.
    """

    def visit(node):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in DTYPES:
            return []
        if isinstance(node, ast.Name):
            return [node.id] * (node.id in ("Array", "ArrayLike", "ndarray"))
        if isinstance(node, ast.Attribute):
            return [node.attr] * (node.attr in ("Array", "ArrayLike", "ndarray"))
        return [name for child in ast.iter_child_nodes(node) for name in visit(child)]

    whole = {part.strip() for part in annotation.split("|")} - {"None"}
    return ["Any"] * (whole == {"Any"}) + visit(ast.parse(annotation, mode="eval"))


# Parameters and results that are ``Any`` and no arrays: what a space takes for an architecture, dtypes, any pytree.
NO_ARRAYS = {"arch", "dtype", "tree", "Execution.replicate: return"}


def public_annotations():
    """(owner: parameter, annotation) of every exported function, public method and field."""
    for name in ep.__all__:
        value = getattr(ep, name)
        owners = {name: value}
        if inspect.ismodule(value):
            with_arrays = value.__all__ if name in ("runs", "proxies") else []  # spaces and nn have tests of their own
            owners = {f"{name}.{one}": getattr(value, one) for one in with_arrays}
        elif inspect.isclass(value):
            owners |= {f"{name}.{k}": getattr(v, "__func__", v) for k, v in vars(value).items() if k[0] != "_"}
        for owner, one in owners.items():
            if inspect.isfunction(one) or inspect.isclass(one):
                for parameter, annotation in one.__annotations__.items():
                    yield f"{owner}: {parameter}", getattr(annotation, "__forward_arg__", annotation)


PUBLIC = dict(public_annotations())


def test_arrays_of_public_functions_have_shapes():
    for where, annotation in PUBLIC.items():
        assert isinstance(annotation, str), where
        if where not in NO_ARRAYS and where.partition(": ")[2] not in NO_ARRAYS:
            assert not bare_arrays(annotation), f"{where}: {annotation}: say dtype and shape with jaxtyping"


def test_every_function_with_arrays_is_called():
    functions = {where.partition(":")[0] for where, text in PUBLIC.items() if any(f"{d}[" in text for d in DTYPES)}
    assert functions - {"default_images", "load_images", "Eproxy", "proxies.Inputs"} <= set(CALLS)


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        ("Any", ["Any"]),
        ("Any | None", ["Any"]),
        ("np.ndarray | None", ["ndarray"]),
        ("tuple[Array, ...]", ["Array"]),
        ("Sequence[Any]", []),
        ('Float[Array | np.ndarray, "B H W 3"] | None', []),
    ],
)
def test_bare_arrays_are_found(annotation, found):
    assert bare_arrays(annotation) == found
