"""POST /holdfast/v1/down: take everything down; with ``progress=1`` told as it goes, as NDJSON."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from agent.api.commands import Commands
from agent.api.ndjson import JsonLines
from agent.api.parameters import read_flag
from agent.api.peers import identify
from agent.api.port import ControllerPort, EnginePort
from agent.engine.model import ContainerEvent, ContainerState
from agent.telemetry.events import EventLog

_TOLD = {"exited": "stopped", "removed": "removed"}


class DownStream:
    """The handler of down. What is begun goes on to its end even if who asked for it has gone."""

    def __init__(self, controller: ControllerPort, engine: EnginePort, events: EventLog) -> None:
        self._events = events
        self._controller = controller
        self._engine = engine
        self._commands = Commands()
        self._listeners: set[asyncio.Queue[ContainerEvent | None]] = set()

    def routes(self) -> list[web.RouteDef]:
        """One path."""
        return [web.post("/holdfast/v1/down", self.down)]

    def on_container_event(self, event: ContainerEvent) -> None:
        """Runs on the event loop."""
        for listener in self._listeners:
            listener.put_nowait(event)

    async def down(self, request: web.Request) -> web.StreamResponse:
        """Answers ``{"removed": [names]}`` of all that was there. With ``progress`` lines come before that:
        ``{"stopping": [names]}``, then ``{"progress": {"container", "state"}}``, state ``stopped`` or ``removed``."""
        caller = await asyncio.to_thread(identify, request)
        self._events.record("agent", reason="TakenDown", message=f"holdfast down by {caller}", who=caller.as_dict())
        removed = [container["name"] for container in self._controller.containers()]
        if not read_flag(request, "progress"):
            await asyncio.shield(self._begin())
            return web.json_response({"removed": removed})
        heard: asyncio.Queue[ContainerEvent | None] = asyncio.Queue()
        self._listeners.add(heard)
        try:
            async with JsonLines(request) as lines:
                await self._tell(lines, heard)
                await lines.send([{"removed": removed}])
            return lines.response
        finally:
            self._listeners.discard(heard)

    async def _tell(self, lines: JsonLines, heard: asyncio.Queue[ContainerEvent | None]) -> None:
        records = self._engine.containers.list()
        names = {record.id: record.name for record in records}
        work = self._begin()
        work.add_done_callback(lambda _: heard.put_nowait(None))
        await lines.send([{"stopping": [r.name for r in records if r.state is ContainerState.RUNNING]}])
        while (event := await heard.get()) is not None:
            if event.kind in _TOLD and event.container in names:
                step = {"container": names[event.container], "state": _TOLD[event.kind]}
                await lines.send([{"progress": step}])
        work.result()

    def _begin(self) -> asyncio.Task[Any]:
        work = self._commands.begin(self._controller.down())
        work.add_done_callback(self._end)
        return work

    def _end(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled():
            work.exception()  # marks it as seen: whoever asked for it may have gone
