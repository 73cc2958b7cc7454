"""Progress on a terminal, in a file, and where several processes share a terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from eproxy_jax import progress

ROOT = Path(__file__).resolve().parents[1]

WORK = """
import logging, sys, warnings
warnings.simplefilter("always")
from eproxy_jax import progress
progress.time.perf_counter = iter(range(10**6)).__next__  # a second passes between any two looks
warnings.showwarning = lambda message, *_, **__: progress.announce(f"warning: {message}")
"""
SCORE = (
    WORK
    + """
for work in range(2):
    meter = progress.Progress(40, 10)
    for done in range(11, 41):
        if done == 20:
            progress.announce("compiled program 1 in 2.3 s")
        if done == 25:
            logging.warning("a library speaks")
            warnings.warn("a warning")
        if done == 30:
            print("somebody prints", file=sys.stderr)
        meter.update(done, 2, best=-0.3125)
print("the table")
"""
)


class Screen:
    """What a terminal shows: rows of text, as carriage returns, line feeds and erasing leave them."""

    def __init__(self):
        self.rows, self.column = [""], 0

    def feed(self, text):
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.|\n", text, re.DOTALL):
            if part == "\x1b[2K":
                self.rows[-1] = ""
            elif part.startswith("\x1b"):
                raise AssertionError(f"unexpected control sequence {part!r}")
            elif part == "\r":
                self.column = 0
            elif part == "\n":
                self.rows.append("")
            else:
                row = self.rows[-1].ljust(self.column)
                self.rows[-1] = row[: self.column] + part + row[self.column + 1 :]
                self.column += 1
        return self


def on_terminal(code, columns=90, environment=None, stdout=None):
    """Run Python code with a terminal as stderr (and stdout); returns what it wrote there and its status."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    values = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        cwd=ROOT,
        env={**values, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **(environment or {})},
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the last writer is gone
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    return b"".join(parts).decode(), child.wait()


def test_a_terminal_shows_one_bar_and_no_torn_lines():
    text, status = on_terminal(SCORE)
    assert status == 0, text
    screen = Screen().feed(text)
    bar = re.compile(r"40/40 archs ━+ 100 %, \d+\.\d\d/s, ETA 0:00, 2 diverged, best -0\.3125")
    lines = ["eproxy: compiled program 1 in 2.3 s", "WARNING:root:a library speaks", "eproxy: warning: a warning"]
    rows = [row.rstrip() for row in screen.rows]
    for start in (0, 5):  # two works, one after the other: one bar each
        assert rows[start : start + 4] == [*lines, "somebody prints"]
        assert bar.fullmatch(rows[start + 4]), rows
    assert rows[10:] == ["the table", ""]
    assert all(len(row) <= 90 for row in screen.rows)
    assert "10/40 archs" in text  # the bar stands from the beginning, while the first program compiles
    assert text.count("archs") > 50  # and lives


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal_cuts_the_bar(columns):
    text, status = on_terminal(SCORE, columns)
    assert status == 0
    screen = Screen().feed(text)
    bars = [row for row in screen.rows if "%" in row]
    assert len(bars) == 2
    assert all(len(row) <= columns for row in bars)


def test_a_bar_that_ends_early_leaves_whole_lines():
    code = WORK + "meter = progress.Progress(9)\nmeter.update(4)\n"
    for end in ("progress.close()\nprint('the table')", "with meter: pass\nprint('the table')", "1 / 0", "sys.exit()"):
        text, _ = on_terminal(code + end)
        rows = Screen().feed(text).rows
        assert sum("4/9 archs" in row for row in rows) == 1
        assert rows[-1] == ""
        assert "table" not in end or rows[-2] == "the table"


def test_the_bar_goes_to_stderr_alone(tmp_path):
    with (tmp_path / "out").open("w") as out:
        text, _ = on_terminal(SCORE, stdout=out)
    assert "archs" in text
    assert (tmp_path / "out").read_text() == "the table\n"


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {}], ids=["no cursor", "several processes"])
def test_plain_lines_on_a_terminal(environment):
    several = "" if environment else "\nprogress.set_process(1, 2)\n"
    text, status = on_terminal(WORK + several + SCORE, environment=environment)
    assert status == 0
    assert "\x1b" not in text
    lines = text.replace("\r\n", "\n").splitlines()
    name = "" if environment else "process 1 of 2: "
    last = re.compile(rf"{name}40/40 archs \(100 %\), \d\.\d\d archs/s, ETA 0:00, 2 diverged, best -0\.3125")
    assert sum(last.fullmatch(line) is not None for line in lines) == 2
    assert "eproxy: compiled program 1 in 2.3 s" in lines


def test_two_processes_of_a_run_do_not_overwrite_one_another():
    code = "import subprocess, sys\nchild = '''" + WORK + "progress.set_process(int(sys.argv[1]), 2)" + SCORE + "'''\n"
    code += "both = [subprocess.Popen([sys.executable, '-c', child, str(i)]) for i in range(2)]\n"
    code += "sys.exit(max(one.wait() for one in both))"
    text, status = on_terminal(code)
    assert status == 0, text
    assert "\x1b" not in text
    for index in range(2):
        lines = [line for line in text.splitlines() if line.startswith(f"process {index} of 2: ")]
        assert len(lines) > 4
        assert all(line.count("archs/s, ETA") == 1 for line in lines)


def test_pipes_get_plain_lines():
    done = subprocess.run(
        [sys.executable, "-c", SCORE], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not re.search(r"[^\n -~]", done.stderr)
    shown = [line for line in done.stderr.splitlines() if line.startswith(("1", "2", "3", "4"))]
    assert 4 <= len(shown) <= 12
    assert done.stdout == "the table\n"


def test_a_terminal_that_goes_away_ends_nothing():
    code = WORK + "import os\nmeter = progress.Progress(9)\nmeter.update(1)\nos.close(2)\n"
    code += "for done in range(2, 10):\n    meter.update(done)\nprogress.announce('nobody')\nprint('done')\n"
    text, status = on_terminal(code)
    assert status == 0
    assert text.endswith("done\r\n")


class Closed(io.StringIO):
    def isatty(self):
        return True


def test_a_closed_terminal_gets_nothing():
    stream = Closed()
    meter = progress.Progress(3, stream=stream)
    stream.close()
    meter.update(2)
    meter.update(3)
    assert progress._one.bar is None
    assert list(progress.track(iter("abc"), "letters", total=3)) == ["a", "b", "c"]


def test_track_shows_long_work_only(monkeypatch):
    progress.set_process(0, 1)  # another test may have been one of several processes
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", stream)
    for seconds in (1.0, 40.0):
        for _ in progress.track(range(200), "lines read"):
            now[0] += seconds / 200
    assert stream.getvalue().splitlines() == [
        "100/200 lines read (50 %), 5.00 lines read/s, ETA 0:20",
        "200/200 lines read (100 %), 5.00 lines read/s, ETA 0:00",
    ]


@pytest.mark.slow
def test_a_command_on_a_terminal(tmp_path):
    from tiny_config import __file__ as config

    arguments = ["score", "--config", config, "--sample", "60", "--workdir", str(tmp_path), "--no-plot"]
    code = f"import sys; sys.argv[1:] = {arguments!r}\nfrom eproxy_jax.cli.main import main\nsys.exit(main())"
    text, status = on_terminal(code, environment={"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"})
    assert status == 0, text
    rows = [row.rstrip() for row in Screen().feed(text).rows]
    (bar,) = [place for place, row in enumerate(rows) if "archs" in row and "ETA" in row]
    assert re.fullmatch(r"60/60 archs ━+ 100 %, \d+\.\d\d/s, ETA 0:00, 0 diverged, best -0\.\d+", rows[bar])
    assert all(row.startswith("eproxy: ") for row in rows[:bar])
    assert rows[bar + 1].startswith("rank ")
