"""The frames of exec and log streams: one byte of channel, four of length (big endian), then the payload.

Shared by server and client, so it imports nothing but the standard library. A client may have at most
``STDIN_WINDOW`` bytes of stdin unacknowledged; the server gives them back with CREDIT frames as the process
reads them. So the server never stops reading the socket and sees a disconnect at once.

| channel | sent by | payload |
|---|---|---|
| STDIN | client | bytes; none: end of file |
| STDOUT, STDERR | server | bytes |
| RESIZE | client | rows, columns as two big endian u16 |
| SIGNAL | client | one byte: the signal's number |
| EXIT | server | JSON ``{"code", "signal", "oom"}``, nothing for logs; the last frame |
| ERROR | server | JSON ``{"reason", "message", "hint"}``; the last frame |
| CREDIT | server | big endian u32: so many bytes of stdin were taken |
| TARGETS | server, logs | JSON list of container names; the first frame |
| SOURCE | server, logs | the name of the container that what follows is from |
"""

from __future__ import annotations

import struct
from enum import IntEnum

UPGRADE = "holdfast-exec/1"
STDIN_WINDOW = 256 << 10
PAYLOAD_LIMIT = 1 << 20
_HEADER = struct.Struct(">BI")
_SIZE = struct.Struct(">HH")
_CREDIT = struct.Struct(">I")


class Channel(IntEnum):
    """What a frame carries."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    RESIZE = 3
    SIGNAL = 4
    EXIT = 5
    ERROR = 6
    CREDIT = 7
    TARGETS = 8
    SOURCE = 9


class BrokenFrame(ValueError):
    """The other side does not speak this protocol."""


def encode_frame(channel: Channel, payload: bytes = b"") -> bytes:
    """One frame."""
    return _HEADER.pack(channel, len(payload)) + payload


def encode_resize(rows: int, columns: int) -> bytes:
    """A RESIZE frame; sizes are in characters."""
    return encode_frame(Channel.RESIZE, _SIZE.pack(rows & 0xFFFF, columns & 0xFFFF))


def decode_resize(payload: bytes) -> tuple[int, int]:
    """Rows and columns. Raises BrokenFrame."""
    if len(payload) != _SIZE.size:
        raise BrokenFrame("a resize frame has 4 bytes")
    rows, columns = _SIZE.unpack(payload)
    return rows, columns


def encode_credit(count: int) -> bytes:
    """A CREDIT frame for ``count`` bytes."""
    return encode_frame(Channel.CREDIT, _CREDIT.pack(count))


def decode_credit(payload: bytes) -> int:
    """The bytes given back. Raises BrokenFrame."""
    if len(payload) != _CREDIT.size:
        raise BrokenFrame("a credit frame has 4 bytes")
    return int(_CREDIT.unpack(payload)[0])


class FrameDecoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Channel, bytes]]:
        """The frames that ``data`` completes. Raises BrokenFrame for an unknown channel or a huge payload."""
        buffer = self._buffer
        buffer += data
        frames, start = [], 0
        while len(buffer) - start >= _HEADER.size:
            number, length = _HEADER.unpack_from(buffer, start)
            if number not in Channel._value2member_map_ or length > PAYLOAD_LIMIT:
                raise BrokenFrame(f"no such frame: channel {number}, {length} bytes")
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((Channel(number), bytes(buffer[start + _HEADER.size : end])))
            start = end
        del buffer[:start]
        return frames
