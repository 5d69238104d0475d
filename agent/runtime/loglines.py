"""Lines out of the frames of a log (see ``logframe``): what a container wrote, cut at its newlines.

A line may span frames; those of stdout and stderr are put together apart. A line of more than ``MAX_PIECE`` bytes
comes in pieces of that size, the last one with the newline: memory stays bounded whatever a container writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import chain, repeat
from typing import NamedTuple

from agent.runtime.logframe import HEADER, MAX_PAYLOAD, STDERR, STDOUT

MAX_PIECE = 64 << 10
STREAMS = (STDOUT, STDERR)
_NANO = 1_000_000_000


class LogLine(NamedTuple):
    """``at`` is when the end of this piece was written, in unix seconds; ``data`` has its newline if there was one."""

    stream: int
    at: float
    data: bytes


class LineCutter:
    """Puts lines together. ``skip`` drops that many lines of each stream first; ``since`` drops what is older."""

    def __init__(self, since: float, skip: Mapping[int, int] | None = None) -> None:
        self._since = since
        self._skip = {stream: (skip or {}).get(stream, 0) for stream in STREAMS}
        self._pending = {stream: bytearray() for stream in STREAMS}
        self._pending_at = dict.fromkeys(STREAMS, 0.0)
        self.consumed = 0

    def cut(self, block: bytes) -> Iterator[LogLine]:
        """The lines that are complete after ``block``; ``consumed`` then tells how many bytes of it were whole frames.

        The rest, half a frame or no frame at all, is to be given again with what follows it.
        """
        unpack, find, with_header, new = HEADER.unpack_from, block.find, HEADER.size, tuple.__new__
        pending, skip, since = self._pending, self._skip, self._since
        position, last = 0, len(block) - with_header
        while position <= last:
            stream, length, at_ns = unpack(block, position)
            start = position + with_header
            end = start + length
            if end - with_header > last or stream not in pending or length > MAX_PAYLOAD:
                break
            position = end
            at = at_ns / _NANO
            if length > MAX_PIECE or find(b"\n", start, end) != end - 1 or pending[stream] or skip[stream]:
                pieces = self._cut_payload(stream, at, block[start:end])
                if pieces and at >= since:
                    yield from map(new, repeat(LogLine), zip(repeat(stream), repeat(at), pieces))
            elif at >= since:
                yield new(LogLine, (stream, at, block[start:end]))
        self.consumed = position

    def _cut_payload(self, stream: int, at: float, payload: bytes) -> list[bytes]:
        """The pieces that this payload completes."""
        pending = self._pending[stream]
        if self._skip[stream]:
            payload = self._drop(stream, payload)
        pieces = BytesIO(payload).readlines()
        if not pieces:
            return pieces
        if pending:
            pending += pieces[0]
            pieces[0] = bytes(pending)
            pending.clear()
        if len(payload) > MAX_PIECE or len(pieces[0]) > MAX_PIECE:
            pieces = list(chain.from_iterable(map(_split, pieces)))
        if not pieces[-1].endswith(b"\n") and len(pieces[-1]) < MAX_PIECE:
            pending += pieces.pop()
            self._pending_at[stream] = at
        return pieces

    def _drop(self, stream: int, payload: bytes) -> bytes:
        """Without the lines that are to be skipped, or what there is of them."""
        count = payload.count(b"\n")
        skip = self._skip[stream]
        self._skip[stream] = max(skip - count, 0)
        if count < skip:
            return b""
        position = 0
        for _ in range(skip):
            position = payload.index(b"\n", position) + 1
        return payload[position:]

    def flush(self) -> Iterator[LogLine]:
        """What is left without a newline when nothing more will come, in the order in which it was written."""
        for stream in sorted(STREAMS, key=self._pending_at.__getitem__):
            at = self._pending_at[stream]
            if self._pending[stream] and at >= self._since:
                yield LogLine(stream, at, bytes(self._pending[stream]))
            self._pending[stream].clear()


def _split(line: bytes) -> Iterator[bytes]:
    if len(line) <= MAX_PIECE:
        return iter((line,))
    return (line[start : start + MAX_PIECE] for start in range(0, len(line), MAX_PIECE))
