"""``eproxy spaces``: what it lists, in text and as JSON."""

import json

import pytest

from eproxy_jax import spaces
from eproxy_jax.cli import main


def test_all_spaces_are_listed(capsys):
    assert main.main(["spaces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == list(spaces.names())
    assert any("15,625 architectures" in line and "ICLR 2020" in line for line in lines)
    assert main.main(["spaces", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["space"] for row in rows} == set(spaces.names())


@pytest.mark.parametrize("name", spaces.names())
def test_the_page_of_a_space_has_its_sizes_and_notations(name, capsys):
    space = spaces.get(name)
    assert main.main(["spaces", name]) == 0
    page = capsys.readouterr().out
    assert main.main(["spaces", name, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["notations"]
    for notation in described["notations"]:
        assert notation["name"] in page
        assert space.parse(json.loads(json.dumps(notation["example"]))) == space.parse(notation["example"])
    # Every example on the page, copied into a file, is the architecture.
    printed = [line.strip() for line in page.partition("notations;")[2].splitlines() if line.startswith("    ")]
    for notation in space.notations():
        arch = space.parse(notation.example)
        assert any(_parses_to(space, line, arch) for line in printed), notation.name
    for size in described["sizes"]:
        assert f"{size['name']} = " in page
        assert size["meaning"]
    assert space.parse(described["canonical"]) == space.canonical(space.parse(described["canonical"]))


def _parses_to(space, text, arch):
    try:
        return space.parse(text) == arch
    except ValueError:
        return False


def test_unknown_names_are_refused_in_one_line(capsys):
    assert main.main(["spaces", "nasbench21"]) == 2
    assert "did you mean 'nasbench201'" in capsys.readouterr().err
    assert main.main(["spaces", "--config.sizes.width=3"]) == 2
