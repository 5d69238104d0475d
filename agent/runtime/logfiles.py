"""The files of a container's log, in the order they were written, while the keeper may rotate them at any moment.

Rotation only renames to higher numbers, so a file that is open keeps its content, and the one written after it has
the next lower number. All names are opened below one directory, links and special files passed over.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from agent.runtime.logframe import HEADER, MAX_PAYLOAD, compute_log_name

BLOCK = MAX_PAYLOAD + HEADER.size
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ATTEMPTS = 100
_FREE_NAMES = 4


class LogFile:
    """One open file; ``position`` is where the next frame to read begins, ``size`` its length when it was opened."""

    __slots__ = ("fd", "identity", "position", "size")

    def __init__(self, fd: int, status: os.stat_result) -> None:
        self.fd = fd
        self.identity = (status.st_dev, status.st_ino)
        self.position = 0
        self.size = status.st_size

    def read_at(self, begin: int, end: int) -> bytes:
        """What lies between two places, at most one block."""
        return os.pread(self.fd, min(BLOCK, end - begin), begin) if begin < end else b""

    def read(self, end: int | None = None) -> bytes:
        """What follows ``position``, at most one block and not beyond ``end``. From 0 again in a file cut to less."""
        data = self.read_at(self.position, self.position + BLOCK if end is None else end)
        if not data and os.fstat(self.fd).st_size < self.position:
            self.position = 0
        return data


class LogFiles:
    """The open files of ``directory``, oldest first. Raises FileNotFoundError when the directory is missing."""

    def __init__(self, directory: Path) -> None:
        self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.files: list[LogFile] = []
        try:
            self._open_all()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything."""
        self.skip_to(len(self.files))
        os.close(self.directory)

    def _open_all(self) -> None:
        """Open every file; again from the start when a rotation came between, so that none is missing or twice."""
        for _ in range(_ATTEMPTS):
            seen = self._scan()
            found = [self._open(generation) for generation in sorted(seen, reverse=True)]
            self.files = [file for file in found if file is not None]
            expected = [seen[generation] for generation in sorted(seen, reverse=True)]
            if [file.identity for file in self.files] == expected and self._scan() == seen:
                return
            self.skip_to(len(self.files))
        raise OSError(11, "the log is rotated faster than it can be opened")

    def _scan(self) -> dict[int, tuple[int, int]]:
        """Generation and identity of each file, looked at from the newest to the oldest.

        Files move the same way: one that is not met yet is always further on, so none is missed but the oldest when
        it is deleted, and where one was met last is in order. The names are tried and not listed, since a list would
        be old before its end is reached. A rotation leaves one name free at a time.
        """
        met: dict[tuple[int, int], int] = {}
        generation = free = 0
        while free < _FREE_NAMES:
            try:
                status = os.stat(compute_log_name(generation), dir_fd=self.directory, follow_symlinks=False)
            except FileNotFoundError:
                free += 1
            else:
                free = 0
                if stat.S_ISREG(status.st_mode):
                    met[status.st_dev, status.st_ino] = generation
            generation += 1
        return {generation: identity for identity, generation in met.items()}

    def _open(self, generation: int) -> LogFile | None:
        try:
            fd = os.open(compute_log_name(generation), _OPEN, dir_fd=self.directory)
        except FileNotFoundError:
            return None
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            return LogFile(fd, status)
        os.close(fd)
        return None

    def find_next(self) -> LogFile | None:
        """The file written after the last one of ``files``, opened; None while there is none."""
        for _ in range(_ATTEMPTS):
            seen = self._scan()
            current = self.files[-1].identity if self.files else None
            place = next((key for key, identity in seen.items() if identity == current), None)
            newer = [key for key in seen if place is None or key < place]
            if not newer:
                return None
            file = self._open(max(newer))
            if file is not None and file.identity == seen[max(newer)]:
                return file
            if file is not None:
                os.close(file.fd)
        return None

    def append(self, file: LogFile) -> None:
        """Go on with ``file``: those before it are read."""
        self.files.append(file)
        self.skip_to(-1)

    def skip_to(self, index: int) -> None:
        """Close all files before this one."""
        for file in self.files[:index]:
            os.close(file.fd)
        del self.files[:index]
