"""Pulls and builds that are cut short by a dead registry or a dead agent: what runs stays, what was begun goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import Agent, eventually
from apps import DOCKERFILE, sleeper, write_app
from registry import Registry, busybox_layer
from test_image_cut import Proxy

from agent.settings import compute_instance

pytestmark = pytest.mark.host
PULLED = """\
services:
  web:
    image: {reference}
    command: [sleep, '86400']
    stop_grace_period: 0s
    deploy: {{replicas: 2}}
"""


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry() as opened:
        for name in ("dies:1", "killed:1"):
            opened.push_layers(name, [busybox_layer({"big": os.urandom(3 << 20)})])
        yield opened


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    opened = Proxy(registry)
    opened.gate = threading.Event()
    yield opened
    opened.gate.set()
    opened.close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as running:
        write_app(running, "steady", sleeper(2))
        running.converge()
        yield running


def alive(agent: Agent, app: str) -> dict[str, int]:
    return {row["id"]: row["pid"] for row in agent.ps() if row["app"] == app and row["state"] == "running"}


def await_condition(agent: Agent, app: str, *reasons: str) -> tuple[str, str]:
    """Wait until the Ready condition of an app has one of these reasons; returns that, and what all its conditions
    say at that moment, for they are others when it tries again."""

    def look() -> tuple[str, str] | None:
        found = next((one["conditions"] for one in agent.status()["apps"] if one["name"] == app), [])
        reason = next((entry["reason"] for entry in found if entry["type"] == "Ready"), "")
        return (reason, str(found)) if reason in reasons else None

    return eventually(look, 90, f"{' or '.join(reasons)} of {app}") or ("", "")


def pull_and_hold(agent: Agent, proxy: Proxy, name: str) -> None:
    """Let the agent pull until a layer is on its way, and no further."""
    agent.write("pulled.yaml", PULLED.format(reference=f"{proxy.address}/{name}"))
    assert proxy.held.wait(60)


def test_registry_dies_in_the_middle_of_a_pull(agent: Agent, registry: Registry, proxy: Proxy) -> None:
    steady = alive(agent, "steady")
    pull_and_hold(agent, proxy, "dies:1")
    registry.kill()
    assert proxy.gate is not None
    proxy.gate.set()
    await_condition(agent, "pulled", "RegistryUnreachable")
    await_condition(agent, "steady", "Converged")
    write_app(agent, "steady", sleeper(3))
    eventually(lambda: len(alive(agent, "steady")) == 3, what="another app goes on")
    registry.start()
    agent.converge(120)
    assert len(alive(agent, "pulled")) == 2
    assert steady.items() <= alive(agent, "steady").items()
    assert any("range: bytes=" in request.lower() for request in proxy.blob_requests())


def test_agent_killed_in_the_middle_of_a_pull(agent: Agent, proxy: Proxy) -> None:
    steady = alive(agent, "steady")
    pull_and_hold(agent, proxy, "killed:1")
    agent.kill()
    assert proxy.gate is not None
    proxy.gate.set()
    agent.start()
    agent.converge(60)
    assert alive(agent, "steady") == steady
    assert len(alive(agent, "pulled")) == 2
    assert list((agent.data_root / "content/ingest").iterdir()) == []


def test_agent_killed_in_the_middle_of_a_build(agent: Agent) -> None:
    """The step that ran ends with its agent's next start, and nothing of it is left."""
    steady = alive(agent, "steady")
    running = set(agent.run_root.glob("keeper/*/state.json"))
    agent.write("built/Dockerfile", f"{DOCKERFILE}RUN sleep 3; echo done > /made\n")
    write_app(agent, "built", sleeper(1))
    eventually(lambda: set(agent.run_root.glob("keeper/*/state.json")) - running, what="the step runs")
    agent.kill()
    agent.start()
    agent.converge(60)
    assert alive(agent, "steady") == steady
    assert agent.cli("exec", "built-web-1", "cat", "/made").stdout == "done\n"
    ids = {row["id"] for row in agent.ps()}
    eventually(lambda: agent.on_disk() == ids, what="no other bundle")
    own = [f"{top}holdfast/{compute_instance(agent.run_root)}/*" for top in ("", "*/")]
    cgroups = {path.name for pattern in own for path in Path("/sys/fs/cgroup").glob(pattern)}
    builds = {place: [*within, *files] for place, within, files in os.walk(agent.data_root) if "build" in place}
    assert [place for place, names in builds.items() if any(name.startswith("sleep") for name in names)] == []
    eventually(
        lambda: {path.parent.name for path in agent.run_root.glob("keeper/*/state.json")} == ids,
        what="the keeper forgets the step",
    )
    assert ids <= cgroups
