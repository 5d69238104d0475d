"""Agents and commands that need not load Python's modules again: a process that has loaded them forks each one.

What runs is ``python -m agent ...`` in every respect but the load: a process of its own with the arguments,
environment, directory, standard streams and command line of its own, which begins in ``agent.cli.main``. Tests of the
start itself, and of what is read during it, start the real thing.

The server has one thread. It ends with its worker; what it has started goes on, as it would without it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOADED = ("agent.daemon.main", "agent.cli.commands.agentcommand", "agent.cli.main")
BIGGEST = 1 << 18
COMMAND_LINE_ROOM = " " * 4096
ARGUMENTS = slice(48 - 3, 50 - 3)  # of /proc/PID/stat, behind the name: where they begin and end


class Forked:
    """A process that the server has forked: that part of ``subprocess.Popen`` which tests use."""

    def __init__(self, arguments: Sequence[str], pid: int, pidfd: int, told: socket.socket) -> None:
        self.args = list(arguments)
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._told = told

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            status = self._told.recv(64)
            if not status:
                raise RuntimeError(f"the fork server ended before process {self.pid}")
            self.returncode = os.waitstatus_to_exitcode(int(status))
            self._told.close()
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing when it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """What a worker asks; the first question starts the server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], streams: Iterable[int]) -> Forked:
        """Start ``python -m agent`` with ``arguments`` at the root of this source tree."""
        told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            body = json.dumps([list(arguments), dict(environment), str(ROOT)]).encode()
            socket.send_fds(self._connect(), [body], [theirs.fileno(), *streams])
        answer, (pidfd,), _, _ = socket.recv_fds(told, 64, 1)
        return Forked(arguments, int(answer), pidfd, told)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float) -> tuple[int, str, str]:
        """Exit code and output of a command that reads nothing. Raises TimeoutExpired, and then it is killed."""
        (output, out), (errors, err) = os.pipe(), os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        process = self.start(arguments, environment, (null, out, err))
        for descriptor in (null, out, err):
            os.close(descriptor)
        found: list[bytes] = [b"", b""]

        def read(place: int, descriptor: int) -> None:
            with os.fdopen(descriptor, "rb") as stream:
                found[place] = stream.read()

        readers = [threading.Thread(target=read, args=pair) for pair in enumerate((output, errors))]
        for reader in readers:
            reader.start()
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            for reader in readers:
                reader.join(timeout)
        return code, found[0].decode(), found[1].decode()

    def _connect(self) -> socket.socket:
        with self._lock:
            if self._control is None:
                self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with theirs:
                    subprocess.Popen([sys.executable, __file__, COMMAND_LINE_ROOM], cwd=ROOT, stdin=theirs)
            return self._control


SERVER = ForkServer()


def serve() -> tuple[list[str], dict[str, str], str, list[int]]:
    """Fork until the worker ends. Returns in each child only: with what it is to be, and its standard streams."""
    control = socket.socket(fileno=os.dup(0))
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake)
    children: dict[int, int] = {}
    while True:
        for ready in select.select([control, woken], [], [])[0]:
            if ready is woken:
                os.read(woken, 4096)
                tell_ended(children)
                continue
            body, descriptors, _, _ = socket.recv_fds(control, BIGGEST, 4)
            if not body:
                sys.exit(0)
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                control.detach()
                return *json.loads(body), descriptors[1:]
            children[child] = descriptors[0]
            pidfd = os.pidfd_open(child)
            with socket.socket(fileno=os.dup(descriptors[0])) as told:
                socket.send_fds(told, [b"%d" % child], [pidfd])
            for descriptor in (pidfd, *descriptors[1:]):
                os.close(descriptor)


def tell_ended(children: dict[int, int]) -> None:
    """Collect who has ended, and write each wait status to the socket of its request."""
    for child, told in list(children.items()):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            with suppress(OSError):
                os.write(told, b"%d" % status)
            os.close(told)
            del children[child]


def become(arguments: list[str], environment: dict[str, str], directory: str, streams: list[int]) -> None:
    """Make this child what ``python -m agent`` is when it begins."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 1 << 16)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = directory
    sys.argv = [f"{directory}/agent/__main__.py", *arguments]
    sys.modules["__main__"].__package__ = "agent"  # by which click tells how it was called
    write_command_line([sys.executable, "-m", "agent", *arguments])


def write_command_line(words: list[str]) -> None:
    """What ``/proc/PID/cmdline`` says: the words stand where those of the server stood."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = map(int, fields[ARGUMENTS])
    text = b"\0".join(word.encode() for word in words) + b"\0"
    assert len(text) <= end - start, "a command line longer than the room for it"
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))


def run_main() -> None:
    """An agent ends as an interpreter does; a command leaves when its output is written, as taking all that is loaded
    down would take it longer than its work."""
    main = importlib.import_module("agent.cli.main").main
    try:
        main()
    except SystemExit as end:
        if sys.argv[1:2] == ["agent"]:
            raise
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for module in LOADED:
        importlib.import_module(module)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads must not fork"
    gc.collect()
    gc.freeze()
    become(*serve())
    run_main()
