"""Attributes of directories that a layer uses but does not describe: those of the layers below."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.image.errors import HostileLayer
from agent.image.rooted import OPAQUE, is_whiteout, render_path
from agent.image.unpack import UNWANTED_XATTRS


def adopt_attributes(root: Path, implied: Iterable[bytes], lower: Sequence[Path]) -> None:
    """Give each implied directory of ``root`` what the topmost of ``lower`` says of it.

    Without one: root's, mode 0755, time 0. Raises HostileLayer when the lower layers hold a link or a file there:
    the layer relies on writing through it.
    """
    for path in sorted(implied, reverse=True):
        fd = _open_directory(root, path)
        try:
            _adopt(fd, path, _find_lower(path, lower))
        finally:
            os.close(fd)


def _adopt(fd: int, path: bytes, source: Path | None) -> None:
    if source is None:
        os.utime(fd, (0, 0))
        return
    status = source.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise HostileLayer(f"the layer puts files below {render_path(path)}, which is no directory")
    os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if not name.startswith(UNWANTED_XATTRS):
            os.setxattr(fd, name, os.getxattr(source, name, follow_symlinks=False))
    os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))


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
