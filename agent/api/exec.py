"""POST /holdfast/v1/exec with ``Upgrade: holdfast-exec/1``: a process in a container, joined to the client.

What goes wrong before the process has started is an ordinary JSON error; then the answer is 101 and the
connection carries frames (``framing``).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from functools import partial
from typing import Any

from aiohttp import web

from agent.api.failures import describe_error
from agent.api.framing import UPGRADE, Channel
from agent.api.parameters import read_document, take, take_texts
from agent.api.peers import COMMAND_LIMIT, identify
from agent.api.port import EnginePort, ExecsPort
from agent.api.session import ExecSession
from agent.api.targets import find_running
from agent.api.threads import Threads
from agent.controller.telling.callers import Callers
from agent.engine.execs import ExecHandle, ExecOptions
from agent.errors import HoldfastError, Refused
from agent.telemetry.redaction import redact_text

SIGNAL_LIMIT = 16
_SWITCH = f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n".encode()


class _TakenOver(web.Response):
    """The answer of a request whose connection is no longer HTTP: aiohttp must not write anything."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to prepare."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to end."""


class _Commands:
    """What a client wants done to its process, in order and bounded: of many resizes only the last counts."""

    def __init__(self, execs: ExecsPort, handle: ExecHandle) -> None:
        self._execs = execs
        self._handle = handle
        self._size: tuple[int, int] | None = None
        self._signals: deque[int] = deque(maxlen=SIGNAL_LIMIT)
        self._some = asyncio.Event()

    def add(self, channel: Channel, value: Any) -> None:
        """Note a command."""
        if channel is Channel.RESIZE:
            self._size = value
        else:
            self._signals.append(value)
        self._some.set()

    async def obey(self, threads: Threads) -> None:
        """Carry commands out until cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            work = partial(self._carry_out, self._size, tuple(self._signals))
            self._size = None
            self._signals.clear()
            with contextlib.suppress(HoldfastError):  # the process has ended meanwhile
                await threads.call(work)

    def _carry_out(self, size: tuple[int, int] | None, signals: tuple[int, ...]) -> None:
        if size is not None:
            self._execs.resize(self._handle, *size)
        for number in signals:
            self._execs.kill(self._handle, number)


class ExecStream:
    """The handler of exec."""

    def __init__(self, engine: EnginePort, threads: Threads, callers: Callers) -> None:
        self._engine = engine
        self._threads = threads
        self._callers = callers
        self._background: set[asyncio.Future[Any]] = set()

    def routes(self) -> list[web.RouteDef]:
        """One path."""
        return [web.post("/holdfast/v1/exec", self.exec)]

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """Body: ``{"target", "command", "user", "cwd", "env", "terminal", "stdin", "rows", "columns"}``."""
        if request.headers.get("Upgrade") != UPGRADE:
            raise Refused(f"exec needs the header Upgrade: {UPGRADE}", reason="UpgradeRequired")
        document = await read_document(request)
        target, command, options = _read_exec(document)
        record = find_running(self._engine.containers.list(), target)
        caller = await self._threads.call(lambda: identify(request))
        with self._callers.visit(record.id, caller, redact_text(" ".join(command))[:COMMAND_LIMIT]):
            starting = asyncio.ensure_future(
                self._threads.call(lambda: self._engine.execs.start(record, command, options))
            )
            try:
                handle = await asyncio.shield(starting)
            except asyncio.CancelledError:
                starting.add_done_callback(self._abandon)
                raise
            await self._join(request, handle, options.terminal)
        return _TakenOver()

    async def _join(self, request: web.Request, handle: ExecHandle, terminal: bool) -> None:
        commands = _Commands(self._engine.execs, handle)
        session = ExecSession(handle, terminal, commands.add)
        obeying = asyncio.create_task(commands.obey(self._threads))
        ended = asyncio.wrap_future(handle.ended)
        ended.add_done_callback(lambda future: _tell(session, future))
        try:
            transport = request.transport
            if transport is None or transport.is_closing():
                return
            transport.write(_SWITCH)
            session.attach(transport)
            await session.gone
        finally:
            obeying.cancel()
            session.end()
            if not handle.ended.done():
                self._in_background(lambda: self._engine.execs.kill(handle, signal.SIGKILL))

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(self._threads.call(work))
        self._background.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # the exec has ended meanwhile: nothing to signal

    def _abandon(self, starting: asyncio.Future[ExecHandle]) -> None:
        """The client left while its process was starting."""
        with contextlib.suppress(HoldfastError, asyncio.CancelledError):
            handle = starting.result()
            handle.close()
            self._in_background(lambda: self._engine.execs.kill(handle, signal.SIGKILL))


def _tell(session: ExecSession, ended: asyncio.Future[Any]) -> None:
    if ended.cancelled() or session.gone.done():
        return
    error = ended.exception()
    if error is not None:
        session.fail(describe_error(error))
    else:
        session.exited(ended.result())


def _read_exec(document: Any) -> tuple[str, tuple[str, ...], ExecOptions]:
    command = take_texts(document, "command")
    target = take(document, "target", str, "")
    if not command or not target:
        raise Refused("target or command is missing", reason="InvalidRequest")
    environment = take(document, "env", dict, {})
    if not all(isinstance(value, str) and "\0" not in value + key for key, value in environment.items()):
        raise Refused("env is not a mapping of strings", reason="InvalidRequest")
    options = ExecOptions(
        user=take(document, "user", str),
        cwd=take(document, "cwd", str),
        env=environment,
        terminal=take(document, "terminal", bool, False),
        stdin=take(document, "stdin", bool, False),
        rows=max(0, min(take(document, "rows", int, 24), 65535)),
        columns=max(0, min(take(document, "columns", int, 80), 65535)),
    )
    return target, command, options
