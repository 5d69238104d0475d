"""Work that reports how far it is, told to a client as it goes on; a client that leaves cancels it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.ndjson import JsonLines
from agent.api.threads import Threads, Wakeup

Work = Callable[[Callable[[Any], None], threading.Event], Any]


async def relay(
    request: web.Request, threads: Threads, name: str, work: Work, describe: Callable[[Any], Mapping[str, Any]]
) -> web.StreamResponse:
    """Run blocking ``work(progress, cancel)`` in a thread of its own.

    The answer is NDJSON: ``{"progress": {...}}`` for the reports, and last what ``describe`` makes of the result.
    """
    cancel, latest = threading.Event(), Latest()
    running = threads.start(name, lambda: work(latest.put, cancel))
    running.add_done_callback(lambda _: latest.wake())
    try:
        return await tell(request, running, latest, describe)
    finally:
        cancel.set()


async def tell(
    request: web.Request, running: asyncio.Future[Any], latest: Latest, describe: Callable[[Any], Mapping[str, Any]]
) -> web.StreamResponse:
    """Answer with the newest reports until the work is done, and then with what ``describe`` makes of its result."""
    async with JsonLines(request) as lines:
        while not running.done():
            report = await latest.take()
            if report is not None:
                await lines.send([{"progress": report}])
        await lines.send([describe(running.result())])
    return lines.response


class Latest:
    """Only the newest report: a slow client sees fewer, the work is never held up."""

    def __init__(self) -> None:
        self._value: Mapping[str, Any] | None = None
        self._wakeup = Wakeup()

    def put(self, progress: Any) -> None:
        """Called in the work's thread."""
        self._value = asdict(progress)
        self._wakeup.set()

    def wake(self) -> None:
        """Make ``take`` return."""
        self._wakeup.set()

    async def take(self) -> Mapping[str, Any] | None:
        """The newest report, each once; None when woken for another cause."""
        await self._wakeup.wait()
        value, self._value = self._value, None
        return value
