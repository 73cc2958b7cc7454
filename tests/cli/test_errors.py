"""Whatever goes wrong is told in one line: settings and configurations of any kind, broken surroundings, bugs."""

import ast
import io
import json
import os
import re
import subprocess
import sys
import warnings

import pytest
import tiny
from helpers import ROOT

from eproxy_jax import errors, progress
from eproxy_jax.cli import common, main
from eproxy_jax.dps.fitted import FittedProxy
from eproxy_jax.execution import configuration
from eproxy_jax.types import ProxySettings

CONFIG = ["--config", f"{ROOT}/tests/tiny_config.py"]
DEEP = "[" * 100_000 + "]" * 100_000
BIG = "9" * 400


def told(capsys, *command, status=2):
    """The one line on stderr of a command that fails."""
    assert main.main([str(part) for part in command]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) < 1300
    return line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"lr": null}', "settings.lr: expected a positive number, got None"),
        (f'{{"lr": {BIG}}}', "settings.lr: expected a positive number, got 9999"),
        (f'{{"num_steps": {BIG}}}', "settings.num_steps: expected an integer from 1 to 1000000, got 9999"),
        (f'{{"num_steps": {"9" * 5000}}}', "not JSON (Exceeds the limit"),
        ('{"branches": null}', "settings.branches: expected a list of 1 to 3 dicts, got None"),
        ('{"branches": [{"features": [[]]}]}', "features: expected names such as 'net', got []"),
        (f'{{"branches": [{{"features": "{"x" * 10**6}"}}]}}', "xxx..."),
        ('{"branches": [{"level": true}]}', "level: expected a positive number, got True"),
        (f'{{"branches": [{{"transform_channels": {BIG}}}]}}', "an integer from 1 to 65536"),
        (f'{{"lr": {DEEP}}}', "not JSON (maximum recursion depth"),
        (f'{{"{"l" * 10**6}": 1}}', "settings: unknown field 'lll"),
        ('{"lr": 1, "lr": 2}', "'lr' stands twice in one object"),
        ('{"members": [{"settings": null}]}', "members[0]: settings: expected a dict, got None"),
        ('{"members": [{"settings": {}, "macs_weight": NaN}]}', "macs_weight: expected a number in [-1, 1] or null"),
        (f'{{"members": [{{"settings": {{}}, "macs_weight": {BIG}}}]}}', "macs_weight: expected a number in [-1, 1]"),
        ('{"members": {}}', "one field, 'members', a list"),
        ("null", "expected a JSON object of settings, got None"),
        ("\ud800", "not UTF-8 text"),
        ("", "not JSON"),
    ],
)
def test_settings_of_any_kind(tmp_path, capsys, text, message):
    path = tmp_path / "settings.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    line = told(capsys, "score", *CONFIG, "--settings", path, "--workdir", tmp_path)
    assert f"{path}: " in line
    assert message in line


def test_settings_of_any_kind_from_python():
    for values in (None, [], "x", 3, {"lr": 10**400}, {"branches": "x"}, {"branches": [None]}, {1: 2}):
        for reader in (ProxySettings.from_dict, FittedProxy.from_dict):
            with pytest.raises(ValueError, match="expected|unknown"):
                reader(values)


GOOD = "from eproxy_jax.cli import config as c\ndef get_config(variant='x'):\n    config = c.default_config()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0\n", "ZeroDivisionError (line 1): division by zero"),
        ("def get_config():\n    return {}['x' * 10**6]\n", "KeyError (line 2): 'xxx"),
        ("import sys\nsys.exit(3)\n", "SystemExit (line 2): 3"),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError (line 1): No module named 'nowhere_to_be_found'"),
        ("def get_config(:\n", "SyntaxError: invalid syntax"),
        (b"\x00\x01\xff\xfe", "configuration {}: "),
        ("x = " + "(" * 10_000 + ")" * 10_000, "configuration {}: "),
        ("def get_config():\n    pass\n", "get_config returns None: expected the ConfigDict"),
        ("def get_config():\n    return {'space': 'nasbench201'}\n", "get_config returns {{'space': 'nasbench201'}}"),
        ("get_config = 3\n", "TypeError: 'int' object is not callable"),
        ("raise ValueError('a\\nb' * 10_000)\n", "ValueError (line 1): a ba b"),
        (GOOD + "    config.unlock(); del config['sizes']; return config", "config: field 'sizes' is missing"),
        (
            GOOD + "    config.unlock(); del config['sizes']; config.sizes = 3; return config",
            "config.sizes: expected fields by name, got 3",
        ),
        (
            GOOD + "    config.unlock(); del config['space']; config.space = (1,); return config",
            "config.space: expected a registry name",
        ),
        (
            GOOD + "    config.unlock(); del config['dps']; config.dps = 'x'; return config",
            "config.dps: expected fields by name",
        ),
        (
            GOOD + "    config.unlock(); del config.dps['genes']; config.dps.genes = 'x'; return config",
            "genes: expected choices by gene",
        ),
        (GOOD + "    config.dps.genes.level = ((1,),); return config", "genes.level: expected numbers or names"),
        (GOOD + f"    config.weight_seed = -{BIG}; return config", "config.weight_seed: expected an integer"),
        (GOOD + f"    config.images.num = {BIG}; return config", "config.images.num: expected an integer from 2"),
    ],
)
def test_configurations_of_any_kind(tmp_path, capsys, text, message):
    path = tmp_path / "own.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = told(capsys, "score", "--config", path, "--sample", 2, "--workdir", tmp_path)
    assert message.format(path) in line


def test_a_configuration_that_is_no_file(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero", "/dev/null"):
        assert f"{path}: " in told(capsys, "score", "--config", path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.=1", "no such field"),
        ("--config.settings.branches[99999999999]=1", "no such field"),
        ("--config.settings.lr.real=1", ""),
        ("--config.settings.__class__=1", ""),
        (f"--config.settings.lr={BIG}", "expected float such as 1.2, got '999"),
        (f"--config.settings.lr={'(' * 100_000}", "expected float such as 1.2, got '(((("),
        (f"--config.settings.{'x' * 10**6}=1", "xxx..."),
        (f"--config.dps.genes.lr=({DEEP[:5000]},)", "expected tuple"),
    ],
)
def test_overrides_of_any_kind(capsys, override, message):
    assert message in told(capsys, "score", *CONFIG, override)


def test_a_flag_is_one_line_too(capsys):
    for command in (["score", "--sample", "x" * 10**6], ["score", "--" + "y" * 10**6], [], ["scoer"]):
        with pytest.raises(SystemExit) as stop:
            main.main(command)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("eproxy: error: ")
        assert len(line) < 600


# --- figures ---


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"), "matplotlib is not installed; pip"),
        (ModuleNotFoundError("No module named 'kiwisolver'", name="kiwisolver"), "matplotlib is broken (No module"),
        (ImportError("numpy.core.multiarray\nfailed to import"), "ImportError: numpy.core.multiarray failed to import"),
        (AttributeError("module 'numpy' has no attribute 'Inf'"), "AttributeError: module 'numpy'"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left"),
    ],
)
def test_a_broken_matplotlib_fails_no_run(tmp_path, error, message):
    def plot():
        raise error

    line = common.draw(tmp_path / "x.png", plot)
    assert line.startswith("no figure: ")
    assert message in line
    assert "\n" not in line
    assert common.draw(tmp_path / "x.png", lambda: None) == f"figure:  {tmp_path / 'x.png'}"


def test_a_run_ends_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert main.main(["score", *CONFIG, "--sample", "3", "--workdir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("no figure: ")


# --- surroundings ---


def test_without_a_home_folder(monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    with pytest.raises(OSError, match="no home folder"):
        configuration.default_compile_cache()
    arguments = main.parser().parse_args(["plan", "--space", "nasbench201", "--devices", "2"])
    monkeypatch.setattr("warnings.showwarning", None)  # what the command sets is taken back
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main._configure_jax(arguments)
    assert "warning: compiled programs are not kept: this user has no home folder" in capsys.readouterr().err


def test_nobody_reads_the_progress(monkeypatch):
    class Broken:
        closed = False

        def isatty(self):
            return False

        def write(self, text):
            raise BrokenPipeError

    for stream in (Broken(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        progress.announce("nobody reads this")
        progress.Progress(3).update(3)


PROGRAM = [sys.executable, "-m", "eproxy_jax"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a child process, as most users have it."""
    without = ("TF_CPP_MIN_LOG_LEVEL", "PYTHONUNBUFFERED")
    values = {name: value for name, value in os.environ.items() if name not in without}
    return {**values, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path_factory.mktemp("home"))}


def test_streams_that_are_closed_or_full(tmp_path, environment):
    """One shell runs ``--help`` with each; the parser loads next to nothing."""
    run = f"{sys.executable} -m eproxy_jax plan --help"
    script = f"""
{run} | head -n 1 > /dev/null; echo ${{PIPESTATUS[0]}}
{run} > /dev/full; echo $?
{run} > /dev/null 2>&-; echo $?
{run} >&-; echo $?
{run.replace("--help", "--nonsense")} 2>&-; echo $?
"""
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    statuses = [int(line) for line in done.stdout.splitlines()]
    assert statuses[0] in (0, 141)  # head may read all of it first
    assert statuses[1:] == [2, 0, 0, 2]
    assert done.stderr.splitlines() == ["eproxy: error: standard output: [Errno 28] No space left on device"]


def test_a_process_prints_what_is_ours_only(tmp_path, environment):
    """Neither XLA nor absl speaks to the user, and closed streams leave files alone."""
    out = tmp_path / "scores.jsonl"
    command = [*PROGRAM, "score", *CONFIG, "--sample", "3", "--no-plot", "--workdir", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stderr.splitlines():
        assert line.startswith("eproxy: ") or "archs/s" in line, line
    whole = out.read_bytes()
    # Closed: what is opened next would be standard error, and libraries would print into it.
    code = f"import os, sys; os.close(1); os.close(2); os.execv(sys.executable, {command!r})"
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path).returncode == 0
    assert out.read_bytes() == whole


def test_a_bug_is_one_line_and_its_traceback_can_be_had(capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("a\nbug")

    monkeypatch.setattr(common, "architectures", broken)
    line = told(capsys, "plan", *CONFIG, status=main.EXIT_BUG)
    assert line.startswith("eproxy: internal error: RuntimeError: a bug: this is a bug of eproxy_jax, please report")
    monkeypatch.setenv("EPROXY_TRACEBACK", "1")
    assert main.main(["plan", *CONFIG]) == main.EXIT_BUG
    assert 'raise RuntimeError("a\\nbug")' in capsys.readouterr().err


# --- what is quoted ---


# In messages: constants, names of spaces and their examples.
OWN = re.compile(r"_?[A-Z_]+|.*\.(name|example)|missing|name|_text\(code\)\[:20\]")


@pytest.mark.parametrize("path", sorted((ROOT / "eproxy_jax").rglob("*.py")), ids=lambda path: path.stem)
def test_what_users_wrote_is_quoted_cut(path):
    """``{value!r}`` in a message may be a megabyte: ``errors.quoted(value)`` is 80 characters."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.FormattedValue) and part.conversion == ord("r"):
                    text = ast.unparse(part.value)
                    assert OWN.fullmatch(text), f"{path}:{part.lineno}: quote {text} with errors.quoted()"


def test_quoted_and_one_line():
    assert errors.quoted(10**5000) == "<int>"
    assert len(errors.quoted(["x" * 1000])) == 80
    assert errors.one_line("a\n b\t" + "c" * 10**6).endswith("ccc...")
    assert errors.did_you_mean("momentun" * 10**5, ["momentum"]) == ""
    assert json.loads(json.dumps(tiny.Tiny().parse("3-0-2"))) == [3, 0, 2]


# --- progress ---


def test_short_work_shows_no_progress_and_long_work_does(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])

    def lines(seconds, **options):
        stream = io.StringIO()
        meter, start = progress.Progress(4, stream=stream, **options), now[0]
        for done in range(1, 5):
            now[0] = start + seconds * done / 4
            meter.update(done)
        return stream.getvalue().splitlines()

    assert lines(1, after=2) == []
    assert lines(8, after=3) == [
        "2/4 archs (50 %), 0.50 archs/s, ETA 0:04",
        "4/4 archs (100 %), 0.50 archs/s, ETA 0:00",
    ]
    assert len(lines(1)) == 2


def test_plan_shows_progress(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(progress.Progress, "update", lambda self, done, *_: seen.append((done, self.total)))
    assert main.main(["plan", *CONFIG, "--all"]) == 0
    assert seen == [(done, 105) for done in range(1, 106)]
    assert "architectures              125" in capsys.readouterr().out
