"""A build's standard input: a Dockerfile, or a tar, told apart by its first bytes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import IO, Any

from agent.builder.limits import MAX_DOCKERFILE
from agent.cli.contexttar import CHUNK
from agent.errors import Refused
from agent.image.tarwriter import BLOCK

_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_BZIP2, _XZ = b"BZh", b"\xfd7zXZ\0"
_MAGIC, _MAGIC_AT = b"ustar", 257


class StandardInput:
    """Read once. ``text`` when it is a Dockerfile, else ``chunks``. Raises Refused for a terminal."""

    def __init__(self) -> None:
        if sys.stdin.isatty():
            raise Refused("standard input is a terminal", reason="Terminal", hint="pipe a Dockerfile or a tar in")
        self._stream: IO[bytes] = sys.stdin.buffer
        self._head = self._stream.read(BLOCK)

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, packed or not."""
        packed = self._head.startswith((*_PACKED, _BZIP2, _XZ))
        return packed or self._head[_MAGIC_AT:].startswith(_MAGIC)

    def text(self) -> bytes:
        """All of it, or so much that it is too long for a Dockerfile."""
        return self._head + self._stream.read(MAX_DOCKERFILE + 1)

    def chunks(self) -> Iterator[bytes]:
        """The tar, packed at most in a way that the agent knows: gzip and zstd."""
        unpacked: Any = io.BufferedReader(_Joined(self._head, self._stream), CHUNK)
        if self._head.startswith(_BZIP2):
            import bz2

            unpacked = bz2.BZ2File(unpacked)
        elif self._head.startswith(_XZ):
            import lzma

            unpacked = lzma.LZMAFile(unpacked)  # noqa: SIM115 - closed below
        with unpacked:
            while chunk := unpacked.read(CHUNK):
                yield chunk


class _Joined(io.RawIOBase):
    """A stream of which the beginning was read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See io.RawIOBase."""
        piece = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(piece) :] if self._head else b""
        buffer[: len(piece)] = piece
        return len(piece)
