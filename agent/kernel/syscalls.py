"""System calls that the standard library lacks, by number, each raising OSError with the kernel's errno."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

_MACHINE = os.uname().machine
_PER_MACHINE = {
    "x86_64": {"pivot_root": 155, "capset": 126, "seccomp": 317, "rt_sigaction": 13},
    "aarch64": {"pivot_root": 41, "capset": 91, "seccomp": 277, "rt_sigaction": 134},
}
NUMBERS: dict[str, int] = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    **_PER_MACHINE.get(_MACHINE, {}),
}


def raise_errno(path: str | None = None) -> None:
    """Raise OSError for the errno of the ctypes call just made."""
    code = ctypes.get_errno()
    if path is None:
        raise OSError(code, os.strerror(code))
    raise OSError(code, os.strerror(code), path)


def syscall(name: str, *types: Any) -> Callable[..., int]:
    """A callable for the system call ``name`` whose arguments have the ctypes ``types``.

    Calling it raises OSError when the kernel refuses, and on a machine whose number for it is not known here.
    """
    number = NUMBERS.get(name)
    prototype = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, *types, use_errno=True)
    function = prototype(("syscall", LIBC))

    def call(*arguments: Any) -> int:
        if number is None:
            raise OSError(38, f"{name} has no known number on {_MACHINE}")
        result = int(function(number, *arguments))
        if result < 0:
            raise_errno()
        return result

    return call


def libc(name: str, *types: Any) -> Callable[..., int]:
    """A callable for the C library's ``name`` that returns an int and raises OSError when that is negative."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *types, use_errno=True)
    function = prototype((name, LIBC))

    def call(*arguments: Any) -> int:
        result = int(function(*arguments))
        if result < 0:
            raise_errno()
        return result

    return call
