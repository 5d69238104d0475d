"""What an agent leaves on its host, and what it does to another one: nothing."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from agents import ROOT, Agent, eventually
from apps import write_app

from agent.network.identity import Identity
from agent.settings import compute_instance
from tests.ports import reserve_port

pytestmark = pytest.mark.host
SERVICES = """\
web:
  BUILD
  init: true
  command: [sh, -c, 'echo {word} > /data/index.html; exec httpd -f -p 80 -h /data']
  stop_grace_period: 1s
  ports: ['127.0.0.1:{port}:80']
  volumes: ['data:/data']
  deploy: {{replicas: 2, resources: {{limits: {{memory: 32M, pids: 20}}}}}}
"""
PROCESSES = (b"agent.runtime.keeper", b"agent.network.nameserver")
VOLUMES = "volumes: {data: {}}\n"


def ask(*command: str) -> list[str]:
    """The lines a tool prints; none for what it does not find."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def traces(agent: Agent) -> dict[str, list[str]]:
    """All that an agent has on its host, but for its own process and the files of its data root."""
    instance = compute_instance(agent.run_root)
    routing = Identity(instance).routing_table
    processes = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(str(agent.run_root).encode() in word for word in words):
            processes += [(kind, entry.parent.name) for kind in PROCESSES if kind in b" ".join(words)]
    return {
        "links": [line for line in ask("ip", "-o", "link") if instance in line],
        "tables": [line for line in ask("nft", "list", "tables") if instance in line],
        "routes": ask("ip", "route", "show", "table", str(routing)),
        "rules": [line for line in ask("ip", "rule") if str(routing) in line.split()],
        "cgroups": [
            str(path) for top in ("", "*/") for path in Path("/sys/fs/cgroup").glob(f"{top}holdfast/{instance}")
        ],
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(agent.base) in line],
        "containers": [path.name for path in (agent.data_root / "containers").iterdir()],
        "sandboxes": [str(path) for path in agent.run_root.glob("netns/*")],
        "keepers": [pid for kind, pid in processes if kind == PROCESSES[0]],
        "name servers": [pid for kind, pid in processes if kind == PROCESSES[1]],
    }


def open_app(agent: Agent, word: str) -> int:
    port = reserve_port()
    write_app(agent, "site", SERVICES.format(word=word, port=port), VOLUMES)
    agent.converge()

    def serves() -> bool:
        with suppress(OSError):  # its containers run, their server may not listen yet
            return {fetch(port) for _ in range(4)} == {word}
        return False

    eventually(serves, what="an answer")
    return port


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
        text: bytes = answer.read()
    return text.decode().strip()


@pytest.fixture(scope="module")
def shared() -> Iterator[Agent]:
    with Agent() as running:
        yield running


@pytest.fixture
def agent(shared: Agent) -> Agent:
    """One agent for all, started again where a test has stopped it."""
    if shared.process is None:
        shared.start()
    return shared


def test_down_leaves_volumes_and_images_alone(agent: Agent) -> None:
    open_app(agent, "here")
    during = traces(agent)
    assert [name for name, value in during.items() if not value] == []
    agent.cli("down", timeout=90)
    after = traces(agent)
    assert {name: value for name, value in after.items() if value and name != "keepers"} == {}
    agent.stop()
    eventually(lambda: traces(agent)["keepers"] == [], what="the keeper ends with an agent that has no container")
    kept = {path.name for path in agent.data_root.iterdir()}
    assert {"volumes", "content", "snapshots", "holdfast.db", "holdfast.key"} <= kept
    assert [path.read_text() for path in agent.data_root.glob("volumes/**/index.html")] == ["here\n"]


def test_two_agents_do_not_meet(agent: Agent) -> None:
    """The same app on both: names, networks and addresses do not clash, and one going is not noticed by the other."""
    with Agent() as other:
        ports = open_app(agent, "one"), open_app(other, "two")
        assert (fetch(ports[0]), fetch(ports[1])) == ("one", "two")
        mine = {row["id"]: row["pid"] for row in agent.ps()}
        assert not mine.keys() & {row["id"] for row in other.ps()}
        other.kill()
        other.start()
        other.converge()
        assert fetch(ports[1]) == "two"
        other.cli("down", timeout=90)
        assert {row["id"]: row["pid"] for row in agent.ps()} == mine
        assert fetch(ports[0]) == "one"
        agent.converge()
    assert {row["id"]: row["pid"] for row in agent.ps()} == mine
    assert fetch(ports[0]) == "one"


@pytest.mark.parametrize("same", ["--data-root", "--run-root"])
def test_a_second_agent_on_one_of_the_roots_is_refused(agent: Agent, same: str) -> None:
    roots = {"--data-root": agent.base / "other-data", "--run-root": agent.base / "other-run"}
    roots[same] = agent.data_root if same == "--data-root" else agent.run_root
    command = [sys.executable, "-m", "agent", "agent", "--state", str(agent.state), "--metrics", "off"]
    for option, path in roots.items():
        command += [option, str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 1
    assert "another agent" in run.stderr + run.stdout
    assert "Traceback" not in run.stderr
    agent.converge()
