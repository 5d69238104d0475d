"""Whether two unpacked layers are the same, entry by entry: all that a file system says of files, but access times.

Of whiteouts only that they are there counts: overlayfs shows nothing else of them.

Every directory is opened from its parent and no link is followed, whatever damage may have made of a tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.image.layers.rooted import is_whiteout, render_path

CHUNK = 256 << 10
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC


def compare_trees(found: Path, wanted: Path) -> Iterator[str]:
    """What is not as ``wanted``, one sentence each; nothing when the trees are equal. Raises OSError."""
    left, right = os.open(found, _DIRECTORY), os.open(wanted, _DIRECTORY)
    try:
        yield from _Comparison().compare_directories(left, right, b"")
    finally:
        os.close(left)
        os.close(right)


class _Comparison:
    """Remembers which files were seen under another name: hard links have to be the same in both."""

    def __init__(self) -> None:
        self._found: dict[int, int] = {}
        self._wanted: dict[int, int] = {}

    def compare_directories(self, left: int, right: int, path: bytes) -> Iterator[str]:
        yield from _compare_attributes(os.fstat(left), os.fstat(right), path)
        yield from _compare_xattrs(left, right, path)
        names = [{os.fsencode(entry.name) for entry in os.scandir(fd)} for fd in (left, right)]
        for name in sorted(names[0] | names[1]):
            inner = path + b"/" + name if path else name
            if name not in names[1]:
                yield f"{render_path(inner)} does not belong there"
            elif name not in names[0]:
                yield f"{render_path(inner)} is missing"
            else:
                yield from self._compare_entries(left, right, name, inner)

    def _compare_entries(self, left: int, right: int, name: bytes, path: bytes) -> Iterator[str]:
        one = os.stat(name, dir_fd=left, follow_symlinks=False)
        other = os.stat(name, dir_fd=right, follow_symlinks=False)
        if is_whiteout(one) and is_whiteout(other):
            return
        if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
            yield f"{render_path(path)} is of another type"
        elif stat.S_ISDIR(one.st_mode):
            fds = [os.open(name, _DIRECTORY, dir_fd=fd) for fd in (left, right)]
            try:
                yield from self.compare_directories(fds[0], fds[1], path)
            finally:
                for fd in fds:
                    os.close(fd)
        else:
            yield from _compare_attributes(one, other, path)
            if not self._are_linked_alike(one, other):
                yield f"{render_path(path)} is linked with other files"
            yield from _compare_contents(left, right, name, path)

    def _are_linked_alike(self, one: os.stat_result, other: os.stat_result) -> bool:
        """Of files with a single name nothing is remembered: most are such."""
        if one.st_nlink == other.st_nlink == 1:
            return True
        known = self._found.setdefault(one.st_ino, other.st_ino), self._wanted.setdefault(other.st_ino, one.st_ino)
        return known == (other.st_ino, one.st_ino)


def _compare_attributes(one: os.stat_result, other: os.stat_result, path: bytes) -> Iterator[str]:
    for what, field in (
        ("mode", "st_mode"),
        ("owner", "st_uid"),
        ("group", "st_gid"),
        ("device number", "st_rdev"),
        ("time", "st_mtime_ns"),
    ):
        if getattr(one, field) != getattr(other, field):
            yield f"{render_path(path) if path else 'the root'} has another {what}"


def _compare_xattrs(one: int | bytes, other: int | bytes, path: bytes) -> Iterator[str]:
    if _read_xattrs(one) != _read_xattrs(other):
        yield f"{render_path(path) if path else 'the root'} has other extended attributes"


def _read_xattrs(target: int | bytes) -> dict[str, bytes]:
    follow = isinstance(target, int)
    names = os.listxattr(target, follow_symlinks=follow)
    return {name: os.getxattr(target, name, follow_symlinks=follow) for name in names}


def _compare_contents(left: int, right: int, name: bytes, path: bytes) -> Iterator[str]:
    """Of two entries of one type that are no directories."""
    mode = os.stat(name, dir_fd=left, follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode):
        yield from _compare_xattrs(_at(left, name), _at(right, name), path)
        if stat.S_ISLNK(mode) and os.readlink(name, dir_fd=left) != os.readlink(name, dir_fd=right):
            yield f"{render_path(path)} leads elsewhere"
        return
    one, other = os.open(name, _FILE, dir_fd=left), os.open(name, _FILE, dir_fd=right)
    try:
        yield from _compare_xattrs(one, other, path)
        if not _is_same_content(one, other):
            yield f"{render_path(path)} has other content"
    finally:
        os.close(one)
        os.close(other)


def _is_same_content(one: int, other: int) -> bool:
    if os.fstat(one).st_size != os.fstat(other).st_size:
        return False
    while True:
        chunk = os.read(one, CHUNK)
        if chunk != os.read(other, CHUNK):
            return False
        if not chunk:
            return True


def _at(parent: int, name: bytes) -> bytes:
    return f"/proc/self/fd/{parent}/".encode() + name
