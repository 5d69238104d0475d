"""Tar members to bytes: ustar, with pax records only where ustar cannot say it. The same values give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping

BLOCK = 512
XATTR_PREFIX = b"SCHILY.xattr."
RECORD = 10240
_MAX_OCTAL = {6: 0o777777, 7: 0o7777777, 11: 0o77777777777}


def encode_member(
    path: bytes,
    kind: bytes,
    mode: int,
    numbers: dict[bytes, int],
    *,
    link: bytes = b"",
    xattrs: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """The header of a member, and its pax header where one is needed; data and padding are the caller's.

    ``kind`` is the type flag, ``numbers`` has uid, gid, size and mtime, and for a device node devmajor and devminor.
    """
    numbers = dict(numbers)
    pax = {XATTR_PREFIX + name: value for name, value in (xattrs or {}).items()}
    name, prefix = _split_name(path)
    if name is None:
        pax[b"path"], name = path, path[:99]
    if len(link) > 100:
        pax[b"linkpath"] = link
    for key, width in ((b"uid", 7), (b"gid", 7), (b"size", 11), (b"mtime", 11)):
        if not 0 <= numbers[key] <= _MAX_OCTAL[width]:
            pax[key], numbers[key] = str(numbers[key]).encode(), 0
    header = _encode_header((name, prefix), kind, mode, numbers, link[:100])
    return _encode_pax(pax) + header if pax else header


def encode_padding(size: int) -> bytes:
    """What follows ``size`` bytes of data up to the next block."""
    return bytes(-size % BLOCK)


def encode_end(total: int) -> bytes:
    """The end of an archive of ``total`` bytes so far, padded to whole records."""
    return bytes(2 * BLOCK + -(total + 2 * BLOCK) % RECORD)


def _split_name(path: bytes) -> tuple[bytes | None, bytes]:
    """Name and prefix fields of ustar; no name when the path does not fit."""
    if len(path) <= 100:
        return path, b""
    cut = path.rfind(b"/", 0, min(len(path) - 1, 156))
    while cut > 0 and len(path) - cut - 1 <= 100:
        if cut <= 155:
            return path[cut + 1 :], path[:cut]
        cut = path.rfind(b"/", 0, cut)
    return None, b""


def _encode_header(names: tuple[bytes, bytes], kind: bytes, mode: int, numbers: dict[bytes, int], link: bytes) -> bytes:
    name, prefix = names
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[100:108] = b"%07o\0" % mode
    block[108:116] = b"%07o\0" % numbers[b"uid"]
    block[116:124] = b"%07o\0" % numbers[b"gid"]
    block[124:136] = b"%011o\0" % numbers[b"size"]
    block[136:148] = b"%011o\0" % numbers[b"mtime"]
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[157 : 157 + len(link)] = link
    block[257:265] = b"ustar\x0000"
    block[329:337] = b"%07o\0" % numbers.get(b"devmajor", 0)
    block[337:345] = b"%07o\0" % numbers.get(b"devminor", 0)
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _encode_pax(records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_encode_record(key, value) for key, value in sorted(records.items()))
    zero = {b"uid": 0, b"gid": 0, b"size": len(body), b"mtime": 0}
    return _encode_header((b"PaxHeaders.0/x", b""), b"x", 0o644, zero, b"") + body + bytes(-len(body) % BLOCK)


def _encode_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(str(size)) + len(rest) != size:
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest
