"""The Python of README and docs runs as it stands, their commands name flags that exist, and their links lead somewhere."""

import re
from pathlib import Path

import pytest
from helpers import SPACES

from eproxy_jax.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text, language):
    """Code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_snippets_run(page):
    for snippet in blocks(page.read_text(), "python"):
        exec(compile(snippet, page.name, "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse(page):
    text = "\n".join(blocks(page.read_text(), "bash"))
    commands = re.findall(
        r"^eproxy ((?:score|fit|suggest|plan|dps|bank|spaces|proxies|report)\b.*?)(?:[#>].*)?$", text, re.MULTILINE
    )
    assert len(commands) >= {"README": 3, "cli": 12}.get(page.stem, 0)
    for command in commands:
        arguments, rest = main.parser().parse_known_args(command.split())
        assert arguments.command == command.split()[0]
        assert all(text.startswith("--config.") for text in rest)


def anchors(page):
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", re.sub(r"\s+", " ", text)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_code_named_in_docs_exists():
    """``module.py: name, name`` names a file and what is defined in the package."""
    files = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    text = "\n".join(path.read_text() for path in (ROOT / "eproxy_jax").rglob("*.py"))
    for page in PAGES:
        for path, names in re.findall(r"`([\w./]+\.py)(?:: ([\w., ]+))?`", page.read_text()):
            assert any(file.endswith(path) for file in files), f"{page.name}: {path}"
            for name in filter(None, names.split(", ")):
                last = re.escape(name.rpartition(".")[2])
                assert re.search(rf"(def|class) {last}\b|^\s*{last}\b.*[:=]", text, re.MULTILINE), (
                    f"{page.name}: {name}"
                )


def test_numbers_of_spaces_are_current():
    from eproxy_jax import spaces

    page = (ROOT / "docs" / "spaces.md").read_text()
    for name in SPACES:  # not spaces.names(): tests register the example's
        num_archs = spaces.get(name).num_archs
        row = rf"`{name}`" if num_archs is None else rf"\| `{name}` \| {num_archs:,} \|"
        assert re.search(row, page)
        assert f"`{name}`" in README


def test_readme_is_short():
    assert len(README.splitlines()) <= 120
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len(re.findall(r"(?<![\w.-])[-+]?\d*\.?\d+", text)) <= 45
