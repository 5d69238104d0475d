"""GET /holdfast/v1/logs: the output of a container or of all containers of a service, as NDJSON.

The first line is ``{"targets": [names]}``, each further one ``{"container", "slot", "stream", "at", "text"}``.
Where a piece is not UTF-8, ``text`` has U+FFFD for what is not, and ``bytes`` holds it exactly, in base64.
With ``format=frames`` it is ``framing`` instead, without times: many lines in one frame, several times as fast.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from aiohttp import web

from agent.api.logforms import LogFrames, LogLines, Piece
from agent.api.parameters import read_count, read_flag, read_number
from agent.api.port import EnginePort
from agent.api.targets import find_targets, follows
from agent.api.threads import Feed, Threads
from agent.engine.model import ContainerEvent, ContainerRecord
from agent.errors import HoldfastError, NotFound, Refused
from agent.values import frozen

BATCH_BYTES = 64 << 10
_LINE_OVERHEAD = 64


@frozen
class LogQuery:
    """What part of which logs."""

    target: str
    since: float
    tail: int | None
    follow: bool


class LogStream:
    """The handler of logs. Its followers are told of new containers by ``on_container_event``."""

    def __init__(self, engine: EnginePort, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads
        self._followers: set[_Follower] = set()

    def routes(self) -> list[web.RouteDef]:
        """One path."""
        return [web.get("/holdfast/v1/logs", self.logs)]

    def on_container_event(self, event: ContainerEvent) -> None:
        """A container of a followed service started: follow it too. Runs on the event loop."""
        if event.kind != "started" or not self._followers:
            return
        try:
            record = self._engine.containers.get(event.container)
        except HoldfastError:
            return
        for follower in tuple(self._followers):
            if follows(record, follower.query.target):
                follower.add(record, since=record.created)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        """Parameters: ``target``, ``tail`` (a count of each container, or all), ``since`` (unix time), ``follow``."""
        target = request.query.get("target", "")
        if not target:
            raise Refused("target is missing", reason="InvalidRequest", hint="name a container or a service")
        query = LogQuery(
            target, read_number(request, "since", 0.0), read_count(request, "tail"), read_flag(request, "follow")
        )
        records = find_targets(self._engine.containers.list(), target)
        follower = _Follower(self._engine, self._threads, query)
        self._followers.add(follower)
        try:
            form = LogFrames if request.query.get("format") == "frames" else LogLines
            async with form(request) as answer:
                await answer.write(answer.encode_targets([record.name for record in records]))
                follower.begin(records)
                async for pieces in follower:
                    await answer.write(answer.encode_pieces(pieces))
            return answer.response
        finally:
            self._followers.discard(follower)
            follower.close()


class _Follower:
    """One client's readers: a thread for all when there is an end, a thread a container when there is none."""

    def __init__(self, engine: EnginePort, threads: Threads, query: LogQuery) -> None:
        self.query = query
        self._engine = engine
        self._threads = threads
        self._feed: Feed[list[Piece]] = Feed(_weigh)
        self._readers: dict[str, asyncio.Future[None]] = {}
        self._waits_for_more = False

    def begin(self, records: Sequence[ContainerRecord]) -> None:
        """Start reading."""
        self._waits_for_more = self.query.follow and any(follows(record, self.query.target) for record in records)
        if self.query.follow:
            for record in records:
                self.add(record)
        else:
            self._start("", lambda: self._pump(_merge([self._read(record) for record in records])))

    def add(self, record: ContainerRecord, since: float = 0.0) -> None:
        """Follow one more container, unless it is followed already.

        ``since`` leaves out its predecessor's lines where those were followed as they came.
        """
        if record.id not in self._readers and self.query.follow:
            self._start(record.id, lambda: self._pump(self._read(record, since)))

    def _start(self, key: str, work: Any) -> None:
        reader = self._threads.start("logs", work)
        self._readers[key] = reader
        reader.add_done_callback(lambda _: self._feed.wake())

    def _read(self, record: ContainerRecord, since: float = 0.0) -> Iterator[Piece]:
        query = self.query
        lines = self._engine.containers.logs(
            record.id, since=max(query.since, since), tail=query.tail, follow=query.follow, stop=self._feed.stop
        )
        for line in lines:
            yield record, line

    def _pump(self, pieces: Iterator[Piece]) -> None:
        """To the feed: piece by piece when they come as they are written, in batches when they are all there."""
        for batch in _cut(pieces, 1 if self.query.follow else BATCH_BYTES):
            if not self._feed.put(batch):
                return

    async def __aiter__(self) -> Any:
        while True:
            batches = await self._feed.take()
            ended = all(reader.done() for reader in self._readers.values())
            batches += self._feed.take_now()
            pieces = list(chain.from_iterable(batches))
            if pieces:
                yield pieces
            if ended:
                self._raise_failure()
                if not self._waits_for_more:
                    return

    def _raise_failure(self) -> None:
        for reader in self._readers.values():
            error = reader.exception()
            if error is not None and not isinstance(error, NotFound):
                raise error

    def close(self) -> None:
        """The client has gone, or all is read."""
        self._feed.close()


def _merge(sources: list[Iterator[Piece]]) -> Iterator[Piece]:
    return heapq.merge(*sources, key=lambda piece: piece[1].at)


def _cut(pieces: Iterator[Piece], size: int) -> Iterator[list[Piece]]:
    """Batches of at least ``size`` bytes, overhead counted; the last one may be smaller."""
    batch: list[Piece] = []
    weight = 0
    for piece in pieces:
        batch.append(piece)
        weight += len(piece[1].data) + _LINE_OVERHEAD
        if weight >= size:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def _weigh(batch: list[Piece]) -> int:
    return sum(len(line.data) for _, line in batch) + _LINE_OVERHEAD * len(batch)
