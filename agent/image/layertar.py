"""A directory, or overlayfs' upper directory, as a layer tar: the same tree gives the same bytes.

Sorted names, whole seconds, numeric owners; pax records only where ustar cannot say it. Overlay marks become
whiteouts again (image-spec layer.md). Sockets are left out, as in every layer; device nodes are refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path

from agent.errors import Unsupported
from agent.image.rooted import OPAQUE, is_whiteout, render_path
from agent.image.tarheader import BLOCK, XATTR_PREFIX
from agent.image.unpack import OPAQUE_WHITEOUT, UNWANTED_XATTRS, WHITEOUT

CHUNK = 256 << 10
_RECORD = 10240
_MAX_OCTAL = {6: 0o777777, 7: 0o7777777, 11: 0o77777777777}


class LayerTar:
    """Iterate once; afterwards ``size`` is the bytes of file data and ``entries`` the number of members."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._links: dict[tuple[int, int], bytes] = {}
        self.size = 0
        self.entries = 0

    def stream(self) -> Generator[bytes, None, None]:
        """The tar, padded to whole records. Raises Unsupported for what cannot be in a layer, OSError."""
        total = 0
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for chunk in self._walk(root, b""):
                total += len(chunk)
                yield chunk
        finally:
            os.close(root)
        yield bytes(2 * BLOCK + -(total + 2 * BLOCK) % _RECORD)

    def _walk(self, fd: int, path: bytes) -> Iterator[bytes]:
        if path and _is_opaque(fd):
            yield self._render(path + b"/" + OPAQUE_WHITEOUT, b"0", os.fstat(fd), 0)
        for name in sorted(os.fsencode(entry) for entry in os.listdir(fd)):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            yield from self._member(fd, name, path + b"/" + name if path else name, status)

    def _member(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        mode = status.st_mode
        if is_whiteout(status):
            head, _, tail = path.rpartition(b"/")
            yield self._render((head + b"/" if head else b"") + WHITEOUT + tail, b"0", status, 0)
        elif name.startswith(WHITEOUT):
            raise Unsupported(f"{render_path(path)} has a name that layers reserve", reason="UnsupportedFile")
        elif stat.S_ISDIR(mode):
            yield from self._directory(parent, name, path)
        elif stat.S_ISREG(mode):
            yield from self._file(parent, name, path, status)
        elif stat.S_ISLNK(mode):
            link = os.readlink(name, dir_fd=parent)
            yield self._render(path, b"2", status, 0, link=link, xattrs=_read_xattrs(_at(parent, name)))
        elif stat.S_ISFIFO(mode):
            yield self._render(path, b"6", status, 0, xattrs=_read_xattrs(_at(parent, name)))
        elif not stat.S_ISSOCK(mode):
            raise Unsupported(
                f"{render_path(path)} is a device node, which a layer cannot hold", reason="UnsupportedFile"
            )

    def _directory(self, parent: int, name: bytes, path: bytes) -> Iterator[bytes]:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            yield self._render(path + b"/", b"5", os.fstat(fd), 0, xattrs=_read_xattrs(fd))
            yield from self._walk(fd, path)
        finally:
            os.close(fd)

    def _file(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                yield self._render(path, b"1", status, 0, link=first)
                return
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            size = os.fstat(fd).st_size
            self.size += size
            yield self._render(path, b"0", status, size, xattrs=_read_xattrs(fd))
            left = size
            while left:
                chunk = os.read(fd, min(CHUNK, left))
                if not chunk:
                    raise Unsupported(f"{render_path(path)} shrank while it was read", reason="FileChanged")
                left -= len(chunk)
                yield chunk
            if size % BLOCK:
                yield bytes(-size % BLOCK)
        finally:
            os.close(fd)

    def _render(
        self,
        path: bytes,
        kind: bytes,
        status: os.stat_result,
        size: int,
        *,
        link: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
    ) -> bytes:
        self.entries += 1
        hidden = path.rpartition(b"/")[2].startswith(WHITEOUT)
        mode = 0o777 if kind == b"2" else 0 if hidden else stat.S_IMODE(status.st_mode)
        numbers = {b"uid": status.st_uid, b"gid": status.st_gid, b"size": size, b"mtime": int(status.st_mtime)}
        if hidden:
            numbers |= {b"uid": 0, b"gid": 0, b"mtime": 0}
        pax = {XATTR_PREFIX + name: value for name, value in (xattrs or {}).items()}
        name, prefix = _split_name(path)
        if name is None:
            pax[b"path"], name = path, path[:99]
        if len(link) > 100:
            pax[b"linkpath"] = link
        for key, width in ((b"uid", 7), (b"gid", 7), (b"size", 11), (b"mtime", 11)):
            if not 0 <= numbers[key] <= _MAX_OCTAL[width]:
                pax[key], numbers[key] = str(numbers[key]).encode(), 0
        header = _encode_header(name, prefix, kind, mode, numbers, link[:100])
        return _encode_pax(pax) + header if pax else header


def _at(parent: int, name: bytes) -> bytes:
    return f"/proc/self/fd/{parent}/".encode() + name


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False


def _read_xattrs(target: int | bytes) -> dict[bytes, bytes]:
    follow = isinstance(target, int)
    names = sorted(
        name for name in os.listxattr(target, follow_symlinks=follow) if not name.startswith(UNWANTED_XATTRS)
    )
    return {os.fsencode(name): os.getxattr(target, name, follow_symlinks=follow) for name in names}


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


def _encode_header(name: bytes, prefix: bytes, kind: bytes, mode: int, numbers: dict[bytes, int], link: bytes) -> bytes:
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
    block[329:337] = block[337:345] = b"0000000\0"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _encode_pax(records: dict[bytes, bytes]) -> bytes:
    body = b"".join(_encode_record(key, value) for key, value in sorted(records.items()))
    zero = {b"uid": 0, b"gid": 0, b"size": len(body), b"mtime": 0}
    return _encode_header(b"PaxHeaders.0/x", b"", b"x", 0o644, zero, b"") + body + bytes(-len(body) % BLOCK)


def _encode_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + 1
    while len(str(size)) + len(rest) != size:
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest
