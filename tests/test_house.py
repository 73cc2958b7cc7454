"""The house: rooms import downward only, and what is light stays light."""

import ast
import os
import subprocess
import sys

import pytest
from helpers import ROOT

PACKAGE = ROOT / "eproxy_jax"
# From the ground up. A room or module imports from its own level's own room and from lower levels, nothing else.
LEVELS = (
    ("_version",),
    ("errors",),
    ("files",),
    ("jsonlines", "progress", "sampling", "sources"),
    ("nn",),
    ("types",),
    ("spaces",),
    ("exports",),
    ("ranks", "images", "targets"),
    ("proxy", "proxies", "image_files"),
    ("execution",),
    ("scoring",),
    ("columns",),
    ("dps",),
    ("fits",),
    ("search",),
    ("runs",),
    ("report",),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(path):
    """(room, line) of everything that a file imports from the package, deferred imports and types included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "eproxy_jax":
            rest = node.module.split(".")[1:]
            found += [(rest[0] if rest else alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(a.name.split(".")[1], node.lineno) for a in node.names if a.name.startswith("eproxy_jax.")]
    return [(room if room in LEVEL else "__init__", line) for room, line in found if room != "__version__"]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_downward_only(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in LEVEL, f"{path}: add the new room to LEVELS and to CONTRIBUTING's table"
    if room == "__init__":
        return
    for other, line in imports(path):
        if room == "cli" and other == "__init__":
            continue  # the command line is a user of the public API
        assert other == room or LEVEL[other] < LEVEL[room], f"{path}:{line}: {room} imports {other}, which is not below"


def test_families_of_spaces_do_not_import_each_other():
    """A folder of spaces/ knows the shared rooms (cells, interpreter) and the modules beside the folders only."""
    shared = {"cells", "interpreter"}
    for path in FILES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] != "spaces" or len(parts) < 3:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("eproxy_jax.spaces."):
                other = node.module.split(".")[2]
                is_folder = (PACKAGE / "spaces" / other).is_dir()
                assert not is_folder or other in {parts[1], *shared}, f"{path}:{node.lineno}: imports {other}"


def test_contributing_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for room in LEVEL:
        if not room.startswith("_"):
            assert f"`{room}/`" in text or f"`{room}.py`" in text, room


def in_child(code):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.check_output([sys.executable, "-c", code], env=environment, text=True, cwd=ROOT)


@pytest.mark.parametrize(
    "code",
    [
        "import eproxy_jax",
        "from eproxy_jax.cli.main import parser; parser().format_help()",
        "import sys; sys.argv = ['eproxy', '--version']\ntry:\n from eproxy_jax.cli.main import main; main()\n"
        "except SystemExit: pass",
    ],
    ids=["import", "help", "version"],
)
def test_a_light_start_loads_nothing_heavy(code):
    heavy = "print(sorted({'jax', 'flax', 'scipy', 'numpy', 'optax', 'ml_collections'} & set(sys.modules)))"
    assert in_child(f"import sys\n{code}\n{heavy}").splitlines()[-1] == "[]"


def test_help_and_version_take_half_a_second_of_cpu():
    timed = (
        "import os, sys, time; sys.argv = ['eproxy', {flag!r}]\ntry:\n from eproxy_jax.cli.main import main; main()\n"
    )
    timed += "except SystemExit: pass\nprint(time.process_time())"
    for flag in ("--help", "--version"):
        assert float(in_child(timed.format(flag=flag)).splitlines()[-1]) < 0.5


def test_every_public_name_loads_and_is_listed():
    import eproxy_jax as ep

    for name in ep.__all__:
        assert getattr(ep, name) is not None
    assert set(ep.__all__) == {"__version__", *ep._HOMES, *ep._ROOMS}
    assert set(ep.__all__) <= set(dir(ep))
    with pytest.raises(AttributeError, match="no attribute 'scor'"):
        ep.scor  # noqa: B018
