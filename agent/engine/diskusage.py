"""How much the files below a directory take on disk; read only, and safe with trees that containers made."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from agent.values import frozen

MAX_DEPTH = 200
_BLOCK = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NOATIME | os.O_CLOEXEC


@frozen
class TreeSize:
    """Bytes allocated; ``whole`` is False when something could not be read or lies deeper than is looked at."""

    size: int = 0
    whole: bool = True

    def __add__(self, other: TreeSize) -> TreeSize:
        return TreeSize(self.size + other.size, self.whole and other.whole)


def measure_tree(root: Path, stop: threading.Event | None = None) -> TreeSize:
    """What is below ``root``, on its own file system; each hard-linked file counts once. Ends early on ``stop``.

    Nothing at all is a size of 0. Every directory is opened from its parent, and no link is followed.
    """
    try:
        fd = os.open(root, _DIRECTORY)
    except FileNotFoundError:
        return TreeSize()
    except OSError:
        return TreeSize(whole=False)
    walk = _Walk(os.fstat(fd).st_dev, stop or threading.Event())
    try:
        walk.add(fd, 0)
    finally:
        os.close(fd)
    return TreeSize(walk.size, walk.whole)


class _Walk:
    def __init__(self, device: int, stop: threading.Event) -> None:
        self._device = device
        self._stop = stop
        self._seen: set[int] = set()
        self.size = 0
        self.whole = True

    def add(self, fd: int, depth: int) -> None:
        self.size += os.fstat(fd).st_blocks * _BLOCK
        if depth >= MAX_DEPTH or self._stop.is_set():
            self.whole = False
            return
        with os.scandir(fd) as entries:
            directories = [entry.name for entry in entries if self._count(entry)]
        for name in directories:
            self._enter(fd, name, depth)

    def _count(self, entry: os.DirEntry[str]) -> bool:
        """Count what is no directory; says whether it is one to be entered."""
        with suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                return status.st_dev == self._device
            if status.st_nlink == 1 or status.st_ino not in self._seen:
                self.size += status.st_blocks * _BLOCK
            if status.st_nlink > 1:
                self._seen.add(status.st_ino)
        return False

    def _enter(self, parent: int, name: str, depth: int) -> None:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError:
            self.whole = False
            return
        try:
            self.add(fd, depth + 1)
        finally:
            os.close(fd)
