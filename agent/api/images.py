"""Images, one by one: look into them, name, remove, prune, verify; and what takes the room of the data root."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.parameters import read_document, take
from agent.api.port import EnginePort
from agent.api.progressing import relay
from agent.api.threads import Threads
from agent.errors import Refused

MAX_AGE = 10 * 365 * 86400


class ImageSite:
    """Handlers of /image and /system/df."""

    def __init__(self, engine: EnginePort, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads

    def routes(self) -> list[web.RouteDef]:
        """The paths, relative to /holdfast/v1."""
        return [
            web.get("/holdfast/v1/image", self.inspect),
            web.get("/holdfast/v1/image/history", self.history),
            web.post("/holdfast/v1/image/tag", self.tag),
            web.post("/holdfast/v1/image/remove", self.remove),
            web.post("/holdfast/v1/image/prune", self.prune),
            web.post("/holdfast/v1/image/verify", self.verify),
            web.get("/holdfast/v1/system/df", self.usage),
        ]

    async def inspect(self, request: web.Request) -> web.Response:
        """``name=IMAGE``: all that is known of it."""
        name = _name_of(request)
        details = await self._threads.call(lambda: self._engine.images.inspect(name))
        return web.json_response(asdict(details))

    async def history(self, request: web.Request) -> web.Response:
        """``name=IMAGE``: its steps, the newest first."""
        name = _name_of(request)
        steps = await self._threads.call(lambda: self._engine.images.history(name))
        return web.json_response([asdict(step) for step in steps])

    async def tag(self, request: web.Request) -> web.Response:
        """Body: ``{"image", "name"}``. Answers the image."""
        document = await read_document(request)
        image, name = _take_name(document, "image"), _take_name(document, "name")
        record = await self._threads.call(lambda: self._engine.images.tag(image, name))
        return web.json_response(asdict(record))

    async def remove(self, request: web.Request) -> web.Response:
        """Body: ``{"image", "force"}``. Answers the names that went, the image's id if it went, the bytes freed."""
        document = await read_document(request)
        image, force = _take_name(document, "image"), take(document, "force", bool, False)
        outcome = await self._threads.start("remove", lambda: self._engine.images.remove(image, force=force))
        return web.json_response(asdict(outcome))

    async def prune(self, request: web.Request) -> web.Response:
        """Body: ``{"all", "min_age", "dry_run"}``, the age in seconds. Answers what went."""
        document = await read_document(request)
        named, dry_run = take(document, "all", bool, False), take(document, "dry_run", bool, False)
        min_age = take(document, "min_age", int, 0)
        if not 0 <= min_age <= MAX_AGE:
            raise Refused(f"min_age is out of range: {min_age}", reason="InvalidRequest")
        outcome = await self._threads.start(
            "prune", lambda: self._engine.images.prune(named=named, min_age=float(min_age), dry_run=dry_run)
        )
        images = [{"id": image, "names": names} for image, names in outcome.images]
        return web.json_response({**asdict(outcome), "images": images})

    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Body: ``{"repair"}``. Lines: ``{"progress"}``, and last ``{"findings": [...]}``. Who leaves ends it."""
        repair = take(await read_document(request), "repair", bool, True)
        return await relay(
            request,
            self._threads,
            "verify",
            lambda progress, cancel: self._engine.images.verify(repair=repair, progress=progress, cancel=cancel),
            lambda findings: {"findings": [asdict(finding) for finding in findings]},
        )

    async def usage(self, _request: web.Request) -> web.Response:
        """What takes the room. Who leaves ends the measuring."""
        stop = threading.Event()
        work: asyncio.Future[Any] = self._threads.start("usage", lambda: self._engine.usage(stop))
        try:
            return web.json_response(asdict(await work))
        finally:
            stop.set()


def _name_of(request: web.Request) -> str:
    name = request.query.get("name", "")
    if not name:
        raise Refused("name is missing", reason="InvalidRequest")
    return name


def _take_name(document: Any, member: str) -> str:
    value: str = take(document, member, str, "")
    if not value:
        raise Refused(f"{member} is missing", reason="InvalidRequest")
    return value
