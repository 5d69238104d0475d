"""Network namespaces without a fork: a short-lived thread leaves for a new one, and a descriptor keeps it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.kernel.syscalls import libc
from agent.kernel.threads import run_apart

T = TypeVar("T")

_NEW_NETWORK = 0x40000000
_BIND, _DETACH, _NO_FOLLOW = 4096, 2, 8
_unshare = libc("unshare", ctypes.c_int)
_setns = libc("setns", ctypes.c_int, ctypes.c_int)
_mount = libc("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = libc("umount2", ctypes.c_char_p, ctypes.c_int)


def create_network_namespace(inside: Callable[[], T]) -> tuple[int, T]:
    """A new namespace: its descriptor (the caller's to close; it lives as long) and what ``inside`` returned there."""

    def work() -> tuple[int, T]:
        _unshare(_NEW_NETWORK)
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return descriptor, inside()
        except BaseException:
            os.close(descriptor)
            raise

    return run_apart("netns", work)


def call_in_namespace(descriptor: int, inside: Callable[[], T]) -> T:
    """What ``inside`` returns when it runs in the network namespace behind ``descriptor``. Raises what it raises."""

    def work() -> T:
        _setns(descriptor, _NEW_NETWORK)
        return inside()

    return run_apart("netns", work)


def pin_namespace(descriptor: int, path: Path) -> None:
    """Give a namespace a file name that keeps it alive (a bind mount). Raises OSError, and leaves no file then."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        _mount(f"/proc/self/fd/{descriptor}".encode(), bytes(path), None, _BIND, None)
    except OSError:
        path.unlink()
        raise


def unpin_namespace(path: Path) -> None:
    """Take the name away; the namespace goes with its last process. An absent or unmounted file is fine."""
    while True:
        try:
            _umount2(bytes(path), _DETACH | _NO_FOLLOW)
        except OSError:
            break
    path.unlink(missing_ok=True)
