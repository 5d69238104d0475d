"""Processes by descriptor: signals and exits that can never hit a recycled pid."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import fcntl
import os
import struct

from agent.kernel.syscalls import syscall

_PIDFD_GET_INFO = 0xC040FF0B
_INFO = struct.Struct("=QQ11Ii")
_INFO_EXIT = 1 << 3
_getfd = syscall("pidfd_getfd", ctypes.c_int, ctypes.c_int, ctypes.c_uint)


def open_process(pid: int) -> int:
    """A pidfd of ``pid``. Raises ProcessLookupError when there is no such process."""
    return os.pidfd_open(pid)


def send_signal(pidfd: int, number: int) -> None:
    """Signal the process. Raises ProcessLookupError when it has ended."""
    _signal.pidfd_send_signal(pidfd, number)


def take_descriptor(pidfd: int, number: int) -> int:
    """A duplicate of another process's descriptor ``number`` (pidfd_getfd(2))."""
    return _getfd(pidfd, number, 0)


def wait_exit(pidfd: int) -> tuple[int | None, int | None] | None:
    """``(code, signal)`` of our own child once it has ended, reaping it; None while it runs.

    Raises ChildProcessError when the process is not our child.
    """
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return result.si_status, None
    return None, result.si_status


def read_exit(pidfd: int) -> tuple[int | None, int | None] | None:
    """``(code, signal)`` of any process that has been reaped by its parent, from kernel 6.15 on; None when not known.

    The kernel tells it only after the reaping, so None may mean "not yet".
    """
    buffer = bytearray(_INFO.pack(_INFO_EXIT, *([0] * 13)))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    fields = _INFO.unpack_from(buffer)
    if not fields[0] & _INFO_EXIT:
        return None
    return decode_wait_status(fields[13])


def decode_wait_status(status: int) -> tuple[int | None, int | None]:
    """``(code, signal)`` of a wait(2) status."""
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def read_start_time(pid: int) -> int:
    """When ``pid`` started, in clock ticks since boot (field 22 of /proc/PID/stat). Raises OSError when it is gone."""
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return int(text[text.rindex(b")") + 2 :].split()[19])
