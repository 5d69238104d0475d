"""The whole product, agent and command line, against those who share its host; numbers are rows of the attack list."""

from __future__ import annotations

import base64
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, eventually
from apps import BUILD, DOCKERFILE, sleeper, write_app
from registry import Registry

from agent.api.framing import UPGRADE
from agent.api.threads import GATE_WORKERS
from agent.controller.gate import QUICK_THREADS, SLOW_THREADS

pytestmark = pytest.mark.host
PASSWORD = "canary-of-the-registry"
# one for each way into the product; names that no rule knows for a secret's
SECRETS = {
    "environment": "canary-of-environment",
    "env_file": "canary-of-env-file",
    "interpolated": "canary-of-dot-env",
    "build argument": "canary-of-build-args",
    "old environment": "canary-of-old-version",
    "registry": PASSWORD,
    "exec": "canary-of-exec",
}


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with Registry(users={"user": PASSWORD}) as opened:
        opened.push_busybox("private:1")
        yield opened


@pytest.fixture(scope="module")
def agent(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """At debug level, with credentials, and an environment of its own that is nobody's business."""
    home = tmp_path_factory.mktemp("home")
    auth = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))
    with Agent("--log-level", "debug", environment={"HOME": str(home), "SECRET": "canary-agent"}) as running:
        write_app(running, "calm", sleeper(1))
        running.converge()
        yield running


def fetch(agent: Agent) -> str:
    with urllib.request.urlopen(f"http://{agent.metrics}/metrics", timeout=10) as answer:
        text: bytes = answer.read()
    return text.decode()


def write_secrets(agent: Agent, registry: Registry, colour: str) -> None:
    """An app that carries every secret."""
    agent.write("vault/secret.env", f"SHADE={SECRETS['env_file']}\n")
    agent.write("vault/.env", f"TINT={SECRETS['interpolated']}\n")
    agent.write("vault/Dockerfile", f"{DOCKERFILE}ARG PAINT=none\nRUN test -n $PAINT\n")
    build = BUILD.replace("build: {", f"build: {{args: {{PAINT: {SECRETS['build argument']}}}, ")
    agent.write(
        "vault/compose.yaml",
        f"""\
services:
  built:
    {build}
    init: true
    command: [sleep, '86400']
    stop_grace_period: 1s
    environment: {{COLOUR: {colour}, TINT: "$TINT"}}
    env_file: secret.env
    healthcheck: {{test: [CMD, sh, -c, 'test "$$COLOUR" != x'], interval: 1s}}
    deploy: {{update_config: {{monitor: 100ms}}}}
  pulled:
    image: {registry.address}/private:1
    command: [sleep, '86400']
    stop_grace_period: 0s
    environment: [COLOUR={colour}]
    deploy: {{update_config: {{monitor: 100ms}}}}
""",
    )


def pulled(agent: Agent) -> dict[str, Any]:
    """The running container of the service that is pulled; nothing when there is none."""
    rows = [row for row in agent.ps() if row["name"] == "vault-pulled-1" and row["state"] == "running"]
    return rows[0] if rows else {}


def test_row_38_secrets_are_in_nothing_that_is_shown_or_stored(agent: Agent, registry: Registry) -> None:
    write_secrets(agent, registry, SECRETS["old environment"])
    agent.converge()
    write_secrets(agent, registry, SECRETS["environment"])
    shown = agent.cli("plan", check=False).stdout + agent.cli("plan", "--json", check=False).stdout
    agent.converge()
    row = agent.cli("exec", "-e", f"HUE={SECRETS['exec']}", "vault-built-1", "env").stdout
    for way in ("environment", "env_file", "interpolated", "exec"):
        assert SECRETS[way] in row, "the container itself has its secrets"
    agent.cli("exec", "-e", f"HUE={SECRETS['exec']}", "vault-built-1", "/absent", check=False)
    agent.cli("pull", f"{registry.address}/absent:1", check=False)
    killed = pulled(agent)
    os.kill(killed["pid"], 9)
    eventually(lambda: pulled(agent).get("id", killed["id"]) != killed["id"], what="another one")
    agent.converge()
    for command in ("ps", "status", "events", "images", "plan"):
        shown += agent.cli(command, check=False).stdout + agent.cli(command, "--json", check=False).stdout
    shown += agent.log.read_text() + fetch(agent)
    assert "vault-built-1" in shown
    assert [way for way, secret in SECRETS.items() if secret in shown] == []
    assert "canary-agent" not in shown + row


def test_row_38_secrets_lie_only_where_a_container_needs_them(agent: Agent) -> None:
    """In its own bundle; in no record, no image, no cache, no state of the keeper's."""
    sqlite3.connect(agent.data_root / "holdfast.db").execute("PRAGMA wal_checkpoint").close()
    needles = {way: secret.encode() for way, secret in SECRETS.items()}
    needles["credentials"] = base64.b64encode(f"user:{PASSWORD}".encode())

    def find() -> set[tuple[str, str]]:
        found = set()
        for root in (agent.data_root, agent.run_root):
            for path in root.rglob("*"):
                if path.is_file() and not path.is_symlink() and path.parent.name != "netns":
                    with suppress(FileNotFoundError):  # the agent is at work
                        content = path.read_bytes()
                        found |= {
                            (way, str(path.relative_to(root))) for way, text in needles.items() if text in content
                        }
        return found

    eventually(lambda: agent.on_disk() == {row["id"] for row in agent.ps()}, what="no bundle of one that is gone")
    found = find()
    bundles = {place for _, place in found}
    assert all(re.fullmatch(r"bundles/[0-9a-f]{64}/config\.json", place) for place in bundles), found
    assert len(bundles) == 2
    assert {way for way, _ in found} == {"environment", "env_file", "interpolated"}
    (agent.state / "vault/compose.yaml").unlink()
    agent.converge()


def test_row_38_a_crash_leaves_no_memory_on_the_disk(agent: Agent, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "1000"], cwd=tmp_path)
    assert agent.process is not None
    home = Path(f"/proc/{agent.process.pid}/cwd").readlink()
    for process in (other, agent.process):
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        process.send_signal(signal.SIGABRT)
        process.wait(60)
    agent.start()
    dumps = {place: [path.name for path in place.glob("core*") if path.is_file()] for place in (tmp_path, home)}
    if not dumps[tmp_path]:
        pytest.skip("this host keeps dumps elsewhere: /proc/sys/kernel/core_pattern")
    assert not dumps[home]


@pytest.mark.parametrize("cwd", ["/proc/self/fd/7", "/proc/self/cwd", "/./proc//1/root", "/bin/../proc/self/fd/3"])
def test_row_2_working_directories_of_every_door(agent: Agent, cwd: str) -> None:
    assert agent.cli("exec", "-w", cwd, "calm-web-1", "pwd", check=False).returncode in (125, 126)
    write_app(agent, "cwd", sleeper(1, f"working_dir: {cwd}\n"))
    try:
        eventually(lambda: agent.cli("status", check=False).returncode == 2, what="a condition")
        eventually(lambda: "directory" in agent.cli("status", check=False).stdout, what="the reason")
        assert not [row for row in agent.ps() if row["app"] == "cwd" and row["state"] == "running"]
    finally:
        (agent.state / "cwd/compose.yaml").unlink()
    agent.converge()


def test_row_33_sockets_are_files_and_closed(agent: Agent) -> None:
    abstract = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if " @" in line]
    assert not [name for name in abstract if "holdfast" in name or agent.base.name in name]
    modes = {"holdfast.sock": 0o660, "keeper.sock": 0o600}
    for name, mode in modes.items():
        status = (agent.run_root / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, 0)
    assert "holdfast.sock" not in agent.cli("exec", "calm-web-1", "cat", "/proc/net/unix").stdout


def test_row_34_nobody_sees_into_the_roots(agent: Agent) -> None:
    """Also not by way of what a container made: a setuid shell, open directories, a volume."""
    write_app(agent, "open", sleeper(1, "volumes: ['data:/data']\n"), "volumes: {data: {}}\n")
    agent.converge()
    script = "cp /bin/busybox /data/su; cp /bin/busybox /su; chmod 6755 /data/su /su; chmod 777 / /data"
    agent.cli("exec", "open-web-1", "sh", "-c", script)
    agent.base.chmod(0o755)
    for shape in (["--reuid", "65534", "--regid", "65534"], ["--reuid", "100000", "--regid", "100000"]):
        find = ["setpriv", *shape, "--clear-groups", "find", str(agent.data_root), str(agent.run_root)]
        run = subprocess.run(find, capture_output=True, text=True, check=False)
        assert run.stdout.split() == [str(agent.data_root), str(agent.run_root)]
        assert run.stderr.count("Permission denied") == 2
    (agent.state / "open/compose.yaml").unlink()
    agent.converge()


def test_row_36_labels_steer_nothing(agent: Agent) -> None:
    """Labels of an image and of a service that claim to be another app's, or the product's own bookkeeping."""
    claims = {
        "com.docker.compose.project": "calm",
        "com.docker.compose.service": "web",
        "com.docker.compose.container-number": "1",
        "holdfast.app": "calm",
        "io.holdfast.app": "calm",
        "io.holdfast.slot": "1",
        "io.holdfast.spec-digest": "sha256:0",
    }
    before = {row["id"] for row in agent.ps() if row["app"] == "calm"}
    labels = "".join(f"LABEL {name}={value}\n" for name, value in claims.items())
    agent.write("liar/Dockerfile", DOCKERFILE + labels)
    write_app(agent, "liar", sleeper(2, f"labels: {json.dumps(claims)}\n"))
    agent.converge()
    rows = agent.ps()
    assert {row["id"] for row in rows if row["app"] == "calm"} == before
    assert sorted(row["name"] for row in rows if row["app"] == "liar") == ["liar-web-1", "liar-web-2"]
    agent.cli("status", "--wait", "50")
    assert "nothing to do" in agent.cli("plan").stdout
    (agent.state / "liar/compose.yaml").unlink()
    agent.converge()
    assert {row["id"] for row in agent.ps() if row["app"] == "calm"} == before


# Threads of the agent's pools, and of asyncio's own, which are made when they are first needed.
POOLED = GATE_WORKERS + QUICK_THREADS + SLOW_THREADS + min(32, (os.cpu_count() or 1) + 4)


def measure(agent: Agent) -> dict[str, int]:
    """Descriptors and threads of agent and keeper, and the execs in the container."""
    assert agent.process is not None
    figures = {}
    for name, pid in (("agent", agent.process.pid), ("keeper", agent.keeper_pid())):
        figures[f"{name} descriptors"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        figures[f"{name} threads"] = len(list(Path(f"/proc/{pid}/task").iterdir()))
    figures["processes"] = len(agent.cli("exec", "calm-web-1", "ps").stdout.splitlines())
    return figures


def resident(agent: Agent) -> int:
    """Kilobytes of agent and keeper together."""
    assert agent.process is not None
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in (agent.process.pid, agent.keeper_pid()))
    return sum(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) for text in texts)


def requests() -> list[bytes]:
    """An exec, one on a terminal, one whose output nobody reads, followed logs, and events."""
    bodies = (
        {"target": "calm-web-1", "command": ["cat"], "stdin": True},
        {"target": "calm-web-1", "command": ["sh"], "stdin": True, "terminal": True},
        {"target": "calm-web-1", "command": ["cat", "/dev/zero"]},
    )
    made = []
    for body in map(json.dumps, bodies):
        head = (
            f"POST /holdfast/v1/exec HTTP/1.1\r\nHost: x\r\nUpgrade: {UPGRADE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        made.append((head + body).encode())
    streams = ("logs?target=calm-web-1&follow=1", "events?follow=1")
    return made + [f"GET /holdfast/v1/{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in streams]


def test_row_35_clients_that_leave_without_a_word(agent: Agent) -> None:
    def disturb(times: int) -> None:
        for number in range(times):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(60)
                peer.connect(str(agent.run_root / "holdfast.sock"))
                peer.sendall(shapes[number % len(shapes)])
                if number % 3:
                    peer.recv(64)

    shapes = requests()
    disturb(60)
    eventually(lambda: measure(agent)["processes"] <= 4, 60, "first execs are gone")
    base, memory = measure(agent), resident(agent)
    disturb(600)
    room = {name: POOLED if name == "agent threads" else 2 for name in base}
    eventually(lambda: all(value <= base[name] + room[name] for name, value in measure(agent).items()), 60, f"{base}")
    assert resident(agent) - memory < 16 << 10


def compute_size(directory: Path) -> int:
    """Of its files together; 0 while one of them goes."""
    with suppress(FileNotFoundError):
        return sum(path.stat().st_size for path in directory.iterdir())
    return 0


def test_row_35_a_gibibyte_that_nobody_reads(agent: Agent) -> None:
    memory = resident(agent)
    script = "dd if=/dev/zero bs=1M count=1024; touch /done; sleep 86400"
    write_app(agent, "flood", sleeper(1).replace("[sleep, '86400']", f"[sh, -c, '{script}']"))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(agent.run_root / "holdfast.sock"))
        peer.sendall(requests()[2])
        agent.converge()
        row = next(row for row in agent.ps() if row["app"] == "flood")
        directory = agent.data_root / "containers" / row["id"]
        peak = 0

        def ended() -> bool:
            nonlocal peak
            peak = max(peak, resident(agent))
            return (directory / "upper/done").exists()

        eventually(ended, 100, "the end of the flood")
    assert peak - memory < 64 << 10
    assert eventually(lambda: compute_size(directory / "logs"), what="its log") < 60 << 20
    (agent.state / "flood/compose.yaml").unlink()
    agent.converge()
