"""What builds keep for the next ones: taking it away."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.images import MAX_AGE
from agent.api.parameters import read_document, take
from agent.api.port import EnginePort
from agent.api.threads import Threads
from agent.engine.buildcache import CacheWish
from agent.errors import Refused

_MAX_BYTES = 1 << 60


class BuildCacheSite:
    """Handlers of /builder."""

    def __init__(self, engine: EnginePort, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads

    def routes(self) -> list[web.RouteDef]:
        """The paths, relative to /holdfast/v1."""
        return [web.post("/holdfast/v1/builder/prune", self.prune)]

    async def prune(self, request: web.Request) -> web.Response:
        """Body: ``{"all", "min_age", "keep_bytes", "dry_run"}``, the age in seconds. Answers what went."""
        document = await read_document(request)
        wish = CacheWish(
            everything=take(document, "all", bool, False),
            min_age=float(_take_number(document, "min_age", MAX_AGE)),
            keep_bytes=_take_number(document, "keep_bytes", _MAX_BYTES),
            dry_run=take(document, "dry_run", bool, False),
        )
        outcome = await self._threads.start("prune", lambda: self._engine.build_cache.prune(wish))
        return web.json_response(asdict(outcome))


def _take_number(document: Any, member: str, most: int) -> int:
    value: int = take(document, member, int, 0)
    if not 0 <= value <= most:
        raise Refused(f"{member} is out of range: {value}", reason="InvalidRequest")
    return value
