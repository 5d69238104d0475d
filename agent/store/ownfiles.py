"""Files that people write for the agent: read within a bound, and looked at for changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from agent.errors import Refused

FileStamp: TypeAlias = tuple[int, ...]


def stamp_file(path: str | Path) -> FileStamp:
    """What changes when a file does, links followed; empty while there is none that can be reached."""
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_bounded(path: Path, limit: int) -> bytes:
    """A file's content; nothing is waited for. Raises OSError, and Refused when it is longer than ``limit`` bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        bound = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
        raise Refused(f"is longer than {bound}")
    return data
