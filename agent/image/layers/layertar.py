"""A directory, or overlayfs' upper directory, as a layer tar: the same tree gives the same bytes.

Sorted names, whole seconds, numeric owners; pax records only where ustar cannot say it. Overlay marks become
whiteouts again (image-spec layer.md). Sockets are left out, as in every layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path

from agent.errors import Unsupported
from agent.image.layers.layerwriter import OPAQUE_WHITEOUT, UNWANTED_XATTRS, WHITEOUT
from agent.image.layers.rooted import OPAQUE, is_whiteout, render_path
from agent.image.layers.tarheader import DEVICES
from agent.image.layers.tarwriter import BLOCK, encode_end, encode_member

CHUNK = 256 << 10


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
        yield encode_end(total)

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
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            kind = b"3" if stat.S_ISCHR(mode) else b"4"
            yield self._render(path, kind, status, 0, xattrs=_read_xattrs(_at(parent, name)))

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
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Unsupported(f"{render_path(path)} changed while it was read", reason="FileChanged")
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
        if kind in DEVICES:
            numbers |= {b"devmajor": os.major(status.st_rdev), b"devminor": os.minor(status.st_rdev)}
        if hidden:
            numbers |= {b"uid": 0, b"gid": 0, b"mtime": 0}
        return encode_member(path, kind, mode, numbers, link=link, xattrs=xattrs)


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
