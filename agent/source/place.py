"""The state directory as it is at one moment: reached once, so that a swap of it under way mixes nothing."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import Refused, Waiting
from agent.values import frozen

UNAVAILABLE = "SourceUnavailable"
RETRY_SECONDS = 0.1


@frozen
class Place:
    """``path`` is how people call the directory (absolute), ``real`` where it is, ``descriptor`` holds on to it."""

    path: Path
    real: str
    descriptor: int

    def locate(self, path: Path) -> str:
        """Where a path below ``path`` really begins; links further down are left to the kernel."""
        return os.path.join(self.real, path.relative_to(self.path))  # noqa: PTH118 - str, on the hot path

    def is_inside(self, real: str) -> bool:
        """Whether a path without links lies in the directory."""
        return real == self.real or real.startswith(self.real.rstrip("/") + "/")

    def is_current(self) -> bool:
        """Whether the name still leads to this directory."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.descriptor))


@contextmanager
def open_place(directory: Path) -> Iterator[Place]:
    """Reach the state directory. Raises Waiting when that is not possible now."""
    path = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would follow links
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise unavailable(path, error) from None
    try:
        yield Place(path, str(Path(f"/proc/self/fd/{descriptor}").readlink()), descriptor)
    finally:
        os.close(descriptor)


def unavailable(path: Path, error: Exception) -> Waiting:
    """The error for a state directory that cannot be read."""
    said = getattr(error, "strerror", None) or str(error)
    return Waiting(f"the state directory {path}: {said}", retry_after=RETRY_SECONDS, reason=UNAVAILABLE)


@contextmanager
def open_inside(place: Place, path: str) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor that only points (O_PATH), so that nothing happens to a FIFO or device, and what it points at.

    Raises Refused when links lead out of the state directory, OSError when there is nothing.
    """
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        real = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        status = os.fstat(descriptor)
        if not place.is_inside(real):
            if not status.st_nlink:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            raise Refused(f"a link leads out of the state directory, to {real}")
        yield descriptor, status
    finally:
        os.close(descriptor)


def describe_kind(mode: int) -> str:
    """What a file is, for people."""
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
    )
    return next((name for test, name in kinds if test(mode)), "a file")
