"""Images and containers as tars: /image/save, /image/load, /image/import, /image/export and /export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from aiohttp import web

from agent.api.parameters import read_flag
from agent.api.port import EnginePort
from agent.api.targets import find_targets
from agent.api.threads import Threads
from agent.api.transfers import receive, send
from agent.errors import Conflict, Refused

MAX_NAMES = 100


class ArchiveSite:
    """The handlers."""

    def __init__(self, engine: EnginePort, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads

    def routes(self) -> list[web.RouteDef]:
        """The paths."""
        return [
            web.get("/holdfast/v1/image/save", self.save),
            web.post("/holdfast/v1/image/load", self.load),
            web.post("/holdfast/v1/image/import", self.import_image),
            web.get("/holdfast/v1/image/export", self.export_image),
            web.get("/holdfast/v1/export", self.export),
        ]

    async def save(self, request: web.Request) -> web.StreamResponse:
        """``name=IMAGE`` (repeatable), ``format=docker-archive|oci``: a tar."""
        names, form = _read_all(request, "name"), request.query.get("format", "docker-archive")
        return await send(request, self._threads, "save", lambda: self._engine.archives.save(names, form))

    async def load(self, request: web.Request) -> web.StreamResponse:
        """Body: a tar. ``name=NAME`` (repeatable) gives names, ``names=1`` all of the archive's own.

        Lines: ``{"progress"}`` and last ``{"images": [{"image", "offered"}]}``.
        """
        names, everything = _read_all(request, "name"), read_flag(request, "names")
        return await receive(
            request,
            self._threads,
            "load",
            lambda chunks, progress, cancel: self._engine.archives.load(
                chunks, names, everything=everything, progress=progress, cancel=cancel
            ),
            lambda loaded: {"images": [asdict(outcome) for outcome in loaded]},
        )

    async def import_image(self, request: web.Request) -> web.StreamResponse:
        """Body: a tar of a root file system. ``name=NAME``, ``change=INSTRUCTION`` (repeatable).

        Lines: ``{"progress"}`` and last ``{"image"}``.
        """
        name, changes = request.query.get("name") or None, request.query.getall("change", [])
        return await receive(
            request,
            self._threads,
            "import",
            lambda chunks, progress, cancel: self._engine.archives.import_tar(
                chunks, name, changes, progress=progress, cancel=cancel
            ),
            _describe_image,
        )

    async def export_image(self, request: web.Request) -> web.StreamResponse:
        """``name=IMAGE``: a tar of its root file system."""
        name = request.query.get("name", "")
        return await send(request, self._threads, "export", lambda: self._engine.archives.export_image(name))

    async def export(self, request: web.Request) -> web.StreamResponse:
        """``target=CONTAINER``: a tar of its root file system."""
        target = request.query.get("target", "")
        found = find_targets(self._engine.containers.list(), target)
        if len(found) > 1:
            names = ", ".join(record.name for record in found[:10])
            raise Conflict(f"{target} has {len(found)} containers", reason="Ambiguous", hint=f"name one of {names}")
        return await send(request, self._threads, "export", lambda: self._engine.archives.export(found[0]))


def _describe_image(record: Any) -> Mapping[str, Any]:
    return {"image": asdict(record)}


def _read_all(request: web.Request, name: str) -> list[str]:
    values = request.query.getall(name, [])
    if len(values) > MAX_NAMES or any("\0" in value for value in values):
        raise Refused(f"at most {MAX_NAMES} times {name}", reason="InvalidRequest")
    return values
