"""Namespaces: clone3(2) into new ones, setns(2) into existing ones, and what lives in them (host name)."""

from __future__ import annotations

import ctypes
import struct

from agent.kernel.syscalls import NUMBERS, libc, raise_errno

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
_CLONE_CLEAR_SIGHAND = 0x100000000
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17

_ARGUMENTS = struct.Struct("=11Q")
# PyDLL: the interpreter lock stays held across the call, so that the child owns it and may go on.
_clone3 = ctypes.PyDLL(None, use_errno=True).syscall
_clone3.argtypes = (ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t)
_clone3.restype = ctypes.c_long
_setns = libc("setns", ctypes.c_int, ctypes.c_int)
_unshare = libc("unshare", ctypes.c_int)
_sethostname = libc("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_setdomainname = libc("setdomainname", ctypes.c_char_p, ctypes.c_size_t)


def clone(flags: int, cgroup: int | None = None) -> tuple[int, int]:
    """Fork into new namespaces: ``(pid, pidfd)`` in the parent, ``(0, -1)`` in the child. Raises OSError.

    ``cgroup`` is a descriptor of the cgroup v2 directory the child is born in. Only a process with one thread may
    call this: no fork handler runs. Signal handlers are reset in the child; ignored signals stay ignored.
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD | _CLONE_CLEAR_SIGHAND | (_CLONE_INTO_CGROUP if cgroup is not None else 0)
    arguments = _ARGUMENTS.pack(flags, ctypes.addressof(pidfd), 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, cgroup or 0)
    pid = int(_clone3(NUMBERS["clone3"], arguments, len(arguments)))
    if pid < 0:
        raise_errno()
    return pid, pidfd.value if pid else -1


def enter(descriptor: int, flags: int = 0) -> None:
    """setns(2): ``descriptor`` is a namespace file or a pidfd (then ``flags`` names the namespaces)."""
    _setns(descriptor, flags)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _unshare(flags)


def set_hostname(name: str) -> None:
    """The host name of the current UTS namespace."""
    encoded = name.encode()
    _sethostname(encoded, len(encoded))


def set_domainname(name: str) -> None:
    """The NIS domain name of the current UTS namespace."""
    encoded = name.encode()
    _setdomainname(encoded, len(encoded))
