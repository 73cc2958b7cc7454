"""This module maps files of the repository to pages of the site, and rewrites the links of a page to match.

Pages in docs/ link to files outside of it, such as the pages of benchmarks/results. GitHub shows those as they lie. The
site gets a copy of each file that a page links to, under source/.
"""

import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
_FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def site_uri(path: str) -> str:
    """Return where the site has a file of the repository, as MkDocs names sources.

    Args:
      path: relative to the repository, with slashes.
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if re.fullmatch(r"examples/\w+\.py", path):
        return path.removesuffix(".py") + ".md"
    if path == "examples":
        return "examples/index.md"
    if (ROOT / path).is_dir():
        return f"source/{path}/index.md"
    return f"source/{path}" + (".md" if path.endswith((".py", ".txt", ".toml")) else "")


def linked(text: str, path: str) -> list[str]:
    """Return the files of the repository that a page links to, in the order of the page.

    Args:
      text: Markdown of the page.
      path: of the page, relative to the repository.

    Raises:
      ValueError: a link leads to no file.
    """
    found = []
    for piece in _outside_fences(text):
        for link, _ in _LINK.findall(piece):
            found.append(_target(link, path))
    return list(dict.fromkeys(found))


def rewritten(text: str, path: str) -> str:
    """Return the page with its links turned into those of the site.

    Args:
      text: Markdown of the page.
      path: of the page, relative to the repository.
    """
    here = PurePosixPath(site_uri(path)).parent

    def replaced(match: re.Match[str]) -> str:
        return _relative(site_uri(_target(match[1], path)), here) + match[2]

    pieces = _FENCE.split(text)
    return "".join(piece if piece.startswith("```") else _LINK.sub(replaced, _table_pipes(piece)) for piece in pieces)


def _outside_fences(text: str) -> list[str]:
    return [piece for piece in _FENCE.split(text) if not piece.startswith("```")]


def _target(link: str, path: str) -> str:
    target = (ROOT / path).parent.joinpath(link).resolve()
    generated = re.fullmatch(r"(spaces|api|examples)/\w+\.md", str(target.relative_to(ROOT / "docs"))) if (
        target.is_relative_to(ROOT / "docs")
    ) else None  # fmt: skip
    if not target.exists() and not generated:
        raise ValueError(f"{path}: the link {link!r} leads to no file")
    return target.relative_to(ROOT).as_posix()


def _relative(uri: str, folder: PurePosixPath) -> str:
    target, here = PurePosixPath(uri).parts, folder.parts
    common = 0
    while common < min(len(target) - 1, len(here)) and target[common] == here[common]:
        common += 1
    return "/".join([".."] * (len(here) - common) + list(target[common:]))


def _table_pipes(text: str) -> str:
    r"""Take the backslash of ``\|`` out of code in tables: GitHub needs it, Python-Markdown would print it."""

    def row(match: re.Match[str]) -> str:
        return re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), match[0])

    return re.sub(r"^\|.*$", row, text, flags=re.MULTILINE)
