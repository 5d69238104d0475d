"""What a monitoring system asks for: /metrics, /healthz and /readyz, on an address of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from agent.api.port import AgentParts
from agent.api.sampling import make_snapshot
from agent.api.threads import Threads
from agent.telemetry.metrics import CONTENT_TYPE
from agent.telemetry.samples import Snapshot


class MetricSite:
    """Handlers of the three paths. One scrape at a time reads the host; others wait for their turn."""

    def __init__(self, parts: AgentParts, threads: Threads) -> None:
        self._parts = parts
        self._threads = threads
        self._scraping = asyncio.Lock()
        self._snapshot = Snapshot()
        parts.metrics.attach(lambda: self._snapshot)

    def routes(self) -> list[web.RouteDef]:
        """The paths."""
        return [
            web.get("/metrics", self.metrics),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
        ]

    async def metrics(self, _request: web.Request) -> web.Response:
        """The text exposition."""
        async with self._scraping:
            status, converged = self._parts.controller.status(), self._parts.controller.converged
            text = await self._threads.call(lambda: self._render(status, converged))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    def _render(self, status: Mapping[str, Any], converged: bool) -> bytes:
        parts = self._parts
        self._snapshot = make_snapshot(status, converged, parts.engine, parts.data_root)
        return parts.metrics.render()

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 while the event loop turns."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 when the first reconcile is done and the keeper is connected, else 503 and which is missing."""
        missing = []
        if not self._parts.controller.synced:
            missing.append("the first reconcile is not done")
        if not self._parts.engine.connected:
            missing.append("the keeper is not connected")
        return web.Response(text="\n".join(missing or ["ok"]) + "\n", status=503 if missing else 200)
