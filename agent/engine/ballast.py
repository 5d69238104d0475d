"""A file that is there to be removed: on a full disk even removing needs a little room, for the database's log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

BALLAST_BYTES = 1 << 20


class Ballast:
    """Holds ``BALLAST_BYTES`` of a file system. Thread-safe: whoever comes first takes or makes the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> None:
        """Hold the room; without any, with the next call."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, BALLAST_BYTES)
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Give the room up for the block, which is to free more than that."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        try:
            yield
        finally:
            self.take()
