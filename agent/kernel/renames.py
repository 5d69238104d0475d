"""Renames that replace nothing (renameat2(2)) and the wait until a filesystem is on its disk (syncfs(2))."""

from __future__ import annotations

import ctypes
import os

from agent.kernel.syscalls import libc

_NOREPLACE = 1
_renameat2 = libc("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs = libc("syncfs", ctypes.c_int)


def rename_exclusive(source: str, source_directory: int, target: str, target_directory: int) -> None:
    """Move ``source`` to ``target``, both beneath open directories. Raises FileExistsError when the target is there."""
    _renameat2(source_directory, os.fsencode(source), target_directory, os.fsencode(target), _NOREPLACE)


def sync_filesystem(descriptor: int) -> None:
    """Return when everything written so far to the filesystem of ``descriptor`` is on its disk."""
    _syncfs(descriptor)
