"""The guest as its checks see it: units, the agent's API and commands, processes, cgroups, and notes over a reboot."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
STATE = Path("/etc/holdfast/state")
DATA = Path("/var/lib/holdfast")
CGROUPS = Path("/sys/fs/cgroup/holdfast")
NOTES = Path("/test/notes.json")
UNITS = ("holdfast-keeper", "holdfast")
PATIENCE = 300.0


def run(*command: str, check: bool = True, seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run a command; with ``check`` an exit code but 0 is a failure that shows what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if check and done.returncode:
        said = f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{said}")
    return done


def holdfast(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The installed command."""
    return run("holdfast", *arguments, check=check, seconds=PATIENCE + 120)


class _Socket(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/holdfast/holdfast.sock")


def ask(path: str, **parameters: object) -> Any:
    """A question to the agent's API; starting the command for each poll would take seconds under emulation."""
    connection = _Socket("localhost", timeout=PATIENCE + 60)
    try:
        connection.request("GET", f"/holdfast/v1{path}?{urllib.parse.urlencode(parameters)}")
        response = connection.getresponse()
        document = json.loads(response.read())
    finally:
        connection.close()
    assert response.status == 200, document
    return document


def eventually(probe: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true result of ``probe``; an agent that does not answer yet is asked again."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = probe()
        except (OSError, AssertionError, http.client.HTTPException, ValueError, LookupError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.5)
    raise AssertionError(f"{what} did not come true in {seconds:.0f} s; last: {last!r}")


def converge() -> dict[str, Any]:
    """Wait until the agent says that everything is as wanted; returns its status."""
    status = eventually(lambda: ask("/status", wait=60), "an answering agent")
    deadline = time.monotonic() + PATIENCE
    while not status["converged"]:
        if time.monotonic() > deadline:
            raise AssertionError(f"not converged: {json.dumps(status)}")
        status = ask("/status", wait=60)
    return dict(status)


def running(app: str = "") -> dict[str, dict[str, Any]]:
    """The containers that run, by name."""
    return {row["name"]: row for row in ask("/ps") if row["state"] == "running" and (not app or row["app"] == app)}


def compute_identity(pid: int) -> str:
    """A process beyond the reuse of its pid."""
    return f"{pid}@{Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[19]}"


def observe_processes() -> dict[str, str]:
    """The first process of every container that runs, from the kernel's own knowledge."""
    return {row["id"]: compute_identity(row["pid"]) for row in running().values()}


def observe_members() -> list[int]:
    """Every process below our part of the cgroup tree."""
    return [int(pid) for path in CGROUPS.glob("**/cgroup.procs") for pid in path.read_text().split()]


def write(path: Path, text: str) -> None:
    """As a careful editor writes: a new file, on the disk, renamed into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def main_pid(unit: str) -> int:
    """The main process of a unit that is active; 0 while it is not."""
    shown = run("systemctl", "show", "-p", "MainPID", "-p", "ActiveState", unit).stdout
    fields = dict(line.split("=", 1) for line in shown.splitlines())
    return int(fields["MainPID"]) if fields["ActiveState"] == "active" else 0


def wait_agent(other_than: int = 0) -> int:
    """Wait until an agent answers whose pid is not ``other_than``; returns its pid."""

    def probe() -> int:
        pid = main_pid("holdfast")
        ask("/status")
        return pid if pid != other_than else 0

    return eventually(probe, "an agent that answers")


def note(**facts: object) -> None:
    """Remember something for a later check, also beyond a reboot or a power cut."""
    write(NOTES, json.dumps({**recall(), **facts}))


def recall() -> dict[str, Any]:
    """Everything that was noted."""
    return dict(json.loads(NOTES.read_text())) if NOTES.exists() else {}


def boot_id() -> str:
    """This boot's own id."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
