"""Blocks of the documentation's pages: run in order, and compared with the outputs that the page shows.

python tests/pages.py docs/tutorial.md      # in an empty folder: runs a page, and writes its outputs into it
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?|\b\d+(?= s\b)")


def blocks(text, *languages):
    """(language, content) of the code blocks of a page, all or those of some languages."""
    return [(language, content) for language, content in BLOCK.findall(text) if not languages or language in languages]


def disagreements(printed, shown):
    """What differs between two outputs, as text; empty where only rounding, seconds and near ties do.

    Decimals may differ a little, for rounding depends on the processor. So the order of lines may, too.
    """
    words = [
        sorted(_DECIMAL.sub("#", " ".join(line.split())) for line in text.splitlines()) for text in (printed, shown)
    ]
    if words[0] != words[1]:
        return "\n".join(sorted(set(words[0]) ^ set(words[1])))
    decimals = [sorted(float(number) for number in re.findall(r"-?\d+\.\d+", text)) for text in (printed, shown)]
    far = [(a, b) for a, b in zip(*decimals, strict=True) if abs(a - b) > 0.05 + 0.05 * abs(b)]
    return f"numbers differ, printed and shown: {far}" if far else ""


def run(text, folder, environment=None):
    """(position of the text block, what the block before it printed) of a page that is run from its first block on."""
    namespace, printed, found = {"__name__": "page"}, "", []
    for match in BLOCK.finditer(text):
        language, content = match.groups()
        if language == "bash":
            done = subprocess.run(
                ["bash", "-euc", content], cwd=folder, env=environment or os.environ, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{content}\n{done.stderr}"
            printed = done.stdout
        elif language == "python":
            stream = io.StringIO()
            with contextlib.chdir(folder), contextlib.redirect_stdout(stream):
                exec(compile(content, "page", "exec"), namespace)
            printed = stream.getvalue()
        elif language == "text":
            found.append((match, printed))
    return found


def main(path):
    """Run a page here, and write what its blocks print into it."""
    page = Path(path)
    text, last, pieces = page.read_text(), 0, []
    for match, printed in run(text, Path.cwd()):
        pieces += [text[last : match.start(2)], printed]
        last = match.end(2)
    page.write_text("".join([*pieces, text[last:]]))


if __name__ == "__main__":
    main(sys.argv[1])
