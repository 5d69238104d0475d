"""A data root without room: said clearly, nothing damaged, and all goes on by itself when there is room again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from agents import Agent, eventually, read_variable, small_disk
from apps import sleeper, write_app
from registry import Registry, entry, make_tar
from test_recovery_registry import alive, await_condition

pytestmark = pytest.mark.host
ROOM = 24 << 20


@pytest.fixture
def agent() -> Iterator[Agent]:
    """Its data root is a file system of 24 MiB; one app runs."""
    made = Agent()
    with small_disk(made, ROOM):
        made.start()
        write_app(made, "steady", sleeper(2))
        made.converge()
        yield made
        release(made)
        if made.process is None:
            made.start()
        made.cli("down", timeout=90)
        made.stop()
    shutil.rmtree(made.base)


def fill(agent: Agent) -> None:
    """Take all the room there is."""
    with (agent.data_root / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def release(agent: Agent) -> None:
    (agent.data_root / "filler").unlink(missing_ok=True)


def check_database(agent: Agent) -> None:
    with closing(sqlite3.connect(f"file:{agent.data_root}/holdfast.db?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_no_room_for_an_image(agent: Agent) -> None:
    steady = alive(agent, "steady")
    with Registry() as registry:
        reference = registry.push_layers("big:1", [make_tar([entry("big", os.urandom(14 << 20))])])
        agent.write("big.yaml", f"images:\n  - '{reference}'\nservices: {{}}\n")
        _, told = await_condition(agent, "big", "InsufficientStorage")
        assert "room" in told
        write_app(agent, "steady", sleeper(3))
        eventually(lambda: len(alive(agent, "steady")) == 3, what="another app goes on")
        assert steady.items() <= alive(agent, "steady").items()
        subprocess.run(["mount", "-o", "remount,size=64m", agent.data_root], check=True)
        agent.cli("sync", "--wait", "60")
    check_database(agent)


def test_no_room_for_a_container_nor_a_record(agent: Agent) -> None:
    steady = alive(agent, "steady")
    fill(agent)
    victim, pid = next(iter(steady.items()))
    os.kill(pid, signal.SIGKILL)
    write_app(agent, "steady", sleeper(4))
    _, told = await_condition(agent, "steady", "InsufficientStorage")
    assert "room" in told
    left = {key: value for key, value in steady.items() if key != victim}
    assert left.items() <= alive(agent, "steady").items()
    check_database(agent)
    release(agent)
    agent.converge(60)
    assert len(alive(agent, "steady")) == 4
    assert left.items() <= alive(agent, "steady").items()
    ids = {row["id"] for row in agent.ps()}
    eventually(lambda: agent.on_disk() == ids, what="no other bundle")
    check_database(agent)


def test_a_deploy_without_room(agent: Agent) -> None:
    """What runs stays as it is, all of it, until there is room; then the deploy ends."""
    before = alive(agent, "steady")
    fill(agent)
    write_app(agent, "steady", sleeper(2, "environment: {ROUND: '2'}\n"))
    await_condition(agent, "steady", "InsufficientStorage")
    assert alive(agent, "steady") == before
    agent.kill()
    release(agent)
    agent.start()
    agent.converge(60)
    after = alive(agent, "steady")
    assert len(after) == 2
    assert not after.keys() & before.keys()
    check_database(agent)


GATED = """\
environment: {ROUND: '2'}
volumes: ['./gate:/gate']
healthcheck: {test: [CMD, test, -e, /gate/open], start_period: 2m, start_interval: 100ms}
"""


def test_room_that_ends_in_the_middle_of_a_rollout(agent: Agent) -> None:
    """Nothing serves less meanwhile; with room again all of one revision is there."""
    before = alive(agent, "steady")
    gate = agent.state / "steady" / "gate"
    gate.mkdir()
    write_app(agent, "steady", sleeper(2, GATED))
    eventually(lambda: len(alive(agent, "steady")) == 3, what="an old and a new one in one slot")
    fill(agent)
    (gate / "open").touch()
    _, told = await_condition(agent, "steady", "RollingBack", "InsufficientStorage")  # recorded or not
    assert "disk is full" in told
    assert len(alive(agent, "steady")) >= 2
    release(agent)
    agent.cli("sync", check=False)
    ended, _ = await_condition(agent, "steady", "RolledBack", "Converged")
    after = alive(agent, "steady")
    assert len(after) == 2
    assert {read_variable(pid, "ROUND") for pid in after.values()} == {"" if ended == "RolledBack" else "2"}
    assert ended == "Converged" or before.keys() & after.keys()
    eventually(lambda: agent.on_disk() == {row["id"] for row in agent.ps()}, what="no other bundle")
    agent.cli("retry", "steady", check=ended == "RolledBack")
    agent.converge(60)
    assert {read_variable(pid, "ROUND") for pid in alive(agent, "steady").values()} == {"2"}
    check_database(agent)


def test_killed_and_started_without_room(agent: Agent) -> None:
    """An agent that cannot start says why, and what may go; with that room it finds all as it was."""
    steady = alive(agent, "steady")
    partial = agent.data_root / "content" / "ingest" / ("0" * 64)
    for end in (agent.kill, agent.stop):
        partial.write_bytes(bytes(1 << 20))
        end()
        fill(agent)
        try:
            agent.start()
        except AssertionError:
            told = agent.log.read_text()
            assert re.search(r"is full: \d+ KiB are free of 24 MiB", told)
            assert f"{partial.parent}/*" in told
            assert "Traceback" not in told
            agent.process = None
            partial.unlink()
            agent.start()
        release(agent)
        agent.converge(60)
        assert alive(agent, "steady") == steady
        check_database(agent)


def test_output_without_room_stops_nobody(agent: Agent) -> None:
    """What a container prints while its log cannot grow is lost, the container is not."""
    script = "i=0; while :; do i=$$((i+1)); echo line $$i; sleep 0.01; done"
    write_app(agent, "loud", sleeper(1).replace("[sleep, '86400']", f"[sh, -c, '{script}']"))
    agent.converge()
    loud = alive(agent, "loud")
    fill(agent)
    before = agent.cli("logs", "--tail", "1", "loud-web-1").stdout
    steady = alive(agent, "steady")
    agent.cli("exec", "loud-web-1", "sleep", "1")
    assert alive(agent, "loud") == loud
    assert alive(agent, "steady") == steady
    release(agent)
    eventually(lambda: agent.cli("logs", "--tail", "1", "loud-web-1").stdout != before, what="new lines")
    assert Path(f"/proc/{next(iter(loud.values()))}").exists()
