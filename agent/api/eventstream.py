"""GET /holdfast/v1/events: the last events, and with ``follow`` those to come."""

from __future__ import annotations

from aiohttp import web

from agent.api.ndjson import JsonLines
from agent.api.parameters import read_count, read_flag, read_number
from agent.api.threads import Wakeup
from agent.errors import Conflict
from agent.telemetry.events import RING_LIMIT, EventLog

DEFAULT_TAIL = 100


class EventStream:
    """The handler of events."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def routes(self) -> list[web.RouteDef]:
        """One path."""
        return [web.get("/holdfast/v1/events", self.events)]

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Parameters: ``tail`` (a count or all), ``since`` (unix seconds), ``follow``."""
        tail = read_count(request, "tail") if "tail" in request.query else DEFAULT_TAIL
        since = read_number(request, "since", 0.0)
        tail = RING_LIMIT if tail is None else tail
        if not read_flag(request, "follow"):
            async with JsonLines(request) as lines:
                await lines.send(event.as_dict() for event in self._events.recent(tail, since))
            return lines.response
        return await self._follow(request, tail, since)

    async def _follow(self, request: web.Request, tail: int, since: float) -> web.StreamResponse:
        wakeup = Wakeup()
        past, reader = self._events.subscribe(wakeup.set, backlog=tail, since=since)
        try:
            async with JsonLines(request) as lines:
                await lines.send(event.as_dict() for event in past)
                while True:
                    await wakeup.wait()
                    await lines.send(event.as_dict() for event in reader.drain())
                    if reader.dropped:
                        raise Conflict(
                            "this reader was too slow and has missed events",
                            reason="SlowReader",
                            hint="ask again with since= the last event seen",
                        )
            return lines.response
        finally:
            self._events.unsubscribe(reader)
