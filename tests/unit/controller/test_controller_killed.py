"""An agent killed at any call on its engine or its database: the next one ends with all of the old or of the new.

How often it writes depends on how busy the host is, for what is to be written together is. What it does to containers
and images does not: that alone makes more than 200 points.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from loop_bench import make_app
from mortal import MortalBench, copied_state, copy_host, living

QUICK = {"monitor": 0.01, "parallelism": 4}
PATIENT = {**QUICK, "monitor": 60.0}
REPLICAS = {"db": 1, "api": 13, "web": 18, "last": 1}
EVERY = os.environ.get("KILL_POINTS") == "all"
STRIDE, TOGETHER = {"good": 18, "bad": 9}, 5
POINTS = 200
Fate = str


def shop(version: int, fate: Fate = "good") -> Any:
    """A version of the app. What fails at once is given time, so that a busy host does not take it for what lives."""

    def service(name: str, **keys: Any) -> dict[str, Any]:
        replicas, image = REPLICAS.get(name, 1), f"example/{name}:{version}"
        return {"image": image, "replicas": replicas, "update": QUICK, "rollback": QUICK, "drain": 0.0, **keys}

    port = {"target": 80, "published": 8080}
    update = QUICK if fate == "good" else PATIENT
    services = {
        "db": service("db", mounts=[{"kind": "volume", "source": "data", "target": "/data"}]),
        "api": service("api", depends_on={"db": {}}),
        "web": service("web", depends_on={"api": {}}, ports=[port], update=update),
        **({"old": service("old")} if version == 1 else {"new": service("new")}),
    }
    return make_app(services=services, volumes={"data": {"name": "shop_data", "driver": "local", "labels": {}}})


def whole(version: int, last: str) -> list[str]:
    """The images of all that runs when a version does."""
    names = [name for name, count in {**REPLICAS, last: REPLICAS["last"]}.items() for _ in range(count)]
    return sorted(f"example/{name}:{version}" for name in names if name != "last")


WHOLE = {1: whole(1, "old"), 2: whole(2, "new")}


class Watch:
    """Looks at the host at every point: nobody who asks the published port is sent where nothing runs."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def __call__(self, what: str) -> None:
        running = {record.ip: record for record in self.engine.containers.running()}
        for port in self.engine.networks.published:
            backends = [backend[0] if isinstance(backend, tuple) else backend for backend in port.backends]
            assert backends, f"no backend {what}"
        web = [record for record in running.values() if record.config.image_name.startswith("example/web")]
        assert len(web) >= REPLICAS["web"], f"{len(web)} of {REPLICAS['web']} {what}"


def state_of(engine: FakeEngine) -> list[str]:
    return sorted(record.config.image_name for record in engine.containers.running())


def is_over(bench: MortalBench, fate: Fate) -> bool:
    """Whether the deploy has ended as it has to, which is judged by what is on the host and in the journal."""
    worker = bench.controller._workers.get("shop")
    deploys = worker.deploys if worker is not None else None
    return (
        deploys is not None and deploys.deploy is None and state_of(bench.engine) == WHOLE[2 if fate == "good" else 1]
    )


async def wait_for_end(bench: MortalBench, fate: Fate) -> None:
    if fate == "bad":
        await bench.until(lambda: bench.condition("shop", "Stalled")["reason"] == "RolledBack")
    await bench.until(lambda: is_over(bench, fate))
    if fate == "good":
        assert await bench.controller.wait_converged(60)
    await bench.until(lambda: not pending(bench))
    names = [record.name for record in bench.engine.containers.running()]
    assert len(names) == len(set(names))


def pending(bench: MortalBench) -> list[Any]:
    apps = bench.controller.pending_plan()["apps"]
    return [action for app in apps for action in app["actions"]]


async def run_once(state: Path, before: FakeEngine, fate: Fate, end: int) -> list[str]:
    """Deploy, kill at point ``end`` (0: never), let another agent end it; the points that were passed."""
    engine = copy_host(before)
    if fate == "bad":
        engine.containers.doomed["example/web:2"] = 0.0
    async with living(state, engine, end) as bench:
        bench.fuse.watch = Watch(engine)
        bench.source.put(shop(2, fate))
        if not end:
            await wait_for_end(bench, fate)
            return bench.fuse.points
        points = bench.fuse.points
        await bench.until(lambda: bench.fuse.burnt or (len(points) and is_over(bench, fate)))
    async with living(state, engine) as bench:
        bench.fuse.watch = Watch(engine)
        bench.source.put(shop(2, fate))
        await wait_for_end(bench, fate)
    return points


async def deploy_first(state: Path) -> FakeEngine:
    engine = FakeEngine()
    async with living(state, engine) as bench:
        await bench.want(shop(1))
        await bench.until(lambda: any(event.reason == "DeploySucceeded" for event in bench.events.recent()))
        await bench.controller._shared.journal.flush()
    assert state_of(engine) == WHOLE[1]
    return engine


@dataclass
class Uncut:
    """A deploy that nobody disturbs: what was there before it, and every point at which the agent could be killed."""

    first: Path
    before: FakeEngine
    points: dict[Fate, list[str]]


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Uncut:
    root = tmp_path_factory.mktemp("killed")
    first = root / "first"
    first.mkdir()

    async def body() -> Uncut:
        found = Uncut(first, await deploy_first(first), {})
        for fate in ("good", "bad"):
            with copied_state(first, root / fate) as state:
                found.points[fate] = [*await run_once(state, found.before, fate, 0)]
        return found

    return asyncio.run(body())


def test_there_are_more_than_two_hundred_points(uncut: Uncut) -> None:
    """Before and after each call that pulls an image, or starts, stops or removes a container, whatever the load."""
    replaced, images = sum(REPLICAS.values()), len(REPLICAS)
    planned = [point for point in uncut.points["good"] if point.split(" ")[1].startswith(("containers.", "images."))]
    assert len(planned) == 2 * (3 * replaced + images)
    assert len(planned) > POINTS
    assert any("record." in point for point in uncut.points["good"])
    assert any("containers.create_start" in point for point in uncut.points["bad"])
    print({fate: len(points) for fate, points in uncut.points.items()})


@pytest.mark.parametrize("fate", ["good", "bad"])
def test_killed_at_every_call(uncut: Uncut, tmp_path: Path, fate: Fate) -> None:
    """KILL_POINTS=all goes through every one of them; what runs by default is a part, another one for each fate."""
    points = uncut.points[fate]

    async def kill(end: int) -> None:
        with copied_state(uncut.first, tmp_path / str(end)) as state:
            try:
                await run_once(state, uncut.before, fate, end)
            except BaseException as error:
                error.add_note(f"killed at point {end} of {len(points)}: {points[end - 1]}")
                raise

    async def body() -> None:
        ends = range(1, len(points) + 1, 1 if EVERY else STRIDE[fate])
        for first in range(0, len(ends), TOGETHER):
            await asyncio.gather(*map(kill, ends[first : first + TOGETHER]))
        print(len(points), len(ends), "points")

    asyncio.run(body())
