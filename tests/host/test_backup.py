"""A backup of an agent that runs is put back into its own data root, and into that of a fresh host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import ROOT, Agent, eventually, read_variable
from apps import sleeper, write_app

from agent.cli.client import Client

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
        eventually(lambda: len(fresh.ps()) == 1, 60, "the app on the other host")
        fresh.converge()


GATED = """\
web:
  BUILD
  init: true
  command: [sh, -c, 'while ! [ -e /gate/{gate} ]; do sleep 0.02; done; exit 3']
  environment: {{VERSION: '{version}'}}
  volumes: ['{gates}:/gate:ro']
  stop_grace_period: 1s
  deploy: {{replicas: 2, update_config: {{monitor: {monitor}}}, rollback_config: {{monitor: 100ms}}}}
  x-holdfast:
    drain: 0s
    probes: {{readiness: {{exec: {{command: [test, -e, '/gate/{ready}']}}, period: 50ms, timeout: 5s}}}}
"""


VERSIONS = {
    1: {"gate": "never", "ready": ".", "monitor": "100ms"},
    2: {"gate": "never", "ready": "open", "monitor": "100ms"},
    3: {"gate": "fail", "ready": ".", "monitor": "10m"},
}


def write_gated(agent: Agent, gates: Path, version: int) -> None:
    """The first version is good at once; the second one when ``open`` is there; the third is watched until ``fail`` is.

    So it is no matter of time which of them is found in the middle of its deploy.
    """
    write_app(agent, "shop", GATED.format(gates=gates, version=version, **VERSIONS[version]))


def history(agent: Agent) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Client(agent.host).get("/history")
    return rows


def says(agent: Agent, text: str) -> bool:
    return text in json.dumps(agent.status()["apps"])


def versions(agent: Agent) -> list[str]:
    """What the running containers have as VERSION, as their processes know it."""
    return [read_variable(row["pid"], "VERSION") for row in agent.ps() if row["state"] == "running"]


def back_up(agent: Agent, file: Path) -> Path:
    made = holdfast(agent, "backup", str(file))
    assert made.returncode == 0, made.stderr
    return file


def go_on(agent: Agent, file: Path, statuses: list[str], version: str, code: int) -> None:
    """On another host, with the same files: what becomes of the deploy there."""
    other = Agent()
    other.state = agent.state
    assert holdfast(other, "restore", str(file)).returncode == 0
    with other:
        eventually(lambda: [row["status"] for row in history(other)] == statuses, 60, f"{statuses} in the end")
        eventually(lambda: versions(other) == [version] * 2, 60, f"all of version {version}")
        eventually(lambda: [app["actions"] for app in Client(other.host).get("/plan")["apps"]] == [[]], what="the end")
        assert other.cli("status", check=False).returncode == code


def test_backups_from_the_middle_of_a_deploy(tmp_path: Path) -> None:
    """The deploy goes on from there: to all new, or, when it fails on that host, back to all old."""
    gates = tmp_path / "gates"
    gates.mkdir()
    with Agent() as agent:
        write_gated(agent, gates, 1)
        eventually(lambda: [row["status"] for row in history(agent)] == ["good"], 60, "the first revision")
        write_gated(agent, gates, 2)
        eventually(lambda: len(agent.ps()) == 3, 60, "the first container of the second revision")
        rolling = back_up(agent, tmp_path / "rolling.tar")
        assert [row["status"] for row in history(agent)] == ["good", "deploying"]
        (gates / "open").touch()
        eventually(lambda: [row["status"] for row in history(agent)] == ["good", "good"], 60, "the second revision")
        write_gated(agent, gates, 3)
        eventually(lambda: says(agent, "is in place and watched"), 60, "the watch")
        agent.kill()
        watched = back_up(agent, tmp_path / "watched.tar")
        (gates / "fail").touch()
        go_on(agent, watched, ["good", "good", "rolled-back"], "2", 2)
        write_gated(agent, gates, 2)
        go_on(agent, rolling, ["good", "good"], "2", 0)
