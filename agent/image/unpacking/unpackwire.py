"""What an agent and its unpacking process say to each other, over one Unix stream socket.

The agent sends, for each layer, a JOB (JSON), the packed bytes as DATA, and an END. The process answers with COUNT
(bytes that came out since the last one), then with one DONE or one FAILED (JSON); directories that the layer does not
describe are in a file (agent.image.layers.undescribed). Every frame is a kind and a length (4 bytes, big-endian),
then so many bytes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Generator
from enum import IntEnum

MAX_DATA = 16 << 20
MAX_ANSWER = 64 << 10
_HEAD = struct.Struct("!BI")


class Kind(IntEnum):
    """What a frame holds."""

    JOB = 1
    DATA = 2
    END = 3
    COUNT = 4
    DONE = 5
    FAILED = 6


class Disconnected(Exception):
    """The other process has ended, or says what makes no sense."""


def send(connection: socket.socket, kind: Kind, payload: bytes | memoryview = b"") -> None:
    """Send one frame. Raises Disconnected."""
    parts: list[bytes | memoryview] = [_HEAD.pack(kind, len(payload)), memoryview(payload)]
    try:
        sent = connection.sendmsg(parts)
        if sent < _HEAD.size + len(payload):
            connection.sendall(b"".join(parts)[sent:])
    except OSError as error:
        raise Disconnected from error


def receive(connection: socket.socket, most: int) -> tuple[Kind, bytes]:
    """The next frame, of at most ``most`` bytes. Raises Disconnected, also at the end."""
    try:
        kind, length = _HEAD.unpack(connection.recv(_HEAD.size, socket.MSG_WAITALL))
        if length > most:
            raise Disconnected
        payload = connection.recv(length, socket.MSG_WAITALL) if length else b""
        if len(payload) < length:
            raise Disconnected
        return Kind(kind), payload
    except (OSError, ValueError, struct.error) as error:
        raise Disconnected from error


def receive_data(connection: socket.socket) -> Generator[bytes, None, None]:
    """The packed bytes of a job, up to its END. Raises Disconnected."""
    while True:
        kind, payload = receive(connection, MAX_DATA)
        if kind is Kind.END:
            return
        if kind is not Kind.DATA:
            raise Disconnected
        yield payload
