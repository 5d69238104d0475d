"""Commands over HTTP: one that has begun goes on to its end, even if who gave it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Commands:
    """Those under way. Lives on the event loop."""

    def __init__(self) -> None:
        self._working: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Carry a command out, whether anybody waits for it or not."""
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry a command out and wait for it; to be cancelled here does not cancel it."""
        return await asyncio.shield(self.begin(work))
