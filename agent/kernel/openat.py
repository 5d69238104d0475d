"""openat2(2): opening paths that an attacker may have laid out, without leaving a directory.

See openat2(2) for the RESOLVE_ flags. ``IN_ROOT`` treats the directory as ``/`` for absolute links and ``..``.
"""

from __future__ import annotations

import ctypes
import os
import struct

from agent.kernel.syscalls import LIBC, raise_errno, syscall

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
DEVPTS_SUPER_MAGIC = 0x1CD1

_HOW = struct.Struct("=QQQ")
_RACE_RETRIES = 64
_openat2 = syscall("openat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
_fstatfs = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, use_errno=True)(("fstatfs", LIBC))


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below ``directory`` (a descriptor), close-on-exec. Raises OSError.

    The kernel answers EAGAIN when a rename races with a confined walk; it is asked again a bounded number of times.
    """
    if "\0" in path:
        raise OSError(22, "a NUL in the path would cut it short", path)
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_RACE_RETRIES):
        try:
            return _openat2(directory, os.fsencode(path), how, len(how))
        except BlockingIOError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
    raise OSError(11, "somebody keeps renaming the path", path)


def read_filesystem_type(descriptor: int) -> int:
    """The magic number (statfs ``f_type``) of the filesystem that ``descriptor`` lies on."""
    buffer = ctypes.create_string_buffer(256)
    if _fstatfs(descriptor, buffer) < 0:
        raise_errno()
    return int(struct.unpack_from("@l", buffer)[0])
