"""Processes agree before they train, notice who is gone, and end together where they must."""

import contextlib
import json
import re
import socket
import threading
import time

import pytest

from eproxy_jax.runs import hosts, meeting

# Upper bounds of waits, s: what holds is seen at once, but a busy machine may give a thread its turn late.
PATIENCE = 60.0
TERMS = {"seed": "0", "list of architectures": "3 architectures, abc"}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(meeting, "ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(meeting, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(meeting, "_LINGER_SECONDS", 0.3)


# --- the record ---


def test_the_roll_knows_who_is_there():
    now = [0.0]
    roll = meeting.Roll(TERMS, 3, lambda: now[0])
    assert roll.absent() == [1, 2]
    assert roll.join(1, 3, TERMS) is None
    now[0] = 5
    roll.sign(2)
    assert roll.absent() == [2]
    assert (roll.silent_for(1), roll.silent_for(2)) == (5, 0)
    roll.leave(1)
    assert roll.absent() == [1, 2]
    assert roll.ended is None


@pytest.mark.parametrize(
    ("process", "count", "terms", "message"),
    [
        (1, 2, {**TERMS, "seed": "1"}, r"process 1 has another seed \(1; process 0 has 0\): give all processes"),
        (1, 2, {"seed": "0"}, r"another list of architectures \(None; process 0 has 3"),
        (1, 3, TERMS, r"another number of processes \(3; process 0 has 2\)"),
        (1, 2, {"seed": "1"}, "another seed .*, another list"),
    ],
)
def test_other_terms_end_the_run(process, count, terms, message):
    roll = meeting.Roll(TERMS, 2)
    problem = roll.join(process, count, terms)
    assert problem is not None
    assert re.search(message, problem)
    assert roll.ended == problem
    assert roll.absent() == [1]


@pytest.mark.parametrize("process", [0, 2, -1, "1", None, [1]])
def test_a_process_that_cannot_be_does_not_end_the_others(process):
    roll = meeting.Roll(TERMS, 2)
    assert "--process-id" in (roll.join(process, 2, TERMS) or "")
    assert roll.ended is None


# --- over the network ---


def said(_):
    """Nobody listens."""


class Process:
    """A process of a run in a thread; ``error`` is what ended it."""

    def __init__(self, index, port, folder, terms=TERMS, wait=PATIENCE, count=2, hold=None, resumed=False):
        self.error, self.went, self.listens = None, threading.Event(), threading.Event()
        self.process = hosts.Process(index, count, f"localhost:{port}")
        self._arguments = (terms, folder, wait, hold, resumed)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        terms, folder, wait, hold, resumed = self._arguments
        try:
            with self.process.meet(terms, folder / "scores.jsonl") as met:
                self.listens.set()
                met.wait_for_all(wait, said, resumed)
                self.met = met
                self.went.set()
                while hold is not None and not hold.is_set():
                    met.check()
                    time.sleep(0.01)
        except BaseException as error:
            self.error = error

    def end(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "hangs"
        return self.error


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """All processes of these tests are one: each is at its first call."""
    import itertools

    monkeypatch.setattr(hosts, "_CALLS", itertools.repeat(0))


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("first", [0, 1])
def test_processes_meet_in_any_order(tmp_path, port, first):
    hold = threading.Event()
    order = [first, 1 - first]
    one = Process(order[0], port, tmp_path, hold=hold)
    time.sleep(0.1)
    assert not one.went.is_set()
    other = Process(order[1], port, tmp_path, hold=hold)
    assert one.went.wait(PATIENCE)
    assert other.went.wait(PATIENCE)
    hold.set()
    assert one.end() is other.end() is None
    assert not list(tmp_path.iterdir())  # the small file by which they know the folder is gone


def test_a_mismatch_ends_all(tmp_path, port):
    hold = threading.Event()
    host = Process(0, port, tmp_path, count=3, hold=hold)
    good = Process(1, port, tmp_path, count=3, hold=hold)
    time.sleep(0.1)
    bad = Process(2, port, tmp_path, {**TERMS, "seed": "7"}, count=3, hold=hold)
    for process in (host, good, bad):
        assert "process 2 has another seed (7; process 0 has 0)" in str(process.end())


def test_another_folder_ends_all(tmp_path, port):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    host, guest = Process(0, port, tmp_path / "a"), Process(1, port, tmp_path / "b")
    for process in (host, guest):
        assert "process 1 has another folder" in str(process.end())
        assert str(tmp_path / "b") in str(process.error)


def test_waits_have_an_end(tmp_path, port):
    host = Process(0, port, tmp_path, wait=0.2)
    assert "process 1 did not join within 0:00 (--wait)" in str(host.end())
    guest = Process(1, port, tmp_path, wait=0.2)
    assert "did not start the run within 0:00 (--wait): check --coordinator" in str(guest.end())
    assert "refused" in str(guest.error)


def test_a_killed_process_0_comes_back_while_the_other_goes_on(tmp_path, port):
    hold = threading.Event()
    stop = threading.Event()
    host = Process(0, port, tmp_path, hold=stop)
    guest = Process(1, port, tmp_path, hold=hold)
    assert guest.went.wait(PATIENCE)
    stop.set()
    host.end()
    time.sleep(0.1)
    assert guest.thread.is_alive()
    host = Process(0, port, tmp_path, hold=hold, resumed=True)
    assert host.went.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while host.met.roll.absent() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert host.met.roll.absent() == []
    hold.set()
    assert host.end() is guest.end() is None


def test_a_guest_that_comes_late_to_a_resumed_run_goes_at_once(tmp_path, port):
    hold = threading.Event()
    host = Process(0, port, tmp_path, count=3, hold=hold, resumed=True)
    assert host.went.wait(PATIENCE)
    guest = Process(2, port, tmp_path, count=3, hold=hold)
    assert guest.went.wait(PATIENCE)
    late = Process(1, port, tmp_path, {**TERMS, "seed": "1"}, count=3, hold=hold)
    for process in (host, guest, late):
        assert "process 1 has another seed" in str(process.end())


def failing(index, port, folder, error):
    """A process that ends with an error after all have joined."""
    with (
        contextlib.suppress(type(error)),
        hosts.Process(index, 2, f"localhost:{port}").meet(TERMS, folder / "s") as met,
    ):
        met.wait_for_all(PATIENCE, said)
        raise error


def test_stopping_process_0_stops_all_and_its_errors_do_not(tmp_path, port):
    hold = threading.Event()
    guest = Process(1, port, tmp_path, hold=hold)
    failing(0, port, tmp_path, OSError("full"))
    time.sleep(0.1)
    assert guest.thread.is_alive()
    failing(0, port, tmp_path, KeyboardInterrupt())
    assert "process 0 was stopped" in str(guest.end())


def test_the_host_hears_why_a_guest_ended(tmp_path, port):
    hold = threading.Event()
    host = Process(0, port, tmp_path, hold=hold)
    failing(1, port, tmp_path, OSError("the disk is full"))
    assert host.went.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not host.met.roll.failed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert host.met.roll.failed == {1: "the disk is full"}
    hold.set()
    assert host.end() is None


def test_two_processes_of_one_number(tmp_path, port, monkeypatch):
    monkeypatch.setattr(meeting, "ALIVE_SECONDS", 2)  # a busy machine must not make the first one look dead
    hold = threading.Event()
    host = Process(0, port, tmp_path, hold=hold)
    assert host.listens.wait(PATIENCE)  # else the second process 0 may get the port
    again = Process(0, port, tmp_path)
    first = Process(1, port, tmp_path, hold=hold)
    assert first.went.wait(PATIENCE)
    second = Process(1, port, tmp_path)
    errors = [str(process.end()) for process in (again, second)]
    assert "cannot listen at localhost" in errors[0]
    assert "--process-id 1: such a process has joined already" in errors[1]
    hold.set()
    assert host.end() is first.end() is None


def test_a_guest_that_comes_while_the_host_leaves_hears_nothing_untrue(tmp_path, port):
    # The host takes its small file with it; a guest that could not read it any more does not have another folder.
    roll = meeting.Roll(TERMS, 2)
    with meeting.Host(("localhost", port), roll, tmp_path, "token") as host:
        with socket.create_connection(("localhost", port), PATIENCE) as connection, connection.makefile("rw") as lines:
            hello = {"process": 1, "count": 2, "call": 0, "terms": {**TERMS, "folder": str(tmp_path.resolve())}}
            lines.write(json.dumps(hello) + "\n")
            lines.flush()
            assert "find" in json.loads(lines.readline())
            host.__exit__(None, None, None)
            lines.write(json.dumps({"token": None}) + "\n")
            with contextlib.suppress(OSError):
                lines.flush()
                assert lines.readline() == ""
        assert roll.ended is None


def test_what_is_no_process_of_eproxy_is_ignored(tmp_path, port):
    hold = threading.Event()
    host = Process(0, port, tmp_path, hold=hold)
    for noise in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 70_000,
        b'{"process": "x"}\n',
        b"[]\n",
        b'{"process": {}}\n{}\n',
        b"",
    ):
        assert host.listens.wait(PATIENCE)
        with (
            socket.create_connection(("localhost", port), PATIENCE) as stranger,
            contextlib.suppress(ConnectionError),
        ):
            stranger.sendall(noise)
    guest = Process(1, port, tmp_path, hold=hold)
    assert host.went.wait(PATIENCE)
    assert guest.went.wait(PATIENCE)
    hold.set()
    assert host.end() is guest.end() is None


def test_later_calls_of_one_process_wait_and_earlier_ones_pass(tmp_path, port):
    roll = meeting.Roll(TERMS, 2)
    with meeting.Host(("localhost", port), roll, tmp_path, "token", call=1):
        find = lambda: ("localhost", port)  # noqa: E731
        with meeting.Guest(find, 1, 2, TERMS, tmp_path, call=0) as early:
            early.wait_for_all(PATIENCE, said)
        with (
            meeting.Guest(find, 1, 2, TERMS, tmp_path, call=2) as late,
            pytest.raises(ValueError, match="did not start"),
        ):
            late.wait_for_all(0.3, said)
        assert roll.absent() == [1]


def test_a_file_of_somebody_is_not_the_one_by_which_folders_are_known(tmp_path, port):
    theirs = tmp_path / ".scores.meeting"
    for content in ("my notes", "a" * 16 + "\n"):  # the second was left by a process 0 that was killed
        theirs.write_text(content)
        hold = threading.Event()
        host, guest = Process(0, port, tmp_path, hold=hold), Process(1, port, tmp_path, hold=hold)
        assert host.went.wait(PATIENCE)
        assert guest.went.wait(PATIENCE)
        hold.set()
        assert host.end() is guest.end() is None
        assert [path.read_text() for path in tmp_path.iterdir()] == (["my notes"] if "notes" in content else [])
