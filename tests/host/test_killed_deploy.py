"""SIGKILL of the agent at its own calls during a deploy: all old or all new in the end, and no request fails.

KILL_POINTS=all kills it in eight deploys, otherwise it is killed in two.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agents import Agent, eventually
from apps import write_app

from agent.errors import HoldfastError
from tests.ports import reserve_port

pytestmark = [pytest.mark.host, pytest.mark.timeout(240)]
POINTS = 8 if os.environ.get("KILL_POINTS") == "all" else 2
REPLICAS = 3
SITE = """\
web:
  BUILD
  init: true
  command: [sh, -c, '{command}']
  environment: {{VERSION: '{version}'}}
  ports: ["{port}:80"]
  stop_grace_period: 2s
  x-holdfast: {{drain: 20s, probes: {{readiness: {{tcp: {{port: 80}}, period: 50ms, timeout: 5s}}}}}}
  deploy:
    replicas: {replicas}
    update_config: {{monitor: 200ms, parallelism: 2}}
    rollback_config: {{monitor: 100ms}}
"""
SERVE = "mkdir -p /w; echo $$VERSION > /w/index.html; exec httpd -f -p 80 -h /w"
CRASH = "exit 3"


class Visitor:
    """Asks one port again and again, each time on a new connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.failed: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.005):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request("GET", "/")
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.failed.append(f"status {response.status}")
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            finally:
                connection.close()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    killer = Path(__file__).with_name("killpoints.py")
    made.program = [sys.executable, str(killer), str(made.base / "kill")]
    with made:
        yield made


def await_kill(agent: Agent, fuse: Path, ended: Callable[[], bool]) -> None:
    """It kills itself at its point; should a deploy come to its end with fewer calls than the first one, there."""
    process = agent.process
    assert process is not None

    def over() -> bool:
        with contextlib.suppress(HoldfastError):
            return process.poll() is not None or ended()
        return False

    eventually(over, 90, "the kill or the end of the deploy")
    fuse.unlink(missing_ok=True)
    agent.kill()


def test_killed_at_calls_of_a_deploy(agent: Agent) -> None:
    port, fuse = reserve_port(), agent.base / "kill"

    def deploy(version: int, command: str = SERVE) -> None:
        write_app(agent, "site", SITE.format(command=command, version=version, port=port, replicas=REPLICAS))

    def settle() -> None:
        agent.converge(60)

    def versions() -> list[str]:
        return sorted(row["image"] + visited(row["id"]) for row in agent.ps() if row["state"] == "running")

    def visited(container: str) -> str:
        files = [*agent.data_root.glob(f"containers/{container}/**/w/index.html")]
        return files[0].read_text().strip() if files else "?"

    def taken_back() -> bool:
        return "RolledBack" in str(agent.status()["apps"])

    deploy(0)
    settle()
    fuse.write_text("0")
    deploy(1)
    settle()
    fuse.unlink()
    passed = fuse.with_suffix(".passed").read_text().splitlines()
    assert len(passed) > 20
    visitor = Visitor(port)
    force = 1
    try:
        for number in range(1, POINTS + 1):
            bad = number % 2 == 0
            share = number / (POINTS + 1) * (0.3 if bad else 1)  # one that is taken back makes fewer calls
            fuse.write_text(str(max(1, int(len(passed) * share))))
            deploy(number + 1, CRASH if bad else SERVE)
            await_kill(agent, fuse, taken_back if bad else lambda: False)
            agent.start()
            if bad:
                eventually(taken_back, 60, "the way back")
            else:
                settle()
                force = number + 1
            eventually(lambda: len(agent.ps()) == REPLICAS, what="nothing left over")
            assert [text.rpartition(":")[2][-1] for text in versions()] == [str(force)] * REPLICAS, versions()
        eventually(lambda: visitor.answered > 100, what="a hundred answers")
    finally:
        visitor.end()
    assert visitor.failed == [], f"{len(visitor.failed)} of {visitor.answered}: {visitor.failed[:3]}"
