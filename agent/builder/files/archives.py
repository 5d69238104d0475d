"""Archives that ADD unpacks: tar, plain or packed by gzip, bzip2, xz or zstd, told apart by their bytes.

Law: an archive is read by the reader for layers, into a directory of its own, and copied from there like any other
files: no absolute name, no ``..``, no device, no link out of it, bounded in size and count (attack rows 44 to 47).
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from agent.errors import Refused
from agent.image.errors import HostileLayer
from agent.image.layers.decompress import OUTPUT, decompress
from agent.image.layers.rooted import render_path
from agent.image.layers.tarheader import ZERO, TarEntry, parse_header
from agent.image.layers.tarwriter import BLOCK
from agent.image.layers.unpack import Unpacker
from agent.image.limits import UnpackLimits

CHUNK = 1 << 20
MAX_XZ_MEMORY = 128 << 20
_BZIP2, _XZ = b"BZh", b"\xfd7zXZ\0"


class _Stream(Protocol):
    """What bz2 and lzma have in common."""

    @property
    def eof(self) -> bool:
        """Whether the end of a stream was seen."""

    @property
    def needs_input(self) -> bool:
        """Whether more comes out only when more goes in."""

    @property
    def unused_data(self) -> bytes:
        """What stands behind the end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """The next piece."""


def is_archive(fd: int) -> bool:
    """Whether a regular file holds a tar archive; its position is 0 afterwards."""
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        with closing(_unpacked(fd, UnpackLimits())) as chunks:
            head = b""
            for chunk in chunks:
                head += chunk
                if len(head) >= BLOCK:
                    break
        if len(head) < BLOCK or head[:BLOCK] == ZERO:
            return False
        parse_header(head[:BLOCK])
    except HostileLayer:
        return False
    finally:
        os.lseek(fd, 0, os.SEEK_SET)
    return True


def unpack_archive(fd: int, directory: Path, what: str) -> bytes:
    """Unpack an archive into an empty directory; the SHA-256 of all its bytes.

    Raises Refused, InsufficientStorage, OSError.
    """
    limits, running = UnpackLimits(), hashlib.sha256()
    unpacker = ArchiveUnpacker(directory, limits)
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        with closing(_unpacked(fd, limits, running)) as chunks:
            unpacker.unpack(chunks)
    except HostileLayer as error:
        message = error.message.replace("the layer", "the archive")
        raise Refused(f"{what} cannot be unpacked: {message}", reason="HostileArchive") from None
    finally:
        unpacker.close()
    while chunk := os.read(fd, CHUNK):
        running.update(chunk)
    return running.digest()


class ArchiveUnpacker(Unpacker):
    """Refuses what no COPY takes either, and names that in a layer mean that something is gone."""

    def _apply_whiteout(self, parts: list[bytes]) -> None:
        raise HostileLayer("the layer holds a file whose name begins with .wh., which no image can hold")

    def _write_node(self, entry: TarEntry, parts: list[bytes], kind: int) -> None:
        what = "FIFO" if kind == stat.S_IFIFO else "device node"
        raise HostileLayer(f"the layer holds the {what} {render_path(entry.name)}")


def _read(fd: int, running: hashlib._Hash | None) -> Iterator[bytes]:
    while chunk := os.read(fd, CHUNK):
        if running is not None:
            running.update(chunk)
        yield chunk


def _unpacked(fd: int, limits: UnpackLimits, running: hashlib._Hash | None = None) -> Generator[bytes, None, None]:
    head = os.pread(fd, len(_XZ), 0)
    chunks = _read(fd, running)
    if head.startswith(_BZIP2):
        yield from _bound(_decode(chunks, bz2.BZ2Decompressor, "bzip2"), limits)
    elif head == _XZ:
        yield from _bound(_decode(chunks, _new_xz, "xz"), limits)
    else:
        yield from decompress(chunks, limits)


def _new_xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)


def _bound(pieces: Iterator[tuple[bytes, int]], limits: UnpackLimits) -> Iterator[bytes]:
    """What comes out, as long as it is in proportion to what went in. Raises HostileLayer."""
    given = 0
    for piece, taken in pieces:
        given += len(piece)
        if given > limits.layer_bytes or (given > limits.ratio_floor and given > taken * limits.ratio):
            raise HostileLayer("the layer unpacks to more than is accepted for its size")
        yield piece


def _decode(chunks: Iterator[bytes], new: Callable[[], _Stream], kind: str) -> Iterator[tuple[bytes, int]]:
    """All streams of a file: pieces, each with how much of the file has been read. Raises HostileLayer."""
    stream: _Stream | None = None
    taken = 0
    try:
        for chunk in chunks:
            taken += len(chunk)
            data = chunk
            while data or (stream is not None and not stream.needs_input):
                stream = stream or new()
                piece = stream.decompress(data, OUTPUT)
                data = b""
                if piece:
                    yield piece, taken
                if stream.eof:
                    data, stream = stream.unused_data.lstrip(b"\0"), None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise HostileLayer(f"the layer's {kind} stream is damaged: {error}") from None
    if stream is not None:
        raise HostileLayer(f"the layer's {kind} stream is cut short")
