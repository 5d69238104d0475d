"""A real agent in its own data and run root, driven through its command line as a user would.

What tests ask again and again (``ps``, ``status``) goes to the agent's socket by the command line's own client, without
a process for each question.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from forkserver import SERVER, Forked

from agent.cli.client import Client
from tests.ports import reserve_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, "-m", "agent")
T = TypeVar("T")


def eventually(probe: Callable[[], T], seconds: float = 60.0, what: str = "condition") -> T:
    """The first true result of ``probe``; for facts outside Holdfast that nothing announces."""
    deadline = time.monotonic() + seconds
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {seconds} s; last: {result!r}")
        time.sleep(0.02)


def read_variable(pid: int, name: str) -> str:
    """What a process has been given as an environment variable; empty when it, or the process, is not there."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((entry.partition("=")[2] for entry in entries if entry.startswith(f"{name}=")), "")


def is_in_place(status: Mapping[str, Any]) -> bool:
    """Whether all is as wanted, but that first revisions may still be watched."""
    if status["converged"]:
        return True
    ready = [found for app in status["apps"] for found in app["conditions"] if found["type"] == "Ready"]
    others = [status[part] for part in ("suspended", "source", "network", "names")]
    watched = re.compile(r"revision 1 \S+ is in place and watched until .*")
    return (
        0 < len(ready) == len(status["apps"])
        and not any(others)
        and all(found["status"] == "True" or watched.fullmatch(found["message"]) for found in ready)
    )


class Agent:
    """One agent process and everything it owns; leaving the ``with`` block leaves nothing behind.

    The fork server starts it and its commands, unless it has a ``program``: ``PROGRAM`` where the start matters, as it
    does to an environment of its own.
    """

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None, base: Path | None = None) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=base))
        self.state = self.base / "state"
        self.data_root = self.base / "data"
        self.run_root = self.base / "run"
        self.state.mkdir()
        self.metrics = f"127.0.0.1:{reserve_port()}"
        self.program: Sequence[str] = PROGRAM if environment else ()
        self.arguments = arguments
        self.environment = {**os.environ, **(environment or {})}
        self.log = self.base / "agent.log"
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._last = 0  # the process id of the one before

    @property
    def host(self) -> str:
        return f"unix://{self.run_root}/holdfast.sock"

    def start(self) -> None:
        command = ["agent", "--state", str(self.state), "--data-root", str(self.data_root)]
        command += ["--run-root", str(self.run_root), "--metrics", self.metrics, *self.arguments]
        with self.log.open("ab") as log:
            if self.program:
                command = [*self.program, *command]
                self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
            else:
                self.process = SERVER.start(command, self.environment, (0, log.fileno(), log.fileno()))
        eventually(self._answers, 60, f"agent start; log:\n{self.log.read_text()[-2000:]}")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the agent ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.run_root / "holdfast.sock")):
                return False
            # A child that the last agent was about to start when it was killed holds its sockets for a moment longer.
            return struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] != self._last

    def stop(self) -> None:
        """SIGTERM, as systemd would; containers go on."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self._last = self.process.pid
            self.process = None

    def write(self, name: str, text: str) -> Path:
        """Put a file into the state directory atomically, as git checkout and good editors do."""
        path = self.state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.base / "fresh"
        fresh.write_text(text)
        fresh.rename(path)
        return path

    def cli(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one ``holdfast`` command against this agent."""
        command = [arguments[0], "--host", self.host, *arguments[1:]]
        if options or self.program:
            options = {"capture_output": True, "text": True, "timeout": 100, "cwd": ROOT, **options}
            command = [*PROGRAM, *command]
            run = subprocess.run(command, check=False, env=self.environment, **options)
        else:
            run = subprocess.CompletedProcess(command, *SERVER.run(command, self.environment, 100))
        if check and run.returncode:
            raise AssertionError(
                f"holdfast {' '.join(arguments)}: exit {run.returncode}\n{run.stdout}{run.stderr}\n"
                f"agent log:\n{self.log.read_text()[-4000:]}"
            )
        return run

    def on_disk(self) -> set[str]:
        """The ids of all containers that have a bundle; those made ahead for the next ones have none yet."""
        return {path.parent.name for path in self.run_root.glob("bundles/*/config.json")}

    def ps(self) -> list[dict[str, Any]]:
        """What ``holdfast ps --json`` prints."""
        result: list[dict[str, Any]] = Client(self.host).get("/ps")
        return result

    def status(self) -> dict[str, Any]:
        """What ``holdfast status --json`` prints."""
        result: dict[str, Any] = Client(self.host).get("/status")
        return result

    def converge(self, seconds: int = 60) -> None:
        """Block until the host is as the state directory wants it. First revisions need not have been watched for long
        enough, which few tests are about; ``status --wait`` waits for that too."""
        deadline = time.monotonic() + seconds
        Client(self.host).get("/plan")  # the state directory as it is now
        while not is_in_place(found := Client(self.host).get("/status", wait=0.05)):
            if time.monotonic() > deadline:
                raise AssertionError(f"not converged: {found}\n{self.log.read_text()[-6000:]}")

    def keeper_pid(self) -> int:
        return int((self.run_root / "keeper.pid").read_text())

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clean()

    def clean(self) -> None:
        """Bring everything down and remove the directories."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        Client(self.host).post("/down")
        self.stop()
        shutil.rmtree(self.base)


@contextmanager
def small_disk(agent: Agent, size: str | int) -> Iterator[None]:
    """The data root of an agent that has not begun yet is a file system of ``size``, in memory."""
    agent.data_root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", agent.data_root], check=True)
    try:
        yield
    finally:
        umount = ["umount", agent.data_root]  # a keeper that has hung up may still be about to end
        eventually(lambda: subprocess.run(umount, check=False).returncode == 0, what="nobody in it")
