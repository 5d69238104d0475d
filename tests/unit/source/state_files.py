"""Making state directories, and following them on a real event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from agent.errors import HoldfastError
from agent.source.directory import DirectorySource, Revision


def compose(image: str = "nginx", extra: str = "") -> str:
    return f"services:\n  web:\n    image: {image}\n" + (f"    {extra}\n" if extra else "")


def put(path: Path, text: str | bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else (compose() if text is None else text).encode())
    return path


def images_of(revision: Revision) -> dict[str, str | None]:
    """By app: the image of its service ``web``; None for an app that is not valid."""
    return {key: files.app.services["web"].image if files.app else None for key, files in revision.apps.items()}


def problems_of(revision: Revision, key: str) -> str:
    return "\n".join(map(str, revision.apps[key].problems))


class Following:
    """One who follows a directory as the controller does: what he was given, and what went wrong."""

    def __init__(self, source: DirectorySource) -> None:
        self.source = source
        self.given: list[Revision] = []
        self.faults: list[HoldfastError] = []
        self._news = asyncio.Event()

    @property
    def images(self) -> dict[str, str | None]:
        return images_of(self.given[-1])

    @property
    def history(self) -> list[dict[str, str | None]]:
        return [images_of(revision) for revision in self.given]

    async def run(self) -> None:
        while True:
            try:
                async for revision in self.source.revisions():
                    self.given.append(revision)
                    self._tell()
            except HoldfastError as fault:
                self.faults.append(fault)
                self._tell()
                await asyncio.sleep(fault.retry_after or 1)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"given: {self.history}; faults: {self.faults}") from None

    async def until_images(self, **expected: str | None) -> None:
        await self.until(lambda: bool(self.given) and self.images == expected)


@contextlib.asynccontextmanager
async def following(directory: Path) -> AsyncIterator[Following]:
    """Follow a directory until the block ends; the first revision is there when it begins."""
    watcher = Following(DirectorySource(directory))
    task = asyncio.create_task(watcher.run())
    try:
        await watcher.until(lambda: bool(watcher.given or watcher.faults))
        yield watcher
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task


Scene = Callable[[Path, Following], Coroutine[Any, Any, None]]


def play(state: Path, scene: Scene) -> Following:
    """Follow while the scene runs; afterwards nothing is left of it."""

    async def run() -> Following:
        async with following(state) as watcher:
            await scene(state, watcher)
        return watcher

    before = count_resources()
    watcher = asyncio.run(run())
    deadline = time.monotonic() + 60
    while any(now > then for now, then in zip(count_resources(), before, strict=True)):
        assert time.monotonic() < deadline, (count_resources(), before)
        time.sleep(0.01)
    return watcher


def count_resources() -> tuple[int, int]:
    """Threads and descriptors."""
    return threading.active_count(), len([*Path("/proc/self/fd").iterdir()])


async def quiet() -> None:
    """Long enough for anything to be noticed that is going to be."""
    await asyncio.sleep(0.6)
