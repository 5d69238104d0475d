"""A controller on a fake engine, with a real database, event log and metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from fake_engine import FakeEngine
from memory_source import MemorySource

from agent.controller.controller import Controller
from agent.spec.model import App
from agent.store.database import Database
from agent.telemetry.events import EventLog
from agent.telemetry.metrics import Metrics
from agent.telemetry.samples import ServiceSample, Snapshot

QUICK = {"update": {"monitor": 0.05}, "rollback": {"monitor": 0.05, "failure_action": "continue"}}
GO_ON = {"update": {"monitor": 0.05, "failure_action": "continue"}}


def make_app(name: str = "shop", services: dict[str, Any] | None = None, **extra: Any) -> App:
    """An app; every service gets a name and an image unless it has them, and is not watched for long."""
    wanted = services if services is not None else {"web": {}}
    filled = {
        key: {"name": key, **QUICK, **({} if "build" in value else {"image": f"example/{key}:1"}), **value}
        for key, value in wanted.items()
    }
    return App.model_validate(
        {"name": name, "file": f"{name}.yaml", "services": filled, "networks": {}, "volumes": {}, "images": [], **extra}
    )


B = TypeVar("B", bound="Bench")


class Bench:
    """One agent's loop."""

    def __init__(self, directory: Path, engine: FakeEngine) -> None:
        self.engine = engine
        self.source = MemorySource()
        self.database = Database(directory / "holdfast.db")
        self.events = EventLog()
        self.metrics = Metrics()
        self.controller = Controller(engine, self.source, self.events, self.metrics, self.database)

    async def want(self, *apps: Any) -> None:
        """Change the desired state and wait until it is reached."""
        self.source.put(*apps)
        assert await self.controller.wait_converged(60), self.controller.status()

    async def until(self, probe: Callable[[], Any]) -> Any:
        """Wait, on the controller's own changes, until something is so."""
        async with asyncio.timeout(60):
            while not probe():
                with contextlib.suppress(TimeoutError):  # the fake engine's own facts are announced by nobody
                    await asyncio.wait_for(self.controller.wait_change(), 0.05)
        return probe()

    def condition(self, app: str, kind: str) -> dict[str, Any]:
        apps = {entry["name"]: entry["conditions"] for entry in self.controller.status()["apps"]}
        found = {condition["type"]: condition for condition in apps.get(app, ())}
        nothing: dict[str, Any] = {"reason": "", "status": "", "message": ""}
        return found.get(kind, nothing)

    def metrics_text(self) -> str:
        apps = self.controller.status()["apps"]
        services = [(app["name"], service) for app in apps for service in app["services"]]
        samples = tuple(
            ServiceSample(app, service["name"], service["desired"], service["running"], service["ready"])
            for app, service in services
        )
        self.metrics.attach(lambda: Snapshot(services=samples))
        return self.metrics.render().decode()

    def names(self) -> list[str]:
        return sorted(record.name for record in self.engine.containers.running())


@contextlib.asynccontextmanager
async def running(directory: Path, engine: FakeEngine | None = None) -> AsyncIterator[Bench]:
    """A bench whose controller runs."""
    async with at_work(Bench(directory, engine or FakeEngine())) as bench:
        yield bench


@contextlib.asynccontextmanager
async def at_work(bench: B) -> AsyncIterator[B]:
    """Run the controller of a bench; leaving the block is what SIGTERM does."""
    task = asyncio.get_running_loop().create_task(bench.controller.run())
    try:
        yield bench
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.get_running_loop().shutdown_default_executor()
        bench.events.close()
        bench.database.close()
