"""Attributes of directories that a layer uses but does not describe: those of the layers below."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.image.errors import HostileLayer
from agent.image.layerwriter import UNWANTED_XATTRS
from agent.image.rooted import OPAQUE, is_whiteout, render_path


class Attributes(NamedTuple):
    """What is said of a directory. ``mtime`` is nanoseconds since the epoch; ``mode`` has no type."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: dict[str, bytes]


def find_attributes(path: bytes, lower: Sequence[Path]) -> Attributes:
    """What the topmost of ``lower`` says of a directory that a layer uses but does not describe.

    Without one: root's, mode 0755, time 0. Raises HostileLayer when the lower layers hold a link or a file there:
    the layer relies on writing through it.
    """
    source = _find_lower(path, lower)
    if source is None:
        return Attributes(0o755, 0, 0, 0, {})
    status = source.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise HostileLayer(f"the layer puts files below {render_path(path)}, which is no directory")
    names = [name for name in os.listxattr(source, follow_symlinks=False) if not name.startswith(UNWANTED_XATTRS)]
    xattrs = {name: os.getxattr(source, name, follow_symlinks=False) for name in names}
    return Attributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


def adopt_attributes(root: Path, implied: Iterable[bytes], lower: Sequence[Path]) -> None:
    """Give each implied directory of ``root`` what the layers below say of it. Raises HostileLayer, OSError."""
    for path in sorted(implied, reverse=True):
        fd = _open_directory(root, path)
        try:
            _adopt(fd, find_attributes(path, lower))
        finally:
            os.close(fd)


def _adopt(fd: int, said: Attributes) -> None:
    os.fchown(fd, said.uid, said.gid)
    os.fchmod(fd, said.mode)
    for name, value in said.xattrs.items():
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(said.mtime, said.mtime))


def _open_directory(root: Path, path: bytes) -> int:
    """Open a directory of our own tree, following no link on the way."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(root, flags)
    for part in path.split(b"/") if path else ():
        try:
            inner = os.open(part, flags, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def _find_lower(path: bytes, lower: Sequence[Path]) -> Path | None:
    """Where the merged lower layers show ``path``. They are our own trees; no link is followed."""
    parts = [part for part in os.fsdecode(path).split("/") if part]
    for layer in lower:
        current, opaque = layer, False
        for part in parts:
            opaque = opaque or _is_opaque(current)
            current = current / part
            try:
                status = current.lstat()
            except FileNotFoundError:
                break
            if is_whiteout(status):
                return None
            if not stat.S_ISDIR(status.st_mode):
                return current
        else:
            return current
        if opaque:
            return None
    return None


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
