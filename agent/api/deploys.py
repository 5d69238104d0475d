"""The deploys of apps over HTTP: their history, and what people want of them."""

from __future__ import annotations

from aiohttp import web

from agent.api.commands import Commands
from agent.api.parameters import read_flag, read_number
from agent.api.port import ControllerPort
from agent.errors import Refused

WAIT_LIMIT = 86400.0
NAME_LIMIT = 200


class DeploySite:
    """Handlers of history, diff, rollback, pause, resume, retry and the approval of plans."""

    def __init__(self, controller: ControllerPort) -> None:
        self._controller = controller
        self._finish = Commands().finish

    def routes(self) -> list[web.RouteDef]:
        """The paths, relative to /holdfast/v1."""
        return [
            web.get("/holdfast/v1/history", self.history),
            web.get("/holdfast/v1/diff", self.diff),
            web.post("/holdfast/v1/rollback", self.rollback),
            web.post("/holdfast/v1/pause", self.pause),
            web.post("/holdfast/v1/resume", self.resume),
            web.post("/holdfast/v1/retry", self.retry),
            web.post("/holdfast/v1/plan/approve", self.approve),
        ]

    async def history(self, request: web.Request) -> web.Response:
        """The list of revisions, of ``app`` or of all."""
        return web.json_response(self._controller.deploys.history(_read_name(request, "app")))

    async def diff(self, request: web.Request) -> web.Response:
        """What differs between the revisions ``one`` and ``other``, or between what is in force and ``one``."""
        one = _read_name(request, "one")
        if one is None:
            raise Refused("one is missing: a revision", reason="InvalidRequest")
        return web.json_response(self._controller.deploys.diff(one, _read_name(request, "other")))

    async def rollback(self, request: web.Request) -> web.Response:
        """Pin ``revision`` of ``app``, then wait up to ``wait`` seconds for it to be in force."""
        seconds = read_number(request, "wait", 0.0, WAIT_LIMIT)
        commands = self._controller.deploys
        done = await self._finish(commands.rollback(_read_name(request, "app"), _read_name(request, "revision")))
        found = await commands.wait_settled(done["app"], seconds)
        return web.json_response({**done, **found, "reached": found["in_force"] == done["revision"]["id"]})

    async def pause(self, request: web.Request) -> web.Response:
        """Pause ``target``, APP or APP/SERVICE, or with ``all`` everything."""
        target, everything = _read_name(request, "target"), read_flag(request, "all")
        return web.json_response(await self._finish(self._controller.deploys.pause(target, everything=everything)))

    async def resume(self, request: web.Request) -> web.Response:
        """Resume ``target``, APP or APP/SERVICE, or with ``all`` everything."""
        target, everything = _read_name(request, "target"), read_flag(request, "all")
        return web.json_response(await self._finish(self._controller.deploys.resume(target, everything=everything)))

    async def retry(self, request: web.Request) -> web.Response:
        """Try again what was taken back, of ``app`` or of all."""
        return web.json_response(await self._finish(self._controller.deploys.retry(_read_name(request, "app"))))

    async def approve(self, request: web.Request) -> web.Response:
        """Approve the plan called ``hash``, if that is the plan with the state directory as it is now."""
        name = _read_name(request, "hash")
        if name is None:
            raise Refused("hash is missing: of a plan", reason="InvalidRequest")
        await self._controller.look()
        plans = self._controller.pending_plan()
        return web.json_response(await self._finish(self._controller.deploys.approve(name, plans)))


def _read_name(request: web.Request, name: str) -> str | None:
    text = request.query.get(name)
    if text is not None and len(text) > NAME_LIMIT:
        raise Refused(f"{name} is too long", reason="InvalidRequest")
    return text or None
