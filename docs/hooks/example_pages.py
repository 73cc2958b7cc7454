"""This module writes a page for each example: its text, and what it printed when ``make examples`` last ran it.

``make examples`` runs this file: it runs all examples, and writes examples/outputs/.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "examples" / "outputs"


def examples() -> list[Path]:
    """Return the example scripts, by name."""
    return sorted((ROOT / "examples").glob("*.py"))


def page(path: Path) -> str:
    """Return the Markdown of an example's page."""
    source = path.read_text()
    title, _, about = (ast.get_docstring(ast.parse(source)) or "").partition("\n")
    stored = OUTPUTS / f"{path.stem}.txt"
    output = f"\n\nIt prints:\n\n```text\n{stored.read_text()}```" if stored.exists() else ""
    command = f"python examples/{path.name}"
    prose = [block for block in about.strip().split("\n\n") if not block.lstrip().startswith("python ")]
    return "\n\n".join(
        [
            f"# {path.stem}.py",
            title,
            *prose,
            f"```bash\n{command}\n```{output}",
            f"```py\n{source}```",
        ]
    )


def index() -> str:
    """Return the Markdown of the page that lists the examples."""
    lines = ["# Examples", "", "Each runs in seconds at tiny sizes, most of them compilation.", ""]
    for path in examples():
        title = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        lines.append(f"- [{path.name}]({path.stem}.md): {title}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every example as a user would, and keep what it prints."""
    OUTPUTS.mkdir(exist_ok=True)
    for path in examples():
        run = subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ
        )
        if run.returncode:
            raise SystemExit(f"{path}: exit status {run.returncode}:\n{run.stderr}")
        (OUTPUTS / f"{path.stem}.txt").write_text(run.stdout)
        print(f"examples/outputs/{path.stem}.txt")


if __name__ == "__main__":
    main()
