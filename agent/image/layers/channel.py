"""A bounded queue between two threads of a pipeline, which either end can break with its error."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

DEPTH = 8
_LOW = DEPTH // 2


class ChannelBroken(Exception):
    """The other end failed; its own error says why."""


class Channel:
    """Chunks of bytes from one producer to one consumer, at most ``DEPTH`` waiting.

    A producer that found it full goes on when half is taken, so that the two do not wake each other for every chunk.
    """

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._condition = threading.Condition()
        self._closed = False
        self._broken = False

    def put(self, chunk: bytes) -> None:
        """Hand over one chunk, waiting for room. Raises ChannelBroken."""
        with self._condition:
            if len(self._chunks) >= DEPTH:
                while len(self._chunks) > _LOW and not self._broken:
                    self._condition.wait()
            if self._broken:
                raise ChannelBroken
            self._chunks.append(chunk)
            if len(self._chunks) == 1:
                self._condition.notify()

    def close(self) -> None:
        """The producer's regular end."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def break_off(self) -> None:
        """The irregular end, from either side: both get ChannelBroken from now on."""
        with self._condition:
            self._broken = True
            self._chunks.clear()
            self._condition.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._get()) is not None:
            yield chunk

    def _get(self) -> bytes | None:
        with self._condition:
            while not self._chunks and not self._closed and not self._broken:
                self._condition.wait()
            if self._broken:
                raise ChannelBroken
            if not self._chunks:
                return None
            chunk = self._chunks.popleft()
            if len(self._chunks) == _LOW:
                self._condition.notify()
            return chunk
