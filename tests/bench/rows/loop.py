"""A reconcile that finds nothing to do: 500 services in 50 files, read from disk and compared with what runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fake_engine import FakeEngine

from agent.controller.controller import Controller
from agent.source.directory import DirectorySource
from agent.store.database import Database
from agent.telemetry.events import EventLog
from agent.telemetry.metrics import Metrics
from tests.bench.model import HOLDFAST, Budget, Row, Sample
from tests.bench.stage import Stage

ROUNDS = 20
APPS, SERVICES = 50, 10


def measure(stage: Stage) -> Sequence[Row]:
    state = stage.base / stage.fresh("loop")
    state.mkdir()
    for app in range(APPS):
        services = "".join(f"  s{number}:\n    image: example/s{number}:1\n" for number in range(SERVICES))
        (state / f"app{app}.yaml").write_text(f"services:\n{services}")
    scans, reconciles = asyncio.run(_measure(state, stage.base / "loop.db"))
    both = tuple(scan + reconcile for scan, reconcile in zip(scans, reconciles, strict=True))
    count = APPS * SERVICES
    return [
        Row(f"no-op reconcile of {count} services", "ms", {HOLDFAST: Sample(both)}, Budget(50)),
        Row("  of it: looking at the files", "ms", {HOLDFAST: Sample(tuple(scans))}),
    ]


async def _measure(state: Path, database: Path) -> tuple[list[float], list[float]]:
    """Milliseconds of looking at the files, and of the reconciles of all apps, round by round."""
    scans, reconciles = [], []
    async with _running(state, database) as (controller, source):
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            await source.refresh()
            read = time.perf_counter()
            for worker in controller._workers.values():
                worker.reconcile()
            reconciles.append((time.perf_counter() - read) * 1e3)
            scans.append((read - begun) * 1e3)
            await asyncio.sleep(0.05)
    return scans, reconciles


@contextlib.asynccontextmanager
async def _running(state: Path, path: Path) -> AsyncIterator[tuple[Controller, DirectorySource]]:
    """A real controller and source on an engine in memory, converged."""
    database, events, source = Database(path), EventLog(), DirectorySource(state)
    controller = Controller(FakeEngine(), source, events, Metrics("bench"), database)
    task = asyncio.get_running_loop().create_task(controller.run())
    try:
        if not await controller.wait_converged(120):
            raise RuntimeError(f"not converged: {controller.status()['apps'][:1]}")
        yield controller, source
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        events.close()
        database.close()
