"""Capability sets of the current process (capabilities(7))."""

from __future__ import annotations

import ctypes
import struct

from agent.kernel.syscalls import libc, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
    "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
NUMBERS = {f"CAP_{name}": number for number, name in enumerate(_NAMES.split())}

_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_CAP_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 47, 2, 4
_VERSION_3 = 0x20080522
_LONG = ctypes.c_ulong
_prctl = libc("prctl", ctypes.c_int, _LONG, _LONG, _LONG, _LONG)
_capset = syscall("capset", ctypes.c_char_p, ctypes.c_char_p)


def parse_capabilities(names: Iterable[str]) -> int:
    """The bit mask of names such as CAP_CHOWN. Raises ValueError for an unknown one."""
    mask = 0
    for name in names:
        if name not in NUMBERS:
            raise ValueError(f"{name} is not a capability this version knows")
        mask |= 1 << NUMBERS[name]
    return mask


def read_bounding() -> int:
    """The bounding set of this process: what it can ever have or give."""
    mask = 0
    for number in range(64):
        try:
            if _prctl(_PR_CAPBSET_READ, number, 0, 0, 0):
                mask |= 1 << number
        except OSError:
            break
    return mask


def drop_bounding(keep: int, held: int) -> None:
    """Take everything out of the bounding set that is not in ``keep``; ``held`` is what it has now."""
    for number in range(held.bit_length()):
        bit = 1 << number
        if held & bit and not keep & bit:
            _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on the current process."""
    low, high = 0xFFFFFFFF, 32
    sets = (effective, permitted, inheritable)
    data = struct.pack("=6I", *(part & low for part in sets), *(part >> high for part in sets))
    _capset(struct.pack("=Ii", _VERSION_3, 0), data)


def set_ambient(mask: int) -> None:
    """Make the ambient set exactly ``mask``; each bit must be permitted and inheritable."""
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(mask.bit_length()):
        if mask & 1 << number:
            _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0)
