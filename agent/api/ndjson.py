"""Streams of JSON objects, one a line: written as they come, with the client's own pace as the limit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from aiohttp import web

from agent.api.failures import describe_error

CONTENT_TYPE = "application/x-ndjson"


class JsonLines:
    """``async with JsonLines(request) as lines``: starts the answer, ends it, says the error that ended it.

    A client that has gone ends the block with ConnectionResetError or cancellation; both are silent.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    async def send(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Write some lines; waits while the client's buffer is full."""
        data = "".join(f"{json.dumps(document, separators=(',', ':'))}\n" for document in documents)
        if data:
            await self.response.write(data.encode())

    async def __aenter__(self) -> JsonLines:
        await self.response.prepare(self._request)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ConnectionError):
            return True
        if error is not None and not isinstance(error, Exception):
            return False
        try:
            if error is not None:
                await self.send([{"error": describe_error(error)}])
            await self.response.write_eof()
        except ConnectionError:
            return True
        return error is not None
