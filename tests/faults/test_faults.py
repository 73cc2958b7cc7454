"""Kills, full disks, cut files and two writers: the command started again ends with the files of an undisturbed run.

Trainings are replaced by a fast function; everything else is real. ``make fuzz`` does the same a hundred times.
"""

import signal
import time

import pytest
from faults.commands import COMMANDS, WRITE_NOTHING, Server, content

from eproxy_jax.cli import main


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A process that starts commands in a moment."""
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """Content of the folder of each command, by name."""
    found = {}
    for name in COMMANDS:
        folder = tmp_path_factory.mktemp("whole")
        assert server.run(name, folder) == 0, server.log()
        found[name] = content(folder)
    return found


def test_every_command_that_writes_is_tried():
    actions = main.parser()._subparsers._group_actions
    commands = {name for action in actions for name in action.choices}
    assert {flags[0] for flags, _ in COMMANDS.values()} == commands - set(WRITE_NOTHING)


def goes_on(server, name, folder, expected):
    """Start a command once more: it ends well, with the files of an undisturbed run."""
    assert server.run(name, folder) == 0, server.log()
    assert content(folder) == expected[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_durable_operation(server, undisturbed, tmp_path, name):
    """The first kill comes at the first operation, each later one further on, all in the same folder."""
    for point in (1, 2, 4, 7):
        if server.run(name, tmp_path, kill=point) == 0:
            break
    goes_on(server, name, tmp_path, undisturbed)


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment(server, undisturbed, tmp_path, name):
    pid = server.start(name, tmp_path)
    result = tmp_path / COMMANDS[name][1]
    deadline = time.monotonic() + 60
    while not (result.exists() and result.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.001)
    signal.pidfd_send_signal(__import__("os").pidfd_open(pid), signal.SIGKILL)
    assert server.wait(pid) in (0, -signal.SIGKILL)
    goes_on(server, name, tmp_path, undisturbed)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_loses_nothing(server, undisturbed, tmp_path, name):
    size = len(undisturbed[name][COMMANDS[name][1]])
    assert server.run(name, tmp_path, limit=size - 5) == 2
    errors = [line for line in server.log().splitlines() if "error" in line]
    assert len(errors) == 1, server.log()
    assert errors[0].startswith("eproxy: error: ")
    assert "Traceback" not in server.log()
    goes_on(server, name, tmp_path, undisturbed)


def cuts(whole, stride):
    """Lengths of a file that end in its last two lines."""
    start = whole[:-1].rfind(b"\n", 0, whole[:-1].rfind(b"\n")) + 1
    return range(start, len(whole), stride)


@pytest.mark.parametrize("name", COMMANDS)
def test_cut_files_are_completed(server, undisturbed, tmp_path, name):
    result = COMMANDS[name][1]
    whole = undisturbed[name][result]
    for length in cuts(whole, max(len(cuts(whole, 1)) // 2, 1)):
        for file, held in undisturbed[name].items():
            if isinstance(held, bytes):
                (tmp_path / file).write_bytes(held[:length] if file == result else held)
        goes_on(server, name, tmp_path, undisturbed)


@pytest.mark.parametrize("name", COMMANDS)
def test_of_two_writers_the_second_is_refused(server, undisturbed, tmp_path, name):
    first = server.start(name, tmp_path / "out", pause=str(tmp_path / "go"))
    deadline = time.monotonic() + 60
    result = tmp_path / "out" / COMMANDS[name][1]
    while not list((tmp_path / "out").glob("*.jsonl")) and time.monotonic() < deadline and name != "dps":
        time.sleep(0.005)
    del result
    second = server.start(name, tmp_path / "out")
    status = server.wait(second) if name != "dps" else 2
    log = server.log()
    (tmp_path / "go").touch()
    assert server.wait(first) == 0
    assert status == 2, log
    if name != "dps":
        assert "another process is writing it" in log
        assert content(tmp_path / "out") == undisturbed[name]
    else:
        assert server.wait(second) in (0, 2)
        goes_on(server, name, tmp_path / "out", undisturbed)
