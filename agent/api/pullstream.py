"""POST /holdfast/v1/pull: fetch an image, telling how far it is as NDJSON; a client that leaves cancels it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.ndjson import JsonLines
from agent.api.parameters import read_document, take
from agent.api.port import EnginePort
from agent.api.threads import Threads, Wakeup
from agent.errors import Refused

_POLICIES = ("missing", "always")


class PullStream:
    """The handler of pull."""

    def __init__(self, engine: EnginePort, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads

    def routes(self) -> list[web.RouteDef]:
        """One path."""
        return [web.post("/holdfast/v1/pull", self.pull)]

    async def pull(self, request: web.Request) -> web.StreamResponse:
        """Body: ``{"reference", "policy"}``. Lines: ``{"progress": {...}}`` and last ``{"image": {...}}``."""
        document = await read_document(request)
        reference = take(document, "reference", str, "")
        policy = take(document, "policy", str, "always")
        if not reference or policy not in _POLICIES:
            raise Refused("reference is missing or policy unknown", reason="InvalidRequest")
        cancel, latest = threading.Event(), _Latest()
        work = self._threads.start(
            "pull",
            lambda: self._engine.images.pull(reference, policy=policy, progress=latest.put, cancel=cancel),
        )
        work.add_done_callback(lambda _: latest.wake())
        try:
            async with JsonLines(request) as lines:
                await _report(lines, work, latest)
            return lines.response
        finally:
            cancel.set()


async def _report(lines: JsonLines, work: asyncio.Future[Any], latest: _Latest) -> None:
    while not work.done():
        report = await latest.take()
        if report is not None:
            await lines.send([{"progress": report}])
    entry = work.result()
    fields = ("id", "digest", "names", "size", "created", "pulled")
    await lines.send([{"image": {name: getattr(entry, name) for name in fields}}])


class _Latest:
    """Only the newest report: a slow client sees fewer, the pull is never held up."""

    def __init__(self) -> None:
        self._value: Mapping[str, Any] | None = None
        self._wakeup = Wakeup()

    def put(self, progress: Any) -> None:
        """Called in the pull's thread."""
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
