"""POST /holdfast/v1/build: build an image of contexts that come with the request; a client that leaves cancels it.

Contexts are sent, never named by a path: so the client's own rights decide what of the host gets into an image, it may
be in a container of its own or come by TCP, and the agent has one way to take a context.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.buildorder import decode_order, split_header
from agent.api.buildreports import BuildReports
from agent.api.ndjson import JsonLines
from agent.api.peers import is_root_here
from agent.api.port import AgentParts
from agent.api.threads import Threads
from agent.api.transfers import Upload


class BuildStream:
    """The handler of build."""

    def __init__(self, parts: AgentParts, threads: Threads) -> None:
        self._images = parts.engine.images
        self._metrics = parts.metrics
        self._threads = threads

    def routes(self) -> list[web.RouteDef]:
        """One path."""
        return [web.post("/holdfast/v1/build", self.build)]

    async def build(self, request: web.Request) -> web.StreamResponse:
        """Body: a line of JSON (see ``buildorder``), then a tar, plain or packed by gzip or zstd.

        Lines: ``{"build": {...}}`` and ``{"pull": {...}}`` in the order of what happens (see ``buildreports``), last
        ``{"image": {...}}``.
        """
        trusted, cancel, upload = is_root_here(request), threading.Event(), Upload()
        reports = BuildReports()

        def work() -> Any:
            document, files = split_header(upload.chunks())
            order = decode_order(document, trusted=trusted)
            return self._images.build(order, files=files, progress=reports.put, cancel=cancel)

        begun = time.monotonic()
        running = self._threads.start("build", work)
        running.add_done_callback(lambda done: self._count(done, time.monotonic() - begun))
        running.add_done_callback(lambda _: reports.wake())
        try:
            await upload.fill(request.content, running)
            if running.done():
                running.result()
            async with JsonLines(request) as lines:
                while not running.done():
                    await lines.send(await reports.take())
                await lines.send(reports.take_now())
                await lines.send([{"image": asdict(running.result())}])
            return lines.response
        finally:
            cancel.set()
            upload.cut()

    def _count(self, done: asyncio.Future[Any], seconds: float) -> None:
        if not done.cancelled():
            self._metrics.built(seconds, success=done.exception() is None)
