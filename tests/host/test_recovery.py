"""Whatever is killed at whatever moment, the next start continues from what is on disk."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, eventually
from apps import COUNTER, sleeper, write_app

from agent.settings import compute_instance

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def shared() -> Iterator[Agent]:
    with Agent() as running:
        yield running


@pytest.fixture
def agent(shared: Agent) -> Iterator[Agent]:
    """An agent that runs, with nothing to look after."""
    yield shared
    if shared.process is None or shared.process.poll() is not None:
        shared.start()
    for path in shared.state.iterdir():
        path.rename(shared.base / f"old-{path.name}")
    eventually(lambda: not shared.ps(), what="prune")


def alive(agent: Agent) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in agent.ps() if row["state"] == "running"}


def container_processes(agent: Agent) -> set[int]:
    """The first processes of all its containers, from the kernel, not from the agent; an init that waits for its order
    is none yet."""
    found: set[int] = set()
    instance = compute_instance(agent.run_root)
    for hierarchy in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        for container in (hierarchy / "holdfast" / instance).glob("*"):
            with suppress(OSError):  # one that goes
                found |= {int(pid) for pid in (container / "cgroup.procs").read_text().split()}
    keeper = agent.keeper_pid()
    return {pid for pid in found if parent_of(pid) == keeper and name_of(pid) != "holdfast-init"}


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except FileNotFoundError:
        return 0


def test_twenty_kills_of_the_agent(agent: Agent) -> None:
    write_app(agent, "steady", sleeper(2))
    agent.converge()
    steady = alive(agent)
    dice = random.Random(7)
    for count in range(20):
        write_app(agent, "busy", sleeper(dice.randint(1, 6), f"environment: {{ROUND: '{count // 4}'}}\n"))
        time.sleep(dice.random() * 0.25)
        agent.kill()
        agent.start()
    write_app(agent, "busy", sleeper(4))
    agent.converge()
    eventually(lambda: len(alive(agent)) == 6, what="old ones removed")
    now = alive(agent)
    assert {key: now[key]["pid"] for key in steady} == {key: row["pid"] for key, row in steady.items()}
    pids = {row["pid"] for row in now.values()}
    eventually(lambda: container_processes(agent) == pids, what="no container that nobody owns")
    slots = [(row["app"], row["slot"]) for row in now.values()]
    assert len(slots) == len(set(slots)) == 6
    assert all(now[key]["restarts"] == 0 for key in steady)


def test_no_log_line_is_lost_when_the_agent_is_killed(agent: Agent) -> None:
    write_app(agent, "talk", f"web:\n  BUILD\n  init: true\n  command: [sh, -c, '{COUNTER}']\n")
    agent.converge()

    def read() -> list[int]:
        return [int(found) for found in re.findall(r"line (\d+)", agent.cli("logs", "talk-web-1").stdout)]

    for _ in range(3):
        before = len(read())
        agent.kill()
        agent.start()
        eventually(lambda before=before: len(read()) > before, what="more lines")
    numbers = eventually(lambda: found if len(found := read()) > 20 else [], what="many lines")
    assert numbers == list(range(1, len(numbers) + 1))


def test_exit_while_the_agent_is_away_is_noticed(agent: Agent) -> None:
    write_app(agent, "away", sleeper(1))
    agent.converge()
    (row,) = alive(agent).values()
    agent.kill()
    os.kill(row["pid"], signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{row['pid']}").exists(), what="its end")
    agent.start()
    agent.converge()
    (now,) = alive(agent).values()
    assert now["id"] != row["id"]
    assert now["restarts"] == 1


def test_killed_keeper_leaves_containers_alive(agent: Agent) -> None:
    write_app(agent, "orphan", sleeper(3))
    agent.converge()
    before = alive(agent)
    keeper = agent.keeper_pid()
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: agent.keeper_pid() != keeper, what="a new keeper")
    agent.converge()
    assert {key: row["pid"] for key, row in alive(agent).items()} == {key: row["pid"] for key, row in before.items()}
    victim = next(iter(before.values()))
    os.kill(victim["pid"], signal.SIGKILL)
    eventually(lambda: len(alive(agent)) == 3 and victim["id"] not in alive(agent), what="exit of an adopted one")


def test_keeper_and_agent_killed_together(agent: Agent) -> None:
    write_app(agent, "both", sleeper(2))
    agent.converge()
    before = alive(agent)
    keeper = agent.keeper_pid()
    agent.kill()
    os.kill(keeper, signal.SIGKILL)
    agent.start()
    agent.converge()
    assert set(alive(agent)) == set(before)


def test_term_leaves_containers_and_down_does_not(agent: Agent) -> None:
    write_app(agent, "stay", sleeper(2))
    agent.converge()
    pids = {row["pid"] for row in alive(agent).values()}
    agent.stop()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    agent.start()
    agent.converge()
    assert {row["pid"] for row in alive(agent).values()} == pids
    assert agent.cli("down").returncode == 0
    assert agent.ps() == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_records_of_an_earlier_boot_are_rebuilt(agent: Agent) -> None:
    """A reboot as the next agent sees it: no process, no keeper, run root of another boot id."""
    write_app(agent, "reboot", sleeper(2))
    agent.converge()
    before = alive(agent)
    keeper = agent.keeper_pid()
    agent.kill()
    os.kill(keeper, signal.SIGKILL)
    for state in agent.run_root.glob("keeper/*/state.json"):
        text = re.sub(
            r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", "00000000-0000-4000-8000-000000000000", state.read_text()
        )
        state.write_text(text)
    for row in before.values():
        os.kill(row["pid"], signal.SIGKILL)
    agent.start()
    agent.converge()
    assert len(alive(agent)) == 2
    assert not set(alive(agent)) & set(before)
