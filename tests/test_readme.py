"""The Python of README and docs runs as it stands, their commands name flags that exist, and their links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pages
import pytest
from helpers import SPACES

import eproxy_jax as ep
from eproxy_jax import spaces
from eproxy_jax.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"

sys.path.insert(0, str(ROOT / "docs" / "hooks"))  # where the pages of the site that code writes come from
import content  # noqa: E402
import links  # noqa: E402


def blocks(text, language):
    """Code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def written():
    """Pages of the site that code writes, by their place below docs/."""
    return content.generated()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_snippets_run(page):
    if page == TUTORIAL:
        pytest.skip("its snippets read what its commands write: test_tutorial_prints_what_it_shows runs both")
    namespace = {"__name__": "page"}  # one for a page, as for somebody who reads it from the top
    for snippet in blocks(page.read_text(), "python"):
        exec(compile(snippet, page.name, "exec"), namespace)


def test_snippets_of_written_pages_run(written):
    snippets = [(uri, snippet) for uri, text in written.items() for snippet in blocks(text, "python")]
    assert len(snippets) >= len(SPACES)
    for uri, snippet in snippets:
        exec(compile(snippet, uri, "exec"), {"__name__": "page"})


def commands_of(text):
    """Arguments of each call of ``eproxy`` in the shell code of a page."""
    lines = re.split(r"\n|&&|(?<!\|)\|(?=\s)", "\n".join(blocks(text, "bash")))
    found = [shlex.split(line, comments=True)[1:] for line in lines if line.strip().startswith("eproxy ")]
    return [words[: words.index(">")] if ">" in words else words for words in found]


def check_commands(text):
    commands = commands_of(text)
    for words in commands:
        if words[0].startswith("--"):  # eproxy --version
            continue
        arguments, rest = main.parser().parse_known_args(words)
        assert arguments.command == words[0]
        assert all(text.startswith("--config.") for text in rest), (words, rest)
    return len(commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse(page):
    assert check_commands(page.read_text()) >= {"README": 3, "cli": 12, "tutorial": 7}.get(page.stem, 0)


def test_commands_of_written_pages_parse(written):
    assert sum(map(check_commands, written.values())) >= 3 * len(SPACES)


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
        if re.search(r"docs/(api|spaces|examples)/\w+\.md$", str(target)):
            continue  # written by code: the site's build looks at these
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_links_of_written_pages_lead_somewhere(written):
    for uri, text in written.items():
        for target in links.linked(text, f"docs/{uri}"):  # raises where there is no file and no written page
            below = target.removeprefix("docs/")
            assert (ROOT / target).exists() or below in written, (uri, target)


def test_every_space_has_a_page_with_a_drawing_and_its_section(written):
    for name in SPACES:
        text = written[f"spaces/{name}.md"]
        for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
            ET.fromstring(drawing)
        assert "<svg" in text
        assert "../spaces.md#" in text, f"no section of docs/spaces.md names `{name}` in its first lines"
        assert all(f"**{notation.name}**" in text for notation in spaces.get(name).notations())


def test_every_public_name_has_an_entry(written):
    for name in ep.__all__:
        assert f'"ep.{name}"' in written["api/index.md"] or f"api/{name}.md" in written or name.startswith("__")


@pytest.mark.slow  # quick: test_commands_parse; tests/cli runs each command
def test_tutorial_prints_what_it_shows(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # programs as a user has them, so equal up to rounding
    shown = pages.run(TUTORIAL.read_text(), tmp_path, environment)
    assert len(shown) >= 5
    for match, printed in shown:
        assert not pages.disagreements(printed, match[2])


@pytest.mark.slow  # quick: test_commands_parse; tests/cli runs each command
def test_commands_of_the_search_tutorial_run(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    pages.run((ROOT / "docs" / "tutorial-search.md").read_text(), tmp_path, environment)
    asked, told = (tmp_path / "two.csv").read_text().splitlines(), (tmp_path / "next.csv").read_text().splitlines()
    assert len(asked) == 3
    assert len(told) == 2
    assert not {line.split(",")[0] for line in asked[1:]} & {line.split(",")[0] for line in told[1:]}


@pytest.mark.slow  # quick: the tests of links above
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs MkDocs: pip install '.[docs]', or make docs")
    pytest.importorskip("material", reason="the site needs MkDocs Material: pip install '.[docs]', or make docs")
    pytest.importorskip("mkdocstrings", reason="the site needs mkdocstrings: pip install '.[docs]', or make docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    made = sorted(tmp_path.rglob("*.html"))
    assert len(made) > 60
    for page in made:  # from disk: nothing is loaded from a network, and every page and file that is linked is there
        text = page.read_text()
        assert not re.search(r"""(?:src|<link[^>]*href)=["']https?://""", text), page
        for link in re.findall(r"""(?:href|src)=["'](?!https?:|mailto:|data:|#)([^"'#?]+)""", text):
            assert page.name == "404.html" or (page.parent / link).exists(), (page, link)


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
