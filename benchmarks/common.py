"""What every benchmark page carries: where and how its figures were made, and its table."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax


def commit() -> str:
    """The checked-out commit, with a mark when the tree differs from it."""
    root = Path(__file__).parent
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # not a checkout: an unpacked archive
        return "unknown"
    return text.strip()


def header(title: str, command: str) -> str:
    """Markdown head of a results page."""
    return (
        f"# {title}\n\n    {command}\n\n"
        f"jax {jax.__version__}, {jax.default_backend()} ({os.cpu_count()} cores, {platform.machine()}), float32, "
        f"commit {commit()}\n\n"
    )


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"
