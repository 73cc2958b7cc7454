"""Kills, full disks, cut files and two writers: the command started again ends with the files of an undisturbed run.

Trainings are replaced by a fast function; everything else is real. ``make fuzz`` kills each command a hundred times.
"""

import os
import shutil
import signal
import time

import pytest
from faults.commands import AT_ONCE, COMMANDS, KILLED_ELSEWHERE, WRITE_NOTHING, Server, content
from helpers import slow_unless

from eproxy_jax.cli import main


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A process that starts commands in a moment."""
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def folders(server, tmp_path_factory):
    """What each command leaves when nothing disturbs it: its folder, by name."""
    found = {}
    for name in COMMANDS:
        found[name] = tmp_path_factory.mktemp("whole")
        assert server.run(name, found[name]) == 0, server.log()
    return found


@pytest.fixture(scope="module")
def undisturbed(folders):
    """Content of the folder of each command, by name."""
    return {name: content(folder) for name, folder in folders.items()}


def test_every_command_that_writes_is_tried():
    actions = main.parser()._subparsers._group_actions
    commands = {name for action in actions for name in action.choices}
    assert commands <= {flags[0] for flags, _ in COMMANDS.values()} | {*WRITE_NOTHING, *KILLED_ELSEWHERE}


def goes_on(server, name, folder, expected):
    """Start a command once more: it ends well, with the files of an undisturbed run."""
    assert server.run(name, folder) == 0, server.log()
    assert content(folder) == expected[name]


@pytest.mark.parametrize(
    ("name", "points"),
    [(name, (2, 5)) for name in COMMANDS] + slow_unless((), [(n, (1, 3, 4, 6, 8)) for n in COMMANDS]),
)
def test_killed_at_durable_operations(server, undisturbed, tmp_path, name, points):
    """Just before a file is flushed, replaced, cut or removed: each kill further on, all in the same folder."""
    for point in points:
        assert server.run(name, tmp_path, kill=point) in (0, -signal.SIGKILL)
    goes_on(server, name, tmp_path, undisturbed)


@pytest.mark.slow  # quick: kills at durable operations
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_from_outside(server, undisturbed, tmp_path, name):
    pid = server.start(name, tmp_path)
    result = tmp_path / COMMANDS[name][1]
    deadline = time.monotonic() + 60
    while not (result.exists() and result.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    assert server.wait(pid) in (0, -signal.SIGKILL)
    goes_on(server, name, tmp_path, undisturbed)


@pytest.mark.parametrize("name", slow_unless(("score", "dps", "bank"), COMMANDS))
def test_a_full_disk_is_one_line_and_loses_nothing(server, undisturbed, tmp_path, name):
    size = len(undisturbed[name][COMMANDS[name][1]])
    assert server.run(name, tmp_path, limit=size - 5) == 2
    errors = [line for line in server.log().splitlines() if "error" in line]
    assert len(errors) == 1, server.log()
    assert errors[0].startswith("eproxy: error: ")
    assert "Traceback" not in server.log()
    goes_on(server, name, tmp_path, undisturbed)


def places(whole, count):
    """Some lengths of a file that ends in its last two lines."""
    start = whole[:-1].rfind(b"\n", 0, whole[:-1].rfind(b"\n")) + 1
    return range(start + 1, len(whole), max((len(whole) - start) // count, 1))


@pytest.mark.parametrize(("name", "count"), [("score", 1), *slow_unless((), [(name, 6) for name in COMMANDS])])
def test_cut_files_are_completed(server, folders, undisturbed, tmp_path, name, count):
    result = COMMANDS[name][1]
    whole = undisturbed[name][result]
    for length in places(whole, count):
        folder = tmp_path / str(length)
        shutil.copytree(folders[name], folder)
        (folder / result).write_bytes(whole[:length])
        goes_on(server, name, folder, undisturbed)


@pytest.mark.parametrize("name", slow_unless(("bank",), [name for name in COMMANDS if name not in AT_ONCE]))
def test_of_two_writers_the_second_is_refused(server, undisturbed, tmp_path, name):
    go, folder = tmp_path / "go", tmp_path / "out"
    first = server.start(name, folder, pause=str(go))
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.jsonl*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    status = server.run(name, folder)
    log = server.log()
    go.touch()
    assert server.wait(first) == 0
    assert status == 2, log
    assert "another process is writing it" in log or "another search is running" in log
    assert content(folder) == undisturbed[name]
