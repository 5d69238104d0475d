"""A directory of YAML becomes running containers, and stays that way: on a real agent, by its command line."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from agents import Agent, eventually
from apps import sleeper, write_app

from tests.ports import reserve_port

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with Agent() as running:
        yield running


@pytest.fixture(autouse=True)
def empty_state(agent: Agent) -> Iterator[None]:
    yield
    for path in agent.state.iterdir():
        path.rename(agent.base / f"old-{path.name}-{os.urandom(3).hex()}")
    eventually(lambda: not agent.ps(), what="prune")


def running(agent: Agent, app: str) -> dict[int, dict[str, Any]]:
    return {row["slot"]: row for row in agent.ps() if row["app"] == app and row["state"] == "running"}


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        body: bytes = answer.read()
    return body.decode()


def test_scale_up_and_down_keeps_the_others(agent: Agent) -> None:
    write_app(agent, "scale", sleeper(2))
    agent.converge()
    first = running(agent, "scale")
    assert sorted(first) == [1, 2]
    write_app(agent, "scale", sleeper(5))
    agent.converge()
    grown = running(agent, "scale")
    assert sorted(grown) == [1, 2, 3, 4, 5]
    assert {slot: grown[slot]["id"] for slot in first} == {slot: first[slot]["id"] for slot in first}
    write_app(agent, "scale", sleeper(1))
    agent.converge()
    eventually(lambda: len(agent.ps()) == 1, what="scale down")
    assert running(agent, "scale")[1]["id"] == first[1]["id"]


def test_second_sync_does_nothing(agent: Agent) -> None:
    write_app(agent, "calm", sleeper(3))
    agent.converge()
    before = {row["id"] for row in agent.ps()}
    assert agent.cli("status", "--wait", "50").returncode == 0
    assert agent.cli("plan").returncode == 0
    assert agent.cli("sync").returncode == 0
    assert {row["id"] for row in agent.ps()} == before


def test_changed_service_is_replaced_start_first(agent: Agent) -> None:
    write_app(agent, "change", sleeper(2))
    agent.converge()
    before = {row["id"] for row in agent.ps()}
    write_app(agent, "change", sleeper(2, "environment: {COLOUR: blue}\n"))
    agent.converge()
    eventually(lambda: len(agent.ps()) == 2, what="old ones removed")
    assert not before & {row["id"] for row in agent.ps()}
    assert agent.cli("exec", "change-web-1", "sh", "-c", "echo $COLOUR").stdout == "blue\n"


def test_killed_container_is_replaced(agent: Agent) -> None:
    write_app(agent, "heal", sleeper(2))
    agent.converge()
    before = running(agent, "heal")
    os.kill(before[1]["pid"], signal.SIGKILL)

    def healed() -> bool:
        now = running(agent, "heal")
        return len(now) == 2 and now[1]["id"] != before[1]["id"]

    eventually(healed, what="replacement")
    after = running(agent, "heal")
    assert after[2]["id"] == before[2]["id"]
    assert after[1]["restarts"] == 1


def test_logs_tell_why_the_one_before_died(agent: Agent) -> None:
    body = "web:\n  BUILD\n  command: [sh, -c, 'echo life of $$(cat /proc/sys/kernel/random/uuid); exec sleep 86400']\n"
    body += "  stop_grace_period: 1s\n"
    write_app(agent, "lives", body)
    agent.converge()
    first = running(agent, "lives")[1]
    said = eventually(lambda: agent.cli("logs", "lives-web-1").stdout, what="its first line")
    agent.cli("exec", "lives-web-1", "sh", "-c", "echo out of cheese > /proc/1/fd/1")
    os.kill(first["pid"], signal.SIGKILL)

    def replaced() -> bool:
        rows = agent.ps()
        return len(rows) == 1 and rows[0]["id"] != first["id"]

    eventually(replaced, what="replacement")
    agent.converge()
    eventually(lambda: agent.cli("logs", "lives-web-1").stdout.count("life of") == 2, what="line of the new one")
    old, why, new = agent.cli("logs", "lives-web-1").stdout.splitlines(keepends=True)
    assert (old, why) == (said, "out of cheese\n")
    assert new not in (old, why)
    assert agent.cli("logs", "--tail", "1", "lives-web-1").stdout == new
    assert agent.cli("logs", "--tail", "2", "web").stdout.count("cheese") == 1
    agent.kill()
    (agent.data_root / "logs/nobody").mkdir()
    agent.start()
    assert [path.name for path in (agent.data_root / "logs").iterdir()] == ["lives-web-1"]
    assert agent.cli("logs", "--tail", "2", "lives-web-1").stdout == why + new


def test_invalid_file_changes_nothing_and_is_named(agent: Agent) -> None:
    write_app(agent, "sturdy", sleeper(2))
    write_app(agent, "other", sleeper(1))
    agent.converge()
    before = {row["id"] for row in agent.ps()}
    agent.write("sturdy/compose.yaml", "services:\n  web:\n    imagee: x\n    build: 3\n")

    def refused() -> str:
        conditions = {app["name"]: app["conditions"] for app in agent.status()["apps"]}
        return next((c["message"] for c in conditions["sturdy"] if c["reason"] == "InvalidSpec"), "")

    message = eventually(refused, what="InvalidSpec condition")
    assert "compose.yaml:3:5" in message
    assert "image" in message
    write_app(agent, "other", sleeper(2))
    eventually(lambda: len(running(agent, "other")) == 2, what="the other app goes on")
    assert before <= {row["id"] for row in agent.ps()}


def test_failing_app_does_not_delay_another(agent: Agent) -> None:
    agent.write("broken.yaml", "services:\n  web: {image: '127.0.0.1:9/absent:1'}\n")
    write_app(agent, "fine", sleeper(1))
    eventually(lambda: len(running(agent, "fine")) == 1, what="the healthy app")
    assert agent.cli("status", check=False).returncode == 2
    assert agent.cli("status", "--wait", "1", check=False).returncode == 2


def test_published_port_reaches_every_replica(agent: Agent) -> None:
    port = reserve_port()
    write_app(
        agent,
        "site",
        f"""\
        web:
          BUILD
          command: [sh, -c, 'mkdir -p /w; hostname > /w/index.html; exec httpd -f -p 80 -h /w']
          stop_grace_period: 1s
          ports: ["127.0.0.1:{port}:80"]
          deploy: {{replicas: 3}}
        """,
    )
    agent.converge()
    seen: set[str] = set()

    def all_seen() -> bool:
        with suppress(OSError):  # a container runs before its server listens
            seen.add(fetch(port).strip())
        return len(seen) == 3

    eventually(all_seen, what="three different answers")
    assert seen == {"site-web-1", "site-web-2", "site-web-3"}


def test_services_find_each_other_by_name(agent: Agent) -> None:
    write_app(
        agent,
        "names",
        """\
        web:
          BUILD
          command: [sh, -c, 'mkdir -p /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w']
          stop_grace_period: 1s
        visitor:
          BUILD
          init: true
          command: [sleep, '86400']
          stop_grace_period: 1s
          depends_on: [web]
        """,
    )
    agent.converge()
    for name in ("web", "names-web-1"):
        command = ("exec", "names-visitor-1", "wget", "-qO-", f"http://{name}/")
        assert eventually(lambda command=command: agent.cli(*command, check=False).stdout, what=name) == "hello\n"


def test_named_volume_outlives_its_app(agent: Agent) -> None:
    body = "web:\n  BUILD\n  init: true\n  command: [sleep, '86400']\n  volumes: ['data:/data']\n"
    write_app(agent, "keep", body, "volumes: {data: {}}\n")
    agent.converge()
    agent.cli("exec", "keep-web-1", "sh", "-c", "echo precious > /data/file")
    (agent.state / "keep").rename(agent.base / "gone")
    eventually(lambda: not agent.ps(), what="prune")
    assert (agent.data_root / "volumes/keep_data/_data/file").read_text() == "precious\n"
    write_app(agent, "keep", body, "volumes: {data: {}}\n")
    agent.converge()
    assert agent.cli("exec", "keep-web-1", "cat", "/data/file").stdout == "precious\n"


def test_unhealthy_container_is_replaced(agent: Agent) -> None:
    extra = "healthcheck: {test: [CMD, test, '!', -e, /sick], interval: 100ms, retries: 2, timeout: 5s}\n"
    write_app(agent, "health", sleeper(1, extra))
    agent.converge()
    first = running(agent, "health")[1]
    assert first["health"] == "healthy"
    agent.cli("exec", "health-web-1", "touch", "/sick")

    def replaced() -> bool:
        rows = [row for row in agent.ps() if row["state"] == "running"]
        return len(rows) == 1 and rows[0]["id"] != first["id"] and rows[0]["health"] == "healthy"

    eventually(replaced, what="replacement of the unhealthy container")


def test_completed_dependency_comes_first(agent: Agent) -> None:
    write_app(
        agent,
        "order",
        """\
        migrate:
          BUILD
          command: [sh, -c, 'sleep 0.3; echo done > /shared/flag']
          restart: "no"
          volumes: ['shared:/shared']
        web:
          BUILD
          init: true
          command: [sh, -c, 'cat /shared/flag && exec sleep 86400']
          volumes: ['shared:/shared']
          depends_on: {migrate: {condition: service_completed_successfully}}
        """,
        "volumes: {shared: {}}\n",
    )
    agent.converge()
    rows = {row["service"]: row for row in agent.ps()}
    assert rows["migrate"]["state"] == "exited"
    assert rows["web"]["state"] == "running"
    assert rows["web"]["restarts"] == 0
    said = eventually(lambda: agent.cli("logs", "order-web-1").stdout, what="its first line")
    assert said.splitlines()[-1].endswith("done")


def test_plan_says_what_would_change(agent: Agent) -> None:
    write_app(agent, "planned", sleeper(1))
    agent.cli("status", "--wait", "50")
    plan = json.loads(agent.cli("plan", "--json").stdout)
    assert not any(app["actions"] for app in plan["apps"])
