"""Removing whole trees that containers and builds have made: however deep they are, and through no link.

``shutil.rmtree`` goes down by recursion and gives up a thousand directories below.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

MAX_OPEN = 64
"""Directories that are open at the same time; what lies deeper is moved to the top first."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str | Path, *, dir_fd: int | None = None) -> None:
    """Remove a directory with all that is in it. Raises OSError, after everything else is gone."""
    top = os.open(path, _DIRECTORY, dir_fd=dir_fd)
    try:
        error = _Removal(top).run()
    finally:
        os.close(top)
    if error is not None:
        raise error
    os.rmdir(path, dir_fd=dir_fd)


def discard_tree(path: str | Path) -> None:
    """The same for what may be missing, or may be left until somebody sweeps."""
    with suppress(OSError):
        remove_tree(path)


class _Frame(NamedTuple):
    """An open directory, its name in the one above, and those in it that are still to be removed."""

    fd: int
    name: str
    directories: list[str]


class _Removal:
    def __init__(self, top: int) -> None:
        self._error: OSError | None = None
        self._frames = [_Frame(top, "", [])]

    def run(self) -> OSError | None:
        """Empty the directory; the first error."""
        top = self._frames[0]
        try:
            top.directories.extend(self._clear(top.fd))
            while self._frames[-1].directories or len(self._frames) > 1:
                try:
                    self._step()
                except OSError as error:
                    self._error = self._error or error
        finally:
            while len(self._frames) > 1:
                os.close(self._frames.pop().fd)
        return self._error

    def _step(self) -> None:
        """Go into the next directory, or out of the one that is done."""
        frame = self._frames[-1]
        if not frame.directories:
            self._frames.pop()
            os.close(frame.fd)
            os.rmdir(frame.name, dir_fd=self._frames[-1].fd)
            return
        name = frame.directories.pop()
        if len(self._frames) >= MAX_OPEN:
            top, place = self._frames[0], f".removed-{os.urandom(8).hex()}"
            os.rename(name, place, src_dir_fd=frame.fd, dst_dir_fd=top.fd)
            top.directories.append(place)
            return
        fd = os.open(name, _DIRECTORY, dir_fd=frame.fd)
        self._frames.append(_Frame(fd, name, self._clear(fd)))

    def _clear(self, fd: int) -> list[str]:
        """Remove what is no directory; the names of those that are."""
        directories: list[str] = []
        try:
            with os.scandir(fd) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.name)
                    else:
                        self._unlink(entry.name, fd)
        except OSError as error:
            self._error = self._error or error
        return directories

    def _unlink(self, name: str, fd: int) -> None:
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            return
        except OSError as error:
            self._error = self._error or error
