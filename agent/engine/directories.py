"""A container's directories on disk, and the layer of mount points that lies below every image.

The layer spares each container the making of /proc, /dev, /etc/hosts and the like in its own writable layer, where an
image lacks them; whatever an image has at these places covers it.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.kernel.placement import spread_children
from agent.runtime.bundle import ROOTFS_NAME
from agent.store.atomic import write_fresh
from agent.store.layout import DataLayout, RunLayout

UPPER, WORK, LOGS = "upper", "work", "logs"
_ROOT_MODE = 0o755
_DIRECTORIES = ("dev", "etc", "proc", "sys")
_FILES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")


class ContainerDirectories:
    """Thread-safe once ``prepare`` was called."""

    def __init__(self, layout: DataLayout, run: RunLayout) -> None:
        self._layout = layout
        self._run = run
        self.mount_points = layout.mount_points

    def prepare(self) -> None:
        """Make the layer of mount points where it is missing. Raises OSError."""
        layer = self.mount_points
        for directory in (layer, *(layer / name for name in _DIRECTORIES)):
            directory.mkdir(mode=0o755, exist_ok=True)
            directory.chmod(0o755)
        spread_children(self._layout.containers)
        for name in _FILES:
            write_fresh(layer / name, b"", 0o644)

    def make(self, container_id: str) -> Path:
        """A new container's directory, and its bundle's. Raises OSError."""
        directory, bundle = self._layout.container(container_id), self._run.bundle(container_id)
        directory.mkdir(0o700)
        for name in (UPPER, WORK, LOGS):
            (directory / name).mkdir(0o700)
        (directory / UPPER).chmod(_ROOT_MODE)
        bundle.mkdir(0o700)
        (bundle / ROOTFS_NAME).mkdir(0o755)
        return directory


def dress_root(directory: Path, top: Path) -> None:
    """Let the root of a new container's file system look as that of its topmost layer. Raises OSError."""
    like, upper = top.stat(), directory / UPPER
    if like.st_uid or like.st_gid:
        os.chown(upper, like.st_uid, like.st_gid)
    if like.st_mode & 0o7777 != _ROOT_MODE:
        upper.chmod(like.st_mode & 0o7777)
