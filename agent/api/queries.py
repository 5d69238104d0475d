"""The plain requests: each one question or one command, and one JSON answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent import __version__
from agent.api.commands import Commands
from agent.api.parameters import read_number
from agent.api.port import AgentParts
from agent.api.threads import Threads
from agent.errors import Refused

WAIT_LIMIT = 86400.0


class Queries:
    """Handlers of version, status, ps, plan, why, images and sync."""

    def __init__(self, parts: AgentParts, threads: Threads) -> None:
        self._parts = parts
        self._threads = threads
        self._finish = Commands().finish

    def routes(self) -> list[web.RouteDef]:
        """The paths, relative to /holdfast/v1."""
        return [
            web.get("/holdfast/v1/version", self.version),
            web.get("/holdfast/v1/status", self.status),
            web.get("/holdfast/v1/ps", self.ps),
            web.get("/holdfast/v1/plan", self.plan),
            web.get("/holdfast/v1/why", self.why),
            web.get("/holdfast/v1/images", self.images),
            web.post("/holdfast/v1/sync", self.sync),
        ]

    async def version(self, _request: web.Request) -> web.Response:
        """``{"version"}`` of the agent."""
        return web.json_response({"version": __version__})

    async def status(self, request: web.Request) -> web.Response:
        """The status and ``converged``; ``wait=SECONDS`` answers as soon as it is, or when they have gone by."""
        seconds = read_number(request, "wait", 0.0, WAIT_LIMIT)
        reached = await self._parts.controller.wait_converged(seconds) if seconds else False
        return web.json_response(self._status(reached))

    def _status(self, reached: bool = False) -> dict[str, Any]:
        status = dict(self._parts.controller.status())
        status["converged"] = reached or self._parts.controller.converged
        return status

    async def ps(self, _request: web.Request) -> web.Response:
        """The list of containers."""
        return web.json_response(list(self._parts.controller.containers()))

    async def plan(self, _request: web.Request) -> web.Response:
        """What would be done next, the state directory as it is now."""
        await self._parts.controller.look()
        return web.json_response(dict(self._parts.controller.pending_plan()))

    async def why(self, request: web.Request) -> web.Response:
        """The story of ``target``, a container, service or app, as a list of steps."""
        target = request.query.get("target", "")
        if not target:
            raise Refused("target is missing", reason="InvalidRequest")
        return web.json_response(list(self._parts.controller.why(target)))

    async def images(self, _request: web.Request) -> web.Response:
        """The list of local images."""
        records = await self._threads.call(self._parts.engine.images.list)
        return web.json_response([asdict(record) for record in records])

    async def sync(self, request: web.Request) -> web.Response:
        """Reconcile now, then wait up to ``wait`` seconds for it to be as wanted; answers the status."""
        seconds = read_number(request, "wait", 0.0, WAIT_LIMIT)
        await self._finish(self._parts.controller.sync())
        reached = await self._parts.controller.wait_converged(seconds) if seconds else False
        return web.json_response(self._status(reached))
