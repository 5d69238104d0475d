"""A backup of an agent that runs is put back into its own data root, and into that of a fresh host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ROOT, Agent, eventually
from apps import sleeper, write_app

pytestmark = pytest.mark.host


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as running:
        write_app(running, "shop", sleeper(1))
        running.converge()
        yield running


def holdfast(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *arguments, "--data-root", str(agent.data_root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_back_up_and_restore(agent: Agent, tmp_path: Path) -> None:
    file, ids = str(tmp_path / "a.tar"), {row["id"] for row in agent.ps()}
    made = holdfast(agent, "backup", file)
    assert made.returncode == 0, made.stderr
    assert "volumes" in made.stdout, "what is left out is said"
    assert "another agent" in holdfast(agent, "restore", file, "--force").stderr
    agent.kill()
    assert "--force" in holdfast(agent, "restore", file).stderr
    assert holdfast(agent, "restore", file, "--force").returncode == 0
    agent.start()
    agent.converge()
    assert {row["id"] for row in agent.ps()} == ids, "what runs stays"
    fresh = Agent()
    restored = holdfast(fresh, "restore", file)
    assert restored.returncode == 0, restored.stderr
    with fresh:
        write_app(fresh, "shop", sleeper(1))
        eventually(lambda: len(fresh.ps()) == 1, 40, "the app on the other host")
        fresh.converge()
