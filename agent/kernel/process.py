"""What a process can change about itself before it becomes another program: prctl(2), seccomp(2), descriptors."""

from __future__ import annotations

import ctypes
import os

from agent.kernel.syscalls import libc, syscall

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS, _PR_SET_NAME = 4, 8, 38, 15
_SECCOMP_SET_MODE_FILTER = 1
_BPF_INSTRUCTION = 8
_BPF_MAX_INSTRUCTIONS = 4096
_LONG = ctypes.c_ulong


class _FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_prctl = libc("prctl", ctypes.c_int, _LONG, _LONG, _LONG, _LONG)
_prctl_text = libc("prctl", ctypes.c_int, ctypes.c_char_p, _LONG, _LONG, _LONG)
_seccomp = syscall("seccomp", ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)
_close_range = syscall("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_rt_sigaction = syscall("rt_sigaction", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_DEFAULT_ACTION = bytes(32)
_SIGNAL_SET_BYTES = 8
_SIGNALS = 64


def set_dumpable(on: bool) -> None:
    """Off: no other user's process may trace this one, read its memory or follow its /proc links."""
    _prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0)


def set_keep_capabilities(on: bool) -> None:
    """On: permitted capabilities survive setresuid(2)."""
    _prctl(_PR_SET_KEEPCAPS, int(on), 0, 0, 0)


def set_no_new_privileges() -> None:
    """From now on execve(2) gives no privilege; cannot be undone."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def set_name(name: str) -> None:
    """What ps shows of this process (15 bytes)."""
    _prctl_text(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def reset_signals() -> None:
    """Give every signal its default action, also the two that the C library keeps for itself (32, 33)."""
    for number in range(1, _SIGNALS + 1):
        try:
            _rt_sigaction(number, _DEFAULT_ACTION, None, _SIGNAL_SET_BYTES)
        except OSError:
            continue  # SIGKILL and SIGSTOP


def load_filter(program: bytes) -> None:
    """Install a compiled seccomp filter. Raises ValueError when ``program`` is no array of BPF instructions."""
    count, rest = divmod(len(program), _BPF_INSTRUCTION)
    if rest or not 0 < count <= _BPF_MAX_INSTRUCTIONS:
        raise ValueError(f"{len(program)} bytes are no seccomp filter")
    structure = _FilterProgram(count, program)
    _seccomp(_SECCOMP_SET_MODE_FILTER, 0, ctypes.addressof(structure))


def close_all_but(first: int, *keep: int) -> None:
    """Close every descriptor from ``first`` on, except those in ``keep``."""
    for descriptor in sorted(keep):
        if descriptor > first:
            _close_range(first, descriptor - 1, 0)
        first = max(first, descriptor + 1)
    _close_range(first, 0xFFFFFFFF, 0)


def read_small_file(path: str, limit: int) -> bytes:
    """A regular file's content. Raises OSError, and ValueError when it is longer than ``limit`` bytes or no file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return read_bounded(descriptor, path, limit)
    finally:
        os.close(descriptor)


def read_bounded(descriptor: int, name: str, limit: int) -> bytes:
    """The rest of an open file called ``name``. Raises OSError, and ValueError when it is more than ``limit`` bytes."""
    chunks, size = [], 0
    while chunk := os.read(descriptor, min(65536, limit + 1 - size)):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise ValueError(f"{name} is longer than {limit} bytes")
    return b"".join(chunks)
