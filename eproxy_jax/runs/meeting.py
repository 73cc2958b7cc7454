"""This module lets the processes of a run agree at its start, and shows them who is alive.

Process 0 listens; the others connect, say what they are about to do, and go on once all have said the same. Then each
sends a sign of life every two seconds. Nothing else goes over the network: a process whose connection breaks trains on
and connects again in the background, so any process may be killed and started again.

Messages are JSON objects, one a line:

* to process 0: ``{"process": i, "count": n, "call": k, "terms": {...}}``, ``{"token": what the folder holds}``,
  ``{"alive": true}``, ``{"failed": why}``
* from process 0: ``{"find": name}``, ``{"go": true}``, ``{"later": true}``, ``{"past": true}``, ``{"end": reason}``
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eproxy_jax import files
from eproxy_jax.errors import quoted
from eproxy_jax.progress import format_seconds

Terms = Mapping[str, str]
Clock = Callable[[], float]

ALIVE_SECONDS = 2.0  # between signs of life
_POLL_SECONDS = 0.1
_LINGER_SECONDS = 20.0  # process 0 stays as long, to tell late ones why the run ends
_MAX_LINE = 2**16


class EndedError(ValueError):
    """The run ends in all processes; the message says why."""


def disagreement(own: Terms, other: Terms, process: int) -> str | None:
    """Return what to say of a process with other terms than process 0; None if they agree.

    Example:
      >>> disagreement({"seed": "0"}, {"seed": "1"}, 2)
      'process 2 has another seed (1; process 0 has 0): give all processes the same flags and folder'
    """
    names = [name for name in own if own[name] != other.get(name)]
    if not names:
        return None
    values = [f"{name} ({other.get(name)}; process 0 has {own[name]})" for name in names]
    return f"process {process} has another {', another '.join(values)}: give all processes the same flags and folder"


class Roll:
    """Who has joined, who is alive, and whether the run must end; a pure record with a clock.

    Args:
      terms: what process 0 is about to do.
      count: number of processes.
      clock: seconds, such as ``time.monotonic``.
    """

    def __init__(self, terms: Terms, count: int, clock: Clock = time.monotonic):
        self.terms, self.count, self._clock = terms, count, clock
        self._sign = dict.fromkeys(range(1, count), clock())
        self.joined: set[int] = set()
        self.told: set[int] = set()
        self.failed: dict[int, str] = {}
        self.ended: str | None = None

    def join(self, process: Any, count: Any, terms: Any) -> str | None:
        """Note a process; returns why it cannot join, or None."""
        if not isinstance(terms, dict) or not isinstance(process, int) or not 0 < process < max(self.count, 2):
            return f"--process-id: {quoted(process)} is none of 1 to {self.count - 1}"
        own = {"number of processes": str(self.count), **self.terms}
        problem = disagreement(own, {"number of processes": str(count), **terms}, process)
        if problem is not None:
            self.end(problem)
            return problem
        self.sign(process)
        self.joined.add(process)
        self.failed.pop(process, None)
        return None

    def sign(self, process: int) -> None:
        """Note a sign of life."""
        self._sign[process] = self._clock()

    def leave(self, process: int) -> None:
        """Note that a process is not connected any more."""
        self.joined.discard(process)

    def end(self, reason: str) -> None:
        """End the run in all processes; the first reason counts."""
        self.ended = self.ended or reason

    def absent(self) -> list[int]:
        """Return the processes that are not connected."""
        return [process for process in range(1, self.count) if process not in self.joined]

    def silent_for(self, process: int) -> float:
        """Return the seconds since the last sign of life of a process."""
        return self._clock() - self._sign[process]


class Host:
    """The side of process 0.

    Args:
      address: (host, port) to listen at; every interface is listened at, unless the host is this machine's own name
        for itself.
      roll: who has joined.
      folder: the run's folder.
      name: name of a small file in that folder, by which the others prove that they see the same folder. If somebody
        else has such a file, the name gets an ending.
      call: number of the call in this process; others may be at an earlier or later one.

    Raises:
      ValueError: the address cannot be listened at.
    """

    def __init__(self, address: tuple[str, int], roll: Roll, folder: Path, name: str, call: int = 0):
        self.roll, self._call = roll, call
        roll.terms = {**roll.terms, "folder": str(folder.resolve())}
        self._token, self._token_file = secrets.token_hex(8), _own_file(folder / name)
        self._lock, self._lines, self._going = threading.Lock(), {}, False
        self._closed = threading.Event()
        try:
            self._socket = _listen(*address)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"cannot listen at {address[0]}:{address[1]} ({_said(error)}): is another process 0 running? Choose a "
                "free port of its host for --coordinator"
            ) from error
        self.port = self._socket.getsockname()[1]
        files.write_atomically(self._token_file, self._token + "\n")
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Host:
        _OPEN.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An error of process 0 alone does not end the others: it may be started again. A person who stops it means all.
        if kind is not None and not issubclass(kind, Exception):
            self.end("process 0 was stopped")
        _OPEN.discard(self)
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._socket.close()
        with self._lock:
            lines = list(self._lines.values())
        for line in lines:
            line.close()
        with contextlib.suppress(OSError):
            self._token_file.unlink(missing_ok=True)

    def wait_for_all(self, wait: float, say: Callable[[str], None], resumed: bool = False) -> None:
        """Wait until all processes have joined.

        Args:
          wait: largest time, s.
          say: prints a line for the person who waits.
          resumed: True if all joined in an earlier session: process 0 then goes on without them.

        Raises:
          EndedError: a process has other terms, or did not come in time.
        """
        start = time.monotonic()
        if not resumed and self.roll.absent():
            say(
                f"waiting for {_names(self.roll.absent())} at port {self.port}, {format_seconds(wait)} at most (--wait)"
            )
        while self.roll.absent() and not resumed:
            self.check(linger=_LINGER_SECONDS)
            if time.monotonic() - start > wait:
                self.roll.end(
                    f"{_names(self.roll.absent())} did not join within {format_seconds(wait)} (--wait): start all "
                    "processes with the same --coordinator and --num-processes"
                )
            time.sleep(_POLL_SECONDS)
        self.check(linger=_LINGER_SECONDS)
        self._going = True
        self._send_all({"go": True})

    def check(self, linger: float = 0) -> None:
        """Check that the run goes on.

        Args:
          linger: seconds in which late processes are told, too, if it does not.

        Raises:
          EndedError: it does not; the others have been told.
        """
        if self.roll.ended is not None:
            self.end(self.roll.ended, linger)
            raise EndedError(self.roll.ended)

    def end(self, reason: str, linger: float = 0) -> None:
        """Tell all processes that the run ends, those that come within ``linger`` seconds included."""
        self.roll.end(reason)
        self._send_all({"end": self.roll.ended})
        start = time.monotonic()
        others = set(range(1, self.roll.count))
        while others - self.roll.told and time.monotonic() - start < linger:
            time.sleep(_POLL_SECONDS)

    def _send_all(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            lines = dict(self._lines)
        for process, line in lines.items():
            if line.send(message) and "end" in message:
                self.roll.told.add(process)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(_Line(connection),), daemon=True).start()

    def _serve(self, line: _Line) -> None:
        process = None
        try:
            line.timeout(10 * ALIVE_SECONDS)
            hello = line.receive()
            call = hello.get("call")
            if isinstance(call, int) and call != self._call:
                line.send({"later": True} if call > self._call else {"past": True})
                return
            number, terms = hello.get("process"), hello.get("terms")
            if type(number) is not int:
                return
            line.send({"find": self._token_file.name})
            seen = line.receive().get("token")
            if self._closed.is_set():  # the small file is gone: what a guest did not see says nothing about its folder
                return
            with self._lock:
                if number in self._lines and self.roll.silent_for(number) < 3 * ALIVE_SECONDS:
                    line.send({"end": f"--process-id {number}: such a process has joined already"})
                    return
                if isinstance(terms, dict):
                    same = self.roll.terms["folder"]
                    terms = {**terms, "folder": same if seen == self._token else f"{terms.get('folder')} of its own"}
                problem = self.roll.join(number, hello.get("count"), terms)
                if problem is None:
                    process, self._lines[number] = number, line
            if problem is not None or self.roll.ended is not None:
                line.send({"end": problem or self.roll.ended})
                self.roll.told.add(number)
                return
            if self._going or not self.roll.absent():
                line.send({"go": True})
            while message := line.receive():
                self.roll.sign(number)
                if "failed" in message:
                    self.roll.failed[number] = str(message["failed"])
        except (OSError, ValueError):
            return
        finally:
            line.close()
            if process is not None:
                with self._lock:
                    if self._lines.get(process) is line:
                        del self._lines[process]
                        self.roll.leave(process)


_OPEN: set[Host] = set()


def stop_all() -> None:
    """Tell the other processes of every open meeting that process 0 was stopped; any thread may call this."""
    for host in list(_OPEN):
        host.end("process 0 was stopped")


class Guest:
    """The side of every other process.

    Args:
      find: returns (host, port) of process 0, or None while it is unknown.
      process: number of this process.
      count: number of processes.
      terms: what this process is about to do.
      folder: the run's folder, as this process sees it.
      call: number of the call in this process.
    """

    def __init__(
        self, find: Callable[[], tuple[str, int] | None], process: int, count: int, terms: Terms, folder: Path,
        call: int = 0,
    ):  # fmt: skip
        self._find, self._folder = find, folder
        terms = {**terms, "folder": str(folder.resolve())}
        self._hello = {"process": process, "count": count, "call": call, "terms": terms}
        self._line: _Line | None = None
        self._closed = threading.Event()
        self._went = threading.Event()  # process 0 has said "go", or is past this call
        self._ended: str | None = None
        self._problem = "no answer"
        self._thread = threading.Thread(target=self._talk, daemon=True)

    def __enter__(self) -> Guest:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._closed.set()
        if error is not None and self._line is not None and not isinstance(error, EndedError):
            self._line.send({"failed": str(error)[:1000] or type(error).__name__})

    def wait_for_all(self, wait: float, say: Callable[[str], None], resumed: bool = False) -> None:
        """Wait until process 0 says that all have joined.

        Raises:
          EndedError: a process has other terms, or process 0 does not answer in time.
        """
        del resumed
        start = time.monotonic()
        said = False
        while not self._went.wait(_POLL_SECONDS):
            self.check()
            if not said and time.monotonic() - start > 1:
                say(f"waiting for process 0 and the others, {format_seconds(wait)} at most (--wait)")
                said = True
            if time.monotonic() - start > wait:
                raise EndedError(
                    f"process 0 ({self._problem}) did not start the run within {format_seconds(wait)} (--wait): check "
                    "--coordinator, and start all processes"
                )
        self.check()

    def check(self, linger: float = 0) -> None:
        """Check that the run goes on.

        Raises:
          EndedError: process 0 has said that it does not.
        """
        del linger
        if self._ended is not None:
            raise EndedError(self._ended)

    def _talk(self) -> None:
        while not self._closed.is_set() and self._ended is None:
            try:
                self._talk_once()
            except (OSError, ValueError, OverflowError) as error:
                self._problem = _said(error)
            self._closed.wait(ALIVE_SECONDS / 4)

    def _talk_once(self) -> None:
        address = self._find()
        if address is None:
            return
        line = self._line = _Line(socket.create_connection(address, timeout=5 * ALIVE_SECONDS))
        try:
            line.send(self._hello)
            find = line.receive()
            if "find" in find:
                self._problem = f"at {address[0]}:{address[1]}, waits for others"
                line.send({"token": self._seen(str(find["find"]))})
            elif "past" in find:
                self._went.set()
                self._closed.set()
                return
            elif "end" in find:
                self._ended = str(find["end"])
                return
            else:
                return
            line.timeout(ALIVE_SECONDS)
            while not self._closed.is_set():
                try:
                    message = line.receive()
                except TimeoutError:
                    line.send({"alive": True})
                    continue
                if "end" in message:
                    self._ended = str(message["end"])
                    return
                if "go" in message:
                    self._went.set()
        finally:
            self._line = None
            line.close()

    def _seen(self, name: str) -> str | None:
        """Return what the folder holds under the name that process 0 gave; folders on a network may be late."""
        for _ in range(20):
            with contextlib.suppress(OSError, ValueError):
                return files.read_text(self._folder / Path(name).name, limit=_MAX_LINE).strip()
            time.sleep(_POLL_SECONDS)
        return None


class _Line:
    """A connection that carries JSON objects, one a line."""

    def __init__(self, connection: socket.socket):
        self._socket, self._rest, self._lock = connection, b"", threading.Lock()

    def timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def send(self, message: Mapping[str, Any]) -> bool:
        """Send a message; False if the other side is gone."""
        try:
            with self._lock:
                self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> dict[str, Any]:
        """Wait for a message.

        Raises:
          OSError: the other side is gone, or the time is over (``TimeoutError``).
          ValueError: what comes is no message.
        """
        while b"\n" not in self._rest:
            data = self._socket.recv(4096)
            if not data:
                raise ConnectionError("the connection has ended")
            self._rest += data
            if len(self._rest) > _MAX_LINE:
                raise ValueError("not a process of eproxy")
        text, self._rest = self._rest.split(b"\n", 1)
        message = json.loads(text)
        if not isinstance(message, dict) or not message:
            raise ValueError("not a process of eproxy")
        return message

    def close(self) -> None:
        self._socket.close()


def _own_file(path: Path) -> Path:
    """Return the path if nobody else has it: absent, or left by a process 0 that was killed."""
    try:
        ours = re.fullmatch(r"[0-9a-f]{16}\n", files.read_text(path, limit=_MAX_LINE)) is not None
    except FileNotFoundError:
        ours = True
    except (OSError, ValueError):
        ours = False
    return path if ours else path.with_name(f"{path.name}.{secrets.token_hex(4)}")


def _listen(host: str, port: int) -> socket.socket:
    # The name of a machine often leads to its loopback address, which no other machine reaches.
    if host in ("localhost", "127.0.0.1", "::1"):
        family, _, _, _, bound = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(bound[:2], family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _names(processes: list[int]) -> str:
    return ("processes " if len(processes) > 1 else "process ") + ", ".join(map(str, processes))


def _said(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
