"""On a real host: who did what to a container, why it is as it is, and who is told, across kills of the agent."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, eventually
from apps import sleeper, write_app

from agent.cli.client import Client

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit/notify"))
from receiver import Inbox, receiving

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    with receiving() as opened:
        yield opened


@pytest.fixture(scope="module")
def agent(inbox: Inbox) -> Iterator[Agent]:
    with tempfile.TemporaryDirectory(prefix="holdfast-test-") as directory:
        file = Path(directory) / "notify.yaml"
        file.write_text(json.dumps({"notify": [{"webhook": f"{inbox.url}/hook", "on": ["rolled-back", "crash-loop"]}]}))
        with Agent("--notify", str(file)) as running:
            write_app(running, "shop", sleeper(1))
            running.converge()
            yield running


def events(agent: Agent, reason: str) -> list[dict[str, Any]]:
    return [event for event in Client(agent.host).stream("GET", "/events", tail=2000) if event["reason"] == reason]


def running(agent: Agent, name: str = "shop-web-1") -> dict[str, Any]:
    return eventually(lambda: next((r for r in agent.ps() if r["name"] == name and r["state"] == "running"), None))


def why(agent: Agent, target: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(agent.cli("why", "--json", target).stdout)
    return found


def test_an_exec_that_ends_a_container_is_named(agent: Agent) -> None:
    victim = running(agent)
    agent.cli("exec", "shop-web-1", "kill", "1", check=False)
    (event,) = eventually(lambda: [e for e in events(agent, "DriftStopped") if e["details"]["id"] == victim["id"]])
    who = event["details"]["who"]
    assert (who["uid"], event["details"]["ran"]) == (0, "kill 1")
    assert who["pid"] > 0
    assert re.search(r"agent exec --host \S+ shop-web-1 kill 1", who["command"])
    eventually(lambda: running(agent)["id"] != victim["id"])


def test_what_the_host_does_to_a_container_is_drift(agent: Agent) -> None:
    agent.converge()
    victim = running(agent)
    (path,) = re.findall(r"^0::/(\S+)$", Path(f"/proc/{victim['pid']}/cgroup").read_text(), re.M)
    (cgroup,) = (
        tree / path for tree in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (tree / path).exists()
    )
    (cgroup / "cgroup.kill").write_text("1")
    (event,) = eventually(lambda: [e for e in events(agent, "DriftKilled") if e["details"]["id"] == victim["id"]])
    assert "by signal 9, which Holdfast did not send" in event["message"]
    eventually(lambda: running(agent)["id"] != victim["id"])
    agent.converge()


def test_a_killed_agent_forgets_nothing_that_matters(agent: Agent) -> None:
    """The exit that came while no agent was there is told by the next one, and the story of the container is whole."""
    agent.converge()
    victim = running(agent)
    before = [event["number"] for event in eventually(lambda: events(agent, "DeploySucceeded"))]
    agent.kill()
    os.kill(victim["pid"], signal.SIGKILL)
    agent.start()
    eventually(lambda: [e for e in events(agent, "Exited") if e["details"]["id"] == victim["id"]])
    assert [event["number"] for event in events(agent, "DeploySucceeded")] == before
    eventually(lambda: running(agent)["id"] != victim["id"])
    kinds = {"revision", "deploy", "plan", "start", "exit", "replacement", "now"}
    eventually(lambda: kinds <= {step["kind"] for step in why(agent, victim["id"][:12])}, what="the whole story")
    steps = why(agent, victim["id"][:12])
    (revision,) = [step for step in steps if step["kind"] == "revision"]
    assert revision["details"]["file"].endswith("/shop/compose.yaml")
    assert revision["details"]["line"] == 2
    told = agent.cli("why", "shop-web-1").stdout
    assert re.search(r"revision +revision 1 \([0-9a-f]{12}\) asks for web in \S+/shop/compose.yaml:2\n", told)
    assert agent.cli("why", "nothing", check=False).returncode == 1
    assert "AgentStarted" in agent.cli("events", "--since", "10m", "--tail", "2000").stdout
    assert agent.cli("events", "--since", "2999-01-01T00:00:00Z").stdout == ""


def test_want_of_memory_is_named_and_a_failed_deploy_is_told_once(agent: Agent, inbox: Inbox) -> None:
    agent.converge()
    command = "command: [sh, -c, 'echo filling; head -c 200m /dev/zero | tail']\n"
    service = sleeper(1).replace("command: [sleep, '86400']\n", command)
    service = service.replace("deploy: {", "deploy: {resources: {limits: {memory: 16m}}, ").replace("100ms", "5s")
    write_app(agent, "shop", service)
    got = json.loads(inbox.next(90).body)
    assert (got["kind"], got["app"], got["reason"]) == ("rolled-back", "shop", "DeployRolledBack")
    assert "for want of memory" in got["message"]
    assert eventually(lambda: events(agent, "OutOfMemory"))
    (lines,) = eventually(lambda: events(agent, "LastLines"))
    assert ":\nfilling" in lines["message"]
    told = agent.cli("sync", "--wait", "600", check=False)
    assert (told.returncode, "RolledBack" in told.stdout) == (2, True), "it says so at once"
    assert inbox.url not in agent.log.read_text()
    write_app(agent, "shop", sleeper(1))
    agent.converge()
    assert inbox.arrived.empty()
