"""Streams of JSON objects, one a line: written as they come, with the client's own pace as the limit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from agent.api.failures import describe_error, log
from agent.errors import HoldfastError


class Stream:
    """``async with`` starts the answer, ends it, and says the error that ended it, if one did.

    A client that has gone ends the block with ConnectionResetError or cancellation; both are silent.
    """

    content_type = ""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={"Content-Type": self.content_type, "Cache-Control": "no-store"})

    async def write(self, data: bytes) -> None:
        """Write; waits while the client's buffer is full."""
        if data:
            await self.response.write(data)

    def encode_end(self, error: Exception | None) -> bytes:
        """What stands at the end of the answer, by the error that ended it."""
        raise TypeError("a Stream has a form")

    async def __aenter__(self) -> Self:
        await self.response.prepare(self._request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ConnectionError):
            return True
        if error is not None and not isinstance(error, Exception):
            return False
        if error is not None and not isinstance(error, HoldfastError):
            log.error("a stream failed", path=self._request.path, exc_info=error)
        try:
            await self.write(self.encode_end(error))
            await self.response.write_eof()
        except ConnectionError:
            return True
        return error is not None


class JsonLines(Stream):
    """One JSON object a line; an error is the last one, ``{"error": {...}}``."""

    content_type = "application/x-ndjson"

    async def send(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Write some lines."""
        await self.write(encode_lines(documents))

    def encode_end(self, error: Exception | None) -> bytes:
        """The error's line, or nothing."""
        return encode_lines([{"error": describe_error(error)}]) if error is not None else b""


def encode_lines(documents: Iterable[Mapping[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(f"{json.dumps(document, separators=(',', ':'))}\n" for document in documents).encode()
