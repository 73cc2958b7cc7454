"""What a report reads, computes and writes, and what it refuses."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
import report_runs
from report_runs import SPACE

import eproxy_jax as ep
from eproxy_jax.cli import main
from eproxy_jax.report import blocks, drawings, evidence, html, markdown, numbers, reading, sections, writing
from eproxy_jax.runs import truth as truth_lib
from eproxy_jax.spaces.structure import Graph


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return report_runs.make_all(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def joined(made):
    folders, truth = made
    values = truth_lib.read_truth(truth, SPACE)
    return evidence.gather(SPACE, reading.read(folders), {"accuracy": values})


@pytest.fixture(scope="module")
def page(joined):
    return sections.page(joined, "0", draws=2)


def table_of(page, name, place=0):
    (section,) = [one for one in page.sections if one.name == name]
    table = [block for block in section.blocks if isinstance(block, blocks.Table)][place]
    return {row[0].text: dict(zip([h.name for h in table.headers], row, strict=True)) for row in table.rows}


def figures_of(page):
    return {one.name: one for section in page.sections for one in section.blocks if isinstance(one, blocks.Figure)}


def told(capsys):
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("eproxy: error: ")
    return line


# --- what is found -------------------------------------------------------------------------------------------


def test_content_says_what_a_folder_holds(made):
    sources = reading.read(made[0])
    assert [source.kind for source in sources] == ["scores", "columns", "fit", "dps", "search"]
    assert [source.label for source in sources] == ["scores", "columns", "fit", "dps", "search"]
    assert reading.space_of(sources) == SPACE


def test_any_file_of_a_result_names_it_once(made):
    scores, columns, fit, dps, search = made[0]
    paths = [scores / "scores.run.json", columns / "columns.run.json", fit / "fit.json", fit / "predictions.jsonl"]
    paths += [dps / "settings.json", search / "search.jsonl", scores, fit / "settings.json"]
    found = reading.read(paths)
    assert [source.kind for source in found] == ["scores", "columns", "fit", "dps", "search"]


def test_columns_are_joined_and_named_as_the_terminal_names_them(joined):
    assert set(joined.columns) == {
        "eproxy", "macs", "params", *report_runs.COLUMNS, "half", "fit", "rank_sum", "macs as written", "params as written",
    }  # fmt: skip
    assert len(joined.archs) == 40
    assert joined.columns["eproxy"].values[1] == -np.inf  # diverged
    assert joined.columns["jacov"].values[3] == -np.inf
    assert np.isnan(joined.columns["half"].values[::2]).all()
    assert joined.columns["eproxy"].seconds == 8 / 40
    assert joined.columns["rank_sum"].seconds == 4 / 40  # one pass counts once
    assert joined.losses["eproxy"].shape == (40, 10)


def test_table_says_what_the_library_says(joined, page):
    rows = table_of(page, "agreement")
    for name in ("eproxy", "rank_sum", "macs as written"):
        expected = ep.rank_quality(joined.columns[name].values, joined.tasks["accuracy"])
        assert rows[name]["Spearman"].value == expected.spearman
        assert rows[name]["regret"].value == expected.regret
        assert rows[name]["networks"].text == "40"
    assert rows["half"]["networks"].text == "20"
    assert list(rows)[-2:] == ["macs as written", "params as written"]


def test_labels_are_no_test_of_a_fit(joined):
    column = joined.columns["fit"]
    known = joined.tested(column, "accuracy")
    assert len(column.labelled) == 12
    assert not any(arch in column.labelled for arch, ok in zip(joined.canonical, known, strict=True) if ok)
    assert known.sum() < 40


def test_correlations_are_spearmans(joined):
    names = ["eproxy", "jacov", "macs"]
    found = numbers.correlations([joined.columns[name] for name in names])
    values = joined.columns["jacov"].values, joined.columns["macs"].values
    assert found[1, 2] == pytest.approx(ep.rank_quality(*values).spearman)
    assert (np.diag(found) == 1).all()


def test_fit_to_more_labels_is_tested_on_the_rest(joined):
    learned = numbers.learning(joined, "accuracy", 2)
    assert [count for count, _ in learned.points] == [5, 10, 20]
    assert all(-1 <= value <= 1 for _, value in learned.points)
    assert learned.levels.keys() == {"rank_sum", "macs as written"}
    assert numbers.learning(joined, "accuracy", 0) is None


def test_sections_stand_only_where_there_is_something(page, tmp_path):
    names = [section.name for section in page.sections]
    assert names == [
        "runs", "agreement", "scatter", "correlations", "losses", "labels", "top", "front", "found", "searches", "all",
    ]  # fmt: skip
    alone = evidence.gather(SPACE, reading.read([report_runs.dps(tmp_path / "dps")]), {})
    assert [section.name for section in sections.page(alone, "0").sections] == ["runs", "found", "searches"]


def test_settings_and_fits_are_said_in_words(page):
    (section,) = [one for one in page.sections if one.name == "found"]
    said = " ".join(text for one in section.blocks if isinstance(one, blocks.Text) for text in one.sentences)
    for part in ("12 labels", "trainability + entropy_taps + macs + jacov + synflow", "Gaussian process", "+0.25 of MACs",
                 "10 steps of SGD at learning rate 0.5", "net + dot"):  # fmt: skip
        assert part in said, part


def test_best_so_far_never_falls(page):
    for name, series in (("queries", {"search"}), ("fitness", {"dps, evolution", "dps, random"})):
        points = figures_of(page)[name].spec["layer"][0]["data"]["values"]
        assert {point["name"] for point in points} == series
        for one in series:
            heights = [point["y"] for point in points if point["name"] == one]
            assert heights == sorted(heights)


def test_graph_is_drawn_with_a_description():
    svg = drawings.draw(Graph(((0, 1), (0, 1), (0, 2)), (2,), edge_ops=(0, 1, 0)), ("a<b", "c"), "cell")
    assert svg.count("<path") == 3
    assert svg.count("<circle") == 3
    assert "<title>cell: 0 to 1 a&lt;b; 0 to 1 c; 0 to 2 a&lt;b</title>" in svg


@pytest.mark.parametrize("name", ["darts", "nasbench101", "nds_pnas", "transnas_micro", "nasbench_mr", "nats_size"])
def test_every_space_has_drawings_or_a_string(name):
    space = ep.spaces.get(name)
    structure = space.structure(space.sample(1, 0)[0])
    for graph_name, graph in structure.graphs.items():
        svg = drawings.draw(graph, structure.ops, graph_name)
        assert svg.count("<path") == len(graph.edges)
    assert len(drawings.legend(structure)) == len(structure.ops)


def test_a_large_page_is_thinned_and_says_so(joined, monkeypatch):
    monkeypatch.setattr(sections, "_MOST_NUMBERS", 20 * (len(joined.columns) + 1))
    thin = sections.page(joined, "0", draws=0)
    assert len(thin.data["arch"]) == 20
    best = joined.archs[int(sections.ranking(joined.best())[0])]
    assert best in thin.data["arch"]
    assert thin.sections[-1].blocks[0].caption.startswith("20 of 40 architectures")


# --- what is written -----------------------------------------------------------------------------------------


def test_page_needs_no_network_and_holds_its_data(page, monkeypatch):
    monkeypatch.setattr(html, "vega", lambda: "window.vegaEmbed = null;")
    text = html.render(page)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)
    assert "@import" not in text
    packed = re.search(r'id="data">([^<]*)<', text)[1]
    data = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert data == page.data
    assert "fetch(" not in html._asset("script.js")
    assert html.render(page) == text  # the same bytes again


def test_tables_can_be_read_aloud(page, monkeypatch):
    monkeypatch.setattr(html, "vega", lambda: "")
    text = html.render(page)
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert "<caption>" in table
        assert 'scope="col"' in table
    assert text.count('scope="row"') > 40
    assert '<html lang="en">' in text
    assert 'href="#content"' in text
    for figure in re.findall(r'<div class="chart".*?>', text):
        assert 'role="img"' in figure
        assert re.search(r'aria-label="[^"]{20,}"', figure)


EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">|`*_[a](javascript:alert(3))'


def test_no_text_of_a_file_becomes_markup(tmp_path, monkeypatch):
    monkeypatch.setattr(html, "vega", lambda: "")
    folder = report_runs.scores(tmp_path / "<b>runs", command=EVIL)
    values = {arch: float(i) for i, arch in enumerate(report_runs.drawn()[0])}
    joined = evidence.gather(SPACE, reading.read([folder]), {EVIL: values})
    page = sections.page(joined, EVIL, draws=0)
    text = html.render(page)
    for part in ("<script>alert", "<img", "<b>runs"):
        assert part not in text, part
    assert "&lt;img" in text
    plain, _ = markdown.render(page, "report")
    for part in ("<script", "<img", "<b>"):
        assert part not in plain, part
    assert "\\](javascript" in plain  # a link whose bracket is escaped is none
    assert not re.search(r"(?<!\\)\]\(javascript", plain)


def test_markdown_has_its_figures_beside_it(made, tmp_path, monkeypatch):
    monkeypatch.setattr(markdown, "picture", lambda spec: _png())
    folders, truth = made
    out = tmp_path / "page.md"
    values = truth_lib.read_truth(truth, SPACE)
    for _ in range(2):  # a report is replaced by a report
        written = writing.write(folders, out, {"accuracy": values}, draws=0)
    text = out.read_text()
    for figure in written.figures:
        assert f"](<{figure.name}>)" in text
        assert figure.read_bytes().startswith(b"\x89PNG")
    assert "| rank\\_sum |" in text
    written.figures[0].write_bytes(b"mine")
    with pytest.raises(ValueError, match="not the figure of page.md"):
        writing.write(folders, out, {"accuracy": values}, draws=0)
    assert written.figures[0].read_bytes() == b"mine"


def _png():
    """A picture of one pixel."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


@pytest.mark.slow  # quick: the specs hold the rows that they name
def test_vega_draws_every_figure(page):
    _, specs = markdown.render(page, "report")
    for name, spec in specs.items():
        assert markdown.picture(spec).startswith(b"\x89PNG"), name


def test_specs_hold_the_rows_that_they_name(page):
    _, specs = markdown.render(page, "report")
    assert len(specs) == len(figures_of(page))
    for spec in specs.values():
        for layer in spec.get("layer", [spec]):
            data = layer.get("data", {})
            rows = data["values"] if "values" in data else spec["datasets"][data["name"]]
            assert rows
            fields = {one["field"] for one in layer["encoding"].values() if isinstance(one, dict)}
            fields |= {one["field"] for one in layer["encoding"].get("tooltip", [])}
            assert fields <= rows[0].keys()


# --- the command ---------------------------------------------------------------------------------------------


def test_command_writes_a_page_without_figures(made, tmp_path, capsys):
    folders, truth = made
    assert (
        main.main(["report", *map(str, folders), "--truth", str(truth), "--no-plot", "--workdir", str(tmp_path)]) == 0
    )
    text = (tmp_path / "report.html").read_text()
    assert "rank_sum" in text
    assert "vegaEmbed=" not in text
    assert f"report: {tmp_path}/report.html" in capsys.readouterr().out


def test_bad_input_is_one_line_that_says_where(made, tmp_path, capsys, monkeypatch):
    (scores, columns, *_), truth = made
    foreign, empty = tmp_path / "mine.html", tmp_path / "empty"
    foreign.write_text("<p>mine</p>")
    empty.mkdir()
    (empty / "notes.json").write_text("{}")
    other = tmp_path / "other.json"
    other.write_text(json.dumps([[SPACE.format(arch), float(i)] for i, arch in enumerate(SPACE.sample(9, 77))]))
    broken = report_runs.scores(tmp_path / "broken")
    with (broken / "scores.jsonl").open("a") as file:
        file.write('{"arch": 3}\n')
    alone = report_runs.scores(tmp_path / "alone")
    (alone / "scores.run.json").unlink()
    bigger = report_runs.scores(tmp_path / "bigger")
    known = json.loads((bigger / "scores.run.json").read_text())
    known["sizes"]["stem_channels"] = 8
    (bigger / "scores.run.json").write_text(json.dumps(known))
    out = ["--out", tmp_path / "new.html"]
    for flags, words in (
        ([tmp_path / "absent", *out], "no run at"),
        ([empty, *out], "no result of eproxy in this folder"),
        ([truth, *out], "not a result of eproxy score, fit, dps or search"),
        ([scores, "--out", foreign], "not a report of eproxy, and left as it is"),
        ([scores, "--out", tmp_path / "a.pdf"], "choose such an ending"),
        ([scores, "--out", tmp_path / "no" / "a.html"], "no such folder"),
        ([scores, "--truth", other, *out], "need at least 3"),
        ([scores, "--by", "eproxi", *out], "did you mean 'eproxy'?"),
        ([scores, "--lower-is-better", *out], "give one"),
        ([broken, *out], "scores.jsonl:41: not a line of a score file"),
        ([alone, *out], "its record scores.run.json is absent"),
        ([columns, bigger, *out], "a report compares results of one space and size"),
        ([scores, "--space", "nats_size", *out], "scores.jsonl: "),
        (["-", *out], "standard input has no record"),
    ):  # fmt: skip
        assert main.main(["report", *map(str, flags), "--no-plot"]) == 2, words
        assert words in told(capsys), words
    assert foreign.read_text() == "<p>mine</p>"
    assert not (tmp_path / "new.html").exists()


@pytest.mark.parametrize(("missing", "flags"), [("jinja2", []), ("vl_convert", []), ("vl_convert", [".md"])])
def test_absent_package_is_one_line(made, tmp_path, capsys, monkeypatch, missing, flags):
    import sys

    html.vega.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    out = tmp_path / f"a{flags[0] if flags else '.html'}"
    assert main.main(["report", str(made[0][0]), "--out", str(out)]) == 2
    assert "pip install 'eproxy_jax[report]'" in told(capsys)
    assert not out.exists()
