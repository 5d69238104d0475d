"""An agent killed at any call on its engine or its database: the next one ends with all of the old or of the new."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from loop_bench import make_app
from mortal import MortalBench, copied_state, copy_host, living

QUICK = {"monitor": 0.01, "parallelism": 2}
EVERY = os.environ.get("KILL_POINTS") == "all"
STRIDE, TOGETHER = 9, 12
LEAST = {"good": 140, "bad": 50}
Fate = str


def shop(version: int, **more: Any) -> Any:
    def service(name: str, replicas: int, **keys: Any) -> dict[str, Any]:
        image = f"example/{name}:{version}"
        return {"image": image, "replicas": replicas, "update": QUICK, "rollback": QUICK, "drain": 0.0, **keys}

    port = {"target": 80, "published": 8080}
    services = {
        "db": service("db", 1, mounts=[{"kind": "volume", "source": "data", "target": "/data"}]),
        "api": service("api", 5, depends_on={"db": {}}),
        "web": service("web", 7, depends_on={"api": {}}, ports=[port]),
        **({"old": service("old", 1)} if version == 1 else {"new": service("new", 1)}),
    }
    return make_app(services=services, volumes={"data": {"name": "shop_data", "driver": "local", "labels": {}}}, **more)


WHOLE = {
    version: sorted(f"example/{name}:{version}" for name in ["db", *["api"] * 5, *["web"] * 7, last])
    for version, last in ((1, "old"), (2, "new"))
}


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
        assert len(web) >= 7, f"{len(web)} of 7 {what}"


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
        assert await bench.controller.wait_converged(10)
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
        bench.source.put(shop(2))
        if not end:
            await wait_for_end(bench, fate)
            return bench.fuse.points
        points = bench.fuse.points
        await bench.until(lambda: bench.fuse.burnt or (len(points) and is_over(bench, fate)))
    async with living(state, engine) as bench:
        bench.fuse.watch = Watch(engine)
        bench.source.put(shop(2))
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


@pytest.mark.parametrize("fate", ["good", "bad"])
def test_killed_at_every_call(tmp_path: Path, fate: Fate) -> None:
    """KILL_POINTS=all goes through every one of them; what runs by default is a part, another one for each fate."""

    async def body() -> None:
        (tmp_path / "first").mkdir()
        before = await deploy_first(tmp_path / "first")
        with copied_state(tmp_path / "first", tmp_path / "whole") as state:
            points = [*await run_once(state, before, fate, 0)]
        assert len(points) > LEAST[fate]

        async def kill(end: int) -> None:
            with copied_state(tmp_path / "first", tmp_path / str(end)) as state:
                try:
                    await run_once(state, before, fate, end)
                except BaseException as error:
                    error.add_note(f"killed at point {end} of {len(points)}: {points[end - 1]}")
                    raise

        ends = range(1, len(points) + 1, 1 if EVERY else STRIDE)
        for first in range(0, len(ends), TOGETHER):
            await asyncio.gather(*map(kill, ends[first : first + TOGETHER]))
        print(len(points), len(ends), "points")

    asyncio.run(body())
