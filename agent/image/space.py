"""Whether a file system has room for what is about to be written to it."""

from __future__ import annotations

import os
from pathlib import Path

from agent.image.errors import InsufficientStorage
from agent.image.limits import UnpackLimits

SPACE_CHECK = 64 << 20


def compute_reserve(root: Path | str, limits: UnpackLimits) -> tuple[int, int]:
    """The bytes free on the file system of ``root``, and those that must stay free."""
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize, min(limits.reserve, status.f_blocks * status.f_frsize // 50)


def check_space(root: Path | str, size: int, limits: UnpackLimits) -> None:
    """Raises InsufficientStorage when ``size`` more bytes would fill the file system of ``root``."""
    free, reserve = compute_reserve(root, limits)
    if free <= reserve:
        raise InsufficientStorage("the disk is full")
    if size > free - reserve:
        raise InsufficientStorage(f"{size >> 20} MiB more are needed, {max(free - reserve, 0) >> 20} MiB can be used")


def check_inodes(root: Path | str) -> None:
    """Raises InsufficientStorage when hardly any inodes are free; some file systems make them as they are needed."""
    status = os.statvfs(root)
    if status.f_files and status.f_favail < status.f_files // 50:
        raise InsufficientStorage("the file system has hardly any inodes left")
