"""Every space x every notation: each example is read, and text, JSON and Python values of it mean the same."""

import ast
import dataclasses
import json
import pickle
import time

import numpy as np
import pytest
from helpers import SPACES, real_input

from eproxy_jax import spaces
from eproxy_jax.spaces import literals
from eproxy_jax.spaces.cells.graph import Cell

NAMES = spaces.names()
NOTATIONS = [(name, notation) for name in NAMES for notation in spaces.get(name).notations()]


def tuples(value):
    """The same value with tuples instead of lists."""
    if isinstance(value, list):
        return tuple(map(tuples, value))
    return {key: tuples(entry) for key, entry in value.items()} if isinstance(value, dict) else value


def arrays(value):
    """The same value with arrays instead of lists of numbers."""
    if isinstance(value, list):
        is_numeric = value and all(type(entry) is int for entry in value)
        return np.array(value) if is_numeric else [arrays(entry) for entry in value]
    return {key: arrays(entry) for key, entry in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "notation"), NOTATIONS, ids=[f"{name}-{n.name}" for name, n in NOTATIONS])
def test_a_notation_means_the_same_in_every_container(name, notation):
    space = spaces.get(name)
    arch = space.parse(notation.example)
    hash(arch)
    value = literals.plain(notation.example)
    forms = [value, tuples(value), arrays(value), json.dumps(value), json.dumps(value, indent=1), repr(tuples(value))]
    forms += [f" {form},\n" for form in forms[3:]]
    if isinstance(notation.example, str):
        forms += [notation.example, repr(notation.example), json.dumps(notation.example), f"\t{notation.example},\r\n"]
    else:
        forms.append(repr(arrays(value)))
        forms.append(str(arrays(value)))
    if isinstance(value, dict):
        forms += [{**value, "val_accuracy": 91.5, "seed": 3, "note": "x"}, dict(reversed(value.items()))]
    for form in forms:
        assert space.parse(form) == arch, form
    assert space.parse(space.format(arch)) == arch == space.parse(arch)
    assert type(space.parse(space.format(arch))) is type(arch)


@pytest.mark.parametrize("name", NAMES)
def test_the_notations_of_a_space_have_one_example(name):
    """The examples of a space are one or two networks, so that a reader can compare the notations."""
    space = spaces.get(name)
    notations = space.notations()
    assert len({notation.name for notation in notations}) == len(notations) > 0
    assert all(notation.meaning for notation in notations)
    assert len({space.canonical(space.parse(notation.example)) for notation in notations}) <= 2
    assert space.paper


@pytest.mark.parametrize("name", NAMES)
def test_what_a_space_returns_is_read_unchanged(name):
    space = SPACES[name]
    for arch in space.sample(4, 5):
        for one in (arch, space.canonical(arch), *space.neighbours(arch)[:3]):
            assert space.parse(one) == one
            assert type(space.parse(one)) is type(one)
            assert pickle.loads(pickle.dumps(one)) == one
            assert type(pickle.loads(pickle.dumps(one))) is type(one)


# What no space reads.
NOTHING = [
    "", " ", ",", "x", "[", "]", "()", "[]", "{}", "'", "None", "nan", "1e999", "-1", "1" * 400, f"[{'1' * 400}]",
    "[" * 5000, "[" * 5000 + "]" * 5000, "-" * 5000, "²³", "[²]", "(٣, ٣, ٣, ٣, ٣, ٣)", "\x00", "\ud800", "|" * 300,
    "a" * 200_000, "(0, 0, 0, 0, 0)", "(0,) * 6", "__import__('os')", "lambda: 0", "f(g(h(1)))", "range(10**9)",
    None, True, 0, -7, 1e300, float("nan"), 10**400, [], {}, [[]], [{}], {"normal": 1}, {1: 2}, b"bytes", object(),
    [None] * 6, [True] * 6, [[0], [0, 0], [0, 0, None]], [10**400] * 6, ["none"] * 5, np.zeros((3, 3)), np.float32(2),
    {"matrix": [[0]], "ops": ["input"]}, [[[0, 1], [0, 0]], [10**30, "output"]], [[[0, 2], [0, 0]], ["input", "output"]],
    {"genotype": "x", "width": 10**9, "depth": 7}, "8:16:24:32", "8:16:24:32:1000000000000", (8, 16, 24, 32, 41),
    "64--basic", "64-" + "1" * 5000 + "-basic", "64-41414-4_44_444", [1.5] * 6, "Genotype(normal=[], reduce=[])",
    {"arch_str": "|"}, {"0_1": "x", "0_2": 1, "1_2": 2, "0_3": 3, "1_3": 4, "2_3": 5}, np.array(["a"] * 6),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_architecture_is_refused_in_one_short_line(name):
    space = spaces.get(name)
    for source in NOTHING:
        start = time.perf_counter()
        with pytest.raises(ValueError) as error:  # noqa: PT011 - any message, but short
            space.parse(source)
        assert time.perf_counter() - start < 1
        message = str(error.value)
        assert "\n" not in message
        assert len(message) < 1200
        message.encode()


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", NAMES)
def test_deep_and_endless_values_are_refused(name):
    endless = []
    endless.append(endless)
    for value in (nested(100), nested(5000), endless, {"genotype": nested(200)}, [nested(100), nested(100)]):
        with pytest.raises(ValueError, match=r"\S"):
            spaces.get(name).parse(value)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_that_no_machine_could_run_are_refused(name):
    for field in dataclasses.fields(spaces.get(name)):
        for value in (10**12, 100_000, -1, True, 1.5) if field.type in ("int", int) else ("4" * 100, 4, "5555"):
            with pytest.raises(ValueError, match=f"{field.name}: "):
                spaces.get(name, **{field.name: value})


# --- six numbers ----------------------------------------------------------------------------------------------


def test_six_codes_are_naslibs_in_every_container():
    space = spaces.get("nasbench201")
    texts = real_input("01_same_as_text.txt").read_text().split("\n")[:2]
    values = json.loads(real_input("01_naslib_codes.json").read_text())
    for text, value in zip(texts, values, strict=True):
        expected = space.parse(text)
        assert list(expected) != value
        assert [space.parse(form) for form in (value, tuple(value), json.dumps(value), np.array(value))] == [
            expected
        ] * 4
    assert space.format(space.parse((2, 0, 4, 1, 3, 0))) == (
        "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|skip_connect~2|"
    )


def test_naslibs_codes_of_nasbench201_are_those_of_published_strings(data):
    space = spaces.get("nasbench201")
    lines = (data / "proxy_scores" / "nb201_zc_proxies.csv").read_text().splitlines()[1:500]
    for line in lines:
        codes, rest = line[1:].split('"', 1)
        assert space.format(space.parse(codes)) == rest[1:].split(",")[0]
        assert space.parse(ast.literal_eval(codes)) == space.parse(codes) == space.parse(list(ast.literal_eval(codes)))


def zero_cost(data, name):
    content = json.loads((data / "proxy_scores" / f"{name}.json").read_text())
    return content.get(name.split("_")[1], content)


def test_naslibs_codes_of_transnas_have_the_published_accuracies(data):
    for name, prefix in (("transnas_micro", "micro"), ("transnas_macro", "macro")):
        space = spaces.get(name)
        truth = dict(json.loads((data / "transnas" / f"{prefix}_class_scene.json").read_text()))
        rows = zero_cost(data, f"zc_transbench101_{prefix}")["class_scene"]
        assert len(rows) > 500
        for codes, row in rows.items():
            assert truth[space.format(space.parse(codes))] == row["val_accuracy"]
            assert space.parse(ast.literal_eval(codes)) == space.parse(codes)


def test_naslibs_tuples_of_nasbench101_have_the_published_parameters(data):
    space, classifier = spaces.get("nasbench101"), 512 * 10 + 10
    rows = zero_cost(data, "zc_nasbench101")["cifar10"]
    for codes, row in list(rows.items())[:200]:
        assert space.params(space.parse(codes)) + classifier == round(row["params"] * 1e6)


def test_naslibs_pairs_of_nasbench301_have_the_published_parameters_in_order(data):
    space = spaces.get("nds_darts", width=32, depth=8)
    rows = zero_cost(data, "zc_nasbench301_v43d9")["cifar10"]
    params = np.array([[space.params(space.parse(pairs)), row["params"]] for pairs, row in rows.items()])
    assert np.corrcoef(params.T)[0, 1] > 0.99999


def test_plain_codes_of_this_package_need_their_type():
    space = spaces.get("nasbench201")
    cell = space.sample(1, 3)[0]
    assert isinstance(cell, Cell)
    assert space.parse(cell) is cell or space.parse(cell) == cell
    assert space.parse([[cell[0]], list(cell[1:3]), list(cell[3:])]) == cell
    with pytest.raises(ValueError, match="expected 6 operation codes from 0 to 4"):
        space.parse(Cell((9,) * 6))
    with pytest.raises(ValueError, match="from 0 to 3"):
        spaces.get("transnas_micro").parse(Cell((4,) * 6))
    with pytest.raises(ValueError, match="depends on the version"):
        space.parse("1234")


# --- other inputs that people have ---------------------------------------------------------------------------------


def test_strings_of_nasbench201_as_they_are_cut_and_quoted():
    space = spaces.get("nasbench201")
    text = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    arch = space.parse(text)
    for form in (text[:-1], text[1:-1], f"Structure(4 nodes with {text})", f"arch = {text!r}", text.upper(), text.replace("+", " + "), f"'{text}',", f'"{text}";', f"({text!r})",
                 text.replace("|+|", "+"), json.dumps(text)):  # fmt: skip
        assert space.parse(form) == arch, form
    names = [line for line in real_input("22_quoted.txt").read_text().split("\n") if line]
    assert len({space.parse(line) for line in names}) == 4
    assert space.parse(real_input("22_nodes.txt").read_text()) == arch
    for name in ("25_edges_hpobench.json", "25_edges_nni.json"):
        assert space.parse(json.loads(real_input(name).read_text())[0]) == arch


def test_cells_of_nasbench101_as_tools_export_them():
    space = spaces.get("nasbench101")
    arch = space.parse(json.loads(real_input("17_matrix_ops.json").read_text())[0])
    assert arch[1][1:3] == ("conv3x3-bn-relu", "conv1x1-bn-relu")
    assert space.parse(json.loads(real_input("17_module.json").read_text())[0]) == arch
    assert space.parse(real_input("17_numpy_text.txt").read_text()) == arch
    by_hash = json.loads(real_input("17_by_hash.json").read_text())
    assert space.parse(by_hash["aa11"]) == arch
    assert space.parse(by_hash["bb22"])[1][2] == "maxpool3x3"
    assert space.parse(real_input("17_flat_tuple.csv").read_text().split('"')[1]) == arch
    matrix, ops = np.array(arch[0]), list(arch[1])
    for form in (
        [matrix, ops], (matrix.astype(float), tuple(ops)), [matrix.astype(bool), ops],
        f"[{matrix}, {ops}]", f"({matrix!r}, {ops!r})", {"matrix": matrix, "ops": np.array(ops)}, {"matrix": str(matrix), "ops": str(ops), "acc": "0.9"},
        f"ModelSpec(matrix={arch[0]}, ops={ops})", str([arch[0], [0, 4, 3, 1]]), [arch[0], ops[1:-1]],
        [arch[0], ["INPUT", "CONV3X3-BN-RELU", "conv1x1", "OUTPUT"]],
    ):  # fmt: skip
        assert space.parse(form) == arch, form


def test_genotypes_of_darts_as_everyone_prints_them():
    space = spaces.get("nds_darts", width=36, depth=20)
    lines = [line for line in real_input("10_genotype.txt").read_text().split("\n") if line]
    archs = {space.canonical(space.parse(line)) for line in lines}
    assert len(archs) <= 2
    arch = space.parse(lines[0])
    assert (arch.width, arch.depth) == (36, 20)
    assert arch.normal[:2] == (("sep_conv_3x3", 1), ("skip_connect", 0))
    compact = space.parse(real_input("10_nb301_compact.txt").read_text())
    assert compact.normal[:3] == (("sep_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 0))
    assert compact.reduce[6:] == (("skip_connect", 2), ("avg_pool_3x3", 4))
    spread = lines[0].replace("(", "(\n  ").replace(", ", " ,\n")
    assert space.parse(spread) == space.parse(lines[0].replace("Genotype", "genotypes.Genotype")) == arch
    assert space.parse({"arch": 1, "genotype": lines[0]}) == space.parse(f"DARTS_V2 = {lines[0]}") == arch
    assert space.parse({"normal": str(arch.normal), "reduce": str(arch.reduce)}) == arch
    assert space.parse({"genotype": lines[0], "width": 48, "depth": 14}) == arch._replace(width=48, depth=14)
    with pytest.raises(ValueError, match="did you mean 'width'"):
        space.parse({"genotype": lines[0], "widht": 48})
    config = {}
    for name in ("normal", "reduce"):
        for node, (first, second) in enumerate(zip(arch.normal[::2], arch.normal[1::2], strict=True), start=2):
            low, high = sorted((first, second), key=lambda edge: edge[1])
            config[f"NetworkSelectorDatasetInfo:darts:inputs_node_{name}_{node}"] = f"{low[1]}_{high[1]}"
            for op, source in (low, high):
                config[f"NetworkSelectorDatasetInfo:darts:edge_{name}_{sum(range(2, node)) + source}"] = op
    assert space.canonical(space.parse(config)) == space.canonical(arch)


def test_records_of_nasbench_mr_have_results_beside_the_architecture():
    space = spaces.get("nasbench_mr")
    record = json.loads(real_input("18_record.json").read_text())[0]
    arch = space.parse(record)
    assert arch == space.parse(
        {key: record[key] for key in ("input_channel", "inverted_residual_setting", "last_channel")}
    )


@pytest.mark.parametrize(
    ("name", "limit"), [("nasbench201", 20e-6), ("transnas_micro", 60e-6), ("nasbench101", 300e-6), ("nds_darts", 1e-3)]
)
def test_reading_is_fast(name, limit):
    """Files have hundreds of thousands of rows. The limits are several times what it takes."""
    space = spaces.get(name)
    texts = [space.format(arch) for arch in space.sample(200, 0)]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for text in texts:
            space.parse(text)
        times.append((time.perf_counter() - start) / len(texts))
    assert min(times) < limit


# --- literals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("range(5)", [0, 1, 2, 3, 4]),
        ("range(4, 1, -1)", [4, 3, 2]),
        ("array([[0., 1.],\n       [0., 0.]])", [[0.0, 1.0], [0.0, 0.0]]),
        ("tensor([1, 2], device='cuda:0', dtype=torch.int8)", [1, 2]),
        ("(np.int64(3), numpy.float32(0.5), np.str_('x'))", [3, 0.5, "x"]),
        ("OrderedDict([('a', 1)])", {"a": 1}),
        ("Record(1, [2])", [1, [2]]),
        ("{'a': (1,), 2: None, (0, 1): True}", {"a": [1], 2: None, (0, 1): True}),
        (r"'it\'s \u00e4'", "it's ä"),
        ('["a" "b"]', ["a", "b"]),
        ("[input, conv3x3-bn-relu, output]", ["input", "conv3x3-bn-relu", "output"]),
        ("1, 2,", [1, 2]),
        ("[-1 +2 .5 1e3]", [-1, 2, 0.5, 1000.0]),
    ],
)
def test_literals(text, value):
    assert literals.read(text) == value
    assert literals.read(f" {text} \n".strip()) == value


@pytest.mark.parametrize(
    "text",
    ["", "[1", "1]", "(1, 2", "{1: 2", "{[1]: 2]", "a b", "range()", "range('a')", "range(1, 9, 0)", "range(10, x=1)", "f(1, x=2)", "dict([1])", "dict([({}, 1)])", "{[{}]: 1}", "{{}: 1}",
     "f(x=1, x=2)", "1 +", "[1, 2, ...]", "'a", "[,]x", "x.y()z", "1__0", "0x1F", "a:b", "{'a': {}, 'a': {}}", "9" * 19],
)  # fmt: skip
def test_what_is_no_literal(text):
    with pytest.raises(ValueError, match=r"\S"):
        literals.read(text)
