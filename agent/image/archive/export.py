"""The merged root of a container as a tar, while whoever runs in it may change everything at any moment.

Each file is opened by descriptor from its directory, never through a link, and looked at only then: a name that is
swapped for a link or a device meanwhile is left out or seen as what it is, never followed (attack row 27). What is
mounted in the container (volumes, /proc) is not part of the view, so it is not in the tar either.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator

from agent.image.layers.layerwriter import UNWANTED_XATTRS
from agent.image.layers.rooted import OPAQUE
from agent.image.layers.tarwriter import encode_end, encode_member, encode_padding
from agent.image.storage.content import CHUNK

MAX_DEPTH = 512
_POINTER = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOATIME | os.O_CLOEXEC


def stream_tree(root: int) -> Generator[bytes, None, None]:
    """The tree below the directory descriptor ``root`` as a tar, in name order. ``root`` stays the caller's.

    What vanishes or changes its kind meanwhile is left out; a file that shrinks is filled up with zeros. Sockets have
    no place in a tar. Raises OSError when the tree cannot be read at all.
    """
    total = 0
    for chunk in _Walk().run(root):
        total += len(chunk)
        yield chunk
    yield encode_end(total)


class _Walk:
    """One walk; remembers the first name of files that have several."""

    def __init__(self) -> None:
        self._links: dict[tuple[int, int], bytes] = {}

    def run(self, root: int) -> Iterator[bytes]:
        top = os.open(".", _DIRECTORY, dir_fd=root)
        try:
            yield _render(b"./", b"5", os.fstat(top), xattrs=_xattrs(top))
            yield from self._directory(top, b"", 0)
        finally:
            os.close(top)

    def _directory(self, fd: int, path: bytes, depth: int) -> Iterator[bytes]:
        for name in sorted(os.fsencode(entry) for entry in os.listdir(fd)):
            inner = path + b"/" + name if path else name
            try:
                pointer = os.open(name, _POINTER, dir_fd=fd)
            except OSError:
                continue
            try:
                yield from self._member(pointer, inner, depth)
            finally:
                os.close(pointer)

    def _member(self, pointer: int, path: bytes, depth: int) -> Iterator[bytes]:
        """``pointer`` is what was there at one moment; nothing that happens to the name matters from here on."""
        status = os.fstat(pointer)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            yield from self._enter(pointer, path, depth)
        elif stat.S_ISREG(mode):
            yield from self._file(pointer, path, status)
        elif stat.S_ISLNK(mode):
            yield _render(path, b"2", status, link=os.readlink(b"", dir_fd=pointer), xattrs=_xattrs(pointer))
        elif stat.S_ISFIFO(mode):
            yield _render(path, b"6", status, xattrs=_xattrs(pointer))
        elif not stat.S_ISSOCK(mode):
            yield _render(path, b"3" if stat.S_ISCHR(mode) else b"4", status, xattrs=_xattrs(pointer))

    def _enter(self, pointer: int, path: bytes, depth: int) -> Iterator[bytes]:
        if depth >= MAX_DEPTH:
            return
        fd = os.open(f"/proc/self/fd/{pointer}", _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            yield _render(path + b"/", b"5", os.fstat(fd), xattrs=_xattrs(fd))
            yield from self._directory(fd, path, depth + 1)
        finally:
            os.close(fd)

    def _file(self, pointer: int, path: bytes, status: os.stat_result) -> Iterator[bytes]:
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                yield _render(path, b"1", status, link=first)
                return
        fd = os.open(f"/proc/self/fd/{pointer}", _FILE)
        try:
            status = os.fstat(fd)
            yield _render(path, b"0", status, size=status.st_size, xattrs=_xattrs(fd))
            yield from _content(fd, status.st_size)
        finally:
            os.close(fd)


def _content(fd: int, size: int) -> Iterator[bytes]:
    """Exactly ``size`` bytes and the padding, whatever happens to the file."""
    left = size
    while left:
        chunk = os.read(fd, min(CHUNK, left)) or bytes(min(CHUNK, left))
        left -= len(chunk)
        yield chunk
    if size % 512:
        yield encode_padding(size)


def _xattrs(descriptor: int) -> dict[bytes, bytes]:
    """By path, since the kernel takes O_PATH descriptors in no other way; of a link it is the link itself."""
    target = f"/proc/self/fd/{descriptor}"
    found: dict[bytes, bytes] = {}
    try:
        for name in sorted(os.listxattr(target)):
            if not name.startswith(UNWANTED_XATTRS) and name != OPAQUE:
                found[os.fsencode(name)] = os.getxattr(target, name)
    except OSError:
        return found
    return found


def _render(
    path: bytes,
    kind: bytes,
    status: os.stat_result,
    *,
    size: int = 0,
    link: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> bytes:
    numbers = {b"uid": status.st_uid, b"gid": status.st_gid, b"size": size, b"mtime": int(status.st_mtime)}
    if kind in (b"3", b"4"):
        numbers |= {b"devmajor": os.major(status.st_rdev), b"devminor": os.minor(status.st_rdev)}
    mode = 0o777 if kind == b"2" else stat.S_IMODE(status.st_mode)
    return encode_member(path, kind, mode, numbers, link=link, xattrs=xattrs)
