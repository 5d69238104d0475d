"""Gives an empty volume the content that the image has at the mount point, once, and whole or not at all.

| in ``<volume>/`` | says |
| --- | --- |
| ``_fill.<random>`` | a copy under way, void after a crash |
| ``_filling`` | a complete copy, on the disk; what is in it belongs into ``_data``, also after a crash |
| ``_filled`` | the volume was filled, and never is again |

The copy is moved into ``_data`` name by name and not put in its place: other containers may have it mounted already.
"""

from __future__ import annotations

import os
import secrets
import stat

from agent.errors import Stalled
from agent.kernel.openat import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2
from agent.kernel.removal import remove_tree
from agent.kernel.renames import rename_exclusive, sync_filesystem
from agent.volume.treecopy import copy_tree

DATA, FILLING, FILLED, STAGE_PREFIX = "_data", "_filling", "_filled", "_fill."
FRESH_MODE = 0o755
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fill_volume(volume: int, root: int, path: str) -> bool:
    """Fill the volume whose directory is open as ``volume`` from ``path`` in the image open as ``root``.

    True when something was copied. A volume that has content or was filled before is left alone. Raises OSError;
    Stalled when the image has no directory there but something else.
    """
    if not wants_content(volume):
        return False
    data = os.open(DATA, _DIRECTORY, dir_fd=volume)
    try:
        source = _open_source(root, path)
        if source is None:
            return False
        try:
            return _fill_empty(volume, data, source)
        finally:
            os.close(source)
    finally:
        os.close(data)


def wants_content(volume: int) -> bool:
    """Whether the volume is empty and never was filled; first finishes what a crash interrupted. Raises OSError."""
    if _exists(volume, FILLING):
        finish_filling(volume)
    if _exists(volume, FILLED):
        return False
    data = os.open(DATA, _DIRECTORY, dir_fd=volume)
    try:
        return _is_empty(data)
    finally:
        os.close(data)


def _open_source(root: int, path: str) -> int | None:
    """The image's directory at ``path``; links and ``..`` lead nowhere but into the image."""
    try:
        return openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise Stalled(
            f"the image has something else than a directory at {path}",
            reason="InvalidMount",
            hint="mount the volume elsewhere",
        ) from None


def _fill_empty(volume: int, data: int, source: int) -> bool:
    if os.fstat(volume).st_dev != os.fstat(data).st_dev:
        raise Stalled(
            "the volume's _data is a mount point of its own, which cannot be filled safely",
            reason="VolumeIsMountPoint",
            hint="put the content there yourself, or say nocopy: true",
        )
    name = STAGE_PREFIX + secrets.token_hex(8)
    os.mkdir(name, 0o700, dir_fd=volume)
    try:
        stage = os.open(name, _DIRECTORY, dir_fd=volume)
        try:
            if not copy_tree(source, stage):
                _take_attributes(data, stage)
                return False
            sync_filesystem(stage)
        finally:
            os.close(stage)
        if not _is_empty(data):
            return False
        rename_exclusive(name, volume, FILLING, volume)
    finally:
        if _exists(volume, name):
            remove_tree(name, dir_fd=volume)
    os.fsync(volume)
    finish_filling(volume)
    return True


def recover_filling(volume: int) -> None:
    """After a crash: drop unfinished copies, and move a finished one to its place."""
    for entry in os.listdir(volume):
        if entry.startswith(STAGE_PREFIX):
            remove_tree(entry, dir_fd=volume)
    if _exists(volume, FILLING):
        finish_filling(volume)


def finish_filling(volume: int) -> None:
    """Move a complete copy into the volume, as far as that is not done. What the volume has already stays."""
    stage = os.open(FILLING, _DIRECTORY, dir_fd=volume)
    try:
        data = os.open(DATA, _DIRECTORY, dir_fd=volume)
        try:
            status = os.fstat(stage)
            _take_attributes(data, stage)
            _move_all(stage, data)
            os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(data)
        finally:
            os.close(data)
    finally:
        os.close(stage)
    os.close(os.open(FILLED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=volume))
    os.fsync(volume)
    remove_tree(FILLING, dir_fd=volume)


def _move_all(stage: int, data: int) -> None:
    for entry in sorted(os.listdir(stage)):
        try:
            rename_exclusive(entry, stage, entry, data)
        except FileExistsError:
            continue


def _take_attributes(data: int, stage: int) -> None:
    """The volume's root gets owner, mode and attributes of the image's directory, unless somebody has set others."""
    status = os.fstat(data)
    if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (0, 0, FRESH_MODE):
        return
    wanted = os.fstat(stage)
    os.fchown(data, wanted.st_uid, wanted.st_gid)
    os.fchmod(data, stat.S_IMODE(wanted.st_mode))
    for name in os.listxattr(stage):
        if name != "security.selinux":
            os.setxattr(data, name, os.getxattr(stage, name))


def _is_empty(directory: int) -> bool:
    with os.scandir(directory) as entries:
        return next(entries, None) is None


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
