"""How to tell that a file is what it was without reading it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, int, int, int, int, int]
"""Device, inode, mode, size, mtime and ctime (ns): a file with the same stamp has the same content."""

Names: TypeAlias = tuple[Stamp, tuple[str, ...]]
"""The names in a directory that matter, with the stamp it had: the same stamp, the same names."""

_TICK = 50_000_000
_COARSE_TICK = 2_000_000_000
_SECOND = 1_000_000_000


def stamp_of(status: os.stat_result) -> Stamp:
    """The stamp of a file."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def take_stamp(path: str) -> Stamp:
    """The stamp of what is at a path, links followed. Raises OSError."""
    return stamp_of(os.stat(path))  # noqa: PTH116 - on the hot path


def read_stamp(path: str) -> Stamp | None:
    """The stamp of what is at a path, links followed; None when there is nothing that could be read."""
    try:
        return take_stamp(path)
    except (OSError, ValueError):
        return None


def are_same(stamps: Mapping[str, Stamp | None]) -> bool:
    """Whether every file is as its stamp says, or still absent."""
    return all(read_stamp(path) == stamp for path, stamp in stamps.items())


def is_sound(stamp: Stamp, now_ns: int) -> bool:
    """Whether any change from now on shows in the stamp.

    A file that was just written can be written again within the same tick of its clock; ``now_ns`` (epoch) is the time
    before it was read. File systems that keep whole seconds have long ticks.
    """
    newest = max(stamp[4], stamp[5])
    tick = _COARSE_TICK if newest % _SECOND == 0 else _TICK
    return newest < now_ns - tick


def list_names(
    directory: str, before: Names | None, matters: Callable[[os.DirEntry[str]], bool]
) -> tuple[tuple[str, ...], Names | None]:
    """The names in a directory that matter, sorted; and what to remember of that, None when it may not last.

    With the stamp of ``before`` the directory is not read again. Raises OSError.
    """
    now = time.time_ns()
    stamp = take_stamp(directory)
    if before is not None and before[0] == stamp:
        return before[1], before
    with os.scandir(directory) as entries:
        names = tuple(sorted(entry.name for entry in entries if matters(entry)))
    return names, (stamp, names) if is_sound(stamp, now) else None
