"""One 512-byte tar header and pax records to values: ustar, pax and GNU (POSIX.1-2017 pax; GNU tar manual).

Strict where a lenient reading could make two programs see two archives; every number and length is bounded.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from functools import lru_cache

from agent.image.errors import HostileLayer
from agent.image.layers.tarwriter import BLOCK, XATTR_PREFIX

MAX_SIZE = 1 << 50
MAX_ID = (1 << 32) - 2
MAX_TIME = 1 << 40
MAX_SPARSE = 65536
MAX_XATTR_NAMES = 65536
"""Bytes of the names of all extended attributes of a file (linux/limits.h: XATTR_LIST_MAX)."""
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1  # what the kernel's device numbers hold
DEVICES = (b"3", b"4")
_FORMAT = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_GNU_SPARSE = struct.Struct("12s12s")
_SPARSE = (b"major", b"minor", b"name", b"size", b"realsize", b"numblocks", b"map", b"offset", b"numbytes")
_WANTED = frozenset(
    (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", *(b"GNU.sparse." + name for name in _SPARSE))
)
ZERO = bytes(BLOCK)


class SparseMap:
    """Offset and length of each piece of data in a sparse file, in as little memory as they need; empty ones left out
    when they are read."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        numbers = iter(self._numbers)
        return ((offset, length) for offset, length in zip(numbers, numbers, strict=True) if length)

    def add(self, offset: int, length: int) -> None:
        """Add a piece behind the others."""
        self._numbers.append(offset)
        self._numbers.append(length)

    def extend(self, other: SparseMap) -> None:
        """Add all pieces of another map behind the others."""
        self._numbers.extend(other._numbers)


class TarEntry:
    """One member. ``kind`` is the type flag; ``size`` counts bytes in the archive, ``real_size`` those of the file.

    ``mtime`` is nanoseconds since the epoch. ``sparse`` says where a sparse file has data, ``device`` is
    a device node's major and minor number.
    """

    __slots__ = (
        "device",
        "gid",
        "kind",
        "link",
        "mode",
        "mtime",
        "name",
        "real_size",
        "size",
        "sparse",
        "uid",
        "xattrs",
    )

    def __init__(self, kind: bytes, name: bytes, link: bytes) -> None:
        self.kind = kind
        self.name = name
        self.link = link
        self.mode = self.uid = self.gid = 0
        self.size = self.real_size = self.mtime = 0
        self.xattrs: dict[str, bytes] = {}
        self.sparse: SparseMap | None = None
        self.device = (0, 0)


def parse_header(block: bytes) -> TarEntry:
    """Parse a header block. Raises HostileLayer for a wrong checksum or number."""
    fields = _FORMAT.unpack(block)
    _check_sum(block, fields[6])
    name, kind = _text(fields[0]), fields[7]
    if fields[9] == b"ustar\0" and fields[15][0]:
        name = _text(fields[15]) + b"/" + name
    if kind == b"\0":
        kind = b"5" if name.endswith(b"/") else b"0"
    entry = TarEntry(kind, name, _text(fields[8]))
    entry.mode = parse_number(fields[1], 1 << 32) & 0o7777
    entry.uid = parse_number(fields[2], MAX_ID)
    entry.gid = parse_number(fields[3], MAX_ID)
    entry.size = entry.real_size = parse_number(fields[4], MAX_SIZE)
    entry.mtime = parse_number(fields[5], MAX_TIME, signed=True) * 1_000_000_000
    if kind in DEVICES:
        entry.device = parse_number(fields[13], MAX_MAJOR), parse_number(fields[14], MAX_MINOR)
    return entry


def _check_sum(block: bytes, field: bytes) -> None:
    stated = parse_number(field, 1 << 24)
    if _sum(block[:256]) + _sum(block[256:]) - sum(field) + 256 == stated:
        return
    signed = struct.unpack("512b", block)
    if sum(signed) - sum(signed[148:156]) + 256 != stated:
        raise HostileLayer("the layer is not a valid tar archive: a header's checksum is wrong")


def _sum(data: bytes) -> int:
    """The sum of up to 256 bytes: Adler-32's lower half less its initial one, which no modulus reaches (RFC 1950)."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


@lru_cache(maxsize=1024)
def parse_number(field: bytes, limit: int, *, signed: bool = False) -> int:
    """An octal or base-256 number field up to ``limit``. Raises HostileLayer."""
    digits = field.strip(b"\0 ")
    if digits.isdigit():
        try:
            value = int(digits, 8)
        except ValueError as error:
            raise HostileLayer("a tar header holds a malformed number") from error
    elif not digits:
        value = 0
    elif field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big", signed=False) - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    else:
        raise HostileLayer("a tar header holds a malformed number")
    if value > limit or value < (-limit if signed else 0):
        raise HostileLayer(f"a tar header holds a number out of range: {value}")
    return value


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax extended header that matter; a later one replaces an earlier. Raises HostileLayer.

    The repeated records of GNU sparse 0.0 are gathered under ``GNU.sparse.map``, as format 0.1 has them.
    """
    records: dict[bytes, bytes] = {}
    pairs: list[bytes] = []
    position = names = 0
    while position < len(data):
        if data[position] == 0 and not data[position:].strip(b"\0"):
            break
        space = data.find(b" ", position, position + 20)
        length = data[position:space] if space > 0 else b""
        if not length.isdigit() or int(length) <= space - position + 2:
            raise HostileLayer("a pax header is malformed")
        end = position + int(length)
        equals = data.find(b"=", space + 1, end - 1)
        if end > len(data) or data[end - 1] != 10 or equals <= space + 1:
            raise HostileLayer("a pax header is malformed")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pairs.append(value)
        if key.startswith(XATTR_PREFIX):
            names += len(key) + 1 - len(XATTR_PREFIX)
            if names > MAX_XATTR_NAMES:
                raise HostileLayer("the layer holds more extended attributes of a file than it can have")
            records[key] = value
        elif key in _WANTED:
            records[key] = value
        position = end
    if pairs:
        records[b"GNU.sparse.map"] = b",".join(pairs)
    return records


def apply_pax(entry: TarEntry, records: dict[bytes, bytes]) -> None:
    """Let pax records override the header. Raises HostileLayer for malformed values."""
    for key, value in records.items():
        if key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            entry.size = entry.real_size = parse_decimal(value, MAX_SIZE)
        elif key == b"uid":
            entry.uid = parse_decimal(value, MAX_ID)
        elif key == b"gid":
            entry.gid = parse_decimal(value, MAX_ID)
        elif key == b"mtime":
            entry.mtime = _parse_time(value)
        elif key.startswith(XATTR_PREFIX):
            entry.xattrs[_xattr_name(key[len(XATTR_PREFIX) :])] = value
    if b"\0" in entry.name or b"\0" in entry.link:
        raise HostileLayer("a name in the layer holds a NUL byte")


def parse_decimal(value: bytes, limit: int) -> int:
    """A decimal number of pax, 0 to ``limit``. Raises HostileLayer."""
    if not value.isdigit() or len(value) > 20 or int(value) > limit:
        raise HostileLayer("a pax header holds a malformed number")
    return int(value)


def _parse_time(value: bytes) -> int:
    negative = value.startswith(b"-")
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    nanoseconds = parse_decimal(whole, MAX_TIME) * 1_000_000_000
    if fraction:
        nanoseconds += parse_decimal(fraction[:9].ljust(9, b"0"), 10**9)
    return -nanoseconds if negative else nanoseconds


def _xattr_name(name: bytes) -> str:
    if not 1 <= len(name) <= 255 or b"\0" in name or b"." not in name:
        raise HostileLayer("the layer holds an extended attribute with an impossible name")
    return name.decode("utf-8", "surrogateescape")


def parse_gnu_sparse(block: bytes, start: int, count: int) -> SparseMap:
    """The slots of an old GNU sparse header or its extension block."""
    found = SparseMap()
    for index in range(count):
        offset, length = _GNU_SPARSE.unpack_from(block, start + index * 24)
        if not offset.strip(b"\0 "):
            break
        found.add(parse_number(offset, MAX_SIZE), parse_number(length, MAX_SIZE))
    return found


def parse_pax_sparse(packed: bytes) -> SparseMap:
    """The map of GNU sparse 0.1, numbers with commas between. Raises HostileLayer."""
    pairs = SparseMap()
    if not packed:
        return pairs
    if packed.count(b",") % 2 == 0 or packed.count(b",") > 2 * MAX_SPARSE:
        raise HostileLayer("a sparse file's map is malformed")
    numbers = (parse_decimal(item, MAX_SIZE) for item in _split(packed))
    for offset, length in zip(numbers, numbers, strict=True):
        pairs.add(offset, length)
    return pairs


def _split(packed: bytes) -> Iterator[bytes]:
    """What is between the commas, one by one: all of it at once would take ten times the memory."""
    start = 0
    while (end := packed.find(b",", start)) >= 0:
        yield packed[start:end]
        start = end + 1
    yield packed[start:]


def check_sparse(entry: TarEntry, pairs: SparseMap) -> None:
    """Give ``entry`` its sparse map. Raises HostileLayer unless it is ascending and adds up."""
    end = total = 0
    for offset, length in pairs:
        if offset < end or offset + length > entry.real_size:
            raise HostileLayer("a sparse file's map is out of order")
        end = offset + length
        total += length
    if total != entry.size:
        raise HostileLayer("a sparse file's map does not fit its data")
    entry.sparse = pairs
