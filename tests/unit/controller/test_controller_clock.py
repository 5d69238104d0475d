"""The clock of the host is set, forward or back: nothing is done in a hurry because of it, and nothing waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_engine
import pytest
from fake_engine import FakeEngine
from loop_bench import Bench, at_work, make_app

from agent.controller.controller import Controller
from agent.errors import Waiting

JUMPS = (-86400.0, -20.0, 20.0, 86400.0, 1.6e9)
QUICK = {"monitor": 0.05}


class Clock:
    """The time of day, off by what it was set by."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


class ClockBench(Bench):
    """A bench whose host has a clock that can be set."""

    def __init__(self, directory: Path, engine: FakeEngine, clock: Clock) -> None:
        super().__init__(directory, engine)
        self.clock = clock
        self.controller = Controller(engine, self.source, self.events, self.metrics, self.database, clock)

    def starts(self) -> int:
        return sum(call.startswith("start ") for call in self.engine.containers.calls)

    def told(self, reason: str) -> int:
        return sum(event.reason == reason for event in self.events.recent())


@pytest.fixture(params=JUMPS, ids=lambda jump: f"{jump:+.0f}s")
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[ClockBench, float], Awaitable[None]]], None]:
    clock = Clock()
    monkeypatch.setattr(fake_engine, "time", SimpleNamespace(time=clock))

    def start(test: Callable[[ClockBench, float], Awaitable[None]]) -> None:
        async def main() -> None:
            async with at_work(ClockBench(tmp_path, FakeEngine(), clock)) as bench:
                await test(bench, request.param)

        asyncio.run(main())

    return start


def shop(version: int, **more: Any) -> Any:
    web = {"image": f"example/web:{version}", "update": QUICK, "rollback": QUICK, "replicas": 2, **more}
    return make_app(services={"web": web})


def poke(bench: ClockBench) -> None:
    for worker in bench.controller._workers.values():
        worker.poke()


def test_backoff(run: Any) -> None:
    """What crashes goes on doing so at its pace: one start more for the jump at most, and never none for long."""

    async def body(bench: ClockBench, jump: float) -> None:
        bench.engine.containers.doomed["example/web:1"] = 0.0
        bench.source.put(shop(1, replicas=1))
        await bench.until(lambda: bench.starts() >= 3)
        before, began = bench.starts(), time.monotonic()
        bench.clock.offset += jump
        poke(bench)
        for _ in range(20):
            poke(bench)
            await asyncio.sleep(0.005)
        seconds = time.monotonic() - began  # mostly 0.1; its own pace is one start each 0.1 s, ever slower
        assert bench.starts() - before <= 2 + max(1, seconds / 0.1), "a storm"
        await bench.until(lambda: bench.starts() >= before + 2)

    run(body)


def test_a_deploy_is_not_late_because_of_the_clock(run: Any) -> None:
    """A container that is not healthy yet has its whole deadline, and the deploy ends when it is."""

    async def body(bench: ClockBench, jump: float) -> None:
        check = {"healthcheck": {"test": ("CMD", "true"), "interval": 0.05, "retries": 1000}, "deadline": 600.0}
        await bench.want(shop(1))
        await bench.until(lambda: bench.told("DeploySucceeded") == 1)
        bench.engine.verdicts.update({f"shop-web-{slot}": 1 for slot in (1, 2)})
        bench.source.put(shop(2, **check))
        await bench.until(lambda: any(r.config.image_name.endswith(":2") for r in bench.engine.containers.running()))
        bench.clock.offset += jump
        poke(bench)
        await asyncio.sleep(0.1)
        assert bench.told("DeployFailed") == 0
        bench.engine.verdicts.clear()
        await bench.until(lambda: bench.told("DeploySucceeded") == 2)
        assert bench.starts() == 4

    run(body)


def test_a_deploy_that_is_late_is_so_after_its_deadline(run: Any) -> None:
    async def body(bench: ClockBench, jump: float) -> None:
        check = {"healthcheck": {"test": ("CMD", "true"), "interval": 0.05, "retries": 1000}, "deadline": 0.4}
        await bench.want(shop(1))
        await bench.until(lambda: bench.told("DeploySucceeded") == 1)
        bench.engine.verdicts.update({f"shop-web-{slot}": 1 for slot in (1, 2)})
        bench.source.put(shop(2, **check))
        await bench.until(lambda: bench.starts() == 3)
        bench.clock.offset += jump
        poke(bench)
        await bench.until(lambda: bench.told("DeployRolledBack") == 1)
        assert bench.names() == ["shop-web-1", "shop-web-2"]

    run(body)


def test_health(run: Any) -> None:
    """The start period is as long as it is, and what fails after it is unhealthy, whatever the clock says."""

    async def body(bench: ClockBench, jump: float) -> None:
        check = {"test": ("CMD", "true"), "interval": 0.03, "retries": 2, "start_period": 0.3, "start_interval": 0.03}
        bench.engine.verdicts["shop-web-1"] = 1
        began = time.monotonic()
        bench.source.put(shop(1, replicas=1, healthcheck=check))
        await bench.until(lambda: bench.starts() == 1)
        bench.clock.offset += jump
        poke(bench)
        await bench.until(lambda: bench.told("Unhealthy"))
        assert time.monotonic() - began > 0.25

    run(body)


def test_failed_pulls_and_images_that_are_due(run: Any) -> None:
    async def body(bench: ClockBench, jump: float) -> None:
        images = bench.engine.images
        images.failures["example/web:1"] = Waiting("no registry", retry_after=0.2)
        bench.source.put(shop(1))
        await bench.until(lambda: images.calls)
        before, began = len(images.calls), time.monotonic()
        bench.clock.offset += jump
        for _ in range(5):
            poke(bench)
            await asyncio.sleep(0.01)
        seconds = time.monotonic() - began  # mostly 0.05
        assert len(images.calls) - before <= 1 + max(1, seconds / 0.2), "a storm"
        images.failures.clear()
        if -300 < jump < 0:  # at most by so much, and never by more than the longest wait, is it tried later
            await bench.controller.sync()
        await bench.until(lambda: len(bench.names()) == 2)
        bench.source.put(shop(1, pull_policy="every_3600s"))
        await bench.until(lambda: bench.controller.converged)
        before = len(images.calls)
        bench.clock.offset += jump
        for _ in range(5):
            poke(bench)
            await asyncio.sleep(0.01)
        assert len(images.calls) - before <= 1, "looked up more than once"
        if abs(jump) > 3600:
            await bench.until(lambda: len(images.calls) == before + 1)

    run(body)
