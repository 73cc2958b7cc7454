"""Columns out of all kinds of files, fits to them that are saved, and other architectures ranked by what was saved."""

import json
import re

import numpy as np
import pytest
import tiny
from helpers import ROOT

import eproxy_jax as ep
from eproxy_jax.cli import main
from eproxy_jax.runs import gathering

SPACE = tiny.Tiny()
CUT = tiny.Cut()
TINY = ["--config", f"{ROOT}/tests/tiny_config.py"]
IMAGES = ep.default_images("one_over_f", 128, 8)
ARCHS = SPACE.sample(40, 1)
SETTINGS = ep.ProxySettings.from_dict(
    {"num_steps": 2, "branches": [{"transform_channels": 8, "target_channels": 4, "barrier_kernel": 1}]}
)


def eproxy(*arguments):
    return main.main([str(a) for a in arguments])


def values(archs):
    """Measured values that depend on the function alone."""
    return {a: SPACE.macs(SPACE.canonical(a)) / 1e4 + np.sin(SPACE.canonical(a)[1] + a[0]) for a in archs}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with columns, scores, a bank, and tables of the same networks."""
    folder = tmp_path_factory.mktemp("made")
    archs = folder / "archs.txt"
    archs.write_text("".join(SPACE.format(arch) + "\n" for arch in ARCHS))
    # First a command that reads the configuration, which registers the proxies of these tests.
    assert eproxy("score", *TINY, "--archs", archs, "--workdir", folder, "--no-plot") == 0
    ep.runs.score_columns(
        ARCHS, SPACE, "drawn,label_sum,macs,eproxy", IMAGES, settings=SETTINGS, workdir=folder, say=str
    )
    assert eproxy("bank", *TINY, "--archs", archs, "--num-settings", 2, "--workdir", folder) == 0
    lines = [f"{SPACE.format(a)},{a[1] + i / 100},{a[2]}" for i, a in enumerate(ARCHS)]
    (folder / "mine.csv").write_text("arch,one,two\n" + "\n".join(lines))
    (folder / "single.json").write_text(json.dumps([[SPACE.format(a), a[0] + i / 9] for i, a in enumerate(ARCHS)]))
    return folder


FUNCTIONS = {SPACE.format(SPACE.canonical(arch)) for arch in ARCHS}


def test_columns_of_eproxy(made):
    found = gathering.gather([made / "columns.jsonl"])
    assert found.space == SPACE
    assert set(found.columns.archs) == FUNCTIONS
    assert found.columns.names == ("macs", "params", "drawn", "label_sum", "eproxy")
    assert found.columns.blocks == ("sizes", "sizes", "proxies", "proxies", "losses")
    result = ep.score(found.columns.archs, SPACE, SETTINGS, IMAGES, proxy="drawn,macs,eproxy")
    for name in ("drawn", "macs", "eproxy"):
        np.testing.assert_array_equal(found.columns.column(name), result.columns[name])
    assert found.needs["eproxy"] == {"settings": SETTINGS.to_dict()}
    assert found.made_with["num_classes"] == 10


def test_scores_and_a_bank(made):
    found = gathering.gather([made / "scores.jsonl", made / "bank.jsonl"])
    names = found.columns.names
    assert names == ("macs", "params", "eproxy", "eproxy:bank#0", "eproxy:bank#1", "eproxy:bank#2")
    assert set(found.columns.blocks) == {"sizes", "losses"}
    scores = ep.score(found.columns.archs[:3], SPACE, found_settings(found), ep.default_images("one_over_f", 4, 8))
    np.testing.assert_array_equal(found.columns.column("eproxy")[:3], -scores.loss)


def found_settings(found):
    return ep.ProxySettings.from_dict(found.needs["eproxy"]["settings"])


def test_a_fit_to_a_bank_trains_in_a_bank(made, tmp_path):
    result = ep.runs.fit([made / "bank.jsonl"], values(ARCHS), num_labels=12, say=str)
    images, few = ep.default_images("one_over_f", 4, 8), ARCHS[:5]
    ranked = ep.runs.rank(result.saved, few, SPACE, images, workdir=tmp_path, say=str)
    expected = dict(zip(result.archs, result.score, strict=True))
    texts = [SPACE.format(SPACE.canonical(arch)) for arch in few]
    np.testing.assert_allclose(ranked.score, [expected[text] for text in texts], rtol=1e-6)
    assert (tmp_path / "bank.jsonl").exists()
    before = (tmp_path / "bank.jsonl").read_bytes()
    ep.runs.rank(result.saved, few, SPACE, images, workdir=tmp_path, say=str)
    assert (tmp_path / "bank.jsonl").read_bytes() == before


def test_tables_of_a_users_own(made):
    found = gathering.gather([made / "mine.csv", made / "single.json"], SPACE)
    assert found.columns.names == ("macs", "params", "mine:one", "mine:two", "single")
    assert found.columns.blocks[2:] == ("proxies",) * 3
    several = [i + a[1] * 100 for i, a in enumerate(ARCHS) if SPACE.canonical(a) == (3, 0, 0)]
    if several:
        place = found.columns.archs.index("3-0-0")
        assert found.columns.column("mine:one")[place] == pytest.approx(np.mean(several) / 100)
    fewer = gathering.gather([made / "mine.csv"], SPACE, leave_out=["*:t?o"])
    assert fewer.columns.names[2:] == ("mine:one",)
    without = gathering.gather([made / "mine.csv"], SPACE, values={made / "mine.csv": "one"})
    assert without.columns.names[2:] == ("mine:two",)


def test_two_halves_are_one_file(made, tmp_path):
    for name, archs in (("a", ARCHS[:25]), ("b", ARCHS[20:])):
        ep.runs.score_columns(archs, SPACE, "drawn", IMAGES, workdir=tmp_path / name, say=str)
    whole = gathering.gather([tmp_path / "a/columns.jsonl", tmp_path / "b/columns.jsonl"]).columns
    assert set(whole.archs) == FUNCTIONS
    known = gathering.gather([made / "columns.jsonl"]).columns.rows(whole.archs)
    np.testing.assert_array_equal(whole.column("drawn"), known.column("drawn"))
    both = gathering.gather([made / "columns.jsonl", tmp_path / "a/columns.jsonl"])  # the same column twice
    assert both.columns.names.count("drawn") == 1
    assert len(both.columns) == len({SPACE.canonical(arch) for arch in ARCHS[:25]})


def test_two_settings_have_two_names(made, tmp_path):
    other = ep.ProxySettings.from_dict({**SETTINGS.to_dict(), "lr": 0.5})
    ep.runs.score_columns(ARCHS, SPACE, "eproxy", IMAGES, settings=other, out=tmp_path / "slow.jsonl", say=str)
    found = gathering.gather([made / "columns.jsonl", tmp_path / "slow.jsonl"])
    assert found.columns.names[-2:] == ("eproxy", "eproxy:slow")
    assert found.needs["eproxy:slow"]["settings"]["lr"] == 0.5


def test_disconnected_networks_are_no_part_of_the_reference(tmp_path):
    archs = CUT.sample(60, 2)
    ep.runs.score_columns(archs, CUT, "drawn", IMAGES, workdir=tmp_path, say=str)
    found = gathering.gather([tmp_path / "columns.jsonl"], CUT)
    assert {CUT.parse(arch)[1] for arch in found.disconnected} == {4}
    assert np.isfinite(found.columns.values).all()
    truth = {arch: float(CUT.macs(arch)) + i / 99 for i, arch in enumerate(archs)}
    said = []
    result = ep.runs.fit(found, truth, num_labels=15, say=said.append)
    assert np.isneginf(result.score[len(found.columns) :]).all()
    assert len(said) == 1
    assert "are disconnected" in said[0]
    assert sum(row.count for row in result.quality.values()) == 5 * next(iter(result.quality.values())).count


def damaged(folder, made, **changes):
    """A copy of the columns whose record says something else."""
    (folder / "other.jsonl").write_text((made / "columns.jsonl").read_text())
    record = json.loads((made / "columns.run.json").read_text()) | changes
    (folder / "other.run.json").write_text(json.dumps(record))
    return folder / "other.jsonl"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_seed": 3}, "columns of other weight seed: weight_seed (3, there 0)"),
        ({"sizes": {"width": 2}}, "columns of other sizes: sizes.width (2, there 1)"),
        ({"space": "darts", "sizes": {}}, "columns of other space and sizes: space ('darts', there 'tiny')"),
        ({"images": {"shape": [128, 8, 8, 3], "sha256": "0"}}, "columns of other images: images.sha256"),
        ({"num_classes": 100}, "columns of other num classes: num_classes (100, there 10)"),
        ({"run": "0"}, "not the record of other.jsonl"),
    ],
)
def test_files_that_do_not_go_together(made, tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gathering.gather([made / "columns.jsonl", damaged(tmp_path, made, **changes)])


def test_files_that_say_nothing(made, tmp_path):
    with pytest.raises(ValueError, match="tables alone do not say which search space"):
        gathering.gather([made / "mine.csv"])
    with pytest.raises(ValueError, match="name at least one file"):
        gathering.gather([])
    (tmp_path / "columns.jsonl").write_text((made / "columns.jsonl").read_text())
    with pytest.raises(FileNotFoundError, match=r"its record columns\.run\.json is absent"):
        gathering.gather([tmp_path / "columns.jsonl"])
    (tmp_path / "none.txt").write_text("3-0-0\n1-1-1\n")
    with pytest.raises(ValueError, match="no column of numbers"):
        gathering.gather([tmp_path / "none.txt"], SPACE)
    (tmp_path / "few.csv").write_text("arch,one,two\n3-0-0,1,\n1-1-1,,\n9,,\n".replace("9,,\n", ""))
    (tmp_path / "more.csv").write_text("arch,one,two\n3-0-0,1,\n1-1-1,,2\n")
    (tmp_path / "last.csv").write_text("arch,z\n3-0-0,1\n")
    with pytest.raises(ValueError, match="the column 'more:two' has no value for any of the 1 architectures"):
        gathering.gather([tmp_path / "more.csv", tmp_path / "last.csv"], SPACE)
    (tmp_path / "else.csv").write_text("arch,z\n4-4-4,1\n")
    with pytest.raises(ValueError, match="no architecture is in all of"):
        gathering.gather([tmp_path / "last.csv", tmp_path / "else.csv"], SPACE)
    with pytest.raises(ValueError, match=r"'\*\.time' is to be left out, but no column has that name"):
        gathering.gather([tmp_path / "last.csv"], SPACE, leave_out=["*.time"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b/last.csv").write_text("arch,z\n3-0-0,1\n")
    with pytest.raises(ValueError, match="the column 'last:z' is in .*last.csv too"):
        gathering.gather([tmp_path / "last.csv", tmp_path / "b/last.csv"], SPACE)


# --- fits ----------------------------------------------------------------------------------------------------


def test_labels_and_held_out_are_disjoint_as_functions(made):
    gathered = gathering.gather([made / "columns.jsonl"])
    truth = values(SPACE.enumerate())  # more than the columns have, several strings of a function
    for seed in range(5):
        labels, held_out = ep.runs.fitting.split(gathered, truth, num_labels=12, seed=seed)
        assert len(labels) == 12
        assert not set(labels) & {text for text, _ in held_out}
        assert set(labels) | {text for text, _ in held_out} == FUNCTIONS
        written = [arch for arch in truth if SPACE.format(SPACE.canonical(arch)) in FUNCTIONS - set(labels)]
        assert len(held_out) == len(written)
    again, _ = ep.runs.fitting.split(gathered, truth, num_labels=12, seed=4)
    assert labels == again
    given = {arch: truth[arch] for arch in ARCHS[:6]}
    labels, held_out = ep.runs.fitting.split(gathered, truth, given)
    assert set(labels) == {SPACE.format(SPACE.canonical(arch)) for arch in given}
    assert not set(labels) & {text for text, _ in held_out}
    with pytest.raises(ValueError, match="have no columns, such as"):
        ep.runs.fitting.split(gathered, None, dict.fromkeys(SPACE.enumerate(), 1.0))
    with pytest.raises(ValueError, match="1000 asked for, but"):
        ep.runs.fitting.split(gathered, truth, num_labels=1000)


def test_a_saved_fit_predicts_what_the_fit_predicted(made, tmp_path):
    """The columns are computed anew, in another order, beside other networks; the same to the last bits."""
    paths = [made / "columns.jsonl", made / "mine.csv"]
    result = ep.runs.fit(paths, values(ARCHS), num_labels=12, workdir=tmp_path / "fit", say=str)
    assert next(iter(result.quality)) == "fitted (process)"
    assert result.quality["fitted (process)"].spearman > 0.8
    expected = dict(zip(result.archs, zip(result.score, result.deviation, strict=True), strict=True))
    lines = [json.loads(line) for line in (tmp_path / "fit/predictions.jsonl").read_text().splitlines()]
    assert {line["arch"]: (line["score"], line["std"]) for line in lines} == expected
    record = json.loads((tmp_path / "fit/fit.json").read_text())
    assert record["leave_one_out"]["count"] == 12
    assert record["labels"] == result.labels
    wanted = [*ARCHS[10:3:-1], ARCHS[10]]
    ranked = ep.runs.rank(
        tmp_path / "fit/settings.json", wanted, SPACE, IMAGES, columns=[made / "mine.csv"], workdir=tmp_path, say=str
    )
    texts = [SPACE.format(SPACE.canonical(arch)) for arch in wanted]
    np.testing.assert_allclose(ranked.score, [expected[text][0] for text in texts], rtol=1e-9)
    np.testing.assert_allclose(ranked.deviation, [expected[text][1] for text in texts], rtol=1e-9)
    assert set(ranked.columns.columns) == {"macs", "params", "drawn", "label_sum", "eproxy"}
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["arch"] for line in lines] == [SPACE.format(arch) for arch in wanted[:-1]]
    assert ranked.score[ranked.ranking()[0]] == ranked.score.max()


def test_only_what_is_needed_is_computed(made, tmp_path):
    result = ep.runs.fit([made / "columns.jsonl"], values(ARCHS), num_labels=12, method="best_column", say=str)
    (name,) = result.saved.needs
    ranked = ep.runs.rank(result.saved, ARCHS[:4], SPACE, IMAGES, workdir=tmp_path, say=str)
    assert set(ranked.columns.columns) == {"macs", "params", name}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES + 1}, "were made with other images: images.sha256"),
        ({"key": 1}, "other weight seed: weight_seed (1, there 0)"),
        ({"num_classes": 5}, "other num classes"),
        ({"space": tiny.Tiny(2)}, "other sizes: sizes.width (2, there 1)"),
        ({"labels": [0] * 128}, "other labels and num classes"),
    ],
)
def test_columns_of_other_things_are_refused(made, tmp_path, arguments, message):
    result = ep.runs.fit([made / "columns.jsonl"], values(ARCHS), num_labels=12, say=str)
    given = {"space": SPACE, "images": IMAGES} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        ep.runs.rank(result.saved, ARCHS[:3], given.pop("space"), given.pop("images"), workdir=tmp_path, **given)
    assert not list(tmp_path.iterdir())


def test_own_columns_are_asked_for(made, tmp_path):
    result = ep.runs.fit([made / "mine.csv"], values(ARCHS), num_labels=12, space=SPACE, say=str)
    with pytest.raises(ValueError, match=r"the fit needs 'mine:one', 'mine:two', of mine\.csv: name the files"):
        ep.runs.rank(result.saved, ARCHS[:3], SPACE, workdir=tmp_path)
    again = ep.runs.SavedFit.from_dict(json.loads(json.dumps(result.saved.to_dict())))
    assert again.to_dict() == result.saved.to_dict()
    ranked = ep.runs.rank(again, [(4, 4, 4), *ARCHS[:3]], SPACE, columns=[made / "mine.csv"], workdir=tmp_path, say=str)
    assert np.isfinite(ranked.score).all()  # an architecture without own columns has the middle rank there


@pytest.mark.parametrize("field", ["fit", "made_with", "columns", "model"])
def test_damaged_fits_are_told(made, field):
    plain = ep.runs.fit([made / "columns.jsonl"], values(ARCHS), num_labels=12, say=str).saved.to_dict()
    for value in (None, [], {}, 7):
        with pytest.raises(ValueError, match="a saved fit|a fitted ranking"):
            ep.runs.SavedFit.from_dict({**plain, field: value})
    with pytest.raises(ValueError, match="a saved fit"):
        ep.runs.SavedFit.from_dict({name: value for name, value in plain.items() if name != field})
