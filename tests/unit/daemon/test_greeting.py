"""What a newcomer is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.daemon.greeting import render_greeting
from agent.settings import Settings


def service(name: str, desired: int, *ports: str) -> dict[str, Any]:
    return {"name": name, "desired": desired, "running": desired, "ready": desired, "ports": list(ports)}


def test_greeting_names_what_runs_and_what_to_try() -> None:
    status = {"apps": [{"name": "hello", "services": [service("web", 3, "0.0.0.0:80->8000/tcp"), service("job", 1)]}]}
    lines = list(render_greeting(status, Settings(Path("/state")), "bin/holdfast"))
    assert lines[0] == "up: 1 app, 2 services, 4 containers"
    assert "    hello/web: 3 of 3 ready on 0.0.0.0:80->8000/tcp" in lines
    assert "    curl http://127.0.0.1:80/" in lines
    assert "    bin/holdfast status" in lines
    assert any("/state" in line and "replicas of web" in line for line in lines)
    assert any("exec hello-web-1 kill 1" in line for line in lines)


def test_greeting_names_the_socket_when_it_is_not_the_default() -> None:
    status = {"apps": [{"name": "a", "services": [service("b", 1)]}]}
    lines = "\n".join(render_greeting(status, Settings(Path("/state"), run_root=Path("/tmp/run")), "holdfast"))
    assert "holdfast status --host unix:///tmp/run/holdfast.sock" in lines


def test_greeting_of_an_empty_state() -> None:
    (line,) = render_greeting({"apps": []}, Settings(Path("/state")), "holdfast")
    assert "/state" in line
