"""The commands around revisions, on a real agent with real containers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from agents import Agent, eventually, read_variable
from apps import sleeper, write_app

from agent.cli.client import Client
from tests.ports import reserve_port

pytestmark = pytest.mark.host

QUICK = "x-holdfast: {drain: 0s}\n"


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        write_shop(running, "red")
        eventually(lambda: in_force(running) == 1, what="the first revision")
        write_shop(running, "blue")
        eventually(lambda: in_force(running) == 2, what="the second revision")
        yield running


def write_shop(agent: Agent, colour: str, extra: str = "", top: str = "") -> None:
    service = sleeper(1, f"environment: {{COLOUR: {colour}, PASSWORD: {colour}-secret}}\n{extra}{QUICK}")
    write_app(agent, "shop", service.replace("{replicas: 1}", "{replicas: 1, update_config: {monitor: 100ms}}"), top)


def history(agent: Agent) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Client(agent.host).get("/history")
    return rows


def in_force(agent: Agent) -> int:
    return next((row["number"] for row in history(agent) if row["in_force"]), 0)


def ready(agent: Agent) -> str:
    """The reason of the app's condition Ready; nothing before the agent has looked."""
    conditions = [found for app in agent.status()["apps"] for found in app["conditions"]]
    return next((str(found["reason"]) for found in conditions if found["type"] == "Ready"), "")


def colours(agent: Agent) -> list[str]:
    """What the running containers have as COLOUR, as their processes know it."""
    return [read_variable(row["pid"], "COLOUR") for row in agent.ps() if row["state"] == "running"]


def test_a_revision_is_compared_rolled_back_to_and_let_go(agent: Agent) -> None:
    shown = agent.cli("diff", "1", "2").stdout
    assert '~ environment.COLOUR: "red" -> "blue"' in shown
    assert "secret" not in shown
    assert json.loads(agent.cli("history", "shop", "--json").stdout) == history(agent)
    assert "is in force and pinned" in agent.cli("rollback").stdout
    eventually(lambda: colours(agent) == ["red"], what="the first revision alone")
    assert agent.cli("status", check=False).returncode == 2
    assert ready(agent) == "Pinned"
    assert agent.cli("resume").stdout == "shop is resumed\n"
    agent.converge()
    eventually(lambda: in_force(agent) == 4, what="the files' revision")
    eventually(lambda: colours(agent) == ["blue"], what="the second revision alone")
    assert agent.cli("retry").stdout == "nothing was taken back\n"
    assert agent.cli("rollback", "shop", "99", check=False).returncode == 1


def test_a_paused_app_is_left_alone_until_its_plan_is_applied(agent: Agent) -> None:
    (before,) = agent.ps()
    assert agent.cli("pause", "shop").stdout == "shop is paused\n"
    write_shop(agent, "green")
    assert agent.cli("sync", "--wait", "0", check=False).returncode == 2
    assert ready(agent) == "Paused"
    plan = json.loads(agent.cli("plan", "--json", check=False).stdout)
    assert agent.ps() == [before]
    wrong = agent.cli("plan", "--apply", "0" * 16, check=False)
    assert (wrong.returncode, "holdfast plan again" in wrong.stderr) == (1, True)
    assert agent.cli("plan", "--apply", plan["hash"]).stdout == "shop is approved\n"
    agent.converge()
    assert colours(agent) == ["green"]


def test_a_port_that_another_program_has_changes_nothing(agent: Agent) -> None:
    (before,) = agent.ps()
    port = reserve_port()
    with socket.create_server(("127.0.0.1", port)):
        write_shop(agent, "white", f"ports: ['127.0.0.1:{port}:80']\n")
        eventually(lambda: ready(agent) == "PortConflict", what="the conflict")
        assert agent.ps() == [before]
    agent.cli("sync", "--wait", "50")
    assert colours(agent) == ["white"]


def test_an_app_that_is_applied_by_hand_waits(agent: Agent) -> None:
    write_shop(agent, "black", top="x-holdfast: {apply: manual}")
    eventually(lambda: ready(agent) == "ApprovalNeeded", what="the wait")
    assert colours(agent) == ["white"]
    plan = json.loads(agent.cli("plan", "--json", check=False).stdout)
    agent.cli("plan", "--apply", plan["apps"][0]["hash"])
    agent.converge()
    assert colours(agent) == ["black"]
    agent.kill()
    agent.start()
    agent.converge()
    again = agent.cli("plan", "--apply", plan["apps"][0]["hash"]).stdout
    assert again == "nothing waits for an approval\n", "the answer may have been lost"
