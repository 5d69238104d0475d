"""The host shuts down: every container ends as it wants to, and the deaf ones all the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ROOT
from keeperlab import Lab, open_lab

from agent.runtime.halt import halt_containers
from agent.runtime.protocol import StopSpec

pytestmark = pytest.mark.host


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with open_lab(tmp_path) as made:
        yield made


def test_halt_uses_each_stop_signal_and_grace(lab: Lab) -> None:
    polite = "trap 'sleep 0.3; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    lab.run("polite", "sh", "-c", polite, stop=StopSpec(2, 30.0))
    lab.run("deaf", "sleep", "1000", stop=StopSpec(15, 0.2))
    while "ready" not in lab.output("polite"):
        pass
    lab.client.upgrade()
    assert {state.id: state.stop for state in lab.client.states()} == {
        "polite": StopSpec(2, 30.0),
        "deaf": StopSpec(15, 0.2),
    }
    assert halt_containers(lab.client) == 2
    assert lab.wait("exited", "polite").code == 3
    assert lab.wait("exited", "deaf").signal == 9
    assert halt_containers(lab.client) == 0


def test_halt_by_the_command_of_the_unit(lab: Lab) -> None:
    lab.run("deaf", "sleep", "1000", stop=StopSpec(15, 0.1))
    command = [sys.executable, "-m", "agent", "keeper", "--run-root", str(lab.run_root), "--halt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ended 1 containers\n")
    assert lab.wait("exited", "deaf").signal == 9
