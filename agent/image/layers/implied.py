"""Attributes of directories that a layer uses but does not describe: those of the layers below."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.image.errors import HostileLayer
from agent.image.layers.layerwriter import UNWANTED_XATTRS
from agent.image.layers.rooted import OPAQUE, is_whiteout, render_path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Attributes(NamedTuple):
    """What is said of a directory. ``mtime`` is nanoseconds since the epoch; ``mode`` has no type."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: dict[str, bytes]


class LowerLayers:
    """The layers below, the topmost first, as overlayfs shows them. They are our own trees; no link is followed.

    The way to the last path is remembered: whoever asks for one path after the other in their order has each directory
    looked for once.
    """

    def __init__(self, lower: Sequence[Path]) -> None:
        roots: list[bytes] = []
        for layer in lower:
            roots.append(os.fsencode(layer))
            if _is_opaque(roots[-1]):
                break
        self._names: list[bytes] = []
        self._merged = [roots]

    def find_attributes(self, path: bytes) -> Attributes:
        """What the topmost of them says of a directory that a layer uses but does not describe.

        Without one: root's, mode 0755, time 0. Raises HostileLayer when there is a link or a file in its place: the
        layer relies on writing through it.
        """
        source = self._find(path.split(b"/") if path else [])
        if source is None:
            return Attributes(0o755, 0, 0, 0, {})
        status = os.lstat(source)
        if not stat.S_ISDIR(status.st_mode):
            raise HostileLayer(f"the layer puts files below {render_path(path)}, which is no directory")
        names = [name for name in os.listxattr(source, follow_symlinks=False) if not name.startswith(UNWANTED_XATTRS)]
        xattrs = {name: os.getxattr(source, name, follow_symlinks=False) for name in names}
        return Attributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)

    def _find(self, parts: list[bytes]) -> bytes | None:
        """The topmost directory there, or what is in its way."""
        known = _count_common(parts, self._names)
        del self._names[known:], self._merged[known + 1 :]
        for name in parts[known:]:
            merged, obstacle = _descend(self._merged[-1], name)
            if obstacle is not None:
                return obstacle
            self._names.append(name)
            self._merged.append(merged)
        return next(iter(self._merged[-1]), None)


def _descend(directories: list[bytes], name: bytes) -> tuple[list[bytes], bytes | None]:
    """The directories that make up ``name`` in a merged one; or what is there and is none."""
    merged: list[bytes] = []
    for directory in directories:
        inner = directory + b"/" + name
        try:
            status = os.lstat(inner)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            return merged, None if merged or is_whiteout(status) else inner
        merged.append(inner)
        if _is_opaque(inner):
            break
    return merged, None


def too_much_said(path: bytes) -> HostileLayer:
    """The error for more extended attributes than the file system, or the image, has room for."""
    return HostileLayer(f"the layer does not describe {render_path(path)}, of which too much is said below")


def adopt_attributes(root: Path, implied: Iterable[bytes], lower: Sequence[Path]) -> None:
    """Give each implied directory of ``root``, those within it first, what the layers below say of it.

    Raises HostileLayer, OSError.
    """
    layers = LowerLayers(lower)
    way = _Way(root)
    try:
        for path in implied:
            _adopt(way.open(path), path, layers.find_attributes(path))
    finally:
        way.close()


def _adopt(fd: int, path: bytes, said: Attributes) -> None:
    os.fchown(fd, said.uid, said.gid)
    os.fchmod(fd, said.mode)
    try:
        for name, value in said.xattrs.items():
            os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.E2BIG):
            raise
        raise too_much_said(path) from error
    os.utime(fd, ns=(said.mtime, said.mtime))


class _Way:
    """The directories of our own tree that lead to one in it, open; no link is followed."""

    def __init__(self, root: Path) -> None:
        self._names: list[bytes] = []
        self._fds = [os.open(root, _DIRECTORY)]

    def open(self, path: bytes) -> int:
        """A descriptor that is good until the next call."""
        parts = path.split(b"/") if path else []
        known = _count_common(parts, self._names)
        while len(self._names) > known:
            self._names.pop()
            os.close(self._fds.pop())
        for name in parts[known:]:
            self._fds.append(os.open(name, _DIRECTORY, dir_fd=self._fds[-1]))
            self._names.append(name)
        return self._fds[-1]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


def _count_common(one: list[bytes], other: list[bytes]) -> int:
    """How many of their first components are the same."""
    different = (number for number, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(different, min(len(one), len(other)))


def _is_opaque(directory: bytes) -> bool:
    try:
        return os.getxattr(directory, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
