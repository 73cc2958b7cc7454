"""One list of architectures in every container, form and encoding people keep it in: the same records."""

import csv
import gzip
import io
import json
import sys
import time

import numpy as np
import pytest
from helpers import real_input

from eproxy_jax import spaces
from eproxy_jax.cli import main
from eproxy_jax.runs import archs, contents, tables
from eproxy_jax.runs.archs import read_archs

NB201 = spaces.get("nasbench201")
NB101 = spaces.get("nasbench101")
TEXTS = [NB201.format(arch) for arch in NB201.sample(12, 5)]
ARCHS = [NB201.parse(text) for text in TEXTS]
CODES = [
    "(2, 0, 4, 1, 3, 0)", "(1, 4, 2, 0, 0, 3)", "(0, 0, 2, 2, 1, 4)", "(4, 4, 1, 0, 2, 2)", "(3, 1, 1, 2, 0, 4)",
    "(0, 3, 2, 4, 1, 1)", "(2, 2, 2, 2, 2, 2)", "(1, 0, 3, 4, 4, 0)", "(3, 3, 0, 1, 2, 4)", "(4, 0, 0, 3, 1, 2)",
    "(0, 1, 2, 3, 4, 0)", "(2, 4, 3, 0, 1, 1)",
]  # fmt: skip
COLUMNS = ("acc", "loss")
VALUES = [(50 + 3.25 * i, 2.5 - 0.125 * i) for i in range(12)]


def table(delimiter, header=("acc", "arch", "note", "loss"), quoting=csv.QUOTE_MINIMAL, quote='"', end="\n"):
    """A delimited text with the architecture in the second column, or all but the header."""

    def written(texts):
        out = io.StringIO()
        writer = csv.writer(out, delimiter=delimiter, quoting=quoting, quotechar=quote, lineterminator=end)
        if header:
            writer.writerow(header)
        writer.writerows((a, text, "as is", b) for text, (a, b) in zip(texts, VALUES, strict=True))
        return out.getvalue()

    return written


def rows(texts, kind=list):
    return [kind((text, *values)) for text, values in zip(texts, VALUES, strict=True)]


def objects(texts):
    return [{"net": text, "seed": 1, "acc": a, "loss": b} for text, (a, b) in zip(texts, VALUES, strict=True)]


def named(texts):
    return {
        text: {"acc": a, "id": 7, "loss": {"score": b, "time": 3}} for text, (a, b) in zip(texts, VALUES, strict=True)
    }


# Each gives a whole file from the texts of the architectures; True where it names the values.
FORMS = {
    "csv": (table(","), True),
    "all quoted": (table(",", quoting=csv.QUOTE_ALL), True),
    "single quotes": (table(",", quoting=csv.QUOTE_ALL, quote="'"), True),
    "tsv": (table("\t"), True),
    "semicolons": (table(";"), True),
    "decimal commas": (lambda texts: table(";")(texts).replace(".", ","), True),
    "crlf": (table(";", end="\r\n"), True),
    "old mac": (table(",", end="\r"), True),
    "blank lines": (lambda texts: "\n\n" + table(",")(texts).replace("\n", "\n\n"), True),
    "spreadsheet": (lambda texts: "sep=;\n" + table(";")(texts), True),
    "r table": (lambda texts: _with_row_names(table(" ", quoting=csv.QUOTE_ALL)(texts)), True),
    "trailing commas": (lambda texts: table(",")(texts).replace("\n", ",\n"), True),
    "no header": (lambda texts: "".join(f'"{t}",{a},{b}\n' for t, (a, b) in zip(texts, VALUES, strict=True)), False),
    "comments": (lambda texts: "# x\n" + "".join(f'#\n"{t}",{a},{b}\n' for t, a, b in rows(texts)), False),
    "numbered": (lambda texts: "".join(f'{i},"{t}",{a},{b}\n' for i, (t, a, b) in enumerate(rows(texts))), False),
    "commas behind": (lambda texts: "".join(f"{t}, {a}, {b}\n" for t, a, b in rows(texts)), False),
    "spaces behind": (lambda texts: "".join(f"{t}  {a} {b}\n" for t, a, b in rows(texts)), False),
    "tabs behind": (lambda texts: "".join(f"{t}\t{a}\t{b}\n" for t, a, b in rows(texts)), False),
    "percent": (lambda texts: "".join(f"{t} {a}% {b} %\n".replace(" %", "%") for t, a, b in rows(texts)), False),
    "python rows": (lambda texts: "".join(f"{row}\n" for row in rows(texts, tuple)), False),
    "python list": (lambda texts: f"results = {rows(texts, tuple)!r}\n", False),
    "python dict": (lambda texts: repr(named(texts)), True),
    "python dicts": (lambda texts: "".join(f"{row}\n" for row in objects(texts)), True),
    "json rows": (lambda texts: json.dumps(rows(texts)), False),
    "json rows with a header": (lambda texts: json.dumps([["arch", *COLUMNS], *rows(texts)]), True),
    "json, indented": (lambda texts: json.dumps(rows(texts), indent=2), False),
    "records": (lambda texts: json.dumps(objects(texts)), True),
    "by architecture": (lambda texts: json.dumps(named(texts)), True),
    "lists by architecture": (lambda texts: json.dumps({t: [a, b] for t, a, b in rows(texts)}), False),
    "by hash": (lambda texts: json.dumps({f"{i:04x}": row for i, row in enumerate(objects(texts))}), True),
    "rows by hash": (lambda texts: json.dumps({f"{i:04x}": row for i, row in enumerate(rows(texts))}), False),
    "fields and rows": (lambda texts: json.dumps({"fields": ["arch", *COLUMNS], "rows": rows(texts)}), True),
    "split": (lambda texts: json.dumps({"columns": ["a", *COLUMNS], "index": [0], "data": rows(texts)}), True),
    "columns": (lambda texts: json.dumps(_columns(texts, list)), True),
    "pandas": (lambda texts: json.dumps(_columns(texts, lambda column: dict(enumerate(column)))), True),
    "one level": (lambda texts: json.dumps({"cifar10": named(texts), "about": {"paper": "x"}}), True),
    "two levels": (lambda texts: json.dumps({"nasbench201": {"cifar10": named(texts)}, "darts": {}}), True),
    "json lines": (lambda texts: "".join(json.dumps(row) + "\n" for row in objects(texts)), True),
    "json lines of rows": (lambda texts: "".join(json.dumps(row) + "\n" for row in rows(texts)), False),
}  # fmt: skip


def _with_row_names(text):
    first, *rest = text.splitlines()
    return "\n".join([first, *(f'"{i}" {line}' for i, line in enumerate(rest, start=1))])


def _columns(texts, kind):
    return {"arch": kind(texts), "acc": kind([a for a, _ in VALUES]), "loss": kind([b for _, b in VALUES])}


PACKINGS = {
    "plain": str.encode,
    "gzip": lambda text: gzip.compress(text.encode()),
    "mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 big": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "gzip of utf-16": lambda text: gzip.compress(text.encode("utf-16")),
}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def check_table(path, named_values):
    records = read_archs(path, NB201)
    names = COLUMNS if named_values else ("value", "value2")
    assert [record.values for record in records] == [dict(zip(names, values, strict=True)) for values in VALUES]
    return [record.arch for record in records]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("texts", [TEXTS, CODES], ids=["strings", "codes"])
def test_one_table_in_every_form(tmp_path, form, texts):
    written, named_values = FORMS[form]
    path = write(tmp_path / "table", written(texts))
    assert check_table(path, named_values) == [NB201.parse(text) for text in texts]


@pytest.mark.parametrize("packing", PACKINGS)
def test_one_table_in_every_packing(tmp_path, packing):
    for form in ("csv", "json lines", "fields and rows", "spaces behind"):
        written, named_values = FORMS[form]
        path = write(tmp_path / f"{form}.XYZ", PACKINGS[packing](written(TEXTS)))
        assert check_table(path, named_values) == ARCHS


@pytest.mark.parametrize(
    "written",
    [
        "\n".join,
        lambda texts: "\r\n".join(texts) + "\r\n",
        lambda texts: "arch\n" + "\n".join(texts),
        lambda texts: "\n".join(f"'{text}'," for text in texts),
        lambda texts: "\n".join(f'  "{text}" ,\t' for text in texts),
        lambda texts: "# a comment\n\n" + "\n\n".join(texts) + "\n# the end",
        lambda texts: "\n".join(f"best_{i} = {text}" for i, text in enumerate(texts)),
        json.dumps,
        lambda texts: "\n".join(json.dumps(text) for text in texts),
        lambda texts: repr(tuple(texts)),
        lambda texts: json.dumps([[text] for text in texts]),
        lambda texts: json.dumps([{"arch": text, "status": "ok"} for text in texts]),
        lambda texts: json.dumps(dict.fromkeys(texts)),
        lambda texts: "arch,note\n" + "\n".join(f'"{text}",x' for text in texts),
        lambda texts: "| net | note |\n|:----|-----:|\n" + "\n".join(f"| `{t}` | x |".replace("`", '"') for t in CODES),
    ],
)
@pytest.mark.parametrize("texts", [TEXTS, CODES], ids=["strings", "codes"])
def test_architectures_alone_in_every_form(tmp_path, written, texts):
    text = written(texts)
    records = read_archs(write(tmp_path / "list.dat", text), NB201)
    expected = CODES if text.startswith("|") and "net" in text else texts
    assert [record.arch for record in records] == [NB201.parse(one) for one in expected]
    assert not any(record.values for record in records)


@pytest.mark.parametrize(
    "name",
    ["nasbench101", "nasbench_mr", "nds_darts", "darts", "nds_resnet", "nats_size", "transnas_macro", "transnas_micro"],
)
def test_other_spaces_in_common_forms(tmp_path, name):
    """Architectures whose strings are JSON with commas, brackets and quotes, or numbers."""
    space = spaces.get(name)
    expected = space.sample(9, 1)
    texts = [space.format(arch) for arch in expected]
    numbers = [1.5 * i for i in range(9)]
    pairs = list(zip(texts, numbers, strict=True))
    quoted = io.StringIO()
    csv.writer(quoted).writerows([("arch", "acc"), *pairs])
    forms = {
        "lines": ("\n".join(texts), None),
        "quoted": (quoted.getvalue(), "acc"),
        "tabs": ("arch\tacc\n" + "".join(f"{text}\t{number}\n" for text, number in pairs), "acc"),
        "behind": ("".join(f"{text}, {number}\n" for text, number in pairs), "value"),
        "pairs": (json.dumps(pairs), "value"),
        "object": (json.dumps(dict(pairs)), "value"),
        "lines of pairs": ("".join(json.dumps(pair) + "\n" for pair in pairs), "value"),
    }
    if texts[0][0] in "[{":
        parsed = [(json.loads(text), number) for text, number in pairs]
        forms["values"] = json.dumps([value for value, _ in parsed]), None
        forms["records"] = json.dumps([{"net": value, "acc": number} for value, number in parsed]), "acc"
        forms["python"] = "".join(f"{value!r}\n" for value, _ in parsed), None
    for form, (text, column) in forms.items():
        records = read_archs(write(tmp_path / form, text), space)
        assert [record.arch for record in records] == expected, form
        assert [record.values for record in records] == [{column: n} if column else {} for n in numbers], form


def test_an_architecture_over_several_lines(tmp_path):
    """What NumPy prints of a matrix, in a quoted cell and alone."""
    matrices = [np.array(cell[0]) for cell in NB101.sample(5, 3)]
    ops = [list(cell[1]) for cell in NB101.sample(5, 3)]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["module_adjacency", "module_operations", "acc"])
    writer.writerows([str(matrix), str(names), 0.5] for matrix, names in zip(matrices, ops, strict=True))
    records = read_archs(write(tmp_path / "cells.csv", out.getvalue()), NB101)
    assert [record.arch for record in records] == NB101.sample(5, 3)
    assert {tuple(record.values.items()) for record in records} == {(("acc", 0.5),)}
    text = "\n".join(f"[{matrix!r}, {names}]" for matrix, names in zip(matrices, ops, strict=True))
    records = read_archs(write(tmp_path / "cells.txt", text), NB101)
    assert [record.arch for record in records] == NB101.sample(5, 3)
    assert records[1].where.endswith(f":{1 + str(matrices[0]).count(chr(10)) + 1}")


def test_a_record_that_is_the_architecture(tmp_path):
    """Its own keys are no values; all other numbers are."""
    matrix, ops = NB101.sample(1, 0)[0]
    records = [
        {"matrix": matrix, "ops": ops, "acc": 0.9, "info": {"params": 3, "name": "x", "ok": True}, "epoch": None}
    ]
    for content in (records, {"aa11": records[0]}, records[0]):
        (record,) = read_archs(write(tmp_path / "a.json", json.dumps(content)), NB101)
        assert record.arch == (matrix, ops)
        assert record.values == {"acc": 0.9, "info.params": 3.0}


def test_what_is_no_value():
    row = {
        "a": "91.5%",
        "b": "nan",
        "c": True,
        "d": None,
        "e": float("inf"),
        "f": 10**400,
        "g": "x1",
        "h": [1, 2],
        "i": [0] * 99,
    }
    row |= {
        "Seed": 1,
        "idx": "7",
        "Unnamed: 0": 3,
        "arch_id": 4,
        "": 5,
        "hash": "1e5",
        "score": {"score": 2.5, "time": 9},
    }
    plan = archs.entries.Plan("key", "arch")
    assert plan.values({"arch": "", **row}, "") == {"a": 91.5, "h.0": 1.0, "h.1": 2.0, "score": 2.5}


# --- real inputs ---------------------------------------------------------------------------------------------

ONE = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
ACCURACIES = [91.5, 90.25, 71.0, 88.75]
FOUR = [
    ("02_no_header.csv", "value", ACCURACIES),
    ("07_object.json", "value", ACCURACIES),
    ("08_records.json", "val_acc", ACCURACIES),
    ("08_triples.json", "value", ACCURACIES),
    ("08_triples.json", "value2", [91.0, 89.75, 70.5, 88.25]),
    ("19_error_as_truth.csv", "valid_error", [8.5, 9.75, 29.0, 11.25]),
    ("21_arch_then_values.txt", "value", ACCURACIES),
    ("21_arch_then_values.txt", "value2", [0.0025] * 4),
    ("22_quoted.txt", None, [None] * 4),
    ("23_tab.tsv", "acc", ACCURACIES),
]


@pytest.mark.parametrize(("file", "column", "values"), FOUR)
def test_real_inputs_of_four_networks(file, column, values):
    records = read_archs(real_input(file), NB201)
    assert NB201.format(records[0].arch) == ONE
    assert len({record.arch for record in records}) == 4
    assert [record.values.get(column) for record in records] == values


@pytest.mark.parametrize(
    ("file", "space", "values"),
    [
        ("01_naslib_codes.json", "nasbench201", [{}, {}]),
        ("01_same_as_text.txt", "nasbench201", [{}, {}]),
        ("03_iso_archs.json", "nasbench101", [{}] * 3),
        ("03_iso_truth.json", "nasbench101", [{"value": 0.94}, {"value": 0.93}, {"value": 0.91}]),
        (
            "04_transnas_micro_tuples.csv",
            "transnas_micro",
            [{"val_accs": 50.5}, {"val_accs": 49.0}, {"val_accs": 44.0}],
        ),
        ("06_disconnected.txt", "nasbench201", [{}] * 3),
        (
            "09_zc_nasbench201.json",
            "nasbench201",
            [
                {"val_accuracy": 90.0, "synflow": 40.5, "params": 0.4},
                {"val_accuracy": 85.0, "synflow": 30.5, "params": 0.2},
                {"val_accuracy": 88.0, "synflow": 35.5, "params": 0.3},
            ],
        ),
        ("10_genotype.txt", "nds_darts", [{}] * 2),
        ("10_genotype.txt", "darts", [{}] * 2),
        ("10_nb301_compact.txt", "darts", [{}]),
        ("20_nats_sizes.txt", "nats_size", [{}] * 3),
        ("17_by_hash.json", "nasbench101", [{}] * 2),
        ("17_flat_tuple.csv", "nasbench101", [{"acc": 0.94}]),
        ("17_matrix_ops.json", "nasbench101", [{}]),
        ("17_module.json", "nasbench101", [{"trainable_parameters": 1.0}]),
        ("17_numpy_text.txt", "nasbench101", [{}]),
        ("18_record.json", "nasbench_mr", [{"top1": 60.0, "flops": 1.5, "params": 2.5}]),
        ("22_nodes.txt", "nasbench201", [{}]),
        ("25_edges_hpobench.json", "nasbench201", [{}]),
        ("25_edges_nni.json", "nasbench201", [{}]),
    ],
)
def test_real_inputs(file, space, values):
    assert [record.values for record in read_archs(real_input(file), spaces.get(space))] == values


def test_codes_mean_one_thing_in_every_container():
    as_json, as_text = (
        read_archs(real_input(f"01_{name}"), NB201) for name in ("naslib_codes.json", "same_as_text.txt")
    )
    assert [record.arch for record in as_json] == [record.arch for record in as_text]


# --- data sets within a file ---------------------------------------------------------------------------------


def test_a_data_set_is_chosen(tmp_path):
    sets = {"cifar10": named(TEXTS[:3] + TEXTS[3:]), "cifar100": {TEXTS[0]: {"acc": 1.0}}}
    path = write(tmp_path / "zc.json", json.dumps({"nasbench201": sets, "nasbench101": {"cifar10": {"x": {"acc": 2}}}}))
    with pytest.raises(
        ValueError, match="nasbench201: holds several data sets: cifar10, cifar100; choose one with --dataset"
    ):
        read_archs(path, NB201)
    assert len(read_archs(path, NB201, "cifar10")) == 12
    for name in ("cifar100", "nasbench201/cifar100"):
        (record,) = read_archs(path, NB201, name)
        assert record.values == {"acc": 1.0}
    with pytest.raises(ValueError, match="no data set 'svhn'; it has cifar10, cifar100"):
        read_archs(path, NB201, "svhn")


def test_a_space_is_found_by_its_name_where_notations_are_shared(tmp_path):
    content = {"nasbench201": {CODES[0]: 1.0}, "transbench101_micro": {"(2, 0, 1, 1, 3, 0)": 2.0}}
    path = write(tmp_path / "all.json", json.dumps(content))
    assert [record.values for record in read_archs(path, NB201)] == [{"value": 1.0}]


def test_data_sets_of_the_benchmark_suite(data):
    path = data / "proxy_scores" / "zc_nasbench201_v2b93.json"
    (first, *_) = read_archs(path, NB201, "cifar100")
    assert first.values["val_accuracy"] == pytest.approx(68.34)
    assert len(first.values) == 12


# --- faults --------------------------------------------------------------------------------------------------

CELL = [[[0, 1], [0, 0]], ["input", "output"]]
FAULTS = {
    "empty": (b"", "no architectures in it"),
    "comments only": (b"# a\n\n# b\n", "no architectures in it"),
    "header only": (b"arch,acc\n", "no column|not a NAS-Bench-201"),
    "empty list": (b"[]", "no architectures in it"),
    "empty object": (b" {} ", "no architectures in it"),
    "a first line that is none": (f"|oops~0|\n{ONE}\n{ONE}\n".encode(), "f:1: not a NAS-Bench-201"),
    "a first row that is none": (f"|oops~0|,91\n{ONE},90\n{ONE},89\n".encode(), "f:1: not a NAS-Bench-201"),
    "a line that is none": (f"{ONE}\n\n{ONE}\n|oops~0|\n".encode(), "f:4: not a NAS-Bench-201"),
    "a row that is none": (f"arch,acc\n{ONE},1\nx,2\n".encode(), "f:3: not a NAS-Bench-201"),
    "a short row": (f"arch,acc,a\n{ONE},1,2\n{ONE},1\n".encode(), "f:3: 2 cells in a row, 3 in the header"),
    "an entry that is none": (json.dumps([ONE, [ONE, 3], 7]).encode(), "f: entry 3: "),
    "a record that is none": (json.dumps([{"arch": ONE}, {"acc": 7}]).encode(), 'entry 2: expected an object with "arch"'),
    "a key twice": (f'[{{"arch": "{ONE}", "acc": 1, "acc": 2}}]'.encode(), "entry 1: the key 'acc' stands twice"),
    "a data set twice": (f'{{"a": {{"{ONE}": 1}}, "a": {{"{ONE}": 1}}}}'.encode(), "a key stands twice, among a"),
    "half of it": (b'[["x"', "f:1: not JSON"),
    "a damaged JSON line": (f'{{"arch": "{ONE}"}}\n{{"arch": \n{{"arch": "{ONE}"}}'.encode(), "f:2: not JSON"),
    "another space": (b"64-41414-1_11_111\n64-41414-1_11_112\n", "belongs to space 'transnas_micro', not 'nasbench201'"),
    "a table of another space": (b"arch,v\n64-41414-1_11_111,3\n", "no column holds .* belong to space transnas_micro"),
    "rows of a table": (json.dumps({"fields": ["a", "b"], "rows": [[ONE, 1], [ONE]]}).encode(), "row 2: 1 cells in a row, 2 names"),
    "a table of words": (json.dumps({"fields": ["a"], "rows": [["x"]]}).encode(), "row 1: no column holds architectures"),
    "no rows": (json.dumps({"fields": ["a"], "rows": {}}).encode(), '"rows" a list of lists'),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
    "deep text": (b"(" * 100_000 + b")" * 100_000, "f:1: "),
    "a long line": (b"x" * (tables.MAX_LINE + 1), "a line of 1,048,577 characters"),
    "a long field": (b"arch,acc\n" + f'{ONE},"{"x" * 200_000}"\n'.encode(), "f:1: |f:2: "),
    "damaged gzip": (gzip.compress(ONE.encode())[:-12], "damaged gzip"),
    "gzip twice": (gzip.compress(gzip.compress(ONE.encode())), "compressed with gzip twice"),
    "a bomb": (gzip.compress(b"\0" * 50_000_000), "more than 16,777,216 bytes when unpacked"),
    "an archive": (b"PK\x03\x04 and more", "a zip archive"),
    "a pickle": (b"\x80\x04K\x01.", "a pickle"),
    "utf-16 without a mark": (ONE.encode("utf-16-le"), "zero bytes"),
    "latin": ("é".encode("latin-1"), "f:1: not a text file in UTF-8"),
    "half of a utf-16 character": (ONE.encode("utf-16")[:-1], "not a text file"),
    "words": (b"the quick brown fox\njumps over\n", "f:1: not a NAS-Bench-201"),
    "numbers": (b"1,2,3\n4,5,6\n", "no column holds architectures"),
    "a number": (b"7", "f:1: "),
    "digits": (b"[" + b"7" * 10_000 + b"]", "entry 1: "),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_line_that_says_where(tmp_path, name):
    content, message = FAULTS[name]
    path = write(tmp_path / "f", content)
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as raised:
        read_archs(path, NB201)
    assert str(raised.value).startswith(str(path))
    assert len(str(raised.value)) < len(str(path)) + 600
    assert time.monotonic() - start < 5


def test_codes_of_several_spaces_are_never_called_another_spaces(tmp_path):
    path = write(tmp_path / "f", "net,acc\n" + '"(2, 3, 0, 4, 3, 1)",50\n' * 3)
    for name in spaces.names():
        try:
            read_archs(path, spaces.get(name))
        except ValueError as error:
            assert "belong" not in str(error)  # noqa: PT017


def test_folders_and_devices_are_refused(tmp_path):
    for path in (tmp_path, "/dev/null", "/dev/zero"):
        with pytest.raises(ValueError, match="folder|regular"):
            read_archs(path, NB201)
    with pytest.raises(FileNotFoundError, match="no file of architectures"):
        read_archs(tmp_path / "none", NB201)


# --- one's own families --------------------------------------------------------------------------------------


def test_any_json_value_can_be_an_architecture(tmp_path):
    family = spaces.from_flax(lambda arch: arch, [{"width": 4}, {"width": 8}, 3, [3, 91.5], "deep"])
    content = [{"width": 4}, [3, 91.5], [3, 90.0], {"arch": {"width": 8}, "width": 4, "acc": 7}, "deep"]
    records = read_archs(write(tmp_path / "a.json", json.dumps(content)), family)
    assert [family.format(record.arch) for record in records] == [
        '{"width": 4}',
        "[3, 91.5]",
        "3",
        '{"width": 8}',
        '"deep"',
    ]
    assert [record.values for record in records] == [{}, {}, {"value": 90.0}, {"width": 4.0, "acc": 7.0}, {}]
    records = read_archs(write(tmp_path / "a.csv", "arch,width\n3,4\ndeep,5\n"), family)
    assert [record.values for record in records] == [{"width": 4.0}, {"width": 5.0}]


def test_real_objects():
    family = spaces.from_flax(lambda arch: arch, [{"width": 4}, {"width": 8}])
    assert [family.format(r.arch) for r in read_archs(real_input("27_dicts.json"), family)] == [
        '{"width": 4}',
        '{"width": 8}',
    ]


# --- standard input, convert, speed --------------------------------------------------------------------------


class Input:
    def __init__(self, content):
        self.buffer = io.BytesIO(content)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Input(gzip.compress(FORMS["csv"][0](TEXTS).encode())))
    records = read_archs(contents.STDIN, NB201)
    assert [record.arch for record in records] == ARCHS
    assert records[0].where == "standard input:2"
    with pytest.raises(ValueError, match="standard input: no architectures in it"):
        read_archs(contents.STDIN, NB201)


@pytest.mark.parametrize("form", ["csv", "by architecture", "spaces behind"])
def test_convert_prints_what_the_reader_reads(tmp_path, capsys, form):
    written, named_values = FORMS[form]
    path = write(tmp_path / "table", written(CODES))
    assert main.main(["convert", "--space", "nasbench201", str(path)]) == 0
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in printed.splitlines()]
    names = COLUMNS if named_values else ("value", "value2")
    assert lines == [
        {"arch": NB201.format(NB201.parse(text)), **dict(zip(names, values, strict=True))}
        for text, values in zip(CODES, VALUES, strict=True)
    ]
    out = tmp_path / "out.jsonl"
    assert main.main(["convert", "--space", "nasbench201", str(path), "--out", str(out)]) == 0
    assert out.read_text() == printed
    assert check_table(out, named_values) == [NB201.parse(text) for text in CODES]
    assert main.main(["convert", "--space", "nasbench201", str(path), "--out", str(out)]) == 2
    assert "there is such a file" in capsys.readouterr().err
    assert out.read_text() == printed


def test_convert_of_standard_input_with_a_configuration(tmp_path, monkeypatch, capsys):
    config = tmp_path / "c.py"
    config.write_text(
        "from eproxy_jax.cli.config import default_config\n"
        "def get_config(variant=None):\n    return default_config('nasbench201')\n"
    )
    monkeypatch.setattr(sys, "stdin", Input(f"{ONE}\n".encode()))
    assert main.main(["convert", "--config", str(config), "--config.sizes.stem_channels=8", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == {"arch": ONE}
    assert main.main(["convert", "--space", "nasbench201", str(tmp_path)]) == 2
    assert "a folder, where a file is expected" in capsys.readouterr().err


def test_a_large_table_is_parsed_once_a_row(tmp_path, monkeypatch):
    """Other columns are tried in the first rows only, and other spaces never."""
    texts = [NB201.format(arch) for arch in NB201.enumerate()]
    path = write(
        tmp_path / "all.csv", "i,note,arch,acc\n" + "".join(f"{i},x,{t},{i / 100}\n" for i, t in enumerate(texts))
    )
    counts = dict.fromkeys(spaces.names(), 0)

    def counted(cls):
        whole = cls.parse

        def parse(self, source):
            counts[self.name] += 1
            return whole(self, source)

        return parse

    for name in ("nasbench201", "transnas_micro"):
        monkeypatch.setattr(type(spaces.get(name)), "parse", counted(type(spaces.get(name))))
    start = time.process_time()
    records = read_archs(path, NB201)
    assert len({record.arch for record in records}) == 15625
    assert counts["nasbench201"] < 15625 + 500
    assert counts["transnas_micro"] == 0
    assert time.process_time() - start < 3
