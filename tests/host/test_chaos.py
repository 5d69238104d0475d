"""Random harm to agent, keeper, containers, registry, disk and desired state: when it ends, all is as wanted.

CHAOS_SEED names the sequence of what is done, CHAOS_SECONDS for how long: ``CHAOS_SECONDS=600 CHAOS_SEED=3``.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from agents import Agent, eventually, small_disk
from registry import Registry

from agent.cli.client import Client
from agent.errors import HoldfastError

SECONDS = float(os.environ.get("CHAOS_SECONDS", "10"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
pytestmark = [pytest.mark.host, pytest.mark.timeout(SECONDS + 240)]
ROOM = "160m"
APPS = ("shop", "blog", "news")
APP = """\
services:
  db:
    image: '{image}'
    command: [sleep, '86400']
    init: true
    stop_grace_period: 1s
    environment: {{ROUND: '{db}'}}
    volumes: ['data:/data']
    deploy: {{update_config: {{monitor: 200ms}}, rollback_config: {{monitor: 200ms}}}}
  web:
    image: '{image}'
    command: [sh, -c, '{command}']
    init: true
    stop_grace_period: 1s
    environment: {{ROUND: '{web}'}}
    depends_on: [db]
    x-holdfast: {{drain: 100ms}}
    deploy:
      replicas: {replicas}
      update_config: {{monitor: 300ms, parallelism: {parallelism}}}
      rollback_config: {{monitor: 100ms, parallelism: 0}}
volumes: {{data: {{}}}}
"""
GOOD, CRASHES = "sleep 86400", "sleep 0.1; exit 3"


class Chaos:
    """One agent, one registry, and dice that alone decide what is done to them next."""

    def __init__(self, agent: Agent, registry: Registry, seed: int) -> None:
        self.agent, self.registry = agent, registry
        self.dice = random.Random(seed)
        self.images = [registry.push_busybox("app:1", Env=["V=1", "PATH=/bin"])]
        large = {"large": self.dice.randbytes(5 << 20)}  # a layer that is kept as an image of its own
        self.images.append(registry.push_busybox("app:2", large, Env=["V=2", "PATH=/bin"]))
        self.told: list[str] = []
        self.harm: list[tuple[int, Callable[[], None]]] = [
            (6, self.edit_well),
            (3, self.edit_badly),
            (1, self.name_no_image),
            (2, self.break_file),
            (1, self.remove_app),
            (4, self.kill_agent),
            (2, self.kill_keeper),
            (1, self.kill_both),
            (4, self.kill_container),
            (2, self.kill_registry),
            (2, self.fill_disk),
            (2, self.release_disk),
        ]

    def go_on(self, seconds: float) -> None:
        weights, deeds = zip(*self.harm, strict=True)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            (deed,) = self.dice.choices(deeds, weights)
            pause = self.dice.random() * 0.7
            self.told.append(f"{seconds - ends + time.monotonic():.1f} {deed.__name__}")
            deed()
            time.sleep(pause)

    # what is done

    def write(self, name: str, command: str, image: str = "") -> None:
        dice = self.dice
        text = APP.format(
            image=image or dice.choice(self.images),
            command=command,
            db=dice.randint(1, 3),
            web=dice.randint(1, 9),
            replicas=dice.randint(1, 4),
            parallelism=dice.randint(0, 2),
        )
        self.agent.write(f"{name}.yaml", text)

    def edit_well(self) -> None:
        self.write(self.dice.choice(APPS), GOOD)

    def edit_badly(self) -> None:
        self.write(self.dice.choice(APPS), CRASHES)

    def name_no_image(self) -> None:
        self.write(self.dice.choice(APPS), GOOD, f"{self.registry.address}/nowhere:1")

    def break_file(self) -> None:
        self.agent.write(f"{self.dice.choice(APPS)}.yaml", self.dice.choice(["services: [", "{", "services: {a: {}}"]))

    def remove_app(self) -> None:
        (self.agent.state / f"{self.dice.choice(APPS)}.yaml").unlink(missing_ok=True)

    def kill_agent(self) -> None:
        self.agent.kill()
        self.start_agent()

    def kill_keeper(self) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(self.agent.keeper_pid(), signal.SIGKILL)

    def kill_both(self) -> None:
        self.agent.kill()
        self.kill_keeper()
        self.start_agent()

    def kill_container(self) -> None:
        number = self.dice.randrange(1000)
        running = sorted(self.running(), key=lambda row: str(row["name"]))
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(running[number % len(running)]["pid"], signal.SIGKILL)

    def kill_registry(self) -> None:
        if self.registry.process is None:
            self.registry.start()
        else:
            self.registry.kill()

    def fill_disk(self) -> None:
        with (self.agent.data_root / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 << 10))

    def release_disk(self) -> None:
        (self.agent.data_root / "filler").unlink(missing_ok=True)

    # what is seen

    def start_agent(self) -> None:
        """Start it; one that finds no room on the disk says so and is started again when there is."""
        try:
            self.agent.start()
        except AssertionError:
            if not (self.agent.data_root / "filler").exists():
                raise
            self.agent.kill()  # it may only be slow
            self.release_disk()
            self.agent.start()

    def running(self) -> list[dict[str, Any]]:
        try:
            return [row for row in self.agent.ps() if row["state"] == "running" and row["pid"]]
        except HoldfastError:
            return []

    def calm_down(self) -> None:
        """Nothing is done any more; the last of the desired state is good, and all it needs is there."""
        self.told.append("calm")
        self.release_disk()
        if self.registry.process is None:
            self.registry.start()
        if self.agent.process is None:
            self.start_agent()
        for name in APPS[:2]:
            self.write(name, GOOD)
        (self.agent.state / f"{APPS[2]}.yaml").unlink(missing_ok=True)
        self.agent.cli("sync", "--wait", "90", timeout=120)


@pytest.fixture
def chaos() -> Iterator[Chaos]:
    made = Agent()
    with small_disk(made, ROOM), Registry() as registry:
        made.start()
        yield Chaos(made, registry, SEED)
        (made.data_root / "filler").unlink(missing_ok=True)
        if made.process is None or made.process.poll() is not None:
            made.start()
        made.cli("down", timeout=90)
        made.stop()
    shutil.rmtree(made.base)


def test_after_chaos_all_is_as_wanted(chaos: Chaos) -> None:
    agent = chaos.agent
    try:
        chaos.go_on(SECONDS)
        chaos.calm_down()
        check_calm(agent)
    except BaseException as error:
        error.add_note(f"seed {SEED}: " + ", ".join(chaos.told[-60:]))
        error.add_note(agent.log.read_text()[-6000:])
        raise
    print(f"seed {SEED}: {len(chaos.told)} deeds: " + ", ".join(chaos.told[-60:]))


def check_calm(agent: Agent) -> None:
    """The plan is empty, and what is on the host is what the agent says, once each."""
    plan = Client(agent.host).get("/plan")
    assert [app["actions"] for app in plan["apps"]] == [[], []], plan
    assert [app["holds"] for app in plan["apps"]] == [[], []], plan
    rows = agent.ps()
    assert all(row["state"] == "running" for row in rows), rows
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names))
    ids = {row["id"] for row in rows}
    eventually(lambda: agent.on_disk() == ids, what="no bundle of a container that is gone")
    with closing(sqlite3.connect(f"file:{agent.data_root}/holdfast.db?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    log = agent.log.read_text()
    assert "InternalError" not in log, [line for line in log.splitlines() if "InternalError" in line][:5]
    assert not list(agent.data_root.glob(".*"))
