"""The file between an unpacking process and the agent: the directories that a layer uses but does not describe.

There may be tens of thousands, with long paths, and the layers below may not be ready yet: so neither of the two keeps
them in memory meanwhile.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.image.layers.layerwriter import MAX_PATH

_HEAD = struct.Struct("!QH")


def name_undescribed(root: Path) -> Path:
    """Where that file is, for a layer that is unpacked to ``root``."""
    return root.with_name(f"{root.name}.undescribed")


def write_undescribed(target: Path, directories: Iterable[tuple[bytes, int]]) -> None:
    """Write each path and a number, for ``read_undescribed``; nothing when there are none. Raises OSError."""
    target.unlink(missing_ok=True)
    file = None
    try:
        for path, number in directories:
            if file is None:
                file = target.open("xb")
            file.write(_HEAD.pack(number, len(path)) + path)
    finally:
        if file is not None:
            file.close()


def read_undescribed(source: Path) -> Iterator[tuple[bytes, int]]:
    """What was written, in its order. Raises OSError, also for a file that is cut short."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(fd, "rb") as file:
        while head := file.read(_HEAD.size):
            number, length = _HEAD.unpack(head.ljust(_HEAD.size, b"\xff"))
            path = file.read(length) if length <= MAX_PATH else b""
            if len(path) < length:
                raise OSError(0, f"{source} is cut short")
            yield path, number
