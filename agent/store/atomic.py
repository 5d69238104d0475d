"""Files that are either the old or the new content, never half of it: write, fsync, rename."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomic(
    path: Path, data: bytes, mode: int = 0o600, *, durable: bool = True, like: os.stat_result | None = None
) -> None:
    """Replace ``path`` by ``data`` in one step, with the owner, group and exact mode of ``like`` if that is given.

    With ``durable`` the content survives a power cut (fsync of file and directory); without, only a crash of
    this process. Raises OSError; the old content stays in force then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(descriptor, data)
            if like is not None:
                _resemble(descriptor, like)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def _resemble(descriptor: int, like: os.stat_result) -> None:
    if (os.geteuid(), os.getegid()) != (like.st_uid, like.st_gid):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, like.st_mode & 0o7777)


def write_fresh(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file that nobody reads before the caller says so: no rename, nothing flushed, exactly ``mode``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, in as many calls as that takes. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Make renames and removals inside ``path`` survive a power cut (fsync(2) on the directory)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
