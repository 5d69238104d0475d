"""The parts of an EROFS file system as bytes (linux: fs/erofs/erofs_fs.h; Documentation/filesystems/erofs.rst).

Blocks of 512 bytes, so that a small file wastes little; inodes of the extended form; file data in one piece, or by
chunks where a file has holes. All numbers are little-endian. An inode's number counts slots of 32 bytes from the first
block of the metadata on.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

BLOCK_BITS = 9
BLOCK = 1 << BLOCK_BITS
SLOT = 32
SUPERBLOCK_OFFSET = 1024
MAX_BLOCKS = (1 << 32) - 1
HOLE = 0xFFFFFFFF
MIN_CHUNK_BITS, MAX_CHUNKS = 12, 1 << 14
MAX_XATTRS, MAX_VALUE = 0xFFFF * 4, 0xFFFF

_MAGIC = 0xE0F5E1E2
_CHUNKED = 0x4
_PLAIN, _CHUNK_BASED = 0, 4
_SUPERBLOCK = struct.Struct("<III BBH QQII II 16s16s I HHH BB IQ 24x")
_INODE = struct.Struct("<HHHH Q I I II Q II 16x")
_XATTRS = struct.Struct("<IB7x")
_XATTR = struct.Struct("<BBH")
_DIRENT = struct.Struct("<QHBx")
_PREFIXES = {
    "user.": 1,
    "system.posix_acl_access": 2,
    "system.posix_acl_default": 3,
    "trusted.": 4,
    "security.": 6,
}
INODE_SIZE = _INODE.size
_TYPES = {0o100000: 1, 0o040000: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, 0o120000: 7}


class Unencodable(ValueError):
    """Extended attributes that EROFS cannot hold: more than an inode has room for, or of a namespace without number."""


class Inode(NamedTuple):
    """What one inode says. ``mtime`` is nanoseconds since the epoch; ``place`` is the first block of the data, an
    encoded device number, or a chunk format."""

    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    place: int
    links: int = 1
    chunked: bool = False


def encode_superblock(blocks: int, metadata: int, root: int, inodes: int) -> bytes:
    """For ``blocks`` blocks in all, with the metadata from the block ``metadata`` on."""
    return _SUPERBLOCK.pack(
        *(_MAGIC, 0, 0, BLOCK_BITS, 0, root, inodes, 0, 0, blocks, metadata, 0, bytes(16), bytes(16)),
        *(_CHUNKED, 0, 0, 0, 0, 0, 0, 0),
    )


def encode_inode(inode: Inode, xattrs: bytes, number: int) -> bytes:
    """An inode and its extended attributes; chunks are to follow."""
    layout = _CHUNK_BASED if inode.chunked else _PLAIN
    seconds, nanoseconds = divmod(inode.mtime, 1_000_000_000)
    count = (len(xattrs) - _XATTRS.size) // 4 + 1 if xattrs else 0
    return (
        _INODE.pack(
            *(
                1 | layout << 1,
                count,
                inode.mode,
                0,
                inode.size,
                inode.place,
                number & 0xFFFFFFFF,
                inode.uid,
                inode.gid,
            ),
            *(seconds & 0xFFFFFFFFFFFFFFFF, nanoseconds, inode.links),
        )
        + xattrs
    )


def decode_inode(encoded: bytes) -> tuple[Inode, int, bool]:
    """An inode as ``encode_inode`` made it, its number, and whether it has extended attributes."""
    form, count, mode, _, size, place, number, uid, gid, seconds, nanoseconds, links = _INODE.unpack_from(encoded)
    mtime = (seconds - (seconds >> 63 << 64)) * 1_000_000_000 + nanoseconds
    return Inode(mode, uid, gid, mtime, size, place, links, form >> 1 == _CHUNK_BASED), number, count > 0


def encode_xattrs(xattrs: Mapping[str, bytes]) -> bytes:
    """What follows an inode. Raises Unencodable."""
    if not xattrs:
        return b""
    parts = [_XATTRS.pack(0, 0)]
    for name, value in sorted(xattrs.items()):
        prefix = _find_prefix(name)
        if prefix is None:
            raise Unencodable(name)
        suffix = os.fsencode(name[len(prefix) :])
        if len(suffix) > 255 or len(value) > MAX_VALUE:
            raise Unencodable(name)
        parts += (_XATTR.pack(len(suffix), _PREFIXES[prefix], len(value)), suffix, value)
        parts.append(bytes(-(_XATTR.size + len(suffix) + len(value)) % 4))
    encoded = b"".join(parts)
    if len(encoded) > MAX_XATTRS:
        raise Unencodable(f"{len(xattrs)} extended attributes")
    return encoded


def has_namespace(name: str) -> bool:
    """Whether EROFS knows the namespace of an extended attribute; btrfs, say, has one of its own."""
    return _find_prefix(name) is not None


def _find_prefix(name: str) -> str | None:
    return next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)


def encode_directory(entries: Iterable[tuple[bytes, int, int]]) -> Iterator[bytes]:
    """A directory's data, from the names in it in their order, ``.`` and ``..`` too, with inode number and mode: whole
    blocks, but the last, in each the entries first, then their names."""
    block: list[tuple[bytes, int, int]] = []
    used = 0
    for entry in entries:
        needed = _DIRENT.size + len(entry[0])
        if used + needed > BLOCK:
            yield _encode_block(block).ljust(BLOCK, b"\0")
            block, used = [], 0
        block.append(entry)
        used += needed
    yield _encode_block(block)


def _encode_block(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    offset = len(entries) * _DIRENT.size
    heads = []
    for name, number, mode in entries:
        heads.append(_DIRENT.pack(number, offset, _TYPES[mode & 0o170000]))
        offset += len(name)
    return b"".join((*heads, *(name for name, _, _ in entries)))


def encode_device(major: int, minor: int) -> int:
    """A device number as the kernel stores it (linux/kdev_t.h: new_encode_dev)."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def compute_chunk_bits(size: int) -> int:
    """The smallest chunks that make up ``size`` bytes without too many of them."""
    return max(MIN_CHUNK_BITS, (max(size - 1, 1) // MAX_CHUNKS).bit_length())


def encode_chunk_format(bits: int) -> int:
    """The chunk format of an inode, for chunks of two to the power of ``bits`` bytes."""
    return bits - BLOCK_BITS


def encode_chunks(blocks: array[int]) -> bytes:
    """The first block of each chunk, or HOLE; an array of 32-bit numbers."""
    if sys.byteorder == "big":
        blocks = blocks[:]
        blocks.byteswap()
    return blocks.tobytes()
