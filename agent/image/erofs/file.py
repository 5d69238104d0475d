"""The file of a layer image while it is made: data first, block by block, then the metadata."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from pathlib import Path

from agent.image.erofs import ondisk
from agent.image.errors import UnfitForImage
from agent.image.layers.tarheader import TarEntry
from agent.image.layers.tarreader import TarReader

_DATA = 4096
_LAST_BLOCK = ondisk.MAX_BLOCKS - (1 << 28 >> ondisk.BLOCK_BITS)
"""Of data: there has to be room for the metadata behind it."""
_BATCH_BYTES, _BATCH_PIECES = 1 << 18, 256
_SMALL = 16 << 10
"""Bytes of a piece that is copied while it waits: it would keep the whole chunk that it is a part of."""


class ImageFile:
    """The image's file, written from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.position = _DATA
        self._batch: list[bytes | memoryview] = []
        self._waiting = 0
        os.lseek(self._fd, _DATA, os.SEEK_SET)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def add(self, pieces: Iterable[bytes | memoryview]) -> tuple[int, int]:
        """Write all from the next block on; its number, and how many bytes there were. Raises UnfitForImage."""
        begin = self.position
        for piece in pieces:
            self._put(bytes(piece) if len(piece) < _SMALL else piece)
        size = self.position - begin
        if padding := -size % ondisk.BLOCK:
            self._put(bytes(padding))
        self._check_end()
        return begin >> ondisk.BLOCK_BITS, size

    def _put(self, piece: bytes | memoryview) -> None:
        self._batch.append(piece)
        self._waiting += len(piece)
        self.position += len(piece)
        if self._waiting >= _BATCH_BYTES or len(self._batch) >= _BATCH_PIECES:
            self._flush()

    def _flush(self) -> None:
        if not self._batch:
            return
        begin = self.position - self._waiting
        written = os.writev(self._fd, self._batch)
        if written < self._waiting:  # the disk is nearly full
            write_at(self._fd, b"".join(self._batch)[written:], begin + written)
            os.lseek(self._fd, self.position, os.SEEK_SET)
        self._batch, self._waiting = [], 0

    def add_sparse(self, entry: TarEntry, reader: TarReader) -> tuple[int, array[int]]:
        """Write a file with holes; its chunk format, and where each chunk is. Raises UnfitForImage."""
        self._flush()
        bits = ondisk.compute_chunk_bits(entry.real_size)
        chunks = array("I", [ondisk.HOLE]) * -(-entry.real_size >> bits)
        for offset, length in entry.sparse or ():
            for piece in reader.data(length):
                while piece:
                    number, inside = offset >> bits, offset & (1 << bits) - 1
                    if chunks[number] == ondisk.HOLE:
                        chunks[number] = self._reserve(1 << bits)
                    part, piece = piece[: (1 << bits) - inside], piece[(1 << bits) - inside :]
                    write_at(self._fd, part, (chunks[number] << ondisk.BLOCK_BITS) + inside)
                    offset += len(part)
        os.lseek(self._fd, self.position, os.SEEK_SET)
        return ondisk.encode_chunk_format(bits), chunks

    def _reserve(self, size: int) -> int:
        block = self.position >> ondisk.BLOCK_BITS
        self.position += size
        self._check_end()
        return block

    def _check_end(self) -> None:
        if self.position >> ondisk.BLOCK_BITS > _LAST_BLOCK:
            raise UnfitForImage("the layer has files with very large holes")

    def skip_to(self, position: int) -> None:
        """Leave a hole, if there is any before ``position``."""
        if position > self.position:
            self._flush()
            self.position = os.lseek(self._fd, position, os.SEEK_SET)

    def append(self, data: bytes) -> None:
        """Write bytes where the last ones end, without filling up the block."""
        self._put(data)

    def finish(self, metadata: int, root: int, inodes: int) -> None:
        """Write the superblock, and fill up the last block."""
        self._flush()
        blocks = -(-self.position >> ondisk.BLOCK_BITS)
        os.ftruncate(self._fd, blocks << ondisk.BLOCK_BITS)
        write_at(self._fd, ondisk.encode_superblock(blocks, metadata, root, inodes), ondisk.SUPERBLOCK_OFFSET)


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of it, however little the disk takes at once. Raises OSError."""
    data = memoryview(data)
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
