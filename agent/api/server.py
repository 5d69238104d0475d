"""Puts the handlers together and listens: the API on its hosts, monitoring on its address."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

from aiohttp import web

from agent.api.archives import ArchiveSite
from agent.api.buildcache import BuildCacheSite
from agent.api.buildstream import BuildStream
from agent.api.deploys import DeploySite
from agent.api.downstream import DownStream
from agent.api.eventstream import EventStream
from agent.api.exec import ExecStream
from agent.api.failures import errors_as_json
from agent.api.hostnames import UnixHost, parse_address, parse_host
from agent.api.hosts import inode_of, open_api_socket, open_tcp
from agent.api.images import ImageSite
from agent.api.logstream import LogStream
from agent.api.metricsite import MetricSite
from agent.api.port import AgentParts
from agent.api.pullstream import PullStream
from agent.api.queries import Queries
from agent.api.threads import Threads
from agent.engine.model import ContainerEvent
from agent.errors import Refused

BODY_LIMIT = 1 << 20
SHUTDOWN_SECONDS = 1.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiServer:
    """``await start()`` listens, ``await close()`` ends every stream and leaves no socket behind."""

    def __init__(self, parts: AgentParts, hosts: Iterable[str], metrics: str | None) -> None:
        self._parts = parts
        self._hosts = tuple(hosts)
        self._metrics = metrics
        self._threads = Threads()
        self._runners: list[web.AppRunner] = []
        self._places: list[tuple[Path, int]] = []
        self._metrics_port = 0
        self._streams: set[asyncio.Task[object]] = set()

    @property
    def metrics_port(self) -> int:
        """The port /metrics is served on; 0 when it is not."""
        return self._metrics_port

    async def start(self) -> None:
        """Raises Refused or Conflict when an address cannot be had; nothing listens then."""
        try:
            await self._start_monitoring()
            runner = await self._run(self._build_api())
            for host in self._hosts:
                await web.SockSite(runner, self._open(host)).start()
        except BaseException:
            await self.close()
            raise

    def _open(self, host: str) -> socket.socket:
        listener = open_api_socket(host)
        place = parse_host(host)
        if isinstance(place, UnixHost):
            path = Path(place.path)
            self._places.append((path, inode_of(path)))
        return listener

    def _build_api(self) -> web.Application:
        parts, threads = self._parts, self._threads
        logs, down = LogStream(parts.engine, threads), DownStream(parts.controller, parts.engine, parts.events)
        self._feed_events(logs, down)
        application = web.Application(
            client_max_size=BODY_LIMIT, middlewares=[errors_as_json, refuse_browsers, self._track]
        )
        sites = (
            Queries(parts, threads),
            DeploySite(parts.controller),
            BuildStream(parts, threads),
            ExecStream(parts.engine, threads, parts.controller.callers),
            *(site(parts.engine, threads) for site in (PullStream, ImageSite, BuildCacheSite, ArchiveSite)),
        )
        for site in sites:
            application.add_routes(site.routes())
        application.add_routes([*logs.routes(), *down.routes()])
        application.add_routes(EventStream(parts.events).routes())
        return application

    def _feed_events(self, *listeners: LogStream | DownStream) -> None:
        loop = asyncio.get_running_loop()

        def forward(event: ContainerEvent) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: the agent is ending
                for listener in listeners:
                    loop.call_soon_threadsafe(listener.on_container_event, event)

        self._parts.engine.subscribe(forward)

    async def _start_monitoring(self) -> None:
        application = web.Application(client_max_size=1024, middlewares=[errors_as_json])
        application.add_routes(MetricSite(self._parts, self._threads).routes())
        if self._metrics is None:
            return
        listener = open_tcp(parse_address(self._metrics), "the metrics endpoint (--metrics)")
        self._metrics_port = listener.getsockname()[1]
        runner = await self._run(application)
        await web.SockSite(runner, listener).start()

    async def _run(self, application: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            application,
            handle_signals=False,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=75.0,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await runner.setup()
        self._runners.append(runner)
        return runner

    @web.middleware
    async def _track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            return await handler(request)
        finally:
            self._streams.discard(task)

    async def close(self) -> None:
        """Idempotent."""
        for task in tuple(self._streams):
            task.cancel()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()
        for path, inode in self._places:
            if inode_of(path) == inode:
                path.unlink(missing_ok=True)
        self._places.clear()
        self._threads.close()


@web.middleware
async def refuse_browsers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """On TCP, a web page must not drive the API: no cross-site request, no rebound name of ours."""
    if _came_by_tcp(request) and ("Origin" in request.headers or not _is_loopback(request.host)):
        raise Refused("requests from web pages are refused", reason="CrossSite")
    return await handler(request)


def _came_by_tcp(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and transport.get_extra_info("socket").family != socket.AF_UNIX


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


@contextlib.asynccontextmanager
async def serve(parts: AgentParts, hosts: Iterable[str], metrics: str | None) -> AsyncIterator[ApiServer]:
    """An ``ApiServer`` for the length of a block."""
    server = ApiServer(parts, hosts, metrics)
    await server.start()
    try:
        yield server
    finally:
        await server.close()
