"""What a pull or push of all tags says on its way to a client: how each tag ended, and the newest progress between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.failures import describe_error
from agent.api.ndjson import JsonLines
from agent.api.progressing import Work
from agent.api.reports import Reports
from agent.api.threads import Threads
from agent.engine.alltags import TagOutcome


class TagReports(Reports):
    """Filled from the work's thread, emptied on the event loop. ``describe`` makes JSON of what a tag gave."""

    def __init__(self, describe: Callable[[Any], Mapping[str, Any]]) -> None:
        super().__init__()
        self._describe = describe

    def put(self, report: Any) -> None:
        """Take a TagOutcome, or a PullProgress: of those a slow client sees fewer."""
        ended = isinstance(report, TagOutcome)
        line = {"tag": self._render(report)} if ended else {"progress": asdict(report)}
        with self._lock:
            if self._lines and "progress" in self._lines[-1]:
                self._lines.pop()
            self._lines.append(line)
        self._wakeup.set()

    def _render(self, outcome: TagOutcome) -> Mapping[str, Any]:
        error = outcome.error
        end = {"error": describe_error(error)} if error is not None else self._describe(outcome.result)
        return {"name": outcome.tag, **end}


async def relay_tags(
    request: web.Request, threads: Threads, name: str, work: Work, describe: Callable[[Any], Mapping[str, Any]]
) -> web.StreamResponse:
    """Run blocking ``work(progress, cancel)`` in a thread of its own.

    The answer is NDJSON: ``{"progress": {...}}``, for each tag ``{"tag": {"name", ...}}`` with what ``describe`` makes
    of its result or with ``error``, and last ``{"tags": {...}}``, the numbers. A client that leaves cancels it.
    """
    cancel, reports = threading.Event(), TagReports(describe)
    running = threads.start(name, lambda: work(reports.put, cancel))
    running.add_done_callback(lambda _: reports.wake())
    try:
        async with JsonLines(request) as lines:
            while not running.done():
                await lines.send(await reports.take())
            await lines.send(reports.take_now())
            await lines.send([{"tags": asdict(running.result())}])
        return lines.response
    finally:
        cancel.set()
