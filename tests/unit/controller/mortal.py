"""An agent that can be killed at every call it makes on its engine and its database, and a host that outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_engine import FakeEngine
from loop_bench import Bench

from agent.controller.controller import Controller
from agent.errors import Waiting
from agent.telemetry.events import EventLog

CALLS = {
    "containers": ("create_start", "stop", "remove"),
    "images": ("pull", "build"),
    "networks": ("ensure", "remove", "publish", "set_service_names"),
    "volumes": ("ensure",),
    "": ("exec_start",),
}
WRITES = ("put_many", "delete")


class Dead(Waiting):
    """What the rest of a killed agent's calls come to: nothing."""

    def __init__(self) -> None:
        super().__init__("this agent was killed", retry_after=3600.0)


@dataclass
class Fuse:
    """Counts the points at which an agent may be killed: before and after every call. At number ``end`` it is."""

    end: int = 0
    points: list[str] = field(default_factory=list)
    watch: Callable[[str], None] = lambda _: None
    burnt: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self.blown = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def pass_by(self, what: str) -> None:
        with self._lock:
            if self.burnt:
                raise Dead
            self.points.append(what)
            self.watch(what)
            if len(self.points) == self.end:
                self.burnt = True
                self._loop.call_soon_threadsafe(self.blown.set)
                raise Dead

    def guard(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            self.pass_by(f"before {name}")
            result = call(*arguments, **options)
            self.pass_by(f"after {name}")
            return result

        return run


class Guarded:
    """Something whose calls of some names pass a fuse; all else is as it is."""

    def __init__(self, inner: Any, fuse: Fuse, names: tuple[str, ...], title: str, **parts: Any) -> None:
        self._inner = inner
        self.__dict__.update(parts)
        for name in names:
            setattr(self, name, fuse.guard(f"{title}.{name}".lstrip("."), getattr(inner, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def guard_engine(engine: FakeEngine, fuse: Fuse) -> Any:
    parts = {title: Guarded(getattr(engine, title), fuse, names, title) for title, names in CALLS.items() if title}
    return Guarded(engine, fuse, CALLS[""], "", **parts)


class MortalBench(Bench):
    """A bench whose agent reaches engine and database through a fuse."""

    def __init__(self, directory: Path, engine: FakeEngine, end: int = 0) -> None:
        super().__init__(directory, engine)
        self.fuse = Fuse(end)
        self.events = EventLog()
        records: Any = Guarded(self.database, self.fuse, WRITES, "record")
        guarded = guard_engine(engine, self.fuse)
        self.controller = Controller(guarded, self.source, self.events, self.metrics, records)


@contextlib.asynccontextmanager
async def living(directory: Path, engine: FakeEngine, end: int = 0) -> AsyncIterator[MortalBench]:
    """An agent that lives until point ``end``; leaving the block kills it: nothing it has not written yet is."""
    bench = MortalBench(directory, engine, end)
    task = asyncio.get_running_loop().create_task(bench.controller.run())
    try:
        yield bench
    finally:
        bench.fuse.burnt = True
        engine.containers.callbacks.clear()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        bench.events.close()
        bench.database.close()


def copy_host(engine: FakeEngine) -> FakeEngine:
    """Another host with the same containers, images, networks and published ports."""
    copy = FakeEngine()
    for record in engine.containers.list():
        copy.containers.put(record)
    for _ in engine.containers.calls:
        next(copy.containers._numbers)
    copy.images.local.update(engine.images.local)
    copy.networks.names |= engine.networks.names
    copy.networks.published = engine.networks.published
    copy.networks.services.update(engine.networks.services)
    copy.volumes.names |= engine.volumes.names
    return copy


@contextlib.contextmanager
def copied_state(directory: Path, target: Path) -> Iterator[Path]:
    """A copy of an agent's database, for the length of a block."""
    shutil.copytree(directory, target)
    try:
        yield target
    finally:
        shutil.rmtree(target)
