"""Tars over the API, both ways, in bounded memory: whoever is slower sets the pace.

An upload is taken to its end (or to the error of whoever reads it) before the answer begins, so that a refusal is an
ordinary JSON error. A download that fails in the middle is broken off, never ended as if it were whole.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Any

from aiohttp import StreamReader, web

from agent.api.failures import describe_error, log
from agent.api.progressing import Latest, tell
from agent.api.threads import Feed, Threads, Wakeup
from agent.errors import HoldfastError, Refused

CHUNK = 256 << 10
HELD = 1 << 20
TAR = "application/x-tar"
Chunks = Generator[bytes, None, None]
Take = Callable[[Chunks, Callable[[Any], None], threading.Event], Any]


class UploadCut(Refused):
    """The client left before the end of what it sends."""

    reason = "UploadCut"


class Upload:
    """The body of a request on its way from the event loop to a thread: at most ``HELD`` bytes wait."""

    def __init__(self) -> None:
        self._some = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._cut = False
        self._room = Wakeup()

    async def fill(self, content: StreamReader, reader: asyncio.Future[Any]) -> None:
        """Hand over everything; returns early when ``reader`` is done."""
        reader.add_done_callback(lambda _: self._room.set())
        async for chunk in content.iter_chunked(CHUNK):
            while self._held >= HELD and not reader.done():
                await self._room.wait()
            if reader.done():
                return
            with self._some:
                self._waiting.append(chunk)
                self._held += len(chunk)
                self._some.notify()
        with self._some:
            self._ended = True
            self._some.notify()

    def cut(self) -> None:
        """Nothing more comes; a reader that still waits gets UploadCut. After a regular end this does nothing."""
        with self._some:
            self._cut = True
            self._some.notify()

    def chunks(self) -> Chunks:
        """What comes, in the reader's thread. Raises UploadCut."""
        while (chunk := self._take()) is not None:
            yield chunk

    def _take(self) -> bytes | None:
        with self._some:
            self._some.wait_for(lambda: self._waiting or self._ended or self._cut)
            if not self._waiting:
                if self._ended:
                    return None
                raise UploadCut("the upload was cut short", hint="send it again")
            chunk = self._waiting.popleft()
            self._held -= len(chunk)
        self._room.set()
        return chunk


async def receive(
    request: web.Request, threads: Threads, name: str, take: Take, describe: Callable[[Any], Mapping[str, Any]]
) -> web.StreamResponse:
    """Give the body to blocking ``take(chunks, progress, cancel)`` in a thread of its own.

    The answer is NDJSON: ``{"progress": {...}}`` once the body has been read, and last what ``describe`` makes of the
    result. A client that leaves cancels it.
    """
    cancel, latest, upload = threading.Event(), Latest(), Upload()
    running = threads.start(name, lambda: take(upload.chunks(), latest.put, cancel))
    running.add_done_callback(lambda _: latest.wake())
    try:
        await upload.fill(request.content, running)
        if running.done():
            running.result()
        return await tell(request, running, latest, describe)
    finally:
        cancel.set()
        upload.cut()


async def send(request: web.Request, threads: Threads, name: str, make: Callable[[], Chunks]) -> web.StreamResponse:
    """Answer with the chunks of a tar that blocking ``make`` produces in a thread of its own."""
    feed = Feed[bytes](len)

    def produce() -> None:
        chunks = make()
        try:
            for chunk in chunks:
                if not feed.put(chunk):
                    return
        finally:
            chunks.close()

    running = threads.start(name, produce)
    running.add_done_callback(lambda _: feed.wake())
    response = web.StreamResponse(headers={"Content-Type": TAR, "Cache-Control": "no-store"})
    try:
        return await _send(request, response, feed, running)
    finally:
        feed.close()


async def _send(
    request: web.Request, response: web.StreamResponse, feed: Feed[bytes], running: asyncio.Future[None]
) -> web.StreamResponse:
    while not running.done() or not response.prepared:
        pieces = await feed.take()
        if running.done() and not response.prepared:
            running.result()
        if not response.prepared:
            await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
    for piece in feed.take_now():
        await response.write(piece)
    error = running.exception()
    if error is not None:
        _break_off(request, error)
        return response
    await response.write_eof()
    return response


def _break_off(request: web.Request, error: BaseException) -> None:
    """End the connection, so that the client knows that its tar is not whole."""
    if isinstance(error, HoldfastError):
        log.warning("a download failed", path=request.path, **describe_error(error))
    else:
        log.error("a download failed", path=request.path, exc_info=error)
    if request.transport is not None:
        request.transport.abort()
