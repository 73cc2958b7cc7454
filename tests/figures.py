"""Measured figures in Markdown pages, and where the repository's results hold them.

A figure is a decimal, a percentage, or a number with a unit of time, memory or speed, outside of code. It must follow
from a result that the page points to: in the row of a table, else in the section, by a link to a page of
benchmarks/results, by the name of such a file in code, by the script that wrote it, or by a link to another section of
the documentation that points there. Beside what a file holds, the mean over its tasks counts, for each method.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
UNITS = r"%|s|ms|min|minutes|seconds|h|hours|MB|MiB|GB|GiB|GFLOP|TFLOP/s|times|x"
# Not a digit, a letter, or a sign that makes a name or a version of it: 1.1e18, 2210.09459, jax 0.10.2, 16-120.
FIGURE = re.compile(
    rf"(?<![\w.,:~-])(?P<sign>[-+]?)(?P<number>{NUMBER})(?P<space>[  ]?)(?P<unit>(?:{UNITS})(?![\w-]))?(?![\w]|\.\d|[-:]\d)"
)
PAIR = re.compile(rf"(?P<mean>[-+]?{NUMBER}) (?:±|\+-) (?P<spread>{NUMBER})")
# Words of a table's row that say of which task it is, and how files of results write them.
TASKS = {
    **{name: (name,) for name in ("classscene", "classobject", "autoencoder", "jigsaw", "normal", "roomlayout")},
    **{name: (name,) for name in ("segmentsemantic", "seg4x", "3ddet", "cls501000", "cls101000", "cls10c", "cls50100")},
    **{name: (f"{name}in",) for name in ("darts", "enas", "pnas", "nasnet", "amoeba", "resnexta", "resnextb")},
    "videop": ("videop",),
    "cifar100": ("cifar100",),
    "cifar10": ("cifar10valid", "cifar10", "nasbench12500"),
    "imagenet16120": ("imagenet16120", "tinyimagenet"),
    "imagenet": ("nasbench1imgnet",),
}
# A label of tables in sections that speak of "Mean Spearman", with the number of labels where they say it.
MEAN = "mean over tasks:"
# Words of a table's row that say of which benchmark it is, and what names of files hold then.
BENCHMARKS = {
    "nasbench101": "nasbench101",
    "nasbench201": "nasbench201",
    "nasbenchmr": "nasbench_mr",
    "transnasbench101micro": "transnas_micro",
    "transnasbench101macro": "transnas_macro",
    "transnasmicro": "transnas_micro",
    "transnasmacro": "transnas_macro",
    "nds": "nds",
    "ndsonimagenet": "nds",
}
SCALES = {"min": 60, "minutes": 60, "h": 3600, "hours": 3600}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number as a page shows it.

    Attributes:
      page: name of the page, of the root of the repository on.
      section: its heading.
      context: the row or the paragraph.
      text: the number with its sign and unit.
      value: the number.
      digits: behind the point.
      unit: its unit, or "".
      spread: of a mean ± spread, else None.
      files: what the row or the section points to.
      labels: the words of a table's row, as in files of results.
    """

    page: str
    section: str
    context: str
    text: str
    value: float
    digits: int
    unit: str
    spread: str | None
    files: tuple[Path, ...]
    labels: tuple[str, ...] = ()


def plain(text):
    """Lower-case letters and digits of a text."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


@functools.cache
def pages_of_scripts():
    """Files of results by the script that wrote them."""
    found = {}
    for path in sorted(RESULTS.glob("*.md")):
        for script in re.findall(r"python benchmarks/(\w+\.py)", path.read_text()[:1000]):
            found.setdefault(script, []).append(path)
    return found


def references(text, page):
    """Files of results that a text points to: links, names and patterns in code, scripts."""
    found = []
    for link, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)]*)\)", text):
        path = (page.parent / link).resolve() if link else page
        if path.parent == RESULTS:
            found.append(path.with_suffix(".md"))
        elif anchor and path.suffix == ".md" and path.exists():
            found += direct_references(section(path, anchor), path)
    return tuple(dict.fromkeys([*found, *direct_references(text, page)]))


def section(page, anchor):
    """The text below a heading of a page, to the next one of its level or above."""
    for match in re.finditer(r"^(#+) (.*)$", page.read_text(), re.MULTILINE):
        if re.sub(r"[^\w\- ]", "", match[2].lower()).replace(" ", "-") == anchor:
            rest = page.read_text()[match.end() :]
            return re.split(rf"^#{{1,{len(match[1])}}} ", rest, flags=re.MULTILINE)[0]
    return ""


def direct_references(text, page):
    """Files of results that a text itself points to."""
    found = []
    for link in re.findall(r"\]\(([^)#\s]+)\)", text):
        path = (page.parent / link).resolve()
        if path.parent == RESULTS:
            found.append(path.with_suffix(".md"))
    for name in re.findall(r"benchmarks/results/([\w*]+)(?:\.md|\.jsonl)`", text):
        found += RESULTS.glob(f"{name}.md")
    for script in re.findall(r"(\w+\.py)", text):
        found += pages_of_scripts().get(script, [])
    return tuple(dict.fromkeys(path for path in found if path.exists()))


def blocks(text):
    """Yield (heading, block): paragraphs and tables without fenced code; an indented block is code."""
    text = re.sub(r"^(```|~~~).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"arXiv \d{4}\.\d{5}|https?://[^\s)]+|\b(Python|jax|flax) \d+\.\d+[.\d]*\b", "", text)
    heading = ""
    for block in re.split(r"\n\s*\n", text):
        for line in block.splitlines():
            if line.startswith("#"):
                heading = line.lstrip("# ")
        body = "\n".join(line for line in block.splitlines() if not line.startswith("#"))
        if body.strip():
            yield heading, body


def is_code(block):
    return all(line.startswith("    ") for line in block.splitlines())


def figures_in(text, **where):
    """Yield the figures of a text without code."""
    text = re.sub(r"`[^`]*`", " ` ", re.sub(r"\]\([^)]*\)", "] ", text))
    text = text.replace("**", "")
    taken = []
    for match in PAIR.finditer(text):
        taken.append(match.span())
        mean = match["mean"]
        yield _figure(mean, mean, "", match["spread"], where)
    for match in FIGURE.finditer(text):
        if any(start <= match.start("number") < end for start, end in taken):
            continue
        unit = match["unit"] or ""
        if "." in match["number"] or unit:
            shown = match["sign"] + match["number"]
            yield _figure(shown, match[0].strip(), unit, None, where)


def _figure(number, text, unit, spread, where):
    digits = len(number.partition(".")[2])
    return Figure(text=text, value=float(number.replace(",", "")), digits=digits, unit=unit, spread=spread, **where)


def figures(page):
    """Yield the figures of a page."""
    name, parts = str(page.relative_to(ROOT)), list(blocks(page.read_text()))
    sections = {}
    for heading, block in parts:
        sections.setdefault(heading, []).append(block)
    for heading, block in parts:
        if is_code(block):
            continue
        whole = references("\n".join(sections[heading]), page)
        where = {"page": name, "section": heading}
        lines = block.splitlines()
        if not lines[0].lstrip().startswith("|"):
            text = " ".join(lines)
            yield from figures_in(text, context=text, files=references(text, page) or whole, **where)
            continue
        said = re.search(r"(?:^|\s)Mean\s+Spearman([^:\f]*)", "\f".join(sections[heading]))
        count = said and re.search(r"(\d+)\s+labels", said[1])
        mean = () if said is None else (f"{MEAN} {count[1]} labels" if count else MEAN,)
        header = [cell.strip() for cell in lines[0].strip().strip("|").split("|")]
        for line in lines[2:]:
            cells = [cell.strip() for cell in line.strip().strip("|").replace("\\|", "/").split("|")]
            own = references(line, page) or whole
            labels = tuple(
                plain(re.sub(r"\]\(.*?\)", "", cell))
                for cell in cells
                if not any(figures_in(cell, context="", files=(), **where))
            )
            for head, cell in zip(header, cells, strict=False):
                unit = next(
                    (u for u in ("minutes", "%", "s") if re.search(rf"(^|[ ,]){re.escape(u)}( |,|$)", head)), ""
                )
                if unit and re.fullmatch(rf"\**{NUMBER}\**", cell):
                    cell = f"{cell.strip('*')} {unit}"
                yield from figures_in(cell, context=line, files=own, labels=(*mean, *labels), **where)


# --- results -------------------------------------------------------------------------------------------------


@functools.cache
def rows_of(path):
    """Rows of a page and of its JSON lines, the commands left out, and the means over tasks: (plain words, text)."""
    lines, rows = path.read_text().splitlines(), path.with_suffix(".jsonl")
    if rows.exists():
        for line in rows.read_text().splitlines():
            lines.append(" | ".join(f"{k} {v}" for k, v in json.loads(line).items() if k != "command"))
        lines += means(rows)
    return [(plain(line), line) for line in lines]


def means(path):
    """Lines with the mean over the tasks of a file, for each method and number of labels."""
    values = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "task" in row and "method" in row:
            number = row.get("Spearman", row.get("mean", row.get("spearman")))
            key = row["method"], row.get("labels"), row.get("labels_chosen"), "Spearman" in row
            values.setdefault(key, []).append(float(str(number).split(" ")[0]))
    return [
        f"{MEAN} {labels} labels | {method} | {sum(own) / len(own):.4f}" for (method, labels, *_), own in values.items()
    ]


@functools.cache
def numbers_of(files, labels):
    """Numbers [N] and pairs [M, 2] of the rows of some files that hold what some labels say."""
    for label in labels:
        files = [path for path in files if BENCHMARKS.get(label, "") in path.stem] or files
    rows = [row for path in files for row in rows_of(path)]
    for label in labels:
        if label.startswith(MEAN):
            said = (plain(label), plain(f"{MEAN} None labels"))  # or the file has one number of labels, and no field
            rows = [row for row in rows if row[0].startswith(said)] or rows
        rows = [row for row in rows if any(one in row[0] for one in TASKS.get(label, ("",)))] or rows
    text = "\n".join(line for _, line in rows)
    pairs = [(float(m["mean"]), float(m["spread"])) for m in PAIR.finditer(text)]
    numbers = re.findall(rf"(?<![\w.])[-+]?{NUMBER}(?:e-?\d+)?", text)
    return np.asarray([float(n.replace(",", "")) for n in numbers]), np.asarray(pairs).reshape(-1, 2)


def matches(shown, values):
    """Say which numbers round to a shown one."""
    digits = len(shown.partition(".")[2])
    return np.abs(np.asarray(values) - float(shown.replace(",", ""))) <= 0.5 * 10.0**-digits + 1e-9


def is_in_results(figure):
    """Whether a figure follows from the files that it points to."""
    numbers, pairs = numbers_of(figure.files, figure.labels)
    shown = re.match(rf"[-+]?{NUMBER}", figure.text)[0]
    if figure.spread is not None:
        return bool(np.any(matches(shown, pairs[:, 0]) & matches(figure.spread, pairs[:, 1])))
    scales = {1.0, 1 / SCALES.get(figure.unit, 1), 100.0 if figure.unit == "%" else 1.0}
    return any(bool(np.any(matches(shown, numbers * scale))) for scale in scales)
