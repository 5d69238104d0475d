"""The C library's memory allocator."""

from __future__ import annotations

import ctypes

from agent.kernel.syscalls import LIBC

_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8


def limit_arenas(count: int, trim_threshold: int) -> None:
    """Let all threads share ``count`` heaps instead of eight a core, and give back free memory beyond
    ``trim_threshold`` bytes. Call it before there are threads; a C library without mallopt(3) is left as it is.
    """
    mallopt = getattr(LIBC, "mallopt", None)
    if mallopt is None:
        return
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    mallopt(_M_ARENA_MAX, count)
    mallopt(_M_TRIM_THRESHOLD, trim_threshold)


def trim_heap() -> None:
    """Give back every page in which nothing is allocated: a process that forks pays for each, at every fork.

    A C library without malloc_trim(3) is left as it is.
    """
    trim = getattr(LIBC, "malloc_trim", None)
    if trim is not None:
        trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
        trim(0)
