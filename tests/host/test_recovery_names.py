"""Containers look names up the whole time, whatever happens to the agent and to the name server."""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import Agent, eventually
from apps import write_app
from test_network_nameserver import traces

pytestmark = pytest.mark.host
LOOK_UP = "nslookup db 2>&1 | grep -q '^Address:.*[0-9]$$' && echo found || echo MISSED; usleep 20000"
SERVICES = f"""\
web:
  BUILD
  init: true
  command: [sh, -c, "while :; do {LOOK_UP}; done"]
  stop_grace_period: 1s
  deploy: {{update_config: {{monitor: 100ms}}}}
db:
  BUILD
  init: true
  command: [sleep, '86400']
  stop_grace_period: 1s
  deploy: {{update_config: {{monitor: 100ms}}}}
"""


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        write_app(running, "shop", SERVICES)
        running.converge()
        yield running


def server_pid(agent: Agent) -> int:
    return int((agent.run_root / "names.pid").read_text())


class Log:
    """What the container that looks up has written; read from its file, for the agent may be away."""

    def __init__(self, agent: Agent) -> None:
        (row,) = [row for row in agent.ps() if row["service"] == "web"]
        self.id = row["id"]
        self.path = agent.data_root / "containers" / row["id"] / "logs"

    def words(self) -> list[str]:
        text = b"".join(path.read_bytes() for path in sorted(self.path.iterdir(), reverse=True))
        return [word.decode() for word in re.findall(rb"found|MISSED", text)]

    def wait(self, more: int) -> None:
        wanted = len(self.words()) + more
        eventually(lambda: len(self.words()) >= wanted, what="look-ups")


def test_no_look_up_fails_while_the_agent_is_killed_away_and_coming(agent: Agent) -> None:
    log = Log(agent)
    log.wait(3)
    server, begun = server_pid(agent), len(log.words())
    agent.kill()
    log.wait(15)
    agent.start()
    agent.converge()
    log.wait(3)
    assert set(log.words()[begun:]) == {"found"}
    assert server_pid(agent) == server


def test_no_look_up_fails_while_the_name_server_is_killed(agent: Agent) -> None:
    log = Log(agent)
    log.wait(3)
    begun = len(log.words())
    for _ in range(3):
        server = server_pid(agent)
        os.kill(server, signal.SIGKILL)
        log.wait(5)
        assert server_pid(agent) != server
    assert set(log.words()[begun:]) == {"found"}


def test_a_replaced_container_has_the_name_at_once(agent: Agent) -> None:
    (row,) = [row for row in agent.ps() if row["service"] == "db"]
    os.kill(row["pid"], signal.SIGKILL)
    eventually(lambda: [now for now in agent.ps() if now["service"] == "db" and now["id"] != row["id"]], what="another")
    agent.converge()
    (now,) = [now for now in agent.ps() if now["service"] == "db" and now["state"] == "running"]
    assert now["ip"] in agent.cli("exec", "shop-web-1", "nslookup", "db").stdout


def test_names_outlive_the_agent_that_ends_and_come_again_with_the_next(agent: Agent) -> None:
    log = Log(agent)
    begun = len(log.words())
    agent.stop()
    log.wait(10)
    assert set(log.words()[begun:]) == {"found"}
    server = server_pid(agent)
    os.kill(server, signal.SIGKILL)
    agent.start()
    agent.converge()
    assert server_pid(agent) != server
    (row,) = [row for row in agent.ps() if row["service"] == "db" and row["state"] == "running"]
    assert row["ip"] in agent.cli("exec", "shop-web-1", "nslookup", "db").stdout
    with urllib.request.urlopen(f"http://{agent.metrics}/metrics", timeout=10) as answer:
        assert b"holdfast_names_answered 1.0" in answer.read()
    assert agent.status()["names"] == ""


def test_down_ends_the_name_server_and_leaves_no_file_of_it(agent: Agent) -> None:
    assert Path(f"/proc/{server_pid(agent)}").exists()
    agent.cli("down", timeout=90)
    assert traces(agent.run_root) == ([], [])
    agent.cli("sync")
    agent.converge()
    assert traces(agent.run_root)[0]
    (agent.state / "shop" / "compose.yaml").unlink()
    agent.converge()
    assert traces(agent.run_root) == ([], [])
