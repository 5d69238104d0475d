"""One HTTP/1.1 request over a socket that is connected, and its answer as it comes.

What ``http.client`` needs for this (email, ssl) takes longer to import than most commands take to run. The peer is the
agent: no redirects, no compression, no authentication; one request a connection.
Source: RFC 9112.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Self

_LINE_LIMIT = 64 << 10
_HEAD_LINES = 200
_PIECE = 256 << 10
_NO_BODY = (204, 304)


class BrokenAnswer(Exception):
    """What came is no HTTP answer, or not the whole of it."""


def ask(connection: socket.socket, method: str, target: str, body: bytes | None = None, kind: str = "") -> Answer:
    """Send a request and read the head of its answer, which owns the socket from then on; ``kind`` is the body's
    content type. Raises BrokenAnswer, OSError."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body is not None:
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    elif method != "GET":
        lines.append("Content-Length: 0")
    try:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        return Answer(connection.makefile("rb"), connection)
    except BaseException:
        connection.close()
        raise


class Answer:
    """An answer whose head has come. Iterating gives the lines of its body; close it, or leave its ``with`` block."""

    def __init__(self, file: IO[bytes], connection: socket.socket) -> None:
        self._file = file
        self._connection = connection
        self.status, self.reason = _parse_status(self._read_line())
        headers = self._read_headers()
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else _parse_length(headers.get("content-length"))
        self._ended = self.status in _NO_BODY or (self._left == 0 and not self._chunked)

    def read(self) -> bytes:
        """The rest of the body. Raises BrokenAnswer."""
        pieces = []
        while piece := self.read1(_PIECE):
            pieces.append(piece)
        return b"".join(pieces)

    def read1(self, limit: int) -> bytes:
        """Some of the body, as soon as there is any; nothing at its end. Raises BrokenAnswer."""
        if not self._ended and self._chunked and not self._left:
            self._begin_chunk()
        if self._ended:
            return b""
        piece: bytes = self._file.read1(limit if self._left < 0 else min(limit, self._left))  # type: ignore[attr-defined]
        if not piece and self._left >= 0:
            raise BrokenAnswer("it was cut short")
        self._count(len(piece))
        return piece

    def __iter__(self) -> Iterator[bytes]:
        """Its lines, each with its end."""
        begun = b""
        while piece := self.read1(_PIECE):
            *lines, begun = (begun + piece).split(b"\n")
            for line in lines:
                yield line + b"\n"
        if begun:
            yield begun

    def _count(self, size: int) -> None:
        if self._left < 0:
            self._ended = not size
            return
        self._left -= size
        if self._left:
            return
        if not self._chunked:
            self._ended = True
        elif self._read_line():
            raise BrokenAnswer("a chunk is longer than it says")

    def _begin_chunk(self) -> None:
        text = self._read_line().partition(b";")[0].strip()
        try:
            self._left = int(text, 16) if text.isalnum() else -1
        except ValueError:
            self._left = -1
        if self._left < 0:
            raise BrokenAnswer("a chunk does not say how long it is")
        if not self._left:
            self._read_headers()
            self._ended = True

    def _read_line(self) -> bytes:
        line = self._file.readline(_LINE_LIMIT)
        if not line.endswith(b"\n"):
            raise BrokenAnswer("a line is too long" if line else "it was cut short")
        return line.rstrip(b"\r\n")

    def _read_headers(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for _ in range(_HEAD_LINES):
            line = self._read_line()
            if not line:
                return found
            name, _, value = line.decode("latin-1").partition(":")
            found[name.lower()] = value.strip()
        raise BrokenAnswer("its head is too long")

    def close(self) -> None:
        """Let go of the connection."""
        self._file.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _parse_status(line: bytes) -> tuple[int, str]:
    version, _, rest = line.decode("latin-1").partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise BrokenAnswer("it does not begin as an HTTP answer")
    return int(code), reason


def _parse_length(text: str | None) -> int:
    """-1: until the connection ends."""
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit()):
        raise BrokenAnswer("it does not say how long it is")
    return int(text)
