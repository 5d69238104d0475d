"""Apps and probes for the tests of deploys on the fake engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

from loop_bench import Bench, make_app, running

QUICK = {"monitor": 0.03}


def on_bench(test: Callable[[Bench], Awaitable[None]]) -> Callable[[Path], None]:
    @wraps(test)
    def run(tmp_path: Path) -> None:
        async def main() -> None:
            async with running(tmp_path) as bench:
                await test(bench)

        asyncio.run(main())

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for a fixture called bench
    return run


def shop(version: int, *, name: str = "shop", deploys: Any = None, **more: Any) -> Any:
    """An app of one service, its version in its image's name."""
    service = {"image": f"example/web:{version}", "update": QUICK, "rollback": QUICK, **more}
    return make_app(name, services={"web": service}, deploys=deploys or {})


def images(bench: Bench, app: str = "shop") -> list[str]:
    running = bench.engine.containers.running()
    return sorted(r.config.image_name.rpartition(":")[2] for r in running if r.config.owner.app == app)


def count(bench: Bench, reason: str, app: str = "shop") -> int:
    return sum(event.reason == reason and event.app == app for event in bench.events.recent())


async def in_force(bench: Bench, *apps: Any) -> None:
    """Change the desired state, and wait until each app's new revision is final."""
    known = {key: files.app for key, files in bench.source.revision.apps.items()}
    before = {app.name: count(bench, "DeploySucceeded", app.name) for app in apps if app != known.get(app.name)}
    bench.source.put(*apps)
    for name, seen in before.items():
        await bench.until(lambda name=name, seen=seen: count(bench, "DeploySucceeded", name) > seen)
    await bench.until(lambda: all(bench.condition(app.name, "Reconciling")["status"] == "False" for app in apps))


async def ready_reason(bench: Bench, reason: str, app: str = "shop") -> str:
    """Wait for a reason of the condition Ready; returns its message."""
    await bench.until(lambda: bench.condition(app, "Ready")["reason"] == reason)
    return str(bench.condition(app, "Ready")["message"])
