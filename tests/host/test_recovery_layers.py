"""Containers on layer images when whoever looks after them is killed: what they have stays theirs, or comes again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import PROGRAM, ROOT, Agent, eventually
from registry import Registry

pytestmark = pytest.mark.host
APP = """\
services:
  web:
    image: '{image}'
    command: [sleep, '86400']
    init: true
    stop_grace_period: 1s
    x-holdfast: {{drain: 0s}}
    deploy: {{replicas: {replicas}, update_config: {{monitor: 100ms}}}}
"""
LARGE = os.urandom(5 << 20)


@pytest.fixture(scope="module")
def images() -> Iterator[list[str]]:
    with Registry() as registry:
        yield [registry.push_busybox(f"large:{number}", {"large": LARGE, f"{number}": b""}) for number in range(2)]


@pytest.fixture(scope="module")
def agent(images: list[str]) -> Iterator[Agent]:
    with Agent() as running:
        write(running, images[0], 2)
        running.converge()
        assert len(find_mounts(running)) == 1, "the layer is an image"
        running.cli("pull", images[1])
        yield running


def write(agent: Agent, image: str, replicas: int) -> None:
    agent.write("app.yaml", APP.format(image=image, replicas=replicas))


def find_mounts(agent: Agent) -> list[str]:
    """Where layer images of an agent are mounted."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [fields[4] for fields in lines if "erofs" in fields and fields[4].startswith(str(agent.data_root))]


def running(agent: Agent) -> dict[str, int]:
    return {row["id"]: row["pid"] for row in agent.ps() if row["state"] == "running"}


def check_all(agent: Agent, replicas: int) -> None:
    """All containers read what their layer holds, now and after a prune; nothing is damaged."""
    agent.converge()
    assert ": 0 damaged" in image_command(agent, "verify")
    image_command(agent, "prune")
    assert len(running(agent)) == replicas
    for pid in running(agent).values():
        assert Path(f"/proc/{pid}/root/large").read_bytes() == LARGE
    for row in agent.ps():
        assert agent.cli("exec", row["name"], "wc", "-c", "/large").stdout.split()[0] == str(len(LARGE))


def image_command(agent: Agent, *arguments: str) -> str:
    command = [*PROGRAM, "image", *arguments, "--host", agent.host]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def forget_boot(agent: Agent) -> None:
    """What the next agent finds after a reboot: records of another boot, and no process of it."""
    for state in agent.run_root.glob("keeper/*/state.json"):
        boot = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"
        state.write_text(re.sub(boot, "00000000-0000-4000-8000-000000000000", state.read_text()))


@pytest.mark.parametrize("harm", ["agent", "keeper", "mounts", "boot"])
def test_whoever_is_killed(agent: Agent, images: list[str], harm: str) -> None:
    """Each harm with what the ones before it do, too."""
    before = running(agent)
    keeper = agent.keeper_pid()
    agent.kill()
    if harm != "agent":
        os.kill(keeper, signal.SIGKILL)
    if harm in ("mounts", "boot"):
        for place in find_mounts(agent):
            subprocess.run(["umount", "-l", place], check=True)
    if harm == "boot":
        forget_boot(agent)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before.values()), what="end")
    agent.start()
    agent.converge()
    now = running(agent)
    assert len(now) == 2
    assert (not set(now) & set(before)) if harm == "boot" else now == before
    check_all(agent, 2)
    if harm == "mounts":
        write(agent, images[0], 3)
        check_all(agent, 3)
        write(agent, images[0], 2)
        agent.converge()
        eventually(lambda: len(running(agent)) == 2, what="one less")


def test_no_mount_is_left_in_the_end(agent: Agent, images: list[str]) -> None:
    """Neither of a layer that an agent has mounted which was killed, nor of one that no container uses any more."""
    write(agent, images[1], 1)
    agent.converge()
    eventually(lambda: len(running(agent)) == 1, what="the other image")
    agent.kill()
    agent.start()
    check_all(agent, 1)
    agent.cli("down")
    agent.kill()
    agent.start()
    assert agent.ps() == []
    agent.stop()
    assert find_mounts(agent) == []
