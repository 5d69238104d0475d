"""One question to a container over its network: HTTP or TCP. The loop makes the connection, no thread waits.

The container is hostile: a header of more than 16 KiB is a failure, no more than 10 KiB of a body are read, and the
caller bounds the time. A question is asked on a connection of its own, which is closed at once.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from collections.abc import Mapping
from typing import Any

from agent.spec.model import HttpCheck

HEADER_BYTES = 16 << 10
BODY_BYTES = 10 << 10
SHOWN_CHARACTERS = 200
_INTERIM_ANSWERS = 8
_DEFAULTS = (("User-Agent", "holdfast-probe"), ("Accept", "*/*"))
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_NO_BODY = (204, 304)


async def ask_tcp(address: str, port: int) -> tuple[bool, str]:
    """Whether a connection can be made. Raises OSError."""
    _, writer = await asyncio.open_connection(address, port, limit=1)
    writer.transport.abort()
    return True, ""


async def ask_http(address: str, check: HttpCheck, timeout: float) -> tuple[bool, str]:
    """Whether the answer's status is 200 to 399; if not, the status and the beginning of its body.

    Raises OSError, EOFError and ValueError for what is no whole answer, asyncio.LimitOverrunError for a long header.
    ``timeout`` only bounds what is left of a TLS handshake when the caller gives up.
    """
    options: dict[str, Any] = {}
    if check.scheme == "https":
        name = check.host.partition(":")[0]
        options = {"ssl": _context(), "server_hostname": name, "ssl_handshake_timeout": timeout}
    reader, writer = await asyncio.open_connection(address, check.port, limit=HEADER_BYTES, **options)
    try:
        writer.write(encode_request(address, check))
        status, headers = await _read_head(reader)
        body = await _read_body(reader, status, headers)
    finally:
        writer.transport.abort()
    text = " ".join(body.decode(errors="replace").split())[:SHOWN_CHARACTERS]
    return 200 <= status < 400, f"status {status}" + (f": {text}" if text else "")


@functools.cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def encode_request(address: str, check: HttpCheck) -> bytes:
    """The request as it is sent."""
    given = {name.lower() for name, _ in check.headers}
    headers = [
        ("Host", check.host or f"{address}:{check.port}"),
        *((name, value) for name, value in _DEFAULTS if name.lower() not in given),
        *((name, value) for name, value in check.headers if value),
        ("Connection", "close"),
    ]
    lines = [f"GET {check.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("ascii")


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, Mapping[bytes, bytes]]:
    """The status of the answer, and its headers by their name in small letters."""
    for _ in range(_INTERIM_ANSWERS):
        head = await reader.readuntil(b"\r\n\r\n")
        found = _STATUS.match(head)
        if found is None:
            raise ValueError("the answer is not HTTP/1.1")
        status = int(found[1])
        if status >= 200:
            lines = (line.partition(b":") for line in head[found.end() :].split(b"\r\n"))
            return status, {name.strip().lower(): value.strip() for name, _, value in lines}
    raise ValueError("there was no answer after all interim ones")


async def _read_body(reader: asyncio.StreamReader, status: int, headers: Mapping[bytes, bytes]) -> bytes:
    """The body as it comes over the wire, or its first 10 KiB; one that ends too early is no whole answer."""
    chunked = headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
    length = headers.get(b"content-length", b"")
    if length and not chunked and not length.isdigit():
        raise ValueError("the answer has a bad Content-Length")
    whole = int(length[:20]) if length and not chunked else None
    wanted = 0 if status in _NO_BODY else BODY_BYTES if whole is None else min(whole, BODY_BYTES)
    body = b""
    while len(body) < wanted and not (chunked and body.endswith(b"0\r\n\r\n")):
        piece = await reader.read(wanted - len(body))
        if not piece:
            break
        body += piece
    if whole is not None and len(body) < wanted:
        raise EOFError("the answer ended too early")
    return body
