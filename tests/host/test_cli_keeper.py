"""The keeper as a service manager starts, upgrades and doubles it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import ROOT, eventually

from agent.errors import Waiting
from agent.runtime.client import KeeperClient
from agent.runtime.connection import open_connection

pytestmark = pytest.mark.host


@pytest.fixture
def run_root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as base:
        yield Path(base) / "run"


@contextmanager
def open_service(run_root: Path) -> Iterator[subprocess.Popen[str]]:
    """The command of the keeper's unit."""
    command = [sys.executable, "-m", "agent", "keeper", "--run-root", str(run_root)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as keeper:
        try:
            yield keeper
        finally:
            keeper.kill()


def read_pid(run_root: Path) -> int:
    try:
        return int((run_root / "keeper.pid").read_text())
    except FileNotFoundError:
        return 0


def test_keeper_runs_in_the_foreground_and_serves_an_agent(run_root: Path) -> None:
    with open_service(run_root) as keeper:
        eventually(lambda: read_pid(run_root) == keeper.pid, what="the keeper")
        client = KeeperClient(run_root, lambda event: None, spawn=False)
        client.connect()
        assert client.states() == ()
        client.close()
        assert Path(f"/proc/{keeper.pid}/comm").read_text() == "holdfast-keeper\n"
        assert run_root.stat().st_mode & 0o777 == 0o700


def test_an_agent_must_see_the_same_mounts(run_root: Path) -> None:
    """As in a unit with PrivateTmp=: layers that it mounts would be empty directories for the containers."""
    program = (
        "import sys, pathlib; from agent.runtime.client import KeeperClient;"
        "KeeperClient(pathlib.Path(sys.argv[1]), print, spawn=False).connect()"
    )
    with open_service(run_root):
        eventually(lambda: read_pid(run_root), what="the keeper")
        command = [sys.executable, "-c", program, str(run_root)]
        apart = subprocess.run(["unshare", "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert "agent and keeper are in different mount namespaces" in apart.stderr, apart.stderr


def test_upgrade_keeps_the_process_and_replaces_its_program(run_root: Path) -> None:
    with open_service(run_root) as keeper:
        eventually(lambda: read_pid(run_root) == keeper.pid, what="the keeper")
        client = KeeperClient(run_root, lambda event: None, spawn=False)
        client.connect()
        before = Path(f"/proc/{keeper.pid}/fd/2").readlink()
        command = [sys.executable, "-m", "agent", "keeper", "--run-root", str(run_root), "--upgrade"]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
        assert client.states() == ()
        client.close()
        assert b"handover" in Path(f"/proc/{keeper.pid}/cmdline").read_bytes()
        assert Path(f"/proc/{keeper.pid}/fd/2").readlink() == before
        assert read_pid(run_root) == keeper.pid


def test_second_service_stands_by_and_takes_over(run_root: Path) -> None:
    with open_service(run_root) as first:
        eventually(lambda: read_pid(run_root) == first.pid, what="the first keeper")
        with open_service(run_root) as second:
            assert second.stderr is not None
            assert "stands by" in second.stderr.readline()
            assert second.poll() is None
            first.send_signal(signal.SIGKILL)
            eventually(lambda: read_pid(run_root) == second.pid, what="the second keeper")
            open_connection(run_root, spawn=False).close()


def test_agent_that_awaits_its_keeper_starts_none(run_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.runtime.connection._ATTEMPTS", 2)
    with pytest.raises(Waiting, match="no keeper answers"):
        open_connection(run_root, spawn=False)
    assert read_pid(run_root) == 0
