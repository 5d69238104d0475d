"""Copies a directory tree as ``cp -a`` does: owners, modes, times, extended attributes, hard links, holes.

Both trees are walked by descriptor and no symbolic link is followed; links are copied as links. Device nodes and
sockets are left out. The target must be a new, empty directory that nobody else can reach.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from agent.kernel.openat import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_CHUNK = 1 << 30
_NOT_COPIED = ("trusted.overlay.", "user.overlay.", "security.selinux")


def copy_tree(source: int, target: int) -> bool:
    """Copy what is in the directory ``source`` into ``target``; False when nothing was there. Raises OSError.

    ``target`` itself gets the attributes of ``source``. Descriptors stay the caller's.
    """
    return _TreeCopy(source, target).run()


class _TreeCopy:
    """One copy under way: ``_links`` maps inodes with several names to their first copy."""

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._links: dict[tuple[int, int], str] = {}
        self._directories = ["."]

    def run(self) -> bool:
        copied = False
        for path in self._directories:
            with _opened(self._source, path) as source, _opened(self._target, path) as target:
                with os.scandir(source) as entries:
                    names = [entry.name for entry in entries]
                for name in names:
                    copied = self._copy_entry(source, target, name, f"{path}/{name}") or copied
        for path in reversed(self._directories):
            with _opened(self._source, path) as source, _opened(self._target, path) as target:
                _copy_attributes(source, target)
        return copied

    def _copy_entry(self, source: int, target: int, name: str, path: str) -> bool:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            self._directories.append(path)
            return True
        if kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO):
            return False
        key = (status.st_dev, status.st_ino)
        first = self._links.get(key) if status.st_nlink > 1 else None
        if first is not None:
            os.link(first, name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False)
            return True
        if kind == stat.S_IFREG:
            _copy_file(source, target, name)
        else:
            _copy_special(source, target, name, status)
        if status.st_nlink > 1:
            self._links[key] = path
        return True


@contextmanager
def _opened(root: int, path: str) -> Iterator[int]:
    descriptor = openat2(root, path, _DIRECTORY, _STRICT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=source)
    try:
        size = os.fstat(reader).st_size
        writer = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target
        )
        try:
            for start, end in _find_data(reader, size):
                os.lseek(writer, start, os.SEEK_SET)
                _copy_range(reader, writer, start, end)
            os.ftruncate(writer, size)
            _copy_attributes(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _find_data(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are no holes."""
    start = 0
    while start < size:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, min(end, size)
        start = end


def _copy_range(reader: int, writer: int, start: int, end: int) -> None:
    while start < end:
        moved = os.sendfile(writer, reader, start, min(end - start, _CHUNK))
        if not moved:
            return
        start += moved


def _copy_attributes(source: int, target: int) -> None:
    """Owner, mode, extended attributes, then times: each step would undo one that came later in another order."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith(_NOT_COPIED):
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_special(source: int, target: int, name: str, status: os.stat_result) -> None:
    """A symbolic link or a FIFO."""
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mkfifo(name, 0o600, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    old, new = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    for attribute in os.listxattr(old, follow_symlinks=False):
        if not attribute.startswith(_NOT_COPIED):
            value = os.getxattr(old, attribute, follow_symlinks=False)
            os.setxattr(new, attribute, value, follow_symlinks=False)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
