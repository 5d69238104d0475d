"""A stream that somebody gives: its first bytes tell what it is; xz and bzip2 are unpacked here, for the agent reads
gzip and zstd only."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any

from agent.errors import Refused
from agent.image.layers.tarwriter import BLOCK

CHUNK = 256 << 10
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_BZIP2, _XZ = b"BZh", b"\xfd7zXZ\0"
_MAGIC, _MAGIC_AT = b"ustar", 257
_SUM = slice(148, 156)


class Input:
    """Read once: ``head`` has been read already. ``name`` is for messages."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self.head = stream.read(BLOCK)

    @property
    def is_packed(self) -> bool:
        """Whether it is packed, in any way that is known."""
        return self.head.startswith((*_PACKED, _BZIP2, _XZ))

    @property
    def has_magic(self) -> bool:
        """Whether it begins as all tars of today do."""
        return self.head[_MAGIC_AT:].startswith(_MAGIC)

    @property
    def is_tar(self) -> bool:
        """Whether it begins with a header of a tar, also of an old one, or with the end of one."""
        return len(self.head) == BLOCK and (self.has_magic or not any(self.head) or _has_sum(self.head))

    def rest(self, size: int) -> bytes:
        """The next ``size`` bytes behind the head."""
        return self._stream.read(size)

    def chunks(self) -> Iterator[bytes]:
        """All of it, packed at most in a way that the agent knows. Raises Refused when it is damaged."""
        unpacked: Any = io.BufferedReader(_Joined(self.head, self._stream), CHUNK)
        damage: tuple[type[Exception], ...] = ()
        if self.head.startswith(_BZIP2):
            import bz2

            unpacked, damage = bz2.BZ2File(unpacked), (OSError, EOFError)
        elif self.head.startswith(_XZ):
            import lzma

            unpacked, damage = lzma.LZMAFile(unpacked), (lzma.LZMAError, EOFError)  # noqa: SIM115 - closed below
        with unpacked:
            while chunk := self._read(unpacked, damage):
                yield chunk

    def _read(self, unpacked: Any, damage: tuple[type[Exception], ...]) -> bytes:
        try:
            return bytes(unpacked.read(CHUNK))
        except damage as error:
            raise Refused(f"{self._name} is damaged: {error}", reason="Damaged") from None


def _has_sum(header: bytes) -> bool:
    """Whether a header's checksum is right: the sum of its bytes, that of the checksum's own counted as blanks."""
    try:
        said = int(header[_SUM].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return said == sum(header) - sum(header[_SUM]) + 8 * ord(" ")


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
