"""Several processes score one list: the file of one process, also when one of them is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import ROOT

from eproxy_jax.cli import common, main
from eproxy_jax.runs import hosts
from eproxy_jax.runs import results as results_lib

COMMAND = ["score", "--config", f"{ROOT}/tests/tiny_config.py", "--sample", "120", "--seed", "2", "--no-plot"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The file of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert main.main([*COMMAND, "--workdir", str(folder)]) == 0
    return (folder / "scores.jsonl").read_bytes()


@pytest.fixture
def start(tmp_path):
    """Starts a process of a run; what is still there at the end of the test is killed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = []

    def begin(index, count, *more, port=port):
        command = [sys.executable, "-m", "eproxy_jax", *COMMAND, "--workdir", str(tmp_path), "--devices", "1"]
        command += ["--chunk-size", "1", "--coordinator", f"localhost:{port}", "--num-processes", str(count)]
        with (tmp_path / f"log{index}").open("a") as log:
            command += ["--process-id", str(index), *more]
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def logs(folder):
    """What all processes said."""
    return "".join(path.read_text() for path in sorted(folder.glob("log*")))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (2, 1), (4, 1)])
def test_processes_write_the_file_of_one_and_survive_a_kill(alone, tmp_path, start, count, victim):
    """Killed is a process after its first lines; it comes back alone, while the others go on."""
    processes = [start(index, count) for index in range(count)]
    own = hosts.Process(victim, count).path(tmp_path / "scores.jsonl")
    deadline = time.monotonic() + 300
    while not (own.exists() and own.stat().st_size) and processes[victim].poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes[victim].send_signal(signal.SIGKILL)
    processes[victim].wait()
    processes[victim] = start(victim, count)
    codes = [process.wait(timeout=300) for process in processes]
    assert codes == [0] * count, logs(tmp_path)
    assert (tmp_path / "scores.jsonl").read_bytes() == alone
    assert "own share done" in logs(tmp_path)
    assert f"share 1 of {count} done" in logs(tmp_path)


@pytest.mark.slow  # quick: tests/runs/test_meeting.py has the same in threads
@pytest.mark.parametrize(
    ("more", "port", "message"),
    [
        (["--seed", "3"], None, "process 1 has another list of architectures"),
        (["--config.settings.lr=0.5"], None, "process 1 has another settings"),
        (["--wait", "5"], 1, "did not start the run within 0:05 (--wait): check --coordinator"),
    ],
)
def test_processes_that_do_not_fit_end(tmp_path, start, more, port, message):
    processes = [start(0, 2, "--wait", "20" if port else "300"), start(1, 2, *more, **({"port": port} if port else {}))]
    assert [process.wait(timeout=200) for process in processes] == [2, 2]
    assert message in logs(tmp_path)
    assert logs(tmp_path).count("eproxy: error: ") == 2
    assert "Traceback" not in logs(tmp_path)


@pytest.mark.slow
def test_sigterm_ends_every_process(tmp_path, start):
    processes = [start(index, 2) for index in range(2)]
    deadline = time.monotonic() + 200
    while "program(s)" not in logs(tmp_path):
        assert time.monotonic() < deadline, logs(tmp_path)
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGTERM)
    assert processes[0].wait(timeout=200) == 143
    assert processes[1].wait(timeout=200) in (0, 2)  # 0: it was done already
    assert "stopped (SIGTERM); start it again with the same flags to resume" in logs(tmp_path)


def test_shares_are_disjoint_and_cover_everything():
    shares = [hosts.Process(i, 3).share(range(10)) for i in range(3)]
    assert sorted(n for share in shares for n in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [other.index for other in hosts.Process(1, 3).others] == [0, 2]


ROW = {
    "arch": "a", "score": -0.5, "loss": 0.5, "losses": [0.5], "macs": 1, "params": 1, "effective_macs": 1,
    "status": "ok", "run": "this",
}  # fmt: skip


def collected(folder, *, rows, archs=("a", "b"), owed=None, **more):
    """Collect from the file of process 1; returns the strings in the final file."""
    path = folder / "scores.1of2.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half')
    results = results_lib.ResultsFile(folder / "scores.jsonl", "this", archs)
    owed = dict.fromkeys(archs, 1) if owed is None else owed
    try:
        hosts.collect(results, {1: path}, "this", owed, lambda rows: [json.dumps(row) for row in rows], **more)
        return [row["arch"] for row in results.rows]
    finally:
        results.close()


def test_lines_are_collected_once(tmp_path):
    rows = [ROW, {**ROW, "arch": "b"}, ROW, {**ROW, "arch": "not of this list"}]
    assert collected(tmp_path, rows=rows) == ["a", "b"]
    assert collected(tmp_path, rows=rows) == ["a", "b"]


def test_lines_of_another_run_are_not_collected(tmp_path):
    with pytest.raises(
        ValueError, match=r"scores\.1of2\.jsonl:1: written by another run \('other'; this one is 'this'\)"
    ):
        collected(tmp_path, rows=[{**ROW, "run": "other"}])
    with pytest.raises(ValueError, match=r"scores\.1of2\.jsonl:2: losses: "):
        collected(tmp_path, rows=[ROW, {**ROW, "losses": "x"}])
    assert results_lib.read_results(tmp_path / "none", "other") == []


def test_a_wait_ends_and_says_what_to_start(tmp_path):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    patience = hosts.Patience(60, lambda: now[0])
    with pytest.raises(ValueError, match=r"no sign of life from process 1 for 1:00 \(--wait\); it owes 1 lines: start"):
        collected(tmp_path, rows=[ROW], patience=patience, sleep=sleep)
    assert 60 <= now[0] < 62
    assert (tmp_path / "scores.jsonl").read_text() == json.dumps(ROW) + "\n"


def test_lines_and_heartbeats_are_signs_of_life():
    now = [0.0]
    patience = hosts.Patience(10, lambda: now[0])
    for count in (5, 4, 3):  # a new line every 9 seconds
        patience.check({1: count}, lambda _: 99)
        now[0] += 9
    patience.check({1: 3, 2: 0}, lambda _: 1)  # no lines, but alive; process 2 owes nothing
    now[0] += 9
    patience.check({1: 3}, lambda _: 1)
    with pytest.raises(ValueError, match="process 1 for 0:10"):
        patience.check({1: 3}, lambda _: 11)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator", "localhost:1"], "--coordinator, --num-processes and --process-id go together"),
        (["--num-processes", "2", "--process-id", "0"], "go together"),
        (["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"], "expected 0 to 1"),
        (["--coordinator", "localhost", "--num-processes", "2", "--process-id", "1"], "expected HOST:PORT"),
        (["--coordinator", "localhost:", "--num-processes", "2", "--process-id", "1"], "expected HOST:PORT"),
        (["--coordinator", ":80", "--num-processes", "2", "--process-id", "1"], "expected HOST:PORT"),
        (["--coordinator", "h:99999", "--num-processes", "2", "--process-id", "1"], "expected HOST:PORT"),
        (["--coordinator", "h:٣", "--num-processes", "2", "--process-id", "1"], "expected HOST:PORT"),
        (["--distributed", "--coordinator", "h:1", "--num-processes", "2", "--process-id", "1"], "give one of the two"),
        (["--distributed"], "cannot join the other processes: "),
    ],
)
def test_bad_flags_are_told(flags, message):
    arguments = main.parser().parse_args([*COMMAND[:1], *flags])
    several = arguments.coordinator, arguments.num_processes, arguments.process_id
    with pytest.raises((common.UsageError, ValueError), match=message):
        main.join_processes(arguments.distributed, *several)
