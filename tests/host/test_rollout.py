"""Rollouts under load, drains and probes: on a real agent, with clients that count every failed request."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import Agent, eventually

from tests.ports import reserve_port

pytestmark = pytest.mark.host

SOURCE = Path(__file__).with_name("httpserver.c")
DOCKERFILE = """\
FROM scratch
COPY --from=host busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY httpserver /bin/httpserver
"""
ROLLOUTS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("server") / "httpserver"
    subprocess.run(["gcc", "-O2", "-static", "-o", path, SOURCE], check=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def agent(server: bytes) -> Iterator[Agent]:
    with Agent() as running:
        for app in ("site", "gates"):
            (running.state / app).mkdir()
            (running.state / app / "httpserver").write_bytes(server)
            (running.state / app / "httpserver").chmod(0o755)
            running.write(f"{app}/Dockerfile", DOCKERFILE)
        yield running


def write_site(agent: Agent, port: int, version: int, extra: str = "") -> None:
    agent.write(
        "site/compose.yaml",
        f"""\
services:
  web:
    build: {{context: ., additional_contexts: {{host: /bin}}}}
    command: [httpserver, '80', 'version {version}']
    ports: ["{port}:80"]
    stop_grace_period: 20s
    deploy: {{replicas: 3, update_config: {{monitor: 100ms}}}}
    x-holdfast:
      drain: 1200ms
      probes:
        readiness: {{http: {{port: 80}}, period: 50ms, timeout: 5s}}
{extra}""",
    )


class Load:
    """wrk, from now until ``end``."""

    def __init__(self, port: int, *options: str) -> None:
        command = ["wrk", "-t1", "-c8", "-d240s", "--timeout", "5s", *options, f"http://127.0.0.1:{port}/"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(self) -> tuple[int, int, str]:
        """How many requests were answered, how many failed, and what it said."""
        self._process.send_signal(signal.SIGINT)
        text, _ = self._process.communicate(timeout=20)
        failed = re.findall(r"(?:connect|read|write|timeout) (\d+)", text) + re.findall(r"Non-2xx.*: (\d+)", text)
        answered = re.search(r"(\d+) requests in", text)
        return int(answered[1]) if answered else 0, sum(map(int, failed)), text


def test_no_request_fails_in_eight_rollouts(agent: Agent) -> None:
    """The drain is longer than the second after which TCP sends again what was lost on its way."""
    port = reserve_port()
    write_site(agent, port, 0)
    agent.converge()
    loads = [Load(port), Load(port, "-H", "Connection: close")]
    try:
        for version in range(1, ROLLOUTS + 1):
            before = {row["id"] for row in agent.ps()}
            write_site(agent, port, version)
            agent.converge()
            rows = agent.ps()
            assert len(rows) == 3
            assert not before & {row["id"] for row in rows}
    finally:
        ends = [load.end() for load in loads]
    for answered, failed, text in ends:
        assert answered > 1000, text
        assert failed == 0, text


def write_gates(agent: Agent, probes: str, drain: str = "10s") -> None:
    agent.write(
        "gates/compose.yaml",
        f"""\
services:
  web:
    build: {{context: ., additional_contexts: {{host: /bin}}}}
    command: [httpserver, '80']
    stop_grace_period: 3s
    deploy: {{update_config: {{monitor: 100ms}}}}
    x-holdfast: {{drain: {drain}, probes: {{{probes}}}}}
""",
    )


def gate(agent: Agent) -> dict[str, object]:
    """The newest that runs; there may be none while one takes the place of another."""

    def look() -> dict[str, object]:
        rows = [row for row in agent.ps() if row["app"] == "gates" and row["state"] == "running"]
        return max(rows, key=lambda row: row["created"], default={})

    return eventually(look, what="a container")


def test_probes_of_every_kind_on_a_real_container(agent: Agent) -> None:
    """A change of probes changes what is asked of the container that runs; only liveness replaces it."""
    fast = "period: 50ms, timeout: 5s"
    write_gates(
        agent,
        f"startup: {{tcp: {{port: 80}}, {fast}, failure_threshold: 100}}, readiness: {{http: {{port: 80}}, {fast}}}, "
        f"liveness: {{exec: {{command: [test, '!', -e, /sick]}}, {fast}}}",
    )
    agent.converge()
    first = gate(agent)
    assert (first["health"], first["accepting"]) == ("healthy", True)
    write_gates(agent, f"readiness: {{tcp: {{port: 81}}, {fast}, failure_threshold: 1}}")
    eventually(lambda: gate(agent)["accepting"] is False, what="not ready")
    answer = eventually(lambda: gate(agent)["answer"], what="what the probe has said")
    assert re.match(r"failed its readiness probe \(Connection refused\)(, \d+ times in a row)? so far", str(answer))
    for command in ("status", "ps"):
        assert "failed its readiness probe (Connection refused)" in agent.cli(command, check=False).stdout
    assert gate(agent)["id"] == first["id"]
    write_gates(agent, f"liveness: {{exec: {{command: [test, '!', -e, /sick]}}, {fast}}}")
    eventually(lambda: gate(agent)["accepting"] is True, what="ready again")
    assert gate(agent)["id"] == first["id"]
    agent.cli("exec", "gates-web-1", "touch", "/sick")
    eventually(lambda: gate(agent)["id"] != first["id"], what="replacement")


def test_a_stop_waits_for_connections_and_down_does_not(agent: Agent) -> None:
    write_gates(agent, "readiness: {tcp: {port: 80}, period: 50ms}", drain="60s")
    agent.converge()
    first = gate(agent)
    with socket.create_connection((str(first["ip"]), 80)) as connection:
        write_gates(agent, "readiness: {tcp: {port: 80}, period: 50ms}", drain="50s")
        text = (agent.state / "gates/compose.yaml").read_text()
        agent.write("gates/compose.yaml", text.replace("'80']", "'80', new]"))
        eventually(lambda: [r["id"] for r in agent.ps() if r["app"] == "gates"] != [first["id"]], what="successor")
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(1000).endswith(b"ok\n")
        assert first["id"] in {row["id"] for row in agent.ps() if row["state"] == "running"}
    eventually(lambda: first["id"] not in {row["id"] for row in agent.ps()}, what="stop of what nobody is connected to")
    agent.converge()
    with socket.create_connection((str(gate(agent)["ip"]), 80)):
        agent.cli("down")
        assert agent.ps() == []
