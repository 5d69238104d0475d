"""The keeper as a service manager starts it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from agents import ROOT, eventually

from agent.runtime.client import KeeperClient

pytestmark = pytest.mark.host


def test_keeper_runs_in_the_foreground_and_serves_an_agent() -> None:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as base:
        run_root = Path(base) / "run"
        command = [sys.executable, "-m", "agent", "keeper", "--run-root", str(run_root)]
        with subprocess.Popen(command, cwd=ROOT) as keeper:
            try:
                eventually((run_root / "keeper.sock").exists, what="the keeper's socket")
                client = KeeperClient(run_root, lambda event: None, spawn=False)
                client.connect()
                assert client.states() == ()
                client.close()
                assert Path(f"/proc/{keeper.pid}/comm").read_text() == "holdfast-keeper\n"
                assert run_root.stat().st_mode & 0o777 == 0o700
            finally:
                keeper.kill()
