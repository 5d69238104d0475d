from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_agent import FakeAgent

from agent.api.server import ApiServer
from agent.cli.client import AgentError, AgentUnreachable, Client
from agent.engine.model import ContainerEvent
from agent.errors import Conflict, Refused, Waiting
from tests.ports import reserve_port

READY = [{"type": "Ready", "status": "True", "reason": "Up", "message": ""}]
SERVICE = {"name": "web", "desired": 3, "running": 3, "ready": 3, "image": "x"}


@pytest.fixture
def agent() -> Iterator[FakeAgent]:
    with FakeAgent() as running:
        yield running


def fetch(agent: FakeAgent, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{agent.metrics_port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_status_says_whether_it_is_converged(agent: FakeAgent) -> None:
    agent.controller.apps = [{"name": "shop", "conditions": READY, "services": [SERVICE]}]
    assert Client(agent.host).get("/status") == {"apps": agent.controller.apps, "converged": False}
    agent.controller.converged = True
    assert Client(agent.host).get("/status")["converged"] is True


def test_status_wait_returns_when_told_and_not_before(agent: FakeAgent) -> None:
    agent.controller.apps = [{"name": "a", "conditions": [], "services": []}]
    assert Client(agent.host).get("/status", wait=0.05)["converged"] is False
    agent.controller.told.set()
    assert Client(agent.host).get("/status", wait=60)["converged"] is True


def test_down_reports_what_was_there(agent: FakeAgent) -> None:
    agent.controller.rows = [{"name": "a-web-1"}, {"name": "a-web-2"}]
    assert Client(agent.host).post("/down") == {"removed": ["a-web-1", "a-web-2"]}
    assert agent.controller.calls == ["down"]


def test_down_tells_how_far_it_is_and_goes_on_without_its_client(agent: FakeAgent) -> None:
    records = [agent.add(name) for name in ("a-web-1", "a-web-2")]
    agent.controller.rows = [{"name": record.name} for record in records]
    agent.controller.held = threading.Event()
    stream = Client(agent.host).stream("POST", "/down", progress=True)
    assert next(stream) == {"stopping": ["a-web-1", "a-web-2"]}
    for kind, record in (("exited", records[1]), ("oom", records[0]), ("removed", records[1])):
        agent.engine.announce(ContainerEvent(kind, record.id, 1.0))
    assert next(stream) == {"progress": {"container": "a-web-2", "state": "stopped"}}
    assert next(stream) == {"progress": {"container": "a-web-2", "state": "removed"}}
    agent.controller.held.set()
    assert list(stream) == [{"removed": ["a-web-1", "a-web-2"]}]
    agent.controller.rows = [{"name": record.name} for record in records]
    agent.controller.held.clear()
    leaving = Client(agent.host).stream("POST", "/down", progress=True)
    next(leaving)
    del leaving
    agent.controller.held.set()
    while agent.controller.rows:
        time.sleep(0.01)


def test_sync_reconciles_once(agent: FakeAgent) -> None:
    agent.controller.told.set()
    assert Client(agent.host).post("/sync", wait=5)["converged"] is True
    assert agent.controller.calls == ["sync"]


@pytest.mark.parametrize(
    ("method", "path", "reason"),
    [
        ("GET", "/nothing", "NotFound"),
        ("POST", "/status", "MethodNotAllowed"),
        ("GET", "/status?wait=nan", "InvalidRequest"),
        ("GET", "/status?wait=-1", "InvalidRequest"),
        ("GET", "/events?follow=perhaps", "InvalidRequest"),
        ("GET", "/logs", "InvalidRequest"),
        ("GET", "/logs?target=absent", "NotFound"),
        ("GET", "/logs?target=x&tail=-3", "InvalidRequest"),
        ("POST", "/exec", "UpgradeRequired"),
    ],
)
def test_faults_are_json_with_a_reason(agent: FakeAgent, method: str, path: str, reason: str) -> None:
    with pytest.raises(AgentError) as caught:
        list(Client(agent.host).stream(method, path))
    assert caught.value.reason == reason


def test_unexpected_failure_tells_nothing_but_its_kind(agent: FakeAgent) -> None:
    def fail() -> Any:
        raise RuntimeError("password=hunter2")

    agent.controller.pending_plan = fail  # type: ignore[method-assign]
    with pytest.raises(AgentError) as caught:
        Client(agent.host).get("/plan")
    assert caught.value.reason == "InternalError"
    assert "hunter2" not in str(caught.value)


def test_error_messages_carry_no_secret(agent: FakeAgent) -> None:
    agent.engine.images.failure = Waiting("cannot reach https://joe:hunter2@registry/v2/")
    with pytest.raises(AgentError) as caught:
        list(Client(agent.host).stream("POST", "/pull", {"reference": "x"}))
    assert "registry" in caught.value.message
    assert "hunter2" not in caught.value.message


def test_body_is_bounded(agent: FakeAgent) -> None:
    with pytest.raises(AgentError) as caught:
        list(Client(agent.host).stream("POST", "/pull", {"reference": "x" * (2 << 20)}))
    assert caught.value.reason == "RequestTooLarge"


@pytest.mark.parametrize("body", [[], {"reference": 3}, {"reference": "x", "policy": "maybe"}, {}])
def test_bodies_are_checked(agent: FakeAgent, body: Any) -> None:
    with pytest.raises(AgentError) as caught:
        list(Client(agent.host).stream("POST", "/pull", body))
    assert caught.value.reason == "InvalidRequest"


def test_socket_is_closed_to_others(agent: FakeAgent) -> None:
    assert stat.S_IMODE(agent.socket.stat().st_mode) == 0o660
    assert agent.socket.stat().st_uid == os.getuid()
    assert [path.name for path in agent.data_root.iterdir()] == ["holdfast.sock"]


def test_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with FakeAgent() as agent:
        server = ApiServer(agent, [f"unix://{path}"], None)
        agent.run(server.start())
        assert Client(f"unix://{path}").get("/version")
        second = ApiServer(agent, [f"unix://{path}"], None)
        with pytest.raises(Conflict, match="another agent"):
            agent.run(second.start())
        assert Client(f"unix://{path}").get("/version")
        agent.run(server.close())
    assert not path.exists()


def test_a_file_in_the_socket_place_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with FakeAgent() as agent, pytest.raises(Refused, match="not a socket"):
        agent.run(ApiServer(agent, [f"unix://{path}"], None).start())
    assert path.read_text() == "precious"


@pytest.mark.parametrize("host", ["tcp://0.0.0.0:0", "tcp://192.0.2.1:0", "tcp://[::]:0"])
def test_tcp_is_for_loopback_only(host: str) -> None:
    with FakeAgent() as agent, pytest.raises(Refused, match="no authentication"):
        agent.run(ApiServer(agent, [host], None).start())


@pytest.mark.parametrize(
    "host", ["http://x", "unix://relative", "tcp://127.0.0.1", "tcp://name:80", "x", "unix:///" + "a" * 120]
)
def test_bad_hosts_are_named(host: str) -> None:
    with FakeAgent() as agent, pytest.raises(Refused) as caught:
        agent.run(ApiServer(agent, [host], None).start())
    assert caught.value.reason == "InvalidHost"


def test_metrics_address_in_use_is_said_and_nothing_stays_open(tmp_path: Path) -> None:
    with FakeAgent() as agent, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = ApiServer(agent, [f"unix://{tmp_path}/s"], f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(Conflict, match="in use") as caught:
            agent.run(server.start())
        assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_web_pages_cannot_drive_the_api_over_tcp() -> None:
    with FakeAgent() as agent:
        port = reserve_port()
        server = ApiServer(agent, [f"tcp://127.0.0.1:{port}"], None)
        agent.run(server.start())
        assert Client(f"tcp://127.0.0.1:{port}").get("/version")
        for headers in ({"Origin": "http://evil"}, {"Host": "evil.example"}):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/holdfast/v1/down", headers=headers)
            answer = connection.getresponse()
            assert json.load(answer)["reason"] == "CrossSite"
            connection.close()
        assert agent.controller.calls == []
        agent.run(server.close())


def test_absent_agent_is_said_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AgentUnreachable) as caught:
        Client(f"unix://{tmp_path}/s").get("/status")
    assert "holdfast agent --state" in (caught.value.hint or "")


def test_health_and_readiness(agent: FakeAgent) -> None:
    assert fetch(agent, "/healthz") == (200, "ok\n")
    assert fetch(agent, "/readyz") == (200, "ok\n")
    agent.controller.synced = False
    agent.engine.connected = False
    status, text = fetch(agent, "/readyz")
    assert status == 503
    assert "reconcile" in text
    assert "keeper" in text


def test_metrics_follow_their_objects(agent: FakeAgent) -> None:
    agent.controller.apps = [{"name": "shop", "conditions": READY, "services": [SERVICE]}]
    agent.add("shop-web-1")
    agent.metrics.restarted("shop", "web")
    text = fetch(agent, "/metrics")[1]
    assert 'holdfast_service_desired_replicas{app="shop",service="web"} 3.0' in text
    assert 'holdfast_service_restarts_total{app="shop",service="web"} 1.0' in text
    assert 'container="shop-web-1"' in text
    run = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    agent.controller.apps = []
    agent.engine.containers.records.clear()
    text = fetch(agent, "/metrics")[1]
    assert 'app="shop"' not in text
