"""The README's Python runs as it stands, and its commands name flags that exist."""

import re
from pathlib import Path

import pytest
from helpers import SPACES

from eproxy_jax.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_python_snippets_run(capsys):
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_commands_parse():
    commands = re.findall(r"^eproxy ((?:score|plan|dps|bank) .*?)(?:#.*)?$", README, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        arguments, rest = main.parser().parse_known_args(command.split())
        assert arguments.command == command.split()[0]
        assert all(text.startswith("--config.") for text in rest)


def test_numbers_of_spaces_are_current():
    from eproxy_jax import spaces

    for name in SPACES:  # not spaces.names(): tests register the example's
        num_archs = spaces.get(name).num_archs
        row = rf"`{name}`" if num_archs is None else rf"\| `{name}` \| {num_archs:,} \|"
        assert re.search(row, README)


def test_readme_is_short():
    assert len(README.splitlines()) <= 200
